//! Which samples were deleted, remembered on every peer, so that a peer that was away learns of it and copies cannot bring
//! deleted samples back.
//!
//! A delete names a cut-off, the instant at which it was asked for: later samples survive. Everybody applies every delete
//! once, and again after copying from a peer that may not have applied it yet. The set of deletes only grows, until the
//! retention time is over; so two sets merge by joining them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::{Generation, Matcher, PeerId, Timestamp};
use promesh_tsdb::Db;
use serde::{Deserialize, Serialize};

use crate::asking::Question;
use crate::clock;
use crate::lines::Lines;
use crate::peer::Peer;

/// How often it is looked who has to be told.
const TELL_PERIOD: Duration = Duration::from_secs(3);
/// More are refused: each is kept for the retention time.
const DELETES_MAX: usize = 10_000;

/// One delete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delete {
    /// Drawn by the peer that was asked.
    pub id: String,
    /// Which series.
    pub matchers: Vec<Matcher>,
    /// First instant, in ms.
    pub start: i64,
    /// Last instant, in ms; never after `cut_off`.
    pub end: i64,
    /// When it was asked for, in ms.
    pub cut_off: i64,
}

/// All deletes, here and in a file.
pub struct Deletes {
    state: Mutex<State>,
}

struct State {
    lines: Lines,
    known: BTreeMap<String, Delete>,
}

impl Deletes {
    /// Reads the file below `records/` of the data directory.
    ///
    /// # Errors
    /// When it cannot be read or is not what was written.
    pub fn open(data: &Path) -> io::Result<Deletes> {
        let (lines, read) = Lines::open::<Delete>(data.join("records").join("deletes.jsonl"))?;
        let known = read.into_iter().map(|delete| (delete.id.clone(), delete)).collect();
        Ok(Deletes { state: Mutex::new(State { lines, known }) })
    }

    /// Remembers a delete durably; false when it is known already.
    ///
    /// # Errors
    /// When the disk refuses, or there are too many.
    pub fn remember(&self, delete: &Delete) -> io::Result<bool> {
        let State { lines, known } = &mut *self.state.lock();
        if known.contains_key(&delete.id) {
            return Ok(false);
        }
        if known.len() >= DELETES_MAX {
            return Err(io::Error::other(format!("more than {DELETES_MAX} deletes within the retention time")));
        }
        lines.append(std::slice::from_ref(delete))?;
        known.insert(delete.id.clone(), delete.clone());
        Ok(true)
    }

    /// Whether a delete is remembered.
    pub fn knows(&self, id: &str) -> bool {
        self.state.lock().known.contains_key(id)
    }

    /// Applies all that is remembered once more: what was copied from another peer may be older than its deletes.
    pub fn apply_again(&self, db: &Db) {
        for delete in self.since(Timestamp::MIN) {
            if let Err(error) = db.delete_series(std::slice::from_ref(&delete.matchers), delete.start, delete.end) {
                tracing::error!(%error, "a delete could not be applied to copied samples");
            }
        }
    }

    /// All deletes asked for since an instant.
    pub fn since(&self, since: Timestamp) -> Vec<Delete> {
        self.state.lock().known.values().filter(|delete| delete.cut_off >= since.ms()).cloned().collect()
    }

    /// Forgets deletes from before an instant: their samples are past the retention time.
    ///
    /// # Errors
    /// When the disk refuses; they stay then.
    pub fn forget_before(&self, instant: Timestamp) -> io::Result<()> {
        let State { lines, known } = &mut *self.state.lock();
        let stays = |delete: &&Delete| delete.cut_off >= instant.ms();
        if known.values().all(|delete| stays(&delete)) {
            return Ok(());
        }
        lines.replace(known.values().filter(stays))?;
        known.retain(|_, delete| stays(&&*delete));
        Ok(())
    }
}

impl Peer {
    /// Deletes on every peer that can be reached; the others learn of it when they are back.
    ///
    /// # Errors
    /// When it could not be made durable here.
    pub async fn delete_everywhere(
        self: &Arc<Self>,
        matchers: Vec<Matcher>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<(), String> {
        let cut_off = clock::wall().ms();
        let id = uuid::Uuid::new_v4().to_string();
        let delete = Delete { id, matchers, start: start.ms(), end: end.ms().min(cut_off), cut_off };
        self.delete_here(delete.clone()).await?;
        if let Err(why) = self.have_all(&Question::Delete(delete)).await {
            tracing::warn!(why, "a delete has not reached all peers, it is said again to those that come back");
        }
        Ok(())
    }

    /// Applies a delete here and remembers it; nothing happens when it is known.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn delete_here(self: &Arc<Self>, delete: Delete) -> Result<(), String> {
        let peer = Arc::clone(self);
        let applied = tokio::task::spawn_blocking(move || {
            if peer.deletes.knows(&delete.id) {
                return Ok(());
            }
            let db = peer.ingest.db();
            // Applied first: what is remembered is never applied again.
            let deleted = db.delete_series(std::slice::from_ref(&delete.matchers), delete.start, delete.end);
            deleted.map_err(|error| error.to_string())?;
            peer.deletes.remember(&delete).map(drop).map_err(|error| error.to_string())
        });
        applied.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Says all deletes to whoever is newly there, and forgets those past the retention time.
    pub async fn follow_deletes(self: Arc<Self>) {
        let mut told: BTreeSet<(PeerId, Generation)> = BTreeSet::new();
        loop {
            tokio::time::sleep(TELL_PERIOD).await;
            let retention = self.retention_time();
            let horizon = Timestamp(clock::wall().ms().saturating_sub(promesh_model::time::ms_of(retention)));
            if let Err(error) = self.deletes.forget_before(horizon) {
                tracing::error!(%error, "the list of deletes could not be written anew");
            }
            let view = self.view.borrow().clone();
            let living = view.iter().flat_map(|view| view.peers.iter()).filter(|peer| peer.alive && !peer.silent);
            let present: BTreeSet<(PeerId, Generation)> = living.map(|peer| (peer.id, peer.generation)).collect();
            if present.is_subset(&told) {
                continue;
            }
            let mut reached_all = true;
            for delete in self.deletes.since(horizon) {
                reached_all &= self.have_all(&Question::Delete(delete)).await.is_ok();
            }
            if reached_all {
                told = present;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(id: u8, cut_off: i64) -> Delete {
        let matchers = vec![Matcher::equal("__name__", "a")];
        Delete { id: id.to_string(), matchers, start: 0, end: cut_off, cut_off }
    }

    #[test]
    fn deletes_outlive_a_restart_and_a_torn_end_and_go_with_the_retention_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let deletes = Deletes::open(folder.path()).expect("opens");
        assert!(deletes.remember(&delete(1, 10)).expect("written"));
        assert!(!deletes.remember(&delete(1, 10)).expect("known"));
        assert!(deletes.remember(&delete(2, 20)).expect("written"));
        let path = folder.path().join("records/deletes.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("there");
        text.push_str("{\"id\":\"3\",\"mat");
        std::fs::write(&path, text).expect("written");
        let again = Deletes::open(folder.path()).expect("opens");
        assert_eq!(again.since(Timestamp(0)), [delete(1, 10), delete(2, 20)]);
        assert_eq!(again.since(Timestamp(11)), [delete(2, 20)]);
        again.forget_before(Timestamp(15)).expect("forgotten");
        assert_eq!(Deletes::open(folder.path()).expect("opens").since(Timestamp(0)), [delete(2, 20)]);
    }
}
