//! When each source is due: slots, alike on every peer.
//!
//! A source's slots are `phase + n · interval`; the phase is a hash of the source, so that load is spread and two peers
//! agree without talking, or follows from the configuration. A slot can be stamped while its scrape begins within half an interval, 7.5 s at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use promesh_cluster::PieceId;
use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use promesh_replication::SourceId;

/// A scrape begun later than this after its slot is not stamped with it.
const STAMP_MS_MAX: i64 = 7_500;

/// What the schedule needs to know of a target or a rule group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Its identity, alike on all peers.
    pub source: SourceId,
    /// The shard of its final labels.
    pub shard: ShardId,
    /// The time between slots in ms, at least 1.
    pub interval_ms: i64,
    /// Where in the interval its slots lie, in ms, alike on all peers; by a hash of the source if `None`.
    pub phase_ms: Option<i64>,
    /// The piece of the configuration it comes from: only a peer with the version that stands starts its slots.
    pub piece: PieceId,
    /// Started by this peer whoever owns the shard: the source is this peer's own, and no other has it.
    pub pinned: bool,
}

impl SourceSpec {
    fn phase_ms(&self) -> i64 {
        let interval = self.interval_ms.max(1);
        self.phase_ms.map_or((self.source.0 % interval as u128) as i64, |phase| phase.rem_euclid(interval))
    }

    /// The newest slot at or before an instant.
    pub fn slot_at(&self, at: Timestamp) -> Timestamp {
        let interval = self.interval_ms.max(1);
        let phase = self.phase_ms();
        Timestamp((at.ms() - phase).div_euclid(interval) * interval + phase)
    }

    /// How long after its slot a scrape may begin, in ms.
    pub fn stamp_ms(&self) -> i64 {
        (self.interval_ms / 2).min(STAMP_MS_MAX)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    spec: SourceSpec,
    /// The newest slot that this peer started or whose batch is here.
    newest: Timestamp,
    /// Since when it is known here.
    since: Timestamp,
    /// The slot in the heap; an older one found there is outdated.
    queued: Timestamp,
}

impl Entry {
    /// Whether two slots passed, and the time in which the second could be begun, and are not here.
    fn is_overdue(&self, now: Timestamp) -> bool {
        let known = self.newest.max(self.since).ms();
        now.ms() - known > 2 * self.spec.interval_ms + self.spec.stamp_ms()
    }

    /// The newest slot, if nobody is known to have started it and it can still be stamped.
    fn unstarted(&self, now: Timestamp) -> Option<(SourceSpec, Timestamp)> {
        let slot = self.spec.slot_at(now);
        let stampable = now.ms() - slot.ms() <= self.spec.stamp_ms();
        (slot > self.newest && stampable && !self.spec.pinned).then_some((self.spec, slot))
    }
}

/// All sources of a configuration, by shard: every peer knows them, and keeps an eye on those that concern it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceCatalog {
    by_shard: BTreeMap<ShardId, Vec<SourceSpec>>,
    /// Those that every peer starts, wherever they lie.
    pinned: Vec<SourceSpec>,
    count: usize,
}

impl FromIterator<SourceSpec> for SourceCatalog {
    /// Of two sources with one identity the first counts.
    fn from_iter<I: IntoIterator<Item = SourceSpec>>(specs: I) -> SourceCatalog {
        let mut catalog = SourceCatalog::default();
        let mut seen = HashSet::new();
        for spec in specs {
            if seen.insert(spec.source) {
                catalog.by_shard.entry(spec.shard).or_default().push(spec);
                catalog.count += 1;
                catalog.pinned.extend(spec.pinned.then_some(spec));
            }
        }
        catalog
    }
}

impl SourceCatalog {
    fn of(&self, shard: ShardId) -> &[SourceSpec] {
        self.by_shard.get(&shard).map_or(&[], Vec::as_slice)
    }

    fn within<'s>(&'s self, shards: &'s ShardSet) -> impl Iterator<Item = &'s SourceSpec> {
        self.by_shard.iter().filter(|(shard, _)| shards.contains(**shard)).flat_map(|(_, specs)| specs)
    }
}

/// The sources of a mesh and their next slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    catalog: Arc<SourceCatalog>,
    /// The shards whose sources have entries.
    tracked: ShardSet,
    entries: HashMap<SourceId, Entry>,
    due: BinaryHeap<Reverse<(Timestamp, SourceId)>>,
    has_pinned: bool,
}

impl Schedule {
    /// Makes the sources these. Known ones keep what is known of them, a slot that is due this very moment too; slots of
    /// new ones begin after `now`.
    pub(crate) fn set_sources(&mut self, catalog: Arc<SourceCatalog>, now: Timestamp) {
        let before = std::mem::take(&mut self.entries);
        self.catalog = catalog;
        self.due.clear();
        let (catalog, tracked) = (Arc::clone(&self.catalog), self.tracked.clone());
        for spec in catalog.within(&tracked).chain(&catalog.pinned) {
            self.add(spec, before.get(&spec.source), now);
        }
        self.has_pinned = !catalog.pinned.is_empty();
    }

