//! Whose slots this peer starts.
//!
//! The rule: a peer *acts* for a shard while it starts the slots of the shard's sources. Rank 0 asks whoever acts to
//! hand over, and acts from the agreed slot; the first rank that is not silent acts at once when all before it are
//! silent; of two that act, the worse-ranked yields as soon as it hears of the other. Everybody tells the peers it
//! shares shards with what it acts for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Candidate, Placement, RANKS_KEPT, RankTables};
use promesh_model::shard::ShardSet;
use promesh_model::{Monotonic, Now, PeerId, ShardId, Timestamp};

/// How long an unanswered request for shards waits before it is thought over.
const ASK_PATIENCE: Duration = Duration::from_millis(1000);

/// A request for shards that awaits its answer.
#[derive(Clone, Debug)]
struct Ask {
    to: PeerId,
    shards: ShardSet,
    deadline: Monotonic,
}

/// The shards a peer acts for, and those changing hands.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    me: PeerId,
    pub(crate) placement: Arc<Placement>,
    /// By the placement: shards that are ours, and all for which we are among the ranks kept.
    first: ShardSet,
    ranked: ShardSet,
    /// Shards for which we are among so many first ranks.
    held: (usize, ShardSet),
    acting: ShardSet,
    /// Shards given away: not started from the instant on.
    granted: Vec<(Timestamp, ShardSet)>,
    /// All of them: each of a thousand peers that tells what it acts for asks, and while many come in there are many.
    promised: ShardSet,
    /// Shards received: started from the instant on.
    gaining: Vec<(Timestamp, ShardSet)>,
    asks: Vec<Ask>,
    /// What others said they act for.
    others: BTreeMap<PeerId, ShardSet>,
    /// What this peer acts for changed since it was last told.
    pub(crate) changed: bool,
    /// The ranks changed since it was last told.
    pub(crate) reranked: bool,
    /// Peers that act for shards of ours and rank behind us: they are to be told again.
    pub(crate) contested: BTreeSet<PeerId>,
}

/// What a look at the ranks asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    /// Shards to ask for, by who acts for them now.
    pub(crate) ask: Vec<(PeerId, ShardSet)>,
    /// Shards that this peer now acts for because all before it are silent.
    pub(crate) taken: ShardSet,
}

impl Ownership {
    pub(crate) fn new(me: PeerId) -> Ownership {
        Ownership {
            me,
            placement: Arc::new(Placement::new()),
            first: ShardSet::default(),
            ranked: ShardSet::default(),
            held: (0, ShardSet::default()),
            acting: ShardSet::default(),
            granted: Vec::new(),
            promised: ShardSet::default(),
            gaining: Vec::new(),
            asks: Vec::new(),
            others: BTreeMap::new(),
            changed: false,
            reranked: false,
            contested: BTreeSet::new(),
        }
    }

    pub(crate) fn acting(&self) -> &ShardSet {
        &self.acting
    }

    pub(crate) fn acting_of(&self, peer: PeerId) -> Option<&ShardSet> {
        self.others.get(&peer)
    }

    /// What the others say they act for.
    pub(crate) fn others(&self) -> &BTreeMap<PeerId, ShardSet> {
        &self.others
    }

    /// Shards whose sources this peer may have to start soon.
    pub(crate) fn concerning(&self) -> ShardSet {
        self.gaining.iter().fold(self.ranked.union(&self.acting), |all, (_, shards)| all.union(shards))
    }

    /// Who of the others says that it acts for a shard.
    pub(crate) fn actor(&self, shard: ShardId) -> Option<PeerId> {
        self.others.iter().find(|(_, shards)| shards.contains(shard)).map(|(peer, _)| *peer)
    }

    /// Says whether the ranks changed.
    pub(crate) fn set_candidates(&mut self, candidates: &[Candidate], tables: Option<&RankTables>) -> bool {
        let changed = !self.placement.candidates().eq(candidates.iter());
        if changed {
            match tables {
                Some(tables) => self.placement = tables.table(&self.placement, candidates),
                None => Arc::make_mut(&mut self.placement).update(candidates),
            }
            self.first = self.placement.shards_within(self.me, 1);
            self.ranked = self.placement.shards_within(self.me, RANKS_KEPT);
            self.held = (0, ShardSet::default());
            self.reranked = true;
        }
        changed
    }

