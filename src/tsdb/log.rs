//! The log: frames in the order in which they were acknowledged, in numbered segment files.
//!
//! To the log a frame is opaque: what it means is between who wrote it and the [`crate::ReplayDecoder`] that reads it back.
//! A segment is cut by time and by size, and only when [`Log::cut`] is called: whoever frames batches begins every
//! segment with key frames, so that each segment is read without the ones before it and the oldest can go at any time.
//!
//! Appending puts bytes into the page cache (they survive the death of the process); [`Log::sync`] makes them
//! durable. A failed append leaves nothing behind: the file is cut back, or a new segment is begun.
//!
//! ```text
//! log/0000000000000007   "pmlog" 0 0 1 | frame | frame | …      (frames: `promesh_model::frame`)
//! ```

mod segment;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use promesh_model::frame;
use promesh_model::time::Timestamp;
use thiserror::Error;

pub use segment::{FrameRef, ScanReport};

use crate::fs::{FileWriter, Fs, SyncHandle};
use segment::{SEGMENT_HEADER, segment_path};

/// The longest frame the log takes or believes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// A place in the log of this process; means nothing in another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogPosition {
    /// The number of the segment; grows, never reused.
    pub segment: u64,
    /// The byte in its file.
    pub offset: u64,
}

/// Why the log refused.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk refused; nothing of the frames is in the log. It works again when the disk does.
    #[error("log segment {segment}: {source}")]
    Disk {
        /// The segment that was written.
        segment: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The frames were made for a segment that is closed: frame them again, with key frames.
    #[error("log segment {expected} is closed, the present one is {current}")]
    SegmentCut {
        /// The segment they were made for.
        expected: u64,
        /// The one that is written now.
        current: u64,
    },
    /// The position is before the oldest segment or after the newest frame.
    #[error("log position {position:?} is not there, the log begins at segment {oldest}")]
    NoSuchPosition {
        /// The position asked for.
        position: LogPosition,
        /// The oldest segment.
        oldest: u64,
    },
    /// Bytes at the position are no frame.
    #[error("log position {position:?} holds no frame: {source}")]
    Damaged {
        /// The position asked for.
        position: LogPosition,
        /// What is wrong with them.
        source: frame::FrameError,
    },
}

/// Whole frames read back by [`Log::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// The frames, one after the other.
    pub frames: Vec<u8>,
    /// Where they end and the next read goes on.
    pub next: LogPosition,
}

/// The log. Shared: appending takes a lock for the length of one `write`.
#[derive(Debug)]
pub struct Log {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    state: Mutex<State>,
    /// Held while a sync runs, so that those who come meanwhile share the next one.
    syncing: Mutex<()>,
    synced: Mutex<LogPosition>,
    current: AtomicU64,
}

struct State {
    writer: Box<dyn FileWriter>,
    segment: u64,
    bytes: u64,
    /// The file may hold bytes after `bytes` from an append that failed.
    dirty_tail: bool,
    /// The name of the present segment is not durable yet.
    new_name: bool,
    /// Closed segments that are not durable yet, by number.
    closing: Vec<(u64, Arc<dyn SyncHandle>)>,
    /// Segments whose sync failed. The system may since have forgotten which of their bytes never reached the disk, so
    /// that a later sync of the same file says nothing: they are written anew.
    suspect: BTreeSet<u64>,
    handle: Arc<dyn SyncHandle>,
    segments: BTreeMap<u64, SegmentState>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("segment", &self.segment).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Its length in bytes.
    pub bytes: u64,
    /// The newest sample in it; `Timestamp::MIN` when there is none.
    pub newest: Timestamp,
}

impl Log {
    /// The numbers of the segments in `dir`, rising; none where there is no log yet.
    pub(crate) fn numbers(fs: &dyn Fs, dir: &Path) -> Vec<u64> {
        // A folder that cannot be read is the error of whoever opens the log.
        segment::list(fs, dir).unwrap_or_default()
    }

