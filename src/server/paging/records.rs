//! The log of replicated records: appended and synced before anybody is told, replaced by a snapshot when it is long.
//!
//! One file of frames, [`FILE`]. Its end may be torn by a crash: what was not whole was never acknowledged. A snapshot is
//! written beside it and renamed over it, so that there is the old log or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use promesh_alerting::message::{DiskRecord, decode_records, encode_records};
use promesh_model::codec::BULK_BYTES_MAX;
use promesh_model::frame;

/// The folder below the data directory.
pub const FOLDER: &str = "records";
const FILE: &str = "alerting.log";
/// Records in one frame of a snapshot: a record is far below the 16 MiB of a frame, a thousand of them usually are.
const SNAPSHOT_RECORDS: usize = 256;

/// The log.
#[derive(Debug)]
pub struct RecordLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl RecordLog {
    /// Opens the log below a data directory, and reads what it holds.
    ///
    /// # Errors
    /// As the system says. A torn or damaged end is cut off, with a WARN; a damaged part is kept beside.
    pub fn open(data: &Path) -> io::Result<(RecordLog, Vec<DiskRecord>)> {
        let folder = data.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(named(&path, error)),
        };
        let (records, good, whole) = read(&content);
        if good < content.len() {
            let lost = content.len() - good;
            tracing::warn!(path = %path.display(), bytes = lost, whole, "the end of the record log is cut off");
            if !whole {
                std::fs::write(path.with_extension("damaged"), &content[good..])?;
            }
        }
        // Never truncate: appending goes on after what is good.
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| named(&path, error))?;
        file.set_len(good as u64)?;
        file.sync_all()?;
        File::open(&folder)?.sync_all()?;
        Ok((RecordLog { path, file, bytes: good as u64 }, records))
    }

    /// Appends frames and makes them durable.
    ///
    /// # Errors
    /// As the system says. How much of it lies on disk is unknown then: only [`RecordLog::replace`] helps.
    pub fn append(&mut self, frames: &[Vec<u8>]) -> io::Result<()> {
        let joined = frames.concat();
        self.file.write_all(&joined)?;
        self.file.sync_data()?;
        self.bytes += joined.len() as u64;
        Ok(())
    }

    /// Makes the log these records and nothing else.
    ///
    /// # Errors
    /// As the system says; the old log is in place.
    pub fn replace(&mut self, records: &[DiskRecord]) -> io::Result<()> {
        let beside = self.path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        let mut bytes = 0;
        for part in records.chunks(SNAPSHOT_RECORDS) {
            let frame = encode_records(part);
            file.write_all(&frame)?;
            bytes += frame.len() as u64;
        }
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The records, how far they reach, and whether what follows is only a frame that was cut off.
fn read(content: &[u8]) -> (Vec<DiskRecord>, usize, bool) {
    let mut records = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let rest = &content[at..];
        match frame::read(rest, BULK_BYTES_MAX) {
            Ok((_, total)) => match decode_records(&rest[..total]) {
                Ok(more) => {
                    records.extend(more);
                    at += total;
                }
                Err(_) => return (records, at, false),
            },
            Err(error) => return (records, at, matches!(error, frame::FrameError::Short)),
        }
    }
    (records, at, true)
}

#[cfg(test)]
mod tests {
    use promesh_alerting::Electorate;
    use promesh_model::PeerId;

    use super::*;

    fn record(number: u64) -> DiskRecord {
        DiskRecord::Electorate(Electorate::new(number, vec![PeerId(7)]))
    }

    #[test]
    fn what_was_appended_is_there_and_a_torn_end_is_not() {
        let data = tempfile::tempdir().expect("a folder");
        let (mut log, records) = RecordLog::open(data.path()).expect("made");
        assert!(records.is_empty());
        log.append(&[encode_records(&[record(1)]), encode_records(&[record(2), record(3)])]).expect("written");
        drop(log);
        let path = data.path().join(FOLDER).join(FILE);
        let whole = std::fs::read(&path).expect("there");
        for cut in [1, 5, 13] {
            std::fs::write(&path, [&whole[..], &encode_records(&[record(4)])[..cut]].concat()).expect("written");
            let (mut log, records) = RecordLog::open(data.path()).expect("opened");
            assert_eq!(records, [record(1), record(2), record(3)], "{cut}");
            assert_eq!(log.bytes(), whole.len() as u64);
            log.append(&[encode_records(&[record(9)])]).expect("written");
            drop(log);
            let (_, records) = RecordLog::open(data.path()).expect("opened");
            assert_eq!(records.last(), Some(&record(9)), "{cut}");
        }
    }

    #[test]
    fn a_damaged_part_is_kept_beside() {
        let data = tempfile::tempdir().expect("a folder");
        let (mut log, _) = RecordLog::open(data.path()).expect("made");
        log.append(&[encode_records(&[record(1)]), encode_records(&[record(2)])]).expect("written");
        let path = data.path().join(FOLDER).join(FILE);
        let mut content = std::fs::read(&path).expect("there");
        let last = content.len() - 1;
        content[last] ^= 0xff;
        std::fs::write(&path, &content).expect("written");
        let (_, records) = RecordLog::open(data.path()).expect("opened");
        assert_eq!(records, [record(1)]);
        assert!(path.with_extension("damaged").exists());
    }

    #[test]
    fn a_snapshot_takes_the_place_of_all_before_it() {
        let data = tempfile::tempdir().expect("a folder");
        let (mut log, _) = RecordLog::open(data.path()).expect("made");
        log.append(&[encode_records(&[record(1)])]).expect("written");
        let many: Vec<DiskRecord> = (10..1000).map(record).collect();
        log.replace(&many).expect("replaced");
        log.append(&[encode_records(&[record(2)])]).expect("written");
        let (again, records) = RecordLog::open(data.path()).expect("opened");
        assert_eq!((records.len(), records.last()), (991, Some(&record(2))));
        assert_eq!(again.bytes(), log.bytes());
    }
}
