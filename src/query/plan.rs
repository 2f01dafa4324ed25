//! Whom to ask for what: a pure function of the view.

use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, Timestamp};
use promesh_node::{Extent, MeshView, PeerInfo, Possession};

/// Who answers for which shards over one span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// This peer.
    pub local: ShardSet,
    /// Others. A shard that nobody holds over the whole span is asked of all that have a part of it.
    pub remote: Vec<(PeerId, ShardSet)>,
    /// Shards of which nobody reachable has anything.
    pub unanswered: ShardSet,
}

/// Plans who answers alone for some shards over `[start, end]`, without the peers in `excluded`: `unanswered` are those
/// of which nobody has the whole span. A span that ended is not whole: what is pushed late with its instants goes to
/// those who hold the shard now.
pub fn plan_alone(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp, excluded: &[PeerId]) -> Plan {
    let others: Vec<PeerId> = view.peers.iter().filter(|peer| is_usable(peer, excluded)).map(|peer| peer.id).collect();
    let mut plan = Plan::default();
    let me_usable = !excluded.contains(&view.me);
    if me_usable {
        plan.local = view.own.covering_live(start, end).intersection(shards);
    }
    let mut rest = shards.difference(&plan.local);
    // Every peer in turn takes first pick for a part of the shards, so that the load is spread.
    let covering: Vec<(PeerId, ShardSet)> = others
        .iter()
        .filter_map(|peer| Some((*peer, view.possession.get(peer)?.covering_live(start, end).intersection(&rest))))
        .filter(|(_, theirs)| !theirs.is_empty())
        .collect();
    for (index, (peer, theirs)) in covering.iter().enumerate() {
        let others_too = covering[index + 1..].iter().fold(ShardSet::default(), |all, (_, set)| all.union(set));
        let alone = theirs.difference(&others_too).intersection(&rest);
        let shared = theirs.intersection(&others_too).intersection(&rest);
        let later = covering.len() - index;
        let share: ShardSet = shared.iter().filter(|shard| usize::from(shard.0) % later == 0).collect();
        let taken = alone.union(&share);
        if !taken.is_empty() {
            rest = rest.difference(&taken);
            plan.remote.push((*peer, taken));
        }
    }
    plan.unanswered = rest;
    plan
}

/// Plans the read of some shards over `[start, end]`, without the peers in `excluded`.
pub fn plan(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp, excluded: &[PeerId]) -> Plan {
    let mut plan = plan_alone(view, shards, start, end, excluded);
    let rest = std::mem::take(&mut plan.unanswered);
    if rest.is_empty() {
        return plan;
    }
    // What those who cannot be asked may have; they may have anything if they never said what.
    let mut away = ShardSet::default();
    let mut asked: Vec<(Option<PeerId>, &Possession)> = Vec::new();
    if !excluded.contains(&view.me) {
        asked.push((None, &view.own));
    }
    for peer in &view.peers {
        match view.possession.get(&peer.id) {
            Some(possession) if is_usable(peer, excluded) => asked.push((Some(peer.id), possession)),
            Some(possession) => away.insert_all(&possession.touching(start, end)),
            None if is_usable(peer, excluded) => {}
            None => away.insert_all(&ShardSet::all()),
        }
    }
    // Nobody alone has the whole span: everybody who has some of it.
    let (mut claimed, mut live) = (ShardSet::default(), ShardSet::default());
    for (peer, possession) in &asked {
        let some = possession.touching(start, end).intersection(&rest);
        live.insert_all(&some.intersection(&possession.open_shards()));
        claimed.insert_all(&some);
        plan.add(*peer, some);
    }
    // And one of those who hold the shard now: what is pushed late for that time goes to them.
    for (peer, possession) in &asked {
        let late = possession.open_shards().intersection(&rest).difference(&live);
        live.insert_all(&late);
        plan.add(*peer, late);
    }
    // Of a time before anybody claims anything nothing is missed once they were asked.
    let unclaimed = rest.difference(&claimed);
    plan.unanswered = unclaimed.intersection(&away).union(&unclaimed.difference(&live));
    plan
}

