//! Pushed samples as a sender sees them: any peer takes them, and what was acknowledged outlives a killed peer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::write::{Proto, snappy};
use crate::support::{Peer, beside_other_meshes, crash_all, mesh_with, pause, wall};

/// A remote write 1.0 request: for each instance one sample of `pushed_total`.
pub fn write_request(instances: impl Iterator<Item = String>, at_ms: i64, value: f64) -> Vec<u8> {
    let mut message = Proto::default();
    for instance in instances {
        let mut series = Proto::default();
        for (name, value) in [("__name__", "pushed_total"), ("instance", &*instance), ("job", "push")] {
            let mut label = Proto::default();
            label.bytes(1, name.as_bytes());
            label.bytes(2, value.as_bytes());
            series.bytes(1, &label.0);
        }
        let mut sample = Proto::default();
        sample.double(1, value);
        sample.number(2, at_ms as u64);
        series.bytes(2, &sample.0);
        message.bytes(1, &series.0);
    }
    snappy(&message.0)
}

/// Posts a remote write; the status, 0 when nobody answers.
pub fn send(port: u16, body: &[u8]) -> (u16, String) {
    post_body(port, "/api/v1/write", "application/x-protobuf\r\nContent-Encoding: snappy", body)
}

/// Posts a body; the status, 0 when nobody answers.
pub fn post_body(port: u16, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().unwrap_or_default();
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn instances() -> impl Iterator<Item = String> {
    (0..40).map(|n| format!("i{n}"))
}

/// Every instance has these instants, on every peer, each once.
fn assert_there(peers: &[&Peer], acknowledged: &BTreeSet<i64>) {
    let seconds = (wall() as i64 - acknowledged.first().expect("some were acknowledged") / 1000 + 10) as u64;
    for peer in peers {
        let samples = peer.samples("pushed_total", seconds);
        assert_eq!(samples.len(), 40, "{}", peer.log());
        for (name, values) in samples {
            let mut found: BTreeMap<i64, usize> = BTreeMap::new();
            for (at, _) in &values {
                *found.entry(*at).or_default() += 1;
            }
            assert!(found.values().all(|count| *count == 1), "{name} has a sample twice: {values:?}");
            let lost: Vec<_> = acknowledged.iter().filter(|at| !found.contains_key(at)).collect();
            assert!(lost.is_empty(), "{name} lost {lost:?} of {}; log:\n{}", acknowledged.len(), peer.log());
        }
    }
}

#[test]
fn what_any_peer_acknowledged_outlives_the_kill_of_another() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let mut peers = mesh_with(root.path(), 3, "scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let mut acknowledged = BTreeSet::new();
    let began = (wall() * 1000.0) as i64;
    let mut unavailable = 0;
    let mut round = 0i64;
    // A sender keeps to one peer and repeats what was not acknowledged, as remote write does.
    for victim in 0..3 {
        let ports: Vec<u16> = (0..3).filter(|n| *n != victim).map(|n| peers[n].web).collect();
        let until = wall() + 6.0;
        let mut kill_at = Some(wall() + 2.0);
        while wall() < until {
            if kill_at.is_some_and(|at| wall() > at) {
                kill_at = None;
                peers[victim].kill();
            }
            let at = began + round * 100;
            let body = write_request(instances(), at, round as f64);
            let port = ports[(round % 2) as usize];
            loop {
                let (status, answer) = send(port, &body);
                match status {
                    204 => break,
                    503 => unavailable += 1,
                    other => panic!("{other} for a repeatable push: {answer}"),
                }
                pause(20);
            }
            acknowledged.insert(at);
            round += 1;
            // Samples must not run ahead of the clock.
            while (wall() * 1000.0) as i64 <= began + round * 100 {
                pause(5);
            }
        }
        // Before it is back: what was acknowledged needs nothing of it.
        let survivors: Vec<&Peer> = (0..3).filter(|n| *n != victim).map(|n| &peers[n]).collect();
        assert_there(&survivors, &acknowledged);
        peers[victim].start();
        peers[victim].wait_ready();
        pause(4_000);
    }
    let all: Vec<&Peer> = peers.iter().collect();
    assert_there(&all, &acknowledged);
    assert!(acknowledged.len() > 50, "only {} pushes went through, {unavailable} were refused", acknowledged.len());
}

#[test]
fn a_push_that_was_refused_for_its_order_is_nowhere_and_its_repeat_succeeds() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let peers = mesh_with(root.path(), 2, "scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let now = (wall() * 1000.0) as i64;
    let push = |peer: usize, at: i64, value: f64| send(peers[peer].web, &write_request(instances(), at, value));
    assert_eq!(push(0, now - 10_000, 1.0).0, 204);
    assert_eq!(push(1, now - 5_000, 2.0).0, 204);
    // Whoever is asked, the owner judges: too late, and a contradiction.
    let (status, answer) = push(0, now - 7_000, 3.0);
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("out of order sample"), "{answer}");
    let (status, answer) = push(1, now - 5_000, 4.0);
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("duplicate sample"), "{answer}");
    // What is there already is a success.
    assert_eq!(push(0, now - 10_000, 1.0).0, 204);
    assert_eq!(push(1, now - 10_000, 1.0).0, 204);
    pause(1_000);
    for peer in &peers {
        for (name, values) in peer.samples("pushed_total", 60) {
            let expected = vec![(now - 10_000, "1".to_owned()), (now - 5_000, "2".to_owned())];
            assert_eq!(values, expected, "{name}");
        }
    }
}

#[test]
fn what_was_pushed_with_instants_before_the_mesh_began_is_answered_also_after_all_were_killed() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let mut peers = mesh_with(root.path(), 3, "scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let old = (wall() * 1000.0) as i64 - 30 * 60_000;
    for round in 0..5 {
        let body = write_request(instances(), old + round * 15_000, round as f64);
        let (status, answer) = send(peers[round as usize % 3].web, &body);
        assert_eq!(status, 204, "{answer}");
    }
    // The span ends well before any of the peers was there.
    let assert_whole = |peers: &[Peer]| {
        for peer in peers {
            let series = peer.query("pushed_total[20m] offset 20m");
            assert_eq!(series.len(), 40, "{}", peer.log());
            for one in &series {
                assert_eq!(one["values"].as_array().map(Vec::len), Some(5), "{one}");
            }
        }
    };
    assert_whole(&peers);
    // What was acknowledged half a second ago may be lost with all peers at once, no more.
    pause(1_500);
    crash_all(&mut peers);
    assert_whole(&peers);
}
