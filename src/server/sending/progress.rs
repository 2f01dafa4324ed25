//! How far each peer has come with each receiver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use promesh_model::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};

/// What was said longer ago says nothing of the present.
const AGE_MS_MAX: i64 = 3_600_000;

/// Nor does what was said so much before the newest word of anybody.
const SILENCE_MS_MAX: i64 = 60_000;

/// What one peer said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    at: i64,
    through: BTreeMap<String, i64>,
}

/// All that is known, in memory and in a file.
pub struct Progress {
    me: PeerId,
    path: PathBuf,
    known: Mutex<BTreeMap<String, Told>>,
}

impl Progress {
    /// Reads what an earlier life kept; what cannot be read is as if it had not been.
    pub fn open(me: PeerId, data: &Path) -> Progress {
        let path = data.join("records").join("remote-write.json");
        let known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the progress of remote write is unreadable, it begins with the present");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Progress { me, path, known: Mutex::new(known) }
    }

    /// Another peer says how far it has come.
    pub fn heard(&self, peer: PeerId, through: BTreeMap<String, i64>, now: Timestamp) {
        self.known.lock().insert(peer.to_string(), Told { at: now.ms(), through });
    }

    /// This peer's own progress, with all else, goes to the disk.
    pub fn keep(&self, own: BTreeMap<String, i64>, now: Timestamp) {
        let bytes = {
            let mut known = self.known.lock();
            known.insert(self.me.to_string(), Told { at: now.ms(), through: own });
            known.retain(|_, told| now.ms() - told.at <= AGE_MS_MAX);
            serde_json::to_vec(&*known).expect("names and numbers")
        };
        if let Err(error) = self.write(&bytes) {
            tracing::error!(%error, "the progress of remote write could not be kept");
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = self.path.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(&new, &self.path)
    }

    /// Everything before this has arrived at a receiver, whoever was to send it; none when nobody said so lately.
    pub fn through(&self, remote: &str, now: Timestamp) -> Option<i64> {
        let known = self.known.lock();
        // Who fell silent long before the others has been taken over from since.
        let newest = known.values().map(|told| told.at).max().unwrap_or(0);
        let recent =
            known.values().filter(|told| now.ms() - told.at <= AGE_MS_MAX && newest - told.at <= SILENCE_MS_MAX);
        recent.filter_map(|told| told.through.get(remote).copied()).min()
    }

    /// What this peer said last.
    pub fn own(&self, remote: &str) -> Option<i64> {
        self.known.lock().get(&self.me.to_string())?.through.get(remote).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_of_all_peers_counts_and_outlives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let progress = Progress::open(PeerId(1), folder.path());
        let now = Timestamp(10_000_000);
        assert_eq!(progress.through("a", now), None);
        progress.heard(PeerId(2), BTreeMap::from([("a".to_owned(), 5_000)]), now);
        progress.keep(BTreeMap::from([("a".to_owned(), 7_000)]), now);
        let again = Progress::open(PeerId(1), folder.path());
        assert_eq!(again.through("a", now), Some(5_000));
        assert_eq!(again.own("a"), Some(7_000));
        assert_eq!(again.through("b", now), None);
        assert_eq!(again.through("a", Timestamp(now.ms() + AGE_MS_MAX + 1)), None);
    }
}
