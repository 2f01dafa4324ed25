use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_client::HttpClient;
use promesh_config::prometheus::load_text;
use promesh_config::source::MemorySource;
use promesh_discovery::TargetGroup;
use promesh_model::ingest::{IngestError, SeriesIndex, SeriesRef};
use promesh_model::time::Clock;
use promesh_model::{Labels, Monotonic, Now, Timestamp};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Numbers for series, in the order they come.
#[derive(Default)]
struct Index(Mutex<Vec<Labels>>);

impl SeriesIndex for Index {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, IngestError> {
        let mut known = self.0.lock().unwrap();
        let position = known.iter().position(|present| present == labels).unwrap_or_else(|| {
            known.push(labels.clone());
            known.len() - 1
        });
        Ok(SeriesRef(position as u64 + 1))
    }
    fn labels(&self, series: SeriesRef) -> Option<Labels> {
        self.0.lock().unwrap().get(series.0 as usize - 1).cloned()
    }
}

/// Each look at the clock is 250 ms later than the one before.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Now {
        let ticks = self.0.fetch_add(1, Ordering::SeqCst);
        Now { monotonic: Monotonic(ticks * 250_000_000), wall: Timestamp(ticks as i64 * 250) }
    }
}

/// A target that answers whatever it was last told to.
struct Exporter {
    address: String,
    answer: Arc<Mutex<(String, Vec<u8>)>>,
    asked: Arc<Mutex<String>>,
}

impl Exporter {
    async fn start() -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answer = Arc::new(Mutex::new((String::new(), Vec::new())));
        let asked = Arc::new(Mutex::new(String::new()));
        let (told, heard) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (told, heard) = (Arc::clone(&told), Arc::clone(&heard));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let mut piece = [0; 4096];
                    while let Ok(count @ 1..) = socket.read(&mut piece).await {
                        request.extend_from_slice(&piece[..count]);
                        if !request.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        *heard.lock().unwrap() = String::from_utf8_lossy(&request).into_owned();
                        request.clear();
                        let (head, body) = told.lock().unwrap().clone();
                        let head = format!("HTTP/1.1 {head}Content-Length: {}\r\n\r\n", body.len());
                        if socket.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Exporter { address, answer, asked }
    }

    fn says(&self, body: &str) {
        self.answers("200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n", body.as_bytes());
    }

    fn answers(&self, head: &str, body: &[u8]) {
        *self.answer.lock().unwrap() = (head.to_owned(), body.to_vec());
    }

    /// A loop for this exporter with a job's further settings.
    fn scrape_loop(&self, settings: &str) -> ScrapeLoop {
        let text = format!("scrape_configs:\n- job_name: j\n{settings}");
        let loaded = load_text("p.yml", text.as_bytes(), Path::new("/"), &MemorySource::default()).unwrap();
        let job = Arc::new(loaded.jobs[0].clone());
        let shared = Labels::from_pairs([("instance", "i")]);
        let group = TargetGroup::of_addresses("0", [self.address.as_str()], &shared);
        let populated = targets::from_groups(&job, [&group], "peer:9090");
        assert!(populated.failed.is_empty(), "{:?}", populated.failed);
        let client = HttpClient::new(&job.http).unwrap();
        ScrapeLoop::new(populated.targets[0].clone(), client, ScrapeOptions::default())
    }
}

/// Each sample of a batch as a line.
fn shown(result: &ScrapeResult, index: &Index) -> String {
    let mut out = String::new();
    if let Some(why) = &result.failed {
        out.push_str(&format!("failed: {why}\n"));
    }
    for (position, (series, value)) in result.batch.series.iter().zip(&result.batch.values).enumerate() {
        let labels = index.labels(*series).unwrap();
        out.push_str(&format!("{} {value}", labels.as_metric()));
        let own = result.batch.timestamps.iter().find(|(at, _)| *at == position as u32);
        if let Some((_, timestamp)) = own {
            out.push_str(&format!(" @{}", timestamp.0));
        }
        out.push('\n');
    }
    out
}

