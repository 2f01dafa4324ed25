//! Batches as bytes: the payload of a frame of kind [`KIND_BATCH`].
//!
//! The intuition: a target exposes the same series every time and most values have not moved. So a stream, which is
//! the batches of one (origin, source, shard), keeps a dictionary of the series it has named and the last value of
//! each; a batch then says "the same list as last time" and a bit for every unchanged value.
//!
//! The rule: the first batch of a stream in an *epoch* is a **key frame**, which starts the dictionary anew; every other
//! batch names the sequence of its base and carries a checksum of the decoded values. Epochs are spans of slot time,
//! alike on all peers, and a log segment holds one epoch: so every segment, on every peer, reads from its own start.
//!
//! The awkward cases: a reader that has no base (it joined, or lost frames) gets [`FramingError::NoBase`] and asks for a
//! key frame; a dictionary that churn has filled with dead series is dropped by an early key frame; sections of an
//! unknown type are skipped, so that an older peer can hold what a newer one writes.

mod bits;
mod decode;
mod encode;
mod pass;
mod sections;
#[cfg(test)]
mod tests;
mod wire;

use hashbrown::HashMap;
use promesh_model::ingest::{Batch, IngestError, SeriesRef};
use promesh_model::value::is_stale;
use promesh_model::{Generation, PeerId, ShardId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use encode::{Encoded, Vanishing};
pub use wire::peek;

/// The frame kind of a batch of this form.
pub const KIND_BATCH: u8 = 1;

/// The frame kind, in a log only, of samples copied from another peer: the same form, always a key frame.
pub const KIND_COPY: u8 = 2;

/// The frame kind, in a log only, of a batch that came in a copy and stands in the place of another: the same form, always
/// a key frame of no stream, judged like a batch.
pub const KIND_SETTLED: u8 = 4;

/// The frame kind of pushed samples: the same form; each sample has its own instant and finds its own place.
pub const KIND_PUSH: u8 = 3;

/// The span of slot time that one log segment holds.
///
/// Key frames cost some 25 B a series; over half an hour at 15 s that is 0.2 B a sample.
pub const EPOCH_MS: i64 = 30 * 60 * 1000;

/// The most definitions a batch may bring, unpacked; no exposition within the limits comes near.
pub const DEFINITIONS_BYTES_MAX: usize = 256 << 20;

/// What produces batches: a scrape target, a rule group, a push group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(pub u128);

/// Who wrote a batch, in which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The peer.
    pub writer: PeerId,
    /// Its generation.
    pub generation: Generation,
}

/// Which of two batches for one slot stands: the smaller, on every holder, whatever its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// A failed scrape gives way to one that succeeded.
    pub failed: bool,
    /// The writer's rank for the source's own shard, as it saw it.
    pub rank: u8,
    /// The writer in this life: breaks ties alike everywhere.
    pub origin: Origin,
}

/// What a batch is, without its samples. The minds see only this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// What produced it.
    pub source: SourceId,
    /// The shard of all its series.
    pub shard: ShardId,
    /// The scheduled instant it stands for.
    pub slot: Timestamp,
    /// Its precedence; names the origin.
    pub order: Order,
    /// Its number among the batches of its origin, from 1.
    pub sequence: u64,
}

impl BatchHeader {
    /// The span of slot time it belongs to.
    pub fn epoch(&self) -> i64 {
        epoch_of(self.slot)
    }
}

/// The epoch of an instant.
pub fn epoch_of(slot: Timestamp) -> i64 {
    slot.ms().div_euclid(EPOCH_MS)
}

/// Why a payload is no batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// Bytes that no writer of ours produces.
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
    /// The batch builds on one that this reader has not seen: ask its writer for a key frame.
    #[error("batch {sequence} builds on batch {base}, which is not here")]
    NoBase {
        /// The batch.
        sequence: u64,
        /// What it builds on.
        base: u64,
    },
    /// Writer and reader disagree about what came before: ask for a key frame.
    #[error("decoded values do not have the checksum their writer stated")]
    Checksum,
    /// A series was refused.
    #[error(transparent)]
    Series(#[from] IngestError),
}

/// A batch as a reader gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// What it is.
    pub header: BatchHeader,
    /// Whether it stands alone.
    pub key: bool,
    /// Its samples, the markers of vanished series among them.
    pub batch: Batch,
}

/// The dictionary of one stream. Writer and reader keep the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    /// Sequence of the newest batch; 0 before the first.
    sequence: u64,
    epoch: i64,
    /// The next batch must be a key frame.
    key_wanted: bool,
    /// The newest batch went on as its writer framed it: what is framed here cannot build on it.
    passed: bool,
    /// Series named since the key frame, and the last value of each.
    dictionary: Vec<SeriesRef>,
    values: Vec<f64>,
    /// Dictionary positions of the newest batch's float samples; `None` while that is the whole dictionary in order.
    current: Option<Vec<u32>>,
    /// Series of the newest batch that had instants of their own, where that matters to its writer; in order.
    stamped: Vec<SeriesRef>,
}

impl Stream {
    /// The series of the newest batch, but those that ended with it.
    fn current_series(&self) -> Vec<SeriesRef> {
        let lives = |position: usize| !is_stale(self.values[position]);
        match &self.current {
            None => (0..self.dictionary.len()).filter(|&p| lives(p)).map(|p| self.dictionary[p]).collect(),
            Some(positions) => {
                let positions = positions.iter().map(|&position| position as usize);
                positions.filter(|&p| lives(p)).map(|p| self.dictionary[p]).collect()
            }
        }
    }
}

type StreamKey = (Origin, SourceId, ShardId);

/// The dictionaries of many streams: all that a writer writes, or all that a reader reads from.
#[derive(Clone, Debug, Default)]
pub struct Framing {
    streams: HashMap<StreamKey, Stream>,
}

impl Framing {
    /// No streams yet.
    pub fn new() -> Framing {
        Framing::default()
    }

    /// Makes the next batch of every stream in these shards a key frame: somebody new listens.
    pub fn want_keys(&mut self, in_shard: impl Fn(ShardId) -> bool) {
        for ((_, _, shard), stream) in &mut self.streams {
            if in_shard(*shard) {
                stream.key_wanted = true;
            }
        }
    }

    /// The series of the newest batch of a stream.
    pub fn newest_series(&self, origin: Origin, source: SourceId, shard: ShardId) -> Option<Vec<SeriesRef>> {
        self.streams.get(&(origin, source, shard)).map(Stream::current_series)
    }

    /// Whether a list of series is that of the newest batch of a stream.
    pub fn is_newest_list(&self, origin: Origin, source: SourceId, shard: ShardId, series: &[SeriesRef]) -> bool {
        self.streams.get(&(origin, source, shard)).is_some_and(|stream| stream.is_current(series))
    }

    /// Forgets a stream: its source is gone, or somebody else writes it now.
    pub fn forget(&mut self, origin: Origin, source: SourceId, shard: ShardId) {
        self.streams.remove(&(origin, source, shard));
    }

    /// How many streams are known.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }
}
