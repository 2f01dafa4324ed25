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

use super::Mesh;

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
const VIEW_STEP: Duration = Duration::from_micros(200);
/// What is held is told in steps of so much a peer.
const TELL_STEP: Duration = Duration::from_millis(1);
/// Joins change ranks at instants that are so many ms a peer apart, alike on all peers: ownership falls at once on loss,
/// in steps on joins.
const JOIN_STEP_MS: i64 = 2;

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
    /// When peers that became ready are ranked.
    pub(super) joins_at: Option<Timestamp>,
    /// Who shares a shard with this peer.
    pub(super) partners: BTreeSet<PeerId>,
    /// Somebody may not have been told what this peer acts for.
    pub(super) untold: bool,
    /// As counted a second ago.
    pub(super) unscraped: usize,
}

impl Mesh {
    fn step(&self, each: Duration) -> Duration {
        let peers = self.members.len() + 1;
        // Everybody tells everybody: beyond a hundred the steps grow faster than the mesh, so that what a peer says does not.
        let crowd = (peers as f64 / 100.0).sqrt().max(1.0);
        if peers <= SMALL { Duration::ZERO } else { (each * peers as u32).mul_f64(crowd) }
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

    /// When a step is over for which something waits.
    pub(super) fn next_paced(&self) -> Option<Monotonic> {
        let review = self.dirty.then_some(self.pace.next_review);
        let tell = self.possession_stirred.then_some(self.pace.next_tell);
        let view = self.view_changed.then(|| self.view_at + self.view_step());
        let acting = self.pace.acting_stirred.then_some(self.pace.next_acting);
        [review, tell, view, acting].into_iter().flatten().min()
    }

    /// When to look for peers that count as silent: not after the first of their deadlines.
    pub(super) fn next_silence(&self) -> Option<Monotonic> {
        let peers = self.members.len() + 1;
        grace_max(peers)?;
        let floor = self.judge.floor(peers);
        (!self.alive.is_empty() && floor < Monotonic(u64::MAX)).then_some(floor)
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
        let step = if self.members.len() < SMALL { 0 } else { JOIN_STEP_MS * (self.members.len() as i64 + 1) };
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