#[tokio::test]
async fn a_scrape_gives_the_targets_samples_and_the_synthetic_ones() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("");
    exporter.says(
        "# TYPE a counter\n# HELP a Words.\na{instance=\"other\",x=\"y\"} 1\na{x=\"z\"} 2 1000\na{x=\"z\"} 3 1000\n",
    );
    let result = scrape_loop.scrape(Timestamp(5000), &index, &clock).await;
    assert_eq!(result.batch.slot, Timestamp(5000));
    expect_test::expect![[r#"
        a{exported_instance="other", instance="i", job="j", x="y"} 1
        a{instance="i", job="j", x="z"} 2 @1000
        up{instance="i", job="j"} 1
        scrape_duration_seconds{instance="i", job="j"} 0.25
        scrape_samples_scraped{instance="i", job="j"} 3
        scrape_samples_post_metric_relabeling{instance="i", job="j"} 3
        scrape_series_added{instance="i", job="j"} 3
    "#]]
    .assert_eq(&shown(&result, &index));
    assert_eq!(result.samples_repeated, 1);
    assert_eq!(scrape_loop.metadata()[0].1.help, "Words.");
    assert_eq!(result.batch.metadata.len(), 1);
    let again = scrape_loop.scrape(Timestamp(6000), &index, &clock).await;
    assert_eq!(again.batch.metadata, []);
    exporter.says("# TYPE a counter\n# HELP a Other words.\n# TYPE b gauge\nb 1\n");
    let changed = scrape_loop.scrape(Timestamp(7000), &index, &clock).await;
    assert_eq!(changed.batch.metadata.len(), 2);
    let asked = exporter.asked.lock().unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /metrics http/1.1\r\n") && asked.contains("accept-encoding: gzip\r\n"), "{asked}");
    assert!(asked.contains("x-prometheus-scrape-timeout-seconds: 10\r\n"), "{asked}");
}

#[test]
fn a_scrape_may_run_on_any_thread() {
    fn check<F: Future + Send>(
        _: impl FnOnce(&'static mut ScrapeLoop, &'static dyn SeriesIndex, &'static dyn Clock) -> F,
    ) {
    }
    check(|scrape_loop, index, clock| scrape_loop.scrape(Timestamp(0), index, clock));
}

#[tokio::test]
async fn lines_that_move_vanish_and_come_keep_their_series() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("");
    let lines: Vec<String> = (0..50).map(|line| format!("m{{l=\"{line}\"}} ")).collect();
    let mut check = async |order: &[usize], added: usize| {
        let body: String = order.iter().map(|line| format!("{}{line}\n", lines[*line])).collect();
        exporter.says(&body);
        let result = scrape_loop.scrape(Timestamp(0), &index, &clock).await;
        assert_eq!(result.failed, None);
        assert_eq!(result.series_added, added);
        for (series, value) in result.batch.series[..result.synthetic_from].iter().zip(&result.batch.values) {
            assert_eq!(index.labels(*series).unwrap().value("l"), value.to_string());
        }
        assert_eq!(result.synthetic_from, order.len());
    };
    let all: Vec<usize> = (0..40).collect();
    check(&all, 40).await;
    check(&all, 0).await;
    let reversed: Vec<usize> = (0..40).rev().collect();
    check(&reversed, 0).await;
    let even: Vec<usize> = (0..40).step_by(2).collect();
    check(&even, 0).await;
    let more: Vec<usize> = (0..50).collect();
    check(&more, 30).await;
    check(&[], 0).await;
}

#[tokio::test]
async fn failures_give_only_the_synthetic_series_and_say_why() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let text = "200 OK\r\nContent-Type: text/plain\r\n";
    for (settings, head, body, why) in [
        ("", "503 Service Unavailable\r\n", "", "server returned HTTP status 503 Service Unavailable"),
        ("", text, "a 1\nb{ 2\n", "expected label name at line 2: \"b{ 2\""),
        ("", text, "a{x=\"1\",x=\"2\"} 1\n", "label name \"x\" is not unique: invalid sample"),
        ("  sample_limit: 1\n", text, "a 1\nb 2\n", "sample limit exceeded"),
        ("  body_size_limit: 3B\n", text, "a 1\nb 2\n", "body size limit exceeded"),
        ("  label_limit: 2\n", text, "a 1\n", "label_limit exceeded (metric: a, number of labels: 3, limit: 2)"),
        (
            "",
            "200 OK\r\nContent-Type: text/html\r\n",
            "a 1\n",
            "received unsupported Content-Type \"text/html\" and no fallback_scrape_protocol specified for target",
        ),
    ] {
        exporter.answers(head, body.as_bytes());
        let mut scrape_loop = exporter.scrape_loop(settings);
        let result = scrape_loop.scrape(Timestamp(0), &index, &clock).await;
        assert_eq!(result.failed.as_deref(), Some(why));
        assert_eq!((result.synthetic_from, result.batch.series.len(), result.batch.values[0]), (0, 5, 0.0));
    }
}

