//! Who came, who went, and what that means for what this peer holds.

use std::collections::BTreeSet;
use std::time::Duration;

use promesh_cluster::{MemberView, PeerState};
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Now, PeerId, Timestamp};

use super::{Mesh, Output, has_state};

/// Less than a peer waits that finds nobody, and a moment for its word to come around.
const JUST_BEGUN: Duration = Duration::from_secs(10);

/// Clocks are known to so much: who yields goes on for it.
const YIELD_SLACK_MS: i64 = 20;
/// Beyond this a clock is wrong, and its peer owns nothing.
const YIELD_MS_MAX: i64 = 2_000;

impl Mesh {
    pub(super) fn set_members(&mut self, members: Vec<MemberView>, now: Now) {
        let before: BTreeSet<PeerId> = self.alive.iter().copied().collect();
        self.removed.retain(|peer| members.iter().any(|member| member.id == *peer && !member.alive));
        self.members = members;
        self.members.retain(|member| !self.removed.contains(&member.id));
        self.alive = self.members.iter().filter(|member| member.alive).map(|member| member.id).collect();
        let alive: BTreeSet<PeerId> = self.alive.iter().copied().collect();
        self.pace.untold = true;
        for peer in alive.difference(&before) {
            let place = self.members.binary_search_by_key(peer, |member| member.id).expect("just seen");
            self.judge.expect(*peer, self.members[place].generation, now.monotonic);
            // Who comes back may have written all the while, however long ago it was written off.
            if let Some(heard) = self.heard.insert(*peer, now.wall) {
                self.holdings.lose(*peer, heard);
            }
            self.change(now, "up", *peer, 0, "membership");
        }
        let gone: BTreeSet<PeerId> = before.difference(&alive).copied().collect();
        for peer in &gone {
            self.lose(*peer, now);
            self.bereave(*peer, now);
            self.inherit_from(*peer, now);
            self.forget(*peer);
            // Who said goodbye is not missed: nobody is to be woken for a planned stop.
            let record = self.members.iter().find(|member| member.id == *peer).and_then(|m| m.record.as_ref());
            let what = if record.is_some_and(|record| record.state == PeerState::Leaving) { "left" } else { "down" };
            self.change(now, what, *peer, 0, "membership");
        }
        self.holdings.fail_from(&gone, now.monotonic);
        self.ask_digests(now);
        self.note_lives(now);
        self.note_standing(now);
        self.view_changed = true;
    }

    /// A peer that is down and will not come back: nothing is expected of it, and nothing owed by it, any more.
    pub(super) fn remove(&mut self, peer: PeerId, now: Now) {
        if self.members.iter().any(|member| member.id == peer && !member.alive) {
            self.removed.insert(peer);
            self.members.retain(|member| member.id != peer);
            self.lives.remove(&peer);
            self.since.remove(&peer);
            self.heard.remove(&peer);
            self.holdings.own.acquit(peer);
            std::sync::Arc::make_mut(&mut self.possession).remove(&peer);
            self.change(now, "removed", peer, 0, "an operator gave it up");
        }
    }

    fn note_standing(&mut self, now: Now) {
        for member in &self.members {
            let mark = member.record.as_ref().map_or(0, |record| record.state as u8 + 1) | u8::from(member.alive) << 7;
            let since = self.since.entry(member.id).or_insert((mark, now.wall));
            if since.0 != mark {
                *since = (mark, now.wall);
            }
        }
    }

    /// Forgets what a member said that is no longer alive.
    fn forget(&mut self, peer: PeerId) {
        self.judge.forget(peer);
        self.offsets.forget(peer);
        self.silent.remove(&peer);
        self.forget_sayings(peer);
    }

    fn forget_sayings(&mut self, peer: PeerId) {
        self.pace.untold = true;
        self.ownership.forget(peer);
        self.greeted.remove(&peer);
        self.subscribed.remove(&peer);
        self.told_acting.remove(&peer);
    }

    /// A member in a new life acts for nothing any more, knows nothing of what it was told, and has lost what was not
    /// on its disk; one never met before may have written since it began.
    fn note_lives(&mut self, now: Now) {
        // In a large mesh a peer is met once its record is here, which follows at once.
        let met = self.members.iter().filter(|member| member.record.is_some() || !self.is_crowd());
        let lives: Vec<(PeerId, Generation)> = met.map(|member| (member.id, member.generation)).collect();
        for (peer, generation) in lives {
            match self.lives.insert(peer, Some(generation)) {
                Some(Some(known)) if known < generation => {
                    self.lose(peer, now);
                    self.bereave(peer, now);
                    self.forget_sayings(peer);
                    self.holdings.fail_from(&BTreeSet::from([peer]), now.monotonic);
                    std::sync::Arc::make_mut(&mut self.possession).remove(&peer);
                }
                // A generation is the wall clock of its beginning, or later than an earlier one.
                None if self.has_just_begun(peer, generation, now) => {}
                None => self.holdings.lose(peer, now.wall.min(Timestamp(generation.0 as i64))),
                // Remembered from an earlier life of ours: what was missed since is fetched from all alike.
                Some(_) => {}
            }
        }
    }

