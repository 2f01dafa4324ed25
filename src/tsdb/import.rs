//! Taking over a data directory of Prometheus: its write-ahead log, checkpoint and write-behind log, once.
//!
//! Its blocks are used as they are. The samples of its logs are read into the head, written as blocks at once, and
//! remembered as taken over in `imported.json`, by the names and lengths of the files. Nothing of Prometheus' own is
//! changed, before or after; a crash on the way means that it is done again, and blocks that then overlap are merged.
//!
//! Source: prometheus `tsdb/docs/format/wal.md`.

pub(crate) mod importer;
pub(crate) mod records;
pub(crate) mod wal;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::{Fs, replace_file};
use crate::head::Head;
use importer::Importer;

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Records read.
    pub records: u64,
    /// Series named by them.
    pub series: u64,
    /// Samples taken.
    pub samples: u64,
    /// Samples of series that no record named.
    pub orphans: u64,
    /// Places where a file was damaged; what came after in it is missing.
    pub damaged: u64,
}

/// Names and lengths of the files of Prometheus' logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    files: BTreeMap<String, u64>,
}

const MARKER: &str = "imported.json";

/// The logs of Prometheus in a data directory that were not taken over yet.
#[derive(Debug)]
pub struct PendingImport {
    present: Imported,
    log: Vec<PathBuf>,
    behind: Vec<PathBuf>,
}

impl PendingImport {
    /// Looks for logs of Prometheus.
    ///
    /// # Errors
    /// As the system says.
    pub fn find(fs: &dyn Fs, dir: &Path) -> io::Result<Option<PendingImport>> {
        let log = wal::log_files(fs, &dir.join("wal"))?;
        let behind = wal::segments(fs, &dir.join("wbl"))?;
        let mut present = Imported::default();
        for (path, bytes) in log.iter().chain(&behind) {
            present.files.insert(path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned(), *bytes);
        }
        if present.files.values().all(|bytes| *bytes == 0) {
            return Ok(None);
        }
        let marker = dir.join(MARKER);
        if fs.exists(&marker) && serde_json::from_slice::<Imported>(&fs.map(&marker)?).ok() == Some(present.clone()) {
            return Ok(None);
        }
        let paths = |files: Vec<(PathBuf, u64)>| files.into_iter().map(|(path, _)| path).collect();
        Ok(Some(PendingImport { present, log: paths(log), behind: paths(behind) }))
    }

    /// Reads the logs into the head.
    ///
    /// # Errors
    /// As the system says. Damage is counted.
    pub fn read(&self, fs: &dyn Fs, head: &Head) -> io::Result<ImportReport> {
        let mut importer = Importer::new(head);
        for path in &self.log {
            let _ = wal::for_each_record(&fs.map(path)?, |record| importer.series_only(record));
        }
        // The write-behind log first: where both have a sample for an instant, Prometheus answers with its one.
        for path in self.behind.iter().chain(&self.log) {
            let bytes = fs.map(path)?;
            if wal::for_each_record(&bytes, |record| importer.record(record)).is_err() {
                importer.report.damaged += 1;
            }
        }
        Ok(importer.finish())
    }

    /// Remembers that it is done.
    ///
    /// # Errors
    /// As the system says.
    pub fn done(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&self.present).map_err(io::Error::other)?;
        replace_file(fs, &dir.join(MARKER), &text)
    }
}
