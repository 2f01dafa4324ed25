//! Remote write between the mesh and a real Prometheus, in both directions, while peers are killed.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{
    Exporter, Peer, beside_other_meshes, escaped, free_port, get, mesh, mesh_with, one_mesh_at_a_time, pause, program,
    wait_for_one_owner, wall,
};

/// A real Prometheus.
pub struct Prometheus {
    pub port: u16,
    child: Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where Prometheus' binary is; the test says that it did not run when there is none.
fn binary() -> Option<PathBuf> {
    program("prometheus")
}

impl Prometheus {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and the same again over the same data.
    pub fn restart(self, binary: &Path, root: &Path, config: &str) -> Prometheus {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        let mut ended = self;
        ended.child.wait().expect("it ends");
        drop(ended);
        Prometheus::start(binary, root, config)
    }

    pub fn start(binary: &Path, root: &Path, config: &str) -> Prometheus {
        let port = free_port();
        let path = root.join("real.yml");
        std::fs::write(&path, config).expect("written");
        let child = Command::new(binary)
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", root.join("real").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-remote-write-receiver")
            .arg("--enable-feature=native-histograms,exemplar-storage")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(root.join("real.log")).expect("a log"))
            .spawn()
            .expect("it starts");
        Prometheus { port, child }.once_ready()
    }

    fn once_ready(self) -> Prometheus {
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() && get(self.port, "/-/ready").0 == 200 {
                return self;
            }
            pause(50);
        }
        panic!("it does not start");
    }
}

/// Instants and values by target, from anything that speaks Prometheus' API.
fn samples(port: u16, seconds: u64) -> BTreeMap<String, BTreeMap<i64, String>> {
    of_job(port, "test", seconds)
}

fn of_job(port: u16, job: &str, seconds: u64) -> BTreeMap<String, BTreeMap<i64, String>> {
    let query = escaped(&format!("scrapes_total{{job=\"{job}\"}}[{seconds}s]"));
    let (status, body) = get(port, &format!("/api/v1/query?query={query}"));
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
    let mut all = BTreeMap::new();
    for series in answer["data"]["result"].as_array().into_iter().flatten() {
        let point = |pair: &serde_json::Value| {
            let at = (pair[0].as_f64().expect("an instant") * 1000.0).round() as i64;
            (at, pair[1].as_str().unwrap_or_default().to_owned())
        };
        let points = series["values"].as_array().into_iter().flatten().map(point).collect();
        all.insert(series["metric"]["instance"].as_str().unwrap_or_default().to_owned(), points);
    }
    all
}

fn assert_nothing_lost(from: u16, to: u16, began: i64, until: i64, context: &dyn Fn() -> String) {
    let seconds = (wall() as i64 - began / 1000 + 5) as u64;
    let (ours, theirs) = (samples(from, seconds), samples(to, seconds));
    assert_eq!(ours.len(), 8);
    let mut compared = 0;
    for (instance, ours) in ours {
        let theirs = theirs.get(&instance).cloned().unwrap_or_default();
        for (at, value) in ours.range(began..until) {
            assert_eq!(theirs.get(at), Some(value), "{instance} at {at} is lost; {}", context());
            compared += 1;
        }
    }
    assert!(compared > 8 * 10, "only {compared} samples were compared");
}

#[test]
fn prometheus_gets_every_sample_of_the_mesh_though_each_peer_is_killed() {
    let Some(binary) = binary() else { return };
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let real = Prometheus::start(&binary, root.path(), "scrape_configs: []\n");
    let exporter = Exporter::start();
    let config = format!(
        "{}remote_write:\n- url: http://127.0.0.1:{}/api/v1/write\n  queue_config: {{batch_send_deadline: 1s}}\n",
        exporter.config(8, "1s", "900ms"),
        real.port
    );
    let mut peers = mesh(root.path(), 3, &config);
    pause(4_000);
    let began = (wall() * 1000.0) as i64;
    for peer in &mut peers {
        pause(3_000);
        peer.kill();
        pause(6_000);
        peer.start();
        peer.wait_ready();
    }
    pause(8_000);
    let until = (wall() * 1000.0) as i64 - 6_000;
    let logs = || peers.iter().map(Peer::log).collect::<Vec<_>>().join("\n");
    assert_nothing_lost(peers[0].web, real.port, began, until, &logs);
    let sent: f64 = peers.iter().map(|peer| peer.metric("prometheus_remote_storage_samples_total")).sum();
    assert!(sent > 0.0);
}

