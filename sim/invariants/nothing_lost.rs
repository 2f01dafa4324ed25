//! Every batch that any living peer has is on every peer that says it holds its shard whole at that time.
//!
//! This is what makes a read from one holder complete. The newest seconds are still on their way.
//!
//! Source: design of the mesh, sections 7, 9 and 16, invariant 4.

use std::collections::{BTreeSet, HashMap};

use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};

use crate::world::World;
use crate::world::history::is_late;

pub(crate) fn violations(world: &World, settled_before_ms: i64) -> Vec<String> {
    let living: Vec<_> = world.peers.iter().filter(|peer| peer.mind.is_some()).collect();
    let all: BTreeSet<_> =
        living.iter().flat_map(|peer| peer.store.kept.iter().map(|(key, h)| (*key, h.shard))).collect();
    let mut missing = 0;
    let mut example = String::new();
    // Who may claim a shard at all: in a large mesh a few of many.
    let mut claimants: HashMap<ShardId, Vec<usize>> = HashMap::new();
    for (number, peer) in living.iter().enumerate() {
        let touched = peer.view.as_ref().map(|view| view.own.touching(Timestamp::MIN, Timestamp::MAX));
        touched.iter().flat_map(ShardSet::iter).for_each(|shard| claimants.entry(shard).or_default().push(number));
    }
    for ((source, slot), shard) in all.into_iter().filter(|((_, slot), _)| slot.ms() < settled_before_ms) {
        for peer in claimants.get(&shard).into_iter().flatten().map(|number| living[*number]) {
            // What is pushed late comes to those who hold the shard now; reads of old times ask them too.
            let claims = peer.view.as_ref().is_some_and(|view| match is_late(source) {
                true => view.own.covering_live(slot, slot).contains(shard),
                false => view.own.covers(shard, slot, slot),
            });
            if claims && !peer.store.kept.contains_key(&(source, slot)) {
                missing += 1;
                let with = living.iter().find_map(|other| Some((other.id, other.store.kept.get(&(source, slot))?)));
                example = format!("slot {slot} of {:x} is not on {}: {with:?}", source.0, peer.id);
            }
        }
    }
    if missing == 0 { Vec::new() } else { vec![format!("{missing} batches missing where they are claimed: {example}")] }
}
