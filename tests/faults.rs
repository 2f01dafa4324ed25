//! Real peers under faults that an operator meets: a blocked port, a cut, a process that stands still, a copied disk.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use crate::mesh::{assert_no_hole, assert_same_everywhere, now_ms};
use crate::push::{send, write_request};
use crate::relay::{Relay, cut};
use crate::support::{Exporter, Peer, escaped, get, mesh_with, one_mesh_at_a_time, pause, wall};

/// Three peers, each behind a relay.
pub fn relayed(root: &Path, config: &str) -> (Vec<Peer>, Vec<Relay>) {
    relayed_with(root, config, &[])
}

/// The same, each peer with some more flags.
pub fn relayed_with(root: &Path, config: &str, flags: &[&str]) -> (Vec<Peer>, Vec<Relay>) {
    relayed_mesh(root, config, 3, flags)
}

/// So many peers, each behind a relay and with some more flags.
pub fn relayed_mesh(root: &Path, config: &str, count: usize, flags: &[&str]) -> (Vec<Peer>, Vec<Relay>) {
    let path = root.join("prometheus.yml");
    std::fs::write(&path, config).expect("written");
    let (mut peers, mut relays): (Vec<Peer>, Vec<Relay>) = (Vec::new(), Vec::new());
    for number in 0..count {
        let peer = Peer::new(root, &format!("peer-{number}"), &path, &[]);
        let relay = Relay::before(peer.cluster);
        let mut peer = peer.with(format!("--cluster.advertise-address={}", relay.address));
        if let Some(first) = relays.first() {
            peer = peer.with(format!("--cluster.peer={}", first.address));
        }
        peer = flags.iter().fold(peer, |peer, flag| peer.with(*flag));
        peer.start();
        peers.push(peer);
        relays.push(relay);
    }
    for peer in &peers {
        peer.wait_ready();
        peer.wait("it sees all others ready", 30_000, || (states(peer) == vec!["ready"; count]).then_some(()));
    }
    (peers, relays)
}

/// Cuts the third from the others in both directions, or heals it.
pub fn isolate(peers: &[Peer], relays: &[Relay], cuts: bool) {
    for other in [0, 1] {
        cut(peers, relays, other, 2, cuts);
        cut(peers, relays, 2, other, cuts);
    }
}

pub fn states(peer: &Peer) -> Vec<String> {
    let cluster = peer.cluster();
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    members.iter().map(|member| member["state"].as_str().unwrap_or_default().to_owned()).collect()
}

pub fn state_of(peer: &Peer, other: &Peer) -> Option<String> {
    let id = other.cluster()["self"].clone();
    let cluster = peer.cluster();
    let members = cluster["members"].as_array()?;
    members.iter().find(|member| member["id"] == id)?["state"].as_str().map(str::to_owned)
}

