//! The files of Prometheus' logs: pages of 32 KiB with records that may cross them.
//!
//! ```text
//! type u8 (0 rest of page, 1 whole, 2 first, 3 middle, 4 last; +8 snappy, +16 zstd) | length u16 | crc32c u32 | data
//! ```
//! Source: prometheus `tsdb/wlog/wlog.go`.

use std::io;
use std::path::{Path, PathBuf};

use crate::fs::Fs;

const PAGE_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// No record of Prometheus comes near; a forged length must not take all memory.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// The newest checkpoint's files and the segments after it, each with its length.
pub fn log_files(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    if !fs.exists(dir) {
        return Ok(Vec::new());
    }
    let checkpoint = fs
        .list(dir)?
        .into_iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| Some((entry.name.strip_prefix("checkpoint.")?.parse::<u64>().ok()?, entry.name)))
        .max();
    let mut files = Vec::new();
    let mut after = None;
    if let Some((number, name)) = checkpoint {
        files = segments(fs, &dir.join(name))?;
        after = Some(number);
    }
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
    files.extend(segments(fs, dir)?.into_iter().filter(|(path, _)| number(path) > after));
    Ok(files)
}

/// The segments of a folder, each with its length.
pub fn segments(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    if !fs.exists(dir) {
        return Ok(Vec::new());
    }
    let mut found: Vec<(u64, PathBuf, u64)> = fs
        .list(dir)?
        .into_iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| Some((entry.name.parse().ok()?, dir.join(&entry.name), entry.bytes)))
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())
}

/// Calls `record` for each whole record of a segment, decompressed.
///
/// # Errors
/// At the first damage; the records before it were seen. A torn end is damage too.
pub fn for_each_record(segment: &[u8], mut record: impl FnMut(&[u8])) -> Result<(), ()> {
    let mut whole: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        let page_left = PAGE_BYTES - at % PAGE_BYTES;
        if page_left < HEADER_BYTES || segment[at] & 7 == 0 {
            at += page_left;
            continue;
        }
        let header = segment.get(at..at + HEADER_BYTES).ok_or(())?;
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        let checksum = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
        if length > page_left - HEADER_BYTES {
            return Err(());
        }
        let data = segment.get(at + HEADER_BYTES..at + HEADER_BYTES + length).ok_or(())?;
        if crc32c::crc32c(data) != checksum || whole.len() + length > RECORD_BYTES_MAX {
            return Err(());
        }
        at += HEADER_BYTES + length;
        let kind = header[0] & 7;
        if matches!(kind, 1 | 2) {
            whole.clear();
        }
        whole.extend_from_slice(data);
        if matches!(kind, 1 | 4) {
            match header[0] & 24 {
                0 => record(&whole),
                8 => record(&unsnap(&whole)?),
                _ => record(&unzstd(&whole)?),
            }
            whole.clear();
        }
    }
    Ok(())
}

fn unsnap(data: &[u8]) -> Result<Vec<u8>, ()> {
    if snap::raw::decompress_len(data).map_err(drop)? > RECORD_BYTES_MAX {
        return Err(());
    }
    snap::raw::Decoder::new().decompress_vec(data).map_err(drop)
}

fn unzstd(data: &[u8]) -> Result<Vec<u8>, ()> {
    use std::io::Read as _;
    let mut out = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(data).map_err(drop)?;
    decoder.take(RECORD_BYTES_MAX as u64).read_to_end(&mut out).map_err(drop)?;
    Ok(out)
}