    /// The shards that this peer holds when there are so many copies.
    pub(crate) fn held(&mut self, copies: usize) -> ShardSet {
        if self.held.0 != copies {
            self.held = (copies, self.placement.shards_within(self.me, copies));
        }
        self.held.1.clone()
    }

    /// Whether this peer starts a slot of a shard.
    pub(crate) fn may_start(&self, shard: ShardId, slot: Timestamp) -> bool {
        let given = self.granted.iter().any(|(from, shards)| *from <= slot && shards.contains(shard));
        let received = self.gaining.iter().any(|(from, shards)| *from <= slot && shards.contains(shard));
        received || (self.acting.contains(shard) && !given)
    }

    /// Carries out what was agreed for instants that have come; says which shards this peer newly acts for, and from
    /// which slot on.
    pub(crate) fn settle(&mut self, now: Timestamp) -> Vec<(Timestamp, ShardSet)> {
        let (mut gained, mut given) = (Vec::new(), false);
        for (_, shards) in self.granted.extract_if(.., |(from, _)| *from <= now) {
            self.acting = self.acting.difference(&shards);
            self.changed = true;
            given = true;
        }
        if given {
            self.promised = self.granted.iter().fold(ShardSet::default(), |all, (_, shards)| all.union(shards));
        }
        for (from, shards) in self.gaining.extract_if(.., |(from, _)| *from <= now) {
            gained.push((from, shards.difference(&self.acting)));
            self.acting = self.acting.union(&shards);
            self.changed = true;
        }
        gained
    }

    /// The next instant at which [`Ownership::settle`] has something to do.
    pub(crate) fn next_settlement(&self) -> Option<Timestamp> {
        self.granted.iter().chain(&self.gaining).map(|(from, _)| *from).min()
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.asks.iter().map(|ask| ask.deadline).min()
    }

    /// Gives up on requests that went unanswered.
    pub(crate) fn expire_asks(&mut self, now: Monotonic) {
        self.asks.retain(|ask| ask.deadline > now);
    }

    /// Looks at every shard: what rank 0 has not got yet is asked for, what has only silent peers before us is taken.
    pub(crate) fn review(&mut self, silent: &BTreeSet<PeerId>, now: Now) -> Moves {
        self.asks.retain(|ask| !silent.contains(&ask.to));
        let mut moves = Moves::default();
        let mut open = self.first_heard(silent);
        if open.is_empty() {
            return moves;
        }
        let mut ask: Vec<(PeerId, ShardSet)> = Vec::new();
        for (peer, shards) in self.others.iter().filter(|(peer, _)| !silent.contains(peer)) {
            let theirs = shards.intersection(&open);
            if !theirs.is_empty() {
                open.remove_all(&theirs);
                ask.push((*peer, theirs));
            }
        }
        moves.taken = open;
        for (to, shards) in ask {
            let deadline = now.monotonic + ASK_PATIENCE;
            self.asks.push(Ask { to, shards: shards.clone(), deadline });
            moves.ask.push((to, shards));
        }
        if !moves.taken.is_empty() {
            self.acting = self.acting.union(&moves.taken);
            self.changed = true;
        }
        moves
    }

    /// Shards that should be ours now, and neither are nor are about to be: all that rank before us are silent.
    fn first_heard(&self, silent: &BTreeSet<PeerId>) -> ShardSet {
        let nobody_silent = self.placement.candidates().all(|candidate| !silent.contains(&candidate.id));
        let mut open = if nobody_silent { self.first.clone() } else { self.ranked.clone() };
        open.remove_all(&self.acting);
        for ask in &self.asks {
            open.remove_all(&ask.shards);
        }
        for (_, shards) in &self.gaining {
            open.remove_all(shards);
        }
        if nobody_silent || open.is_empty() {
            return open;
        }
        let ours = |shard: &ShardId| self.placement.ranks(*shard).find(|peer| !silent.contains(peer)) == Some(self.me);
        open.iter().filter(ours).collect()
    }

