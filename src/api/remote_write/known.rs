//! Label sets that were pushed before, by the bytes they came in.
//!
//! A sender names the same series in every push, in the same bytes. Reading names and values, checking that they are
//! UTF-8, sorting and packing them costs more than everything else a sample costs; comparing a hash of 128 bits with
//! those of earlier pushes does not. Only valid sets are kept, so a known one needs no check.

use hashbrown::HashMap;
use parking_lot::Mutex;
use promesh_model::Labels;
use xxhash_rust::xxh3::xxh3_128;

/// How many sets a generation of one shard keeps. With all shards and both generations at most 262,144 sets, some
/// 50 MiB; a sender with more pays as if there were no cache.
const GENERATION_MAX: usize = 8_192;
const SHARDS: usize = 16;

/// The cache. What was asked for lately stays, the rest goes a generation at a time.
#[derive(Debug, Default)]
pub(crate) struct KnownLabels([Mutex<Generations>; SHARDS]);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u128, Labels>,
    old: HashMap<u128, Labels>,
}

/// What names a set of labels on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireKey(u128);

impl WireKey {
    /// Of the bytes of a series' labels.
    pub fn of(bytes: &[u8]) -> WireKey {
        WireKey(xxh3_128(bytes))
    }
}

impl KnownLabels {
    /// The set that came in these bytes before.
    pub fn get(&self, key: WireKey) -> Option<Labels> {
        let mut shard = self.0[key.0 as usize % SHARDS].lock();
        if let Some(labels) = shard.young.get(&key.0) {
            return Some(labels.clone());
        }
        let labels = shard.old.remove(&key.0)?;
        shard.keep(key, labels.clone());
        Some(labels)
    }

    /// Remembers a valid set.
    pub fn insert(&self, key: WireKey, labels: Labels) {
        self.0[key.0 as usize % SHARDS].lock().keep(key, labels);
    }
}

impl Generations {
    fn keep(&mut self, key: WireKey, labels: Labels) {
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.0, labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> Labels {
        Labels::from_pairs([("__name__", format!("m{number}"))])
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let known = KnownLabels::default();
        let key = |number: usize| WireKey::of(&number.to_le_bytes());
        for number in 0..SHARDS * GENERATION_MAX * 4 {
            known.insert(key(number), labels(number));
            if number % 1000 == 0 {
                assert_eq!(known.get(key(0)), Some(labels(0)));
            }
        }
        assert_eq!(known.get(key(1)), None);
        let count = |generations: &Generations| generations.young.len() + generations.old.len();
        let kept: usize = known.0.iter().map(|shard| count(&shard.lock())).sum();
        assert!(kept <= SHARDS * GENERATION_MAX * 2, "{kept}");
    }
}
