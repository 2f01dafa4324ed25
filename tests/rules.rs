//! Rules as an operator sees them: recorded and alerting series, whoever evaluates, whoever is asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::remote::Prometheus;
use crate::support::{
    Exporter, Gauge, Peer, beside_other_meshes, escaped, get, mesh, one_mesh_at_a_time, pause, post, program, wall,
};

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
    let _shared = beside_other_meshes();
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

/// All of what a group can say; `trigger` is 0 or 1.
const GROUPS: &str = r#"groups:
- name: limited
  interval: 1s
  limit: 1
  rules:
  - {record: 'limited:one', expr: vector(1)}
  - {record: 'limited:two', expr: 'label_replace(vector(1), "a", "x", "", "") or label_replace(vector(2), "a", "y", "", "")'}
  - {alert: LimitedTwo, expr: 'label_replace(vector(1), "a", "x", "", "") or label_replace(vector(2), "a", "y", "", "")'}
- name: offset
  interval: 1s
  query_offset: 5s
  labels: {team: infra, kind: group}
  rules:
  - {record: 'offset:trigger', expr: trigger, labels: {kind: rule}}
  - {alert: Offset, expr: 'trigger > 0'}
- name: held
  interval: 1s
  rules:
  - alert: Held
    expr: 'trigger > 0'
    for: 3s
    keep_firing_for: 4s
    labels: {severity: page, v: '{{ $value }}'}
    annotations: {summary: '{{ $labels.instance }} is {{ $value | humanize }}'}
  - {record: 'held:sum', expr: 'sum by (job) (trigger)', labels: {added: x}}
  - {record: 'held:next', expr: 'held:sum * 2'}
  - {record: broken, expr: 'label_replace(trigger, "a", "(", "instance", "(")'}
  - {record: same, expr: 'label_replace(vector(1), "instance", "x", "", "") or label_replace(vector(1), "job", "y", "", "")', labels: {job: z, instance: z}}
- name: long
  interval: 1s
  rules:
  - {alert: Long, expr: 'trigger > 0', for: 30m}
"#;

fn asked(port: u16, path: &str) -> Value {
    let (status, body) = get(port, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str::<Value>(&body).expect("JSON")["data"].clone()
}

/// `/api/v1/rules` without what differs from evaluation to evaluation.
fn rules_shown(port: u16) -> Value {
    fn still(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for field in ["evaluationTime", "lastEvaluation", "activeAt", "keepFiringSince"] {
                    fields.remove(field);
                }
                fields.values_mut().for_each(still);
            }
            Value::Array(all) => {
                all.iter_mut().for_each(still);
                all.sort_by_key(ToString::to_string);
            }
            _ => {}
        }
    }
    let mut shown = asked(port, "/api/v1/rules");
    still(&mut shown);
    shown
}

/// How many samples each series that rules made has in a stretch of time, by its labels.
fn made(port: u16, from: f64, to: f64) -> BTreeMap<String, Vec<(f64, String)>> {
    let seconds = (to - from) as u64;
    let query = escaped(&format!("{{__name__=~\"ALERTS|held:.*|limited:.*|offset:.*|same|broken\"}}[{seconds}s]"));
    let answer = asked(port, &format!("/api/v1/query?query={query}&time={to}"));
    let mut all = BTreeMap::new();
    for series in answer["result"].as_array().into_iter().flatten() {
        let labels: BTreeMap<&String, &Value> = series["metric"].as_object().into_iter().flatten().collect();
        let points = series["values"].as_array().into_iter().flatten();
        let points = points.map(|pair| (pair[0].as_f64().expect("a number"), pair[1].to_string())).collect();
        all.insert(format!("{labels:?}"), points);
    }
    all
}

fn of_alert<'a>(made: &'a BTreeMap<String, Vec<(f64, String)>>, name: &str, state: &str) -> &'a [(f64, String)] {
    let (name, state) = (format!("\"alertname\": String({name:?})"), format!("\"alertstate\": String({state:?})"));
    let found = made.iter().find(|(labels, _)| labels.contains(&name) && labels.contains(&state));
    found.map_or(&[], |(_, points)| points)
}

/// When the alert `Long` became active.
fn active_since(port: u16) -> Option<f64> {
    let answer = asked(port, &format!("/api/v1/query?query={}", escaped("ALERTS_FOR_STATE{alertname=\"Long\"}")));
    answer["result"][0]["value"][1].as_str()?.parse().ok()
}

