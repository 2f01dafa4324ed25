//! Which batch stands for a slot, when more than one was written.
//!
//! Two writers can both be right to scrape: one was cut off, or judged silent a moment too early. Every holder keeps the
//! batch with the smaller [`Order`] and none keeps both, whichever came first and whichever way it came: of the slots of
//! the last minute it is remembered who filled them, and a better batch takes the place of a worse one. A batch for an
//! older slot takes the late path, where the values decide.

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;
use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::framing::{BatchHeader, Order, SourceId};

/// Slots before the newest that are remembered whatever their age: enough for a catch-up to overlap what is here.
const CLOSED_SLOTS_MIN: usize = 8;
/// Slots that are not older than the newest by more than this are remembered: a peer that stood still, or was cut off,
/// for less is no reason for holders to differ.
const CLOSED_SPAN: Duration = Duration::from_secs(60);
/// More are not remembered, however short the interval.
const CLOSED_SLOTS_MAX: usize = 64;

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The newest slot so far: append.
    Append,
    /// A better batch for a slot that is filled: the samples of the one named go, these come in.
    Replace(Order),
    /// Here already, or the slot is filled better: keep the bytes as a base, add no sample.
    Ignore,
    /// An older slot that is empty: the late path decides sample by sample.
    Late,
}

/// How a batch that somebody else kept compares with what is known here of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known of the slot: it is empty, older than what is remembered, or of a source that is not known.
    Unknown,
    /// It is the one that stands here.
    Same,
    /// It stands, and not the one that is here.
    Better,
    /// The one that is here stands.
    Worse,
}

/// The remembered slots of one source in one shard, for whoever copies them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOrders {
    /// What produced the batches.
    pub source: SourceId,
    /// The shard of their series.
    pub shard: ShardId,
    /// Each slot with the batch that stands for it, oldest first; at most [`SlotOrders::SLOTS_MAX`].
    pub slots: Vec<(Timestamp, Order)>,
}

impl SlotOrders {
    /// No ledger remembers more of one source.
    pub const SLOTS_MAX: usize = CLOSED_SLOTS_MAX + 1;
}

#[derive(Clone, Debug)]
struct Entry {
    newest: Timestamp,
    order: Order,
    /// Earlier slots with the batch that filled them.
    closed: BTreeMap<Timestamp, Order>,
}

impl Entry {
    fn get(&self, slot: Timestamp) -> Option<Order> {
        if slot == self.newest { Some(self.order) } else { self.closed.get(&slot).copied() }
    }

    /// Notes who fills a slot, and forgets the slots that are too old by now. What would be forgotten at once is not
    /// remembered.
    fn fill(&mut self, slot: Timestamp, order: Order) {
        if slot == self.newest {
            self.order = order;
            return;
        }
        if slot < self.newest {
            self.closed.insert(slot, order);
        } else {
            self.closed.insert(self.newest, self.order);
            (self.newest, self.order) = (slot, order);
        }
        let floor = self.newest.before(CLOSED_SPAN);
        while self.closed.len() > CLOSED_SLOTS_MIN
            && (self.closed.len() > CLOSED_SLOTS_MAX || self.closed.keys().next().is_some_and(|oldest| *oldest < floor))
        {
            self.closed.pop_first();
        }
    }
}

