//! The words that every other crate speaks: labels, matchers, samples, histograms, instants, peers, shards, and
//! the two traits between storage and those who read or write it.
//!
//! Floor 0: no IO, no clock, no randomness. Everything here is a value.

pub mod codec;
pub mod digest;
pub mod duration;
pub mod frame;
pub mod histogram;
pub mod ingest;
pub mod labels;
pub mod matcher;
pub mod peer;
pub mod regexp;
pub mod relabel;
pub mod secret;
pub mod shard;
mod shard_set;
pub mod storage;
pub mod time;
pub mod value;
pub mod zone;

pub use histogram::{CounterReset, FloatHistogram, Histogram, Span};
pub use labels::{Labels, LabelsBuilder};
pub use matcher::{MatchOp, Matcher};
pub use peer::{Generation, PeerId};
pub use secret::Secret;
pub use shard::{SHARD_COUNT, ShardId};
pub use time::{Monotonic, Now, Timestamp};
