//! Sealed history: which windows this peer should copy, of which shards, and from whom.
//!
//! The intuition: history stays where it is. What is copied is what somebody lost: a peer that was away fetches the hole
//! between what it held before and what it holds now; where fewer than R copies are left, because a disk is empty or a
//! peer is down for good, the best-ranked peers that lack a window make the copies good, first those of zones in which
//! there is none. A peer that is down for a short while counts as the holder it was.
//!
//! The rule is a pure function of the view, alike on every peer, and each peer does only its own part: so nobody has to
//! give orders, and a copy that breaks off is planned again.
//!
//! The awkward cases: a window in which ownership changed is whole nowhere, and is put together from all who have a part;
//! samples older than every claim (imported blocks, samples pushed late) are fetched from everybody who has any, once
//! everybody is there.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId, Timestamp};

use crate::possession::{Extent, Possession};
use crate::view::{MeshView, PeerInfo};

/// What decides beside the view.
#[derive(Clone, Debug, Default)]
pub struct HistoryRules {
    /// Peers that are down for so long, or gone for good, that their copies are made good.
    pub given_up: BTreeSet<PeerId>,
    /// Peers that have any samples of the window.
    pub having: BTreeSet<PeerId>,
    /// Whether an operator wants history where its shards rank now.
    pub rebalance: bool,
}

/// What to copy of one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPlan {
    /// Whom to ask for which shards; a shard may be asked of several, who have a part each.
    pub ask: Vec<(PeerId, ShardSet)>,
    /// Of these shards everything in `[from, to)` is here afterwards.
    pub shards: ShardSet,
    /// See `shards`.
    pub from: Timestamp,
    /// See `shards`.
    pub to: Timestamp,
}

/// Plans the copies that this peer should make of the window `[from, to)`.
pub fn plan_history(view: &MeshView, from: Timestamp, to: Timestamp, rules: &HistoryRules) -> HistoryPlan {
    let last = Timestamp(to.ms().saturating_sub(1));
    let around = Around::of(view, rules);
    // The beginning of a mesh lies within a window: whole is what anybody claims of it.
    let begins = around.claims().filter(|extent| extent.from <= last && extent.to > from).map(|extent| extent.from);
    let begins = begins.min().map_or(from, |begins| begins.max(from));
    let unclaimed = around.claims().all(|extent| extent.from > last || extent.to <= from);
    let mut plan = HistoryPlan { from: begins, to, ..HistoryPlan::default() };
    let missing = ShardSet::all().difference(&view.own.covering(begins, last));
    let wanted = around.wanted(&missing, begins, last);
    if wanted.is_empty() {
        return plan;
    }
    let mut rest = wanted;
    if unclaimed {
        let all_there = view.peers.iter().all(|peer| is_heard(peer) || rules.given_up.contains(&peer.id));
        if all_there {
            plan.shards = rest.clone();
            let others = rules.having.iter().filter(|peer| **peer != view.me);
            plan.ask = others.map(|peer| (*peer, rest.clone())).collect();
        }
        return plan;
    }
    // The load is spread: each window begins with another donor.
    let turn = around.heard.len().max(1);
    let first = (begins.ms().unsigned_abs() / 7_200_000) as usize % turn;
    let heard = || around.heard.iter().cycle().skip(first).take(around.heard.len());
    for (donor, possession) in heard() {
        let theirs = possession.covering(begins, last).intersection(&rest);
        if !theirs.is_empty() {
            rest.remove_all(&theirs);
            plan.shards.insert_all(&theirs);
            plan.ask.push((*donor, theirs));
        }
    }
    let pieced: ShardSet = rest.iter().filter(|shard| around.is_whole_together(*shard, begins, to)).collect();
    plan.shards.insert_all(&pieced);
    for (donor, possession) in heard() {
        let theirs = possession.touching(begins, last).intersection(&pieced);
        match plan.ask.iter_mut().find(|(peer, _)| peer == donor) {
            _ if theirs.is_empty() => {}
            Some((_, asked)) => asked.insert_all(&theirs),
            None => plan.ask.push((*donor, theirs)),
        }
    }
    plan
}