/// The newest slots of every (source, shard).
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: HashMap<(SourceId, ShardId), Entry>,
    /// The shards of each source, in the order in which they came.
    shards: HashMap<SourceId, Vec<ShardId>>,
    split_slots: u64,
    late: u64,
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
        let Some(known) = entry.get(header.slot) else {
            let newest = header.slot > entry.newest;
            entry.fill(header.slot, header.order);
            self.late += u64::from(!newest);
            return if newest { Disposition::Append } else { Disposition::Late };
        };
        match header.order.cmp(&known) {
            std::cmp::Ordering::Equal => Disposition::Ignore,
            std::cmp::Ordering::Greater => {
                self.split_slots += 1;
                Disposition::Ignore
            }
            std::cmp::Ordering::Less => {
                self.split_slots += 1;
                entry.fill(header.slot, header.order);
                Disposition::Replace(known)
            }
        }
    }

    /// Takes back what was noted of a batch that was admitted and could not be stored: its slot is as it was before.
    pub fn withdraw(&mut self, header: &BatchHeader, disposition: Disposition) {
        let key = (header.source, header.shard);
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.get(header.slot) == Some(header.order))
        else {
            return;
        };
        match disposition {
            Disposition::Ignore => {}
            Disposition::Replace(loser) => entry.fill(header.slot, loser),
            Disposition::Late => drop(entry.closed.remove(&header.slot)),
            Disposition::Append => match entry.closed.pop_last() {
                Some((slot, order)) => (entry.newest, entry.order) = (slot, order),
                None => {
                    self.entries.remove(&key);
                    if let Some(shards) = self.shards.get_mut(&header.source) {
                        shards.retain(|shard| *shard != header.shard);
                    }
                }
            },
        }
    }

    /// How a batch that another holder has compares with what is here; nothing changes.
    pub fn compare(&self, source: SourceId, shard: ShardId, slot: Timestamp, order: Order) -> Standing {
        let known = self.entries.get(&(source, shard)).and_then(|entry| entry.get(slot));
        match known.map(|known| order.cmp(&known)) {
            None => Standing::Unknown,
            Some(std::cmp::Ordering::Equal) => Standing::Same,
            Some(std::cmp::Ordering::Less) => Standing::Better,
            Some(std::cmp::Ordering::Greater) => Standing::Worse,
        }
    }

    /// Takes note of who filled a slot whose samples came in a copy; what is known already stays.
    pub fn note_copied(&mut self, source: SourceId, shard: ShardId, slot: Timestamp, order: Order) {
        match self.entries.get_mut(&(source, shard)) {
            Some(entry) if entry.get(slot).is_some() => {}
            Some(entry) => entry.fill(slot, order),
            None => {
                self.entries.insert((source, shard), Entry { newest: slot, order, closed: BTreeMap::new() });
                self.shards.entry(source).or_default().push(shard);
            }
        }
    }

    /// What is remembered of the sources in some shards that had a slot at or after an instant, by source and shard.
    pub fn slot_orders(&self, shards: &ShardSet, since: Timestamp) -> Vec<SlotOrders> {
        let wanted = self.entries.iter().filter(|((_, shard), entry)| entry.newest >= since && shards.contains(*shard));
        let mut all: Vec<SlotOrders> = wanted
            .map(|((source, shard), entry)| {
                let closed = entry.closed.iter().map(|(slot, order)| (*slot, *order));
                let slots = closed.chain([(entry.newest, entry.order)]).collect();
                SlotOrders { source: *source, shard: *shard, slots }
            })
            .collect();
        all.sort_by_key(|orders| (orders.source, orders.shard));
        all
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

    /// Batches that came when a later slot of their source was here already, since the start.
    pub fn late_batches(&self) -> u64 {
        self.late
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
        assert_eq!(ledger.admit(&header(5, 1, 7)), Disposition::Ignore);
        assert_eq!(ledger.admit(&header(5, 0, 7)), Disposition::Replace(header(5, 0, 9).order));
        assert_eq!(ledger.admit(&header(4, 0, 7)), Disposition::Late);
        assert_eq!(ledger.admit(&header(4, 0, 7)), Disposition::Ignore);
        assert_eq!((ledger.split_slots(), ledger.late_batches()), (4, 1));
    }

    /// A peer whose disk was full held what it had not stored for stored, and refused the copy of it.
    #[test]
    fn a_batch_that_could_not_be_stored_leaves_its_slot_as_it_was() {
        let check = |before: &[BatchHeader], refused: BatchHeader| {
            let mut ledger = Ledger::new();
            for header in before {
                ledger.admit(header);
            }
            let (known, shards) =
                (ledger.entries.get(&(refused.source, refused.shard)).cloned(), ledger.shards.clone());
            let disposition = ledger.admit(&refused);
            ledger.withdraw(&refused, disposition);
            let now = ledger.entries.get(&(refused.source, refused.shard));
            let of = |entry: &Entry| (entry.newest, entry.order, entry.closed.clone());
            assert_eq!(now.map(of), known.as_ref().map(of), "{disposition:?}");
            assert_eq!(ledger.shards(refused.source), shards.get(&refused.source).map_or(&[][..], Vec::as_slice));
        };
        check(&[], header(5, 0, 9));
        check(&[header(5, 0, 9)], header(6, 0, 9));
        check(&[header(5, 1, 8), header(6, 1, 8)], header(5, 0, 9));
        check(&[header(5, 1, 8), header(6, 1, 8)], header(6, 0, 9));
        check(&[header(5, 0, 9), header(7, 0, 9)], header(6, 0, 9));
        check(&[header(5, 0, 9)], header(5, 1, 8));
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

    #[test]
    fn slots_of_the_last_minute_are_remembered_and_the_last_eight_always() {
        let (mut by_second, mut by_minute) = (Ledger::new(), Ledger::new());
        for number in 0..200 {
            by_second.admit(&header(number * 1_000, 0, 1));
            by_minute.admit(&header(number * 60_000, 0, 1));
        }
        let slots = |ledger: &Ledger| {
            let known = ledger.slot_orders(&ShardSet::all(), Timestamp::MIN);
            assert_eq!(known.len(), 1);
            (known[0].slots.len(), known[0].slots[0].0)
        };
        assert_eq!(slots(&by_second), (61, Timestamp(139_000)));
        assert_eq!(slots(&by_minute), (9, Timestamp(191 * 60_000)));
        let mut fast = Ledger::new();
        for number in 0..500 {
            fast.admit(&header(number * 100, 0, 1));
        }
        assert_eq!(slots(&fast).0, SlotOrders::SLOTS_MAX);
    }

    #[test]
    fn a_copy_says_whose_batches_it_has_and_what_is_known_here_stays() {
        let (source, shard) = (SourceId(1), ShardId(2));
        let mut ledger = Ledger::new();
        ledger.admit(&header(5, 1, 8));
        let stands =
            |ledger: &Ledger, slot, rank| ledger.compare(source, shard, Timestamp(slot), header(slot, rank, 8).order);
        assert_eq!([0, 1, 2].map(|rank| stands(&ledger, 5, rank)), [Standing::Better, Standing::Same, Standing::Worse]);
        assert_eq!(stands(&ledger, 4, 0), Standing::Unknown);
        ledger.note_copied(source, shard, Timestamp(4), header(4, 0, 9).order);
        ledger.note_copied(source, shard, Timestamp(5), header(5, 0, 9).order);
        assert_eq!(ledger.admit(&header(4, 1, 8)), Disposition::Ignore, "its samples are here");
        assert_eq!(ledger.newest(source, shard), Some((Timestamp(5), header(5, 1, 8).order)));
        ledger.note_copied(SourceId(7), shard, Timestamp(5), header(5, 0, 9).order);
        let known = ledger.slot_orders(&[shard].into_iter().collect(), Timestamp(5));
        assert_eq!(known.iter().map(|one| (one.source.0, one.slots.len())).collect::<Vec<_>>(), [(1, 2), (7, 1)]);
        assert!(ledger.slot_orders(&[ShardId(9)].into_iter().collect(), Timestamp(5)).is_empty());
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
