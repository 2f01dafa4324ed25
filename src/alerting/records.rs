//! Replicated records: maps whose values only ever grow towards one another.
//!
//! A value is a [`Lattice`]: `join` is commutative, associative and idempotent, so that peers may learn the same things
//! in any order, twice, or through others, and end up alike. No wall clock decides anything. What changed is pushed as
//! deltas; what was missed is found by comparing the sums of ranges.

use std::collections::BTreeMap;
use std::ops::Bound;

use promesh_model::{PeerId, codec};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Into how many ranges a map's keys are cut for comparison.
pub const RANGES: usize = 64;

/// Values that can be joined.
pub trait Lattice: Clone {
    /// Takes in what another knows; says whether anything was new.
    fn join(&mut self, other: &Self) -> bool;
}

/// When something was written: a counter, and who counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Greater than every counter that the writer had seen for this record.
    pub counter: u64,
    /// Breaks ties.
    pub peer: WrittenBy,
}

/// The peer that wrote; no peer for what was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WrittenBy(pub u128);

impl Version {
    /// The version after this one, written by a peer.
    pub fn next(self, peer: PeerId) -> Version {
        Version { counter: self.counter + 1, peer: WrittenBy(peer.0) }
    }
}

/// A value of which the last written one stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register<T> {
    /// When it was written.
    pub version: Version,
    /// What.
    pub value: T,
}

impl<T: Clone + PartialEq> Register<T> {
    /// Writes a value after the present one; says whether it differs.
    pub fn write(&mut self, value: T, peer: PeerId) -> bool {
        if self.value == value {
            return false;
        }
        self.version = self.version.next(peer);
        self.value = value;
        true
    }
}

impl<T: Clone> Lattice for Register<T> {
    fn join(&mut self, other: &Self) -> bool {
        let newer = other.version > self.version;
        if newer {
            *self = other.clone();
        }
        newer
    }
}

/// A replicated map.
#[derive(Clone, Debug)]
pub struct Map<K, V> {
    entries: BTreeMap<K, V>,
    sums: Vec<u128>,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Map<K, V> {
        Map { entries: BTreeMap::new(), sums: vec![0; RANGES] }
    }
}

impl<K: Ord + Clone + Serialize, V: Lattice + Serialize> Map<K, V> {
    /// Joins a value into the map; says whether anything was new.
    pub fn join(&mut self, key: &K, value: &V) -> bool {
        match self.entries.get_mut(key) {
            None => {
                self.entries.insert(key.clone(), value.clone());
                self.add_sum(key, value);
                true
            }
            Some(known) => {
                let before = entry_sum(key, known);
                let changed = known.join(value);
                if changed {
                    let after = entry_sum(key, known);
                    let sum = &mut self.sums[range_of(key)];
                    *sum = sum.wrapping_sub(before).wrapping_add(after);
                }
                changed
            }
        }
    }

    /// Changes a value in place, or a new one.
    pub fn update(&mut self, key: &K, new: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> bool) -> bool {
        let mut value = self.entries.get(key).cloned().unwrap_or_else(new);
        let is_new = !self.entries.contains_key(key);
        let changed = change(&mut value) || is_new;
        if changed {
            self.remove(key);
            self.add_sum(key, &value);
            self.entries.insert(key.clone(), value);
        }
        changed
    }

    fn add_sum(&mut self, key: &K, value: &V) {
        let sum = &mut self.sums[range_of(key)];
        *sum = sum.wrapping_add(entry_sum(key, value));
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// All of it, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    /// What follows a key, in key order; all of it without one.
    pub fn after(&self, key: Option<&K>) -> impl Iterator<Item = (&K, &V)> {
        let begin = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((begin, Bound::Unbounded))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets an entry, which must be one that nobody will write again.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.remove(key)?;
        let sum = &mut self.sums[range_of(key)];
        *sum = sum.wrapping_sub(entry_sum(key, &value));
        Some(value)
    }

    /// One sum for each range of keys; equal maps have equal sums.
    pub fn sums(&self) -> &[u128] {
        &self.sums
    }

    /// One sum over all.
    pub fn root(&self) -> u64 {
        let mut bytes = Vec::with_capacity(RANGES * 16);
        for sum in &self.sums {
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        xxh3_64(&bytes)
    }

    /// The entries of the ranges in which another's sums differ.
    pub fn differing<'a>(&'a self, sums: &'a [u128]) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.entries.iter().filter(move |(key, _)| {
            let range = range_of(*key);
            sums.get(range).is_none_or(|sum| *sum != self.sums[range])
        })
    }
}

fn range_of<K: Serialize>(key: &K) -> usize {
    (xxh3_64(&codec::encode(key)) % RANGES as u64) as usize
}

fn entry_sum<K: Serialize, V: Serialize>(key: &K, value: &V) -> u128 {
    xxh3_128(&codec::encode(&(key, value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Writes = Vec<(u8, u64, u128, u8)>;

    fn map(writes: &Writes) -> Map<u8, Register<u8>> {
        let mut map = Map::default();
        for (key, counter, peer, value) in writes {
            // One peer writes one value at one version.
            let value = value.wrapping_mul(0).wrapping_add((*counter as u8) ^ (*peer as u8));
            let version = Version { counter: *counter, peer: WrittenBy(*peer) };
            map.join(key, &Register { version, value });
        }
        map
    }

    fn content(map: &Map<u8, Register<u8>>) -> Vec<(u8, Register<u8>)> {
        map.iter().map(|(key, value)| (*key, value.clone())).collect()
    }

    fn merged(a: &Map<u8, Register<u8>>, b: &Map<u8, Register<u8>>) -> Map<u8, Register<u8>> {
        let mut all = a.clone();
        for (key, value) in b.iter() {
            all.join(key, value);
        }
        all
    }

    fn writes() -> impl Strategy<Value = Writes> {
        prop::collection::vec((0u8..6, 0u64..4, 0u128..3, any::<u8>()), 0..20)
    }

    proptest! {
        #[test]
        fn merging_commutes_associates_and_repeats_without_effect(a in writes(), b in writes(), c in writes()) {
            let (a, b, c) = (map(&a), map(&b), map(&c));
            let ab = merged(&a, &b);
            prop_assert_eq!(content(&ab), content(&merged(&b, &a)));
            prop_assert_eq!(content(&merged(&ab, &c)), content(&merged(&a, &merged(&b, &c))));
            prop_assert_eq!(content(&merged(&ab, &b)), content(&ab));
            prop_assert_eq!(ab.root(), merged(&b, &a).root());
        }

        #[test]
        fn exchanging_differing_ranges_makes_maps_alike(a in writes(), b in writes()) {
            let (mut a, mut b) = (map(&a), map(&b));
            let (sums_a, sums_b) = (a.sums().to_vec(), b.sums().to_vec());
            let from_a: Vec<_> = a.differing(&sums_b).map(|(k, v)| (*k, v.clone())).collect();
            let from_b: Vec<_> = b.differing(&sums_a).map(|(k, v)| (*k, v.clone())).collect();
            for (key, value) in &from_b { a.join(key, value); }
            for (key, value) in &from_a { b.join(key, value); }
            prop_assert_eq!(content(&a), content(&b));
            prop_assert_eq!(a.root(), b.root());
        }

        #[test]
        fn sums_follow_every_change(writes in writes(), gone in 0u8..6) {
            let mut map = map(&writes);
            map.remove(&gone);
            let mut again = Map::default();
            for (key, value) in map.iter() { again.join(key, value); }
            prop_assert_eq!(map.sums(), again.sums());
        }
    }
}
