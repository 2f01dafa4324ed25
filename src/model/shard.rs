//! Shards: the unit of ownership. One series lies in one shard for ever, whoever wrote it.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::labels::Labels;
pub use crate::shard_set::ShardSet;

/// How many shards there are. Part of the placement version: it never changes while a mesh runs.
pub const SHARD_COUNT: usize = 16_384;

/// One of [`SHARD_COUNT`] shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The shard of a series, or of a target by its final labels.
///
/// It follows from `job` and `instance`, so that joins on them are local to a shard; when either is missing, from all
/// labels but `__name__`, `le` and `quantile`, so that the parts of one histogram stay together.
pub fn shard_of(labels: &Labels) -> ShardId {
    let mut hasher = Xxh3::new();
    match (labels.get("job"), labels.get("instance")) {
        (Some(job), Some(instance)) => {
            feed(&mut hasher, job);
            feed(&mut hasher, instance);
        }
        _ => {
            for (name, value) in labels.iter() {
                if !matches!(name, "__name__" | "le" | "quantile") {
                    feed(&mut hasher, name);
                    feed(&mut hasher, value);
                }
            }
        }
    }
    ShardId((hasher.digest() % SHARD_COUNT as u64) as u16)
}

/// The shard of something that is named rather than labelled: a rule group by (file, name).
pub fn shard_of_names(names: &[&str]) -> ShardId {
    let mut hasher = Xxh3::new();
    for name in names {
        feed(&mut hasher, name);
    }
    ShardId((hasher.digest() % SHARD_COUNT as u64) as u16)
}

/// 0xff never occurs in UTF-8, so no two lists of texts feed the same bytes.
fn feed(hasher: &mut Xxh3, text: &str) {
    hasher.update(text.as_bytes());
    hasher.update(&[0xff]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed figure here moves every series of every mesh: raise the placement version instead.
    #[test]
    fn shards_are_golden() {
        let shard = |pairs: &[(&str, &str)]| shard_of(&Labels::from_pairs(pairs.iter().copied())).0;
        let node = shard(&[("__name__", "up"), ("instance", "a:9100"), ("job", "node")]);
        assert_eq!(node, shard(&[("__name__", "go_threads"), ("instance", "a:9100"), ("job", "node"), ("x", "y")]));
        let bucket = shard(&[("__name__", "h_bucket"), ("le", "1"), ("zone", "a")]);
        assert_eq!(bucket, shard(&[("__name__", "h_count"), ("zone", "a")]));
        expect_test::expect!["9268 155"].assert_eq(&format!("{node} {bucket}"));
    }
}
