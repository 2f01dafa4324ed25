//! The chunk files of a block.
//!
//! ```text
//! 0x85BD40DD | version 1 | 3 zeros | (length uvarint | encoding u8 | chunk | crc32c of encoding and chunk)…
//! ```
//! A chunk's reference is the number of its file, from zero, and the byte in it.

use std::io;
use std::path::{Path, PathBuf};

use super::codec::{Reader, put_uvarint};
use super::{BlockError, Damage};
use crate::chunk::{Chunk, Encoding};
use crate::fs::{FileBytes, FileWriter, Fs};

const MAGIC: [u8; 8] = [0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];
const FILE_BYTES_MAX: usize = 512 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// A chunk as an index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkMeta {
    /// Instant of the first sample.
    pub min: i64,
    /// Instant of the last sample.
    pub max: i64,
    /// Where it lies.
    pub reference: u64,
}

/// A chunk's bytes in a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRef<'a> {
    /// How they are to be read.
    pub encoding: Encoding,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// The mapped files.
#[derive(Debug)]
pub struct ChunkFiles {
    files: Vec<FileBytes>,
}

impl ChunkFiles {
    /// Maps the files of a folder.
    ///
    /// # Errors
    /// When they cannot be read or do not begin as they should.
    pub fn open(fs: &dyn Fs, dir: &Path) -> Result<ChunkFiles, BlockError> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| BlockError::Disk { path, source }
        };
        let mut files = Vec::new();
        for entry in fs.list(dir).map_err(disk(dir))? {
            if entry.is_dir || entry.name.parse::<u32>().is_err() {
                continue;
            }
            let path = dir.join(&entry.name);
            let file = fs.map(&path).map_err(disk(&path))?;
            if file.get(..5) != Some(&MAGIC[..5]) {
                return Err(Damage::new(0, "not a chunk file of version 1").of(&path));
            }
            files.push(file);
        }
        Ok(ChunkFiles { files })
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// The chunk at a reference; its checksum is checked.
    pub fn get(&self, reference: u64) -> Result<ChunkRef<'_>, Damage> {
        let (number, offset) = ((reference >> 32) as usize, (reference & 0xffff_ffff) as usize);
        let file =
            self.files.get(number).ok_or_else(|| Damage::new(offset, format!("no chunk file {}", number + 1)))?;
        let mut reader = Reader::at(file, offset);
        let length = reader.length()?;
        let start = reader.position();
        let content = reader.take(length.saturating_add(1))?;
        reader.check(content)?;
        let encoding = Encoding::from_byte(content[0]).map_err(|error| Damage::new(start, error.to_string()))?;
        Ok(ChunkRef { encoding, bytes: &content[1..] })
    }
}

/// Writes chunk files.
pub struct ChunkFilesWriter<'a> {
    fs: &'a dyn Fs,
    dir: PathBuf,
    file: Option<Box<dyn FileWriter>>,
    number: u64,
    offset: usize,
    buffer: Vec<u8>,
}

impl<'a> ChunkFilesWriter<'a> {
    /// Begins in a new folder.
    pub fn new(fs: &'a dyn Fs, dir: &Path) -> io::Result<ChunkFilesWriter<'a>> {
        fs.create_dir_all(dir)?;
        Ok(ChunkFilesWriter { fs, dir: dir.to_owned(), file: None, number: 0, offset: 0, buffer: Vec::new() })
    }

    /// Appends a chunk; answers its reference.
    pub fn push(&mut self, chunk: &Chunk) -> io::Result<u64> {
        if self.file.is_none() || self.offset + chunk.bytes.len() + 32 > FILE_BYTES_MAX {
            self.next_file()?;
        }
        let reference = (self.number - 1) << 32 | self.offset as u64;
        let before = self.buffer.len();
        put_uvarint(&mut self.buffer, chunk.bytes.len() as u64);
        let content = self.buffer.len();
        self.buffer.push(chunk.encoding as u8);
        self.buffer.extend_from_slice(&chunk.bytes);
        let checksum = crc32c::crc32c(&self.buffer[content..]);
        self.buffer.extend_from_slice(&checksum.to_be_bytes());
        self.offset += self.buffer.len() - before;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(reference)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.append(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }

    fn next_file(&mut self) -> io::Result<()> {
        self.close()?;
        self.number += 1;
        self.file = Some(self.fs.create(&self.dir.join(format!("{:06}", self.number)))?);
        self.buffer.extend_from_slice(&MAGIC);
        self.offset = MAGIC.len();
        Ok(())
    }

    /// Makes everything durable.
    pub fn close(&mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(mut file) = self.file.take() {
            file.sync()?;
            self.fs.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}