#[test]
fn a_peer_whose_udp_is_blocked_is_shown_unreachable_and_both_sides_go_on() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (peers, relays) = relayed(root.path(), &exporter.config(12, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    isolate(&peers, &relays, true);
    for peer in &peers[..2] {
        peer.wait("the third is seen as unreachable", 20_000, || {
            (state_of(peer, &peers[2])? == "unreachable").then_some(())
        });
        assert_ne!(peer.cluster()["split"], true, "two of three are a majority");
        assert_eq!(peer.query("scrapes_total").len(), 12);
    }
    pause(4_000);
    isolate(&peers, &relays, false);
    for peer in &peers {
        peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(8_000);
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 12, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
}

#[test]
fn a_process_that_stands_still_costs_no_slot_and_does_not_scrape_twice() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let (peers, relays) = relayed(root.path(), &exporter.config(12, "5s", "4s"));
    // Loss and delay beside it, as on a bad line.
    for relay in &relays {
        relay.faults.loss.store(20, Ordering::Relaxed);
        relay.faults.delay_ms.store(5, Ordering::Relaxed);
    }
    pause(6_000);
    let began = now_ms();
    peers[1].signal("STOP");
    pause(8_000);
    peers[1].signal("CONT");
    for peer in &peers {
        peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(11_000);
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 12, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
}

#[test]
fn a_copied_data_directory_is_refused_with_both_addresses() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = crate::support::mesh(root.path(), 2, &exporter.config(2, "1s", "900ms"));
    let copied = root.path().join("copy");
    std::fs::create_dir_all(copied.join("data")).expect("a folder");
    let status =
        Command::new("cp").arg("-r").arg(root.path().join("peer-1/data/peer")).arg(copied.join("data")).status();
    assert!(status.expect("cp runs").success());
    // Whether it asks the one it is a copy of, or another that knows it.
    for seed in [&peers[1], &peers[0]] {
        let mut twin = Peer::new(root.path(), "copy", &root.path().join("prometheus.yml"), &[seed]);
        twin.start();
        assert_eq!(twin.wait_end(), Some(1), "{}", twin.log());
        let log = twin.log();
        let (there, here) = (format!("127.0.0.1:{}", peers[1].cluster), format!("127.0.0.1:{}", twin.cluster));
        assert!(log.contains(&there) && log.contains(&here), "{log}");
    }
    assert_eq!(states(&peers[0]), ["ready"; 2], "nobody is troubled by it");
}

#[test]
fn a_peer_comes_back_with_another_address_and_is_the_same_peer() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = crate::support::mesh(root.path(), 3, &exporter.config(6, "1s", "900ms"));
    let id = peers[2].cluster()["self"].clone();
    peers[2].kill();
    let mut moved = Peer::new(root.path(), "peer-2", &root.path().join("prometheus.yml"), &[&peers[0]]);
    moved.start();
    moved.wait_ready();
    peers.pop();
    for peer in &peers {
        peer.wait("it is ready at its new address", 30_000, || {
            let cluster = peer.cluster();
            let found = cluster["members"].as_array()?.iter().find(|member| member["id"] == id)?.clone();
            let at = format!("127.0.0.1:{}", moved.cluster);
            (found["state"] == "ready" && found["address"] == at.as_str()).then_some(())
        });
        assert_eq!(states(peer), ["ready"; 3]);
    }
}

#[test]
fn an_operator_drains_removes_and_sends_away() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = crate::support::mesh(root.path(), 3, &exporter.config(6, "5s", "4s"));
    let cluster = |peer: &Peer, arguments: &[&str]| {
        let url = format!("--url=http://127.0.0.1:{}", peer.web);
        let output = Command::new(env!("CARGO_BIN_EXE_promesh")).arg("cluster").args(arguments).arg(url).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let owned = |peer: &Peer| peer.cluster()["members"][0]["shardsOwned"].as_u64();
    let began = now_ms();
    let second = format!("127.0.0.1:{}", peers[1].cluster);
    assert_eq!(cluster(&peers[0], &["drain", &second]).0, Some(0));
    peers[1].wait("it owns nothing", 20_000, || (owned(&peers[1])? == 0).then_some(()));
    peers[0].wait("the others see it", 5_000, || (state_of(&peers[0], &peers[1])? == "full").then_some(()));
    assert_eq!(cluster(&peers[0], &["undrain", &second]).0, Some(0));
    peers[1].wait("it owns its share again", 20_000, || (owned(&peers[1])? > 4_000).then_some(()));
    pause(16_000);
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    assert_no_hole(&peers[0].samples("scrapes_total", seconds), 5_000, 6, began, 0);
    // A living peer is not removed; one that is dead is, everywhere.
    let third = peers[2].cluster()["self"].as_str().expect("an id").to_owned();
    let (code, text) = cluster(&peers[0], &["remove", &third]);
    assert!(code == Some(1) && text.contains("is alive"), "{text}");
    peers[2].kill();
    peers[0].wait("the dead one is down", 20_000, || states(&peers[0]).contains(&"down".to_owned()).then_some(()));
    peers[1].wait("the dead one is down", 20_000, || states(&peers[1]).contains(&"down".to_owned()).then_some(()));
    assert_eq!(cluster(&peers[1], &["remove", &third]).0, Some(0));
    for peer in &peers[..2] {
        peer.wait("it is forgotten", 10_000, || (states(peer).len() == 2).then_some(()));
    }
    let (code, text) = cluster(&peers[0], &["snapshot"]);
    assert!(code == Some(0) && text.lines().count() == 2, "{text}");
    assert_eq!(cluster(&peers[0], &["leave", &second]).0, Some(0));
    assert_eq!(peers[1].wait_end(), Some(0));
    let (code, text) = cluster(&peers[0], &["rebalance"]);
    assert!(code == Some(0) && text.lines().count() == 1, "{text}");
    let (code, text) = cluster(&peers[0], &["capacity"]);
    assert!(code == Some(0) && text.contains("of 1 peers none may be lost"), "{text}");
    peers[0].wait("the goodbye is heard", 10_000, || (cluster(&peers[0], &["status"]).0 == Some(0)).then_some(()));
    // The same for programs, and nothing beside it.
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (code, text) = cluster(&peers[0], &[arguments, &["--output=json"]].concat());
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    };
    assert_eq!(json(&["status"])["self"], peers[0].cluster()["self"]);
    assert_eq!(json(&["capacity"])["peersMayBeLost"], 0);
    assert_eq!(json(&["config", "diff"]), serde_json::json!([]));
    assert_eq!(json(&["snapshot"]).as_array().map(Vec::len), Some(1));
    let (code, text) = cluster(&peers[0], &["drain", "127.0.0.1:1"]);
    assert!(code == Some(1) && text.contains("no peer is known by \"127.0.0.1:1\""), "{text}");
}

