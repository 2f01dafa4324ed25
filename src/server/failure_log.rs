//! `scrape_failure_log_file`: failed scrapes as lines of JSON, beside the log.
//!
//! Source: prometheus `util/logging.JSONFileLogger`, `scrape.SetScrapeFailureLogger`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use promesh_model::Timestamp;

/// The files in use.
#[derive(Clone, Debug, Default)]
pub struct FailureLogs(Arc<Mutex<BTreeMap<PathBuf, Option<File>>>>);

impl FailureLogs {
    /// Closes all files: they are opened again when there is something to write, so that a moved file is let go of.
    pub fn reopen(&self) {
        self.0.lock().clear();
    }

    /// Writes a line, on a thread that may block. A file that cannot be opened is said once.
    pub fn write(&self, path: &Path, at: Timestamp, job: &str, target: &str, why: &str) {
        let line = serde_json::json!({"time": at.to_string(), "level": "ERROR", "msg": why, "job_name": job, "target": target});
        let (logs, path) = (self.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || logs.append(path, &format!("{line}\n")));
    }

    fn append(&self, path: PathBuf, line: &str) {
        let mut files = self.0.lock();
        let file = files.entry(path.clone()).or_insert_with(|| {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened
                .map_err(
                    |error| tracing::error!(%error, path = %path.display(), "the scrape failure log cannot be opened"),
                )
                .ok()
        });
        if let Some(file) = file
            && let Err(error) = file.write_all(line.as_bytes())
        {
            tracing::error!(%error, path = %path.display(), "the scrape failure log cannot be written");
            files.insert(path, None);
        }
    }
}
