//! What keeps one query from costing the others: limits, the end of a query whose client is gone, and what is known of
//! queries afterwards.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::Value;

use crate::support::paging::write;
use crate::support::{Exporter, Peer, beside_other_meshes, escaped, get, pause};

/// Minutes of work that holds few samples at a time.
const HEAVY: &str = "quantile_over_time(0.5, quantile_over_time(0.5, vector(time())[6h:1s])[300d:10s])";

/// CPU seconds of a process so far.
fn cpu(peer: &Peer) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.id())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime, in hundredths.
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// CPU seconds it takes within so many ms.
fn cpu_within(peer: &Peer, ms: u64) -> f64 {
    let before = cpu(peer);
    pause(ms);
    cpu(peer) - before
}

fn ask(peer: &Peer, query: &str) -> (u16, Value) {
    let (status, body) = get(peer.web, &format!("/api/v1/query?query={}", escaped(query)));
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}")))
}

/// Sends a query without waiting for its answer.
fn begin(peer: &Peer, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", peer.web)).expect("it listens");
    let path = format!("/api/v1/query?query={}", escaped(query));
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).expect("it reads");
    stream
}

#[test]
fn a_query_over_a_limit_says_which_one_as_upstream_does() {
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = write(root.path().join("prometheus.yml"), &exporter.config(4, "1s", "1s"));
    let mut peer =
        Peer::new(root.path(), "peer-0", &config, &[]).with("--query.max-samples=50").with("--query.timeout=2s");
    peer.start();
    peer.wait_ready();
    peer.wait("it scrapes", 10_000, || (peer.query("up == 1").len() == 4).then_some(()));
    let too_many = "query processing would load too many samples into memory in query execution";
    for (query, status, kind, error) in [
        ("count_over_time(vector(1)[10m:1s])", 422, "execution", too_many),
        ("sum(level) + sum(count_over_time(level[1m]))", 200, "", ""),
        (HEAVY, 422, "execution", too_many),
        ("sum(", 400, "bad_data", "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"),
    ] {
        let (found, answer) = ask(&peer, query);
        assert_eq!(found, status, "{query}: {answer}");
        if status != 200 {
            assert_eq!(answer["errorType"], kind, "{query}: {answer}");
            assert_eq!(answer["error"], error, "{query}: {answer}");
        }
    }
    // At most so many points: of a range query, and of each query's time.
    let range = |query: &str, seconds: u64, step: &str| {
        let path = format!("/api/v1/query_range?query={}&start=0&end={seconds}&step={step}", escaped(query));
        let (status, body) = get(peer.web, &path);
        (status, serde_json::from_str::<Value>(&body).unwrap_or_else(|_| panic!("{status}: {body}")))
    };
    let (status, answer) = range("up", 11_002, "1");
    let points =
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
    assert_eq!((status, &answer["error"]), (400, &Value::from(points)));
    assert_eq!(range("vector(1)", 20, "1").0, 200);
    assert_eq!(range("vector(1)", 100, "1").0, 422);
}

#[test]
fn a_query_whose_client_is_gone_or_whose_time_is_over_takes_no_more_of_the_machine() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let config = write(root.path().join("prometheus.yml"), "scrape_configs: []\n");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).with("--query.max-concurrency=2");
    peer.start();
    peer.wait_ready();
    let idle = cpu_within(&peer, 1_000);
    assert!(idle < 0.4, "{idle} CPU s in a second of nothing");
    let asked = begin(&peer, HEAVY);
    peer.wait("the query works", 30_000, || (cpu_within(&peer, 500) > 0.2).then_some(()));
    drop(asked);
    peer.wait("the query has stopped", 5_000, || (cpu_within(&peer, 500) < 0.2).then_some(()));
    // Nor one whose own time is over, which is less than everybody's.
    let (status, body) = get(peer.web, &format!("/api/v1/query?timeout=1s&query={}", escaped(HEAVY)));
    assert_eq!(status, 503, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&answer["errorType"], &answer["error"]),
        (&"timeout".into(), &"query timed out in expression evaluation".into())
    );
    peer.wait("the query has stopped", 5_000, || (cpu_within(&peer, 500) < 0.2).then_some(()));
    // Both gave their turns back: there are two.
    for _ in 0..4 {
        assert_eq!(ask(&peer, "count_over_time(vector(1)[10m:1s])").0, 200);
    }
}

#[test]
fn what_was_running_at_a_crash_is_told_at_the_start_and_what_ended_stands_in_the_query_log() {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("queries.log");
    let text = format!("global: {{query_log_file: '{}'}}\n", log.display());
    let config = write(root.path().join("prometheus.yml"), &text);
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]);
    peer.start();
    peer.wait_ready();
    assert_eq!(ask(&peer, "vector(41) + 1").0, 200);
    assert_eq!(ask(&peer, "vector(1) + on(a,").0, 400);
    assert_eq!(ask(&peer, "label_replace(vector(1), \"a b\", \"\", \"\", \"*\")").0, 422);
    let lines = peer.wait("its queries are logged", 5_000, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON a line")).collect();
        (lines.len() == 2).then_some(lines)
    });
    assert_eq!(lines[0]["params"]["query"], "vector(41) + 1");
    assert_eq!(lines[0]["httpRequest"]["path"], "/api/v1/query");
    assert_eq!(lines[0]["httpRequest"]["clientIP"], "127.0.0.1");
    assert!(lines[0]["stats"]["timings"]["evalTotalTime"].is_number() && lines[0].get("error").is_none());
    // What is no query was never executed; what failed says why.
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.contains("regular expression")), "{}", lines[1]);

    let asked = begin(&peer, HEAVY);
    peer.wait("it is noted as running", 5_000, || {
        let active = std::fs::read_to_string(root.path().join("peer-0/data/queries.active")).unwrap_or_default();
        active.contains("quantile_over_time").then_some(())
    });
    peer.kill();
    drop(asked);
    let told = "These queries didn't finish in prometheus' last run:";
    assert!(!peer.log().contains(told));
    peer.start();
    peer.wait_ready();
    let log = peer.log();
    let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("not told in {log}"));
    assert!(
        line.contains("quantile_over_time(0.5, quantile_over_time(0.5, vector(time())[6h:1s])[300d:10s])"),
        "{line}"
    );
    assert!(line.contains("timestamp_sec"), "{line}");
    // Told once.
    assert_eq!(peer.terminate(), Some(0));
    peer.start();
    peer.wait_ready();
    assert_eq!(peer.log().matches(told).count(), 1);
}
