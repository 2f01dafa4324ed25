//! Holders have the same batch for a slot, faults or not: everything works again, and long enough.
//!
//! A holder is who says that it holds the shard whole at that time: nobody reads the slot from another.
//!
//! Source: design of the mesh, section 16, invariant 5.

use std::collections::BTreeMap;

use promesh_replication::BatchHeader;

use crate::world::{EPOCH_MS, MS, SECOND, World};

/// While the peers of a new mesh find each other, each scrapes what it believes to be its own.
const BEGINNING: u64 = 10 * SECOND;

pub(crate) fn violations(world: &World) -> (usize, Vec<String>) {
    let mut first = BTreeMap::new();
    let mut split = 0;
    let mut found = Vec::new();
    for peer in world.peers.iter().filter(|peer| peer.mind.is_some()) {
        let claims = |header: &BatchHeader| {
            peer.view.as_ref().is_some_and(|view| view.own.covers(header.shard, header.slot, header.slot))
        };
        for (key, header) in peer.store.kept.iter().filter(|(_, header)| claims(header)) {
            let kept = first.entry(*key).or_insert(header.order);
            if *kept != header.order {
                split += 1;
                let at = (key.1.ms() - EPOCH_MS).max(0) as u64 * MS;
                if at >= BEGINNING {
                    found.push(format!("slot {} of {:x} differs between holders", key.1, key.0.0));
                }
            }
        }
    }
    (split, found)
}
