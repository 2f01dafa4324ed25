//! Discovery in a mesh, with real processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stage::{Answer, Stage};
use crate::support::{Peer, beside_other_meshes, get, mesh, pause, wall};

/// An exporter under `/metrics`, and its own discovery under `/sd`.
fn stage() -> Stage {
    Stage::start(|asked| {
        if asked.path.starts_with("/sd") {
            let host = asked.header("host");
            let groups: Vec<String> = (0..6)
                .map(|target| {
                    format!(r#"{{"targets": ["{host}"], "labels": {{"instance": "t{target}", "__metrics_path__": "/metrics/{target}"}}}}"#)
                })
                .collect();
            return Answer::json(format!("[{}]", groups.join(",")));
        }
        Answer::text("# TYPE level gauge\nlevel 1\n")
    })
}

fn config(stage: &Stage, interval: &str) -> String {
    format!(
        "global: {{scrape_interval: 5s, scrape_timeout: 4s}}\nscrape_configs:\n- job_name: found\n  \
         http_sd_configs: [{{url: 'http://{}/sd', refresh_interval: {interval}}}]\n",
        stage.address
    )
}

/// The greatest number of requests in any span of so many seconds.
fn most_within(times: &[f64], seconds: f64) -> usize {
    times.iter().map(|from| times.iter().filter(|at| (*from..from + seconds).contains(*at)).count()).max().unwrap_or(0)
}

#[test]
fn a_mesh_asks_once_an_interval_and_goes_on_when_the_asker_dies() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let stage = stage();
    let mut peers = mesh(root.path(), 3, &config(&stage, "3s"));
    for peer in &peers {
        peer.wait("it knows the targets", 20_000, || (peer.cluster()["targets"]["total"] == 6).then_some(()));
        peer.wait("all targets are scraped", 30_000, || (peer.query("level").len() == 6).then_some(()));
    }
    let settled = wall();
    pause(15_000);
    let asks = |peer: &Peer| peer.metric("promesh_discovery_asked{");
    let askers: Vec<usize> = (0..3).filter(|index| asks(&peers[*index]) == 1.0).collect();
    assert_eq!(askers.len(), 1, "one peer asks");
    let times: Vec<f64> = stage.asked("/sd").iter().map(|asked| asked.at).filter(|at| *at > settled).collect();
    assert!((4..=6).contains(&times.len()), "{times:?}");
    assert!(most_within(&times, 2.5) <= 1, "{times:?}");

    let victim = askers[0];
    let killed = wall();
    peers[victim].kill();
    let survivors: Vec<&Peer> =
        peers.iter().enumerate().filter(|(index, _)| *index != victim).map(|(_, peer)| peer).collect();
    survivors[0].wait("another peer asks", 20_000, || {
        (survivors.iter().filter(|peer| asks(peer) == 1.0).count() == 1).then_some(())
    });
    pause(12_000);
    let times: Vec<f64> = stage.asked("/sd").iter().map(|asked| asked.at).filter(|at| *at > killed).collect();
    assert!(times.len() >= 3, "{times:?}");
    assert!(most_within(&times, 2.5) <= 1, "{times:?}");
    for peer in survivors {
        assert_eq!(peer.cluster()["targets"]["total"], 6);
        for (name, values) in peer.samples("level", 20) {
            let gaps: Vec<i64> = values.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            assert!(gaps.iter().all(|gap| *gap == 5_000), "{name}: {values:?}");
        }
    }
}

