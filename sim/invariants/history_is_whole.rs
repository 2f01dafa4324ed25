//! Of every sealed window R peers have all that anybody has, and say so.
//!
//! Source: design of the mesh, section 7: copies are made good, a returning peer fetches what it missed.

use promesh_model::Timestamp;
use promesh_node::under_replicated_history;

use crate::world::World;
use crate::world::history::WINDOW_MS;

pub(crate) fn violations(world: &World) -> Vec<String> {
    let views = world.peers.iter().filter(|peer| peer.mind.is_some()).filter_map(|peer| peer.view.as_ref());
    let Some(view) = views.max_by_key(|view| view.peers.len()) else { return Vec::new() };
    let mut found = Vec::new();
    for window in world.sealed_windows() {
        let lacking = under_replicated_history(view, Timestamp(window), Timestamp(window + WINDOW_MS));
        if lacking > 0 {
            found.push(format!("{lacking} shards of the window of {window} have fewer than R copies at rest"));
        }
    }
    found
}
