//! Where copies lie and how much each peer has: zones, weights, and a disk without room.

use serde_json::Value;

use crate::faults::{state_of, states};
use crate::history::operate;
use crate::mesh::{assert_no_hole, assert_same_everywhere, now_ms};
use crate::storage::SmallDisk;
use crate::support::{Exporter, Peer, mesh, mesh_of, one_mesh_at_a_time, pause};

/// What a peer says of itself.
fn own(peer: &Peer, field: &str) -> u64 {
    peer.cluster()["members"][0][field].as_u64().unwrap_or(u64::MAX)
}

/// The zones as `capacity` shows them: name, peers, whether all of it may be lost.
fn zones(peer: &Peer) -> Vec<(String, u64, bool)> {
    let capacity: Value = serde_json::from_str(&operate(peer, &["capacity", "--output=json"])).expect("JSON");
    let zones = capacity["zones"].as_array().cloned().unwrap_or_default();
    let name = |zone: &Value| zone["zone"].as_str().unwrap_or_default().to_owned();
    zones.iter().map(|zone| (name(zone), zone["peers"].as_u64().unwrap_or(0), zone["mayBeLost"] == true)).collect()
}

/// Two peers in each of two zones and one of double weight in a third: with two copies any zone may burn down, and once the
/// copies are two again, in the two zones that are left, the next one as well.
#[test]
fn a_zone_that_burns_down_costs_no_slot_and_no_answer_and_double_weight_is_double_work() {
    const TARGETS: usize = 40;
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (a, b, c) = (["--cluster.zone=a"], ["--cluster.zone=b"], ["--cluster.zone=c", "--cluster.weight=8"]);
    let flags: [&[&str]; 5] = [&a, &b, &c, &a, &b];
    let mut peers = mesh_of(root.path(), &exporter.config(TARGETS, "5s", "4s"), &flags);
    // Of 24 virtual copies one has eight, the others four each.
    const SHARDS: f64 = 16_384.0;
    for (number, peer) in peers.iter().enumerate() {
        let share = if number == 2 { SHARDS / 3.0 } else { SHARDS / 6.0 };
        peer.wait("it owns its share", 20_000, || {
            let owned = own(peer, "shardsOwned") as f64;
            ((owned - share).abs() < 0.1 * share).then_some(())
        });
    }
    let all = ["a", "b", "c"].map(|zone| (zone.to_owned(), if zone == "c" { 1 } else { 2 }, true));
    for peer in &peers {
        peer.wait("every zone may be lost", 20_000, || (zones(peer) == all).then_some(()));
    }
    let text = operate(&peers[4], &["capacity"]);
    assert!(text.contains("of 5 peers any one may be lost"), "{text}");
    assert!(text.contains("zone b, 2 peers: may be lost as a whole"), "{text}");
    pause(6_000);
    let began = now_ms();
    let killed = [0, 3];
    killed.iter().for_each(|victim| peers[*victim].kill());
    pause(900);
    let survivors = |peers: &[Peer], rest: &[usize], whole: bool| {
        for peer in rest.iter().map(|number| &peers[*number]) {
            // Every series, and no warning.
            assert_eq!(peer.query("scrapes_total").len(), TARGETS);
            if whole {
                let seconds = ((now_ms() - began) / 1000 + 10) as u64;
                assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, TARGETS, began - 6_000, 0);
            }
        }
    };
    survivors(&peers, &[1, 2, 4], false);
    for peer in [&peers[1], &peers[2], &peers[4]] {
        peer.wait("there are two copies of everything in two zones", 40_000, || {
            let left = vec![("b".to_owned(), 2, true), ("c".to_owned(), 1, true)];
            (zones(peer) == left && peer.cluster()["shards"]["underReplicated"] == 0).then_some(())
        });
    }
    println!("two copies in two zones again {} ms after the third was lost", now_ms() - began);
    assert_eq!(own(&peers[2], "shardsHeld"), 16_384, "who is alone in its zone holds a copy of everything");
    pause(11_000);
    survivors(&peers, &[1, 2, 4], true);
    [1, 4].iter().for_each(|victim| peers[*victim].kill());
    pause(900);
    survivors(&peers, &[2], false);
    pause(11_000);
    survivors(&peers, &[2], true);
    let text = operate(&peers[2], &["capacity"]);
    assert!(text.contains("of 1 peers none may be lost"), "{text}");
    // Those that were away come back to what they missed.
    peers.iter_mut().enumerate().filter(|(number, _)| *number != 2).for_each(|(_, peer)| peer.start());
    for peer in &peers {
        peer.wait("all are ready again", 60_000, || (states(peer) == ["ready"; 5]).then_some(()));
        peer.wait("every zone may be lost again", 60_000, || (zones(peer) == all).then_some(()));
    }
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
    peers[2].kill();
    pause(900);
    survivors(&peers, &[0, 1, 3, 4], true);
}

/// A peer that runs out of room gives its shards away, and answers on; to the last byte it claims nothing that it could not
/// store. With room again it takes its share and fetches what it missed.
#[test]
fn a_peer_without_room_gives_its_shards_away_answers_on_and_comes_back() {
    const TARGETS: usize = 20;
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("peer-1/data");
    let Some(disk) = SmallDisk::mount(&data, "40m") else {
        println!("not run: this user may not mount a tmpfs, and only a real full disk answers ENOSPC");
        return;
    };
    let exporter = Exporter::start();
    let mut peers = mesh(root.path(), 3, &exporter.config(TARGETS, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    let whole = |peers: &[Peer], which: &[usize]| {
        for peer in which.iter().map(|number| &peers[*number]) {
            let seconds = ((now_ms() - began) / 1000 + 5) as u64;
            assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, TARGETS, began - 4_000, 0);
        }
    };
    // Little room: it gives its shards away while it can still store.
    let filler = data.join("filler");
    let fill = |left: u64| {
        let free = SmallDisk::free(&data).saturating_sub(left);
        let mut file = std::fs::File::options().create(true).append(true).open(&filler).expect("a file");
        let _ = std::io::Write::write_all(&mut file, &vec![0u8; free as usize]);
    };
    fill(1 << 20);
    for peer in &peers {
        peer.wait("it is seen as full", 20_000, || (state_of(peer, &peers[1])? == "full").then_some(()));
    }
    peers[1].wait("it owns nothing", 20_000, || (own(&peers[1], "shardsOwned") == 0).then_some(()));
    assert_eq!(peers[0].metric(r#"promesh_cluster_members{state="full"}"#), 1.0);
    let status = operate(&peers[0], &["status"]);
    assert!(status.lines().any(|line| line.contains(" full ")), "{status}");
    let capacity = operate(&peers[2], &["capacity"]);
    assert!(capacity.contains("1 peers stand back: full, drained or with a wrong clock"), "{capacity}");
    pause(11_000);
    whole(&peers, &[0, 1, 2]);
    // No room at all.
    fill(0);
    pause(16_000);
    whole(&peers, &[0, 1, 2]);
    std::fs::remove_file(&filler).expect("removed");
    for peer in &peers {
        peer.wait("all are ready again", 60_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    peers[1].wait("it has its share", 20_000, || (own(&peers[1], "shardsOwned") > 4_000).then_some(()));
    peers[1]
        .wait("nothing lacks a copy", 20_000, || (peers[1].cluster()["shards"]["underReplicated"] == 0).then_some(()));
    pause(6_000);
    whole(&peers, &[0, 1, 2]);
    // What it missed it has: of two copies either is enough.
    peers[0].kill();
    pause(900);
    whole(&peers, &[1, 2]);
    peers.clear();
    drop(disk);
}
