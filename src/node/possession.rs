//! What a peer holds whole, and since when: what reads are planned by.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

/// More spans than joins and deaths within any retention should leave; beyond, the oldest is no longer claimed.
const EXTENTS_MAX: usize = 256;
/// Starts remembered; more change nothing.
const STARTS_MAX: usize = 16;

/// Shards held whole over a span of sample time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First instant; `MIN` for "all there ever was".
    pub from: Timestamp,
    /// First instant no longer covered; `MAX` while live batches come in.
    pub to: Timestamp,
    /// Which shards.
    pub shards: ShardSet,
}

/// What a peer away may have that is not here: a claim holds but for that.
///
/// It is fetched as soon as that peer is heard. Debts outlive restarts, or a claim would become a lie by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Slots from here on.
    pub since: Timestamp,
    /// Of which shards.
    pub shards: ShardSet,
}

/// A peer's extents and what it owes to them. Few: they come from joins and deaths, not from samples.
///
/// Whoever keeps it across restarts keeps all of it. Both lists are shared by all who are told of them: copied for each
/// listener, those of a hundred peers that start together were gigabytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Possession {
    extents: Arc<Vec<Extent>>,
    debts: Arc<BTreeMap<PeerId, Debt>>,
    /// When each debt was known first, as far as this process remembers; one that was just added to is not among them.
    #[serde(skip)]
    noted: BTreeMap<PeerId, Timestamp>,
    /// When this peer was started, and not yet stopped in peace: how often it falls over.
    starts: Vec<Timestamp>,
}

impl Possession {
    /// From what a peer said, or from its own disk.
    pub fn of(extents: impl Into<Arc<Vec<Extent>>>) -> Possession {
        Possession { extents: extents.into(), ..Possession::default() }
    }

    /// As it is said to others.
    pub fn extents(&self) -> &Arc<Vec<Extent>> {
        &self.extents
    }

    fn extents_mut(&mut self) -> &mut Vec<Extent> {
        Arc::make_mut(&mut self.extents)
    }

    /// By peer, what it may have that is not here.
    pub fn debts(&self) -> &Arc<BTreeMap<PeerId, Debt>> {
        &self.debts
    }

    pub(crate) fn set_debts(&mut self, debts: Arc<BTreeMap<PeerId, Debt>>) {
        self.debts = debts;
    }

    /// A peer may have batches of these shards since an instant that are not here. Answers whether that was news.
    pub(crate) fn owe(&mut self, peer: PeerId, since: Timestamp, shards: &ShardSet) -> bool {
        if shards.is_empty() {
            return false;
        }
        self.noted.remove(&peer);
        if self.debts.get(&peer).is_some_and(|debt| debt.since <= since && shards.is_subset(&debt.shards)) {
            return false;
        }
        let debts = Arc::make_mut(&mut self.debts);
        let debt = debts.entry(peer).or_insert_with(|| Debt { since, shards: ShardSet::default() });
        debt.since = debt.since.min(since);
        debt.shards.insert_all(shards);
        true
    }

    /// What a peer had has been fetched.
    pub(crate) fn acquit(&mut self, peer: PeerId) {
        self.noted.remove(&peer);
        if self.debts.contains_key(&peer) {
            Arc::make_mut(&mut self.debts).remove(&peer);
        }
    }

    /// Forgets the debts that were all known before the instant that logs reach back to. How far back a debt goes says nothing
    /// of how new its newest batch is; a peer that is away still owes what it wrote last.
    pub(crate) fn write_off(&mut self, before: Timestamp, now: Timestamp) {
        for peer in self.debts.keys() {
            self.noted.entry(*peer).or_insert(now);
        }
        let old: Vec<PeerId> = self.noted.iter().filter(|(_, noted)| **noted < before).map(|(peer, _)| *peer).collect();
        old.into_iter().for_each(|peer| self.acquit(peer));
    }

    /// Takes note of a start; says how many there were since an instant, this one included.
    pub(crate) fn started(&mut self, at: Timestamp, since: Timestamp) -> usize {
        self.starts.retain(|start| (since..=at).contains(start));
        self.starts.push(at);
        let surplus = self.starts.len().saturating_sub(STARTS_MAX);
        self.starts.drain(..surplus);
        self.starts.len()
    }

    /// This peer was asked to stop and does: that is no fall.
    pub(crate) fn stopped_in_peace(&mut self) {
        self.starts.clear();
    }

    /// Since when some shards are here whole; `None` unless live batches of every one of them come in.
    ///
    /// What a donor of the open window answers with.
    pub fn whole_from(&self, shards: &ShardSet) -> Option<Timestamp> {
        let whole = shards.is_subset(&self.open_shards());
        let touching = self.open().filter(|extent| !extent.shards.is_disjoint(shards));
        touching.map(|extent| extent.from).max().filter(|_| whole)
    }

