//! What grows with the mesh, kept from growing: in a large one news is taken and told in steps.
//!
//! Up to eight peers everything happens at once. Beyond, a step is so much for each peer: a thousand peers that start
//! together would otherwise each look at a thousand others a thousand times.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Candidate, Placement, grace_max};
use promesh_model::shard::ShardSet;
use promesh_model::{Monotonic, Now, PeerId, Timestamp};

use super::{Mesh, Phase};

/// Up to so many peers nothing waits.
const SMALL: usize = 8;
/// Below so many every peer keeps an eye on all sources.
const TRACK_ALL: usize = 50;
/// Up to so many everybody beats to everybody: silence by beats decides there.
const BEATS_TO_ALL: usize = 100;
/// Ranks and copies are reviewed in steps of so much a peer: each review may ask everybody for another stream.
const REVIEW_STEP: Duration = Duration::from_millis(1);
/// What a peer acts for is told in steps of so much a peer.
const ACTING_STEP: Duration = Duration::from_millis(1);
/// The view is published in steps of so much a peer.
const VIEW_STEP: Duration = Duration::from_millis(1);
/// What is held is told in steps of so much a peer.
const TELL_STEP: Duration = Duration::from_millis(1);
/// Copies are planned in steps of so much a peer: of what half a mesh leaves behind as its peers are missed one by one, each
/// donor is asked once a step. Beyond a hundred they do not grow any faster.
const COPY_STEP: Duration = Duration::from_millis(5);
/// In a large mesh streams are asked for less, where that is all that changed, in steps of so much a peer.
const TRIM_STEP: Duration = Duration::from_millis(20);
/// Joins change ranks at instants that are so much a peer apart, alike on all peers: ownership falls at once on loss,
/// in steps on joins.
const JOIN_STEP: Duration = Duration::from_millis(2);

/// A timer that fires so late means that what others said lies unread.
const STUMBLE: Duration = Duration::from_millis(250);
/// A timer that fires so late means that this peer stood still, for as long as others wait before they take over.
const PAUSE: Duration = Duration::from_millis(1000);
/// How long a peer that stood still waits for a word from others.
const SUSPENSION_MAX: Duration = Duration::from_secs(3);

/// A wall clock is set back by at least so much, or it only drifts.
const SET_BACK_MIN: Duration = Duration::from_millis(200);

/// Where the steps stand.
#[derive(Default)]
pub(super) struct Pace {
    next_review: Monotonic,
    pub(super) next_tell: Monotonic,
    /// What this peer acts for, or who is to hear it, changed: it is told then.
    pub(super) acting_stirred: bool,
    /// Of that, whether it is not only who is to hear it.
    pub(super) acting_changed: bool,
    pub(super) next_acting: Monotonic,
    next_copies: Monotonic,
    /// Copies wait for their step.
    copies_wait: bool,
    next_trim: Monotonic,
    /// Some stream has more than this peer holds.
    untrimmed: bool,
    /// When peers that became ready are ranked.
    pub(super) joins_at: Option<Timestamp>,
    /// Who shares a shard with this peer.
    pub(super) partners: BTreeSet<PeerId>,
    /// Somebody may not have been told what this peer acts for.
    pub(super) untold: bool,
    /// As counted a second ago.
    pub(super) unscraped: usize,
}

impl Pace {
    /// A review finds out anew what has to wait.
    pub(super) fn nothing_waits(&mut self) {
        (self.copies_wait, self.untrimmed) = (false, false);
    }
}

/// So much for each of some peers. Everybody tells everybody: beyond a hundred the steps grow faster than the mesh, so that
/// what a peer says does not.
fn stride(each: Duration, peers: usize) -> Duration {
    let crowd = (peers as f64 / 100.0).sqrt().max(1.0);
    (each * peers as u32).mul_f64(crowd)
}

impl Mesh {
    fn step(&self, each: Duration) -> Duration {
        let peers = self.members.len() + 1;
        if peers <= SMALL { Duration::ZERO } else { stride(each, peers) }
    }

    pub(super) fn view_step(&self) -> Duration {
        self.step(VIEW_STEP)
    }

    pub(super) fn acting_step(&self) -> Duration {
        self.step(ACTING_STEP)
    }

    pub(super) fn tell_step(&self) -> Duration {
        self.step(TELL_STEP)
    }

    /// Whether it is time to review what changed, or what is due anyway.
    pub(super) fn take_dirty(&mut self, now: Now, due: bool) -> bool {
        let take = (self.dirty || due) && now.monotonic >= self.pace.next_review;
        if take {
            self.dirty = false;
            self.pace.next_review = now.monotonic + self.step(REVIEW_STEP);
        }
        take
    }

    /// Whether copies have to wait for their step; if not, that step is taken.
    pub(super) fn copies_wait(&mut self, now: Now) -> bool {
        let peers = self.members.len() as u32 + 1;
        self.pace.copies_wait = self.is_crowd() && now.monotonic < self.pace.next_copies;
        if !self.pace.copies_wait {
            self.pace.next_copies = now.monotonic + COPY_STEP * peers;
        }
        self.pace.copies_wait
    }

    /// Whether streams that have more than this peer holds are asked for anew.
    pub(super) fn trims_streams(&mut self, now: Now) -> bool {
        let trims = !self.is_crowd() || now.monotonic >= self.pace.next_trim;
        if trims {
            self.pace.next_trim = now.monotonic + TRIM_STEP * (self.members.len() as u32 + 1);
        }
        self.pace.untrimmed = !trims;
        trims
    }

