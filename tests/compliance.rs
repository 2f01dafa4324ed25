//! What the lists of prometheus/compliance ask of receivers and senders of remote write, 1.0 and 2.0, as tables.
//!
//! The receiver is asked beside a real Prometheus where there is one: the same request, the same answer. The sender sends
//! to receivers that answer in every way, all at once.
//!
//! Source: prometheus/compliance `remotewrite/receiver`, `remotewrite/sender`; the specifications of remote write 1.0 and 2.0.

mod sender;

use crate::remote::Prometheus;
use crate::support::write::{self, Answer, Histogram, Proto, STALE, Series, V1, V2, ask, snappy};
use crate::support::{Peer, beside_other_meshes, escaped, get, pause, program, wall};

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
    let _shared = beside_other_meshes();
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