    /// Of some shards, those that are here whole since an instant and go on.
    pub(crate) fn whole_since(&self, shards: &ShardSet, since: Timestamp) -> ShardSet {
        let whole = self.open().filter(|extent| extent.from <= since && !extent.shards.is_disjoint(shards));
        whole.fold(ShardSet::default(), |all, extent| all.union(&extent.shards.intersection(shards)))
    }

    /// Shards whose live batches come in.
    pub fn open_shards(&self) -> ShardSet {
        self.open().fold(ShardSet::default(), |all, extent| all.union(&extent.shards))
    }

    fn open(&self) -> impl Iterator<Item = &Extent> {
        self.extents.iter().filter(|extent| extent.to == Timestamp::MAX)
    }

    /// Begins, or prolongs backwards, an open span.
    pub fn begin(&mut self, shards: &ShardSet, from: Timestamp) {
        let mut fresh = shards.clone();
        for extent in self.extents_mut().iter_mut().filter(|extent| extent.to == Timestamp::MAX) {
            if extent.from <= from {
                fresh = fresh.difference(&extent.shards);
            } else {
                extent.shards = extent.shards.difference(shards);
            }
        }
        match self.extents_mut().iter_mut().find(|extent| extent.to == Timestamp::MAX && extent.from == from) {
            Some(extent) => extent.shards = extent.shards.union(&fresh),
            None => self.extents_mut().push(Extent { from, to: Timestamp::MAX, shards: fresh }),
        }
        self.tidy();
    }

    /// Ends open spans: live batches of these shards no longer come in.
    pub fn end(&mut self, shards: &ShardSet, at: Timestamp) {
        let mut ended = Vec::new();
        for extent in self.extents_mut().iter_mut().filter(|extent| extent.to == Timestamp::MAX) {
            let leaving = extent.shards.intersection(shards);
            if !leaving.is_empty() {
                extent.shards = extent.shards.difference(&leaving);
                ended.push(Extent { from: extent.from, to: at, shards: leaving });
            }
        }
        self.extents_mut().extend(ended);
        self.tidy();
    }

    /// Opens again the spans that ended at or after `since`: what was missed in between has been fetched.
    pub fn resume(&mut self, shards: &ShardSet, since: Timestamp) {
        let mut resumed = Vec::new();
        for extent in self.extents_mut().iter_mut().filter(|extent| extent.to != Timestamp::MAX && extent.to >= since) {
            let back = extent.shards.intersection(shards);
            extent.shards = extent.shards.difference(&back);
            resumed.push((back, extent.from));
        }
        for (back, from) in resumed {
            self.begin(&back, from);
        }
        self.tidy();
    }

    /// Everything within `[from, to)` of some shards is here from now on: joined with the spans beside it.
    pub fn hold(&mut self, shards: &ShardSet, from: Timestamp, to: Timestamp) {
        let mut fresh = vec![Extent { from, to, shards: shards.clone() }];
        let mut joined = Vec::new();
        while let Some(mut one) = fresh.pop() {
            for extent in self.extents_mut().iter_mut().filter(|extent| extent.from <= one.to && extent.to >= one.from)
            {
                let both = extent.shards.intersection(&one.shards);
                if !both.is_empty() {
                    extent.shards.remove_all(&both);
                    one.shards.remove_all(&both);
                    let (from, to) = (extent.from.min(one.from), extent.to.max(one.to));
                    fresh.push(Extent { from, to, shards: both });
                }
            }
            joined.push(one);
        }
        self.extents_mut().extend(joined);
        self.tidy();
    }

    /// Nothing within `[from, to)` is here for certain any more: a block of it is damaged.
    pub fn lose(&mut self, from: Timestamp, to: Timestamp) {
        let mut rest = Vec::new();
        for extent in self.extents_mut().drain(..) {
            let Extent { from: begins, to: ends, shards } = extent;
            rest.push(Extent { from: begins, to: ends.min(from), shards: shards.clone() });
            if ends > to {
                // Of a span that has an end, what lies after the hole begins anew.
                rest.push(Extent { from: begins.max(to), to: ends, shards });
            }
        }
        *self.extents_mut() = rest;
        self.tidy();
    }

    /// Forgets what retention dropped.
    pub fn drop_before(&mut self, oldest: Timestamp) {
        self.extents_mut().retain(|extent| extent.to > oldest);
    }

    fn tidy(&mut self) {
        let extents = self.extents_mut();
        extents.retain(|extent| !extent.shards.is_empty() && extent.from < extent.to);
        extents.sort_by_key(|extent| (extent.from, extent.to));
        extents.dedup_by(|later, earlier| {
            let alike = (later.from, later.to) == (earlier.from, earlier.to);
            if alike {
                earlier.shards.insert_all(&later.shards);
            }
            alike
        });
        while extents.len() > EXTENTS_MAX {
            let oldest = (0..extents.len()).min_by_key(|&index| extents[index].to).expect("many");
            extents.remove(oldest);
        }
    }

