//! Shards: the unit of ownership. One series lies in one shard for ever, whoever wrote it.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

use crate::labels::Labels;

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

const WORDS: usize = SHARD_COUNT / 64;

/// A set of shards: one bit each.
#[derive(Clone, PartialEq, Eq)]
pub struct ShardSet(Box<[u64; WORDS]>);

impl ShardSet {
    /// Every shard.
    pub fn all() -> ShardSet {
        ShardSet(Box::new([u64::MAX; WORDS]))
    }

    /// Whether a shard is in the set.
    pub fn contains(&self, shard: ShardId) -> bool {
        self.0[usize::from(shard.0) / 64] >> (shard.0 % 64) & 1 == 1
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        self.0[usize::from(shard.0) / 64] |= 1 << (shard.0 % 64);
    }

    /// Removes a shard.
    pub fn remove(&mut self, shard: ShardId) {
        self.0[usize::from(shard.0) / 64] &= !(1 << (shard.0 % 64));
    }

    /// How many shards.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The shards in rising order.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            // Clearing the lowest bit walks only the bits that are set.
            let words = std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)));
            let bits = words.take_while(|rest| *rest != 0).map(u64::trailing_zeros);
            bits.map(move |bit| ShardId((index * 64) as u16 + bit as u16))
        })
    }

    /// Shards of either.
    pub fn union(&self, other: &ShardSet) -> ShardSet {
        self.zip(other, |a, b| a | b)
    }

    /// Shards of both.
    pub fn intersection(&self, other: &ShardSet) -> ShardSet {
        self.zip(other, |a, b| a & b)
    }

    /// Shards of this one that the other lacks.
    pub fn difference(&self, other: &ShardSet) -> ShardSet {
        self.zip(other, |a, b| a & !b)
    }

    /// Adds the other's shards.
    pub fn insert_all(&mut self, other: &ShardSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a |= b);
    }

    /// Removes the other's shards.
    pub fn remove_all(&mut self, other: &ShardSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= !b);
    }

    /// Whether the two have no shard in common.
    pub fn is_disjoint(&self, other: &ShardSet) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(a, b)| a & b == 0)
    }

    /// Whether the other has every shard of this one.
    pub fn is_subset(&self, other: &ShardSet) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(a, b)| a & !b == 0)
    }

    fn zip(&self, other: &ShardSet, join: impl Fn(u64, u64) -> u64) -> ShardSet {
        let mut words = Box::new([0; WORDS]);
        for (word, (a, b)) in words.iter_mut().zip(self.0.iter().zip(other.0.iter())) {
            *word = join(*a, *b);
        }
        ShardSet(words)
    }
}

impl Default for ShardSet {
    fn default() -> ShardSet {
        ShardSet(Box::new([0; WORDS]))
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards", self.len())
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> ShardSet {
        let mut set = ShardSet::default();
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

/// On the wire: the shards themselves while they are few, the words of the bit map otherwise; 2 KiB at most.
#[derive(Serialize, Deserialize)]
enum Wire {
    Few(Vec<u16>),
    Many(Vec<u64>),
}

impl Serialize for ShardSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = if self.len() <= 512 {
            Wire::Few(self.iter().map(|shard| shard.0).collect())
        } else {
            Wire::Many(self.0.to_vec())
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShardSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Few(shards) if shards.iter().all(|&shard| usize::from(shard) < SHARD_COUNT) => {
                Ok(shards.into_iter().map(ShardId).collect())
            }
            Wire::Few(_) => Err(D::Error::custom("no such shard")),
            Wire::Many(words) => {
                let words = words.into_boxed_slice().try_into();
                Ok(ShardSet(words.map_err(|_| D::Error::custom("a shard set has 256 words"))?))
            }
        }
    }
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

    #[test]
    fn sets_count_walk_and_join_as_sets_do() {
        let set = |shards: &[u16]| shards.iter().map(|&shard| ShardId(shard)).collect::<ShardSet>();
        let (few, more) = (set(&[0, 63, 64, 16_383]), set(&[0, 5, 63, 64, 16_383]));
        assert_eq!(few.iter().map(|shard| shard.0).collect::<Vec<_>>(), [0, 63, 64, 16_383]);
        assert!(few.is_subset(&more) && !more.is_subset(&few) && !few.is_disjoint(&more));
        assert_eq!(ShardSet::all().iter().count(), SHARD_COUNT);
        let mut rest = more.clone();
        rest.remove_all(&few);
        assert!(rest == set(&[5]) && rest.is_disjoint(&few));
        rest.insert_all(&few);
        assert_eq!(rest, more);
    }
}