#[test]
fn the_mesh_gets_every_sample_of_prometheus_though_each_peer_is_killed() {
    let Some(binary) = binary() else { return };
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let mut peers = mesh_with(root.path(), 3, "scrape_configs: []\n", &["--web.enable-remote-write-receiver"]);
    let exporter = Exporter::start();
    let config = format!(
        "{}remote_write:\n- url: http://127.0.0.1:{}/api/v1/write\n  queue_config: {{batch_send_deadline: 1s}}\n",
        exporter.config(8, "1s", "900ms"),
        peers[0].web
    );
    let real = Prometheus::start(&binary, root.path(), &config);
    pause(4_000);
    let began = (wall() * 1000.0) as i64;
    // The one that Prometheus writes to is among them: it writes again until that is back.
    for peer in &mut peers {
        pause(3_000);
        peer.kill();
        pause(6_000);
        peer.start();
        peer.wait_ready();
    }
    pause(8_000);
    let until = (wall() * 1000.0) as i64 - 6_000;
    for peer in &peers {
        let logs = || peers.iter().map(Peer::log).collect::<Vec<_>>().join("\n");
        assert_nothing_lost(real.port, peer.web, began, until, &logs);
    }
}

/// What an instant query gives: labels and value, sorted.
fn vector(port: u16, query: &str) -> Vec<String> {
    let (status, body) = get(port, &format!("/api/v1/query?query={}", escaped(query)));
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
    let shown = |sample: &serde_json::Value| {
        let mut labels: Vec<_> = sample["metric"].as_object().into_iter().flatten().collect();
        labels.sort_by(|a, b| a.0.cmp(b.0));
        format!("{labels:?} {} {}", sample["value"][1], sample["histogram"][1])
    };
    let mut all: Vec<String> = answer["data"]["result"].as_array().into_iter().flatten().map(shown).collect();
    all.sort();
    all
}

