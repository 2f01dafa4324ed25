//! Bad lines and bad neighbours: loss, delay, packets out of order and twice, cuts in one direction, floods, wrong clocks,
//! and a secret that changes under it all.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::adverse::Clock;
use crate::faults::{relayed, relayed_mesh, state_of, states};
use crate::mesh::{assert_no_hole, assert_same_everywhere, now_ms};
use crate::push::{send, write_request};
use crate::relay::cut;
use crate::support::{Exporter, Peer, one_mesh_at_a_time, pause};

/// No peer has held another for dead.
fn assert_nobody_was_buried(peers: &[Peer]) {
    for peer in peers {
        let log = peer.log();
        assert!(!log.contains("peer is down"), "{log}");
    }
}

fn seconds_since(began: i64) -> u64 {
    ((now_ms() - began) / 1000 + 5) as u64
}

#[test]
fn a_line_that_loses_delays_reorders_and_repeats_costs_no_slot() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (peers, relays) = relayed(root.path(), &exporter.config(12, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    for relay in &relays {
        relay.faults.loss.store(30, Ordering::Relaxed);
        relay.faults.delay_ms.store(15, Ordering::Relaxed);
        relay.faults.repeats.store(200, Ordering::Relaxed);
    }
    pause(16_000);
    for peer in &peers {
        assert_eq!(states(peer), ["ready"; 3]);
        assert_no_hole(&peer.samples("scrapes_total", seconds_since(began)), 5_000, 12, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds_since(began), began);
    assert_nobody_was_buried(&peers);
    // What came twice did nothing, but it was noticed.
    for peer in &peers {
        assert!(peer.metric("promesh_transport_repeated_datagrams_total") > 20.0);
        assert_eq!(peer.log().matches("a datagram came a second time").count(), 1, "{}", peer.log());
    }
}

#[test]
fn five_peers_that_lose_one_packet_in_twenty_bury_nobody_and_see_a_death_in_four_seconds_at_one_in_a_hundred() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (mut peers, relays) = relayed_mesh(root.path(), &exporter.config(10, "5s", "4s"), 5, &[]);
    for relay in &relays {
        relay.faults.loss.store(50, Ordering::Relaxed);
    }
    let began = now_ms();
    while now_ms() < began + 25_000 {
        for peer in &peers {
            // A suspicion is no verdict, and is refuted.
            let gone = states(peer).into_iter().filter(|state| !["ready", "suspect"].contains(&state.as_str())).count();
            assert_eq!(gone, 0, "{:?}", states(peer));
        }
        pause(250);
    }
    assert_nobody_was_buried(&peers);
    // The four seconds are promised at one in a hundred.
    for relay in &relays {
        relay.faults.loss.store(10, Ordering::Relaxed);
    }
    let dead = peers[4].cluster()["self"].clone();
    peers[4].kill();
    let killed = now_ms();
    let survivors = &peers[..4];
    for peer in survivors {
        peer.wait("the death is known", 20_000, || {
            let members = peer.cluster()["members"].as_array().cloned()?;
            let state = members.iter().find(|member| member["id"] == dead)?["state"].clone();
            (state == "down" || state == "unreachable").then_some(())
        });
    }
    let took = now_ms() - killed;
    println!("a death is known to all after {took} ms at 1 % loss");
    assert!(took < 4_000, "{took} ms");
    for peer in survivors {
        assert_eq!(peer.log().matches("peer is down").count(), 1, "{}", peer.log());
    }
}

#[test]
fn a_cut_in_one_direction_costs_no_slot_and_both_ends_have_the_same_afterwards() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (peers, relays) = relayed(root.path(), &exporter.config(12, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    cut(&peers, &relays, 2, 0, true);
    pause(9_000);
    cut(&peers, &relays, 2, 0, false);
    for peer in &peers {
        peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(11_000);
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds_since(began)), 5_000, 12, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds_since(began), began);
}

/// Sends garbage and what looks like the beginning of a connection to a port, until it is told to end; counts. It comes from
/// many addresses, as far as the port can tell.
fn flood(port: u16, ends: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    let from =
        |last: u8| UdpSocket::bind(SocketAddr::from(([127, 0, 7, last], 0))).expect("loopback has many addresses");
    let sockets: Vec<UdpSocket> = (1..=200).map(from).collect();
    let mut packet = [0u8; 1_200];
    let mut dice = 0x9e37_79b9_u64;
    while !ends.load(Ordering::Relaxed) {
        for socket in sockets.iter().cycle().skip(dice as usize % 200).take(50) {
            for byte in packet.iter_mut().step_by(8) {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (dice >> 40) as u8;
            }
            // Every third has the first bytes of QUIC's long header, version 1: somebody who dials.
            if dice.is_multiple_of(3) {
                packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            }
            if socket.send_to(&packet, ("127.0.0.1", port)).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        pause(5);
    }
}

#[test]
fn a_flood_on_the_udp_port_costs_no_slot_and_little_memory() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = crate::support::mesh(root.path(), 3, &exporter.config(12, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    let resident = peers[0].metric("process_resident_memory_bytes");
    let lines = peers[0].log().lines().count();
    let (ends, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flooding = {
        let (port, ends, sent) = (peers[0].cluster, Arc::clone(&ends), Arc::clone(&sent));
        std::thread::spawn(move || flood(port, ends, sent))
    };
    pause(12_000);
    ends.store(true, Ordering::Relaxed);
    flooding.join().expect("no panic");
    let (garbage, sent) = (peers[0].metric("promesh_transport_garbage_datagrams_total"), sent.load(Ordering::Relaxed));
    assert!(sent > 10_000 && garbage > 1_000.0, "{garbage} of {sent}");
    let grown = peers[0].metric("process_resident_memory_bytes") - resident;
    assert!(grown < 100e6, "{grown} bytes more after {sent} packets");
    // A few lines of each kind of trouble, however many addresses it comes from.
    let said = peers[0].log().lines().count() - lines;
    let of = |what: &str| peers[0].log().matches(what).count();
    println!("{garbage} of {sent} packets are garbage; {said} lines");
    assert!((1..=8).contains(&of("datagrams come that are nothing of ours")), "{}", peers[0].log());
    assert!(said <= 40, "{said} lines: {}", peers[0].log());
    pause(6_000);
    for peer in &peers {
        assert_eq!(states(peer), ["ready"; 3]);
        assert_no_hole(&peer.samples("scrapes_total", seconds_since(began)), 5_000, 12, began - 4_000, 0);
    }
    assert_nobody_was_buried(&peers);
}

#[test]
fn a_peer_with_a_wrong_clock_owns_nothing_until_it_is_right_again() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let Some((clock, prefix)) = Clock::new(root.path()) else { return };
    let exporter = Exporter::start();
    let mut peers = crate::support::mesh(root.path(), 2, &exporter.config(12, "5s", "4s"));
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let third = Peer::new(root.path(), "peer-2", &root.path().join("prometheus.yml"), &[&peers[0]]);
    peers.push(third.through(&prefix));
    peers[2].start();
    peers[2].wait_ready();
    for peer in &peers {
        peer.wait("all are ready", 30_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(6_000);
    clock.set(4);
    for peer in &peers {
        peer.wait("the wrong clock is seen", 30_000, || (state_of(peer, &peers[2])? == "skewed").then_some(()));
    }
    // Offsets are smoothed, so that one late beat is no verdict.
    peers[0].wait("the offset is shown", 10_000, || {
        let members = peers[0].cluster()["members"].as_array().cloned()?;
        let off = members.iter().filter_map(|member| member["clockOffsetSeconds"].as_f64()).fold(0.0, f64::max);
        (3.7..4.3).contains(&off).then_some(())
    });
    peers[2].wait("it has given its shards away", 15_000, || {
        (peers[2].cluster()["members"][0]["shardsOwned"] == 0).then_some(())
    });
    // The step itself jumps over slots of the peer whose clock it is; nobody misses one from here on, nor when it is set back.
    let began = now_ms();
    pause(11_000);
    clock.set(0);
    for peer in &peers {
        peer.wait("all are ready again", 60_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(6_000);
    for peer in &peers[..2] {
        assert_no_hole(&peer.samples("scrapes_total", seconds_since(began)), 5_000, 12, began, 0);
    }
}

/// Of two peers nobody can tell whose clock is wrong: the one that is behind takes nothing of the other's, says so, and has
/// all of it once its clock is right.
#[test]
fn what_is_too_far_ahead_of_a_holders_clock_is_refused_and_owed() {
    const BEHIND: i64 = 30 * 60;
    /// So many that chance gives neither of two peers next to none of them.
    const TARGETS: usize = 60;
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let Some((clock, prefix)) = Clock::new(root.path()) else { return };
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(TARGETS, "5s", "4s")).expect("written");
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let first = Peer::new(root.path(), "peer-0", &path, &[]).with("--web.enable-remote-write-receiver");
    let second = Peer::new(root.path(), "peer-1", &path, &[&first]).with("--web.enable-remote-write-receiver");
    let mut peers = vec![first, second.through(&prefix)];
    peers.iter_mut().for_each(Peer::start);
    for peer in &peers {
        peer.wait_ready();
        peer.wait("both are ready", 30_000, || (states(peer) == ["ready"; 2]).then_some(()));
    }
    pause(6_000);
    let ahead = |peer: &Peer| peer.metric("promesh_replication_ahead_batches_total");
    assert_eq!(ahead(&peers[1]), 0.0);
    clock.set(-BEHIND);
    let began = now_ms();
    peers[1].wait("it refuses what is ahead of its clock", 20_000, || (ahead(&peers[1]) > 0.0).then_some(()));
    // Of two copies one is refused: nobody is told that the push is safe.
    let body = write_request((0..20).map(|number| format!("i{number}")), now_ms(), 1.0);
    assert_eq!(send(peers[0].web, &body).0, 503);
    pause(20_000);
    let ended = now_ms();
    clock.set(0);
    let log = peers[1].log();
    assert!(log.contains("too far ahead of the clock here"), "{log}");
    assert_eq!(send(peers[0].web, &body).0, 204, "its clock is right again");
    pause(12_000);
    // What the first wrote meanwhile the second has alone.
    let slots = |peer: &Peer| -> Vec<(String, Vec<i64>)> {
        let all = peer.samples("scrapes_total", seconds_since(began));
        let within = |(labels, samples): (String, Vec<(i64, String)>)| {
            let slots = samples.into_iter().map(|(at, _)| at).filter(|at| (began + 2_000..ended).contains(at));
            (labels, slots.collect())
        };
        all.into_iter().map(within).collect()
    };
    let with_both = slots(&peers[0]);
    let taken: usize = with_both.iter().map(|(_, slots)| slots.len()).sum();
    peers[0].kill();
    peers[1].wait("it has all of it", 20_000, || (slots(&peers[1]) == with_both).then_some(()));
    println!("{} batches were refused; {taken} samples of that time are with both", ahead(&peers[1]));
    assert!(taken > TARGETS, "the first peer went on with its half, for four slots");
}

#[test]
fn a_secret_is_changed_peer_by_peer_without_a_restart() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(6, "5s", "4s")).expect("written");
    let secret = |peer: usize, end: &str| root.path().join(format!("secret-{peer}{end}"));
    let (old, new) = ("a".repeat(40), "b".repeat(40));
    let flag = |peer: usize| format!("--cluster.secret-file={}", secret(peer, "").display());
    let mut peers: Vec<Peer> = Vec::new();
    for number in 0..2 {
        std::fs::write(secret(number, ""), &old).expect("written");
        let seeds: Vec<&Peer> = peers.iter().collect();
        let mut peer = Peer::new(root.path(), &format!("peer-{number}"), &path, &seeds).with(flag(number));
        peer.start();
        peers.push(peer);
    }
    for peer in &peers {
        peer.wait_ready();
        peer.wait("it sees the other", 30_000, || (states(peer) == ["ready"; 2]).then_some(()));
    }
    let noticed = |peer: &Peer, times: usize| {
        let renewed = |peer: &Peer| peer.log().matches("the certificate was renewed").count();
        peer.wait("it has read its secret again", 20_000, || (renewed(peer) >= times).then_some(()));
    };
    // Trusted by all, then used by one.
    for (number, peer) in peers.iter().enumerate() {
        std::fs::write(secret(number, ".next"), &new).expect("written");
        noticed(peer, 1);
    }
    std::fs::rename(secret(1, ""), secret(1, ".previous")).expect("moved");
    std::fs::rename(secret(1, ".next"), secret(1, "")).expect("moved");
    noticed(&peers[1], 2);
    // New connections: one peer signs by the new secret, the other by the old one.
    peers[1].kill();
    peers[1].start();
    for peer in &peers {
        peer.wait_ready();
        peer.wait("they see each other", 30_000, || (states(peer) == ["ready"; 2]).then_some(()));
    }
    std::fs::rename(secret(0, ".next"), secret(0, "")).expect("moved");
    std::fs::remove_file(secret(1, ".previous")).expect("removed");
    noticed(&peers[0], 2);
    peers[0].kill();
    peers[0].start();
    for peer in &peers {
        peer.wait_ready();
        peer.wait("they see each other", 30_000, || (states(peer) == ["ready"; 2]).then_some(()));
        assert_eq!(peer.query("scrapes_total").len(), 6);
    }
    // Who has only the old one is a stranger now.
    std::fs::write(secret(2, ""), &old).expect("written");
    let mut stranger = Peer::new(root.path(), "peer-2", &path, &[&peers[0]]).with(flag(2));
    stranger.start();
    let refused = r#"promesh_transport_refused_total{reason="certificate"}"#;
    peers[0].wait("it is refused", 20_000, || (peers[0].metric(refused) > 0.0).then_some(()));
    assert_eq!(states(&peers[0]), ["ready"; 2]);
    for peer in &peers {
        let log = peer.log();
        assert!(!log.contains(&old) && !log.contains(&new), "{log}");
    }
}