    /// Whether one span covers `[start, end]` of a shard.
    pub fn covers(&self, shard: ShardId, start: Timestamp, end: Timestamp) -> bool {
        self.extents.iter().any(|extent| extent.from <= start && extent.to > end && extent.shards.contains(shard))
    }

    /// The shards of which one span covers `[start, end]`.
    pub fn covering(&self, start: Timestamp, end: Timestamp) -> ShardSet {
        let covering = self.extents.iter().filter(|extent| extent.from <= start && extent.to > end);
        covering.fold(ShardSet::default(), |all, extent| all.union(&extent.shards))
    }

    /// The shards of which one span covers `[start, end]` and goes on: what is pushed late for that time comes here too.
    pub fn covering_live(&self, start: Timestamp, end: Timestamp) -> ShardSet {
        let covering = self.open().filter(|extent| extent.from <= start && extent.to > end);
        covering.fold(ShardSet::default(), |all, extent| all.union(&extent.shards))
    }

    /// Of some shards, those of which anything within `[start, end]` is here.
    pub(crate) fn touching_of(&self, shards: &ShardSet, start: Timestamp, end: Timestamp) -> ShardSet {
        let touching = self.extents.iter().filter(|extent| extent.from <= end && extent.to > start);
        touching.fold(ShardSet::default(), |mut all, extent| {
            if !extent.shards.is_disjoint(shards) {
                all.insert_all(&extent.shards.intersection(shards));
            }
            all
        })
    }

    /// The shards of which anything within `[start, end]` is here.
    pub fn touching(&self, start: Timestamp, end: Timestamp) -> ShardSet {
        let touching = self.extents.iter().filter(|extent| extent.from <= end && extent.to > start);
        touching.fold(ShardSet::default(), |all, extent| all.union(&extent.shards))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(shards: &[u16]) -> ShardSet {
        shards.iter().map(|&shard| ShardId(shard)).collect()
    }

    #[test]
    fn a_debt_goes_when_all_of_it_was_known_before_logs_reach_back_to_and_not_for_what_is_old_in_it() {
        let (mut possession, peer, at) = (Possession::default(), PeerId(1), Timestamp);
        possession.owe(peer, at(5), &set(&[1]));
        possession.write_off(at(900), at(1000));
        assert!(possession.debts().contains_key(&peer), "it is as new as what that peer writes now");
        possession.owe(peer, at(1800), &set(&[1]));
        possession.write_off(at(1700), at(1900));
        assert!(possession.debts().contains_key(&peer), "it grew since");
        possession.write_off(at(1901), at(2900));
        assert!(possession.debts().is_empty());
    }

    #[test]
    fn spans_begin_end_and_resume() {
        let at = Timestamp;
        let mut possession = Possession::default();
        possession.begin(&set(&[1, 2]), at(10));
        possession.begin(&set(&[2, 3]), at(5));
        assert!(possession.covers(ShardId(2), at(5), at(99)));
        assert!(!possession.covers(ShardId(1), at(9), at(99)));
        assert_eq!(possession.open_shards().len(), 3);
        possession.end(&set(&[2]), at(50));
        assert!(possession.covers(ShardId(2), at(5), at(49)));
        assert!(!possession.covers(ShardId(2), at(5), at(50)));
        possession.resume(&set(&[2]), at(50));
        assert!(possession.covers(ShardId(2), at(5), at(99)));
        assert_eq!(possession.touching(at(0), at(7)).len(), 2);
        assert_eq!(possession.extents().len(), 2);
    }

    #[test]
    fn a_copied_span_joins_those_beside_it_and_a_damaged_one_parts_them() {
        let at = Timestamp;
        let mut possession = Possession::default();
        possession.begin(&set(&[1, 2]), at(10));
        possession.end(&set(&[1, 2]), at(40));
        possession.begin(&set(&[1, 3]), at(60));
        possession.hold(&set(&[1, 2, 3, 4]), at(40), at(60));
        let covers = |possession: &Possession, from, to| possession.covering(at(from), at(to));
        assert_eq!(covers(&possession, 10, 99), set(&[1]));
        assert_eq!(covers(&possession, 10, 59), set(&[1, 2]));
        assert_eq!(covers(&possession, 40, 99), set(&[1, 3]));
        assert_eq!(covers(&possession, 40, 59), set(&[1, 2, 3, 4]));
        assert_eq!(possession.open_shards(), set(&[1, 3]));
        possession.lose(at(20), at(50));
        assert_eq!(covers(&possession, 10, 19), set(&[1, 2]));
        assert_eq!(covers(&possession, 10, 20), set(&[]));
        assert_eq!(covers(&possession, 50, 59), set(&[1, 2, 3, 4]));
        assert_eq!(covers(&possession, 50, 99), set(&[1, 3]));
        possession.hold(&set(&[1]), at(20), at(50));
        assert_eq!(covers(&possession, 10, 99), set(&[1]));
    }
}