#[test]
fn a_huge_target_and_a_changed_answer_move_no_other_target() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let changed = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&changed);
    let stage = Stage::start(move |asked| {
        let changed = now.load(Ordering::Relaxed);
        if asked.path.starts_with("/sd") {
            let target = |name: &str, more: &str| {
                format!(
                    r#"{{"targets": ["{}"], "labels": {{"instance": "{name}", "__metrics_path__": "/{name}"{more}}}}}"#,
                    asked.header("host")
                )
            };
            let mut groups: Vec<String> = (0..12).map(|number| target(&format!("t{number}"), "")).collect();
            if changed {
                // Another order, one less, another label on one, and a huge one.
                groups.reverse();
                groups.pop();
                groups[0] = target("t11", r#", "team": "a""#);
                groups.insert(3, target("huge", ""));
            }
            return Answer::json(format!("[{}]", groups.join(",")));
        }
        let lines = if asked.path.starts_with("/huge") { 20_000 } else { 1 };
        Answer::text((0..lines).map(|line| format!("level{{line=\"{line}\"}} 1\n")).collect::<String>())
    });
    let peers = mesh(root.path(), 3, &config(&stage, "1s"));
    // Who scrapes each target, as any peer says.
    let scrapers = || -> BTreeMap<String, String> {
        let (_, body) = get(peers[0].web, "/api/v1/targets?state=active");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
        let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        targets.iter().map(|target| (text(&target["labels"]["instance"]), text(&target["peer"]))).collect()
    };
    peers[0].wait("all targets are scraped", 30_000, || (peers[0].query("level").len() == 12).then_some(()));
    let before = scrapers();
    assert_eq!(before.len(), 12);
    changed.store(true, Ordering::Relaxed);
    peers[0].wait("the huge one is scraped, and the one that is gone ended", 60_000, || {
        (peers[0].query("count(level)")[0]["value"][1] == "20011").then_some(())
    });
    pause(11_000);
    let after = scrapers();
    for number in 1..12 {
        let name = format!("t{number}");
        assert_eq!(after[&name], before[&name], "{name} moved");
    }
    assert!(!after.contains_key("t0") && after.contains_key("huge"), "{after:?}");
    // Nor did any of them miss a slot: t11 became another series, the others went on.
    for number in 1..11 {
        for (name, values) in peers[0].samples(&format!("level{{instance=\"t{number}\"}}"), 40) {
            assert!(
                values.len() >= 3 && values.windows(2).all(|pair| pair[1].0 - pair[0].0 == 5_000),
                "{name}: {values:?}"
            );
        }
    }
    let heavy = peers[0].wait("the huge one is named", 20_000, || {
        let named: Vec<_> =
            peers.iter().flat_map(|peer| peer.cluster()["heavyTargets"].as_array().cloned()).flatten().collect();
        named.into_iter().find(|one| one["instance"] == "huge")
    });
    assert!(heavy["share"].as_f64().is_some_and(|share| share > 0.05), "{heavy}");
}

#[test]
fn everywhere_each_peer_scrapes_with_itself_as_instance() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let stage = stage();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n- job_name: local\n  mesh_scope: everywhere\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        stage.address
    );
    let peers = mesh(root.path(), 2, &config);
    for peer in &peers {
        peer.wait("both peers' targets are there", 20_000, || (peer.query("level").len() == 2).then_some(()));
        let mut instances: Vec<String> = peer
            .query("level")
            .iter()
            .map(|series| series["metric"]["instance"].as_str().unwrap_or("").to_owned())
            .collect();
        instances.sort();
        let mut expected: Vec<String> = peers.iter().map(|peer| format!("127.0.0.1:{}", peer.web)).collect();
        expected.sort();
        assert_eq!(instances, expected);
    }
}

#[test]
fn what_discovery_does_is_in_the_metrics() {
    let root = tempfile::tempdir().expect("a folder");
    let stage = stage();
    let peers = mesh(root.path(), 1, &config(&stage, "1s"));
    peers[0].wait("the targets are found", 20_000, || {
        (peers[0].metric("prometheus_sd_discovered_targets{config=\"found\",name=\"scrape\"}") == 6.0).then_some(())
    });
    assert!(
        peers[0].metric("prometheus_sd_refresh_duration_seconds_count{config=\"found\",mechanism=\"http\"}") >= 1.0
    );
    assert_eq!(peers[0].metric("prometheus_sd_refresh_failures_total{config=\"found\",mechanism=\"http\"}"), 0.0);
    let (_, page) = get(peers[0].web, "/metrics");
    assert!(page.contains("prometheus_sd_failed_configs{name=\"scrape\"} 0"), "{page}");
}
