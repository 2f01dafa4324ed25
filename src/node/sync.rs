//! What this peer should hold, what it does hold, and the copies under way between the two.
//!
//! A shard gained is subscribed to first (live batches from now on) and fetched second (what came before), so that the
//! two overlap. What this peer held until a moment ago is fetched as log from everybody, since nobody alone need have
//! it all; what it never held is copied as head chunks from one peer that holds it whole, then as log for the last
//! minute.
//!
//! A claim must stay true while others come and go. Whoever was not heard for a while may have written, or may have
//! kept of somebody who died, what is not here: that is a *debt*, named by peer, instant and shards, and fetched as soon
//! as that peer is heard. Three things make debts: a peer is lost (it owes since it was last heard), a peer dies (all
//! others owe what they may have had of it alone), and a claim begins while a peer cannot be asked (it owes since then;
//! what the donor of a copy was owed is owed to the copy as well).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use promesh_model::shard::ShardSet;
use promesh_model::{Monotonic, Now, PeerId, Timestamp};

use crate::possession::{Debt, Extent, Possession};

/// The spans that become blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    length_ms: i64,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows::of(Duration::from_secs(2 * 3600))
    }
}

impl Windows {
    pub(crate) fn of(length: Duration) -> Windows {
        Windows { length_ms: i64::try_from(length.as_millis()).unwrap_or(i64::MAX).max(8) }
    }

    /// The earliest instant since when everybody's log has all. A peer that was away for longer copies the open window
    /// anew, and older debts are left to the digests of sealed windows.
    ///
    /// A window becomes a block, and leaves the log, half a window after its end; clocks may differ, and a look may be
    /// late, by an eighth of that. Beyond three quarters of a window the open window is copied sooner than all of its log.
    fn reach(self, now: Timestamp) -> Timestamp {
        let open_ms = self.length_ms / 2 - (self.length_ms / 16).min(60_000);
        let cut = (now.ms() - open_ms).div_euclid(self.length_ms).saturating_mul(self.length_ms);
        Timestamp((now.ms() - self.length_ms / 4 * 3).max(cut))
    }
}
/// Overlap of a fetched log with what is here: more than a slow scrape, a stalled stream and a late fsync.
pub(crate) const OVERLAP: Duration = Duration::from_secs(30);

/// In a large mesh a span that ended longer ago goes on only by the log of one who has had all since.
const PUT_TOGETHER: Duration = Duration::from_secs(60);

/// What others have of the future is fetched once it is so near: clocks differ.
const SOON: Duration = Duration::from_secs(60);

/// A peer from which a copy failed is not asked again for so long.
const REST: Duration = Duration::from_secs(1);

/// One copy under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) from: PeerId,
    pub(crate) shards: ShardSet,
    /// Log since then; `None` for the open window.
    pub(crate) since: Option<Timestamp>,
    /// What it is for.
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Fetches of one group make one claim together.
    Group(u64),
    /// A debt of the peer it comes from.
    Debt,
}

/// What a finished copy means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) shards: ShardSet,
}

/// What is known of the others when copies are planned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings<'a> {
    /// Those that are heard, with what they hold.
    pub(crate) donors: BTreeMap<PeerId, Arc<Possession>>,
    /// Those of them that have not said what they hold.
    pub(crate) unknown: BTreeSet<PeerId>,
    /// Those that are not heard, with what they said they hold, and whether they are alive.
    pub(crate) away: Vec<(Arc<Possession>, bool)>,
    /// Every peer known to exist or to have existed, heard or not.
    pub(crate) known: BTreeSet<PeerId>,
    /// Whether nobody else is alive: then this peer has the most there is. With somebody merely silent it waits.
    pub(crate) alone: bool,
    /// Whether there never was anybody else, and nobody is expected.
    pub(crate) first: bool,
    /// In a large mesh, what each says it acts for: only those are asked for a log that may have something of it.
    pub(crate) acting: Option<&'a BTreeMap<PeerId, ShardSet>>,
}

impl Surroundings<'_> {
    /// Of some shards, those of which a peer may have batches since an instant.
    fn concerned(&self, peer: PeerId, possession: &Possession, shards: &ShardSet, since: Timestamp) -> ShardSet {
        let Some(acting) = self.acting.filter(|_| !self.unknown.contains(&peer)) else { return shards.clone() };
        let mut theirs = possession.touching_of(shards, since, Timestamp::MAX);
        if let Some(acting) = acting.get(&peer) {
            theirs.insert_all(&acting.intersection(shards));
        }
        theirs
    }
}

