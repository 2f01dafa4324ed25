use std::sync::Arc;

use promesh_cluster::{Candidate, Placement};
use promesh_model::shard::ShardSet;
use promesh_model::{Labels, Timestamp};
use promesh_node::PeerInfo;

use super::*;

fn view(me: u128, others: &[(u128, bool)], acting: &[u16]) -> MeshView {
    let address = "127.0.0.1:1".parse().expect("an address");
    let info = |id: u128, silent: bool| PeerInfo { silent, ..PeerInfo::ready(PeerId(id), address) };
    let ids = others.iter().map(|(id, _)| *id).chain([me]);
    let candidate = |id| Candidate { id: PeerId(id), weight: 4, zone: String::new() };
    MeshView {
        peers: others.iter().map(|(id, silent)| info(*id, *silent)).collect(),
        placement: Arc::new(Placement::of(ids.map(candidate))),
        acting: acting.iter().map(|&shard| ShardId(shard)).collect::<ShardSet>(),
        ..MeshView::alone(PeerId(me))
    }
}

/// The shards' ranks of three peers, and a shard of each order.
fn shard_ranked(order: [u128; 3]) -> ShardId {
    let all = view(1, &[(2, false), (3, false)], &[]);
    let ranked = |shard: ShardId| all.placement.ranks(shard).map(|peer| peer.0).collect::<Vec<_>>() == order;
    (0..16_384).map(ShardId).find(|shard| ranked(*shard)).expect("every order occurs")
}

#[test]
fn the_owner_takes_and_the_next_rank_only_when_it_is_silent() {
    let shard = shard_ranked([2, 1, 3]);
    assert_eq!(taker(&view(1, &[(2, false), (3, false)], &[]), shard, &[]), Taker::Peer(PeerId(2)));
    assert_eq!(taker(&view(1, &[(2, true), (3, false)], &[]), shard, &[]), Taker::Me);
    // It did not answer, but lives: this peer is next and may not take, so it goes to the one after.
    assert_eq!(taker(&view(1, &[(2, false), (3, false)], &[]), shard, &[PeerId(2)]), Taker::Peer(PeerId(3)));
    // Whoever starts the slots takes the pushes, whatever the ranks.
    assert_eq!(taker(&view(1, &[(2, false), (3, false)], &[shard.0]), shard, &[]), Taker::Me);
    // All others failed: the owner is asked again.
    let failed = [PeerId(2), PeerId(3)];
    assert_eq!(taker(&view(1, &[(2, false), (3, false)], &[]), shard, &failed), Taker::Peer(PeerId(2)));
}

#[test]
fn a_part_is_the_series_it_names_and_parts_join_to_the_whole() {
    let labels = |name: &str| Labels::from_pairs([("__name__", name)]);
    let series = |name: &str, samples| promesh_api::backend::PushedSeries {
        labels: labels(name),
        samples,
        histograms: 0..0,
        exemplars: 0..0,
        start: Timestamp(0),
    };
    let samples: Vec<(Timestamp, f64)> = (0..5).map(|n| (Timestamp(n), n as f64)).collect();
    let push = Push {
        series: vec![series("a", 0..2), series("b", 2..3), series("c", 3..5)],
        samples: samples.clone(),
        ..Push::default()
    };
    let part = selected(&push, &[2]);
    assert_eq!(part.samples, samples[3..5]);
    assert_eq!(part.series, [series("c", 0..2)]);
    assert_eq!(joined([selected(&push, &[0]), selected(&push, &[1, 2])].map(Arc::new).to_vec()), push);
}
