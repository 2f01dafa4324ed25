//! Batches from too far in the future: not taken, counted, said, and owed until their time has come.
//!
//! They come from a peer whose clock is ahead, or everybody's do, where it is the clock here that is behind. Taken in, they would
//! make the head close its windows early, and refuse what comes from now on. Nothing is acknowledged that was not taken:
//! who pushed it hears so, and copies and streams leave a debt ([`promesh_node::Input::Ahead`]), so that what this peer
//! says it has stays true.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::ingest::Batch;
use promesh_model::{Monotonic, PeerId, Timestamp};
use promesh_node::{SAMPLE_AHEAD_MAX, SLOT_AHEAD_MAX};
use promesh_replication::Decoded;
use promesh_replication::framing::KIND_PUSH;

/// A peer's batches are mentioned once in so long.
const QUIET: Duration = Duration::from_secs(60);

/// What was not taken.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Batches of streams and requests.
    pub batches: AtomicU64,
    /// Samples out of copies.
    pub samples: AtomicU64,
    said: Mutex<BTreeMap<PeerId, Monotonic>>,
}

impl Ahead {
    /// Takes note of a refused batch, or of samples of a copy, and says so now and then.
    pub fn note(&self, peer: PeerId, at: Timestamp, now: promesh_model::Now) {
        let mut said = self.said.lock();
        if said.get(&peer).is_some_and(|at| now.monotonic.since(*at) < QUIET) {
            return;
        }
        said.insert(peer, now.monotonic);
        let ahead_seconds = at.since(now.wall).as_secs();
        tracing::warn!(
            %peer,
            ahead_seconds,
            "batches of a peer are too far ahead of the clock here and are not taken yet: set the clock that is wrong, the peer's or \
             this machine's"
        );
    }
}

/// Whether a batch of a stream is too far ahead: by its slot, where it has one, or by its samples.
pub fn is_ahead(kind: u8, decoded: &Decoded, now: Timestamp) -> bool {
    let slot_ahead = kind != KIND_PUSH && decoded.header.slot > now.after(SLOT_AHEAD_MAX);
    slot_ahead || newest(&decoded.batch) > latest(now)
}

/// The first instant of a batch.
pub fn oldest(decoded: &Decoded) -> Timestamp {
    let own = decoded.batch.timestamps.iter().map(|(_, at)| *at);
    let histograms = decoded.batch.histograms.iter().map(|sample| sample.timestamp);
    own.chain(histograms).fold(decoded.header.slot, Timestamp::min)
}

/// The last instant of samples that are taken from others.
pub fn latest(now: Timestamp) -> Timestamp {
    now.after(SAMPLE_AHEAD_MAX)
}

fn newest(batch: &Batch) -> Timestamp {
    let own = batch.timestamps.iter().map(|(_, at)| *at);
    let histograms = batch.histograms.iter().map(|sample| sample.timestamp);
    own.chain(histograms).fold(batch.slot, Timestamp::max)
}

impl Ahead {
    /// Counts a refused batch.
    pub fn refused(&self, peer: PeerId, at: Timestamp, now: promesh_model::Now) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.note(peer, at, now);
    }

    /// Counts samples of a copy that are left to be fetched again.
    pub fn left(&self, peer: PeerId, samples: u64, at: Timestamp, now: promesh_model::Now) {
        self.samples.fetch_add(samples, Ordering::Relaxed);
        self.note(peer, at, now);
    }
}

#[cfg(test)]
mod tests {
    use promesh_model::{Generation, ShardId};
    use promesh_replication::framing::KIND_BATCH;
    use promesh_replication::{BatchHeader, Order, Origin, SourceId};

    use super::*;

    #[test]
    fn a_slot_five_minutes_ahead_is_taken_and_a_sample_fifteen() {
        let ahead = |kind: u8, slot: i64, own: Option<i64>| {
            let order =
                Order { failed: false, rank: 0, origin: Origin { writer: PeerId(1), generation: Generation(1) } };
            let slot = Timestamp(slot * 1000);
            let header = BatchHeader { source: SourceId(1), shard: ShardId(1), slot, order, sequence: 1 };
            let timestamps = own.map(|at| (0, Timestamp(at * 1000))).into_iter().collect();
            let batch = Batch { slot, timestamps, ..Batch::default() };
            is_ahead(kind, &Decoded { header, batch, key: true }, Timestamp(0))
        };
        assert_eq!([300, 301].map(|slot| ahead(KIND_BATCH, slot, None)), [false, true]);
        assert_eq!([900, 901].map(|at| ahead(KIND_BATCH, 300, Some(at))), [false, true]);
        assert_eq!([900, 901].map(|slot| ahead(KIND_PUSH, slot, None)), [false, true]);
    }
}
