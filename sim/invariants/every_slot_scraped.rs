//! Every target is scraped in every slot.
//!
//! Where peers die or leave one at a time (P2) with one exception: a scrape that was still under way when its process
//! stopped, so late that whoever takes over may begin it no more. Elsewhere a slot is excused only by what nobody can
//! mend: no peer was there all the time in which it could be begun; or somebody was lost so late that whoever takes over
//! may begin it no more. A loss excuses one slot of a target, due before the silence was noticed, the scrape that was under
//! way in the process that died, and what nobody else had and no disk.
//!
//! Source: design of the mesh, sections 1 (P2), 5 and 16, invariant 1.

use std::collections::HashSet;

use promesh_model::Timestamp;
use promesh_node::SourceSpec;
use promesh_replication::SourceId;

use crate::world::{EPOCH_MS, MS, SECOND, World};

/// From the loss of a peer until another starts its slots, at most: the longest silence forgiven, and a beat.
const TAKEOVER: u64 = 1_400 * MS;
/// The longest a scrape takes: what was lost with its scraper later than that was already told.
const SCRAPE_MAX: u64 = 2 * SECOND;
/// What was written longer ago is on the disk: a sync a second, and one that takes as long.
const UNSYNCED: u64 = 2 * SECOND;

pub(crate) fn violations(world: &World, from: u64, to: u64, strict: bool) -> (usize, Vec<String>) {
    let kept: HashSet<(SourceId, Timestamp)> =
        world.peers.iter().flat_map(|peer| peer.store.kept.keys().copied()).collect();
    let mut missed = 0;
    let mut found = Vec::new();
    for spec in &world.sources {
        let mut losses: Vec<u64> = world.losses.iter().copied().collect();
        let mut slot = spec.slot_at(Timestamp(EPOCH_MS + (from / MS) as i64)).ms() + spec.interval_ms;
        while slot < EPOCH_MS + (to / MS) as i64 {
            let key = (spec.source, Timestamp(slot));
            if !kept.contains(&key) {
                missed += 1;
                let at = (slot - EPOCH_MS) as u64 * MS;
                let excused = if strict {
                    died_unfinished(world, spec, at, &losses).unwrap_or(false)
                } else {
                    is_excused(world, spec, at, &mut losses)
                };
                if !excused {
                    let (seconds, interval) = (at as f64 / 1e9, spec.interval_ms);
                    found.push(format!("slot {seconds} s of source {:x} ({interval} ms) was missed", spec.source.0));
                }
            }
            slot += spec.interval_ms;
        }
    }
    (missed, found)
}

/// Whether nobody can have begun a slot in time. A loss that excuses it is used up.
fn is_excused(world: &World, spec: &SourceSpec, slot: u64, losses: &mut Vec<u64>) -> bool {
    let stampable = spec.stamp_ms() as u64 * MS;
    let (first, last) = (slot.saturating_sub(TAKEOVER), slot + stampable);
    if !world.standing.iter().any(|standing| stood(standing, first, last)) {
        return true;
    }
    if let Some(excused) = died_unfinished(world, spec, slot, losses) {
        return excused;
    }
    let too_late = |loss: &u64| *loss + TAKEOVER > last;
    match losses.iter().position(|loss| too_late(loss) && *loss <= last + SCRAPE_MAX) {
        Some(index) => {
            losses.remove(index);
            true
        }
        None => false,
    }
}

/// Of a scrape that its process did not end: whether that was lost too late to be begun anew. `None` of all others.
fn died_unfinished(world: &World, spec: &SourceSpec, slot: u64, losses: &[u64]) -> Option<bool> {
    let last = slot + spec.stamp_ms() as u64 * MS;
    let wall = Timestamp(EPOCH_MS + (slot / MS) as i64);
    let excuses = |loss: &u64| *loss + TAKEOVER > last && *loss <= last + SCRAPE_MAX + UNSYNCED;
    world.unfinished.contains(&(spec.source, wall)).then(|| losses.iter().any(excuses))
}

/// Whether a peer was there from one instant to another.
fn stood(standing: &[(u64, bool)], first: u64, last: u64) -> bool {
    let before = standing.iter().rev().find(|(since, _)| *since <= first).is_some_and(|(_, stands)| *stands);
    before && standing.iter().all(|(since, stands)| *stands || *since <= first || *since > last)
}