/// The copies of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) own: Possession,
    windows: Windows,
    wanted: ShardSet,
    fetches: BTreeMap<u64, Fetch>,
    groups: BTreeMap<u64, Group>,
    /// Whose debts are being fetched, and whether more was added meanwhile.
    paying: BTreeMap<PeerId, bool>,
    /// What came from too far in the future while debts of the same peer were paid: owed anew once these are.
    refused: BTreeMap<PeerId, Debt>,
    /// When the next debt can be paid that could not be when copies were last planned.
    next_due: Option<Timestamp>,
    /// By peer, how often it was found that it may have what is not here.
    doubts: BTreeMap<PeerId, u64>,
    /// Peers from which a copy failed, and until when they are not asked.
    resting: BTreeMap<PeerId, Monotonic>,
    token: u64,
}

/// Copies that together make claims: the open windows of some donors, and logs since one instant, each peer's once.
#[derive(Clone, Debug)]
struct Group {
    parts: Vec<Part>,
    /// Copies under way.
    fetches: usize,
}

/// Whom to ask for what, and since when; `None` for the open window.
type Asked = (PeerId, ShardSet, Option<Timestamp>);

/// What one donor's open window, if one is needed, and all logs together make a claim.
#[derive(Clone, Debug)]
struct Part {
    donor: Option<PeerId>,
    shards: ShardSet,
    claim: Claim,
    failed: bool,
}

impl Part {
    fn of(donor: Option<PeerId>, shards: ShardSet, claim: Claim) -> Part {
        Part { donor, shards, claim, failed: false }
    }
}

#[derive(Clone, Copy, Debug)]
enum Claim {
    /// Spans that ended at or after this go on.
    Resume(Timestamp),
    /// A span begins here, or later if the donor's does.
    Begin(Timestamp),
}

impl Holdings {
    /// What was held when the peer last ran, of which samples before `durable` are on its disk.
    pub(crate) fn restarted(mut own: Possession, durable: Timestamp, windows: Windows, now: Timestamp) -> Holdings {
        let reach = windows.reach(now);
        // Batches do not reach the log in the order of their slots. And who was owed to us may have died while we were
        // away, with others keeping what it had: as far back as the oldest debt everybody is asked again.
        let doubtful = own.debts().values().map(|debt| debt.since.max(reach)).min().unwrap_or(Timestamp::MAX);
        own.end(&ShardSet::all(), durable.before(OVERLAP).min(doubtful));
        Holdings { own, windows, ..Holdings::default() }
    }

    pub(crate) fn wanted(&self) -> &ShardSet {
        &self.wanted
    }

    pub(crate) fn fetches(&self) -> impl Iterator<Item = &Fetch> {
        self.fetches.values()
    }

