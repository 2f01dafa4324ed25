//! A disk without room: what this peer gives away, what it may still claim, and how it comes back.
//!
//! Little room: it owns and gains nothing, stores on what it holds, and answers. No room: what others stream to it cannot be
//! stored either, so it holds nothing any more, and its claims end where they were last true. When the disk takes what is to be
//! stored it is as after a restart: it fetches what it missed, and owns again once that is here.
//!
//! The awkward case: where nobody else would own, the peer with the smallest id goes on all the same. What it cannot store it
//! streams to whoever still holds.

use promesh_cluster::PeerState;
use promesh_model::Now;

use super::{GREETING_PATIENCE, Mesh, Phase, has_state};
use crate::sync::OVERLAP;

impl Mesh {
    /// The disk refused what was to be stored, or takes it again.
    pub(super) fn note_refusal(&mut self, refuses: bool, now: Now) {
        if refuses == self.refuses_since.is_some() {
            return;
        }
        self.refuses_since = refuses.then_some(now.wall);
        let reason = if refuses { "refuses what is to be stored" } else { "takes what is to be stored" };
        let me = self.me();
        self.change(now, "disk", me, 0, reason);
    }

    /// This peer may own again: what it held nothing of meanwhile it fetches before.
    pub(super) fn has_room(&mut self, now: Now) -> PeerState {
        let begins_anew = std::mem::take(&mut self.disclaimed) && self.ownership.acting().is_empty();
        if !begins_anew {
            return PeerState::Ready;
        }
        self.phase = Phase::Syncing { greeted_by: now.monotonic + GREETING_PATIENCE };
        PeerState::Syncing
    }

    /// Whether this peer stands back from owning and gaining: it has no room, or is to have none, and is not the last.
    /// Where nobody else would own, the peer with the smallest id goes on, until an append fails.
    pub(super) fn stands_back(&self) -> bool {
        let living = || self.members.iter().filter(|member| member.alive);
        let smallest = || living().filter(|m| has_state(m, PeerState::Full)).all(|m| m.id > self.me());
        let wants_none = self.disk_full || self.drained || self.refuses_since.is_some();
        wants_none && (living().any(|m| has_state(m, PeerState::Ready)) || !smallest())
    }

    /// Whether this peer holds nothing, since it cannot store it: its claims end a little before the first refusal then.
    pub(super) fn disclaims(&mut self) -> bool {
        let stands_back = matches!(self.record.state, PeerState::Full | PeerState::Skewed | PeerState::Leaving);
        let Some(since) = self.refuses_since.filter(|_| stands_back) else { return false };
        self.disclaimed = true;
        let open = self.holdings.own.open_shards();
        if !open.is_empty() {
            self.holdings.own.end(&open, since.before(OVERLAP));
            self.view_changed = true;
        }
        true
    }
}