#[test]
fn prometheus_reads_the_samples_of_the_mesh_from_any_peer() {
    let Some(binary) = binary() else { return };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 2, &exporter.config(8, "1s", "900ms"));
    pause(5_000);
    for (number, peer) in peers.iter().enumerate() {
        let folder = root.path().join(format!("reader-{number}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = format!("remote_read:\n- url: http://127.0.0.1:{}/api/v1/read\n  read_recent: true\n", peer.web);
        let real = Prometheus::start(&binary, &folder, &config);
        let (ours, theirs) = (samples(peer.web, 30), samples(real.port, 30));
        assert_eq!(theirs.len(), 8);
        for (instance, ours) in ours {
            // Both look at their own present: what is in both is the same.
            let common: Vec<_> = ours.iter().filter(|(at, _)| theirs[&instance].contains_key(at)).collect();
            assert!(common.len() >= 3, "{instance}: {ours:?} {:?}", theirs[&instance]);
            assert!(common.iter().all(|(at, value)| theirs[&instance].get(at) == Some(value)));
        }
        assert_eq!(vector(real.port, "level{instance=\"t1\"}"), vector(peer.web, "level{instance=\"t1\"}"));
    }
}

#[test]
fn prometheus_and_the_mesh_read_all_of_each_others_samples_though_each_peer_is_killed() {
    let Some(binary) = binary() else { return };
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    // What the real one scrapes for the mesh to read.
    let theirs = Prometheus::start(&binary, root.path(), &exporter.config(8, "1s", "900ms").replace("test", "theirs"));
    let config = format!(
        "{}remote_read:\n- {{url: 'http://127.0.0.1:{}/api/v1/read', read_recent: true, required_matchers: {{job: theirs}}}}\n",
        exporter.config(8, "1s", "900ms"),
        theirs.port
    );
    let mut peers = mesh(root.path(), 3, &config);
    let readers: Vec<Prometheus> = peers
        .iter()
        .enumerate()
        .map(|(number, peer)| {
            let folder = root.path().join(format!("reader-{number}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            let url = format!("http://127.0.0.1:{}/api/v1/read", peer.web);
            Prometheus::start(&binary, &folder, &format!("remote_read:\n- {{url: '{url}', read_recent: true}}\n"))
        })
        .collect();
    pause(4_000);
    let began = (wall() * 1000.0) as i64;
    let mut compared = 0;
    for killed in 0..peers.len() {
        pause(4_000);
        peers[killed].kill();
        // A moment until somebody else has its shards: then nothing is missing, from whoever is asked.
        pause(5_000);
        let until = (wall() * 1000.0) as i64 - 3_000;
        let seconds = (wall() as i64 - began / 1000 + 5) as u64;
        let alive: Vec<usize> = (0..peers.len()).filter(|number| *number != killed).collect();
        let truth = samples(peers[alive[0]].web, seconds);
        assert_eq!(truth.len(), 8);
        for number in &alive {
            let read = samples(readers[*number].port, seconds);
            for (instance, points) in &truth {
                let expected: Vec<_> = points.range(began..until).collect();
                let found: Vec<_> = read[instance].range(began..until).collect();
                assert_eq!(
                    found,
                    expected,
                    "{instance} by peer {number} while {killed} is dead; {}",
                    peers[*number].log()
                );
                // A sample a second, but the moment of the takeover too: no slot is without.
                let slots = ((until - began) / 1000) as usize;
                assert!(found.len() + 1 >= slots, "{instance}: {} of {slots} slots", found.len());
                compared += found.len();
            }
            let (ours, theirs) =
                (of_job(peers[*number].web, "theirs", seconds), of_job(theirs.port, "theirs", seconds));
            for (instance, points) in &theirs {
                let expected: Vec<_> = points.range(began..until).collect();
                let found: Vec<_> = ours[instance].range(began..until).collect();
                assert_eq!(found, expected, "{instance} of the real one by peer {number} while {killed} is dead");
                compared += found.len();
            }
        }
        peers[killed].start();
        peers[killed].wait_ready();
    }
    assert!(compared > 1_000, "only {compared} samples were compared");
}

/// Debian's Prometheus is built without OTLP: what it should make of the message stands in the crate's own tests.
#[test]
fn otlp_sent_to_any_peer_is_answered_by_all() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let peers = mesh_with(root.path(), 2, "scrape_configs: []\n", &["--web.enable-otlp-receiver"]);
    let now = (wall() * 1000.0) as u64 * 1_000_000;
    let message = OTLP.replace("NOW", &now.to_string());
    for peer in &peers {
        let path = "/api/v1/otlp/v1/metrics";
        let (status, answer) = crate::push::post_body(peer.web, path, "application/json", message.as_bytes());
        assert_eq!(status, 200, "{answer}");
    }
    let (status, answer) =
        crate::push::post_body(peers[0].web, "/api/v1/otlp/v1/metrics", "text/plain", message.as_bytes());
    assert_eq!(status, 415, "{answer}");
    for peer in &peers {
        let all = peer.wait("all series are there", 5_000, || {
            let all = vector(peer.web, "{job=\"eu/shop\"}");
            (all.len() == 13).then_some(all)
        });
        assert!(all.iter().any(|series| series.contains("http_requests_total") && series.contains("\"7\"")), "{all:?}");
        assert!(all.iter().any(|series| series.contains("target_info")), "{all:?}");
    }
}

/// What a counter shows at each instant, by value, oldest first.
fn counted(peer: &Peer) -> Vec<f64> {
    let samples = peer.samples("jobs_done_total", 120);
    assert!(samples.len() <= 1, "{samples:?}");
    samples.into_values().flatten().map(|(_, value)| value.parse().expect("a number")).collect()
}

/// As PromQL's function counts: what does not rise began anew. Each difference is one, so that one that stays has, too.
fn increase(values: &[f64]) -> f64 {
    let mut before = 0.0;
    let each = values.iter().map(|value| {
        let more = if *value <= before { *value } else { value - before };
        before = *value;
        more
    });
    each.sum()
}

#[test]
fn differences_sent_to_any_peer_become_one_sum_and_none_is_lost_though_its_owner_is_killed() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let flags = ["--web.enable-otlp-receiver", "--enable-feature=otlp-deltatocumulative"];
    let mut peers = mesh_with(root.path(), 3, "scrape_configs: []\n", &flags);
    // Acknowledged or repeated until it is, as an exporter does.
    let send = |ports: &[u16], number: usize| {
        let now = (wall() * 1000.0) as u64 * 1_000_000;
        let message = DELTA.replace("NOW", &now.to_string());
        for attempt in 0..40 {
            let port = ports[(number + attempt) % ports.len()];
            let (status, answer) =
                crate::push::post_body(port, "/api/v1/otlp/v1/metrics", "application/json", message.as_bytes());
            match status {
                200 => return,
                0 | 503 => pause(250),
                _ => panic!("{status}: {answer}"),
            }
        }
        panic!("nobody takes differences");
    };
    let ports: Vec<u16> = peers.iter().map(|peer| peer.web).collect();
    // Peers that began alone hand over what each of them held: until then two may add up in a shard.
    wait_for_one_owner(&peers);
    for number in 0..30 {
        send(&ports, number);
        pause(20);
    }
    for peer in &peers {
        let values = peer.wait("all are added up", 5_000, || Some(counted(peer)).filter(|values| values.len() == 30));
        // The shard may move once or twice while the mesh is young: then the sum begins anew.
        let begun = values.windows(2).filter(|pair| pair[1] < pair[0] + 1.0).count();
        assert!(begun <= 2, "one sum, whoever was asked: {values:?}");
        assert_eq!(increase(&values), 30.0, "{values:?}");
    }
    for killed in 0..3 {
        peers[killed].kill();
        let living: Vec<u16> =
            peers.iter().enumerate().filter(|(n, _)| *n != killed).map(|(_, peer)| peer.web).collect();
        for number in 0..10 {
            send(&living, number);
            pause(20);
        }
        peers[killed].start();
        peers[killed].wait_ready();
        pause(1_000);
    }
    let values =
        peers[0].wait("all are there", 10_000, || Some(counted(&peers[0])).filter(|values| values.len() >= 60));
    let increase = increase(&values);
    // A difference whose answer was lost with its owner may be there twice, once in the sum that ended.
    assert!((60.0..=63.0).contains(&increase), "60 were sent, {increase} counted: {values:?}");
}

const DELTA: &str = r#"{"resourceMetrics": [{
  "resource": {"attributes": [
    {"key": "service.name", "value": {"stringValue": "batch"}},
    {"key": "service.instance.id", "value": {"stringValue": "one"}}]},
  "scopeMetrics": [{"metrics": [
    {"name": "jobs.done", "sum": {"aggregationTemporality": 1, "isMonotonic": true,
      "dataPoints": [{"timeUnixNano": "NOW", "asInt": "1"}]}}]}]}]}"#;

