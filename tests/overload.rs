//! More than a peer can do: too many queries at once, answers larger than its memory should be.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::push::{send, write_request};
use crate::support::hook::Hook;
use crate::support::paging::write;
use crate::support::{Exporter, Peer, escaped, exchange, one_mesh_at_a_time, pause, wall};

/// Minutes of work.
const HEAVY: &str = "quantile_over_time(0.5, quantile_over_time(0.5, vector(time())[6h:1s])[300d:10s])";

/// Status, header `retry-after`, and the rest.
fn answer_of(port: u16, query: &str) -> (u16, Option<String>, String) {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let path = format!("/api/v1/query?query={}", escaped(query));
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().expect("it answers");
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let retry = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).map(str::to_owned);
    (status, retry, answer)
}

#[test]
fn too_many_queries_wait_and_are_refused_while_scrapes_pushes_and_alerts_go_on() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let (exporter, hook) = (Exporter::start(), Hook::start());
    let rules = "groups: [{name: g, interval: 1s, rules: [{alert: Late, expr: pushed_total > 5}]}]\n";
    write(root.path().join("rules.yml"), rules);
    let alerting = write(root.path().join("am.yml"), &hook.config("group_by: [alertname], group_wait: 0s"));
    let config = format!("{}rule_files: [rules.yml]\n", exporter.config(3, "1s", "1s"));
    let config = write(root.path().join("prometheus.yml"), &config);
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[])
        .with(format!("--alertmanager.config.file={}", alerting.display()))
        .with("--query.max-concurrency=1")
        .with("--query.timeout=3s")
        .with("--web.enable-remote-write-receiver");
    peer.start();
    peer.wait_ready();
    peer.wait("it scrapes", 10_000, || (peer.query("count(up == 1)").len() == 1).then_some(()));

    let over = AtomicBool::new(false);
    let (answers, acknowledged, told_after) = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        answers.push(answer_of(peer.web, HEAVY));
                    }
                    answers
                })
            })
            .collect();
        // The one turn is taken by now, and stays so.
        pause(1_000);
        let began = wall();
        let mut acknowledged = Vec::new();
        while wall() < began + 10.0 {
            let at = (wall() * 1000.0) as i64;
            let value = acknowledged.len() as f64;
            let sent = wall();
            let (status, answer) = send(peer.web, &write_request((0..20).map(|n| format!("i{n}")), at, value));
            assert_eq!(status, 204, "{answer}");
            acknowledged.push((at, wall() - sent));
            pause(200);
        }
        let told = hook.told().first().map(|told| told.at - began);
        over.store(true, Ordering::Relaxed);
        let answers: Vec<_> = askers.into_iter().flat_map(|asker| asker.join().expect("it asked")).collect();
        (answers, acknowledged, told)
    });

    let other = answers.iter().find(|(status, ..)| *status != 503);
    assert!(other.is_none(), "{other:?}");
    let waited: Vec<_> = answers.iter().filter(|(_, _, text)| text.contains("timed out in query queue")).collect();
    let ran = answers.iter().filter(|(_, _, text)| text.contains("timed out in expression evaluation")).count();
    assert!(waited.len() >= 3 && ran >= 1, "{} waited, {ran} ran", waited.len());
    assert!(waited.iter().all(|(_, retry, _)| retry.as_deref() == Some("1")), "{waited:?}");

    // Pushed samples: all there, none slowly taken.
    assert!(acknowledged.len() > 20, "only {} pushes in ten seconds", acknowledged.len());
    let slowest = acknowledged.iter().map(|(_, took)| *took).fold(0.0, f64::max);
    assert!(slowest < 2.0, "a push took {slowest:.2} s");
    // The alert went out while queries were refused.
    let told = told_after.expect("the alert was told while queries waited");
    assert!(told < 8.0, "it was told after {told:.2} s");
    // What is refused leaves nothing behind: the next query has its turn.
    peer.wait("a cheap query is answered", 60_000, || (answer_of(peer.web, "up").0 == 200).then_some(()));
    for (series, values) in peer.samples("pushed_total", 120) {
        assert_eq!(values.len(), acknowledged.len(), "{series}");
    }
    // Scrapes each second, without a gap.
    let scraped = peer.samples("up", 60);
    assert_eq!(scraped.len(), 3);
    for (series, values) in scraped {
        let widest = values.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(0);
        assert!(values.len() > 8 && widest <= 1_500, "{series} has a gap of {widest} ms: {values:?}");
    }
}

/// A figure of `/proc/<pid>/status`, in bytes.
fn memory(peer: &Peer, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", peer.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
    let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number");
    kilobytes * 1024
}

#[test]
fn a_hundred_megabytes_of_answer_are_never_a_text_in_memory() {
    const SERIES: usize = 300;
    const STEPS: i64 = 11_000;
    let root = tempfile::tempdir().expect("a folder");
    let config = write(root.path().join("prometheus.yml"), "scrape_configs: []\n");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).with("--web.enable-remote-write-receiver");
    peer.start();
    peer.wait_ready();
    // A sample every four minutes is a value at every second between.
    let end = wall() as i64;
    for minute in (0..=STEPS / 60 + 4).rev().filter(|minute| minute % 4 == 0) {
        let at = (end - minute * 60) * 1000;
        let body = write_request((0..SERIES).map(|n| format!("i{n}")), at, 1.0 / 3.0 + minute as f64);
        let (status, answer) = send(peer.web, &body);
        assert_eq!(status, 204, "{answer}");
    }
    assert_eq!(peer.query("count(pushed_total)").len(), 1);
    let before = memory(&peer, "VmHWM");
    let path = format!("/api/v1/query_range?query=pushed_total&start={}&end={end}&step=1", end - STEPS + 1);
    let (status, body) = exchange(peer.web, "GET", &path, "", b"");
    assert_eq!(status, 200, "{}", body.get(..300).unwrap_or(&body));
    assert_eq!(body.matches("\"metric\"").count(), SERIES);
    assert!(body.ends_with("]]}]}}"), "it ends early: {}", &body[body.len() - 60..]);
    let grown = memory(&peer, "VmHWM") - before;
    println!("{} bytes of answer, {grown} bytes more at the peak", body.len());
    assert!(body.len() > 100_000_000, "{} bytes of answer", body.len());
    // The samples, as many as they are, twice; not the text.
    let samples = SERIES as u64 * STEPS as u64;
    assert!(grown < samples * 28, "{grown} bytes more for {samples} samples");
}
