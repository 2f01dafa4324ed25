//! One process: what it does with bad input, and what it says.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use crate::support::{Exporter, Peer, beside_other_meshes, free_port, get, mesh, pause, post, wall};

fn promesh() -> Command {
    Command::new(env!("CARGO_BIN_EXE_promesh"))
}

#[test]
fn a_lone_peer_scrapes_itself_by_peer_discovery() {
    let root = tempfile::tempdir().expect("a folder");
    let absent = root.path().join("peer-0").join("prometheus.yml");
    let mut peer = Peer::new(root.path(), "peer-0", &absent, &[]);
    std::fs::create_dir_all(root.path().join("peer-0")).expect("a folder");
    std::fs::write(&absent, "scrape_configs: [{job_name: promesh, scrape_interval: 1s, peer_sd_configs: [{}]}]")
        .expect("written");
    peer.start();
    peer.wait_ready();
    peer.wait("it has scraped itself", 20_000, || (peer.query("up").len() == 1).then_some(()));
    assert_eq!(peer.query("up{job=\"promesh\"}")[0]["value"][1], "1");
    assert_eq!(get(peer.web, "/-/healthy").0, 200);
    assert_eq!(peer.terminate(), Some(0));
}

#[test]
fn a_peer_in_an_empty_folder_scrapes_itself_and_keeps_its_data_there() {
    let root = tempfile::tempdir().expect("a folder");
    let web = free_port();
    let mut child = promesh()
        .arg(format!("--web.listen-address=127.0.0.1:{web}"))
        .arg(format!("--cluster.listen-address=127.0.0.1:{}", free_port()))
        .current_dir(root.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let up = || get(web, "/api/v1/query?query=up").1.contains("\"1\"]");
    // The built-in interval is a minute.
    let scraped = (0..700).any(|_| {
        pause(100);
        up()
    });
    let _ = child.kill();
    let _ = child.wait();
    assert!(scraped, "it has scraped itself");
    assert!(root.path().join("data").is_dir());
    assert_eq!(std::fs::read_dir(root.path()).expect("readable").count(), 1, "nothing but its data");
}

#[test]
fn a_bad_configuration_is_named_and_the_old_one_stays() {
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 1, &exporter.config(2, "1s", "900ms"));
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, "global: {}\nscrape_configs:\n- job_name: a\n  scrap_interval: 5s\n").expect("written");
    let (status, body) = post(peers[0].web, "/-/reload");
    assert_eq!(status, 500);
    assert!(body.contains("prometheus.yml:4:3") && body.contains("scrap_interval"), "{body}");
    assert_eq!(peers[0].metric("prometheus_config_last_reload_successful"), 0.0);
    peers[0].wait("the old targets are scraped on", 5_000, || (peers[0].query("up").len() == 2).then_some(()));
    let mut second = Peer::new(root.path(), "peer-9", &path, &[]);
    second.start();
    assert_eq!(second.wait_end(), Some(1));
    assert!(second.log().contains("prometheus.yml:4:3"), "{}", second.log());
}

#[test]
fn an_unknown_flag_exits_2_with_the_nearest_known_one() {
    let output = promesh().arg("--storage.tsdb.pat=x").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("--storage.tsdb.path"), "{text}");
}

