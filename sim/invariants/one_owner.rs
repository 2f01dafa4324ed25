//! At rest exactly one peer acts for a shard, it is rank 0, and R peers hold it whole.
//!
//! Source: design of the mesh, section 16, invariant 2.

use promesh_cluster::PeerState;
use promesh_model::{SHARD_COUNT, ShardId};

use crate::world::World;

pub(crate) fn violations(world: &World, replication_factor: usize) -> Vec<String> {
    let views: Vec<_> = world.peers.iter().filter(|peer| peer.mind.is_some()).filter_map(|p| p.view.clone()).collect();
    let mut found = Vec::new();
    for (view, peer) in views.iter().zip(&world.peers) {
        if view.state != PeerState::Ready {
            found.push(format!("{} is {} at rest; {:?}", peer.id, view.state, view.fetching));
        }
    }
    let mut bad = 0;
    let mut example = String::new();
    let (mut acting, mut holders) = (vec![Vec::new(); SHARD_COUNT], vec![0usize; SHARD_COUNT]);
    for view in &views {
        view.acting.iter().for_each(|shard| acting[usize::from(shard.0)].push(view.me));
        view.own.open_shards().iter().for_each(|shard| holders[usize::from(shard.0)] += 1);
    }
    for shard in (0..SHARD_COUNT as u16).map(ShardId) {
        let (acting, holders) = (&acting[usize::from(shard.0)], holders[usize::from(shard.0)]);
        let owner = views[0].placement.owner(shard);
        if acting.len() != 1 || Some(acting[0]) != owner || holders < replication_factor.min(views.len()) {
            bad += 1;
            example = format!("shard {shard}: acting {acting:?}, rank 0 is {owner:?}, {holders} hold it");
        }
    }
    if bad > 0 {
        found.push(format!("{bad} shards without exactly one owner and R holders at rest, such as {example}"));
    }
    found
}