/// Of some shards, those of which a peer in `excluded` claims something of `[start, end]` that nobody else claims who can be
/// asked: what is read without it may have holes, though every shard has somebody with a part of the span.
pub fn left_out(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp, excluded: &[PeerId]) -> ShardSet {
    let mine = (!excluded.contains(&view.me)).then_some(&*view.own);
    let usable = view.peers.iter().filter(|peer| is_usable(peer, excluded));
    let others: Vec<&Possession> =
        mine.into_iter().chain(usable.filter_map(|peer| view.possession.get(&peer.id).map(|held| &**held))).collect();
    let mut left = ShardSet::default();
    for possession in excluded.iter().filter_map(|peer| view.possession.get(peer)) {
        for claim in possession.extents().iter().filter(|claim| claim.from <= end && claim.to > start) {
            // What is pushed late for that time goes to those whose claim is open.
            let goes_on = |other: &Extent| other.to >= claim.to || (claim.to != Timestamp::MAX && other.to > end);
            let mut alone = claim.shards.intersection(shards);
            for other in others.iter().flat_map(|other| other.extents().iter()) {
                if other.from <= claim.from.max(start) && goes_on(other) {
                    alone.remove_all(&other.shards);
                }
            }
            left.insert_all(&alone);
        }
    }
    left
}

impl Plan {
    /// Asks a peer, or this one, for these shards too.
    fn add(&mut self, peer: Option<PeerId>, shards: ShardSet) {
        let Some(peer) = peer else {
            self.local.insert_all(&shards);
            return;
        };
        match self.remote.iter_mut().find(|(id, _)| *id == peer) {
            _ if shards.is_empty() => {}
            Some((_, set)) => set.insert_all(&shards),
            None => self.remote.push((peer, shards)),
        }
    }
}