    /// Keeps an eye on the sources of these shards, and of no others.
    pub(crate) fn track(&mut self, shards: ShardSet, now: Timestamp) {
        if self.tracked == shards {
            return;
        }
        let (catalog, before) = (Arc::clone(&self.catalog), std::mem::replace(&mut self.tracked, shards));
        for spec in catalog.within(&before.difference(&self.tracked)) {
            // Its slot in the heap is found outdated when it comes.
            if !spec.pinned {
                self.entries.remove(&spec.source);
            }
        }
        for spec in catalog.within(&self.tracked.difference(&before)) {
            if !spec.pinned {
                self.add(spec, None, now);
            }
        }
    }

    fn add(&mut self, spec: &SourceSpec, known: Option<&Entry>, now: Timestamp) {
        let (newest, since) = known.map_or((Timestamp::MIN, now), |known| (known.newest, known.since));
        let next = Timestamp(spec.slot_at(now).ms() + spec.interval_ms.max(1));
        let queued = known.filter(|known| known.spec == *spec).map_or(next, |known| known.queued);
        self.entries.insert(spec.source, Entry { spec: *spec, newest, since, queued });
        self.due.push(Reverse((queued, spec.source)));
    }

    pub(crate) fn len(&self) -> usize {
        self.catalog.count
    }

