//! The last changes of ownership and state, for the cluster endpoint; each is logged as it comes.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use promesh_node::Change;

const KEPT: usize = 100;

/// The newest changes.
#[derive(Debug, Default)]
pub struct Journal {
    kept: Mutex<VecDeque<Change>>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Journal {
    /// Takes note of a change and logs it.
    pub fn note(&self, change: Change) {
        log(&change);
        *self.counts.lock().entry((change.what, change.reason)).or_default() += 1;
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(change);
    }

    /// How many there were, by what and why.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.counts.lock().clone()
    }

    /// The changes, newest first.
    pub fn newest(&self, count: usize) -> Vec<Change> {
        self.kept.lock().iter().rev().take(count).cloned().collect()
    }
}

/// Says it in words that stand by themselves: whoever reads the log knows neither ranks nor views.
fn log(change: &Change) {
    let Change { what, peer, shards, reason, .. } = change;
    match *what {
        "state" => tracing::info!(state = reason, "this peer's state changed"),
        "up" => tracing::info!(%peer, "peer is up"),
        "down" => tracing::warn!(%peer, reason, "peer is down"),
        "left" => tracing::info!(%peer, "peer has left: it was stopped, and gave its shards away first"),
        "removed" => tracing::info!(%peer, reason, "peer is forgotten"),
        "takeover" => tracing::info!(shards, reason, "took over shards"),
        "handover" => tracing::info!(%peer, shards, reason, "handed shards over"),
        "yield" => tracing::info!(%peer, shards, reason, "yielded shards"),
        "copied" if *shards == 0 => tracing::debug!("fetched what a broken stream did not bring"),
        "copied" => tracing::info!(shards, "holds shards whole"),
        "suspended" => tracing::warn!(reason, "this peer was suspended: its shards wait until it has heard the others"),
        what => tracing::info!(what, %peer, shards, reason, "the mesh changed"),
    }
}
