//! Which batch stands for a slot, when more than one was written.
//!
//! Two writers can both be right to scrape: one was cut off, or judged silent a moment too early. Every holder keeps the
//! batch with the smaller [`Order`] and none keeps both. A source's newest slot is *open*: its batch may still be
//! replaced. It closes when a later slot of the source arrives, or after two intervals; then a second batch for a filled
//! slot is acknowledged and leaves no sample, and a first batch for an empty one takes the late path.

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;
use promesh_model::{ShardId, Timestamp};

use crate::framing::{BatchHeader, Order, SourceId};

/// Closed slots remembered a source: enough for a catch-up to overlap what is here, few enough to forget.
const CLOSED_SLOTS_MAX: usize = 8;

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The newest slot so far: append.
    Append,
    /// A better batch for the open slot: the samples of the one named go, these come in.
    Replace(Order),
    /// Here already, or the slot is filled better: keep the bytes as a base, add no sample.
    Ignore,
    /// An older slot that is empty: the late path decides sample by sample.
    Late,
}

#[derive(Clone, Debug)]
struct Entry {
    newest: Timestamp,
    order: Order,
    /// Earlier slots with the batch that filled them.
    closed: BTreeMap<Timestamp, Order>,
}

/// The newest slots of every (source, shard).
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: HashMap<(SourceId, ShardId), Entry>,
    /// The shards of each source, in the order in which they came.
    shards: HashMap<SourceId, Vec<ShardId>>,
    split_slots: u64,
}

impl Ledger {
    /// Nothing seen yet.
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// Decides what to do with a batch and takes note of it.
    pub fn admit(&mut self, header: &BatchHeader) -> Disposition {
        let key = (header.source, header.shard);
        let Some(entry) = self.entries.get_mut(&key) else {
            let entry = Entry { newest: header.slot, order: header.order, closed: BTreeMap::new() };
            self.entries.insert(key, entry);
            self.shards.entry(header.source).or_default().push(header.shard);
            return Disposition::Append;
        };
        if header.slot > entry.newest {
            entry.closed.insert(entry.newest, entry.order);
            if entry.closed.len() > CLOSED_SLOTS_MAX {
                entry.closed.pop_first();
            }
            entry.newest = header.slot;
            entry.order = header.order;
            return Disposition::Append;
        }
        if header.slot == entry.newest {
            return match header.order.cmp(&entry.order) {
                std::cmp::Ordering::Equal => Disposition::Ignore,
                std::cmp::Ordering::Greater => {
                    self.split_slots += 1;
                    Disposition::Ignore
                }
                std::cmp::Ordering::Less => {
                    self.split_slots += 1;
                    Disposition::Replace(std::mem::replace(&mut entry.order, header.order))
                }
            };
        }
        let forgotten = entry.closed.len() == CLOSED_SLOTS_MAX
            && entry.closed.first_key_value().is_some_and(|(oldest, _)| header.slot < *oldest);
        match entry.closed.get(&header.slot) {
            Some(order) => {
                if *order != header.order {
                    self.split_slots += 1;
                }
                Disposition::Ignore
            }
            None => {
                if !forgotten {
                    entry.closed.insert(header.slot, header.order);
                }
                Disposition::Late
            }
        }
    }

    /// The newest slot of a source's own shard and who wrote it.
    pub fn newest(&self, source: SourceId, shard: ShardId) -> Option<(Timestamp, Order)> {
        self.entries.get(&(source, shard)).map(|entry| (entry.newest, entry.order))
    }

    /// The shards in which a source has had batches: its own, and others if its series name another job or instance.
    pub fn shards(&self, source: SourceId) -> &[ShardId] {
        self.shards.get(&source).map_or(&[], Vec::as_slice)
    }

    /// Slots for which a second batch came from another writer, since the start.
    pub fn split_slots(&self) -> u64 {
        self.split_slots
    }

    /// Forgets sources whose newest slot is older than `span` before `now`.
    pub fn forget_idle(&mut self, now: Timestamp, span: Duration) {
        self.entries.retain(|_, entry| now.since(entry.newest) <= span);
        let entries = &self.entries;
        self.shards.retain(|source, shards| {
            shards.retain(|shard| entries.contains_key(&(*source, *shard)));
            !shards.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use promesh_model::{Generation, PeerId};
    use proptest::prelude::*;

    use super::*;
    use crate::framing::Origin;

    fn header(slot: i64, rank: u8, writer: u128) -> BatchHeader {
        let origin = Origin { writer: PeerId(writer), generation: Generation(1) };
        let order = Order { failed: false, rank, origin };
        BatchHeader { source: SourceId(1), shard: ShardId(2), slot: Timestamp(slot), order, sequence: 1 }
    }

    #[test]
    fn the_lower_rank_stands_whatever_came_first() {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.admit(&header(5, 1, 8)), Disposition::Append);
        assert_eq!(ledger.admit(&header(5, 0, 9)), Disposition::Replace(header(5, 1, 8).order));
        assert_eq!(ledger.admit(&header(5, 1, 8)), Disposition::Ignore);
        assert_eq!(ledger.admit(&header(6, 1, 8)), Disposition::Append);
        assert_eq!(ledger.admit(&header(5, 0, 7)), Disposition::Ignore);
        assert_eq!(ledger.admit(&header(4, 0, 7)), Disposition::Late);
        assert_eq!(ledger.admit(&header(4, 0, 7)), Disposition::Ignore);
        assert_eq!(ledger.split_slots(), 3);
    }

    #[test]
    fn the_shards_of_a_source_are_known_until_they_are_idle() {
        let mut ledger = Ledger::new();
        let at = |slot: i64, shard: u16| BatchHeader { shard: ShardId(shard), ..header(slot, 0, 1) };
        for (slot, shard) in [(5_000, 2), (5_000, 7), (6_000, 2), (9_000, 2)] {
            ledger.admit(&at(slot, shard));
        }
        assert_eq!(ledger.shards(SourceId(1)), [ShardId(2), ShardId(7)]);
        assert!(ledger.shards(SourceId(9)).is_empty());
        ledger.forget_idle(Timestamp(10_000), Duration::from_secs(2));
        assert_eq!(ledger.shards(SourceId(1)), [ShardId(2)]);
        ledger.forget_idle(Timestamp(20_000), Duration::from_secs(2));
        assert!(ledger.shards(SourceId(1)).is_empty());
    }

    proptest! {
        /// Two holders that get the same batches of one slot in any order keep the same one.
        #[test]
        fn holders_agree(ranks in prop::collection::vec((0u8..3, 1u128..4), 1..6), seed in any::<u64>()) {
            let mut other = ranks.clone();
            let count = other.len();
            for index in 0..count {
                other.swap(index, (seed as usize).wrapping_mul(index + 7) % count);
            }
            let kept = |ranks: &[(u8, u128)]| {
                let mut ledger = Ledger::new();
                for &(rank, writer) in ranks {
                    ledger.admit(&header(5, rank, writer));
                }
                ledger.newest(SourceId(1), ShardId(2))
            };
            prop_assert_eq!(kept(&ranks), kept(&other));
        }
    }
}
