//! The mesh as the alerting half sees it.

use std::collections::BTreeMap;

use promesh_alerting::AlertPeer;
use promesh_cluster::PeerState;
use promesh_model::PeerId;
use promesh_node::MeshView;

/// The share of a peer that is not ranked yet.
const WEIGHT_DEFAULT: u32 = 4;

/// Peers that are alive, this one among them, with what each said of its alerting configuration.
pub fn members(
    view: &MeshView,
    (zone, weight): (&str, u32),
    own: Option<u128>,
    told: &BTreeMap<PeerId, Option<u128>>,
) -> Vec<AlertPeer> {
    let weight_of = |id: PeerId| {
        let ranked = view.placement.candidates().find(|candidate| candidate.id == id);
        ranked.map_or(WEIGHT_DEFAULT, |candidate| u32::from(candidate.weight))
    };
    let others = view.peers.iter().filter(|peer| peer.alive).map(|peer| AlertPeer {
        id: peer.id,
        zone: peer.zone.clone(),
        weight: weight_of(peer.id),
        ready: peer.state.is_some_and(may_send),
        alerting_digest: told.get(&peer.id).copied().flatten(),
    });
    let me =
        AlertPeer { id: view.me, zone: zone.to_owned(), weight, ready: may_send(view.state), alerting_digest: own };
    let mut all: Vec<AlertPeer> = others.chain([me]).collect();
    all.sort_by_key(|peer| peer.id);
    all
}

/// A full disk stops no page: records are small, and what cannot be made durable is not acknowledged.
fn may_send(state: PeerState) -> bool {
    matches!(state, PeerState::Ready | PeerState::Full)
}
