//! Peers of two builds in one mesh: `PROMESH_PREVIOUS=/path/to/an/older/promesh cargo test --test promesh versions::`.

use crate::faults::states;
use crate::mesh::{assert_no_hole, assert_same_everywhere, now_ms};
use crate::support::{Exporter, Peer, one_mesh_at_a_time, pause};

#[test]
fn a_peer_of_the_build_before_works_in_a_mesh_of_three() {
    let Ok(previous) = std::env::var("PROMESH_PREVIOUS") else {
        println!("not run: PROMESH_PREVIOUS names no older build");
        return;
    };
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(12, "5s", "4s")).expect("written");
    let mut peers: Vec<Peer> = Vec::new();
    for number in 0..3 {
        let seeds: Vec<&Peer> = peers.iter().take(1).collect();
        let peer = Peer::new(root.path(), &format!("peer-{number}"), &path, &seeds);
        let mut peer = if number == 1 { peer.of_build(&previous) } else { peer };
        peer.start();
        peers.push(peer);
    }
    let all_ready = |peers: &[Peer]| {
        for peer in peers {
            peer.wait_ready();
            peer.wait("all are ready", 30_000, || (states(peer) == ["ready"; 3]).then_some(()));
        }
    };
    all_ready(&peers);
    pause(6_000);
    let began = now_ms();
    // Each copies from the other when it comes back.
    for victim in [1, 2] {
        peers[victim].kill();
        pause(8_000);
        peers[victim].start();
        all_ready(&peers);
        pause(6_000);
    }
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 12, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
}