const OTLP: &str = r#"{"resourceMetrics": [{
  "resource": {"attributes": [
    {"key": "service.name", "value": {"stringValue": "shop"}},
    {"key": "service.namespace", "value": {"stringValue": "eu"}},
    {"key": "service.instance.id", "value": {"stringValue": "one"}},
    {"key": "host.cpus", "value": {"intValue": "4"}}]},
  "scopeMetrics": [{"scope": {"name": "lib", "version": "1"}, "metrics": [
    {"name": "http.requests", "unit": "{request}", "sum": {
      "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
        {"attributes": [{"key": "http.code", "value": {"intValue": 200}}, {"key": "a.b", "value": {"stringValue": "x"}},
                        {"key": "a_b", "value": {"stringValue": "y"}}, {"key": "_p", "value": {"boolValue": true}}],
         "timeUnixNano": "NOW", "asInt": "7"}]}},
    {"name": "queue.size", "unit": "1", "gauge": {"dataPoints": [{"timeUnixNano": "NOW", "asDouble": 0.5}]}},
    {"name": "net.io", "unit": "By/s", "gauge": {"dataPoints": [{"timeUnixNano": "NOW", "asDouble": 12}]}},
    {"name": "latency", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": [
        {"timeUnixNano": "NOW", "count": "3", "sum": 2.5, "bucketCounts": ["1", "1", "1"], "explicitBounds": [0.1, 1]}]}},
    {"name": "size", "unit": "By", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
        {"timeUnixNano": "NOW", "count": "5", "sum": 9, "scale": 0, "zeroCount": "1",
         "positive": {"offset": 0, "bucketCounts": ["1", "0", "0", "0", "3"]}}]}},
    {"name": "old", "summary": {"dataPoints": [
        {"timeUnixNano": "NOW", "count": "2", "sum": 3, "quantileValues": [{"quantile": 0.5, "value": 1}]}]}}
  ]}]}]}"#;