fn missed(port: u16, group: &str) -> f64 {
    let (_, text) = get(port, "/metrics");
    let line = |line: &&str| {
        line.starts_with("prometheus_rule_group_iterations_missed_total") && line.contains(&format!(";{group}\""))
    };
    let line = text.lines().find(line).unwrap_or_else(|| panic!("no missed iterations of {group} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn groups_do_what_those_of_a_real_prometheus_do() {
    let Some(binary) = program("prometheus") else { return };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let gauge = Gauge::start(0);
    std::fs::write(root.path().join("groups.yml"), GROUPS).expect("written");
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: test\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        root.path().join("groups.yml").display(),
        gauge.address
    );
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, &config).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &path, &[]);
    peer.start();
    peer.wait_ready();
    let mut real = Prometheus::start(&binary, root.path(), &config);
    let both = |real: &Prometheus| [peer.web, real.port];
    let [ours, theirs] = both(&real);
    for port in [ours, theirs] {
        peer.wait("all groups were evaluated", 20_000, || {
            let groups = asked(port, "/api/v1/rules")["groups"].as_array()?.clone();
            let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
            let there = asked(port, "/api/v1/query?query=offset:trigger")["result"].as_array()?.len();
            (groups.len() == 4 && there == 1 && rules.into_iter().all(|rule| rule["health"] != "unknown")).then_some(())
        });
    }
    pause(3_000);
    assert_eq!(rules_shown(ours), rules_shown(theirs), "before anything fires");
    let began = wall();
    gauge.set(1);
    for port in [ours, theirs] {
        peer.wait("all that can fire fires", 15_000, || {
            let text = rules_shown(port).to_string();
            (text.matches("\"state\":\"firing\"").count() >= 4).then_some(())
        });
    }
    assert_eq!(rules_shown(ours), rules_shown(theirs), "while it fires");
    let since = [ours, theirs].map(|port| active_since(port).expect("it is pending"));
    gauge.set(0);
    let fell = wall();
    pause(2_000);
    gauge.set(1);
    pause(1_500);
    gauge.set(0);
    let over = wall();
    pause(12_000);
    assert_eq!(rules_shown(ours), rules_shown(theirs), "after it is over");
    let until = wall() - 2.0;
    let (ours_made, theirs_made) = (made(ours, began - 2.0, until), made(theirs, began - 2.0, until));
    let keys = |made: &BTreeMap<String, Vec<(f64, String)>>| made.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours_made), keys(&theirs_made), "the same series");
    for (labels, points) in &ours_made {
        let other = &theirs_made[labels];
        let near = points.len().abs_diff(other.len()) <= 2;
        assert!(near, "{labels}: {} samples here, {} there\n{points:?}\n{other:?}", points.len(), other.len());
    }
    for (made, whose) in [(&ours_made, "ours"), (&theirs_made, "theirs")] {
        let fires = of_alert(made, "Held", "firing");
        let (first, last) = (fires.first().expect("it fired").0, fires.last().expect("it fired").0);
        assert!((3.0..=6.0).contains(&(first - began)), "{whose}: three seconds pending: {}", first - began);
        assert!((2.5..=7.0).contains(&(last - over)), "{whose}: four seconds kept: {}", last - over);
        // Evaluated five seconds late, and stored at the instant that was looked at.
        let offset = of_alert(made, "Offset", "firing").first().expect("it fired").0 - began;
        assert!((0.0..=2.5).contains(&offset), "{whose}: {offset}");
    }
    assert!(fell < over);

    // Slots that pass while the process stands still are missed, and counted.
    let before = [ours, theirs].map(|port| missed(port, "held"));
    let pids = [peer.id(), real.id()];
    let tell = |signal: &str| {
        for pid in pids {
            assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs").success());
        }
    };
    tell("-STOP");
    pause(5_000);
    tell("-CONT");
    pause(4_000);
    let after = [ours, theirs].map(|port| missed(port, "held"));
    let counted = [after[0] - before[0], after[1] - before[1]];
    assert!(counted.iter().all(|missed| (3.0..=6.0).contains(missed)), "ours and theirs missed {counted:?}");

    // What is pending stays pending over a restart.
    gauge.set(1);
    for port in [ours, theirs] {
        peer.wait("it is pending again", 10_000, || active_since(port).filter(|at| *at > since[0] + 1.0));
    }
    pause(3_000);
    let since = [ours, theirs].map(|port| active_since(port).expect("it is pending"));
    assert_eq!(peer.terminate(), Some(0));
    peer.start();
    peer.wait_ready();
    real = real.restart(&binary, root.path(), &config);
    let restarted = wall();
    for (port, since) in [(peer.web, since[0]), (real.port, since[1])] {
        let now = peer.wait("it is pending since before", 20_000, || {
            active_since(port).filter(|at| (*at - since).abs() > 0.0 || wall() - restarted > 8.0)
        });
        assert!(now - since < 15.0 && now >= since && restarted - now > 1.0, "{port}: since {since}, then {now}");
    }
}
