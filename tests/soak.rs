//! What takes minutes: pauses, cuts and receivers that are slow or fail for long. Run by name:
//! `cargo test --test soak -- --test-threads=1`.

#[allow(dead_code)] // the other tests use the rest of it
mod support;
mod survive;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use support::hook::{Hook, Manner};
use support::paging::{
    QUIET_MS, ROUTE, electors, ends_once, firing, learn_sender, other_than, pagers, post_alert, resolved, write,
};
use support::{Peer, one_mesh_at_a_time, pause, post, wall};

#[test]
fn a_sender_paused_for_31_seconds_across_the_flush_tells_nobody_twice() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, &ROUTE.replace("group_wait: 1s", "group_wait: 3s"));
    let sender = learn_sender(&peers, &hook, "A");
    let posted = wall();
    post_alert(other_than(&peers, sender), "A", false);
    pause(2_000);
    peers[sender].signal("STOP");
    let told = hook.wait_for(3, 25.0);
    println!("sender stopped for 31 s, a second before the flush: told {:.2} s late", told[2].at - posted - 3.0);
    pause(29_000);
    peers[sender].signal("CONT");
    ends_once(&peers, sender, &hook, 2, "A");
}

#[test]
fn a_receiver_that_is_slow_by_20_seconds_is_told_once() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, ROUTE);
    hook.answer(Manner::Slow(Duration::from_secs(20)));
    for n in 0..20 {
        post_alert(&peers[n % 3], &format!("B{n:02}"), false);
    }
    pause(50_000);
    println!("a receiver slow by 20 s: 20 groups, {} notifications", hook.told().len());
    let mut taken = hook.taken();
    taken.sort();
    assert_eq!(taken, (0..20).map(|n| firing(&format!("B{n:02}"))).collect::<Vec<_>>());
}

#[test]
fn a_receiver_that_answers_500_for_50_seconds_is_told_once() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, ROUTE);
    hook.answer(Manner::Failing);
    post_alert(&peers[0], "C", false);
    pause(50_000);
    let mended = wall();
    hook.answer(Manner::Kind);
    hook.wait_taken(1, 70.0);
    let tries = hook.told();
    let after = tries[tries.len() - 1].at - mended;
    println!("a receiver that answers 500 for 50 s: {} tries, taken {after:.1} s after that", tries.len());
    assert!(tries.iter().all(|told| told.key == tries[0].key), "{tries:?}");
    ends_once(&peers, 0, &hook, 0, "C");
}

#[test]
fn an_alert_that_ends_within_a_long_interval_is_told_and_its_end_once() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, &ROUTE.replace("group_interval: 2s", "group_interval: 20s"));
    post_alert(&peers[0], "D", false);
    hook.wait_for(1, 15.0);
    pause(5_000);
    post_alert(&peers[1], "D", true);
    hook.wait_for(2, 30.0);
    pause(45_000);
    let told = hook.told();
    println!("group_interval 20 s: {} notifications, the end {:.1} s after", told.len(), told[1].at - told[0].at);
    assert_eq!(hook.taken(), [firing("D"), resolved("D")]);
}

#[test]
fn a_route_put_above_others_pages_nobody_again() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let below = format!("{ROUTE}, routes: [{{receiver: hook, matchers: ['severity=\"page\"']}}]");
    let peers = pagers(root.path(), 3, &hook, &below);
    post_alert(&peers[0], "E", false);
    hook.wait_for(1, 15.0);
    pause(3_000);
    let above = below.replace("routes: [", "routes: [{receiver: hook, matchers: ['severity=\"other\"']}, ");
    write(root.path().join("alertmanager.yml"), &hook.config(&above));
    for peer in &peers {
        assert_eq!(post(peer.web, "/-/reload").0, 200);
    }
    pause(2 * QUIET_MS);
    assert_eq!(hook.taken(), [firing("E")]);
    post_alert(&peers[2], "E", true);
    assert_eq!(hook.wait_taken(2, 15.0), [firing("E"), resolved("E")]);
}