    /// Somebody asks for shards: they are its own from the slot on, or a little later if that has passed here.
    pub(crate) fn grant(&mut self, shards: &ShardSet, from: Timestamp, now: Timestamp) -> Timestamp {
        // What was promised to another newcomer is this one's from the same slot on: the two settle it by rank.
        let promised = self.granted.iter().filter(|(_, given)| !given.intersection(shards).is_empty());
        let from = promised.map(|(at, _)| *at).fold(from.max(Timestamp(now.ms() + 1)), Timestamp::max);
        let mine = shards.intersection(&self.acting);
        if !mine.is_empty() {
            self.promised.insert_all(&mine);
            self.granted.push((from, mine));
        }
        // What we were about to receive and somebody else asks for already is not ours either.
        for (_, gaining) in &mut self.gaining {
            *gaining = gaining.difference(shards);
        }
        from
    }

    /// The answer to our request.
    pub(crate) fn granted_to_us(&mut self, by: PeerId, shards: &ShardSet, from: Timestamp) {
        let asked =
            self.asks.extract_if(.., |ask| ask.to == by).fold(ShardSet::default(), |all, a| all.union(&a.shards));
        let ours = shards.intersection(&asked);
        if !ours.is_empty() {
            self.gaining.push((from, ours));
        }
        if let Some(theirs) = self.others.get_mut(&by) {
            *theirs = theirs.difference(shards);
        }
    }

    /// A peer says what it acts for: where both do, the worse-ranked yields. Says what we gave up.
    pub(crate) fn hear(&mut self, peer: PeerId, theirs: ShardSet) -> ShardSet {
        // What is promised from a slot on goes at that slot by our own clock, however early theirs runs.
        let both = self.acting.intersection(&theirs).difference(&self.promised);
        let given = self.placement.before(&both, peer, self.me);
        if !given.is_empty() {
            self.changed = true;
            self.acting.remove_all(&given);
        }
        self.others.insert(peer, theirs);
        // The other one has to hear of us too, if it is the one to yield: with the next beat, or two peers whose views
        // differ would talk of nothing else.
        if both.len() > given.len() {
            self.contested.insert(peer);
        }
        given
    }

    /// What each of some others needs to hear of what we act for: the shards it is ranked for, and all for one that is
    /// not ranked yet. A mesh of a thousand talks of a few shards a pair.
    pub(crate) fn acting_for(&self, others: &[PeerId]) -> Vec<ShardSet> {
        if self.placement.len() <= RANKS_KEPT {
            return vec![self.acting.clone(); others.len()];
        }
        let mut told = self.placement.ranked_of(&self.acting, others);
        for (peer, shards) in others.iter().zip(&mut told) {
            if !self.placement.contains(*peer) {
                shards.clone_from(&self.acting);
            } else if let Some(theirs) = self.others.get(peer) {
                // Who acts for a shard of ours hears of it as well, however far behind it ranks by now: of two that were
                // promised a shard by one giver, the worse-ranked would act for ever.
                shards.insert_all(&theirs.intersection(&self.acting));
            }
        }
        told
    }