#[tokio::test]
async fn rules_drop_and_rename_and_repeats_they_make_are_left_out() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let settings = "  metric_relabel_configs:\n  - {source_labels: [__name__], regex: go_.*, action: drop}\n  - {regex: x, action: labeldrop}\n";
    let mut scrape_loop = exporter.scrape_loop(settings);
    exporter.says("go_a 1\nb{x=\"1\"} 2\nb{x=\"2\"} 3\n");
    for added in [2, 0] {
        let result = scrape_loop.scrape(Timestamp(0), &index, &clock).await;
        assert_eq!(result.failed, None);
        assert_eq!((result.synthetic_from, result.samples_repeated), (1, 1));
        assert_eq!((result.samples_scraped, result.samples_kept, result.series_added), (3, 2, added));
        assert_eq!(result.batch.values[0], 2.0);
    }
}

#[tokio::test]
async fn honor_labels_lets_the_exposition_win() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("  honor_labels: true\n  honor_timestamps: false\n");
    exporter.says("a{job=\"other\",instance=\"\"} 1 77\n");
    let result = scrape_loop.scrape(Timestamp(9), &index, &clock).await;
    assert!(shown(&result, &index).starts_with("a{job=\"other\"} 1\nup{"), "{}", shown(&result, &index));
}

#[tokio::test]
async fn a_sample_from_the_far_future_is_left_out_and_counted() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let slot = 1_700_000_000_000i64;
    let text = format!("a 1 {}\nb 2 {}\nc 3 {}\nd 4\n", slot + 600_000, slot + 600_001, i64::MAX);
    exporter.says(&text);
    for (settings, ahead, kept) in [("", 2, 2), ("  honor_timestamps: false\n", 0, 4)] {
        let mut scrape_loop = exporter.scrape_loop(settings);
        let result = scrape_loop.scrape(Timestamp(slot), &index, &clock).await;
        assert_eq!(result.failed, None);
        assert_eq!((result.samples_ahead, result.synthetic_from, result.samples_kept), (ahead, kept, kept));
    }
}

#[tokio::test]
async fn a_forgotten_series_is_resolved_again() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("");
    exporter.says("a 1\nb 2\n");
    let first = scrape_loop.scrape(Timestamp(0), &index, &clock).await;
    scrape_loop.forget(&[first.batch.series[1], first.batch.series[2]]);
    let second = scrape_loop.scrape(Timestamp(1), &index, &clock).await;
    assert_eq!(second.series_added, 1);
    assert_eq!(first.batch.series, second.batch.series);
}