fn run(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).status().is_ok_and(|status| status.success())
}

/// Three peers that reach one another over links that can be cut, and the webhook over links that cannot: network
/// namespaces on one bridge, one link to it each, and one to the webhook.
struct Wires(&'static str);

impl Wires {
    fn string(name: &'static str) -> Option<Wires> {
        let wires = Wires(name);
        drop(Wires(name)); // what a run before left
        let made = run(&format!(
            "ip link add {name}m type bridge && ip link set {name}m up && ip link add {name}h type bridge && ip link set {name}h up && ip addr add 10.77.2.1/24 dev {name}h"
        ));
        let peer = |n: u32| {
            run(&format!(
                "ip netns add {name}{n} && ip -n {name}{n} link set lo up && \
                 ip link add {name}m{n} type veth peer name mesh netns {name}{n} && ip link set {name}m{n} master {name}m up && \
                 ip -n {name}{n} addr add 10.77.1.{n}/24 dev mesh && ip -n {name}{n} link set mesh up && \
                 ip link add {name}h{n} type veth peer name hook netns {name}{n} && ip link set {name}h{n} master {name}h up && \
                 ip -n {name}{n} addr add 10.77.2.{}/24 dev hook && ip -n {name}{n} link set hook up",
                n + 10
            ))
        };
        (made && (1..=3).all(peer)).then_some(wires)
    }

    fn set(&self, n: usize, up: bool) {
        let state = if up { "up" } else { "down" };
        assert!(run(&format!("ip link set {}m{n} {state}", self.0)));
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let name = self.0;
        run(&format!(
            "exec 2>/dev/null; for n in 1 2 3; do ip netns del {name}$n; ip link del {name}m$n; ip link del {name}h$n; done; ip link del {name}m; ip link del {name}h"
        ));
    }
}

fn cut_off(root: &Path, cut: u64) {
    let Some(wires) = Wires::string("pgr") else {
        println!("network namespaces are not allowed here: not tested");
        return;
    };
    let hook = Hook::start_on("10.77.2.1");
    let file = write(root.join("alertmanager.yml"), &hook.config(&ROUTE.replace("group_wait: 1s", "group_wait: 4s")));
    let config = write(root.join("prometheus.yml"), "scrape_configs: []\n");
    let secret = write(root.join("secret"), &"s".repeat(40));
    let mut peers: Vec<Peer> = Vec::new();
    for n in 1..=3 {
        let mut peer = Peer::new(root, &format!("peer-{n}"), &config, &[])
            .within(&format!("pgr{n}"), &format!("10.77.2.{}", n + 10))
            .with(format!("--alertmanager.config.file={}", file.display()))
            .with(format!("--cluster.secret-file={}", secret.display()))
            .with(format!("--cluster.listen-address=10.77.1.{n}:9094"))
            .with("--cluster.peer=10.77.1.1:9094");
        peer.start();
        peers.push(peer);
    }
    for peer in &peers {
        peer.wait("all peers vote", 60_000, || (electors(peer) == 3).then_some(()));
    }
    let sender = learn_sender(&peers, &hook, "F");
    // Across the flush, the sender is cut off from the others, and can reach the webhook all the time.
    post_alert(&peers[sender], "F", false);
    pause(2_500);
    let began = wall();
    wires.set(sender + 1, false);
    pause(cut * 1000);
    wires.set(sender + 1, true);
    println!("cut for {:.1} s", wall() - began);
    let told = hook.wait_for(3, 30.0);
    println!("told {:.2} s after the cut began, 1.5 s before the flush", told[2].at - began);
    pause(20_000);
    ends_once(&peers, sender, &hook, 2, "F");
    assert!(hook.told().iter().all(|told| told.body["version"] == json!("4")));
}

#[test]
fn a_cut_of_six_seconds_across_the_flush_tells_nobody_twice() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    cut_off(root.path(), 6);
}
