//! Which versions of the configuration's pieces stand, and what follows for who starts what.
//!
//! A peer that acts for a shard and has another version of a job than the one that stands leaves that job's slots to
//! the best-ranked peer that has it. No handover goes with it: the vote is seen alike by all within a moment, and of two
//! batches for one slot one stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_cluster::{Contest, Digests, Elected, KnownDigests, PeerState};
use promesh_model::{Monotonic, Now, PeerId, ShardId, Timestamp};

use super::{Mesh, has_state};
use crate::messages::MeshMessage;
use crate::schedule::SourceSpec;

/// A list that was asked for and has not come is asked for again after so long.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// Lists asked for with one beat: a thousand peers that reload together must not ask for a million at once.
const ASKS_MAX: usize = 50;

/// What is known of all configurations.
#[derive(Default)]
pub(super) struct Definitions {
    pub(super) own: Arc<Digests>,
    pub(super) elected: Arc<Elected>,
    known: KnownDigests,
    asked: BTreeMap<PeerId, Monotonic>,
    /// Something that the vote follows from may have changed.
    stirred: bool,
    /// Who voted last.
    voters: Vec<PeerId>,
}

impl Definitions {
    pub(super) fn of(&self, peer: PeerId) -> Arc<Digests> {
        self.known.of(peer).cloned().unwrap_or_default()
    }
}

impl Mesh {
    pub(super) fn set_definitions(&mut self, digests: Digests) {
        let root = digests.root();
        self.definitions.own = Arc::new(digests);
        self.definitions.known.offer(&Arc::clone(&self.definitions.own));
        self.definitions.stirred = true;
        self.change_record(|record| record.root = root);
    }

    pub(super) fn hear_digests(&mut self, from: PeerId, digests: Digests) {
        self.definitions.asked.remove(&from);
        self.definitions.known.insert(from, digests);
        self.definitions.stirred = true;
        self.view_changed = true;
    }

    /// Asks for the lists behind roots that changed.
    pub(super) fn ask_digests(&mut self, now: Now) {
        let due = |peer: &PeerId, asked: &BTreeMap<PeerId, Monotonic>| {
            asked.get(peer).is_none_or(|at| now.monotonic.since(*at) >= ASK_PATIENCE)
        };
        let mut wanted = Vec::new();
        for member in self.members.iter().filter(|member| member.alive) {
            let Some(record) = &member.record else { continue };
            if self.definitions.known.is_current(member.id, record.root) {
                continue;
            }
            // A mesh whose configurations are one asks nobody.
            if self.definitions.known.adopt(member.id, record.root) {
                self.definitions.stirred = true;
                self.dirty = true;
                self.view_changed = true;
            } else if due(&member.id, &self.definitions.asked) {
                wanted.push(member.id);
            }
        }
        for peer in wanted.into_iter().take(ASKS_MAX) {
            self.definitions.asked.insert(peer, now.monotonic);
            self.send(peer, MeshMessage::WantDigests);
        }
    }

    /// Votes anew if the voters or what they publish changed.
    pub(super) fn elect(&mut self) {
        let ready = self.members.iter().filter(|m| m.alive && has_state(m, PeerState::Ready)).map(|m| m.id);
        let voters: Vec<PeerId> = ready.collect();
        if !std::mem::take(&mut self.definitions.stirred) && voters == self.definitions.voters {
            return;
        }
        let definitions = &self.definitions;
        let others = voters.iter().filter_map(|peer| Some((*peer, &**definitions.known.of(*peer)?)));
        // One that is not ready yet sees already how it will stand.
        let elected = Elected::of(others.chain([(self.me(), &*definitions.own)]));
        self.definitions.voters = voters;
        if elected != *self.definitions.elected {
            self.definitions.elected = Arc::new(elected);
            self.view_changed = true;
        }
    }

    /// Whether this peer starts a slot.
    pub(super) fn may_start(&self, spec: &SourceSpec, slot: Timestamp) -> bool {
        // What is this peer's own nobody else could start.
        let acts = if spec.pinned { self.owns() } else { self.ownership.may_start(spec.shard, slot) };
        let Some(contest) = self.definitions.elected.contest(spec.piece) else { return acts };
        let stands_in = || !spec.pinned && self.owns() && self.stands_in(contest, spec.shard);
        !contest.others.contains(&self.me()) && (acts || stands_in())
    }

    /// Whether whoever acts for a shard has another version, and this peer is the next that has the one that stands.
    fn stands_in(&self, contest: &Contest, shard: ShardId) -> bool {
        let placement = &self.ownership.placement;
        let heard = |peer: &PeerId| !self.is_silent(*peer);
        let actor = self.ownership.actor(shard).filter(heard).or_else(|| placement.ranks(shard).find(heard));
        let able = |peer: &PeerId| heard(peer) && !contest.others.contains(peer);
        if actor.is_none_or(|actor| able(&actor)) {
            return false;
        }
        let next = placement.ranks(shard).find(able).or_else(|| placement.best_of(shard, able));
        next == Some(self.me())
    }

    /// Starts what is due of pieces whose version changed hands.
    pub(super) fn start_contested(&mut self, now: Now) {
        let elected = Arc::clone(&self.definitions.elected);
        for (spec, slot) in self.schedule.unstarted_of(|piece| elected.contest(piece).is_some(), now.wall) {
            if self.may_start(&spec, slot) {
                self.start(spec, slot);
            }
        }
    }
}
