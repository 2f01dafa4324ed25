//! What this peer should hold, what it does hold, and the copies under way between the two.
//!
//! A shard gained is subscribed to first (live batches from now on) and fetched second (what came before), so that the
//! two overlap. What this peer held until a moment ago is fetched as log from everybody, since nobody alone need have
//! it all; what it never held is copied as head chunks from one peer that holds it whole, then as log for the last
//! minute.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, Timestamp};

use crate::possession::Possession;

/// Logs reach back at least so far; a peer that was away for longer copies the open window anew.
const LOG_REACH: Duration = Duration::from_secs(90 * 60);
/// Overlap of a fetched log with what is here: more than a slow scrape and a late fsync.
pub(crate) const OVERLAP: Duration = Duration::from_secs(30);

/// One copy under way.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) from: PeerId,
    pub(crate) shards: ShardSet,
    /// Log since then; `None` for the open window.
    pub(crate) since: Option<Timestamp>,
    /// Fetches of one group restore together.
    group: u64,
}

/// What a finished copy means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) shards: ShardSet,
}

/// The copies of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) own: Possession,
    wanted: ShardSet,
    fetches: BTreeMap<u64, Fetch>,
    /// By group: what was held until when, and whether a part failed.
    groups: BTreeMap<u64, Group>,
    /// Peers heard again, and when they were lost.
    repairs: BTreeMap<PeerId, Timestamp>,
    token: u64,
}

#[derive(Clone, Debug)]
struct Group {
    shards: ShardSet,
    since: Option<Timestamp>,
    whole_from: Timestamp,
    failed: bool,
}

impl Holdings {
    pub(crate) fn new(own: Possession) -> Holdings {
        Holdings { own, ..Holdings::default() }
    }

    pub(crate) fn wanted(&self) -> &ShardSet {
        &self.wanted
    }

    pub(crate) fn fetches(&self) -> impl Iterator<Item = &Fetch> {
        self.fetches.values()
    }

