//! Every target is scraped in every slot.
//!
//! Without exception where peers die or leave one at a time (P2); otherwise every missed slot must lie near a fault.
//!
//! Source: design of the mesh, sections 1 (P2) and 16, invariant 1.

use std::collections::HashSet;

use promesh_model::Timestamp;
use promesh_replication::SourceId;

use crate::world::{EPOCH_MS, MS, SECOND, World};

/// A takeover, a suspension and a re-join together take less.
const NEAR: u64 = 25 * SECOND;

pub(crate) fn violations(world: &World, from: u64, to: u64, strict: bool) -> (usize, Vec<String>) {
    let kept: HashSet<(SourceId, Timestamp)> =
        world.peers.iter().flat_map(|peer| peer.store.kept.keys().copied()).collect();
    let mut missed = 0;
    let mut found = Vec::new();
    for spec in &world.sources {
        let mut slot = spec.slot_at(Timestamp(EPOCH_MS + (from / MS) as i64)).ms() + spec.interval_ms;
        while slot < EPOCH_MS + (to / MS) as i64 {
            let key = (spec.source, Timestamp(slot));
            if !kept.contains(&key) {
                missed += 1;
                let at = (slot - EPOCH_MS) as u64 * MS;
                let excused = !strict && world.faults_at.iter().any(|fault| at.abs_diff(*fault) < NEAR);
                if !excused {
                    found.push(format!("slot {} s of source {:x} was missed", at as f64 / 1e9, spec.source.0));
                }
            }
            slot += spec.interval_ms;
        }
    }
    (missed, found)
}
