//! Real exporters, scraped in every format that they offer.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Peer, beside_other_meshes, free_port, pause};

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command, port: u16) -> Option<Running> {
    let running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?);
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(running);
        }
        pause(50);
    }
    None
}

const PROTOCOLS: [&str; 5] =
    ["PrometheusText0.0.4", "PrometheusText1.0.0", "OpenMetricsText0.0.1", "OpenMetricsText1.0.0", "PrometheusProto"];

/// One job a protocol; all see the same families.
fn check(root: &Path, port: u16, protocols: &[&str], family: &str) {
    let config = root.join("prometheus.yml");
    let mut text = "global: {scrape_interval: 1s}\nscrape_configs:\n".to_owned();
    for protocol in protocols {
        text.push_str(&format!(
            "- {{job_name: '{protocol}', scrape_protocols: ['{protocol}'], static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
        ));
    }
    std::fs::write(&config, text).expect("written");
    let mut peer = Peer::new(root, "peer-0", &config, &[]);
    peer.start();
    peer.wait_ready();
    let count = protocols.len();
    peer.wait("all were scraped", 30_000, || (peer.query("up == 1").len() == count).then_some(()));
    pause(2_500);
    assert_eq!(peer.query("up == 1").len(), count);
    let families = |protocol: &str| {
        let query = format!("group by (__name__) ({{job=\"{protocol}\",__name__!~\"up|scrape_.*|.*_created\"}})");
        let names = peer.query(&query).iter().map(|one| one["metric"]["__name__"].to_string()).collect::<Vec<_>>();
        names.into_iter().collect::<std::collections::BTreeSet<String>>()
    };
    let first = families(protocols[0]);
    assert!(first.iter().any(|name| name.contains(family)), "{first:?}");
    for protocol in protocols {
        assert_eq!(families(protocol), first, "{protocol}");
    }
}

#[test]
fn a_real_node_exporter_is_scraped_in_every_format() {
    let port = free_port();
    let mut command = Command::new("prometheus-node-exporter");
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let Some(_exporter) = start(command, port) else {
        println!("not run: no prometheus-node-exporter on the PATH");
        return;
    };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    check(root.path(), port, &PROTOCOLS, "node_cpu_seconds_total");
}

const PYTHON: &str = "
import sys, time
from prometheus_client import Counter, Gauge, Histogram, Summary, Info, Enum, start_http_server
requests = Counter('requests', 'Requests.', ['path'])
Gauge('temperature', 'Degrees.').set(21.5)
latency = Histogram('latency_seconds', 'Latency.', buckets=(0.1, 0.5, 1))
Summary('size_bytes', 'Size.').observe(12)
Info('build', 'Build.').info({'version': '1'})
Enum('state', 'State.', states=['up', 'down']).state('up')
start_http_server(int(sys.argv[1]), addr='127.0.0.1')
while True:
    requests.labels('/a').inc(exemplar={'trace_id': 'abc'})
    latency.observe(0.3, exemplar={'trace_id': 'def'})
    time.sleep(0.1)
";

#[test]
fn pythons_client_library_is_scraped_in_every_format() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let port = free_port();
    let mut command = Command::new(python);
    command.args(["-c", PYTHON, &port.to_string()]);
    let Some(_exporter) = start(command, port) else {
        println!("not run: no Python with prometheus_client (PYTHON names one)");
        return;
    };
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    check(root.path(), port, &PROTOCOLS[..4], "latency_seconds_bucket");
}
