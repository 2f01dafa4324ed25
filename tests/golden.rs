//! The answers that a real Prometheus 3.5.3 gave, over HTTP with default switches, as ../shared/conformance/README.md
//! says: loaded and compared by the tools there. Needs them and a Python with `yaml` and `cramjam` (`PROMESH_PYTHON`
//! names another than `python3`); says so when they are not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Peer, beside_other_meshes};

/// Where Prometheus 3.14 answers otherwise than 3.5.3, and by which change: there 3.14 is followed.
const CHANGED_SINCE: [(&str, &str); 2] = [
    (
        "histogram_quantile(0.9, demo_memory_usage_bytes)",
        "3.7.0, #16794: with names dropped at once, remarks on bucket labels name no metric",
    ),
    (
        "increase(extra_native_gauge[3m:20s])",
        "3.6.0, #16879: the counter reset hints of histograms are forgotten in subqueries",
    ),
];

fn shared() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    shared.join("conformance/promql_compliance/golden.jsonl.gz").exists().then_some(shared)
}

#[test]
fn recorded_answers_of_prometheus_are_given() {
    let python = std::env::var("PROMESH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let Some(shared) = shared() else {
        eprintln!("skipped: ../shared/conformance is not here");
        return;
    };
    if !Command::new(&python).args(["-c", "import yaml, cramjam"]).output().is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: {python} has no yaml and cramjam");
        return;
    }
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("empty.yml");
    std::fs::write(&config, "").expect("writes");
    let mut peer = Peer::new(root.path(), "golden", &config, &[])
        .with("--storage.tsdb.retention.time=10y")
        .with("--web.enable-remote-write-receiver")
        .with("--enable-feature=native-histograms,promql-experimental-functions");
    peer.start();
    peer.wait_ready();
    let url = format!("http://127.0.0.1:{}", peer.web);
    let tool = |name: &str, arguments: &[&str]| {
        let script = shared.join("tools").join(name);
        Command::new(&python).arg(script).args(arguments).output().expect("the tool runs")
    };
    let loaded = tool("promql_load.py", &["--url", &url, "--end", "1767225600"]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let golden = shared.join("conformance/promql_compliance/golden.jsonl.gz");
    let report = root.path().join("report.json");
    let (golden, report_path) = (golden.to_string_lossy(), report.to_string_lossy());
    let arguments =
        ["--golden", &golden, "--test", &url, "--annotations", "2", "--errors", "1", "--json", &report_path];
    let compared = tool("promql_diff.py", &arguments);
    let text = String::from_utf8_lossy(&compared.stdout);
    let report: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
    let cases = report["cases"].as_array().expect("a list of cases");
    assert!(cases.len() > 1200, "{text}");
    let failed = cases.iter().filter(|case| case["verdict"] != "PASS");
    let mut failed: Vec<&str> = failed.filter_map(|case| case["query"].as_str()).collect();
    let mut expected: Vec<&str> = CHANGED_SINCE.iter().map(|(query, _)| *query).collect();
    expected.sort_unstable();
    failed.sort_unstable();
    assert_eq!(failed, expected, "{text}");
}
