//! Who is asked for what by a query, and whom else when those are late: a pure machine over the views of one peer.
//!
//! Every shard is asked of one holder that claims the whole span; where nobody does, of all that have a part of it. Who is late
//! is doubled by others that have as much. Who is alive and silent may be busy, and may be dead: it is asked where nobody
//! that is heard has as much, and waited for until it is down. A read is whole once what was claimed of the span by anybody,
//! when it began, was answered by peers that claimed it too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Monotonic, PeerId, Timestamp};

use crate::possession::{Extent, Possession};
use crate::view::{MeshView, PeerInfo};

/// A question that has not arrived for so long is asked of others too.
pub const HEDGE: Duration = Duration::from_millis(200);
/// One that has arrived has so long to be answered before others are asked too: whoever has it is alive.
pub const LATE: Duration = Duration::from_secs(2);

/// Who answers for which shards over one span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// This peer.
    pub local: ShardSet,
    /// Others.
    pub remote: Vec<(PeerId, ShardSet)>,
    /// Shards of which nobody that is heard has the whole span.
    pub unanswered: ShardSet,
}

/// Plans who answers alone for some shards over `[start, end]`, some peers aside. A span that ended is not whole: what is pushed
/// late with its instants goes to those who hold the shard now.
pub fn plan_alone(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp, avoided: &[PeerId]) -> Plan {
    let local = view.own.covering_live(start, end).intersection(shards);
    let rest = shards.difference(&local);
    let heard = view.peers.iter().filter(|peer| is_heard(peer) && !avoided.contains(&peer.id));
    let covering = heard.filter_map(|peer| {
        Some((peer.id, view.possession.get(&peer.id)?.covering_live(start, end).intersection(&rest)))
    });
    let (remote, unanswered) = shared(covering.filter(|(_, theirs)| !theirs.is_empty()).collect(), rest);
    Plan { local, remote, unanswered }
}

/// Gives each shard to one of those that have it, the load spread; says what is left over.
fn shared(covering: Vec<(PeerId, ShardSet)>, mut rest: ShardSet) -> (Vec<(PeerId, ShardSet)>, ShardSet) {
    let mut taken_by = Vec::new();
    // Every peer in turn takes first pick for a part of the shards.
    for (index, (peer, theirs)) in covering.iter().enumerate() {
        let others_too = covering[index + 1..].iter().fold(ShardSet::default(), |all, (_, set)| all.union(set));
        let alone = theirs.difference(&others_too).intersection(&rest);
        let shared = theirs.intersection(&others_too).intersection(&rest);
        let later = covering.len() - index;
        let share: ShardSet = shared.iter().filter(|shard| usize::from(shard.0) % later == 0).collect();
        let taken = alone.union(&share);
        if !taken.is_empty() {
            rest.remove_all(&taken);
            taken_by.push((*peer, taken));
        }
    }
    (taken_by, rest)
}

/// Of some shards, those of which peers that are heard have less of `[start, end]` than is claimed.
pub fn unheard(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp) -> ShardSet {
    let claimed = Claimed::of(view, shards, start, end);
    let heard: Vec<(&Possession, &ShardSet)> =
        candidates(view).filter(|one| one.is_heard).map(|one| (&**one.held, shards)).collect();
    claimed.lacking(&heard).union(&claimed.unclaimed(&heard))
}

/// Whether a peer is there to be asked, as far as anybody knows.
pub fn is_heard(peer: &PeerInfo) -> bool {
    peer.alive && !peer.silent
}

/// One that may be asked.
struct Candidate<'a> {
    id: PeerId,
    held: &'a Arc<Possession>,
    generation: Option<Generation>,
    is_heard: bool,
    /// Of those that are not heard, the likeliest to be alive come first.
    doubt: (bool, std::cmp::Reverse<Timestamp>),
}

/// All that are alive and have said what they hold, this peer first.
fn candidates(view: &MeshView) -> impl Iterator<Item = Candidate<'_>> {
    let doubt = (false, std::cmp::Reverse(Timestamp(0)));
    let me = Candidate { id: view.me, held: &view.own, generation: None, is_heard: true, doubt };
    let others = view.peers.iter().filter(|peer| peer.alive).filter_map(|peer| {
        let held = view.possession.get(&peer.id)?;
        let doubt = (peer.suspect, std::cmp::Reverse(peer.since));
        let generation = Some(peer.generation);
        Some(Candidate { id: peer.id, held, generation, is_heard: is_heard(peer), doubt })
    });
    std::iter::once(me).chain(others)
}

