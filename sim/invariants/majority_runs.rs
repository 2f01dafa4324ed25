//! Only peers that have the version of a job that most ready peers have start its slots.
//!
//! Looked at whenever a slot is started, but for a moment after each change: news travel.
//!
//! Source: design of the mesh, section 4, "the mesh runs the majority's definition".

use promesh_node::{Elected, PieceId};

use crate::world::{SECOND, World};

/// A root by gossip and its list by a stream take less.
const NEWS: u64 = 3 * SECOND;

pub(crate) fn violation(world: &mut World, starter: usize, piece: PieceId) -> Option<String> {
    if world.now.saturating_sub(world.last_fault) < NEWS && !world.faults_at.is_empty() {
        return None;
    }
    let vote = || {
        let ready = world.peers.iter().filter(|peer| peer.mind.is_some() && peer.is_ready());
        Elected::of(ready.map(|peer| (peer.id, &peer.store.disk.digests)))
    };
    let elected = world.elected.get_or_insert_with(vote);
    let id = world.peers[starter].id;
    let may = elected.may_act(id, piece);
    (!may).then(|| format!("{id} started a slot at {} s with a version that does not stand", world.now / SECOND))
}
