//! What is asked of senders.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use super::HEADERS_2;
use crate::support::write::{self, Arrived, Histogram, STALE, Series, ask, read_v1, read_v2, snappy};
use crate::support::{Peer, beside_other_meshes, get, wall};

/// How a receiver answers a request, by how many came before it.
type Answering = fn(usize) -> &'static str;

/// A request as it came: when, its head and its message.
type Got = (f64, String, Vec<u8>);

/// A receiver that keeps what it gets.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    fn start(answering: Answering) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
                let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
                while line != "\r\n" {
                    line.clear();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        break;
                    }
                    if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = text.trim().parse().expect("a number");
                    }
                    head.push_str(&line.to_ascii_lowercase());
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() || head.is_empty() {
                    continue;
                }
                let message = snap::raw::Decoder::new().decompress_vec(&body).expect("the block format of snappy");
                let mut kept = kept.lock().expect("nobody panicked");
                let answer = answering(kept.len());
                kept.push((wall(), head, message));
                drop(kept);
                let (status, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = (&stream).write_all((head + body).as_bytes());
            }
        });
        Receiver { address, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().expect("nobody panicked").clone()
    }

    /// All series that came by messages of 2.0.
    fn series(&self) -> Vec<Arrived> {
        let messages = self.got().into_iter().filter(|(_, head, _)| head.contains("write.v2.request"));
        messages.flat_map(|(_, _, message)| read_v2(&message).1).collect()
    }
}

const TAKEN: &str = "204 No Content\r\nX-Prometheus-Remote-Write-Samples-Written: 1";

