//! Spill files: the head's full chunks, out of anonymous memory.
//!
//! A series keeps only the place of its newest full chunk; each record names the one before it of the same series, so
//! a series costs the same whatever its interval. The files are a cache: they are made anew by replay and removed at
//! start. A segment is gathered in memory, written, and mapped.
//!
//! ```text
//! previous u64 | min i64 | max i64 | length u32 | encoding u8 | crc32c of the chunk u32 | chunk
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::chunk::Encoding;
use crate::fs::{FileBytes, Fs};

const SEGMENT_BYTES: usize = 8 << 20;
const RECORD_HEADER: usize = 33;

/// The place of a chunk; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpillRef(u64);

impl SpillRef {
    /// No chunk.
    pub const NONE: SpillRef = SpillRef(0);

    fn new(segment: u32, offset: u32) -> SpillRef {
        SpillRef(u64::from(segment) << 32 | u64::from(offset))
    }

    fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn offset(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// A full chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpilledChunk {
    /// Instant of its first sample.
    pub min: i64,
    /// Instant of its last sample.
    pub max: i64,
    /// How its bytes are to be read.
    pub encoding: Encoding,
    /// Its bytes.
    pub bytes: ChunkBytes,
}

/// A chunk's bytes, in a mapped file or copied.
#[derive(Clone)]
pub struct ChunkBytes {
    file: FileBytes,
    start: usize,
    end: usize,
}

impl ChunkBytes {
    /// A part of a file.
    ///
    /// # Panics
    /// When it is not inside the file.
    pub fn slice(file: FileBytes, start: usize, end: usize) -> ChunkBytes {
        assert!(start <= end && end <= file.len(), "a chunk lies inside its file");
        ChunkBytes { file, start, end }
    }

    /// Bytes of their own.
    pub fn owned(bytes: Vec<u8>) -> ChunkBytes {
        let end = bytes.len();
        ChunkBytes { file: FileBytes::owned(bytes), start: 0, end }
    }
}

impl std::ops::Deref for ChunkBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.file[self.start..self.end]
    }
}

impl PartialEq for ChunkBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ChunkBytes {}

impl std::fmt::Debug for ChunkBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkBytes({})", self.len())
    }
}

/// The spill files of a head.
#[derive(Debug)]
pub struct Spill {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    closed: BTreeMap<u32, Segment>,
    number: u32,
    buffer: Vec<u8>,
    newest: i64,
    /// Chunks in the buffer.
    chunks: u64,
    failures: u64,
}

#[derive(Debug)]
struct Segment {
    file: FileBytes,
    newest: i64,
    chunks: u64,
    /// Not on disk: the disk refused it and it is kept in memory.
    in_memory: bool,
}