/// What anybody claims of some shards over a span, the dead too.
#[derive(Clone, Debug)]
struct Claimed {
    start: Timestamp,
    /// The first instant after the span.
    end: Timestamp,
    shards: ShardSet,
    /// By span, cut to what is asked for.
    spans: BTreeMap<(Timestamp, Timestamp), ShardSet>,
    /// What somebody takes in now.
    open: ShardSet,
    /// Whether somebody that cannot be asked never said what it holds.
    unknown: bool,
}

impl Claimed {
    fn of(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp) -> Claimed {
        let end = Timestamp(end.ms().saturating_add(1));
        let unknown = view.peers.iter().any(|peer| !is_heard(peer) && !view.possession.contains_key(&peer.id));
        let (spans, open) = (BTreeMap::new(), ShardSet::default());
        let mut claimed = Claimed { start, end, shards: shards.clone(), spans, open, unknown };
        let known = view.peers.iter().filter_map(|peer| view.possession.get(&peer.id)).chain([&view.own]);
        known.for_each(|held| claimed.add(held));
        claimed
    }

    fn add(&mut self, held: &Possession) {
        for claim in held.extents().iter() {
            if claim.to == Timestamp::MAX {
                self.open.insert_all(&claim.shards.intersection(&self.shards));
            }
            let (from, to) = (claim.from.max(self.start), claim.to.min(self.end));
            if from < to && !claim.shards.is_disjoint(&self.shards) {
                self.spans.entry((from, to)).or_default().insert_all(&claim.shards.intersection(&self.shards));
            }
        }
    }

    /// The shards of which some peers, each asked for some, have less than is claimed. A shard that somebody takes in now needs
    /// one of those that do: what is pushed late for the span went to them.
    fn lacking(&self, here: &[(&Possession, &ShardSet)]) -> ShardSet {
        self.lacking_since(here, |_| self.shards.clone())
    }

    /// The same, but of each shard the time before they first claim anything of it counts for nothing: who was first claims all
    /// there ever was, and who copied what there was claims no more than that.
    fn lacking_since_begun(&self, here: &[(&Possession, &ShardSet)]) -> ShardSet {
        self.lacking_since(here, |from| {
            let mut begun = ShardSet::default();
            for (held, of) in here {
                let before = held.extents().iter().filter(|extent| extent.from <= from);
                before.for_each(|extent| begun.insert_all(&extent.shards.intersection(of)));
            }
            begun
        })
    }

    fn lacking_since(&self, here: &[(&Possession, &ShardSet)], begun: impl Fn(Timestamp) -> ShardSet) -> ShardSet {
        let extents: Vec<(&Extent, &ShardSet)> = here
            .iter()
            .flat_map(|(held, of)| held.extents().iter().map(move |extent| (extent, *of)))
            .filter(|(extent, _)| extent.from < self.end && extent.to > self.start || extent.to == Timestamp::MAX)
            .collect();
        let mut lacking = self.open.clone();
        for (extent, of) in extents.iter().filter(|(extent, _)| extent.to == Timestamp::MAX) {
            lacking.remove_all(&extent.shards.intersection(of));
        }
        for ((from, to), shards) in &self.spans {
            let mut left = shards.difference(&lacking);
            for (extent, of) in extents.iter().filter(|(extent, _)| extent.from <= *from && extent.to >= *to) {
                left.remove_all(&extent.shards.intersection(of));
            }
            if !left.is_empty() {
                lacking.insert_all(&holes(&extents, (*from, *to), &left, begun(*from)));
            }
        }
        lacking
    }

    /// The shards of which some peers have nothing of the span, where somebody else may have, or nobody takes them in.
    fn unclaimed(&self, here: &[(&Possession, &ShardSet)]) -> ShardSet {
        let mut unclaimed = self.shards.clone();
        let mut taken_in = ShardSet::default();
        for (held, of) in here {
            unclaimed.remove_all(&held.touching(self.start, Timestamp(self.end.ms() - 1)).intersection(of));
            taken_in.insert_all(&held.open_shards().intersection(of));
        }
        // What nobody takes in was anybody's; what others claim they have.
        let elsewhere = self.spans.values().fold(ShardSet::default(), |all, shards| all.union(shards));
        if self.unknown { unclaimed } else { unclaimed.difference(&taken_in.difference(&elsewhere)) }
    }
}

