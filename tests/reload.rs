//! Reloads as an operator sees them: nothing is lost by them, and what changed is there.

use crate::stage::{Answer, Stage};
use crate::support::{Peer, beside_other_meshes, get, one_mesh_at_a_time, pause, post, wall};

fn exporter() -> Stage {
    Stage::start(|_| Answer::text("# TYPE level gauge\nlevel 1\n"))
}

fn peer(root: &std::path::Path, config: &str) -> Peer {
    let path = root.join("prometheus.yml");
    std::fs::write(&path, config).expect("written");
    Peer::new(root, "peer-0", &path, &[])
}

/// Jobs of three targets each; `changing` is a word that changes one job's content with each reload.
fn jobs(address: &str, changing: usize) -> String {
    let mut text =
        "global: {scrape_interval: 5s, scrape_timeout: 4s}\nrule_files: [rules.yml]\nscrape_configs:\n".to_owned();
    for job in 0..4 {
        let limit = if job == 0 { 1_000 + changing } else { 0 };
        text.push_str(&format!("- job_name: j{job}\n  sample_limit: {limit}\n  static_configs:\n"));
        for target in 0..3 {
            text.push_str(&format!("  - {{targets: ['{address}'], labels: {{instance: t{target}}}}}\n"));
        }
    }
    text
}

#[test]
fn a_reload_every_second_skips_no_slot() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let address = exporter().address.to_string();
    let rules = "groups: [{name: g, interval: 5s, rules: [{record: recorded, expr: count(level)}]}]";
    std::fs::write(root.path().join("rules.yml"), rules).expect("written");
    let mut peer = peer(root.path(), &jobs(&address, 0));
    peer.start();
    peer.wait_ready();
    peer.wait("all are scraped", 20_000, || {
        (peer.query("level").len() == 12 && peer.query("recorded").len() == 1).then_some(())
    });
    let began = (wall() * 1000.0) as i64;
    for reload in 1..=27 {
        std::fs::write(root.path().join("prometheus.yml"), jobs(&address, reload)).expect("written");
        let (status, body) = post(peer.web, "/-/reload");
        assert_eq!(status, 200, "{body}");
        pause(1_000);
    }
    for (selector, series) in [("level", 12), ("up", 12), ("recorded", 1)] {
        let samples = peer.samples(selector, 40);
        assert_eq!(samples.len(), series, "{:?}", samples.keys());
        for (name, values) in samples {
            let values: Vec<i64> = values.iter().map(|(at, _)| *at).filter(|at| *at >= began - 5_000).collect();
            assert!(values.len() >= 5, "{name}: {values:?}");
            assert!(values.windows(2).all(|pair| pair[1] - pair[0] == 5_000), "{name}: {values:?}\n{}", peer.log());
        }
    }
    assert!(peer.samples("up", 40).values().flatten().all(|(_, value)| value == "1"));
}

#[test]
fn changed_files_are_taken_over_by_themselves_and_secrets_are_not_shown() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let address = exporter().address.to_string();
    let job = |name: &str| format!("- job_name: {name}\n  static_configs: [{{targets: ['{address}']}}]\n");
    let head =
        "global: {scrape_interval: 1s, scrape_timeout: 900ms}\nscrape_config_files: ['more*.yml']\nscrape_configs:\n";
    let password = "  basic_auth: {username: u, password: hunter2}\n";
    let mut peer = peer(root.path(), &format!("{head}{}{password}", job("first")))
        .with("--config.auto-reload")
        .with("--config.auto-reload-interval=1s");
    peer.start();
    peer.wait_ready();
    peer.wait("the first job is scraped", 20_000, || (peer.query("up").len() == 1).then_some(()));
    std::fs::write(root.path().join("more.yml"), format!("scrape_configs:\n{}", job("second"))).expect("written");
    peer.wait("the new file's job is scraped", 20_000, || (peer.query("up{job='second'}").len() == 1).then_some(()));
    let reloads = || peer.log().matches("Completed loading of configuration file").count();
    let before = reloads();
    // Nothing that is read has changed: nothing is reloaded.
    std::fs::write(root.path().join("unrelated.yml"), "x").expect("written");
    pause(2_500);
    assert_eq!(reloads(), before);
    // A broken file is said with its place, and what was loaded stays.
    std::fs::write(root.path().join("more.yml"), "scrape_configs:\n- job_nam: x\n").expect("written");
    peer.wait("the mistake is logged", 10_000, || peer.log().contains("more.yml:2:3").then_some(()));
    assert_eq!(peer.metric("prometheus_config_last_reload_successful"), 0.0);
    assert_eq!(peer.query("up{job='second'}").len(), 1);
    let (_, shown) = get(peer.web, "/api/v1/status/config");
    assert!(shown.contains("<secret>") && !shown.contains("hunter2"), "{shown}");
    assert!(!peer.log().contains("hunter2"));
}

#[test]
fn retention_of_the_configuration_stands_over_the_flags_and_is_reloaded() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let config = |retention: &str| format!("storage: {{tsdb: {{retention: {{{retention}}}}}}}\n");
    let mut peer = peer(root.path(), &config("time: 2d"));
    peer.start();
    peer.wait_ready();
    let shown = |peer: &Peer| {
        let (status, body) = get(peer.web, "/api/v1/status/runtimeinfo");
        assert_eq!(status, 200, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        body["data"]["storageRetention"].as_str().expect("a text").to_owned()
    };
    assert_eq!(shown(&peer), "2d");
    std::fs::write(root.path().join("prometheus.yml"), config("size: 1GB, percentage: 40")).expect("written");
    let (status, body) = post(peer.web, "/-/reload");
    assert_eq!(status, 200, "{body}");
    assert_eq!(shown(&peer), "15d or 1GiB or 40%");
}
