//! A real Prometheus started on our blocks gives our answers.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Peer, escaped, exchange, free_port, get, pause, post, wall};

const QUERIES: [&str; 12] = [
    "count({__name__!=\"\"})",
    "sum by (instance) (rate(blocks_total[5m]))",
    "increase(blocks_total[30m])",
    "avg_over_time(blocks_level[10m])",
    "quantile_over_time(0.9, blocks_level[10m])",
    "count_over_time(blocks_level[2h])",
    "max by (job) (blocks_level) - min by (job) (blocks_level)",
    "topk(2, blocks_level)",
    "blocks_level{instance=~\"host-[12]\"} offset 10m",
    "deriv(blocks_level[15m])",
    "changes(blocks_level[20m]) + on (instance) group_left () resets(blocks_total[20m])",
    "absent(nothing_here)",
];

/// A remote write body of one instant: a counter that is reset at times and a level, for a few hosts.
pub fn body(step: u32, at: i64) -> Vec<u8> {
    let varint = |mut rest: u64| {
        let mut out = Vec::new();
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    };
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat();
    let label = |name: &str, value: &str| field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let mut plain = Vec::new();
    for host in 0..4u32 {
        let instance = format!("host-{host}");
        let level = f64::from(step * (host + 3) % 97) / 7.0;
        let total = f64::from((step * (host + 1)) % 5_000);
        for (name, value) in [("blocks_level", level), ("blocks_total", total)] {
            let labels = [label("__name__", name), label("instance", &instance), label("job", "blocks")].concat();
            let sample = [&[9][..], &value.to_le_bytes(), &[16], &varint(at as u64)].concat();
            plain.extend(field(1, &[labels, field(2, &sample)].concat()));
        }
    }
    // Snappy's block form of bytes as they are: the length, then one literal.
    let literal = [&[61 << 2][..], &(plain.len() as u16 - 1).to_le_bytes(), &plain].concat();
    [varint(plain.len() as u64), literal].concat()
}

/// The answer's series by their labels, or why there is none.
fn answer(port: u16, query: &str, at: f64) -> Value {
    let instant = get(port, &format!("/api/v1/query?query={}&time={at}", escaped(query)));
    let (start, end) = (at - 3_600.0, at);
    let range = format!("/api/v1/query_range?query={}&start={start}&end={end}&step=60", escaped(query));
    let range = get(port, &range);
    let sorted = |(status, body): (u16, String)| {
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
        assert_eq!(answer["status"], "success", "{query}: {body}");
        let mut series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.sort_by_key(|one| one["metric"].to_string());
        Value::Array(series)
    };
    serde_json::json!({"instant": sorted(instant), "range": sorted(range)})
}

/// Numbers may differ in their last digits only.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| alike(value, other)))
        }
        (Value::String(a), Value::String(b)) if a != b => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
            _ => false,
        },
        (a, b) => a == b,
    }
}

#[test]
fn a_real_prometheus_on_our_blocks_gives_our_answers() {
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("prometheus.yml");
    std::fs::write(&config, "global: {scrape_interval: 15s}\n").expect("written");
    let flags = ["--web.enable-remote-write-receiver", "--web.enable-admin-api", "--storage.tsdb.retention.time=100d"];
    let mut peer = flags.iter().fold(Peer::new(root.path(), "peer-0", &config, &[]), |peer, flag| peer.with(*flag));
    peer.start();
    peer.wait_ready();
    let steps = 700u32;
    let end = wall().floor() - 60.0;
    for step in 0..steps {
        let at = (end * 1000.0) as i64 - i64::from(steps - 1 - step) * 15_000;
        let (status, text) = exchange(peer.web, "POST", "/api/v1/write", "", &body(step, at));
        assert_eq!(status, 204, "{text}");
    }
    let (status, snapshot) = post(peer.web, "/api/v1/admin/tsdb/snapshot");
    assert_eq!(status, 200, "{snapshot}");
    let snapshot: Value = serde_json::from_str(&snapshot).expect("JSON");
    let name = snapshot["data"]["name"].as_str().expect("a name");
    let blocks = root.path().join("peer-0/data/snapshots").join(name);
    assert!(std::fs::read_dir(&blocks).expect("a folder").count() >= 1);
    let port = free_port();
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", blocks.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--storage.tsdb.retention.time=100d")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut prometheus) = started else {
        println!("not run: no prometheus on the PATH");
        return;
    };
    let ready = (0..600).any(|_| {
        pause(50);
        get(port, "/-/ready").0 == 200
    });
    let different: Vec<String> = QUERIES
        .iter()
        .filter(|_| ready)
        .filter(|query| !alike(&answer(peer.web, query, end), &answer(port, query, end)))
        .map(|query| format!("{query}: {} is not {}", answer(peer.web, query, end), answer(port, query, end)))
        .collect();
    prometheus.kill().expect("it was running");
    prometheus.wait().expect("it ends");
    assert!(ready, "Prometheus did not start on our blocks");
    assert_eq!(different, Vec::<String>::new());
}