/// Of some shards, those of which some extents together leave something of `[from, to)` uncovered: of those that have begun from
/// the start, of the others from where the first extent begins.
fn holes(
    extents: &[(&Extent, &ShardSet)],
    (from, to): (Timestamp, Timestamp),
    shards: &ShardSet,
    mut begun: ShardSet,
) -> ShardSet {
    let near: Vec<(&Extent, ShardSet)> = extents
        .iter()
        .filter(|(extent, _)| extent.from < to && extent.to > from)
        .map(|(extent, of)| (*extent, extent.shards.intersection(of).intersection(shards)))
        .filter(|(_, theirs)| !theirs.is_empty())
        .collect();
    let bounds = near.iter().flat_map(|(extent, _)| [extent.from, extent.to]).filter(|at| (from..to).contains(at));
    let mut cuts: Vec<Timestamp> = bounds.chain([from]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut holes = ShardSet::default();
    for cut in cuts {
        let mut here = ShardSet::default();
        for (_, theirs) in near.iter().filter(|(extent, _)| extent.from <= cut && extent.to > cut) {
            here.insert_all(theirs);
        }
        holes.insert_all(&shards.intersection(&begun).difference(&here));
        begun.insert_all(&here);
    }
    holes
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asked; with whether it is known to have the question.
    Waiting {
        arrived: bool,
    },
    Answered,
    Failed,
}

/// One question to one peer.
#[derive(Clone, Debug)]
struct Ask {
    of: PeerId,
    shards: ShardSet,
    at: Monotonic,
    /// What it claimed when it was asked.
    held: Arc<Possession>,
    /// Whether it was heard then, and in which of its lives.
    was_heard: bool,
    generation: Option<Generation>,
    stage: Stage,
}

/// One read under way.
///
/// Whoever drives it sends what [`Reading::ask`] says, tells it what came of that, and asks again when something did, when
/// the view changes and at [`Reading::wakes_at`], until it [is done](Reading::is_done). Of one instant that two peers answer
/// with, either reading will do.
#[derive(Clone, Debug)]
pub struct Reading {
    claimed: Claimed,
    /// Who did not do what was asked of it before: as good as silent.
    avoided: Vec<PeerId>,
    asks: Vec<Ask>,
}

impl Reading {
    /// A read of some shards over `[start, end]`, by the view of its beginning.
    pub fn new(view: &MeshView, shards: &ShardSet, start: Timestamp, end: Timestamp, avoided: Vec<PeerId>) -> Reading {
        Reading { claimed: Claimed::of(view, shards, start, end), avoided, asks: Vec::new() }
    }

    /// Whom to ask now, for what, by the newest view: a number to tell the outcome by, the peer and its shards. This peer may
    /// be among them.
    pub fn ask(&mut self, view: &MeshView, now: Monotonic) -> Vec<(usize, PeerId, ShardSet)> {
        let known = self.asks.len();
        for ask in &mut self.asks {
            let same = |peer: &PeerInfo| peer.alive && Some(peer.generation) == ask.generation;
            let is_there = ask.of == view.me || view.peer(ask.of).is_some_and(same);
            if matches!(ask.stage, Stage::Waiting { .. }) && !is_there {
                ask.stage = Stage::Failed;
            }
        }
        let mut lacking = self.lacking(view, now);
        if known > 0 && lacking.is_empty() {
            return Vec::new();
        }
        let (heard, mut others): (Vec<Candidate<'_>>, Vec<_>) =
            candidates(view).partition(|one| one.is_heard && !self.avoided.contains(&one.id));
        others.sort_by_key(|one| (self.avoided.contains(&one.id), one.doubt));
        self.ask_for_all(&heard, view.me, &lacking, now);
        lacking = self.lacking(view, now);
        self.ask_for_parts(&heard, &lacking, known == 0, view, now);
        for one in others {
            lacking = self.lacking(view, now);
            let theirs = self.some_of(&one, &lacking);
            self.add(&one, theirs, now);
        }
        let number = |(index, ask): (usize, &Ask)| (known + index, ask.of, ask.shards.clone());
        self.asks[known..].iter().enumerate().map(number).collect()
    }

    /// Asks for each shard one that has the whole span, this peer where it has.
    fn ask_for_all(&mut self, heard: &[Candidate<'_>], me: PeerId, lacking: &ShardSet, now: Monotonic) {
        let (start, last) = (self.claimed.start, Timestamp(self.claimed.end.ms() - 1));
        let mut rest = lacking.clone();
        let mut covering = Vec::new();
        for one in heard {
            let all = one.held.covering_live(start, last).intersection(&rest).difference(&self.asked_of(one.id));
            if one.id == me {
                rest.remove_all(&all);
                self.add(one, all, now);
            } else if !all.is_empty() {
                covering.push((one.id, all));
            }
        }
        for (peer, shards) in shared(covering, rest).0 {
            let one = heard.iter().find(|one| one.id == peer).expect("it is one of them");
            self.add(one, shards, now);
        }
    }

    /// Asks all that have a part of what nobody has whole: where that makes it whole, and where nothing better may come.
    fn ask_for_parts(
        &mut self,
        heard: &[Candidate<'_>],
        lacking: &ShardSet,
        is_first: bool,
        view: &MeshView,
        now: Monotonic,
    ) {
        let parts: Vec<ShardSet> = heard.iter().map(|one| self.some_of(one, lacking)).collect();
        if parts.iter().all(ShardSet::is_empty) {
            return;
        }
        let mut here = self.counted(view, now);
        here.extend(heard.iter().zip(&parts).map(|(one, shards)| (&**one.held, shards)));
        let mut asked_for = lacking.difference(&self.claimed.lacking(&here));
        if is_first {
            asked_for.insert_all(lacking);
        } else {
            let waiting = self.asks.iter().filter(|ask| matches!(ask.stage, Stage::Waiting { .. }));
            let waited_for = waiting.fold(ShardSet::default(), |all, ask| all.union(&ask.shards));
            asked_for.insert_all(&lacking.difference(&waited_for));
        }
        for (one, shards) in heard.iter().zip(parts) {
            self.add(one, shards.intersection(&asked_for), now);
        }
    }

    /// Of some shards, those of which one has anything and was not asked for.
    fn some_of(&self, one: &Candidate<'_>, shards: &ShardSet) -> ShardSet {
        let (start, last) = (self.claimed.start, Timestamp(self.claimed.end.ms() - 1));
        let some = one.held.touching_of(shards, start, last);
        some.union(&one.held.open_shards().intersection(shards)).difference(&self.asked_of(one.id))
    }

    fn asked_of(&self, peer: PeerId) -> ShardSet {
        let asks = self.asks.iter().filter(|ask| ask.of == peer);
        asks.fold(ShardSet::default(), |all, ask| all.union(&ask.shards))
    }

    fn add(&mut self, one: &Candidate<'_>, shards: ShardSet, now: Monotonic) {
        if !shards.is_empty() {
            let (held, stage) = (Arc::clone(one.held), Stage::Waiting { arrived: false });
            let (was_heard, generation) = (one.is_heard, one.generation);
            self.asks.push(Ask { of: one.id, shards, at: now, held, was_heard, generation, stage });
        }
    }

    /// Of whom an answer came, or may still come in time.
    fn counted(&self, view: &MeshView, now: Monotonic) -> Vec<(&Possession, &ShardSet)> {
        let counts = |ask: &&Ask| match ask.stage {
            Stage::Answered => true,
            Stage::Failed => false,
            Stage::Waiting { .. } => {
                let fell_silent = || ask.was_heard && !view.peer(ask.of).is_some_and(is_heard);
                ask.of == view.me || (now < ask.late_at() && !fell_silent())
            }
        };
        self.asks.iter().filter(counts).map(|ask| (&*ask.held, &ask.shards)).collect()
    }

    fn lacking(&self, view: &MeshView, now: Monotonic) -> ShardSet {
        self.claimed.lacking(&self.counted(view, now))
    }

    fn answers(&self) -> Vec<(&Possession, &ShardSet)> {
        let answered = self.asks.iter().filter(|ask| ask.stage == Stage::Answered);
        answered.map(|ask| (&*ask.held, &ask.shards)).collect()
    }

    /// A peer has what it is asked.
    pub fn arrived(&mut self, ask: usize) {
        if let Stage::Waiting { arrived } = &mut self.asks[ask].stage {
            *arrived = true;
        }
    }

    /// A peer has answered.
    pub fn answered(&mut self, ask: usize) {
        self.asks[ask].stage = Stage::Answered;
    }

    /// A peer will not answer.
    pub fn failed(&mut self, ask: usize) {
        self.asks[ask].stage = Stage::Failed;
    }

    /// When somebody who is not late yet will be.
    pub fn wakes_at(&self, now: Monotonic) -> Option<Monotonic> {
        let waiting = self.asks.iter().filter(|ask| matches!(ask.stage, Stage::Waiting { .. }));
        waiting.map(Ask::late_at).filter(|at| *at > now).min()
    }

    /// Whether all that is claimed was answered, or nobody is left who may answer; [`Reading::ask`] comes first.
    pub fn is_done(&self) -> bool {
        !self.asks.iter().any(|ask| matches!(ask.stage, Stage::Waiting { .. }))
            || self.claimed.lacking(&self.answers()).is_empty()
    }

    /// The shards of which something is missing, or may be.
    pub fn missing(&self) -> ShardSet {
        let answers = self.answers();
        self.claimed.lacking_since_begun(&answers).union(&self.claimed.unclaimed(&answers))
    }
}

impl Ask {
    fn late_at(&self) -> Monotonic {
        let patience = match self.stage {
            Stage::Waiting { arrived: true } => LATE,
            _ => HEDGE,
        };
        self.at + patience
    }
}

#[cfg(test)]
mod tests;
