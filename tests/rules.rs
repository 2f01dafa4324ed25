//! Rules as an operator sees them: recorded and alerting series, whoever evaluates, whoever is asked.

use std::path::Path;

use serde_json::Value;

use crate::support::{Exporter, Peer, get, mesh, one_mesh_at_a_time, pause, post, wall};

const RECORDING: &str = "groups:\n- name: g\n  rules:\n  - {record: 'level:sum', expr: 'sum by (kind) (level)'}\n";

fn with_rules(root: &Path, exporter: &Exporter, targets: usize, rules: &str) -> String {
    std::fs::write(root.join("rules.yml"), rules).expect("written");
    let config = exporter.config(targets, "1s", "900ms");
    config.replace("global: {", "rule_files: [rules.yml]\nglobal: {evaluation_interval: 1s, ")
}

/// The alerts that `/api/v1/alerts` shows.
fn alerts(peer: &Peer) -> Vec<Value> {
    let (status, body) = get(peer.web, "/api/v1/alerts");
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    answer["data"]["alerts"].as_array().cloned().unwrap_or_default()
}

fn in_state(peer: &Peer, state: &str) -> Option<()> {
    let alerts = alerts(peer);
    (alerts.len() == 1 && alerts[0]["state"] == state).then_some(())
}

#[test]
fn a_recorded_series_is_the_same_from_each_peer_and_ends_with_its_rule() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 2, &with_rules(root.path(), &exporter, 3, RECORDING));
    for peer in &peers {
        peer.wait("the sum is there", 20_000, || {
            let sums = peer.query("level:sum");
            (sums.len() == 2 && sums[0]["value"][1] == "4.5" && sums[1]["value"][1] == "6").then_some(())
        });
    }
    let began = (wall() * 1000.0) as i64;
    pause(8_000);
    let settled = |peer: &Peer| {
        let mut samples = peer.samples("level:sum", 20);
        samples.values_mut().for_each(|values| values.retain(|(at, _)| (began..began + 6_000).contains(at)));
        samples
    };
    let first = settled(&peers[0]);
    assert_eq!(first, settled(&peers[1]));
    assert_eq!(first.len(), 2);
    assert!(first.values().all(|values| (5..=6).contains(&values.len())), "a sample a slot: {first:?}");
    let (_, body) = get(peers[0].web, "/api/v1/rules");
    let shown: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(shown["data"]["groups"][0]["rules"][0]["health"], "ok", "{body}");

    std::fs::write(root.path().join("rules.yml"), "groups: []\n").expect("written");
    for peer in &peers {
        assert_eq!(post(peer.web, "/-/reload").0, 200);
    }
    for peer in &peers {
        peer.wait("the series has ended", 10_000, || peer.query("level:sum").is_empty().then_some(()));
    }
}

#[test]
fn an_alert_fires_on_time_though_its_evaluator_is_killed() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let rules = "groups:\n- name: g\n  rules:\n  - {alert: High, expr: 'level{kind=\"a\"} > 1', for: 15s, \
                 annotations: {summary: 'is {{ $value }}'}}\n";
    // The rule comes once all are there: else it would fire before anybody looks.
    let mut peers = mesh(root.path(), 3, &with_rules(root.path(), &exporter, 1, "groups: []\n"));
    std::fs::write(root.path().join("rules.yml"), rules).expect("written");
    for peer in &peers {
        assert_eq!(post(peer.web, "/-/reload").0, 200);
    }
    for peer in &peers {
        peer.wait("the alert is pending", 10_000, || in_state(peer, "pending"));
    }
    assert_eq!(alerts(&peers[0])[0]["annotations"]["summary"], "is 1.5");
    let since = |peer: &Peer| -> f64 {
        let value = peer.query("ALERTS_FOR_STATE{alertname=\"High\"}")[0]["value"][1].clone();
        value.as_str().and_then(|text| text.parse().ok()).expect("a number")
    };
    let active_at = since(&peers[0]);
    let evaluator = peers.iter().position(|peer| peer.metric("prometheus_rule_group_iterations_total") > 0.0);
    peers.remove(evaluator.expect("somebody evaluates")).kill();
    for peer in &peers {
        peer.wait("the alert fires", 25_000, || in_state(peer, "firing"));
        assert_eq!(since(peer), active_at);
        let fired = peer.samples("ALERTS{alertname=\"High\",alertstate=\"firing\"}", 30);
        let first = fired.values().flatten().map(|(at, _)| *at).min().expect("it has samples") as f64 / 1000.0;
        let late = first - active_at - 15.0;
        println!("evaluator killed during `for`: fired {late:.2} s after its time");
        assert!((-0.5..=2.0).contains(&late), "fired {late} s late");
    }
}

#[test]
fn a_configuration_of_delivery_that_is_named_and_not_there_stops_the_start() {
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(1, "1s", "900ms")).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &path, &[]).with("--alertmanager.config.file=am.yml");
    peer.start();
    assert_eq!(peer.wait_end(), Some(1));
    assert!(peer.log().contains("am.yml"));
}