/// `/etc/hosts` of a mount namespace of the peer's own stands in for a name server, where that is allowed.
#[test]
fn a_seed_whose_name_leads_elsewhere_by_now_is_found() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        println!("mount namespaces are not allowed here: not tested");
        return;
    }
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(2, "5s", "4s")).expect("written");
    let hosts = root.path().join("hosts");
    let lead_to = |address: &str| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{address} seed.test\n"));
    lead_to("127.0.0.9").expect("written");
    let mut first = Peer::new(root.path(), "peer-0", &path, &[]);
    first.start();
    first.wait_ready();
    let own_hosts = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let second = Peer::new(root.path(), "peer-1", &path, &[]);
    let mut second = second
        .through(&["unshare", "-m", "sh", "-c", &own_hosts, "sh"])
        .with(format!("--cluster.peer=seed.test:{}", first.cluster));
    second.start();
    // The name led to nobody: it waits for a while, then goes on alone, and looks again and again.
    second.wait_ready();
    assert_eq!((states(&first), states(&second)), (vec!["ready".to_owned()], vec!["ready".to_owned()]));
    lead_to("127.0.0.1").expect("written");
    for peer in [&first, &second] {
        peer.wait("the two have met", 30_000, || (states(peer) == ["ready"; 2]).then_some(()));
    }
}

/// A peer in a mount namespace of its own, where these files are its `/etc/hosts` and `/etc/resolv.conf`.
fn named_by(peer: Peer, hosts: &Path, resolv: &Path) -> Peer {
    let mounts = format!(
        "mount --bind {} /etc/hosts && mount --bind {} /etc/resolv.conf && exec \"$@\"",
        hosts.display(),
        resolv.display()
    );
    peer.through(&["unshare", "-m", "sh", "-c", &mounts, "sh"])
}

