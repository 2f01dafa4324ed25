//! When each source is due: slots, alike on every peer.
//!
//! A source's slots are `phase + n · interval`; the phase is a hash of the source, so that load is spread and two peers
//! agree without talking. A slot can be stamped while its scrape begins within half an interval, 7.5 s at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use hashbrown::HashMap;
use promesh_cluster::PieceId;
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
    /// The piece of the configuration it comes from: only a peer with the version that stands starts its slots.
    pub piece: PieceId,
    /// Started by this peer whoever owns the shard: the source is this peer's own, and no other has it.
    pub pinned: bool,
}

impl SourceSpec {
    fn phase_ms(&self) -> i64 {
        (self.source.0 % self.interval_ms.max(1) as u128) as i64
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

/// The sources of a mesh and their next slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    entries: HashMap<SourceId, Entry>,
    by_shard: BTreeMap<ShardId, Vec<SourceId>>,
    due: BinaryHeap<Reverse<(Timestamp, SourceId)>>,
    has_pinned: bool,
}

impl Schedule {
    /// Makes the sources these. Known ones keep what is known of them, a slot that is due this very moment too; slots of
    /// new ones begin after `now`.
    pub(crate) fn set_sources(&mut self, specs: &[SourceSpec], now: Timestamp) {
        let mut entries = HashMap::with_capacity(specs.len());
        self.by_shard.clear();
        self.due.clear();
        for spec in specs {
            let known = self.entries.get(&spec.source);
            let (newest, since) = known.map_or((Timestamp::MIN, now), |known| (known.newest, known.since));
            let next = Timestamp(spec.slot_at(now).ms() + spec.interval_ms.max(1));
            let queued = known.filter(|known| known.spec == *spec).map_or(next, |known| known.queued);
            if entries.insert(spec.source, Entry { spec: *spec, newest, since, queued }).is_none() {
                self.by_shard.entry(spec.shard).or_default().push(spec.source);
                self.due.push(Reverse((queued, spec.source)));
            }
        }
        self.entries = entries;
        self.has_pinned = specs.iter().any(|spec| spec.pinned);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
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

    /// The newest slots of a shard's sources that nobody is known to have started and that can still be stamped.
    pub(crate) fn unstarted(&self, shard: ShardId, now: Timestamp) -> Vec<(SourceSpec, Timestamp)> {
        let sources = self.by_shard.get(&shard).map_or(&[][..], Vec::as_slice);
        sources.iter().filter_map(|source| self.entries.get(source)?.unstarted(now)).collect()
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
        let of = self.by_shard.iter().filter(|(shard, _)| in_shard(**shard)).flat_map(|(_, sources)| sources);
        of.filter_map(|source| self.entries.get(source)).filter(|entry| entry.is_overdue(now)).count()
    }

    /// How many sources lie in shards that satisfy a condition.
    pub(crate) fn count(&self, in_shard: impl Fn(ShardId) -> bool) -> usize {
        self.by_shard.iter().filter(|(shard, _)| in_shard(**shard)).map(|(_, sources)| sources.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: u128, interval_ms: i64) -> SourceSpec {
        let (source, shard) = (SourceId(source), ShardId(1));
        SourceSpec { source, shard, interval_ms, piece: PieceId::default(), pinned: false }
    }

    #[test]
    fn each_slot_is_due_once_and_at_its_phase() {
        let mut schedule = Schedule::default();
        schedule.set_sources(&[spec(1300, 1000)], Timestamp(10_000));
        assert_eq!(schedule.next(), Some(Timestamp(10_300)));
        assert!(schedule.take_due(Timestamp(10_299)).is_empty());
        assert_eq!(schedule.take_due(Timestamp(10_310)), [(spec(1300, 1000), Timestamp(10_300))]);
        assert!(schedule.take_due(Timestamp(10_320)).is_empty());
        assert_eq!(schedule.next(), Some(Timestamp(11_300)));
    }

    #[test]
    fn a_slot_too_late_to_stamp_is_missed_and_the_next_is_not() {
        let mut schedule = Schedule::default();
        schedule.set_sources(&[spec(0, 1000)], Timestamp(0));
        assert!(schedule.take_due(Timestamp(1_600)).is_empty());
        assert_eq!(schedule.take_due(Timestamp(2_000)), [(spec(0, 1000), Timestamp(2_000))]);
    }

    #[test]
    fn a_source_without_a_batch_for_two_slots_is_unscraped() {
        let mut schedule = Schedule::default();
        schedule.set_sources(&[spec(0, 5000)], Timestamp(0));
        let unscraped = |schedule: &Schedule, at| schedule.unscraped(|_| true, Timestamp(at));
        assert_eq!((unscraped(&schedule, 12_500), unscraped(&schedule, 12_501)), (0, 1));
        schedule.note(SourceId(0), Timestamp(10_000));
        assert_eq!((unscraped(&schedule, 12_501), unscraped(&schedule, 22_501)), (0, 1));
        assert_eq!(schedule.unscraped(|_| false, Timestamp(99_000)), 0);
    }

    #[test]
    fn new_sources_do_not_swallow_the_slot_that_is_due() {
        let mut schedule = Schedule::default();
        schedule.set_sources(&[spec(0, 1000)], Timestamp(0));
        schedule.set_sources(&[spec(0, 1000), spec(500, 1000)], Timestamp(1_002));
        assert_eq!(schedule.take_due(Timestamp(1_003)), [(spec(0, 1000), Timestamp(1_000))]);
        // Another interval is another schedule.
        schedule.set_sources(&[spec(0, 700)], Timestamp(1_004));
        assert_eq!(schedule.next(), Some(Timestamp(1_400)));
    }

    #[test]
    fn a_successor_starts_what_nobody_started() {
        let mut schedule = Schedule::default();
        schedule.set_sources(&[spec(0, 5000)], Timestamp(0));
        schedule.take_due(Timestamp(5_000));
        assert_eq!(schedule.unstarted(ShardId(1), Timestamp(6_000)), [(spec(0, 5000), Timestamp(5_000))]);
        schedule.note(SourceId(0), Timestamp(5_000));
        assert!(schedule.unstarted(ShardId(1), Timestamp(6_000)).is_empty());
        assert!(schedule.unstarted(ShardId(1), Timestamp(9_000)).is_empty());
    }
}