    /// Takes note that a slot was started here, or that its batch is here.
    pub(crate) fn note(&mut self, source: SourceId, slot: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.newest = entry.newest.max(slot);
        }
    }

    /// Whether any source is this peer's own.
    pub(crate) fn has_pinned(&self) -> bool {
        self.has_pinned
    }

    /// The next slot of any source.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.due.peek().map(|Reverse((slot, _))| *slot)
    }

    /// Takes the slots that are due, at most one a source: the newest that can still be stamped.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Vec<(SourceSpec, Timestamp)> {
        let mut taken = Vec::new();
        while let Some(&Reverse((slot, source))) = self.due.peek() {
            if slot > now {
                break;
            }
            self.due.pop();
            let Some(entry) = self.entries.get_mut(&source).filter(|entry| entry.queued == slot) else { continue };
            let spec = entry.spec;
            let newest = spec.slot_at(now);
            entry.queued = Timestamp(newest.ms() + spec.interval_ms.max(1));
            self.due.push(Reverse((entry.queued, source)));
            if newest > entry.newest && now.ms() - newest.ms() <= spec.stamp_ms() {
                taken.push((spec, newest));
            }
        }
        taken
    }

    /// The clock was set back: slots that it has passed once, and for which no batch is known, come again.
    pub(crate) fn rewind(&mut self, now: Timestamp) {
        for (source, entry) in &mut self.entries {
            let next = Timestamp(entry.spec.slot_at(now).ms() + entry.spec.interval_ms.max(1));
            if next < entry.queued {
                entry.queued = next;
                self.due.push(Reverse((next, *source)));
            }
        }
    }

    /// The newest slots of a shard's sources that nobody is known to have started and that can still be stamped.
    pub(crate) fn unstarted(&self, shard: ShardId, now: Timestamp) -> Vec<(SourceSpec, Timestamp)> {
        self.catalog.of(shard).iter().filter_map(|spec| self.entries.get(&spec.source)?.unstarted(now)).collect()
    }

    /// As [`Schedule::unstarted`], of sources whose piece satisfies a condition.
    pub(crate) fn unstarted_of(&self, piece: impl Fn(PieceId) -> bool, now: Timestamp) -> Vec<(SourceSpec, Timestamp)> {
        let of = self.entries.values().filter(|entry| piece(entry.spec.piece));
        let mut open: Vec<(SourceSpec, Timestamp)> = of.filter_map(|entry| entry.unstarted(now)).collect();
        open.sort_by_key(|(spec, _)| spec.source);
        open
    }

    /// Sources of some shards of which nothing was started here and no batch came for the last two slots.
    pub(crate) fn unscraped(&self, in_shard: impl Fn(ShardId) -> bool, now: Timestamp) -> usize {
        self.entries.values().filter(|entry| in_shard(entry.spec.shard) && entry.is_overdue(now)).count()
    }

    /// How many sources lie in shards that satisfy a condition.
    pub(crate) fn count(&self, in_shard: impl Fn(ShardId) -> bool) -> usize {
        self.catalog.by_shard.iter().filter(|(shard, _)| in_shard(**shard)).map(|(_, specs)| specs.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: u128, interval_ms: i64) -> SourceSpec {
        let (source, shard) = (SourceId(source), ShardId(1));
        SourceSpec { source, shard, interval_ms, phase_ms: None, piece: PieceId::default(), pinned: false }
    }

    fn over(spec: SourceSpec, now: i64) -> Schedule {
        let mut schedule = Schedule::default();
        schedule.track(ShardSet::all(), Timestamp(now));
        schedule.set_sources(Arc::new([spec].into_iter().collect()), Timestamp(now));
        schedule
    }

    #[test]
    fn each_slot_is_due_once_and_at_its_phase() {
        let mut schedule = over(spec(1300, 1000), 10_000);
        assert_eq!(schedule.next(), Some(Timestamp(10_300)));
        assert!(schedule.take_due(Timestamp(10_299)).is_empty());
        assert_eq!(schedule.take_due(Timestamp(10_310)), [(spec(1300, 1000), Timestamp(10_300))]);
        assert!(schedule.take_due(Timestamp(10_320)).is_empty());
        assert_eq!(schedule.next(), Some(Timestamp(11_300)));
    }

    #[test]
    fn a_clock_that_is_set_back_passes_its_slots_again_but_those_that_were_started() {
        let mut schedule = over(spec(1300, 1000), 10_000);
        assert_eq!(schedule.take_due(Timestamp(10_310)).len(), 1);
        schedule.note(SourceId(1300), Timestamp(10_300));
        assert_eq!(schedule.take_due(Timestamp(14_310)).len(), 1, "started by nobody: this peer does not own it");
        schedule.rewind(Timestamp(10_200));
        assert_eq!(schedule.next(), Some(Timestamp(10_300)));
        assert!(schedule.take_due(Timestamp(10_310)).is_empty());
        for slot in [11_300, 12_300, 13_300, 14_300, 15_300] {
            assert_eq!(schedule.take_due(Timestamp(slot + 5)), [(spec(1300, 1000), Timestamp(slot))]);
        }
    }

    #[test]
    fn a_slot_too_late_to_stamp_is_missed_and_the_next_is_not() {
        let mut schedule = over(spec(0, 1000), 0);
        assert!(schedule.take_due(Timestamp(1_600)).is_empty());
        assert_eq!(schedule.take_due(Timestamp(2_000)), [(spec(0, 1000), Timestamp(2_000))]);
    }

    #[test]
    fn what_does_not_concern_a_peer_is_known_and_not_scheduled() {
        let mut schedule = over(spec(0, 5000), 0);
        schedule.track(ShardSet::default(), Timestamp(1_000));
        assert!(schedule.take_due(Timestamp(5_000)).is_empty());
        assert_eq!((schedule.len(), schedule.count(|_| true)), (1, 1));
        schedule.track(ShardSet::all(), Timestamp(6_000));
        assert_eq!(schedule.take_due(Timestamp(10_000)).len(), 1, "once, also where an outdated slot lay in the heap");
    }

    #[test]
    fn a_source_without_a_batch_for_two_slots_is_unscraped() {
        let mut schedule = over(spec(0, 5000), 0);
        let unscraped = |schedule: &Schedule, at| schedule.unscraped(|_| true, Timestamp(at));
        assert_eq!((unscraped(&schedule, 12_500), unscraped(&schedule, 12_501)), (0, 1));
        schedule.note(SourceId(0), Timestamp(10_000));
        assert_eq!((unscraped(&schedule, 12_501), unscraped(&schedule, 22_501)), (0, 1));
        assert_eq!(schedule.unscraped(|_| false, Timestamp(99_000)), 0);
    }

    #[test]
    fn new_sources_do_not_swallow_the_slot_that_is_due() {
        let catalog = |specs: &[SourceSpec]| Arc::new(specs.iter().copied().collect());
        let mut schedule = over(spec(0, 1000), 0);
        schedule.set_sources(catalog(&[spec(0, 1000), spec(500, 1000)]), Timestamp(1_002));
        assert_eq!(schedule.take_due(Timestamp(1_003)), [(spec(0, 1000), Timestamp(1_000))]);
        // Another interval is another schedule.
        schedule.set_sources(catalog(&[spec(0, 700)]), Timestamp(1_004));
        assert_eq!(schedule.next(), Some(Timestamp(1_400)));
    }

    #[test]
    fn a_successor_starts_what_nobody_started() {
        let mut schedule = over(spec(0, 5000), 0);
        schedule.take_due(Timestamp(5_000));
        assert_eq!(schedule.unstarted(ShardId(1), Timestamp(6_000)), [(spec(0, 5000), Timestamp(5_000))]);
        schedule.note(SourceId(0), Timestamp(5_000));
        assert!(schedule.unstarted(ShardId(1), Timestamp(6_000)).is_empty());
        assert!(schedule.unstarted(ShardId(1), Timestamp(9_000)).is_empty());
    }
}