/// A name server that takes every question and never answers: the worst that a name can do.
#[test]
fn a_seed_whose_name_leads_nowhere_keeps_nobody_from_whom_it_knows() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        println!("mount namespaces are not allowed here: not tested");
        return;
    }
    let Ok(_mute) = UdpSocket::bind("127.0.0.9:53") else {
        println!("port 53 is not allowed here: not tested");
        return;
    };
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(2, "5s", "4s")).expect("written");
    let (hosts, resolv) = (root.path().join("hosts"), root.path().join("resolv.conf"));
    let lead_to = |seed: &str| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{seed}\n")).expect("written");
    std::fs::write(&resolv, "nameserver 127.0.0.9\noptions timeout:10 attempts:1\n").expect("written");
    lead_to("127.0.0.1 seed.test");
    let mut first = Peer::new(root.path(), "peer-0", &path, &[]);
    first.start();
    first.wait_ready();
    let seed = format!("--cluster.peer=seed.test:{}", first.cluster);
    let mut second = named_by(Peer::new(root.path(), "peer-1", &path, &[]), &hosts, &resolv).with(&seed);
    second.start();
    second.wait_ready();
    let met = |peer: &Peer| peer.wait("the two have met", 20_000, || (states(peer) == ["ready"; 2]).then_some(()));
    met(&first);
    // It finds whom it knew, though its seed leads nowhere, and as fast as with it.
    assert_eq!(second.terminate(), Some(0));
    lead_to("");
    let began = wall();
    second.start();
    second.wait_ready();
    let took = wall() - began;
    assert!(took < 8.0, "it was ready after {took} s:\n{}", second.log());
    met(&first);
    met(&second);
    // Nobody is there: it waits as long as it says, not for the name server.
    second.kill();
    first.kill();
    let began = wall();
    second.start();
    second.wait_ready();
    let took = wall() - began;
    assert!((9.0..16.0).contains(&took), "it was ready after {took} s:\n{}", second.log());
    // An empty one knows nobody. Once the name leads somewhere it follows.
    let mut third = named_by(Peer::new(root.path(), "peer-2", &path, &[]), &hosts, &resolv).with(&seed);
    third.start();
    third.wait_ready();
    assert_eq!(states(&third), ["ready"]);
    first.start();
    for peer in [&first, &second] {
        peer.wait_ready();
        met(peer);
    }
    lead_to("127.0.0.1 seed.test");
    for peer in [&first, &second, &third] {
        peer.wait("all have met", 60_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
}

/// A peer that was away asks for what is younger than its loss, and not even that lies with whoever took, meanwhile, samples
/// of long before it; nobody else may keep them from it until their window is sealed.
#[test]
fn what_is_pushed_late_for_the_open_window_while_a_peer_is_away_is_on_it_once_it_is_ready() {
    const STEPS: usize = 10;
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = exporter.config(2, "5s", "4s") + "storage: {tsdb: {out_of_order_time_window: 1h}}\n";
    let flags = ["--web.enable-remote-write-receiver", "--cluster.replication-factor=3"];
    let mut peers = mesh_with(root.path(), 3, &config, &flags);
    // Their claims must be older than what is pushed late.
    pause(3_000);
    let (first, began) = (now_ms() - 600_000, now_ms());
    let instances = || (0..60).map(|number| format!("i{number}"));
    let push = |peer: &Peer, at: i64, value: f64| {
        let (status, answer) = send(peer.web, &write_request(instances(), at, value));
        assert_eq!(status, 204, "{answer}");
    };
    push(&peers[0], began, 0.0);
    let count = |peer: &Peer| -> Option<f64> {
        let query = escaped("sum(count_over_time(pushed_total[15m]))");
        let (_, body) = get(peer.web, &format!("/api/v1/query?query={query}&time={}", began / 1000 + 1));
        let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    for peer in &peers {
        peer.wait("it has what was pushed", 20_000, || (count(peer)? == 60.0).then_some(()));
    }
    peers[2].kill();
    for step in 0..STEPS {
        push(&peers[step % 2], first + 10_000 * step as i64, step as f64);
    }
    // One that took them does not know when, once it was killed: its log says about when.
    peers[1].kill();
    peers[1].start();
    peers[1].wait_ready();
    peers[2].start();
    for peer in &peers {
        peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    pause(2_000);
    // That they were started again is nothing to warn of, on either side.
    assert_eq!(peers[0].metric("promesh_transport_garbage_datagrams_total"), 0.0, "{}", peers[0].log());
    for peer in &peers {
        let log = peer.log();
        assert!(!log.contains("why=oneself") && !log.contains("nothing of ours"), "{log}");
    }
    // With the others gone it has nothing but its own.
    peers[0].kill();
    peers[1].kill();
    let all = 60.0 * (1 + STEPS) as f64;
    peers[2].wait("it answers alone", 20_000, || count(&peers[2]).is_some().then_some(()));
    assert_eq!(count(&peers[2]), Some(all), "{}", peers[2].log());
}

/// Late pushes go to whoever holds the shard, and into no log that a peer asks for which was cut off: what the others hold
/// of a sealed window is compared once it is back. Alone it took every shard, also those whose past it never had: what it
/// got of these it shows to those who claim them, also where it was killed meanwhile.
#[test]
fn what_was_pushed_for_sealed_windows_during_a_cut_is_everywhere_after_it() {
    const BEFORE: usize = 10;
    const DURING: usize = 10;
    const ALL: usize = 60 * (BEFORE + 2 * DURING);
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = exporter.config(2, "5s", "4s") + "storage: {tsdb: {out_of_order_time_window: 1d}}\n";
    let (mut peers, relays) = relayed_with(root.path(), &config, &["--web.enable-remote-write-receiver"]);
    let window = (now_ms() - 10 * 3_600_000).div_euclid(7_200_000) * 7_200_000;
    let instances = || (0..60).map(|number| format!("i{number}"));
    let push = |peer: &Peer, steps: std::ops::Range<usize>| {
        for step in steps {
            let (status, answer) =
                send(peer.web, &write_request(instances(), window + 60_000 * step as i64, step as f64));
            assert_eq!(status, 204, "{answer}");
        }
    };
    let count = |peer: &Peer| -> Option<f64> {
        let query = escaped("sum(count_over_time(pushed_total[2h]))");
        let (_, body) = get(peer.web, &format!("/api/v1/query?query={query}&time={}", window / 1000 + 7_199));
        let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
        assert!(answer.get("warnings").is_none(), "{body}");
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    push(&peers[0], 0..BEFORE);
    for peer in &peers {
        peer.wait("it has what was pushed", 20_000, || (count(peer)? == (60 * BEFORE) as f64).then_some(()));
    }
    isolate(&peers, &relays, true);
    peers[0].wait("the third is gone", 20_000, || (state_of(&peers[0], &peers[2])? == "unreachable").then_some(()));
    push(&peers[1], BEFORE..BEFORE + DURING);
    // The third goes on alone, and is killed as well.
    push(&peers[2], BEFORE + DURING..BEFORE + 2 * DURING);
    peers[2].kill();
    peers[2].start();
    isolate(&peers, &relays, false);
    for peer in &peers {
        peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
    }
    let healed = wall();
    // As a window that differs, with one that it has to copy anyway, or with the log: by what it claimed and heard before.
    let copied = |peer: &Peer| peer.metric("promesh_history_copied_series_total");
    while copied(&peers[2]) < 1.0 && wall() < healed + 25.0 {
        pause(100);
    }
    println!("{} series of the window came, {:.1} s after the heal", copied(&peers[2]), wall() - healed);
    // Reads find it before long; then all who should have it have it.
    for peer in &peers {
        peer.wait("it reads what both sides took", 20_000, || (count(peer)? == ALL as f64).then_some(()));
    }
    println!("everybody reads all of it {:.1} s after the heal", wall() - healed);
    peers[2].wait("nothing is left that others lack", 60_000, || {
        (peers[2].metric("promesh_history_late_windows") == 0.0).then_some(())
    });
    pause(15_000);
    // Two copies of each shard: with any of the three gone, the other two have all of it.
    for gone in [0, 1, 2] {
        peers[gone].kill();
        let rest: Vec<&Peer> = (0..3).filter(|number| *number != gone).map(|number| &peers[number]).collect();
        for peer in rest {
            peer.wait("it answers without the one that is gone", 20_000, || (count(peer)? == ALL as f64).then_some(()));
        }
        peers[gone].start();
        for peer in &peers {
            peer.wait("all are ready again", 40_000, || (states(peer) == ["ready"; 3]).then_some(()));
        }
    }
}