    pub(crate) fn is_syncing(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Makes `wanted` what this peer holds; says whether that changed.
    pub(crate) fn want(&mut self, wanted: ShardSet, now: Timestamp) -> bool {
        if self.wanted == wanted {
            return false;
        }
        let lost = self.wanted.difference(&wanted);
        // Batches for the last slots may still have been on their way.
        self.own.end(&lost, now.before(OVERLAP));
        self.wanted = wanted;
        true
    }

    /// What a peer has since an instant is to be fetched once it is heard: its stream to us broke, or it may have what
    /// another's broken stream did not bring.
    pub(crate) fn repair(&mut self, peer: PeerId, since: Timestamp) {
        let at = self.repairs.entry(peer).or_insert(since);
        *at = (*at).min(since);
    }

    /// Starts the copies of what is wanted and neither here nor under way.
    ///
    /// `donors` are the others that are heard, with what they hold; `gone` those that are down. With everybody gone this
    /// peer has the most there is, until one of them comes back; with somebody merely silent it waits.
    pub(crate) fn plan(
        &mut self,
        donors: &BTreeMap<PeerId, Possession>,
        gone: &[PeerId],
        all_gone: bool,
        now: Timestamp,
    ) -> Vec<(u64, Fetch)> {
        let mut planned = self.plan_repairs(donors);
        let under_way = self.groups.values().fold(ShardSet::default(), |all, group| all.union(&group.shards));
        let missing = self.wanted.difference(&self.own.open_shards()).difference(&under_way);
        if missing.is_empty() {
            return planned;
        }
        let (recent, since) = self.recently_held(&missing, now);
        if !recent.is_empty() {
            if all_gone {
                self.own.resume(&recent, since);
                for peer in gone {
                    self.repair(*peer, since);
                }
            } else if !donors.is_empty() {
                let at = since.before(OVERLAP);
                let group = self.group(&recent, Some(since));
                for donor in donors.keys() {
                    planned.push(self.fetch(group, *donor, recent.clone(), Some(at)));
                }
            }
        }
        let mut rest = missing.difference(&recent);
        for (donor, possession) in donors {
            let theirs = possession.open_shards().intersection(&rest);
            if !theirs.is_empty() {
                rest = rest.difference(&theirs);
                let group = self.group(&theirs, None);
                // What a third peer wrote between its last batch to the donor and our subscription is in its log.
                for other in donors.keys() {
                    planned.push(self.fetch(group, *other, theirs.clone(), Some(now.before(OVERLAP))));
                }
                planned.push(self.fetch(group, *donor, theirs, None));
            }
        }
        // Nobody alive has these: what comes from now on is all there is. A first peer has all there ever was.
        if !rest.is_empty() && (all_gone || !donors.is_empty()) {
            let virgin = donors.is_empty() && self.own.extents().is_empty();
            self.own.begin(&rest, if virgin { Timestamp::MIN } else { now });
        }
        planned
    }

    fn plan_repairs(&mut self, donors: &BTreeMap<PeerId, Possession>) -> Vec<(u64, Fetch)> {
        let heard = |peer: &PeerId, _: &mut Timestamp| donors.contains_key(peer);
        let due: Vec<(PeerId, Timestamp)> = self.repairs.extract_if(.., heard).collect();
        let mut planned = Vec::new();
        for (peer, since) in due {
            let group = self.group(&ShardSet::default(), Some(since));
            planned.push(self.fetch(group, peer, self.wanted.clone(), Some(since.before(OVERLAP))));
        }
        planned
    }

    /// Of some shards, those held until recently, and the earliest of the instants until which.
    fn recently_held(&self, missing: &ShardSet, now: Timestamp) -> (ShardSet, Timestamp) {
        let reach = now.before(LOG_REACH);
        let recent = self.own.extents().iter().filter(|extent| extent.to != Timestamp::MAX && extent.to > reach);
        let (mut shards, mut since) = (ShardSet::default(), now);
        for extent in recent {
            let part = extent.shards.intersection(missing);
            if !part.is_empty() {
                shards = shards.union(&part);
                since = since.min(extent.to);
            }
        }
        (shards, since)
    }

    fn group(&mut self, shards: &ShardSet, since: Option<Timestamp>) -> u64 {
        self.token += 1;
        let group = Group { shards: shards.clone(), since, whole_from: Timestamp::MIN, failed: false };
        self.groups.insert(self.token, group);
        self.token
    }

    fn fetch(&mut self, group: u64, from: PeerId, shards: ShardSet, since: Option<Timestamp>) -> (u64, Fetch) {
        self.token += 1;
        let fetch = Fetch { from, shards, since, group };
        self.fetches.insert(self.token, fetch.clone());
        (self.token, fetch)
    }

    /// A copy ended. `whole_from`: since when what came is all there is; `None` if it failed.
    pub(crate) fn fetched(&mut self, token: u64, whole_from: Option<Timestamp>) -> Option<Restored> {
        let fetch = self.fetches.remove(&token)?;
        let group = self.groups.get_mut(&fetch.group)?;
        match (whole_from, fetch.since) {
            (Some(from), None) => group.whole_from = group.whole_from.max(from),
            (Some(_), Some(_)) => {}
            (None, None) => group.failed = true,
            // A log is fetched from several; what this one has alone is fetched when it is heard again.
            (None, Some(since)) => {
                let at = self.repairs.entry(fetch.from).or_insert(since);
                *at = (*at).min(since);
            }
        }
        if self.fetches.values().any(|other| other.group == fetch.group) {
            return None;
        }
        let group = self.groups.remove(&fetch.group)?;
        if group.failed {
            return None;
        }
        let still_wanted = group.shards.intersection(&self.wanted);
        match group.since {
            Some(since) => self.own.resume(&still_wanted, since),
            None => self.own.begin(&still_wanted, group.whole_from),
        }
        Some(Restored { shards: still_wanted })
    }

    /// Copies from peers that are gone have failed.
    pub(crate) fn fail_from(&mut self, gone: &BTreeSet<PeerId>) {
        let failed: Vec<u64> =
            self.fetches.iter().filter(|(_, fetch)| gone.contains(&fetch.from)).map(|(token, _)| *token).collect();
        for token in failed {
            self.fetched(token, None);
        }
    }
}
