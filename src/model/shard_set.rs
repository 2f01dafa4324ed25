//! Sets of shards.
//!
//! In a small mesh a peer's set has thousands of shards, in a mesh of a thousand a few dozen, and every peer keeps
//! several sets for each other peer. So few are a sorted list, and many a bit each.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shard::{SHARD_COUNT, ShardId};

const WORDS: usize = SHARD_COUNT / 64;
/// So many are kept as a list: an eighth of the bit map's size.
const FEW_MAX: usize = 128;

/// A set of shards.
#[derive(Clone, PartialEq, Eq)]
pub struct ShardSet(Form);

/// One form for each set: a list up to [`FEW_MAX`], a bit map beyond.
#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// Sorted, each once.
    Few(Vec<u16>),
    Many {
        count: usize,
        words: Box<[u64; WORDS]>,
    },
}

use Form::{Few, Many};

fn bit(words: &[u64; WORDS], shard: u16) -> bool {
    words[usize::from(shard) / 64] >> (shard % 64) & 1 == 1
}

fn bits(words: &[u64; WORDS]) -> impl Iterator<Item = u16> + '_ {
    words.iter().enumerate().flat_map(|(index, &word)| {
        // Clearing the lowest bit walks only the bits that are set.
        let rests = std::iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)));
        let bits = rests.take_while(|rest| *rest != 0).map(u64::trailing_zeros);
        bits.map(move |bit| (index * 64) as u16 + bit as u16)
    })
}

impl ShardSet {
    /// Every shard.
    pub fn all() -> ShardSet {
        ShardSet::of(Box::new([u64::MAX; WORDS]))
    }

    fn of(words: Box<[u64; WORDS]>) -> ShardSet {
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        ShardSet(if count <= FEW_MAX { Few(bits(&words).collect()) } else { Many { count, words } })
    }

    /// A set from shards in rising order, each once.
    ///
    /// # Panics
    /// In debug builds, where they do not rise.
    pub fn of_rising(shards: Vec<u16>) -> ShardSet {
        debug_assert!(shards.is_sorted_by(|a, b| a < b), "each shard once, in rising order");
        if shards.len() <= FEW_MAX {
            return ShardSet(Few(shards));
        }
        let mut words = Box::new([0u64; WORDS]);
        shards.iter().for_each(|shard| words[usize::from(*shard) / 64] |= 1 << (shard % 64));
        ShardSet(Many { count: shards.len(), words })
    }

    /// Whether a shard is in the set.
    pub fn contains(&self, shard: ShardId) -> bool {
        match &self.0 {
            Few(shards) => shards.binary_search(&shard.0).is_ok(),
            Many { words, .. } => bit(words, shard.0),
        }
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        match &mut self.0 {
            Few(shards) => {
                if let Err(place) = shards.binary_search(&shard.0) {
                    shards.insert(place, shard.0);
                }
                if shards.len() > FEW_MAX {
                    *self = ShardSet::of_rising(std::mem::take(shards));
                }
            }
            Many { count, words } => {
                *count += usize::from(!bit(words, shard.0));
                words[usize::from(shard.0) / 64] |= 1 << (shard.0 % 64);
            }
        }
    }

    /// Removes a shard.
    pub fn remove(&mut self, shard: ShardId) {
        match &mut self.0 {
            Few(shards) => {
                if let Ok(place) = shards.binary_search(&shard.0) {
                    shards.remove(place);
                }
            }
            Many { count, words } => {
                *count -= usize::from(bit(words, shard.0));
                words[usize::from(shard.0) / 64] &= !(1 << (shard.0 % 64));
                if *count <= FEW_MAX {
                    self.0 = Few(bits(words).collect());
                }
            }
        }
    }