#[test]
fn targets_get_defaults_rules_and_one_identity_everywhere() {
    let text = "scrape_configs:\n- job_name: j\n  params: {m: [a, b]}\n  relabel_configs:\n  - {source_labels: [__meta_x], target_label: x}\n  - {source_labels: [__address__], regex: drop.*, action: drop}\n";
    let loaded = load_text("p.yml", text.as_bytes(), Path::new("/"), &MemorySource::default()).unwrap();
    let job = Arc::new(loaded.jobs[0].clone());
    let labels = Labels::from_pairs([
        ("__meta_x", "y"),
        ("__param_m", "c"),
        ("__scrape_interval__", "5s"),
        ("__scrape_timeout__", "1s"),
    ]);
    let group = TargetGroup::of_addresses("0", ["a:1", "drop:1", "bad/1", "a:1"], &labels);
    let populated = targets::from_groups(&job, [&group], "peer:9090");
    assert_eq!((populated.targets.len(), populated.dropped_count, populated.failed.len()), (1, 1, 1));
    let target = &populated.targets[0];
    assert_eq!(target.labels.to_string(), r#"{instance="a:1", job="j", x="y"}"#);
    assert_eq!(target.url.as_str(), "http://a:1/metrics?m=c&m=b");
    assert_eq!((target.interval.as_secs(), target.timeout.as_secs()), (5, 1));
    expect_test::expect!["c2bd588572f1863a"].assert_eq(&format!("{:x}", target.id.0 >> 64));
}

#[test]
fn everywhere_the_peer_is_the_instance_and_targets_are_its_own() {
    let text = "scrape_configs:\n- job_name: j\n  mesh_scope: everywhere\n- job_name: k\n";
    let loaded = load_text("p.yml", text.as_bytes(), Path::new("/"), &MemorySource::default()).unwrap();
    let job = |index: usize| Arc::new(loaded.jobs[index].clone());
    let group = TargetGroup::of_addresses("0", ["localhost:1", "localhost:2"], &Labels::empty());
    let populated = targets::from_groups(&job(0), [&group], "peer:9090");
    let target = &populated.targets[0];
    assert_eq!((target.labels.value("instance"), target.pinned), ("peer:9090", true));
    assert!(populated.failed[0].1.contains("same labels"), "{:?}", populated.failed);
    // What a discovery says of its groups counts too, and leaves the instance as it is.
    let own = Labels::from_pairs([("__mesh_scope__", "everywhere")]);
    let group = TargetGroup::of_addresses("0", ["c:1"], &own);
    let target = targets::from_groups(&job(1), [&group], "peer:9090").targets.remove(0);
    assert_eq!((target.labels.to_string().as_str(), target.pinned), (r#"{instance="c:1", job="k"}"#, true));
}

#[tokio::test]
async fn open_metrics_is_asked_for_and_brings_exemplars() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("");
    let body = "# TYPE a counter\na_total 1 # {t=\"x\"} 0.5\nb 2 1.5\n# EOF\n";
    exporter.answers(
        "200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
        body.as_bytes(),
    );
    for _ in 0..2 {
        let result = scrape_loop.scrape(Timestamp(7000), &index, &clock).await;
        assert_eq!(result.failed, None);
        assert_eq!(result.batch.timestamps, [(1, Timestamp(1500))]);
        let (series, exemplar) = &result.batch.exemplars[0];
        assert_eq!((*series, exemplar.timestamp, exemplar.value), (result.batch.series[0], Timestamp(7000), 0.5));
    }
    let asked = exporter.asked.lock().unwrap().clone();
    assert!(asked.contains("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"), "{asked}");
}

#[tokio::test]
async fn native_and_converted_histograms_are_histogram_samples() {
    let exporter = Exporter::start().await;
    let (index, clock) = (Index::default(), Ticks::default());
    let mut scrape_loop = exporter.scrape_loop("  convert_classic_histograms_to_nhcb: true\n");
    exporter.says(
        "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 5\nh_sum 7\nh_count 5\n# TYPE g gauge\ng 1\n",
    );
    for added in [2, 0] {
        let result = scrape_loop.scrape(Timestamp(3000), &index, &clock).await;
        assert_eq!((result.failed.clone(), result.series_added, result.synthetic_from), (None, added, 1));
        let histogram = &result.batch.histograms[0];
        assert_eq!(histogram.timestamp, Timestamp(3000));
        assert_eq!(index.labels(histogram.series).unwrap().as_metric().to_string(), "h{instance=\"i\", job=\"j\"}");
        assert_eq!((result.samples_scraped, result.samples_kept), (2, 2));
    }
}

mod hostile {
    use super::*;
    use std::time::Duration;

    /// Sends a head and then these bytes again and again, with a pause between.
    async fn endless(head: &'static str, piece: &'static [u8], pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = socket.read(&mut request).await;
                    let _ = socket.write_all(head.as_bytes()).await;
                    while socket.write_all(piece).await.is_ok() {
                        tokio::time::sleep(pause).await;
                    }
                });
            }
        });
        address
    }

    fn scrape_loop(address: String, settings: &str) -> ScrapeLoop {
        let exporter = Exporter { address, answer: Arc::default(), asked: Arc::default() };
        exporter.scrape_loop(settings)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";

    #[tokio::test]
    async fn an_endless_body_ends_at_its_limit() {
        let address = endless(OK, &[b'a'; 1 << 16], Duration::ZERO).await;
        let mut scrape_loop = scrape_loop(address, "  body_size_limit: 10MB\n");
        let result = scrape_loop.scrape(Timestamp(0), &Index::default(), &Ticks::default()).await;
        assert_eq!(result.failed.as_deref(), Some("body size limit exceeded"));
    }

    #[tokio::test]
    async fn a_slow_drip_and_a_head_without_end_meet_the_deadline() {
        for (head, piece) in [(OK, &b"a 1\n"[..]), ("HTTP/1.1 200 OK\r\n", &b"X-A: b\r\n"[..])] {
            let address = endless(head, piece, Duration::from_millis(20)).await;
            let mut scrape_loop = scrape_loop(address, "  scrape_timeout: 300ms\n");
            let result = scrape_loop.scrape(Timestamp(0), &Index::default(), &Ticks::default()).await;
            let why = result.failed.unwrap();
            assert!(why.contains("context deadline exceeded"), "{why}");
        }
    }

    #[tokio::test]
    async fn bad_bytes_and_floods_fail_or_pass_without_harm() {
        let exporter = Exporter::start().await;
        let (index, clock) = (Index::default(), Ticks::default());
        let text = "200 OK\r\nContent-Type: text/plain\r\n";
        let mut many_labels = b"a{".to_vec();
        for label in 0..200_000 {
            many_labels.extend_from_slice(format!("l{label}=\"x\",").as_bytes());
        }
        many_labels.extend_from_slice(b"} 1\n");
        for (head, body, why) in [
            (text, many_labels, "more than 10000 labels"),
            (text, b"a{b=\"\xff\"} 1\n".to_vec(), "invalid UTF-8 label value"),
            (text, b"\x00\x01\x02".to_vec(), "expected a valid start token"),
            ("200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n", b"not gzip".to_vec(), "gzip"),
            (
                "200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: br\r\n",
                b"a 1\n".to_vec(),
                "unsupported content encoding",
            ),
            ("200 OK\r\nContent-Type: application/vnd.google.protobuf\r\n", vec![0xff; 64], "truncated metric family"),
        ] {
            exporter.answers(head, &body);
            let result = exporter.scrape_loop("").scrape(Timestamp(0), &index, &clock).await;
            let failed = result.failed.unwrap();
            assert!(failed.contains(why) && failed.len() < 500, "{failed}");
        }
        // A flood of NaN is a flood of ordinary NaN, never of staleness markers.
        exporter.says(&"n NaN\n".repeat(1000));
        let result = exporter.scrape_loop("").scrape(Timestamp(0), &index, &clock).await;
        assert_eq!((result.failed, result.samples_repeated), (None, 999));
        assert_eq!(result.batch.values[0].to_bits(), f64::NAN.to_bits());
    }

    #[tokio::test]
    async fn an_empty_answer_is_no_failure_in_any_format() {
        let exporter = Exporter::start().await;
        for kind in ["application/openmetrics-text", "text/html", ""] {
            exporter.answers(&format!("200 OK\r\nContent-Type: {kind}\r\n"), b"");
            let result = exporter.scrape_loop("").scrape(Timestamp(0), &Index::default(), &Ticks::default()).await;
            assert_eq!((result.failed, result.samples_scraped), (None, 0), "{kind}");
        }
    }
}

