//! Segment files: their names, and reading them back past damage.

use std::io;
use std::path::{Path, PathBuf};

use promesh_model::frame::{self, FrameError};

use super::{FRAME_BYTES_MAX, LogPosition};
use crate::fs::{FileBytes, Fs};

/// The first bytes of every segment; the last is the version of the file.
pub const SEGMENT_HEADER: [u8; 8] = *b"pmlog\0\0\x01";

/// A frame in a segment that is being scanned; cheap to send to another thread.
#[derive(Clone, Debug)]
pub struct FrameRef {
    /// Where it lies.
    pub position: LogPosition,
    /// The form of its payload.
    pub kind: u8,
    file: FileBytes,
    start: usize,
    length: usize,
}

impl FrameRef {
    /// The frame's content.
    pub fn payload(&self) -> &[u8] {
        &self.file[self.start..self.start + self.length]
    }
}

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Segments read.
    pub segments: u64,
    /// Frames read.
    pub frames: u64,
    /// Bytes cut off the end of the last segment, from a write that a crash interrupted.
    pub torn_bytes: u64,
    /// Damaged stretches elsewhere; the frames after each were read.
    pub damaged_places: u64,
    /// Bytes in them.
    pub damaged_bytes: u64,
    /// Segments of a version that this build does not read; they are left alone.
    pub unreadable_segments: u64,
}

/// The path of a segment.
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}"))
}

/// Writes a closed segment of `bytes` bytes anew and makes it durable, from what can be read of it now.
///
/// # Errors
/// As the system says, and when what is read is not whole any more; the old file stays.
pub fn rewrite(fs: &dyn Fs, dir: &Path, number: u64, bytes: u64) -> io::Result<()> {
    let path = segment_path(dir, number);
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let content = fs.read_at(&path, 0, length)?;
    let mut at = SEGMENT_HEADER.len();
    if content.len() != length || !content.starts_with(&SEGMENT_HEADER) {
        return Err(io::Error::other("what was not written to the disk cannot be read back"));
    }
    while at < length {
        let (_, taken) = frame::read(&content[at..], FRAME_BYTES_MAX)
            .map_err(|error| io::Error::other(format!("what was not written to the disk is damaged: {error}")))?;
        at += taken;
    }
    crate::fs::replace_file(fs, &path, &content)?;
    clear_suspect(fs, dir, number);
    Ok(())
}

/// Writes a segment anew whose sync failed in the life before: whatever of it can be read, since its damage was counted.
///
/// # Errors
/// As the system says; the old file stays.
pub fn copy_anew(fs: &dyn Fs, dir: &Path, number: u64, bytes: u64) -> io::Result<()> {
    let path = segment_path(dir, number);
    let content = fs.read_at(&path, 0, usize::try_from(bytes).map_err(io::Error::other)?)?;
    crate::fs::replace_file(fs, &path, &content)?;
    clear_suspect(fs, dir, number);
    Ok(())
}

fn suspect_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.suspect"))
}

/// Remembers beyond this process that the system may have forgotten bytes of a segment. It need not survive a power cut:
/// after one, what was forgotten is gone, and was never called durable.
pub fn mark_suspect(fs: &dyn Fs, dir: &Path, number: u64) {
    if let Err(error) = fs.create(&suspect_path(dir, number)) {
        tracing::warn!(segment = number, %error, "a segment of the log whose sync failed cannot be marked");
    }
}

/// Whether a segment is marked.
pub fn is_suspect(fs: &dyn Fs, dir: &Path, number: u64) -> bool {
    fs.exists(&suspect_path(dir, number))
}

/// Takes the mark away; one that stays costs the next start a copy.
pub fn clear_suspect(fs: &dyn Fs, dir: &Path, number: u64) {
    let path = suspect_path(dir, number);
    if fs.exists(&path) {
        let _ = fs.remove_file(&path);
    }
}

/// The numbers of the segments in a folder, rising.
pub fn list(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = fs
        .list(dir)?
        .into_iter()
        .filter(|entry| !entry.is_dir && entry.name.len() == 16)
        .filter_map(|entry| entry.name.parse().ok())
        .filter(|number| *number > 0)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads one segment; answers its length, without a torn tail.
pub fn scan(
    fs: &dyn Fs,
    dir: &Path,
    number: u64,
    is_last: bool,
    report: &mut ScanReport,
    visit: &mut impl FnMut(FrameRef),
) -> io::Result<u64> {
    let path = segment_path(dir, number);
    let file = fs.map(&path)?;
    report.segments += 1;
    let length = file.len() as u64;
    if file.get(..5) == Some(&SEGMENT_HEADER[..5]) && file.get(..8).is_some_and(|header| header != SEGMENT_HEADER) {
        report.unreadable_segments += 1;
        return Ok(length);
    }
    // A file shorter than its header is one that a crash left behind at birth; its bytes are torn.
    let mut at = if file.starts_with(&SEGMENT_HEADER) { SEGMENT_HEADER.len() } else { 0 };
    let mut good_end = at;
    while at < file.len() {
        match frame::read(&file[at..], FRAME_BYTES_MAX) {
            Ok((found, taken)) => {
                if at > good_end {
                    report.damaged_places += 1;
                    report.damaged_bytes += (at - good_end) as u64;
                }
                report.frames += 1;
                let length = found.payload.len();
                visit(FrameRef {
                    position: LogPosition { segment: number, offset: at as u64 },
                    kind: found.kind,
                    file: file.clone(),
                    start: at + frame::HEADER_BYTES,
                    length,
                });
                at += taken;
                good_end = at;
            }
            Err(error) => at = resynchronize(&file, at, error),
        }
    }
    if good_end < file.len() {
        let tail = (file.len() - good_end) as u64;
        if !is_last {
            report.damaged_places += 1;
            report.damaged_bytes += tail;
            return Ok(length);
        }
        report.torn_bytes += tail;
        drop(file);
        let mut writer = fs.open_append(&path)?;
        writer.truncate(good_end as u64)?;
        writer.sync()?;
    }
    Ok(good_end as u64)
}

/// The next place where a frame may begin, after bytes that are none.
fn resynchronize(file: &[u8], at: usize, _why: FrameError) -> usize {
    let rest = &file[at + 1..];
    rest.windows(2).position(|pair| pair == b"pm").map_or(file.len(), |found| at + 1 + found)
}