    /// How many shards.
    pub fn len(&self) -> usize {
        match &self.0 {
            Few(shards) => shards.len(),
            Many { count, .. } => *count,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shards in rising order.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        let (few, many) = match &self.0 {
            Few(shards) => (Some(shards.iter().copied()), None),
            Many { words, .. } => (None, Some(bits(words))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten()).map(ShardId)
    }

    /// Shards of either.
    pub fn union(&self, other: &ShardSet) -> ShardSet {
        let mut all = self.clone();
        all.insert_all(other);
        all
    }

    /// Shards of both.
    pub fn intersection(&self, other: &ShardSet) -> ShardSet {
        match (&self.0, &other.0) {
            (Few(few), _) => {
                ShardSet(Few(few.iter().copied().filter(|shard| other.contains(ShardId(*shard))).collect()))
            }
            (_, Few(_)) => other.intersection(self),
            (Many { words: a, .. }, Many { words: b, .. }) => zip(a, b, |a, b| a & b),
        }
    }

    /// Shards of this one that the other lacks.
    pub fn difference(&self, other: &ShardSet) -> ShardSet {
        match (&self.0, &other.0) {
            (Few(few), _) => {
                ShardSet(Few(few.iter().copied().filter(|shard| !other.contains(ShardId(*shard))).collect()))
            }
            (Many { words: a, .. }, Many { words: b, .. }) => zip(a, b, |a, b| a & !b),
            (Many { .. }, Few(few)) => {
                let mut rest = self.clone();
                few.iter().for_each(|shard| rest.remove(ShardId(*shard)));
                rest
            }
        }
    }

    /// Adds the other's shards.
    pub fn insert_all(&mut self, other: &ShardSet) {
        match (&self.0, &other.0) {
            (Many { words: a, .. }, Many { words: b, .. }) => *self = zip(a, b, |a, b| a | b),
            (_, Few(few)) => few.iter().for_each(|shard| self.insert(ShardId(*shard))),
            (Few(_), Many { .. }) => {
                let few = std::mem::replace(self, other.clone());
                few.iter().for_each(|shard| self.insert(shard));
            }
        }
    }

    /// Removes the other's shards.
    pub fn remove_all(&mut self, other: &ShardSet) {
        *self = self.difference(other);
    }

    /// Whether the two have no shard in common.
    pub fn is_disjoint(&self, other: &ShardSet) -> bool {
        match (&self.0, &other.0) {
            (Few(few), _) => !few.iter().any(|shard| other.contains(ShardId(*shard))),
            (_, Few(_)) => other.is_disjoint(self),
            (Many { words: a, .. }, Many { words: b, .. }) => a.iter().zip(b.iter()).all(|(a, b)| a & b == 0),
        }
    }

    /// Whether the other has every shard of this one.
    pub fn is_subset(&self, other: &ShardSet) -> bool {
        match (&self.0, &other.0) {
            (Few(few), _) => few.iter().all(|shard| other.contains(ShardId(*shard))),
            (Many { .. }, Few(_)) => false,
            (Many { words: a, .. }, Many { words: b, .. }) => a.iter().zip(b.iter()).all(|(a, b)| a & !b == 0),
        }
    }
}

fn zip(a: &[u64; WORDS], b: &[u64; WORDS], join: impl Fn(u64, u64) -> u64) -> ShardSet {
    let mut words = Box::new([0; WORDS]);
    for (word, (a, b)) in words.iter_mut().zip(a.iter().zip(b.iter())) {
        *word = join(*a, *b);
    }
    ShardSet::of(words)
}

impl Default for ShardSet {
    fn default() -> ShardSet {
        ShardSet(Few(Vec::new()))
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards", self.len())
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> ShardSet {
        let mut shards: Vec<u16> = shards.into_iter().map(|shard| shard.0).collect();
        // Nearly always they come from a walk over shards.
        if !shards.is_sorted_by(|a, b| a < b) {
            shards.sort_unstable();
            shards.dedup();
        }
        ShardSet::of_rising(shards)
    }
}

/// More than so many travel as a bit map.
const WIRE_FEW_MAX: usize = 512;

/// On the wire: the shards themselves while they are few, the words of the bit map otherwise; 2 KiB at most.
#[derive(Serialize, Deserialize)]
enum Wire {
    Few(Vec<u16>),
    Many(Vec<u64>),
}

impl Serialize for ShardSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = match &self.0 {
            Many { count, words } if *count > WIRE_FEW_MAX => Wire::Many(words.to_vec()),
            _ => Wire::Few(self.iter().map(|shard| shard.0).collect()),
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
                Ok(ShardSet::of(words.map_err(|_| D::Error::custom("a shard set has 256 words"))?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

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

    fn of(shards: &BTreeSet<u16>) -> ShardSet {
        shards.iter().map(|shard| ShardId(*shard)).collect()
    }

    /// Sets on both sides of the border between a list and a bit map.
    fn shards() -> impl Strategy<Value = BTreeSet<u16>> {
        prop_oneof![prop::collection::btree_set(0u16..600, 0..40), prop::collection::btree_set(0u16..600, 110..400)]
    }

    proptest! {
        #[test]
        fn both_forms_are_the_same_sets(a in shards(), b in shards()) {
            let (x, y) = (of(&a), of(&b));
            prop_assert_eq!(x.len(), a.len());
            prop_assert!(x.iter().map(|shard| shard.0).eq(a.iter().copied()));
            prop_assert!(x.union(&y) == of(&a.union(&b).copied().collect()));
            prop_assert!(x.intersection(&y) == of(&a.intersection(&b).copied().collect()));
            prop_assert!(x.difference(&y) == of(&a.difference(&b).copied().collect()));
            prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            let bytes = crate::codec::encode(&x);
            prop_assert!(crate::codec::decode::<ShardSet, 4096>(&bytes).expect("decodes") == x);
            let mut emptied = x.clone();
            a.iter().for_each(|shard| emptied.remove(ShardId(*shard)));
            prop_assert!(emptied == ShardSet::default());
        }
    }
}