    /// Whether a review is due because something that waited for its step waits no longer.
    pub(super) fn waited(&self, now: Now) -> bool {
        (self.pace.copies_wait && now.monotonic >= self.pace.next_copies)
            || (self.pace.untrimmed && now.monotonic >= self.pace.next_trim)
    }

    /// When a step is over for which something waits.
    pub(super) fn next_paced(&self) -> Option<Monotonic> {
        let review = self.dirty.then_some(self.pace.next_review);
        let tell = self.possession_stirred.then_some(self.pace.next_tell);
        let view = self.view_changed.then(|| self.view_at + self.view_step());
        let acting = self.pace.acting_stirred.then_some(self.pace.next_acting);
        let copies = (!self.dirty && self.pace.copies_wait).then_some(self.pace.next_copies);
        let trim = (!self.dirty && self.pace.untrimmed).then_some(self.pace.next_trim);
        [review, tell, view, acting, copies, trim].into_iter().flatten().min()
    }

    /// When to look for peers that count as silent: not after the first of their deadlines.
    pub(super) fn next_silence(&self) -> Option<Monotonic> {
        let peers = self.members.len() + 1;
        grace_max(peers)?;
        let floor = self.judge.floor(peers);
        (!self.alive.is_empty() && floor < Monotonic(u64::MAX)).then_some(floor)
    }

    /// A timer that comes far too late, or an input far past a deadline: this peer stood still, and others have judged.
    pub(super) fn notice_pause(&mut self, now: Now) {
        let late = self.expected.map_or(Duration::ZERO, |at| now.monotonic.since(at));
        if late > STUMBLE {
            // Beats lie unread: nobody is judged before they are.
            self.judge.begin_anew(now.monotonic);
        }
        if late > PAUSE && self.phase == Phase::Ready && !self.alive.is_empty() {
            let least = now.monotonic + self.beat_period();
            self.suspended = Some((least, now.monotonic + SUSPENSION_MAX));
            self.ownership.suspend();
            // Their silence is ours: they are heard anew before anybody is judged.
            for peer in self.alive.clone() {
                let generation = self.judge.newest(peer).map(|beat| beat.generation).unwrap_or_default();
                self.judge.forget(peer);
                self.judge.expect(peer, generation, now.monotonic);
            }
            self.silent.clear();
            // What others acted for before is not what they act for now: they say it anew once they hear of this.
            self.greeted.clear();
            self.pace.untold = true;
            self.dirty = true;
            let me = self.me();
            self.change(now, "suspended", me, 0, "this peer stood still");
        }
    }

    /// A wall clock that is set back has passed slots that it will pass again: what this peer did not start then may be its
    /// own by now.
    pub(super) fn notice_set_back(&mut self, now: Now) {
        if now.wall.after(SET_BACK_MIN) < self.looked_at {
            self.schedule.rewind(now.wall);
            self.started_through = now.wall;
        }
        self.looked_at = now.wall;
    }

    /// Whom this peer beats to: those it shares shards with, and those that are not ranked yet.
    pub(super) fn beaten(&self) -> Vec<PeerId> {
        let (all, placement) = (self.alive.len() < BEATS_TO_ALL, &self.ownership.placement);
        let beaten = |peer: &&PeerId| all || self.pace.partners.contains(peer) || !placement.contains(**peer);
        self.alive.iter().filter(beaten).copied().collect()
    }

    /// The ready peers, of which those that came in lately wait for the next step.
    pub(super) fn settled_candidates(&mut self, now: Now) -> Vec<Candidate> {
        let mut ready = self.candidates(false);
        // Alike also where one has met more of those that come in than another.
        let peers = (self.members.len() + 1).next_power_of_two();
        let step = stride(JOIN_STEP, peers).as_millis() as i64;
        let step = if self.members.len() < SMALL { 0 } else { step };
        let placement = &self.ownership.placement;
        let has_fresh = ready.iter().any(|candidate| !placement.contains(candidate.id));
        match self.pace.joins_at {
            _ if step == 0 || !has_fresh => self.pace.joins_at = None,
            Some(at) if at <= now.wall => self.pace.joins_at = None,
            at => {
                self.pace.joins_at = at.or(Some(Timestamp((now.wall.ms().div_euclid(step) + 1) * step)));
                ready.retain(|candidate| placement.contains(candidate.id));
            }
        }
        ready
    }

    /// The ranks as they will be once this peer is among the candidates.
    pub(super) fn prospective(&self, candidates: &[Candidate]) -> Arc<Placement> {
        match &self.config.rank_tables {
            Some(tables) => tables.table(&self.ownership.placement, candidates),
            None => {
                let mut prospective = (*self.ownership.placement).clone();
                prospective.update(candidates);
                Arc::new(prospective)
            }
        }
    }

    /// Keeps an eye on the sources that concern this peer: in a small mesh on all of them.
    pub(super) fn track(&mut self, now: Now) {
        let all = self.members.len() < TRACK_ALL || !self.definitions.elected.is_unanimous();
        let shards = if all { ShardSet::all() } else { self.ownership.concerning().union(self.holdings.wanted()) };
        self.schedule.track(shards, now.wall);
    }
}