/// What is scraped: each kind of metric, exemplars, names and values at the edges.
const EXPOSED: &str = "\
# HELP http_requests Total HTTP requests received
# TYPE http_requests counter
# UNIT http_requests requests
http_requests_total{method=\"GET\",status=\"200\"} 1000.0 # {trace_id=\"TRACE\",span_id=\"def456\"} 999.0
http_requests_total{method=\"POST\",status=\"201\"} 500.0
# TYPE temperature_celsius gauge
temperature_celsius 22.5
# HELP api_request_duration_seconds API request duration
# TYPE api_request_duration_seconds histogram
api_request_duration_seconds_bucket{le=\"0.1\"} 50 # {trace_id=\"TRACE\"} 0.05
api_request_duration_seconds_bucket{le=\"+Inf\"} 300
api_request_duration_seconds_sum 200.5
api_request_duration_seconds_count 300
# TYPE rpc_duration summary
rpc_duration{quantile=\"0.5\"} 0.05
rpc_duration_sum 50.0
rpc_duration_count 1000
# TYPE special unknown
special{type=\"nan\"} NaN
special{type=\"inf\"} +Inf
special{type=\"ninf\"} -Inf
special{type=\"zero\"} 0
special{type=\"large\"} 1.7976931348623157e+308
special{type=\"small\"} 2.2250738585072014e-308
special{type=\"exact\"} 0.123456789012345
# TYPE http:request:duration:seconds unknown
http:request:duration:seconds 0.5
# TYPE labelled unknown
labelled{aaa=\"1\",emoji=\"🚀测试\",path=\"/api?foo=bar&baz\",zzz=\"LONG\"} 42
# EOF
";

/// Answers every request with [`EXPOSED`] until it is told to say less.
fn exposed(gone: Arc<Mutex<bool>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let all = EXPOSED.replace("LONG", &"x".repeat(10_000));
    std::thread::spawn(move || {
        for (scrape, mut stream) in listener.incoming().flatten().enumerate() {
            // Each scrape has exemplars of its own.
            let all = all.replace("TRACE", &format!("abc{scrape}"));
            let _ = stream.read(&mut [0; 4096]);
            let less = "# TYPE temperature_celsius gauge\ntemperature_celsius 22.5\n# EOF\n";
            let body = if *gone.lock().expect("nobody panicked") { less } else { &all };
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    address
}

#[test]
fn the_sender_sends_as_the_lists_of_upstream_ask() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let gone = Arc::new(Mutex::new(false));
    let target = exposed(Arc::clone(&gone));
    let answering: [(&str, Answering); 16] = [
        ("204", |_| TAKEN),
        ("200", |_| "200 OK\r\nX-Prometheus-Remote-Write-Samples-Written: 1\n\nThis is not read."),
        ("first", |_| TAKEN),
        ("400", |_| "400 Bad Request\n\nError: Invalid label name '__invalid__'"),
        ("401", |_| "401 Unauthorized"),
        ("404", |_| "404 Not Found"),
        ("413", |_| "413 Payload Too Large"),
        ("429", |_| "429 Too Many Requests\r\nRetry-After: 1"),
        ("429 again", |before| if before == 0 { "429 Too Many Requests\r\nRetry-After: 2" } else { TAKEN }),
        ("500", |before| if before < 5 { "500 Internal Server Error" } else { TAKEN }),
        ("502", |before| if before < 1 { "502 Bad Gateway" } else { TAKEN }),
        ("503", |before| if before < 1 { "503 Service Unavailable\r\nRetry-After: 2" } else { TAKEN }),
        ("504", |before| if before < 1 { "504 Gateway Timeout" } else { TAKEN }),
        ("partly", |_| "400 Bad Request\r\nX-Prometheus-Remote-Write-Samples-Written: 2\n\nRejected 1 sample"),
        ("415", |before| if before < 1 { "415 Unsupported Media Type\n\nplease use 1.0" } else { "204 No Content" }),
        ("silent", |_| "204 No Content"),
    ];
    let receivers: BTreeMap<&str, Receiver> =
        answering.into_iter().map(|(name, answering)| (name, Receiver::start(answering))).collect();
    let mut config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms, external_labels: {{zone: eu}}}}\nscrape_configs:\n- job_name: test\n  \
         scrape_protocols: [OpenMetricsText1.0.0, PrometheusText0.0.4]\n  static_configs: [{{targets: ['{target}']}}]\nremote_write:\n"
    );
    for (name, receiver) in &receivers {
        let message = if *name == "first" { "prometheus.WriteRequest" } else { "io.prometheus.write.v2.Request" };
        let again = *name == "429 again";
        config.push_str(&format!(
            "- {{name: '{name}', url: 'http://{}/write', protobuf_message: {message}, send_exemplars: true, queue_config: \
             {{batch_send_deadline: 500ms, min_backoff: 30ms, max_backoff: 1s, retry_on_http_429: {again}}}, metadata_config: \
             {{send_interval: 1s}}}}\n",
            receiver.address
        ));
    }
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, config).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &path, &[])
        .with("--web.enable-remote-write-receiver")
        .with("--enable-feature=exemplar-storage")
        .with("--log.level=debug");
    peer.start();
    peer.wait_ready();
    let (ours, first) = (&receivers["204"], &receivers["first"]);
    peer.wait("each receiver was asked some times", 30_000, || {
        let asked = receivers.iter().filter(|(_, receiver)| receiver.got().len() >= 3).count();
        (asked == receivers.len()).then_some(())
    });
    check_messages(ours);
    check_values(&ours.series());
    check_first(first);

    // Refused for good: each scrape's samples went once, and the next followed.
    for name in ["400", "401", "404", "413", "429", "partly"] {
        let arrived = receivers[name].series();
        let mut times: Vec<i64> = arrived
            .iter()
            .filter(|series| series.label("__name__") == "temperature_celsius")
            .flat_map(|series| series.samples.iter().map(|sample| sample.0))
            .collect();
        let all = times.len();
        times.dedup();
        assert_eq!(times.len(), all, "{name} is not to be asked again");
        assert!(times.len() >= 2, "{name}: it goes on");
    }
    // Refused for now: the same message again, later each time, then what follows.
    for (name, again, wait) in
        [("500", 5, 0.02), ("502", 1, 0.02), ("503", 1, 1.9), ("504", 1, 0.02), ("429 again", 1, 1.9)]
    {
        let got = receivers[name].got();
        for number in 0..again {
            assert_eq!(got[number].2, got[number + 1].2, "{name}: the same message");
            let waited = got[number + 1].0 - got[number].0;
            assert!(waited >= wait * f64::from(1 << number.min(3)) * 0.9, "{name}: {waited} s before another try");
        }
        assert!(got.len() > again + 1 && got[again + 1].2 != got[again].2, "{name}: it goes on");
    }
    // One that does not know 2.0 gets the same as 1.0, and 1.0 from then on.
    let versions: Vec<bool> =
        receivers["415"].got().iter().map(|(_, head, _)| head.contains("remote-write-version: 2.0.0")).collect();
    assert!(versions[0] && versions[1..].iter().all(|is_two| !is_two), "{versions:?}");
    assert_eq!(read_v2(&receivers["415"].got()[0].2).1.len(), read_v1(&receivers["415"].got()[1].2).0.len());
    let log = peer.log();
    assert!(log.contains("Error: Invalid label name '__invalid__'"), "what a receiver says is logged as it is: {log}");
    assert!(log.contains("does it speak remote write 2.0?"), "{log}");
    let (_, page) = get(peer.web, "/metrics");
    let failed = |name: &str| {
        let begin = format!("prometheus_remote_storage_samples_failed_total{{remote_name=\"{name}\"");
        let line = page.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no {begin} in {page}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert!(failed("400") > 0.0 && failed("silent") > 0.0);
    assert_eq!(failed("204"), 0.0);

    // What came with a start goes on with it, floats and histograms.
    let since = Series::of(&[("__name__", "since_total"), ("job", "test")]).counting_since(0, 17.0, 60_000);
    let mut hist = Series::of(&[("__name__", "since_hist"), ("job", "test")]);
    hist.histograms.push((0, Histogram { positive: true, zero: true, ..Histogram::default() }, Some(60_000)));
    let now = (wall() * 1000.0) as i64;
    let pushed = ask(peer.web, "POST", "/api/v1/write", &HEADERS_2, &snappy(&write::v2(&[since, hist], now)));
    assert_eq!((pushed.status, pushed.written()), (204, [1, 1, 0]), "{}", pushed.body);
    peer.wait("the starts arrive", 10_000, || {
        let all = ours.series();
        let floats = all.iter().flat_map(|one| &one.samples).any(|sample| *sample == (now, 17.0, now - 60_000));
        let histograms = all.iter().filter(|one| one.label("__name__") == "since_hist").flat_map(|one| &one.histograms);
        let mut histograms = histograms.map(|one| (one.0, one.1, one.2, one.3, one.4));
        (floats && histograms.any(|one| one == (now, 24.0, 1.5, 0, now - 60_000))).then_some(())
    });

    // What is not exposed any more has ended.
    *gone.lock().expect("nobody panicked") = true;
    peer.wait("the markers arrive", 10_000, || {
        let ended = ours.series().into_iter().filter(|series| series.label("__name__") == "http_requests_total");
        ended.flat_map(|series| series.samples).any(|(_, value, _)| value.to_bits() == STALE).then_some(())
    });
    assert_eq!(peer.terminate(), Some(0));
}

/// Heads, symbols and the form of series, for all messages of 2.0.
fn check_messages(receiver: &Receiver) {
    for (_, head, message) in receiver.got() {
        assert!(head.starts_with("post /write http/1.1\r\n"), "{head}");
        for header in [
            "content-type: application/x-protobuf;proto=io.prometheus.write.v2.request\r\n",
            "content-encoding: snappy\r\n",
            "x-prometheus-remote-write-version: 2.0.0\r\n",
            "user-agent: promesh/",
        ] {
            assert!(head.contains(header), "{header} in {head}");
        }
        let (symbols, series) = read_v2(&message);
        assert_eq!(symbols[0], "", "the first symbol is empty");
        let mut sorted = symbols.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), symbols.len(), "each symbol once");
        assert!(!series.is_empty() && series.len() <= 2000);
        for one in &series {
            assert!(one.labels.is_sorted_by(|a, b| a.0 < b.0), "sorted, none twice: {:?}", one.labels);
            assert!(!one.label("__name__").is_empty() && one.labels.iter().all(|(name, _)| !name.is_empty()));
            assert!(
                !(one.samples.is_empty() && one.histograms.is_empty()),
                "an exemplar goes with its sample: {one:?}"
            );
            assert!(one.samples.is_empty() || one.histograms.is_empty(), "floats or histograms: {one:?}");
            assert!(one.samples.is_sorted_by_key(|sample| sample.0) && one.histograms.is_sorted_by(|a, b| a.0 <= b.0));
            assert_eq!(one.label("zone"), "eu");
            if !one.label("__name__").starts_with("scrape_") && one.label("__name__") != "up" {
                assert_eq!(one.label("job"), "test");
            }
            for (at, _, start) in &one.samples {
                assert!(((wall() * 1000.0) as i64 - at).abs() < 300_000, "ms of now: {at}");
                assert!(*start == 0 || (*start > 1_000_000_000_000 && start <= at), "{start}");
            }
        }
    }
}

/// That each line of the exposition arrived as it was.
fn check_values(all: &[Arrived]) {
    let find = |name: &str, label: (&str, &str)| -> &Arrived {
        let found = all.iter().find(|series| series.label("__name__") == name && series.label(label.0) == label.1);
        found.unwrap_or_else(|| panic!("{name}{label:?} did not arrive"))
    };
    let value = |name: &str, label: (&str, &str)| find(name, label).samples[0].1;
    for (name, label, expected) in [
        ("http_requests_total", ("method", "POST"), 500.0),
        ("temperature_celsius", ("", ""), 22.5),
        ("api_request_duration_seconds_bucket", ("le", "+Inf"), 300.0),
        ("api_request_duration_seconds_sum", ("", ""), 200.5),
        ("api_request_duration_seconds_count", ("", ""), 300.0),
        ("rpc_duration", ("quantile", "0.5"), 0.05),
        ("special", ("type", "inf"), f64::INFINITY),
        ("special", ("type", "ninf"), f64::NEG_INFINITY),
        ("special", ("type", "zero"), 0.0),
        ("special", ("type", "large"), f64::MAX),
        ("special", ("type", "small"), f64::MIN_POSITIVE),
        ("special", ("type", "exact"), 0.123_456_789_012_345),
        ("http:request:duration:seconds", ("", ""), 0.5),
        ("labelled", ("emoji", "🚀测试"), 42.0),
        ("labelled", ("path", "/api?foo=bar&baz"), 42.0),
        ("up", ("job", "test"), 1.0),
    ] {
        assert_eq!(value(name, label), expected, "{name}{label:?}");
    }
    assert!(value("special", ("type", "nan")).is_nan());
    assert_eq!(find("labelled", ("aaa", "1")).label("zzz").len(), 10_000);
    for (name, label, kind, help, unit) in [
        ("http_requests_total", ("method", "GET"), 1, "Total HTTP requests received", "requests"),
        ("temperature_celsius", ("", ""), 2, "", ""),
        ("api_request_duration_seconds_bucket", ("le", "0.1"), 3, "API request duration", ""),
        ("api_request_duration_seconds_count", ("", ""), 3, "API request duration", ""),
        ("rpc_duration_sum", ("", ""), 5, "", ""),
    ] {
        let (found, text, of) = &find(name, label).metadata;
        assert_eq!((*found, text.as_str(), of.as_str()), (kind, help, unit), "metadata of {name}");
    }
    for (name, label, value, count) in [
        ("http_requests_total", ("method", "GET"), 999.0, 2),
        ("api_request_duration_seconds_bucket", ("le", "0.1"), 0.05, 1),
    ] {
        let of_series =
            all.iter().filter(|series| series.label("__name__") == name && series.label(label.0) == label.1);
        let exemplars: Vec<_> = of_series.flat_map(|series| &series.exemplars).collect();
        assert!(!exemplars.is_empty(), "no exemplar of {name} arrived");
        for (labels, found, at) in exemplars {
            assert_eq!((labels.len(), *found), (count, value), "{name}: {labels:?}");
            assert!(labels.iter().any(|(name, value)| name == "trace_id" && value.starts_with("abc")), "{labels:?}");
            assert!(*at > 1_000_000_000_000, "ms: {at}");
        }
    }
}

fn check_first(receiver: &Receiver) {
    let (mut series, mut families) = (0, 0);
    for (_, head, message) in receiver.got() {
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
        assert!(
            head.contains("x-prometheus-remote-write-version: 0.1.0\r\n")
                && head.contains("content-encoding: snappy\r\n")
        );
        let (read, metadata) = read_v1(&message);
        assert!(read.iter().all(|one| one.histograms.is_empty() && one.labels.is_sorted_by(|a, b| a.0 < b.0)));
        (series, families) = (series + read.len(), families + metadata);
    }
    assert!(series > 20 && families >= 6, "{series} series, {families} families");
}