    /// Whether claims are being made; debts may take as long as a peer is away.
    pub(crate) fn is_syncing(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Makes `wanted` what this peer holds; says whether that changed.
    pub(crate) fn want(&mut self, wanted: ShardSet, now: Timestamp) -> bool {
        if self.wanted == wanted {
            return false;
        }
        let lost = self.wanted.difference(&wanted);
        // Batches for the last slots may still have been on their way.
        self.own.end(&lost, now.before(OVERLAP));
        // Their stream stops: what is being copied cannot be continued.
        for part in self.groups.values_mut().flat_map(|group| &mut group.parts) {
            part.shards.remove_all(&lost);
        }
        self.wanted = wanted;
        true
    }

    /// Shards of which batches since an instant are claimed, or are about to be.
    fn exposed(&self, since: Timestamp) -> ShardSet {
        let mut exposed = self.own.touching(since.before(OVERLAP), Timestamp::MAX);
        exposed.insert_all(&self.wanted);
        exposed
    }

    /// A peer may have batches since an instant that are not here: it was away, or we were.
    pub(crate) fn lose(&mut self, peer: PeerId, since: Timestamp) {
        let exposed = self.exposed(since);
        self.owe(peer, since, &exposed);
    }

    /// What a peer that died may have had alone since it was last heard, and since when: of all shards, or of those it
    /// may have written. Earlier losses of the dead one were never made good, so they count from there.
    pub(crate) fn bequest(
        &self,
        dead: PeerId,
        heard: Timestamp,
        written: impl FnOnce(&ShardSet) -> ShardSet,
    ) -> (Timestamp, ShardSet) {
        let since = self.own.debts().get(&dead).map_or(heard, |debt| debt.since.min(heard));
        (since, written(&self.exposed(since)))
    }

    /// A peer died. What it wrote since it was last heard, others may have: `others`, with what each may hold of it
    /// (`None`: unknown).
    pub(crate) fn bereave<'a>(
        &mut self,
        dead: PeerId,
        (since, exposed): (Timestamp, ShardSet),
        others: impl Iterator<Item = (PeerId, Option<&'a Possession>)>,
    ) {
        for (peer, possession) in others.filter(|(peer, _)| *peer != dead) {
            match possession {
                Some(theirs) => {
                    let shared = theirs.touching_of(&exposed, since.before(OVERLAP), Timestamp::MAX);
                    self.owe(peer, since, &shared);
                }
                None => self.owe(peer, since, &exposed),
            }
        }
    }

    /// How often it was found that a peer may have what is not here; never less than it was.
    pub(crate) fn doubts(&self, peer: PeerId) -> u64 {
        self.doubts.get(&peer).copied().unwrap_or(0)
    }

    fn owe(&mut self, peer: PeerId, since: Timestamp, shards: &ShardSet) {
        if shards.is_empty() {
            return;
        }
        *self.doubts.entry(peer).or_default() += 1;
        self.own.owe(peer, since, shards);
        if let Some(more) = self.paying.get_mut(&peer) {
            *more = true;
        }
    }

    /// A peer has batches of these shards, from an instant on, that were not taken: by the clock here it has not come. They
    /// are owed until it has. Answers whether that was news.
    pub(crate) fn refuse(&mut self, peer: PeerId, since: Timestamp, shards: &ShardSet) -> bool {
        if self.paying.contains_key(&peer) {
            let refused = self.refused.entry(peer).or_insert_with(|| Debt { since, shards: ShardSet::default() });
            refused.since = refused.since.min(since);
            refused.shards.insert_all(shards);
            return false;
        }
        let due = since.before(SOON);
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        self.own.owe(peer, since, shards)
    }

    /// When a debt can be paid that cannot be yet.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// Whether a debt can be paid that could not be when copies were last planned.
    pub(crate) fn has_come_due(&mut self, now: Timestamp) -> bool {
        self.next_due.take_if(|due| *due <= now).is_some()
    }

    /// What is wanted and neither here nor under way.
    fn missing(&self) -> ShardSet {
        let mut missing = self.wanted.difference(&self.own.open_shards());
        self.groups.values().flat_map(|group| &group.parts).for_each(|part| missing.remove_all(&part.shards));
        missing
    }

    /// Whether something is wanted that is neither here nor under way, or owed and not being paid.
    pub(crate) fn has_work(&self, now: Timestamp) -> bool {
        let due = |(peer, debt): (&PeerId, &Debt)| debt.since <= now.after(SOON) && !self.paying.contains_key(peer);
        !self.missing().is_empty() || self.own.debts().iter().any(due)
    }

    /// When [`Holdings::plan`] may have more to do, if nothing else happens.
    pub(crate) fn next_retry(&self) -> Option<Monotonic> {
        self.resting.values().copied().min()
    }

    /// Whether a peer may be asked again that could not a moment ago.
    pub(crate) fn has_rested(&mut self, now: Monotonic) -> bool {
        let before = self.resting.len();
        self.resting.retain(|_, until| *until > now);
        self.resting.len() < before
    }

    /// Starts the copies of what is wanted and neither here nor under way, and of what is owed by peers that are heard.
    pub(crate) fn plan(&mut self, mut around: Surroundings<'_>, now: Now) -> Vec<(u64, Fetch)> {
        around.donors.retain(|peer, _| !self.resting.contains_key(peer));
        self.plan_copies(&around, now.wall)
    }

    fn plan_copies(&mut self, around: &Surroundings<'_>, now: Timestamp) -> Vec<(u64, Fetch)> {
        let mut planned = self.plan_debts(around, now);
        let mut missing = self.missing();
        if missing.is_empty() || (around.donors.is_empty() && !around.alone) {
            return planned;
        }
        let (mut parts, mut asked, mut reach) = (Vec::new(), Vec::new(), self.windows.reach(now));
        if around.acting.is_some() {
            (parts, asked) = self.go_on(&missing, now, around);
            parts.iter().for_each(|part| missing.remove_all(&part.shards));
            // What nobody has had since is not put together out of the logs of all: those who are away have it.
            reach = reach.max(now.before(PUT_TOGETHER));
        }
        let (awaited, lost) = self.elsewhere(&missing, reach, around);
        missing.remove_all(&awaited);
        let (recent, since) = self.recently_held(&missing, reach, now);
        if !recent.is_empty() {
            missing.remove_all(&recent);
            let resumed = Part::of(None, recent.difference(&lost), Claim::Resume(since));
            let begun = Part::of(None, recent.intersection(&lost), Claim::Begin(now));
            let held = [resumed, begun].into_iter().filter(|part| !part.shards.is_empty()).collect();
            planned.extend(self.copy(held, Vec::new(), since, around));
        }
        for (donor, possession) in &around.donors {
            let theirs = possession.open_shards().intersection(&missing);
            if !theirs.is_empty() {
                missing.remove_all(&theirs);
                self.inherit(possession, &theirs);
                asked.push((*donor, theirs.clone(), None));
                parts.push(Part::of(Some(*donor), theirs, Claim::Begin(Timestamp::MIN)));
            }
        }
        // Nobody alive has these: what comes from now on is all there is. A first peer has all there ever was.
        if !missing.is_empty() {
            let from = if around.first && self.own.extents().is_empty() { Timestamp::MIN } else { now };
            parts.push(Part::of(None, missing, Claim::Begin(from)));
        }
        if !parts.is_empty() {
            planned.extend(self.copy(parts, asked, now, around));
        }
        planned
    }

    /// Of missing shards, those that nobody who is heard has had since they were held here, and somebody else has: by one that is
    /// alive and silent they are waited for; of what only the dead have had since, the time in between is not claimed.
    fn elsewhere(&self, missing: &ShardSet, reach: Timestamp, around: &Surroundings<'_>) -> (ShardSet, ShardSet) {
        let (mut awaited, mut lost, mut rest) = (ShardSet::default(), ShardSet::default(), missing.clone());
        if around.away.is_empty() {
            return (awaited, lost);
        }
        let is_recent = |extent: &&Extent| extent.to != Timestamp::MAX && extent.to > reach;
        let mut ended: Vec<(Timestamp, &ShardSet)> =
            self.own.extents().iter().filter(is_recent).map(|extent| (extent.to, &extent.shards)).collect();
        ended.sort_by_key(|(to, _)| Reverse(*to));
        let all = ShardSet::all();
        // What was not held here of late is anybody's who takes it in now.
        for (since, shards) in ended.into_iter().chain([(Timestamp::MAX, &all)]) {
            let mut open = shards.intersection(&rest);
            rest.remove_all(&open);
            around.donors.values().for_each(|held| open.remove_all(&held.whole_since(&open, since)));
            for (held, is_alive) in &around.away {
                let theirs = held.whole_since(&open, since);
                if *is_alive { awaited.insert_all(&theirs) } else { lost.insert_all(&theirs) }
            }
        }
        lost.remove_all(&awaited);
        (awaited, lost)
    }

    /// Of shards held until a while ago, those of which somebody has had all since then: in a large mesh its log is enough,
    /// where everybody's would be a thousand requests. Who cannot be asked owes the rest, as it does to that holder.
    fn go_on(&mut self, missing: &ShardSet, now: Timestamp, around: &Surroundings<'_>) -> (Vec<Part>, Vec<Asked>) {
        let reach = self.windows.reach(now);
        let is_recent = |extent: &&Extent| extent.to != Timestamp::MAX && extent.to > reach;
        let mut ended: Vec<Extent> = self.own.extents().iter().filter(is_recent).cloned().collect();
        ended.sort_by_key(|extent| Reverse(extent.to));
        let (mut missing, mut parts) = (missing.clone(), Vec::new());
        let mut asked: BTreeMap<PeerId, (ShardSet, Timestamp)> = BTreeMap::new();
        for extent in ended {
            let (mut open, since) = (extent.shards.intersection(&missing), extent.to.before(OVERLAP));
            let all = open.clone();
            for (donor, possession) in &around.donors {
                let theirs = if open.is_empty() { break } else { possession.whole_since(&open, since) };
                if !theirs.is_empty() {
                    open.remove_all(&theirs);
                    self.inherit(possession, &theirs);
                    let (shards, first) = asked.entry(*donor).or_insert((ShardSet::default(), since));
                    (*shards, *first) = (shards.union(&theirs), since.min(*first));
                }
            }
            let resumed = all.difference(&open);
            if !resumed.is_empty() {
                missing.remove_all(&resumed);
                parts.push(Part::of(None, resumed, Claim::Resume(extent.to)));
            }
        }
        let asked = asked.into_iter().map(|(donor, (shards, since))| (donor, shards, Some(since)));
        (parts, asked.collect())
    }

    /// Copies shards to make claims: what donors are asked for, and everybody's log since an instant. Who cannot be asked
    /// owes it.
    fn copy(
        &mut self,
        parts: Vec<Part>,
        asked: Vec<Asked>,
        since: Timestamp,
        around: &Surroundings<'_>,
    ) -> Vec<(u64, Fetch)> {
        let shards = parts.iter().fold(ShardSet::default(), |all, part| all.union(&part.shards));
        for away in around.known.iter().filter(|peer| !around.donors.contains_key(peer)) {
            self.owe(*away, since, &shards);
        }
        self.token += 1;
        let number = self.token;
        let purpose = Purpose::Group(number);
        let mut planned: Vec<(u64, Fetch)> = Vec::new();
        let since = since.before(OVERLAP);
        for (peer, possession) in &around.donors {
            let mut theirs = around.concerned(*peer, possession, &shards, since);
            if around.acting.is_some() {
                // What is asked for from earlier on has the newest as well.
                asked.iter().filter(|(donor, ..)| donor == peer).for_each(|(_, shards, _)| theirs.remove_all(shards));
            }
            if !theirs.is_empty() {
                planned.push(self.fetch(*peer, theirs, Some(since), purpose));
            }
        }
        for (donor, shards, since) in asked {
            planned.push(self.fetch(donor, shards, since, purpose));
        }
        self.groups.insert(number, Group { parts, fetches: planned.len() });
        if planned.is_empty() {
            self.conclude(number);
        }
        planned
    }

    /// What a donor is owed is not in its copy: it is owed to us from now on.
    fn inherit(&mut self, donor: &Possession, shards: &ShardSet) {
        for (peer, debt) in donor.debts().iter() {
            let part = debt.shards.intersection(shards);
            self.owe(*peer, debt.since, &part);
        }
    }

    fn plan_debts(&mut self, around: &Surroundings<'_>, now: Timestamp) -> Vec<(u64, Fetch)> {
        let reach = self.windows.reach(now);
        self.own.write_off(reach, now);
        let has_come = |debt: &Debt| debt.since <= now.after(SOON);
        let future = self.own.debts().values().filter(|debt| !has_come(debt));
        self.next_due = future.map(|debt| debt.since.before(SOON)).min();
        let due = |(peer, debt): &(&PeerId, &Debt)| {
            around.donors.contains_key(peer) && !self.paying.contains_key(peer) && has_come(debt)
        };
        let due: Vec<(PeerId, Debt)> = self.own.debts().iter().filter(due).map(|(p, d)| (*p, d.clone())).collect();
        let mut planned = Vec::new();
        for (peer, debt) in due {
            // What no log reaches back to is compared window by window.
            let since = debt.since.max(reach);
            let shards = debt.shards.intersection(&self.exposed(since));
            if shards.is_empty() {
                self.own.acquit(peer);
            } else {
                self.paying.insert(peer, false);
                planned.push(self.fetch(peer, shards, Some(since.before(OVERLAP)), Purpose::Debt));
            }
        }
        planned
    }

    /// Of some shards, those held until recently, and the earliest of the instants until which.
    fn recently_held(&self, missing: &ShardSet, reach: Timestamp, now: Timestamp) -> (ShardSet, Timestamp) {
        let recent = self.own.extents().iter().filter(|extent| extent.to != Timestamp::MAX && extent.to > reach);
        let (mut shards, mut since) = (ShardSet::default(), now);
        for extent in recent.filter(|extent| !extent.shards.is_disjoint(missing)) {
            shards.insert_all(&extent.shards.intersection(missing));
            since = since.min(extent.to);
        }
        (shards, since)
    }

    fn fetch(&mut self, from: PeerId, shards: ShardSet, since: Option<Timestamp>, purpose: Purpose) -> (u64, Fetch) {
        self.token += 1;
        let fetch = Fetch { from, shards, since, purpose };
        self.fetches.insert(self.token, fetch.clone());
        (self.token, fetch)
    }

    /// A copy ended. `whole_from`: since when what came is all there is; `None` if it failed. `held`: what the others hold.
    pub(crate) fn fetched(
        &mut self,
        token: u64,
        whole_from: Option<Timestamp>,
        held: &BTreeMap<PeerId, Arc<Possession>>,
        now: Monotonic,
    ) -> Option<Restored> {
        let fetch = self.fetches.remove(&token)?;
        if whole_from.is_none() {
            self.resting.insert(fetch.from, now + REST);
        }
        let number = match fetch.purpose {
            Purpose::Group(number) => number,
            Purpose::Debt => return self.paid(&fetch, whole_from.is_some(), held.get(&fetch.from).map(|held| &**held)),
        };
        if let (None, Some(since)) = (whole_from, fetch.since) {
            // A log is fetched from several; what this one has alone is fetched when it answers.
            self.owe(fetch.from, since, &fetch.shards);
        }
        let group = self.groups.get_mut(&number)?;
        let own = group.parts.iter_mut().filter(|part| fetch.since.is_none() && part.donor == Some(fetch.from));
        for part in own {
            match (whole_from, &mut part.claim) {
                (Some(whole), Claim::Begin(from)) => *from = whole.max(*from),
                _ => part.failed = true,
            }
        }
        group.fetches -= 1;
        if group.fetches > 0 {
            return None;
        }
        self.conclude(number)
    }

    fn conclude(&mut self, number: u64) -> Option<Restored> {
        let mut shards = ShardSet::default();
        for part in self.groups.remove(&number)?.parts.into_iter().filter(|part| !part.failed) {
            match part.claim {
                Claim::Resume(since) => self.own.resume(&part.shards, since),
                Claim::Begin(from) => self.own.begin(&part.shards, from),
            }
            shards.insert_all(&part.shards);
        }
        (!shards.is_empty()).then_some(Restored { shards })
    }

    fn paid(&mut self, fetch: &Fetch, whole: bool, theirs: Option<&Possession>) -> Option<Restored> {
        let more = self.paying.remove(&fetch.from)?;
        if let (true, Some(theirs), Some(since)) = (whole, theirs, fetch.since) {
            self.fill(&fetch.shards, since, theirs);
        }
        if whole && !more {
            self.own.acquit(fetch.from);
        }
        if let Some(Debt { since, shards }) = self.refused.remove(&fetch.from) {
            self.refuse(fetch.from, since, &shards);
        }
        whole.then(|| Restored { shards: fetch.shards.clone() })
    }

    /// All of a log since an instant is here. Where its owner has had all since a claim here ended, what came after the hole
    /// goes on from there.
    fn fill(&mut self, shards: &ShardSet, since: Timestamp, theirs: &Possession) {
        let open = self.own.open_shards();
        let ended = self.own.extents().iter().filter(|extent| extent.to != Timestamp::MAX && extent.to >= since);
        let filled: Vec<(Timestamp, ShardSet)> = ended
            .map(|extent| {
                (extent.to, theirs.whole_since(&extent.shards.intersection(shards).intersection(&open), extent.to))
            })
            .filter(|(_, filled)| !filled.is_empty())
            .collect();
        filled.into_iter().for_each(|(to, filled)| self.own.hold(&filled, to, Timestamp::MAX));
    }

    /// Copies from peers that are gone have failed.
    pub(crate) fn fail_from(&mut self, gone: &BTreeSet<PeerId>, now: Monotonic) {
        let failed: Vec<u64> =
            self.fetches.iter().filter(|(_, fetch)| gone.contains(&fetch.from)).map(|(token, _)| *token).collect();
        for token in failed {
            self.fetched(token, None, &BTreeMap::new(), now);
        }
    }
}

#[cfg(test)]
mod tests;
