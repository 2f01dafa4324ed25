//! What the lists of prometheus/compliance ask of receivers and senders of remote write, 1.0 and 2.0, as tables.
//!
//! The receiver is asked beside a real Prometheus where there is one: the same request, the same answer. The sender sends
//! to receivers that answer in every way, all at once.
//!
//! Source: prometheus/compliance `remotewrite/receiver`, `remotewrite/sender`; the specifications of remote write 1.0 and 2.0.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use crate::remote::Prometheus;
use crate::support::write::{
    self, Answer, Arrived, Histogram, Proto, STALE, Series, V1, V2, ask, read_v1, read_v2, snappy,
};
use crate::support::{Peer, escaped, get, one_mesh_at_a_time, pause, program, wall};

/// What is asked of a receiver, and what it must answer.
struct Case {
    name: String,
    headers: Vec<(&'static str, &'static str)>,
    /// The body for an instant in ms.
    body: Box<dyn Fn(i64) -> Vec<u8>>,
    status: u16,
    /// Samples, histograms, exemplars.
    written: [u64; 3],
    /// What Prometheus 3.5.3 answers instead, and why that differs.
    theirs: Option<(u16, [u64; 3], &'static str)>,
}

/// Why 3.5.3 says 500: it was mended in 3.8.
const FIVE_HUNDRED: &str = "3.5.3 takes a bad histogram for its own fault";
const HEADERS_2: [(&str, &str); 3] =
    [("Content-Type", V2), ("Content-Encoding", "snappy"), ("X-Prometheus-Remote-Write-Version", "2.0.0")];
const HEADERS_1: [(&str, &str); 3] =
    [("Content-Type", V1), ("Content-Encoding", "snappy"), ("X-Prometheus-Remote-Write-Version", "0.1.0")];

fn case(name: impl Into<String>, series: Vec<Series>, status: u16, written: [u64; 3]) -> Case {
    let body = Box::new(move |now| snappy(&write::v2(&series, now)));
    Case { name: name.into(), headers: HEADERS_2.to_vec(), body, status, written, theirs: None }
}

impl Case {
    /// The same by 1.0, which says nothing of what was written.
    fn by_1(name: impl Into<String>, series: Vec<Series>, status: u16) -> Case {
        let body = Box::new(move |now| snappy(&write::v1(&series, now)));
        Case { name: name.into(), headers: HEADERS_1.to_vec(), body, status, written: [0; 3], theirs: None }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Case {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    fn body(mut self, body: impl Fn(i64) -> Vec<u8> + 'static) -> Case {
        self.body = Box::new(body);
        self
    }

    fn theirs(mut self, status: u16, written: [u64; 3], why: &'static str) -> Case {
        self.theirs = Some((status, written, why));
        self
    }
}

fn floats() -> Vec<Case> {
    let mut cases = Vec::new();
    let values = [1.0, f64::from_bits(STALE), f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for (value, shown) in values.into_iter().zip(["1.0", "StaleNaN", "NaN", "Inf", "-Inf"]) {
        let up = |instance: &str| Series::of(&[("__name__", "up"), ("instance", instance), ("job", "testjob")]);
        let nameless = |instance: &str| Series::of(&[("instance", instance), ("job", "testjob")]).at(0, value);
        for (what, series, taken) in [
            ("simple metric", Series::named("up"), true),
            ("several labels", up("localhost:9090"), true),
            ("line ends", Series::of(&[("__name__", "up"), ("instance", "i"), ("job", "test\njob\n")]), true),
            ("dots", Series::of(&[("__name__", "resource.cpu.usage"), ("job.name", "testjob")]), true),
            ("spaces", Series::of(&[("__name__", "resource cpu usage"), ("job name", "testjob")]), true),
            ("no name", Series::of(&[("instance", "localhost:9090"), ("job", "testjob")]), false),
            ("no labels", Series::default(), false),
        ] {
            let (status, samples) = if taken { (204, 1) } else { (400, 0) };
            cases.push(case(format!("{shown}: {what}"), vec![series.at(0, value)], status, [samples, 0, 0]));
        }
        let four = |first: Series| vec![first, up("b").at(0, value), up("c").at(0, value), up("d").at(0, value)];
        cases.push(case(format!("{shown}: four"), four(up("a").at(0, value)), 204, [4, 0, 0]));
        cases.push(case(format!("{shown}: one of four without a name"), four(nameless("a")), 400, [3, 0, 0]));
        let none = ["a", "b", "c", "d"].map(nameless).to_vec();
        cases.push(case(format!("{shown}: four without a name"), none, 400, [0; 3]));
    }
    let counter = Series::of(&[("__name__", "http_requests_total"), ("job", "api")]);
    let since = counter.clone().counting_since(0, 100.0, 3_600_000);
    cases.push(case("a counter that says since when", vec![since], 204, [1, 0, 0]));
    let restarted = counter.counting_since(20, 200.0, 3_600_000).counting_since(10, 1.0, 15);
    cases.push(case("a counter that restarted within the request", vec![restarted], 204, [2, 0, 0]));
    cases.push(case("two instants of one series", vec![Series::named("two").at(10, 1.0).at(0, 2.0)], 204, [2, 0, 0]));
    cases.push(case(
        "the same series twice",
        vec![Series::named("twice").at(10, 1.0), Series::named("twice").at(0, 2.0)],
        204,
        [2, 0, 0],
    ));
    let mixed = vec![Series::named("old_metric").at(3_600_000, 1.0), Series::named("new_metric").at(0, 2.0)];
    cases.push(case("an hour ago and now", mixed, 204, [2, 0, 0]));
    let many: Vec<Series> = (0..50)
        .map(|n| Series::named(&format!("counter_metric_{n}")).at(0, 1.0).exemplar(&[("trace_id", "a")], 1.0))
        .collect();
    cases.push(case("fifty of everything", many, 204, [50, 0, 50]));
    cases
}

fn histograms() -> Vec<Case> {
    let all = Histogram { positive: true, negative: true, zero: true, ..Histogram::default() };
    let named = |name: &str, is: &Histogram| Series::named(name).histogram(is.clone());
    let kinds = [
        ("positive, negative and zero", all.clone()),
        ("positive and zero", Histogram { negative: false, ..all.clone() }),
        ("negative", Histogram { negative: true, ..Histogram::default() }),
        ("zero alone", Histogram { zero: true, ..Histogram::default() }),
        ("nothing at all", Histogram::default()),
        ("buckets of its own", Histogram { custom: true, ..Histogram::default() }),
    ];
    let mut cases: Vec<Case> = kinds
        .iter()
        .enumerate()
        .map(|(n, (what, is))| {
            case(format!("histogram: {what}"), vec![named(&format!("hist_{n}"), is)], 204, [0, 1, 0])
        })
        .collect();
    let bad = Histogram { positive: true, bad_count: true, ..Histogram::default() };
    cases.push(case("histogram: a wrong count", vec![named("bad_hist", &bad)], 400, [0; 3]).theirs(
        500,
        [0; 3],
        FIVE_HUNDRED,
    ));
    let two = vec![named("bad_hist", &bad), named("good_hist", &all)];
    cases.push(case("histogram: one wrong count of two", two, 400, [0, 1, 0]).theirs(500, [0; 3], FIVE_HUNDRED));
    let mut since = Series::named("request_duration_seconds");
    since.histograms.push((0, all.clone(), Some(1_800_000)));
    cases.push(case("histogram: says since when", vec![since], 204, [0, 1, 0]));
    let whole = named("response_size_bytes", &all)
        .metadata(3, "Sizes.", "bytes")
        .exemplar(&[("trace_id", "abc"), ("user_id", "u")], 1.5);
    cases.push(case("histogram with metadata and an exemplar", vec![whole], 204, [0, 1, 1]));
    cases
}

fn exemplars_and_metadata() -> Vec<Case> {
    let mut cases = Vec::new();
    let sample = |name: &str| Series::named(name).at(0, 1.0);
    let one: [(&str, &'static [(&str, &str)]); 6] = [
        ("a trace", &[("trace_id", "abc123def456")]),
        ("a trace and a span", &[("trace_id", "xyz789"), ("span_id", "span123")]),
        ("no trace", &[("user_id", "user123")]),
        ("three labels", &[("endpoint", "/login"), ("trace_id", "trace456"), ("user", "admin")]),
        ("no labels", &[]),
        ("signs beyond ASCII", &[("trace_id", "unicode_trace_测试")]),
    ];
    for (n, (what, labels)) in one.into_iter().enumerate() {
        let series = sample(&format!("with_exemplar_{n}")).exemplar(labels, 0.05);
        cases.push(case(format!("exemplar: {what}"), vec![series], 204, [1, 0, 1]));
    }
    for (n, value) in [0.0, -123.456, 1e10, 1e-10, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().enumerate() {
        let series = sample(&format!("special_exemplar_{n}")).exemplar(&[("trace_id", "special")], value);
        cases.push(case(format!("exemplar: {value}"), vec![series], 204, [1, 0, 1]));
    }
    let nameless = Series::of(&[("job", "test")]).at(0, 1.0).exemplar(&[("trace_id", "t")], 1.0);
    cases.push(case("exemplar: its series has no name", vec![nameless], 400, [0; 3]));
    let empty = Series::of(&[("__name__", "")]).at(0, 1.0).exemplar(&[("trace_id", "t")], 1.0);
    cases.push(case("exemplar: its series' name is empty", vec![empty], 400, [0; 3]));
    let lonely = Series::named("orphan_metric").exemplar(&[("trace_id", "t")], 42.0);
    let lonely = case("exemplar: nothing beside it", vec![lonely], 204, [0, 0, 1]);
    cases.push(lonely.theirs(204, [0; 3], "3.5.3 keeps no exemplar of a series that it does not know yet"));
    for (kind, name) in
        ["unspecified", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"]
            .into_iter()
            .enumerate()
    {
        let series = sample(&format!("kind_{name}")).metadata(kind as u64, "What it is.", "bytes/sec");
        cases.push(case(format!("metadata: {name}"), vec![series], 204, [1, 0, 0]));
    }
    cases.push(case("metadata: no help, no unit", vec![sample("simple_counter").metadata(1, "", "")], 204, [1, 0, 0]));
    let lines = "Test metric with\nline ends and \"quotes\": äöü";
    cases.push(case(
        "metadata: line ends in the help",
        vec![sample("test_metric").metadata(2, lines, "bytes")],
        204,
        [1, 0, 0],
    ));
    let nameless = Series::of(&[("job", "test")]).at(0, 1.0).metadata(1, "h", "u");
    cases.push(case("metadata: its series has no name", vec![nameless], 400, [0; 3]));
    let alone = Series::named("orphan_metric").metadata(1, "Alone.", "count");
    cases.push(case("metadata: nothing beside it", vec![alone], 204, [0; 3]));
    cases
}

/// What is wrong with the request itself, or with its series.
fn refusals() -> Vec<Case> {
    let up = || vec![Series::named("up").at(0, 1.0)];
    let mut cases = Vec::new();
    for kind in [
        "application/json",
        "image/png",
        "application/x-protobuf;proto=prometheus.WriteRequest2",
        "application/x-protobuf;proto",
    ] {
        cases.push(case(format!("content type {kind}"), up(), 415, [0; 3]).with("Content-Type", kind));
    }
    for encoding in ["gzip", "deflate", "zstd"] {
        cases.push(case(format!("content encoding {encoding}"), up(), 415, [0; 3]).with("Content-Encoding", encoding));
    }
    cases.push(case("no content encoding", up(), 204, [1, 0, 0]).with("Content-Encoding", ""));
    cases.push(case("no version", up(), 204, [1, 0, 0]).with("X-Prometheus-Remote-Write-Version", ""));
    cases.push(case("a broken body", up(), 400, [0; 3]).body(|_| b"0broken".to_vec()));
    cases.push(case("no body", up(), 400, [0; 3]).body(|_| Vec::new()));
    cases.push(case("an empty message", Vec::new(), 204, [0; 3]));
    cases.push(case("half a message", up(), 400, [0; 3]).body(|now| {
        let whole = write::v2(&[Series::named("up").at(0, 1.0)], now);
        snappy(&whole[..whole.len() - 5])
    }));
    let odd = |refs: &'static [u64]| {
        move |now: i64| {
            let mut message = Proto::default();
            ["", "__name__", "odd", "job", "x"].iter().for_each(|symbol| message.bytes(4, symbol.as_bytes()));
            let (mut series, mut sample) = (Proto::default(), Proto::default());
            series.packed(1, refs.iter().copied());
            sample.double(1, 1.0);
            sample.number(2, now as u64);
            series.bytes(2, &sample.0);
            message.bytes(5, &series.0);
            snappy(&message.0)
        }
    };
    let panics = "3.5.3 panics, and hangs up";
    let bad = case("references: an odd number", up(), 400, [0; 3]).body(odd(&[1, 2, 3]));
    cases.push(bad.theirs(0, [0; 3], panics));
    let bad = case("references: beyond the symbols", up(), 400, [0; 3]).body(odd(&[1, 2, 3, 9]));
    cases.push(bad.theirs(0, [0; 3], panics));
    cases.push(case("references: labels out of order", up(), 204, [1, 0, 0]).body(odd(&[3, 4, 1, 2])));
    let pair = |more: (&str, &str)| Series::of(&[("__name__", "pairs"), ("job", "a"), more]).at(0, 1.0);
    cases.push(case("a label twice", vec![pair(("job", "b"))], 400, [0; 3]));
    cases.push(case("an empty label name", vec![pair(("", "b"))], 400, [0; 3]));
    cases.push(case("an empty label value", vec![pair(("zone", ""))], 204, [1, 0, 0]));
    cases.push(case("too far ahead", vec![Series::named("ahead").at(-3_600_000, 1.0)], 400, [0; 3]));
    cases.push(case("a little ahead", vec![Series::named("little_ahead").at(-60_000, 1.0)], 204, [1, 0, 0]));
    cases.push(case("in order", vec![Series::named("ordered").at(0, 1.0)], 204, [1, 0, 0]));
    let late = vec![Series::named("ordered").at(30_000, 2.0), Series::named("beside").at(0, 1.0)];
    cases.push(case("out of order, and one in order", late, 400, [1, 0, 0]));
    let twice = vec![Series::named("same_instant").at(0, 1.0), Series::named("same_instant").at(0, 2.0)];
    let twice = case("another value for the same instant", twice, 400, [1, 0, 0]);
    cases.push(twice.theirs(
        204,
        [2, 0, 0],
        "3.5.3 looks at what was there before the request, and drops the second silently",
    ));
    let repeated = vec![Series::named("repeated").at(0, 1.0), Series::named("repeated").at(0, 1.0)];
    cases.push(case("the same value for the same instant", repeated, 204, [2, 0, 0]));
    cases.push(case("GET", Vec::new(), 405, [0; 3]));

    cases.push(Case::by_1(
        "1.0: samples",
        vec![Series::named("one_a").at(0, 1.0), Series::named("one_b").at(0, 2.0)],
        204,
    ));
    cases.push(
        Case::by_1("1.0: no version, no type, no encoding", vec![Series::named("one_a").at(0, 1.0)], 204)
            .with("Content-Type", "")
            .with("Content-Encoding", "")
            .with("X-Prometheus-Remote-Write-Version", ""),
    );
    cases.push(
        Case::by_1("1.0: by its full name", vec![Series::named("one_a").at(0, 1.0)], 204)
            .with("Content-Type", "application/x-protobuf;proto=prometheus.WriteRequest"),
    );
    cases.push(Case::by_1("1.0: a broken body", Vec::new(), 400).body(|_| vec![0xff; 20]));
    let histogram = Histogram { positive: true, zero: true, ..Histogram::default() };
    cases.push(Case::by_1("1.0: a histogram", vec![Series::named("one_hist").histogram(histogram)], 204));
    cases.push(Case::by_1(
        "1.0: an exemplar",
        vec![Series::named("one_ex").at(0, 1.0).exemplar(&[("trace_id", "x")], 1.0)],
        204,
    ));
    cases.push(Case::by_1("1.0: metadata", vec![Series::named("one_meta").at(0, 1.0).metadata(1, "h", "u")], 204));
    cases.push(Case::by_1("1.0: in order", vec![Series::named("one_ordered").at(0, 1.0)], 204));
    cases.push(Case::by_1("1.0: out of order", vec![Series::named("one_ordered").at(30_000, 1.0)], 400));
    cases.push(Case::by_1("1.0: too far ahead", vec![Series::named("one_ahead").at(-3_600_000, 1.0)], 400));
    cases.push(Case::by_1("1.0: no name", vec![Series::of(&[("job", "x")]).at(0, 1.0)], 204));
    cases
}

fn outcome(port: u16, case: &Case, now: i64) -> (u16, [u64; 3], Answer) {
    let method = if case.name == "GET" { "GET" } else { "POST" };
    let answer = ask(port, method, "/api/v1/write", &case.headers, &(case.body)(now));
    (answer.status, answer.written(), answer)
}

#[test]
fn the_receiver_answers_as_the_lists_of_upstream_and_a_real_prometheus_do() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("prometheus.yml");
    std::fs::write(&config, "scrape_configs: []\n").expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[])
        .with("--web.enable-remote-write-receiver")
        .with("--enable-feature=exemplar-storage,native-histograms");
    peer.start();
    peer.wait_ready();
    let real = program("prometheus").map(|binary| Prometheus::start(&binary, root.path(), "scrape_configs: []\n"));
    let cases: Vec<Case> =
        [floats(), histograms(), exemplars_and_metadata(), refusals()].into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for case in &cases {
        // Each case is later than the one before it, whatever the series.
        pause(45);
        let now = (wall() * 1000.0) as i64;
        let (status, written, answer) = outcome(peer.web, case, now);
        if (status, written) != (case.status, case.written) {
            wrong.push(format!(
                "{}: {status} {written:?}, not {} {:?}: {}",
                case.name, case.status, case.written, answer.body
            ));
        }
        if !case.headers.iter().any(|(_, value)| *value == V2)
            && answer.headers.keys().any(|name| name.ends_with("-written"))
        {
            wrong.push(format!("{}: 1.0 knows no headers of what was written", case.name));
        }
        if let Some(real) = &real {
            let (status, written, answer) = outcome(real.port, case, now);
            let (expected, counts) =
                case.theirs.map_or((case.status, case.written), |(status, written, _)| (status, written));
            if (status, written) != (expected, counts) {
                wrong.push(format!(
                    "{}: a real Prometheus says {status} {written:?}, not {expected} {counts:?}: {}",
                    case.name, answer.body
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));

    // What was written is there.
    let all = |port: u16| -> Vec<String> {
        let query = escaped("{__name__=~\"ordered|beside|same_instant|hist_.|one_.*|two|twice|special_exemplar_0\"}");
        let (_, body) = get(port, &format!("/api/v1/series?match[]={query}"));
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let mut names: Vec<String> = answer["data"].as_array().into_iter().flatten().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert!(all(peer.web).len() >= 17, "{:?}", all(peer.web));
    let mut ports = vec![peer.web];
    ports.extend(real.as_ref().map(|real| real.port));
    for port in &ports {
        assert_eq!(all(*port), all(peer.web));
        let (_, exemplars) = get(*port, "/api/v1/query_exemplars?query=with_exemplar_3&start=0&end=9999999999");
        assert!(exemplars.contains("trace456") && exemplars.contains("/login"), "{port}: {exemplars}");
        // A series whose last sample says that it ended is not there any more.
        let (_, ended) =
            get(*port, &format!("/api/v1/query?query={}", escaped("count(up{job=\"testjob\",instance=\"d\"})")));
        assert!(ended.contains("\"1\""), "{port}: {ended}");
    }
}

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
    let _alone = one_mesh_at_a_time();
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

#[test]
fn a_remote_read_of_too_many_samples_is_refused_with_the_limits_name() {
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("prometheus.yml");
    std::fs::write(&config, "scrape_configs: []\n").expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[])
        .with("--web.enable-remote-write-receiver")
        .with("--storage.remote.read-sample-limit=5")
        .with("--storage.tsdb.no-lockfile")
        .with("--enable-feature=created-timestamp-zero-ingestion");
    peer.start();
    peer.wait_ready();
    let now = (wall() * 1000.0) as i64;
    for (name, count) in [("few", 5), ("many", 6)] {
        let series = (0..count).fold(Series::named(name), |series, n| series.at(10_000 - n * 1000, 1.0));
        let pushed = ask(peer.web, "POST", "/api/v1/write", &HEADERS_1, &snappy(&write::v1(&[series], now)));
        assert_eq!(pushed.status, 204, "{}", pushed.body);
    }
    let read = |name: &str| {
        let (mut matcher, mut query, mut request) = (Proto::default(), Proto::default(), Proto::default());
        matcher.bytes(2, b"__name__");
        matcher.bytes(3, name.as_bytes());
        query.number(1, (now - 60_000) as u64);
        query.number(2, now as u64);
        query.bytes(3, &matcher.0);
        request.bytes(1, &query.0);
        ask(peer.web, "POST", "/api/v1/read", &HEADERS_1, &snappy(&request.0))
    };
    assert_eq!(read("few").status, 200);
    let refused = read("many");
    assert_eq!(refused.status, 400);
    assert!(
        refused.body.contains("exceeded sample limit (5) of --storage.remote.read-sample-limit"),
        "{}",
        refused.body
    );
    // What does nothing is said.
    let log = peer.log();
    assert!(log.contains("--storage.tsdb.no-lockfile has no effect"), "{log}");
    assert!(log.contains("created-timestamp-zero-ingestion") && log.contains("no zero is put in"), "{log}");
}