impl Spill {
    /// Empties the folder and begins.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> io::Result<Spill> {
        if fs.exists(dir) {
            fs.remove_dir_all(dir)?;
        }
        fs.create_dir_all(dir)?;
        let state = State {
            closed: BTreeMap::new(),
            number: 1,
            buffer: Vec::with_capacity(SEGMENT_BYTES),
            newest: i64::MIN,
            chunks: 0,
            failures: 0,
        };
        Ok(Spill { fs, dir: dir.to_owned(), state: RwLock::new(state) })
    }

    /// Keeps a chunk; answers its place.
    pub fn push(&self, previous: SpillRef, min: i64, max: i64, encoding: Encoding, chunk: &[u8]) -> SpillRef {
        let mut state = self.state.write();
        if !state.buffer.is_empty() && state.buffer.len() + RECORD_HEADER + chunk.len() > SEGMENT_BYTES {
            self.close_segment(&mut state);
        }
        let place = SpillRef::new(state.number, state.buffer.len() as u32);
        let buffer = &mut state.buffer;
        buffer.extend_from_slice(&previous.0.to_le_bytes());
        buffer.extend_from_slice(&min.to_le_bytes());
        buffer.extend_from_slice(&max.to_le_bytes());
        buffer.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        buffer.push(encoding as u8);
        buffer.extend_from_slice(&crc32c::crc32c(chunk).to_le_bytes());
        buffer.extend_from_slice(chunk);
        state.newest = state.newest.max(max);
        state.chunks += 1;
        place
    }

    /// A segment that the disk refuses stays in memory: a full disk must not lose what was acknowledged.
    fn close_segment(&self, state: &mut State) {
        let path = self.path(state.number);
        let written = self.fs.create(&path).and_then(|mut file| file.append(&state.buffer));
        let (file, in_memory) = match written.and_then(|()| self.fs.map(&path)) {
            Ok(file) => {
                state.buffer.clear();
                (file, false)
            }
            Err(error) => {
                state.failures += 1;
                tracing::warn!(%error, path = %path.display(), "could not write a spill file, keeping it in memory");
                let _ = self.fs.remove_file(&path);
                (FileBytes::owned(std::mem::replace(&mut state.buffer, Vec::with_capacity(SEGMENT_BYTES))), true)
            }
        };
        let newest = std::mem::replace(&mut state.newest, i64::MIN);
        let chunks = std::mem::take(&mut state.chunks);
        state.closed.insert(state.number, Segment { file, newest, chunks, in_memory });
        state.number += 1;
    }

    /// The chunk at a place and the place of the one before it; nothing when the place was dropped or is damaged.
    pub fn get(&self, place: SpillRef) -> Option<(SpilledChunk, SpillRef)> {
        if place == SpillRef::NONE {
            return None;
        }
        let state = self.state.read();
        if place.segment() == state.number {
            let (header, start) = parse(&state.buffer, place.offset())?;
            let bytes = state.buffer[start..start + header.length].to_vec();
            return Some(header.into_chunk(ChunkBytes::owned(bytes)));
        }
        let file = state.closed.get(&place.segment())?.file.clone();
        drop(state);
        let (header, start) = parse(&file, place.offset())?;
        let bytes = ChunkBytes::slice(file, start, start + header.length);
        Some(header.into_chunk(bytes))
    }

    /// The chunks from `newest` back that have samples at or after `start`, in time order.
    pub fn chain(&self, newest: SpillRef, start: i64) -> Vec<SpilledChunk> {
        let (mut chunks, mut place) = (Vec::new(), newest);
        while let Some((chunk, previous)) = self.get(place) {
            if chunk.max < start {
                break;
            }
            chunks.push(chunk);
            place = previous;
        }
        chunks.reverse();
        chunks
    }

    /// Drops the segments whose samples all lie before `t`.
    pub fn drop_before(&self, t: i64) {
        let mut dropped = Vec::new();
        {
            let mut state = self.state.write();
            state.closed.retain(|number, segment| {
                let keep = segment.newest >= t;
                if !keep && !segment.in_memory {
                    dropped.push(*number);
                }
                keep
            });
        }
        for number in dropped {
            if let Err(error) = self.fs.remove_file(&self.path(number)) {
                tracing::warn!(%error, number, "could not remove a spill file");
            }
        }
    }

    /// The bytes kept in files and in memory.
    pub fn bytes(&self) -> u64 {
        let state = self.state.read();
        state.closed.values().map(|segment| segment.file.len() as u64).sum::<u64>() + state.buffer.len() as u64
    }

    /// How many chunks are kept.
    pub fn chunk_count(&self) -> u64 {
        let state = self.state.read();
        state.closed.values().map(|segment| segment.chunks).sum::<u64>() + state.chunks
    }

    /// How often the disk refused a segment, which is then kept in memory.
    pub fn failures(&self) -> u64 {
        self.state.read().failures
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08}"))
    }
}

struct RecordHeader {
    previous: SpillRef,
    min: i64,
    max: i64,
    length: usize,
    encoding: Encoding,
}

impl RecordHeader {
    fn into_chunk(self, bytes: ChunkBytes) -> (SpilledChunk, SpillRef) {
        (SpilledChunk { min: self.min, max: self.max, encoding: self.encoding, bytes }, self.previous)
    }
}

fn parse(segment: &[u8], offset: usize) -> Option<(RecordHeader, usize)> {
    let record = segment.get(offset..)?;
    let word = |at: usize| record.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
    let half = |at: usize| record.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four")));
    let length = half(24)? as usize;
    let chunk = record.get(RECORD_HEADER..RECORD_HEADER + length)?;
    if crc32c::crc32c(chunk) != half(29)? {
        tracing::error!(offset, "a spilled chunk is damaged; its samples are missing until they are in a block");
        return None;
    }
    let header = RecordHeader {
        previous: SpillRef(word(0)?),
        min: word(8)? as i64,
        max: word(16)? as i64,
        length,
        encoding: Encoding::from_byte(record[28]).ok()?,
    };
    Some((header, offset + RECORD_HEADER))
}