    /// Reads every frame of the log in `dir`, calls `visit` for each, cuts a torn tail off the last segment and begins
    /// a new segment.
    ///
    /// # Errors
    /// When the folder cannot be read or written. Damage inside is no error: it is skipped and counted.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, mut visit: impl FnMut(FrameRef)) -> Result<(Log, ScanReport), LogError> {
        let disk = |segment| move |source| LogError::Disk { segment, source };
        fs.create_dir_all(dir).map_err(disk(0))?;
        let mut report = ScanReport::default();
        let (mut segments, mut closing) = (BTreeMap::new(), Vec::new());
        let numbers = segment::list(&*fs, dir).map_err(disk(0))?;
        for &number in &numbers {
            let is_last = Some(&number) == numbers.last();
            let bytes = segment::scan(&*fs, dir, number, is_last, &mut report, &mut visit).map_err(disk(number))?;
            segments.insert(number, SegmentState { bytes, newest: Timestamp::MIN });
            if segment::is_suspect(&*fs, dir, number) {
                segment::copy_anew(&*fs, dir, number, bytes).map_err(disk(number))?;
                continue;
            }
            // The process that wrote it may have died before it synced.
            let handle = fs.open_append(&segment_path(dir, number)).and_then(|file| file.sync_handle());
            closing.push((number, Arc::from(handle.map_err(disk(number))?)));
        }
        let number = numbers.last().map_or(1, |last| last + 1);
        let (writer, handle) = begin_segment(&*fs, dir, number).map_err(disk(number))?;
        segments.insert(number, SegmentState { bytes: SEGMENT_HEADER.len() as u64, newest: Timestamp::MIN });
        let position = LogPosition { segment: number, offset: SEGMENT_HEADER.len() as u64 };
        let state = State {
            writer,
            segment: number,
            bytes: position.offset,
            dirty_tail: false,
            new_name: true,
            closing,
            suspect: BTreeSet::new(),
            handle,
            segments,
        };
        let log = Log {
            fs,
            dir: dir.to_owned(),
            state: Mutex::new(state),
            syncing: Mutex::new(()),
            synced: Mutex::new(LogPosition::default()),
            current: AtomicU64::new(number),
        };
        Ok((log, report))
    }

    /// The number of the segment that is written now. Frames for another are refused by [`Log::append`].
    pub fn segment(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Appends whole frames, whose newest sample is at `newest`; answers where the first of them lies.
    ///
    /// With `expected`, only if that is the segment that is written now.
    ///
    /// # Errors
    /// `SegmentCut`, or `Disk`; then nothing of the frames is in the log.
    pub fn append(&self, frames: &[u8], newest: Timestamp, expected: Option<u64>) -> Result<LogPosition, LogError> {
        let mut state = self.state.lock();
        if let Some(expected) = expected.filter(|expected| *expected != state.segment) {
            return Err(LogError::SegmentCut { expected, current: state.segment });
        }
        let position = LogPosition { segment: state.segment, offset: state.bytes };
        state.append(frames).map_err(|source| LogError::Disk { segment: position.segment, source })?;
        let bytes = state.bytes;
        let known = state.segments.get_mut(&position.segment).expect("the present segment is known");
        known.bytes = bytes;
        known.newest = known.newest.max(newest);
        Ok(position)
    }

    /// Makes everything appended so far durable; those who call at the same time share one sync.
    ///
    /// # Errors
    /// `Disk`: what was appended since the last success may not survive a power cut. A new segment is begun, because
    /// after a failed sync the system forgets which bytes it could not write; the next call writes the segment anew
    /// from what can still be read of it, and only then counts it as durable.
    pub fn sync(&self) -> Result<LogPosition, LogError> {
        let wanted = self.end();
        let _one_at_a_time = self.syncing.lock();
        if *self.synced.lock() >= wanted {
            return Ok(wanted);
        }
        self.mend_suspects()?;
        let (position, closing, new_name) = {
            let mut state = self.state.lock();
            let position = LogPosition { segment: state.segment, offset: state.bytes };
            let mut closing = std::mem::take(&mut state.closing);
            closing.push((state.segment, Arc::clone(&state.handle)));
            (position, closing, std::mem::take(&mut state.new_name))
        };
        let mut failed = None;
        for (index, (segment, handle)) in closing.iter().enumerate() {
            if let Err(source) = handle.sync() {
                failed = Some((index, *segment, source));
                break;
            }
        }
        if failed.is_none()
            && new_name
            && let Err(source) = self.fs.sync_dir(&self.dir)
        {
            self.state.lock().new_name = true;
            return Err(LogError::Disk { segment: position.segment, source });
        }
        if let Some((index, segment, source)) = failed {
            let mut state = self.state.lock();
            state.new_name |= new_name;
            state.suspect.insert(segment);
            segment::mark_suspect(&*self.fs, &self.dir, segment);
            // The present segment is not among the closed ones; `cut` puts it there.
            let present = state.segment;
            state.closing.extend(closing.into_iter().skip(index + 1).filter(|(number, _)| *number != present));
            drop(state);
            let _ = self.cut();
            return Err(LogError::Disk { segment, source });
        }
        let mut synced = self.synced.lock();
        *synced = (*synced).max(position);
        Ok(position)
    }

    /// Writes the segments anew whose sync failed: read back, checked frame by frame, written beside, put in place.
    fn mend_suspects(&self) -> Result<(), LogError> {
        loop {
            let (segment, bytes) = {
                let state = self.state.lock();
                let Some(&segment) = state.suspect.first() else { return Ok(()) };
                match state.segments.get(&segment) {
                    Some(known) => (segment, Some(known.bytes)),
                    None => (segment, None),
                }
            };
            if let Some(bytes) = bytes {
                if segment == self.segment() {
                    // It is still being written, because no new one could be begun when its sync failed.
                    self.cut()?;
                }
                segment::rewrite(&*self.fs, &self.dir, segment, bytes)
                    .map_err(|source| LogError::Disk { segment, source })?;
            }
            let mut state = self.state.lock();
            state.suspect.remove(&segment);
            state.closing.retain(|(number, _)| *number != segment);
        }
    }

    /// Everything before this is durable.
    pub fn synced_to(&self) -> LogPosition {
        *self.synced.lock()
    }

    /// Where the next frame will lie.
    pub fn end(&self) -> LogPosition {
        let state = self.state.lock();
        LogPosition { segment: state.segment, offset: state.bytes }
    }

    /// Closes the present segment and begins the next, unless it is empty.
    ///
    /// # Errors
    /// `Disk` when the new file cannot be made; the old one goes on.
    pub fn cut(&self) -> Result<u64, LogError> {
        let mut state = self.state.lock();
        if state.bytes == SEGMENT_HEADER.len() as u64 && !state.dirty_tail && !state.suspect.contains(&state.segment) {
            return Ok(state.segment);
        }
        let number = state.segment + 1;
        let (writer, handle) =
            begin_segment(&*self.fs, &self.dir, number).map_err(|source| LogError::Disk { segment: number, source })?;
        if state.dirty_tail {
            // Replay cuts it off as torn if this fails.
            let bytes = state.bytes;
            let _ = state.writer.truncate(bytes);
        }
        let closed = std::mem::replace(&mut state.handle, handle);
        let closed_number = state.segment;
        state.closing.push((closed_number, closed));
        state.writer = writer;
        state.segment = number;
        state.bytes = SEGMENT_HEADER.len() as u64;
        state.dirty_tail = false;
        state.new_name = true;
        let bytes = state.bytes;
        state.segments.insert(number, SegmentState { bytes, newest: Timestamp::MIN });
        self.current.store(number, Ordering::Release);
        Ok(number)
    }

    /// Tells the newest sample of a segment that was written before this process began.
    pub fn note_newest(&self, segment: u64, newest: Timestamp) {
        if let Some(known) = self.state.lock().segments.get_mut(&segment) {
            known.newest = known.newest.max(newest);
        }
    }

    /// All segments by number, the last of them being written.
    pub fn segments(&self) -> Vec<(u64, SegmentState)> {
        self.state.lock().segments.iter().map(|(number, state)| (*number, *state)).collect()
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.state.lock().segments.values().map(|segment| segment.bytes).sum()
    }

    /// Removes the closed segments up to and including `last`, oldest first.
    ///
    /// # Errors
    /// `Disk`; segments after the one that could not be removed are still there.
    pub fn remove_through(&self, last: u64) -> Result<usize, LogError> {
        let mut removed = 0;
        loop {
            let oldest = {
                let state = self.state.lock();
                match state.segments.keys().next() {
                    Some(&oldest) if oldest <= last && oldest != state.segment => oldest,
                    _ => return Ok(removed),
                }
            };
            match self.fs.remove_file(&segment_path(&self.dir, oldest)) {
                Ok(()) => segment::clear_suspect(&*self.fs, &self.dir, oldest),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::Disk { segment: oldest, source }),
            }
            self.state.lock().segments.remove(&oldest);
            removed += 1;
        }
    }

    /// Reads whole frames from `from` on: at least one if there is one, about `bytes_max` bytes, never across segments.
    /// No frames and `next == from` means: that is the end of the log.
    ///
    /// # Errors
    /// `NoSuchPosition` when the segment is gone, `Damaged`, or `Disk`.
    pub fn read(&self, from: LogPosition, bytes_max: usize) -> Result<LogRead, LogError> {
        let mut from = from;
        let (written, following) = {
            let state = self.state.lock();
            let oldest = *state.segments.keys().next().expect("the present segment is known");
            if from.segment == 0 {
                from = LogPosition { segment: oldest, offset: 0 };
            }
            let Some(known) = state.segments.get(&from.segment).filter(|known| from.offset <= known.bytes) else {
                return Err(LogError::NoSuchPosition { position: from, oldest });
            };
            (known.bytes, state.segments.range(from.segment + 1..).next().map(|(number, _)| *number))
        };
        from.offset = from.offset.max(SEGMENT_HEADER.len() as u64);
        if from.offset == written {
            let next = following.map_or(from, |segment| LogPosition { segment, offset: SEGMENT_HEADER.len() as u64 });
            return Ok(LogRead { frames: Vec::new(), next });
        }
        let available = usize::try_from(written - from.offset).unwrap_or(usize::MAX);
        let disk = |source| LogError::Disk { segment: from.segment, source };
        let path = segment_path(&self.dir, from.segment);
        let wanted = available.min(bytes_max.max(frame::HEADER_BYTES));
        let mut frames = self.fs.read_at(&path, from.offset, wanted).map_err(disk)?;
        let first = frame::frame_bytes(&frames, FRAME_BYTES_MAX)
            .map_err(|source| LogError::Damaged { position: from, source })?;
        if first > frames.len() {
            frames = self.fs.read_at(&path, from.offset, first).map_err(disk)?;
        }
        let whole = whole_frames(&frames);
        if whole == 0 {
            return Err(LogError::Damaged { position: from, source: frame::FrameError::Short });
        }
        frames.truncate(whole);
        Ok(LogRead { frames, next: LogPosition { segment: from.segment, offset: from.offset + whole as u64 } })
    }
}

/// How many bytes at the front of `bytes` are whole frames by their headers.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Ok(length) = frame::frame_bytes(&bytes[end..], FRAME_BYTES_MAX) {
        if end + length > bytes.len() {
            break;
        }
        end += length;
    }
    end
}

impl State {
    fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.dirty_tail {
            self.writer.truncate(self.bytes)?;
            self.dirty_tail = false;
        }
        if let Err(error) = self.writer.append(frames) {
            self.dirty_tail = self.writer.truncate(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += frames.len() as u64;
        Ok(())
    }
}

type Segment = (Box<dyn FileWriter>, Arc<dyn SyncHandle>);

fn begin_segment(fs: &dyn Fs, dir: &Path, number: u64) -> io::Result<Segment> {
    let path = segment_path(dir, number);
    let mut writer = fs.create(&path)?;
    let begun = writer.append(&SEGMENT_HEADER).and_then(|()| writer.sync_handle());
    match begun {
        Ok(handle) => Ok((writer, handle.into())),
        Err(error) => {
            let _ = fs.remove_file(&path);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
