//! Whose slots this peer starts.
//!
//! The rule: a peer *acts* for a shard while it starts the slots of the shard's sources. Rank 0 asks whoever acts to
//! hand over, and acts from the agreed slot; the first rank that is not silent acts at once when all before it are
//! silent; of two that act, the worse-ranked yields as soon as it hears of the other. Everybody tells the peers it
//! shares shards with what it acts for and has not yielded: nobody is to yield to one who is about to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Candidate, Placement, RANKS_KEPT, RankTables};
use promesh_model::shard::ShardSet;
use promesh_model::{Monotonic, Now, PeerId, ShardId, Timestamp};

/// How long an unanswered request for shards waits before it is thought over.
const ASK_PATIENCE: Duration = Duration::from_millis(1000);
/// By how much the clock of who gives a shard may be behind the clock of who receives it.
const GIVER_LAG_MAX: Duration = Duration::from_millis(2000);

/// For how long who yields may find that the other yielded too: word goes there and back in less.
const CEDED_FOR: Duration = Duration::from_millis(2000);

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
    /// Shards of which we are the first that is not silent, and who was when that was worked out.
    foremost: Option<(BTreeSet<PeerId>, ShardSet)>,
    acting: ShardSet,
    /// Shards given away: not started from the instant on.
    granted: Vec<(Timestamp, ShardSet)>,
    /// All of them: each of a thousand peers that tells what it acts for asks, and while many come in there are many.
    promised: ShardSet,
    /// Those of them that go to a better rank because it acts, not because it asked.
    yielded: ShardSet,
    /// Shards received: started from the instant on.
    gaining: Vec<(Timestamp, ShardSet)>,
    /// Shards received, by whom, and until when nothing that who gave them says of them counts: it may start slots until it
    /// stops, by a clock that may be behind, and an older word of it may still come.
    received: Vec<(PeerId, Timestamp, ShardSet)>,
    /// Shards yielded, to whom, and until when it counts that it may have yielded them too.
    ceded: Vec<(PeerId, Timestamp, ShardSet)>,
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
            foremost: None,
            acting: ShardSet::default(),
            granted: Vec::new(),
            promised: ShardSet::default(),
            yielded: ShardSet::default(),
            gaining: Vec::new(),
            received: Vec::new(),
            ceded: Vec::new(),
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
            self.foremost = None;
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
        (received || self.acting.contains(shard)) && !given
    }

    /// Carries out what was agreed for instants that have come; says which shards this peer newly acts for, and from
    /// which slot on.
    pub(crate) fn settle(&mut self, now: Timestamp) -> Vec<(Timestamp, ShardSet)> {
        let mut gained = Vec::new();
        let mut due: Vec<(Timestamp, bool, ShardSet)> = Vec::new();
        due.extend(self.gaining.extract_if(.., |(from, _)| *from <= now).map(|(from, shards)| (from, false, shards)));
        due.extend(self.granted.extract_if(.., |(from, _)| *from <= now).map(|(from, shards)| (from, true, shards)));
        // In order: what was received may have been promised onward.
        due.sort_by_key(|(from, is_given, _)| (*from, *is_given));
        self.changed |= !due.is_empty();
        if due.iter().any(|(_, is_given, _)| *is_given) {
            self.promised = self.granted.iter().fold(ShardSet::default(), |all, (_, shards)| all.union(shards));
            self.yielded = self.yielded.intersection(&self.promised);
        }
        for (from, is_given, shards) in due {
            if is_given {
                self.acting.remove_all(&shards);
            } else {
                gained.push((from, shards.difference(&self.acting)));
                self.acting.insert_all(&shards);
            }
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
    fn first_heard(&mut self, silent: &BTreeSet<PeerId>) -> ShardSet {
        let nobody_silent = self.placement.candidates().all(|candidate| !silent.contains(&candidate.id));
        let mut open = if nobody_silent { self.first.clone() } else { self.foremost(silent) };
        open.remove_all(&self.acting);
        for ask in &self.asks {
            open.remove_all(&ask.shards);
        }
        for (_, shards) in &self.gaining {
            open.remove_all(shards);
        }
        open
    }

    /// Shards of which all that rank before us are silent; a look at each shard, so it is kept until somebody else is.
    fn foremost(&mut self, silent: &BTreeSet<PeerId>) -> ShardSet {
        if let Some((known, shards)) = &self.foremost
            && known == silent
        {
            return shards.clone();
        }
        let ours = |shard: &ShardId| self.placement.ranks(*shard).find(|peer| !silent.contains(peer)) == Some(self.me);
        let shards: ShardSet = self.ranked.iter().filter(ours).collect();
        self.foremost = Some((silent.clone(), shards.clone()));
        shards
    }

    /// Somebody asks for shards: they are its own from the slot on, or a little later if that has passed here. Says from
    /// which slot on which of them are.
    pub(crate) fn grant(&mut self, shards: &ShardSet, from: Timestamp, now: Timestamp) -> Vec<(Timestamp, ShardSet)> {
        let from = from.max(Timestamp(now.ms() + 1));
        let mut rest = shards.clone();
        let mut answer = Vec::new();
        // What was promised to another, or is being given up, is this one's from the same slot on: whoever that was may
        // never have heard of it, and if it did the two settle it by rank.
        self.granted.sort_by_key(|(at, _)| *at);
        for (at, given) in self.granted.iter().filter(|(at, _)| *at < from) {
            let again = given.intersection(&rest);
            if !again.is_empty() {
                rest.remove_all(&again);
                answer.push((*at, again));
            }
        }
        if !rest.is_empty() {
            // What we are about to receive is promised as well: until then nobody else starts it.
            let coming = self.gaining.iter().filter(|(at, _)| *at < from);
            let mut mine = coming.fold(self.acting.clone(), |all, (_, shards)| all.union(shards));
            mine = mine.intersection(&rest);
            if !mine.is_empty() {
                rest.remove_all(&mine);
                self.promised.insert_all(&mine);
                self.granted.push((from, mine.clone()));
                answer.push((from, mine));
            }
            for (_, gaining) in self.gaining.iter_mut().filter(|(at, _)| *at >= from) {
                let late = gaining.intersection(&rest);
                if !late.is_empty() {
                    gaining.remove_all(&late);
                    rest.remove_all(&late);
                    answer.push((from, late));
                }
            }
            // Of what we do not act for any more nobody waits for us: whoever we yielded to may have stopped as well.
            if !rest.is_empty() {
                answer.push((Timestamp(now.ms() + 1), rest));
            }
        }
        for (_, _, received) in &mut self.received {
            received.remove_all(shards);
        }
        answer
    }

    /// The answer to our request, or a part of it. What comes later than it was waited for is ours all the same: who gave
    /// it starts it no more.
    pub(crate) fn granted_to_us(&mut self, by: PeerId, shards: &ShardSet, from: Timestamp) {
        // Whoever else was asked for them: nobody asks for what it is about to act for.
        self.asks.iter_mut().for_each(|ask| ask.shards.remove_all(shards));
        self.asks.retain(|ask| !ask.shards.is_empty());
        let coming = self.gaining.iter().fold(self.acting.clone(), |all, (_, shards)| all.union(shards));
        let ours = shards.difference(&coming);
        if !ours.is_empty() {
            self.received.push((by, from.after(GIVER_LAG_MAX), ours.clone()));
            self.gaining.push((from, ours));
        }
        if let Some(theirs) = self.others.get_mut(&by) {
            *theirs = theirs.difference(shards);
        }
    }

    /// Who gave us shards fell silent before it said that it gave them: what was due until then it may not have started.
    /// They are ours at once; says which.
    pub(crate) fn inherit(&mut self, giver: PeerId) -> ShardSet {
        // What it says later, if it lives and has not stopped yet, is still no word to yield to.
        let of_giver = self.received.iter().filter(|(by, _, _)| *by == giver);
        let shards = of_giver.fold(ShardSet::default(), |all, (_, _, shards)| all.union(shards));
        for (_, gaining) in &mut self.gaining {
            let at_once = gaining.intersection(&shards);
            self.changed |= !at_once.is_empty();
            gaining.remove_all(&at_once);
            self.acting.insert_all(&at_once);
        }
        shards
    }

    /// A peer says what it acts for: where both do, the worse-ranked yields, from the next slot that is not yet due by the
    /// other's clock, which read `their_wall`. Says what we gave up.
    pub(crate) fn hear(&mut self, peer: PeerId, theirs: ShardSet, their_wall: Timestamp, now: Timestamp) -> ShardSet {
        // What is promised from a slot on goes at that slot by our own clock, however early theirs runs.
        let both = self.acting.intersection(&theirs).difference(&self.promised);
        // Who gave us a shard stops at a slot, by its own clock; to its word from before nobody yields.
        self.received.retain(|(_, until, _)| *until > now);
        let of_giver = self.received.iter().filter(|(by, _, _)| *by == peer);
        let ending = of_giver.fold(ShardSet::default(), |all, (_, _, shards)| all.union(shards));
        let given = self.placement.before(&both.difference(&ending), peer, self.me);
        self.go_on_where_both_yielded(peer, &theirs, now);
        if !given.is_empty() {
            self.ceded.push((peer, now.after(CEDED_FOR), given.clone()));
            // Who acts since a moment ago starts no slot that was due before, and by our clock it may still be to come.
            if their_wall > now {
                self.promised.insert_all(&given);
                self.yielded.insert_all(&given);
                self.granted.push((their_wall, given.clone()));
            } else {
                self.acting.remove_all(&given);
            }
            self.changed = true;
        }
        self.others.insert(peer, theirs);
        // The other one has to hear of us too, if it is the one to yield: with the next beat, or two peers whose views
        // differ would talk of nothing else.
        if both.len() > given.len() {
            self.contested.insert(peer);
        }
        given
    }

    /// Two whose views differ may each find that the other ranks before it, and both yield. Of these the one with the smaller
    /// id goes on, unless somebody else acts.
    fn go_on_where_both_yielded(&mut self, peer: PeerId, theirs: &ShardSet, now: Timestamp) {
        self.ceded.retain(|(_, until, _)| *until > now);
        let mut back = ShardSet::default();
        for (_, _, shards) in self.ceded.iter_mut().filter(|(to, _, _)| *to == peer) {
            let stopped = shards.difference(theirs);
            shards.remove_all(&stopped);
            back.insert_all(&stopped);
        }
        if back.is_empty() || peer < self.me {
            return;
        }
        for (_, shards) in self.others.iter().filter(|(other, _)| **other != peer) {
            back.remove_all(shards);
        }
        if back.is_empty() {
            return;
        }
        let promised = back.intersection(&self.yielded);
        self.granted.iter_mut().for_each(|(_, shards)| shards.remove_all(&promised));
        self.promised.remove_all(&promised);
        self.yielded.remove_all(&promised);
        self.asks.iter_mut().for_each(|ask| ask.shards.remove_all(&back));
        self.asks.retain(|ask| !ask.shards.is_empty());
        self.acting.insert_all(&back);
        self.changed = true;
    }

    /// What we act for, less what a better rank acts for: that is its to speak of.
    pub(crate) fn spoken(&self) -> ShardSet {
        self.acting.difference(&self.yielded)
    }

    /// What each of some others needs to hear of what we act for: the shards it is ranked for, and all for one that is
    /// not ranked yet. A mesh of a thousand talks of a few shards a pair.
    pub(crate) fn acting_for(&self, others: &[PeerId]) -> Vec<ShardSet> {
        if self.placement.len() <= RANKS_KEPT {
            return vec![self.spoken(); others.len()];
        }
        let spoken = self.spoken();
        let mut told = self.placement.ranked_of(&spoken, others);
        for (peer, shards) in others.iter().zip(&mut told) {
            if !self.placement.contains(*peer) {
                shards.clone_from(&spoken);
            } else if let Some(theirs) = self.others.get(peer) {
                // Who acts for a shard of ours hears of it as well, however far behind it ranks by now: of two that were
                // promised a shard by one giver, the worse-ranked would act for ever.
                shards.insert_all(&theirs.intersection(&spoken));
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
        self.yielded = ShardSet::default();
        self.gaining.clear();
        self.received.clear();
        self.ceded.clear();
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
        ownership.hear(PeerId(2), theirs.clone(), Timestamp(0), Timestamp(0));
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
        assert_eq!(second.grant(&promised, Timestamp(80), Timestamp(60)), [(Timestamp(80), promised.clone())]);
        assert_eq!(second.hear(PeerId(1), mine.clone(), Timestamp(60), Timestamp(60)), mine.difference(&promised));
        assert!(promised.iter().all(|shard| second.may_start(shard, Timestamp(79))));
        assert!(!promised.iter().any(|shard| second.may_start(shard, Timestamp(80))));
        assert!(
            first.hear(PeerId(2), mine, Timestamp(60), Timestamp(60)).is_empty()
                && first.contested.contains(&PeerId(2))
        );
    }

    #[test]
    fn who_yields_starts_what_was_due_before_the_other_began_by_its_clock() {
        let (mut first, mut second) = (among(1, 1..=2), among(2, 1..=2));
        first.review(&BTreeSet::new(), at(0));
        second.review(&[PeerId(1)].into(), at(0));
        let mine = first.acting().clone();
        let shard = mine.iter().next().expect("half of all");
        assert_eq!(second.hear(PeerId(1), mine.clone(), Timestamp(250), Timestamp(60)), mine);
        assert!(second.may_start(shard, Timestamp(249)) && !second.may_start(shard, Timestamp(250)));
        assert!(second.hear(PeerId(1), mine.clone(), Timestamp(300), Timestamp(110)).is_empty(), "said once");
        second.settle(Timestamp(250));
        assert!(!second.acting().contains(shard));
    }

    #[test]
    fn of_two_that_yielded_to_each_other_the_smaller_id_goes_on() {
        let (mut first, mut second) = (among(1, 1..=3), among(2, 1..=2));
        let shards: ShardSet = ShardSet::all().iter().take(20).collect();
        (first.acting, second.acting) = (shards.clone(), shards.clone());
        let now = Timestamp(60);
        let to_second = first.hear(PeerId(2), shards.clone(), Timestamp(90), now);
        let to_first = second.hear(PeerId(1), shards.clone(), now, now);
        assert!(!to_second.is_empty() && !to_first.is_empty());
        // As if their views differed over all of them.
        for (one, other) in [(&mut first, PeerId(2)), (&mut second, PeerId(1))] {
            one.acting.remove_all(&shards);
            one.ceded.push((other, now.after(CEDED_FOR), shards.clone()));
        }
        assert!(first.hear(PeerId(2), ShardSet::default(), now, now).is_empty());
        assert!(second.hear(PeerId(1), ShardSet::default(), now, now).is_empty());
        assert_eq!((first.acting.clone(), second.acting.clone()), (shards.clone(), ShardSet::default()));
        assert!(shards.iter().all(|shard| first.may_start(shard, Timestamp(95))), "nor is it promised any more");
        assert!(second.hear(PeerId(1), shards, now, now).is_empty());
    }

    #[test]
    fn who_inherits_from_a_silent_giver_does_not_yield_to_what_it_says_later() {
        let (mut first, mut second) = (among(1, 1..=2), among(2, 1..=2));
        first.review(&BTreeSet::new(), at(0));
        second.hear(PeerId(1), first.acting().clone(), Timestamp(0), Timestamp(0));
        let asked: ShardSet = first.acting().iter().take(10).collect();
        for (from, shards) in first.grant(&asked, Timestamp(500), Timestamp(100)) {
            second.granted_to_us(PeerId(1), &shards, from);
        }
        assert_eq!(second.inherit(PeerId(1)), asked);
        assert!(second.hear(PeerId(1), first.acting().clone(), Timestamp(300), Timestamp(300)).is_empty());
        assert_eq!(second.acting().intersection(&asked), asked, "who gave them stops at 500 whatever we do");
        assert_eq!(second.hear(PeerId(1), asked.clone(), Timestamp(2501), Timestamp(2501)), asked, "it took them back");
    }

    #[test]
    fn who_acts_for_a_shard_of_ours_hears_of_it_however_far_behind_it_ranks() {
        let mut ownership = among(1, 1..=40);
        ownership.review(&BTreeSet::new(), at(0));
        let unranked = |shard: &ShardId| ownership.placement.rank_of(*shard, PeerId(2)).is_none();
        let both: ShardSet = ownership.acting().iter().filter(unranked).take(1).collect();
        ownership.hear(PeerId(2), both.clone(), Timestamp(0), Timestamp(0));
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