mod conformance {
    use super::*;
    use promesh_textparse::{Parser as _, RawLabels, TextParser};
    use serde_json::Value;

    fn table(func: &str) -> Option<Vec<Value>> {
        let path = "../../../shared/conformance/go_tables/scrape_scrape_test.json";
        let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)) else {
            eprintln!("conformance data is absent: these cases did not run");
            return None;
        };
        let json: Value = serde_json::from_str(&text).unwrap();
        let tables = json["tables"].as_array().unwrap();
        let found = tables.iter().find(|table| table["func"] == func && table["value"].is_array()).unwrap();
        Some(found["value"].as_array().unwrap().clone())
    }

    fn labels(flat: &Value) -> Labels {
        let texts: Vec<&str> =
            flat.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        Labels::from_pairs(texts.chunks_exact(2).map(|pair| (pair[0], pair[1])))
    }

    fn job(settings: &str) -> promesh_config::prometheus::ScrapeConfig {
        let text = format!("scrape_configs:\n- job_name: j\n{settings}");
        load_text("p.yml", text.as_bytes(), Path::new("/"), &MemorySource::default()).unwrap().jobs[0].clone()
    }

    fn series(
        line: &Value,
        target: &Value,
        job: &promesh_config::prometheus::ScrapeConfig,
    ) -> Result<Option<Labels>, String> {
        let mut parser = TextParser::new(line.as_str().unwrap().as_bytes());
        parser.next(None).unwrap();
        let mut raw = RawLabels::default();
        parser.labels(&mut raw);
        labels::of_series(&raw, &labels(target), job)
    }

    #[test]
    fn conflicting_labels_are_kept_as_upstream_keeps_them() {
        let Some(cases) = table("testScrapeLoopAppendForConflictingPrefixedLabels") else { return };
        assert_eq!(cases.len(), 6);
        for case in cases {
            let found = series(&case["exposedLabels"], &case["targetLabels"], &job("")).unwrap().unwrap();
            assert_eq!(found, labels(&case["expected"]), "{}", case["name"]);
        }
    }

    #[test]
    fn label_limits_are_upstreams() {
        let Some(cases) = table("testScrapeLoopLabelLimit") else { return };
        for case in cases {
            let mut job = job("");
            let limit = |name: &str| case["labelLimits"][name].as_u64().unwrap_or(0) as usize;
            job.label_limit = limit("labelLimit");
            job.label_name_length_limit = limit("labelNameLengthLimit");
            job.label_value_length_limit = limit("labelValueLengthLimit");
            let verdict = series(&case["scrapeLabels"], &case["discoveryLabels"], &job);
            assert_eq!(verdict.is_err(), case["expectErr"] == true, "{}", case["title"]);
        }
    }

    #[test]
    fn accept_headers_are_upstreams() {
        let Some(cases) = table("TestAcceptHeader") else { return };
        for case in cases {
            let native = case["scrapeProtocols"]["$id"] == "config.DefaultProtoFirstScrapeProtocols";
            let escaping = match case["scheme"]["$id"].as_str().unwrap() {
                "model.UnderscoreEscaping" => "underscores",
                "model.DotsEscaping" => "dots",
                _ => "allow-utf-8",
            };
            let job =
                job(&format!("  scrape_native_histograms: {native}\n  metric_name_escaping_scheme: {escaping}\n"));
            assert_eq!(negotiate::accept_header(&job), case["expectedHeader"].as_str().unwrap());
        }
    }
}