/// Whether a peer can be asked.
pub(crate) fn is_usable(peer: &PeerInfo, excluded: &[PeerId]) -> bool {
    peer.alive && !peer.silent && !excluded.contains(&peer.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use promesh_cluster::{PeerState, Placement};
    use promesh_model::{Generation, ShardId};

    use super::*;

    fn set(shards: &[u16]) -> ShardSet {
        shards.iter().map(|&shard| ShardId(shard)).collect()
    }

    fn held(extents: &[(i64, i64, &[u16])]) -> Possession {
        let extent = |(from, to, shards): &(i64, i64, &[u16])| Extent {
            from: Timestamp(*from),
            to: Timestamp(*to),
            shards: set(shards),
        };
        Possession::of(extents.iter().map(extent).collect::<Vec<_>>())
    }

    fn view(own: Possession, others: Vec<(u128, bool, Possession)>) -> MeshView {
        let info = |id: u128, silent: bool| PeerInfo {
            doubts: 0,
            beat_gap: None,
            digests: Arc::default(),
            id: PeerId(id),
            address: "127.0.0.1:1".parse().expect("an address"),
            web_address: None,
            generation: Generation(1),
            state: Some(PeerState::Ready),
            zone: String::new(),
            alive: true,
            suspect: false,
            silent,
            since: Timestamp(0),
            clock_offset_ms: None,
            acting: 0,
            position: 0,
            started_through: Timestamp(0),
        };
        let possession: BTreeMap<PeerId, Arc<Possession>> =
            others.iter().map(|(id, _, held)| (PeerId(*id), Arc::new(held.clone()))).collect();
        MeshView {
            digests: Arc::default(),
            elected: Arc::default(),
            unscraped: 0,
            unmet: Vec::new(),
            me: PeerId(1),
            number: 1,
            state: PeerState::Ready,
            replication_factor: 2,
            peers: others.iter().map(|(id, silent, _)| info(*id, *silent)).collect(),
            placement: Arc::new(Placement::new()),
            acting: ShardSet::default(),
            own: Arc::new(own),
            possession: Arc::new(possession),
            fetching: Vec::new(),
        }
    }

    const EVER: i64 = i64::MIN;
    const OPEN: i64 = i64::MAX;

    #[test]
    fn what_is_here_is_read_here_and_the_rest_once() {
        let others = vec![(2, false, held(&[(EVER, OPEN, &[2, 3])])), (3, false, held(&[(EVER, OPEN, &[1, 3])]))];
        let view = view(held(&[(EVER, OPEN, &[1, 2])]), others);
        let plan = plan(&view, &set(&[1, 2, 3]), Timestamp(0), Timestamp(9), &[]);
        assert_eq!(plan.local, set(&[1, 2]));
        assert_eq!(plan.remote.len(), 1);
        assert_eq!(plan.remote[0].1, set(&[3]));
        assert!(plan.unanswered.is_empty());
    }

    #[test]
    fn a_silent_or_excluded_holder_is_not_asked() {
        let others = vec![(2, true, held(&[(EVER, OPEN, &[3])])), (3, false, held(&[(EVER, OPEN, &[3])]))];
        let view = view(Possession::default(), others);
        let first = plan(&view, &set(&[3]), Timestamp(0), Timestamp(9), &[]);
        assert_eq!(first.remote, [(PeerId(3), set(&[3]))]);
        let second = plan(&view, &set(&[3]), Timestamp(0), Timestamp(9), &[PeerId(3)]);
        assert_eq!(second.unanswered, set(&[3]));
    }

    #[test]
    fn what_only_the_excluded_has_is_left_out() {
        let left = |others: &[&[(i64, i64, &[u16])]], start: i64| {
            let others = (2..).zip(others).map(|(id, extents)| (id, false, held(extents))).collect();
            left_out(
                &view(held(&[(EVER, 20, &[3])]), others),
                &set(&[3, 4]),
                Timestamp(start),
                Timestamp(49),
                &[PeerId(2)],
            )
        };
        // Peer 1 held shard 3 until a while ago and is about to hold it again: what it has has a hole.
        assert_eq!(left(&[&[(EVER, OPEN, &[3, 5])], &[(30, OPEN, &[3])]], 10), set(&[3]));
        assert_eq!(left(&[&[(EVER, OPEN, &[3, 5])], &[(30, OPEN, &[3])]], 30), set(&[]));
        assert_eq!(left(&[&[(30, OPEN, &[3, 4])], &[(30, OPEN, &[3]), (30, 50, &[4])]], 10), set(&[4]), "ended");
        assert_eq!(left(&[&[(5, 15, &[3]), (20, 60, &[4])], &[(20, 50, &[4])]], 10), set(&[]));
        assert_eq!(left(&[&[(5, 25, &[3])], &[(20, 50, &[3])]], 10), set(&[3]), "nobody alone");
        assert_eq!(left(&[&[(50, OPEN, &[3]), (0, 10, &[3])]], 10), set(&[]), "not of the span");
    }

    #[test]
    fn a_span_that_nobody_has_whole_is_asked_of_all_with_a_part() {
        let others = vec![(2, false, held(&[(EVER, 5, &[3])])), (3, false, held(&[(50, OPEN, &[3])]))];
        let view = view(held(&[(4, OPEN, &[3])]), others);
        let plan = plan(&view, &set(&[3]), Timestamp(0), Timestamp(9), &[]);
        assert_eq!(plan.local, set(&[3]));
        assert_eq!(plan.remote, [(PeerId(2), set(&[3]))]);
    }

    #[test]
    fn what_was_pushed_late_is_asked_of_those_who_hold_the_shard_now() {
        // Peer 2 held shard 3 once and has handed it to peer 3: that one got what was pushed since.
        let others = vec![(2, false, held(&[(EVER, 50, &[3])])), (3, false, held(&[(40, OPEN, &[3])]))];
        let view = view(held(&[(40, OPEN, &[5])]), others);
        let plan = plan(&view, &set(&[3]), Timestamp(0), Timestamp(9), &[]);
        assert_eq!(plan.remote, [(PeerId(2), set(&[3])), (PeerId(3), set(&[3]))]);
        assert!(plan.unanswered.is_empty());
    }

    #[test]
    fn a_time_before_all_claims_is_missed_by_nobody_unless_somebody_is_away() {
        let check = |away: Option<Possession>, unanswered: &[u16]| {
            let mut others = vec![(2, false, held(&[(40, OPEN, &[3])]))];
            others.extend(away.map(|possession| (3, true, possession)));
            let view = view(held(&[(40, OPEN, &[5])]), others);
            let plan = plan(&view, &set(&[3, 5]), Timestamp(0), Timestamp(9), &[]);
            assert_eq!((plan.local, plan.remote), (set(&[5]), vec![(PeerId(2), set(&[3]))]));
            assert_eq!(plan.unanswered, set(unanswered));
        };
        check(None, &[]);
        check(Some(held(&[(0, 20, &[3])])), &[3]);
        check(Some(held(&[(30, OPEN, &[3])])), &[]);
    }
}
