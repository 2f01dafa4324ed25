//! What of a data directory is in no block yet: the newest hours, in the log.
//!
//! Reading a log back cuts off what a crash tore, so it is done on a copy: the directory stays as it is, also below a peer
//! that is running.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use promesh_tsdb::{Db, DbOptions, ReplayDecoder};

use super::super::Failure;
use crate::clock;
use crate::ingest::{Lanes, LogDecoder};

/// Samples outside of blocks, and the copy that they are read from.
pub(super) struct Unblocked {
    /// The samples.
    pub db: Db,
    _copy: Copy,
}

/// A copy that goes with its reader.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left is in the folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where samples are that are in no block: our log, or that of Prometheus.
const LOGS: [&str; 2] = ["log", "wal"];
/// What is of no use to a reader, or not to be touched.
const LEFT: [&str; 5] = ["lock", "queries.active", "peer", "records", "snapshots"];

/// What is in no block; nothing where there is no log.
pub(super) fn open(path: &Path) -> Result<Option<Unblocked>, Failure> {
    if !LOGS.iter().any(|log| path.join(log).is_dir()) {
        return Ok(None);
    }
    let copy = Copy(std::env::temp_dir().join(format!("promesh-dump-{}", uuid::Uuid::new_v4())));
    let failed = |what: &Path, error: std::io::Error| Failure::new(format!("{}: {error}", what.display()));
    std::fs::create_dir(&copy.0).map_err(|error| failed(&copy.0, error))?;
    for entry in std::fs::read_dir(path).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        let is_left = LEFT.iter().any(|left| entry.file_name() == *left);
        if !is_left && !entry.path().join("meta.json").exists() {
            copy_into(&entry.path(), &copy.0.join(entry.file_name()))?;
        }
    }
    let lanes = Arc::new(Lanes::default());
    let decoders = || -> Box<dyn ReplayDecoder> { Box::new(LogDecoder(Arc::clone(&lanes))) };
    let opened = Db::open(&copy.0, DbOptions::default(), &decoders, clock::now());
    let (db, _) = opened.map_err(|error| Failure::new(error.to_string()))?;
    Ok(Some(Unblocked { db, _copy: copy }))
}

fn copy_into(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("copying {}: {error}", from.display()));
    if from.is_dir() {
        std::fs::create_dir(to).map_err(failed)?;
        for entry in std::fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            copy_into(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    match std::fs::copy(from, to) {
        Ok(_) => Ok(()),
        // A segment that a running peer needs no more.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