    /// A peer is gone: what it acted for is nobody's.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.others.remove(&peer);
        self.asks.retain(|ask| ask.to != peer);
    }

    /// This peer stands back from everything: it stood still and does not know what happened meanwhile.
    pub(crate) fn suspend(&mut self) {
        self.acting = ShardSet::default();
        self.granted.clear();
        self.promised = ShardSet::default();
        self.gaining.clear();
        self.asks.clear();
        self.changed = true;
    }

    pub(crate) fn check_invariants(&self) {
        let disjoint = self.asks.iter().all(|ask| ask.shards.is_disjoint(&self.acting));
        assert!(disjoint, "nobody asks for what it acts for");
        assert!(self.others.keys().all(|peer| *peer != self.me), "a peer is not its own other");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Now {
        Now { monotonic: Monotonic(ms as u64 * 1_000_000), wall: Timestamp(ms) }
    }

    fn among(me: u128, peers: std::ops::RangeInclusive<u128>) -> Ownership {
        let mut ownership = Ownership::new(PeerId(me));
        let candidates: Vec<Candidate> =
            peers.map(|id| Candidate { id: PeerId(id), zone: String::new(), weight: 4 }).collect();
        ownership.set_candidates(&candidates, None);
        ownership
    }

    #[test]
    fn what_somebody_acts_for_is_asked_for_and_what_nobody_acts_for_is_taken() {
        let mut ownership = among(1, 1..=3);
        let mine = ownership.placement.shards_within(PeerId(1), 1);
        let theirs: ShardSet = mine.iter().take(10).collect();
        ownership.hear(PeerId(2), theirs.clone());
        let moves = ownership.review(&BTreeSet::new(), at(0));
        assert_eq!(moves.ask, [(PeerId(2), theirs.clone())]);
        assert_eq!(moves.taken, mine.difference(&theirs));
        assert!(ownership.review(&BTreeSet::new(), at(1)).ask.is_empty(), "asked once");
        ownership.granted_to_us(PeerId(2), &theirs, Timestamp(50));
        assert_eq!(ownership.settle(Timestamp(50)), [(Timestamp(50), theirs)]);
        assert_eq!(*ownership.acting(), mine);
    }

    #[test]
    fn the_next_rank_takes_what_a_silent_owner_acted_for() {
        let mut ownership = among(1, 1..=3);
        ownership.review(&BTreeSet::new(), at(0));
        let second = |shard: &ShardId| ownership.placement.ranks(*shard).take(2).eq([PeerId(2), PeerId(1)]);
        let due: ShardSet = ShardSet::all().iter().filter(second).collect();
        assert_eq!(ownership.review(&[PeerId(2)].into(), at(1)).taken, due);
    }

    #[test]
    fn of_two_that_act_the_worse_rank_yields_unless_it_promised_a_later_slot() {
        let (mut first, mut second) = (among(1, 1..=2), among(2, 1..=2));
        first.review(&BTreeSet::new(), at(0));
        second.review(&[PeerId(1)].into(), at(0));
        let mine = first.acting().clone();
        let promised: ShardSet = mine.iter().take(5).collect();
        assert_eq!(second.grant(&promised, Timestamp(80), Timestamp(60)), Timestamp(80));
        assert_eq!(second.hear(PeerId(1), mine.clone()), mine.difference(&promised));
        assert!(promised.iter().all(|shard| second.may_start(shard, Timestamp(79))));
        assert!(!promised.iter().any(|shard| second.may_start(shard, Timestamp(80))));
        assert!(first.hear(PeerId(2), mine).is_empty() && first.contested.contains(&PeerId(2)));
    }

    #[test]
    fn who_acts_for_a_shard_of_ours_hears_of_it_however_far_behind_it_ranks() {
        let mut ownership = among(1, 1..=40);
        ownership.review(&BTreeSet::new(), at(0));
        let unranked = |shard: &ShardId| ownership.placement.rank_of(*shard, PeerId(2)).is_none();
        let both: ShardSet = ownership.acting().iter().filter(unranked).take(1).collect();
        ownership.hear(PeerId(2), both.clone());
        assert!(both.is_subset(&ownership.acting_for(&[PeerId(2)])[0]));
    }

    #[test]
    fn in_a_large_mesh_a_peer_hears_only_of_shards_it_is_ranked_for() {
        let mut ownership = among(1, 1..=40);
        ownership.review(&BTreeSet::new(), at(0));
        let told = ownership.acting_for(&[PeerId(2), PeerId(99)]);
        let ranked = ownership.placement.shards_within(PeerId(2), RANKS_KEPT);
        assert_eq!(told[0], ownership.acting().intersection(&ranked));
        assert_eq!(told[1], *ownership.acting(), "one that is not ranked yet hears all");
    }
}