#[test]
fn the_mesh_reads_the_samples_of_prometheus() {
    let Some(binary) = binary() else { return };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let real = Prometheus::start(&binary, root.path(), &exporter.config(8, "1s", "900ms"));
    let config = format!(
        "remote_read:\n- url: http://127.0.0.1:{}/api/v1/read\n  name: other\n  read_recent: true\n",
        real.port
    );
    let peers = mesh(root.path(), 2, &config);
    peers[0].wait("Prometheus has scraped all, some times", 20_000, || {
        let all = samples(real.port, 30);
        (all.len() == 8 && all.values().all(|values| values.len() >= 4)).then_some(())
    });
    for peer in &peers {
        let (ours, theirs) = (samples(peer.web, 30), samples(real.port, 30));
        assert_eq!(ours.len(), 8, "{}", peer.log());
        for (instance, theirs) in theirs {
            let common: Vec<_> = theirs.iter().filter(|(at, _)| ours[&instance].contains_key(at)).collect();
            assert!(common.len() >= 3, "{instance}: {theirs:?} {:?}", ours[&instance]);
            assert!(common.iter().all(|(at, value)| ours[&instance].get(at) == Some(value)));
        }
        let (_, page) = get(peer.web, "/metrics");
        let asked = page
            .lines()
            .find(|line| line.starts_with("prometheus_remote_read_client_queries_total{remote_name=\"other\""));
        assert!(asked.is_some_and(|line| !line.ends_with(" 0")), "{asked:?}");
    }
}

#[test]
fn alerts_reach_an_alertmanager_outside_and_it_is_shown() {
    let Some(binary) = program("alertmanager") else { return };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let port = free_port();
    std::fs::write(root.path().join("am.yml"), "route: {receiver: none}\nreceivers: [{name: none}]\n")
        .expect("written");
    let child = Command::new(&binary)
        .arg(format!("--config.file={}", root.path().join("am.yml").display()))
        .arg(format!("--storage.path={}", root.path().join("am").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(root.path().join("am.log")).expect("a log"))
        .spawn()
        .expect("it starts");
    // An alert that is refused is sent again after a minute.
    let _running = Prometheus { port, child }.once_ready();
    let rules = "groups:\n- name: g\n  rules:\n  - {alert: Always, expr: vector(1), labels: {severity: page}}\n";
    std::fs::write(root.path().join("rules.yml"), rules).expect("written");
    let config = format!(
        "global: {{evaluation_interval: 1s, external_labels: {{dc: x}}}}\nrule_files: [rules.yml]\nalerting:\n  \
         alertmanagers:\n  - {{static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
    );
    let peers = mesh(root.path(), 2, &config);
    let alerts = peers[0].wait("the alert is there", 20_000, || {
        let (_, body) = get(port, "/api/v2/alerts");
        let alerts: serde_json::Value = serde_json::from_str(&body).ok()?;
        alerts.as_array().filter(|alerts| !alerts.is_empty()).cloned()
    });
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0]["labels"], serde_json::json!({"alertname": "Always", "dc": "x", "severity": "page"}));
    for peer in &peers {
        let (_, body) = get(peer.web, "/api/v1/alertmanagers");
        assert!(body.contains(&format!("http://127.0.0.1:{port}/api/v2/alerts")), "{body}");
    }
    let sent: f64 =
        peers.iter().map(|peer| peer.metric("prometheus_notifications_sent_total")).filter(|n| n.is_finite()).sum();
    assert!(sent >= 1.0);
}