    /// Whether a peer of a large mesh can have written nothing yet: it began a moment ago, and has not met the mesh.
    fn has_just_begun(&self, peer: PeerId, generation: Generation, now: Now) -> bool {
        let member =
            self.members.binary_search_by_key(&peer, |member| member.id).ok().map(|place| &self.members[place]);
        let state = member.and_then(|member| member.record.as_ref()).map(|record| record.state);
        self.is_crowd()
            && matches!(state, Some(PeerState::Joining | PeerState::Syncing))
            && now.wall.before(JUST_BEGUN) < Timestamp(generation.0 as i64)
    }

    pub(super) fn note_stream_lost(&mut self, peer: PeerId, now: Now) {
        self.lose(peer, now);
        self.subscribed.remove(&peer);
        self.told_acting.remove(&peer);
        self.pace.untold = true;
    }

    /// Who acts is ready, or was. Until that is known here, its ranks are known to all but this peer, and of a silence of its
    /// others would wait for this peer to take over, and this peer for others.
    pub(super) fn inquire(&mut self, peer: PeerId, shards: &ShardSet) {
        let known = self.members.binary_search_by_key(&peer, |member| member.id).ok().map(|at| &self.members[at]);
        let is_behind =
            |member: &MemberView| has_state(member, PeerState::Joining) || has_state(member, PeerState::Syncing);
        if !shards.is_empty()
            && !self.is_crowd()
            && known.is_some_and(|member| member.record.is_none() || is_behind(member))
        {
            self.outputs.push_back(Output::Inquire(peer));
        }
    }

    /// The clock of a peer, or somewhat ahead of it; never behind our own, and not so far ahead that it would own nothing.
    pub(super) fn wall_of(&self, peer: PeerId, now: Now) -> Timestamp {
        // A beat, however long it was on its way, shows a clock that has gone on since; of a peer that was not heard for
        // a while there is nothing else.
        let beat = self.judge.newest(peer).zip(self.judge.silence(peer, now.monotonic));
        let least = beat.map(|(beat, ago)| beat.wall.after(ago).ms() - now.wall.ms());
        let ahead = self.offsets.of(peer).max(least).map_or(0, |ms| (ms + YIELD_SLACK_MS).clamp(0, YIELD_MS_MAX));
        Timestamp(now.wall.ms() + ahead)
    }

    /// Batches that a peer wrote since it was last heard may not have reached us.
    pub(super) fn lose(&mut self, peer: PeerId, now: Now) {
        let heard = self.heard.get(&peer).copied().unwrap_or(now.wall);
        self.holdings.lose(peer, heard);
        self.possession_stirred = true;
    }

    /// A peer died: what it wrote last may have reached others and not us.
    fn bereave(&mut self, peer: PeerId, now: Now) {
        let heard = self.heard.get(&peer).copied().unwrap_or(now.wall);
        let (placement, acting) = (&self.ownership.placement, self.ownership.acting_of(peer));
        // In a large mesh it ranked for few of our shards: it can have written no others that anybody heard it write.
        let written = |exposed: &ShardSet| match self.is_crowd() {
            false => exposed.clone(),
            true => {
                let mut written = placement.ranked_of(exposed, &[peer]).remove(0);
                acting.into_iter().for_each(|acting| written.insert_all(&acting.intersection(exposed)));
                written
            }
        };
        let bequest = self.holdings.bequest(peer, heard, written);
        if bequest.1.is_empty() {
            return;
        }
        // What others said they hold is what they hold only while we hear them.
        let fresh = |other: &PeerId| {
            let alive = self.alive.binary_search(other).is_ok();
            alive && !self.silent.contains(other) && !self.holdings.own.debts().contains_key(other)
        };
        let said: Vec<_> = self
            .lives
            .keys()
            .map(|other| (*other, self.possession.get(other).filter(|_| fresh(other)).cloned()))
            .collect();
        self.holdings.bereave(peer, bequest, said.iter().map(|(other, possession)| (*other, possession.as_deref())));
    }
}
