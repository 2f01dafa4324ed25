//! What alerting is told of the mesh.

use promesh_alerting::AlertPeer;
use promesh_cluster::PeerState;
use promesh_model::PeerId;

use crate::view::MeshView;

/// The share of a peer that is not ranked yet.
const WEIGHT_DEFAULT: u32 = 4;

/// The members of a view as alerting sees them, in order, this peer included: who is alive, and who of them may vote and
/// send. This peer's zone and weight are what its command line says, since a view may not rank it yet; `digest` gives the
/// digest of the alerting configuration that a peer has published, if it has one.
pub fn alert_members(
    view: &MeshView,
    (zone, weight): (&str, Option<u32>),
    digest: impl Fn(PeerId) -> Option<u128>,
) -> Vec<AlertPeer> {
    let member = |id: PeerId, zone: &str, state: Option<PeerState>| {
        let ranked = view.placement.candidates().find(|candidate| candidate.id == id);
        AlertPeer {
            id,
            zone: zone.to_owned(),
            weight: ranked.map_or(WEIGHT_DEFAULT, |candidate| u32::from(candidate.weight)),
            ready: state.is_some_and(may_send),
            alerting_digest: digest(id),
        }
    };
    let others = view.peers.iter().filter(|peer| peer.alive && peer.id != view.me);
    let mut members: Vec<AlertPeer> = others.map(|peer| member(peer.id, &peer.zone, peer.state)).collect();
    let mut me = member(view.me, zone, Some(view.state));
    me.weight = weight.unwrap_or(me.weight);
    members.push(me);
    members.sort_unstable_by_key(|member| member.id);
    members
}

/// A full disk stops no page: records are small, and what cannot be made durable is not acknowledged.
fn may_send(state: PeerState) -> bool {
    matches!(state, PeerState::Ready | PeerState::Full)
}