/// Shards of a window of which fewer living peers than wanted have everything that anybody claims.
pub fn under_replicated_history(view: &MeshView, from: Timestamp, to: Timestamp) -> usize {
    let last = Timestamp(to.ms().saturating_sub(1));
    let around = Around::of(view, &HistoryRules::default());
    let begins = around.claims().filter(|extent| extent.from <= last && extent.to > from).map(|extent| extent.from);
    let Some(begins) = begins.min().map(|begins| begins.max(from)) else { return 0 };
    let copies = around.copies(begins, last, false);
    copies.iter().filter(|count| usize::from(**count) < around.wanted_copies()).count()
}

fn is_heard(peer: &PeerInfo) -> bool {
    peer.alive && !peer.silent
}

/// The others, as far as history goes.
struct Around<'a> {
    view: &'a MeshView,
    rebalance: bool,
    /// Those that answer, with what they hold.
    heard: Vec<(PeerId, &'a Possession)>,
    /// Those that are away and expected back, with what they held, if that is known.
    expected: Vec<(PeerId, Option<&'a Possession>)>,
    /// Where those are that rank for anything; empty where nobody names a zone.
    zones: BTreeMap<PeerId, &'a str>,
}

impl<'a> Around<'a> {
    fn of(view: &'a MeshView, rules: &HistoryRules) -> Around<'a> {
        let held = |peer: &PeerInfo| view.possession.get(&peer.id).map(|held| &**held);
        let heard = view.peers.iter().filter(|peer| is_heard(peer)).filter_map(|peer| Some((peer.id, held(peer)?)));
        let away = view.peers.iter().filter(|peer| !is_heard(peer) && !rules.given_up.contains(&peer.id));
        let expected = away.map(|peer| (peer.id, held(peer))).collect();
        let candidates = || view.placement.candidates();
        let zones = match candidates().any(|candidate| !candidate.zone.is_empty()) {
            true => candidates().map(|candidate| (candidate.id, &*candidate.zone)).collect(),
            false => BTreeMap::new(),
        };
        Around { view, rebalance: rules.rebalance, heard: heard.collect(), expected, zones }
    }

    fn wanted_copies(&self) -> usize {
        self.view.replication_factor.min(self.view.placement.len())
    }

    /// What anybody claims.
    fn claims(&self) -> impl Iterator<Item = &Extent> {
        let others = self.heard.iter().map(|(_, held)| *held).chain(self.expected.iter().filter_map(|(_, held)| *held));
        others.chain([&*self.view.own]).flat_map(|held| held.extents().iter())
    }

    /// By shard, how many have a span whole: this peer, those that are heard, and perhaps those that are expected back.
    fn copies(&self, first: Timestamp, last: Timestamp, with_expected: bool) -> Vec<u8> {
        let mut copies = vec![0u8; promesh_model::SHARD_COUNT];
        let mut add = |shards: &ShardSet| {
            shards
                .iter()
                .for_each(|shard| copies[usize::from(shard.0)] = copies[usize::from(shard.0)].saturating_add(1));
        };
        add(&self.view.own.covering(first, last));
        self.heard.iter().for_each(|(_, held)| add(&held.covering(first, last)));
        if with_expected {
            // Who never said may have all of it.
            let everything = ShardSet::all();
            self.expected
                .iter()
                .for_each(|(_, held)| add(&held.map_or(everything.clone(), |held| held.covering(first, last))));
        }
        copies
    }

    /// Of the shards that this peer lacks in a span, those that it should have.
    fn wanted(&self, missing: &ShardSet, first: Timestamp, last: Timestamp) -> ShardSet {
        let (view, wanted) = (self.view, self.wanted_copies());
        let open = view.own.open_shards();
        let ended = view.own.extents().iter().filter(|extent| extent.to != Timestamp::MAX && extent.to <= last);
        let before = ended.fold(ShardSet::default(), |all, extent| all.union(&extent.shards));
        // Held before and held now: the hole between is this peer's own.
        let mut shards = missing.intersection(&open).intersection(&before);
        let copies = self.copies(first, last, true);
        for shard in missing.iter().filter(|shard| view.placement.rank_of(*shard, view.me).is_some()) {
            let lacking = wanted.saturating_sub(usize::from(copies[usize::from(shard.0)]));
            let ranks = view.placement.ranks(shard);
            let is_next = |lacking: usize| self.receivers(shard, first, last, lacking).contains(&view.me);
            let ranks_for_it = || ranks.take(wanted).any(|peer| peer == view.me);
            if (lacking > 0 && is_next(lacking)) || (self.rebalance && ranks_for_it()) {
                shards.insert(shard);
            }
        }
        shards
    }

    /// So many of those that lack a span of a shard: the best-ranked in a zone without a copy, before the best-ranked of all.
    fn receivers(&self, shard: ShardId, first: Timestamp, last: Timestamp, count: usize) -> Vec<PeerId> {
        let ranks = || self.view.placement.ranks(shard);
        let lacks = |peer: &PeerId| *peer == self.view.me || !self.covers(*peer, shard, first, last);
        if self.zones.is_empty() {
            return ranks().filter(lacks).take(count).collect();
        }
        let zone = |peer: &PeerId| self.zones.get(peer).copied();
        let away = self.expected.iter().filter_map(|(peer, held)| Some((*peer, (*held)?)));
        let holders = self.heard.iter().copied().chain(away).filter(|(_, held)| held.covers(shard, first, last));
        let mut seen: BTreeSet<Option<&str>> = holders.map(|(peer, _)| zone(&peer)).collect();
        let mut lacking: Vec<PeerId> = ranks().filter(lacks).collect();
        let mut receivers = Vec::new();
        while receivers.len() < count && !lacking.is_empty() {
            let elsewhere = lacking.iter().position(|peer| !seen.contains(&zone(peer)));
            let next = lacking.remove(elsewhere.unwrap_or(0));
            seen.insert(zone(&next));
            receivers.push(next);
        }
        receivers
    }

    fn covers(&self, peer: PeerId, shard: ShardId, first: Timestamp, last: Timestamp) -> bool {
        self.heard.iter().any(|(id, held)| *id == peer && held.covers(shard, first, last))
    }

    /// Whether those that are heard, and this peer, have a span of a shard together.
    fn is_whole_together(&self, shard: ShardId, first: Timestamp, end: Timestamp) -> bool {
        let heard = self.heard.iter().map(|(_, held)| *held).chain([&*self.view.own]);
        let mut spans: Vec<(Timestamp, Timestamp)> = heard
            .flat_map(|held| held.extents().iter())
            .filter(|extent| extent.shards.contains(shard))
            .map(|extent| (extent.from, extent.to))
            .collect();
        spans.sort();
        let mut reached = first;
        for (from, to) in spans {
            if from <= reached {
                reached = reached.max(to);
            }
        }
        reached >= end
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use promesh_cluster::{Candidate, Placement};

    use super::*;

    const ALL: Timestamp = Timestamp::MAX;

    /// What a peer holds: all shards over these spans.
    pub(crate) fn held(spans: &[(i64, Timestamp)]) -> Possession {
        let extent =
            |(from, to): &(i64, Timestamp)| Extent { from: Timestamp(*from), to: *to, shards: ShardSet::all() };
        Possession::of(spans.iter().map(extent).collect::<Vec<_>>())
    }

    /// Peer 1's view of others: who, whether it is alive, what it holds.
    pub(crate) fn view(own: Possession, others: Vec<(u128, bool, Option<Possession>)>) -> MeshView {
        let address = "127.0.0.1:1".parse().expect("an address");
        let info = |id: u128, alive: bool| PeerInfo { alive, ..PeerInfo::ready(PeerId(id), address) };
        let living = others.iter().filter(|(_, alive, _)| *alive).map(|(id, ..)| *id).chain([1]);
        let candidate = |id| Candidate { id: PeerId(id), zone: String::new(), weight: 4 };
        let possession: BTreeMap<PeerId, Arc<Possession>> =
            others.iter().filter_map(|(id, _, held)| Some((PeerId(*id), Arc::new(held.clone()?)))).collect();
        MeshView {
            peers: others.iter().map(|(id, alive, _)| info(*id, *alive)).collect(),
            placement: Arc::new(Placement::of(living.map(candidate))),
            own: Arc::new(own),
            possession: Arc::new(possession),
            ..MeshView::alone(PeerId(1))
        }
    }

    fn plan(view: &MeshView, rules: &HistoryRules) -> (usize, Vec<u128>, i64) {
        let plan = plan_history(view, Timestamp(100), Timestamp(200), rules);
        let asked: ShardSet = plan.ask.iter().fold(ShardSet::default(), |all, (_, shards)| all.union(shards));
        assert!(plan.ask.is_empty() || asked == plan.shards);
        let mut whom: Vec<u128> = plan.ask.iter().map(|(peer, _)| peer.0).collect();
        whom.sort();
        (plan.shards.len(), whom, plan.from.ms())
    }

    const SHARDS: usize = promesh_model::SHARD_COUNT;

    #[test]
    fn history_stays_where_it_is_while_there_are_enough_copies() {
        let rules = HistoryRules::default();
        let two = vec![(2, true, Some(held(&[(0, ALL)]))), (3, true, Some(held(&[(0, ALL)])))];
        assert_eq!(plan(&view(held(&[(300, ALL)]), two.clone()), &rules).0, 0, "a newcomer");
        let rebalance = HistoryRules { rebalance: true, ..HistoryRules::default() };
        let moved = plan(&view(held(&[(300, ALL)]), two), &rebalance).0;
        assert!((SHARDS / 2..SHARDS * 5 / 6).contains(&moved), "two thirds rank here: {moved}");
    }

    #[test]
    fn what_fewer_than_two_have_the_next_in_rank_copies() {
        let rules = HistoryRules::default();
        let one = vec![(2, true, Some(held(&[(0, ALL)])))];
        assert_eq!(plan(&view(held(&[(300, ALL)]), one), &rules), (SHARDS, vec![2], 100));
        let one_of_three = vec![(2, true, Some(held(&[(0, ALL)]))), (3, true, Some(held(&[(300, ALL)])))];
        let (mine, whom, _) = plan(&view(held(&[(300, ALL)]), one_of_three), &rules);
        assert!((SHARDS * 2 / 5..SHARDS * 3 / 5).contains(&mine), "the other copies its half: {mine}");
        assert_eq!(whom, [2]);
    }

    #[test]
    fn who_is_down_counts_until_it_is_given_up() {
        let others = |known: bool| {
            let dead = known.then(|| held(&[(0, ALL)]));
            vec![(2, true, Some(held(&[(0, ALL)]))), (3, false, dead)]
        };
        for known in [true, false] {
            assert_eq!(plan(&view(held(&[(300, ALL)]), others(known)), &HistoryRules::default()).0, 0);
        }
        let rules = HistoryRules { given_up: [PeerId(3)].into(), ..HistoryRules::default() };
        assert_eq!(plan(&view(held(&[(300, ALL)]), others(true)), &rules), (SHARDS, vec![2], 100));
    }

    #[test]
    fn a_copy_is_made_good_in_a_zone_without_one() {
        // Peers 2 and 3 hold it, 3 is given up: of 1 and 4, who lack it, one is where 2 is.
        let places = |zones: [(u128, &str); 3], me: u128| {
            let candidate = |(id, zone): (u128, &str)| Candidate { id: PeerId(id), zone: zone.to_owned(), weight: 4 };
            let lacks = || held(&[(300, ALL)]);
            let other = if me == 1 { 4 } else { 1 };
            let whole = |id, alive| (id, alive, Some(held(&[(0, ALL)])));
            let mut view = view(lacks(), vec![whole(2, true), whole(3, false), (other, true, Some(lacks()))]);
            (view.me, view.placement) = (PeerId(me), Arc::new(Placement::of(zones.map(candidate))));
            plan(&view, &HistoryRules { given_up: [PeerId(3)].into(), ..HistoryRules::default() }).0
        };
        let apart = [(1, "a"), (2, "a"), (4, "b")];
        assert_eq!((places(apart, 1), places(apart, 4)), (0, SHARDS));
        let (one, other) = (places([(1, "a"), (2, "a"), (4, "a")], 1), places([(1, "a"), (2, "a"), (4, "a")], 4));
        assert!(one + other == SHARDS && one.abs_diff(other) < SHARDS / 5, "{one} and {other}");
    }

    #[test]
    fn a_peer_that_was_away_copies_what_it_missed_and_no_more() {
        let others = vec![(2, true, Some(held(&[(0, ALL)]))), (3, true, Some(held(&[(0, ALL)])))];
        let rules = HistoryRules::default();
        let away = |from: i64, to: i64| view(held(&[(0, Timestamp(from)), (to, ALL)]), others.clone());
        assert_eq!(plan(&away(150, 500), &rules).0, SHARDS);
        assert_eq!(plan(&away(20, 500), &rules).0, SHARDS, "a hole of several windows");
        assert_eq!(plan(&away(20, 90), &rules).0, 0, "the hole was before");
        assert_eq!(plan(&away(250, 500), &rules).0, 0, "the hole came later");
    }

    #[test]
    fn the_first_window_is_whole_from_where_anybody_claims_it() {
        let others = vec![(2, true, Some(held(&[(130, ALL)])))];
        assert_eq!(plan(&view(held(&[(150, ALL)]), others), &HistoryRules::default()), (SHARDS, vec![2], 130));
    }

    #[test]
    fn a_window_in_which_ownership_changed_is_put_together() {
        let parts =
            vec![(2, true, Some(held(&[(0, Timestamp(150)), (400, ALL)]))), (3, true, Some(held(&[(140, ALL)])))];
        assert_eq!(plan(&view(held(&[(300, ALL)]), parts), &HistoryRules::default()).1, [2, 3]);
        let apart =
            vec![(2, true, Some(held(&[(0, Timestamp(150)), (400, ALL)]))), (3, true, Some(held(&[(160, ALL)])))];
        assert_eq!(plan(&view(held(&[(300, ALL)]), apart), &HistoryRules::default()).0, 0, "a hole is no copy");
    }

    #[test]
    fn what_is_older_than_all_claims_is_fetched_from_all_who_have_it_once_all_are_there() {
        let others = |alive| vec![(2, true, Some(held(&[(300, ALL)]))), (3, alive, Some(held(&[(300, ALL)])))];
        let rules = HistoryRules { having: [PeerId(1), PeerId(3)].into(), ..HistoryRules::default() };
        let (mine, whom, from) = plan(&view(held(&[(300, ALL)]), others(true)), &rules);
        assert!((SHARDS / 2..SHARDS * 5 / 6).contains(&mine) && from == 100, "{mine}");
        assert_eq!(whom, [3]);
        assert_eq!(plan(&view(held(&[(300, ALL)]), others(false)), &rules).0, 0);
    }

    #[test]
    fn missing_copies_of_history_are_counted() {
        let count = |own, others| under_replicated_history(&view(own, others), Timestamp(100), Timestamp(200));
        let whole = || Some(held(&[(0, ALL)]));
        assert_eq!(count(held(&[(0, ALL)]), vec![(2, true, whole())]), 0);
        assert_eq!(count(held(&[(300, ALL)]), vec![(2, true, whole())]), SHARDS);
        assert_eq!(count(held(&[(300, ALL)]), vec![(2, true, Some(held(&[(300, ALL)])))]), 0, "nobody claims it");
    }
}
