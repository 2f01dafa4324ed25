//! What queries run and ran: a file of those that run, which tells after a crash, and a log of those that ended.
//!
//! The first is a JSON list in `queries.active`, a slot of fixed size a query, blank when it is free: after a crash the
//! slots say what was running. The second is named by `query_log_file`, a JSON object a line.
//!
//! Source: prometheus `promql.ActiveQueryTracker`, `promql.QueryLogger`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use promesh_api::QueryWatch;
use promesh_model::Timestamp;
use serde_json::{Value, json};

/// The bytes of a slot; a longer query is cut.
const SLOT_BYTES: usize = 1000;
const NAME: &str = "queries.active";

/// Both files.
#[derive(Debug)]
pub struct Queries {
    active: File,
    /// The slots that are free.
    free: Mutex<Vec<usize>>,
    log: Mutex<Option<(PathBuf, File)>>,
}

impl Queries {
    /// Opens the file of running queries in a folder, for at most `slots` at once; answers what it says was running when
    /// the process before ended.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(dir: &Path, slots: usize) -> io::Result<(Queries, Vec<Value>)> {
        let path = dir.join(NAME);
        let unfinished = std::fs::read(&path).map(|bytes| running(&bytes)).unwrap_or_default();
        let active = File::options().create(true).write(true).truncate(true).open(path)?;
        let mut blank = vec![b' '; 1 + slots * SLOT_BYTES];
        blank[0] = b'[';
        active.write_all_at(&blank, 0)?;
        let free = Mutex::new((0..slots).rev().collect());
        Ok((Queries { active, free, log: Mutex::new(None) }, unfinished))
    }

    /// Logs to a file from now on, opened anew so that it may have been moved away; to none when the path is empty.
    ///
    /// # Errors
    /// As the system says; the log before goes on.
    pub fn log_to(&self, path: &Path) -> io::Result<()> {
        let file = if path.as_os_str().is_empty() {
            None
        } else {
            Some((path.to_owned(), File::options().create(true).append(true).open(path)?))
        };
        *self.log.lock() = file;
        Ok(())
    }

    fn write_slot(&self, slot: usize, text: &str) {
        let mut bytes = [b' '; SLOT_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        // A file that cannot be written costs what it would have told after a crash, not the query.
        let _ = self.active.write_all_at(&bytes, (1 + slot * SLOT_BYTES) as u64);
    }
}

/// The queries that a file's slots name; what is torn is left out.
fn running(bytes: &[u8]) -> Vec<Value> {
    let slots = bytes.get(1..).unwrap_or_default().chunks(SLOT_BYTES);
    let texts = slots.filter_map(|slot| std::str::from_utf8(slot).ok());
    texts.filter_map(|text| serde_json::from_str(text.trim().trim_end_matches([',', ']'])).ok()).collect()
}

fn entry(query: &str, at: Timestamp) -> String {
    let text = |query: &str| format!("{},", json!({"query": query, "timestamp_sec": at.ms() / 1000}));
    let mut kept = query.len();
    loop {
        let whole = text(&query[..kept]);
        if whole.len() <= SLOT_BYTES {
            return whole;
        }
        // An escape takes up to six bytes: what is over is cut in steps.
        kept = query.floor_char_boundary(kept - ((whole.len() - SLOT_BYTES) / 6).max(1));
    }
}

impl QueryWatch for Queries {
    fn begin(&self, query: &str, at: Timestamp) -> Option<usize> {
        let slot = self.free.lock().pop()?;
        self.write_slot(slot, &entry(query, at));
        Some(slot)
    }

    fn wants_lines(&self) -> bool {
        self.log.lock().is_some()
    }

    fn end(&self, slot: Option<usize>, line: Option<Value>) {
        if let Some(slot) = slot {
            self.write_slot(slot, "");
            self.free.lock().push(slot);
        }
        if let Some(line) = line
            && let Some((path, file)) = &mut *self.log.lock()
            && let Err(error) = file.write_all(format!("{line}\n").as_bytes())
        {
            tracing::warn!(path = %path.display(), %error, "a query could not be logged");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_running_is_told_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let (queries, before) = Queries::open(folder.path(), 2).expect("opens");
        assert!(before.is_empty());
        let long = "x\u{1}".repeat(2000);
        let ended = queries.begin("up", Timestamp(5000));
        let slots = [queries.begin(&long, Timestamp(7000)), queries.begin("no slot is left", Timestamp(0))];
        assert_eq!((ended.is_some(), slots[0].is_some(), slots[1]), (true, true, None));
        assert!(!queries.wants_lines());
        queries.end(ended, None);
        assert_eq!(queries.begin("sum(up)", Timestamp(9000)), ended);
        drop(queries);
        let (_, unfinished) = Queries::open(folder.path(), 2).expect("opens");
        assert_eq!(unfinished.len(), 2, "{unfinished:?}");
        assert!(unfinished.contains(&json!({"query": "sum(up)", "timestamp_sec": 9})));
        let cut = unfinished.iter().filter_map(|query| query["query"].as_str()).find(|query| query.len() > 100);
        assert!(cut.is_some_and(|query| long.starts_with(query)));
    }

    #[test]
    fn ended_queries_are_logged_a_line_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let (queries, _) = Queries::open(folder.path(), 1).expect("opens");
        let path = folder.path().join("query.log");
        queries.log_to(&path).expect("opens");
        for number in 0..2 {
            let slot = queries.begin("up", Timestamp(0));
            assert!(queries.wants_lines());
            queries.end(slot, Some(json!({"number": number})));
        }
        queries.log_to(Path::new("")).expect("closes");
        queries.end(None, Some(json!("nothing is logged any more")));
        assert_eq!(std::fs::read_to_string(path).expect("reads"), "{\"number\":0}\n{\"number\":1}\n");
    }
}