#[test]
fn every_alert_of_the_examples_is_made_to_fire() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let read = |name: &str| std::fs::read_to_string(examples.join(name)).expect("it is there");
    let (rules, tests) = (read("promesh-alerts.yml"), read("promesh-alerts-test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let fires = format!("alertname: {alert}\n    exp_alerts:\n    - exp_labels");
        assert!(tests.contains(&fires), "no test makes {alert} fire");
    }
    let output =
        promesh().args(["test", "rules"]).arg(examples.join("promesh-alerts-test.yml")).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A page with a series twice is taken in part, with a warning, by whoever scrapes it.
#[test]
fn the_metrics_page_has_what_watches_the_mesh_and_nothing_twice() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 2, &exporter.config(2, "1s", "900ms"));
    let wanted = [
        "promesh_cluster_members{state=\"ready\"}",
        "promesh_shards_under_replicated",
        "promesh_targets_unscraped",
        "promesh_beat_gap_seconds{",
        "promesh_ownership_changes_total{what=\"takeover\",reason=\"nobody acts for them\"}",
        "promesh_late_batches_total",
        "promesh_replication_key_frames_wanted_total",
        "promesh_split_slots_total",
        "promesh_merge_conflicts_total",
        "promesh_claims_total{outcome=\"busy\"}",
        "promesh_notifications_degraded",
        "promesh_copied_bytes_total",
        "promesh_history_copied_bytes_total",
        "promesh_config_differs",
        "promesh_clock_offset_seconds{",
        "promesh_certificate_expiry_timestamp_seconds",
        "promesh_mesh_handle_seconds_bucket{le=\"0.005\"}",
        "promesh_alerting_handle_seconds_bucket{le=\"0.005\"}",
    ];
    // Some are measured a moment after the start: how far the clocks are apart, for one.
    let began = wall();
    let page = loop {
        let (_, page) = get(peers[0].web, "/metrics");
        let Some(missing) = wanted.iter().find(|name| !page.lines().any(|line| line.starts_with(**name))) else {
            break page;
        };
        assert!(wall() < began + 20.0, "no {missing} in:\n{page}");
        pause(100);
    };
    // An alert over a name that no page has never fires.
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/promesh-alerts.yml");
    let rules = std::fs::read_to_string(rules).expect("it is there");
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: std::collections::BTreeSet<&str> = words.filter(|word| word.starts_with("promesh_")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        // One of a target that was never late or split has its line all the same.
        let has = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(page.lines().any(has), "no {name} in:\n{page}");
    }
    let mut seen = std::collections::BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with("# HELP")) {
        let series =
            if line.starts_with('#') { line } else { line.rsplit_once(' ').map_or(line, |(series, _)| series) };
        assert!(seen.insert(series.to_owned()), "{series} is there twice");
    }
}

#[test]
fn a_taken_port_is_named() {
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 1, &exporter.config(1, "1s", "900ms"));
    let mut second = Peer::new(root.path(), "peer-9", &root.path().join("prometheus.yml"), &[]);
    second.web = peers[0].web;
    second.start();
    assert_eq!(second.wait_end(), Some(1));
    assert!(second.log().contains(&format!("127.0.0.1:{}", peers[0].web)), "{}", second.log());
}

#[test]
fn a_peer_of_another_secret_gets_nothing_and_garbage_costs_a_counter() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(1, "1s", "900ms")).expect("written");
    for (name, secret) in [("one", "a".repeat(40)), ("two", "b".repeat(40))] {
        std::fs::write(root.path().join(name), secret).expect("written");
    }
    let secret = |name: &str| format!("--cluster.secret-file={}", root.path().join(name).display());
    let mut first = Peer::new(root.path(), "peer-0", &path, &[]).with(secret("one"));
    first.start();
    first.wait_ready();
    let mut stranger = Peer::new(root.path(), "peer-1", &path, &[&first]).with(secret("two"));
    stranger.start();
    let socket = UdpSocket::bind(("127.0.0.1", free_port())).expect("a socket");
    for _ in 0..20 {
        socket.send_to(&[0x17; 300], ("127.0.0.1", first.cluster)).expect("sent");
    }
    // It waits for its seed as long as it is told to, and is alone then.
    stranger.wait_ready();
    pause(1_000);
    assert_eq!(first.cluster()["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(stranger.cluster()["members"].as_array().map(Vec::len), Some(1));
    assert!(first.metric("promesh_transport_garbage_datagrams_total") >= 20.0);
    let refusals = first.log().lines().filter(|line| line.contains("refused")).count();
    assert_eq!(refusals, 1, "{}", first.log());
}

#[test]
fn a_seed_whose_name_is_not_known_is_said_once() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, "global: {}\n").expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &path, &[]).with("--cluster.peer=nowhere.invalid:9094");
    peer.start();
    let said = || peer.log().lines().filter(|line| line.contains("nowhere.invalid")).count();
    peer.wait("its seed is looked for", 20_000, || (said() > 0).then_some(()));
    // Twice a second it looks again.
    pause(1_600);
    assert_eq!(said(), 1, "{}", peer.log());
}
