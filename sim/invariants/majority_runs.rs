//! Only peers that have the version of a job that most ready peers have start its slots.
//!
//! Looked at whenever a slot is started, but for a moment after each change: news travel.
//!
//! Source: design of the mesh, section 4, "the mesh runs the majority's definition".

use promesh_node::{Elected, PieceId};

use crate::world::{SECOND, World};

/// A root by gossip and its list by a stream take less.
const NEWS: u64 = 3 * SECOND;

pub(crate) fn violation(world: &World, starter: usize, piece: PieceId) -> Option<String> {
    if world.faults_at.iter().any(|fault| world.now.saturating_sub(*fault) < NEWS) {
        return None;
    }
    let ready = world.peers.iter().filter(|peer| peer.mind.is_some() && peer.is_ready());
    let elected = Elected::of(ready.map(|peer| (peer.id, &peer.store.disk.digests)));
    let id = world.peers[starter].id;
    let may = elected.may_act(id, piece);
    (!may).then(|| format!("{id} started a slot at {} s with a version that does not stand", world.now / SECOND))
}
