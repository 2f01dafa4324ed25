use expect_test::{Expect, expect};

use super::*;
use crate::{decode_json, decode_protobuf};

fn shown(translated: &Translated) -> String {
    let mut out = String::new();
    for (labels, series) in &translated.series {
        for (at, sample) in &series.samples {
            let value = match sample {
                Sample::Float(value) => promesh_model::value::format_float(*value),
                Sample::Histogram(HistogramValue::Integer(value)) => value.to_float().to_string(),
                Sample::Histogram(HistogramValue::Float(value)) => value.to_string(),
            };
            out.push_str(&format!("{} {value} {}\n", labels.as_metric(), at.ms()));
        }
        for exemplar in &series.exemplars {
            out.push_str(&format!("  # {} {} {}\n", exemplar.labels, exemplar.value, exemplar.timestamp.ms()));
        }
    }
    for (family, metadata) in &translated.metadata {
        out.push_str(&format!("# {family} {} {:?} {:?}\n", metadata.kind, metadata.unit, metadata.help));
    }
    for problem in &translated.problems {
        out.push_str(&format!("! {problem}\n"));
    }
    out
}

fn check(json: &str, change: impl FnOnce(&mut OtlpConfig), expected: Expect) {
    let mut config = OtlpConfig::default();
    change(&mut config);
    let settings = Settings { config, native_delta: false, lookback_ms: 300_000 };
    let metrics = decode_json(json.as_bytes()).expect("it decodes");
    expected.assert_eq(&shown(&translate(&metrics, &settings)));
}

const MESSAGE: &str = r#"{"resourceMetrics": [{
  "resource": {"attributes": [
    {"key": "service.name", "value": {"stringValue": "shop"}},
    {"key": "service.namespace", "value": {"stringValue": "eu"}},
    {"key": "service.instance.id", "value": {"stringValue": "one"}},
    {"key": "host.cpus", "value": {"intValue": "4"}}]},
  "scopeMetrics": [{"scope": {"name": "lib", "version": "1"}, "metrics": [
    {"name": "http.requests", "unit": "{request}", "description": "served", "sum": {
      "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
        {"attributes": [{"key": "http.code", "value": {"intValue": 200}}, {"key": "a.b", "value": {"stringValue": "x"}},
                        {"key": "a_b", "value": {"stringValue": "y"}}],
         "timeUnixNano": "1700000000000000000", "asInt": "7",
         "exemplars": [{"timeUnixNano": "1700000000000000000", "asDouble": 1.5, "traceId": "AB", "spanId": "cd"}]}]}},
    {"name": "queue.size", "unit": "1", "gauge": {"dataPoints": [
        {"timeUnixNano": "1700000000000000000", "asDouble": 0.5}]}},
    {"name": "latency", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": [
        {"timeUnixNano": "1700000000000000000", "count": "3", "sum": 2.5, "bucketCounts": ["1", "1", "1"],
         "explicitBounds": [0.1, 1]}]}},
    {"name": "size", "unit": "By", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
        {"timeUnixNano": "1700000000000000000", "count": "5", "sum": 9, "scale": 0, "zeroCount": "1",
         "positive": {"offset": 0, "bucketCounts": ["1", "0", "0", "0", "3"]}}]}},
    {"name": "old", "summary": {"dataPoints": [
        {"timeUnixNano": "1700000000000000000", "count": "2", "sum": 3, "quantileValues": [{"quantile": 0.5, "value": 1}]}]}},
    {"name": "delta", "sum": {"aggregationTemporality": 1, "isMonotonic": true, "dataPoints": [
        {"timeUnixNano": "1700000000000000000", "asInt": "1"}]}}
  ]}]}]}"#;

#[test]
fn a_message_becomes_what_prometheus_makes_of_it() {
    check(
        MESSAGE,
        |_| {},
        expect![[r#"
        http_requests_total{a_b="x;y", http_code="200", instance="one", job="eu/shop"} 7 1700000000000
          # {span_id="cd", trace_id="ab"} 1.5 1700000000000
        latency_seconds_bucket{instance="one", job="eu/shop", le="+Inf"} 3 1700000000000
        latency_seconds_bucket{instance="one", job="eu/shop", le="0.1"} 1 1700000000000
        latency_seconds_bucket{instance="one", job="eu/shop", le="1"} 2 1700000000000
        latency_seconds_count{instance="one", job="eu/shop"} 3 1700000000000
        latency_seconds_sum{instance="one", job="eu/shop"} 2.5 1700000000000
        old{instance="one", job="eu/shop", quantile="0.5"} 1 1700000000000
        old_count{instance="one", job="eu/shop"} 2 1700000000000
        old_sum{instance="one", job="eu/shop"} 3 1700000000000
        queue_size_ratio{instance="one", job="eu/shop"} 0.5 1700000000000
        size_bytes{instance="one", job="eu/shop"} {count:5, sum:9, [-1e-128,1e-128]:1, (1,2]:1, (16,32]:3} 1700000000000
        target_info{host_cpus="4", instance="one", job="eu/shop"} 1 1700000000000
        # http_requests_total counter "{request}" "served"
        # queue_size_ratio gauge "1" ""
        # latency_seconds histogram "s" ""
        # size_bytes histogram "By" ""
        # old summary "" ""
        ! metric "delta": invalid temporality and type combination
    "#]],
    );
}

#[test]
fn names_stay_and_the_resource_is_promoted_when_so_configured() {
    check(
        MESSAGE,
        |config| {
            config.translation_strategy = "NoTranslation".to_owned();
            config.promote_resource_attributes = vec!["host.cpus".to_owned()];
            config.promote_scope_metadata = true;
            config.convert_histograms_to_nhcb = true;
        },
        expect![[r#"
            {"http.requests", "a.b"="x", a_b="y", "host.cpus"="4", "http.code"="200", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} 7 1700000000000
              # {span_id="cd", trace_id="ab"} 1.5 1700000000000
            latency{"host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} {count:3, sum:2.5, [-Inf,0.1]:1, (0.1,1]:1, (1,+Inf]:1} 1700000000000
            old{"host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1", quantile="0.5"} 1 1700000000000
            old_count{"host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} 2 1700000000000
            old_sum{"host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} 3 1700000000000
            {"queue.size", "host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} 0.5 1700000000000
            size{"host.cpus"="4", instance="one", job="eu/shop", otel_scope_name="lib", otel_scope_version="1"} {count:5, sum:9, [-1e-128,1e-128]:1, (1,2]:1, (16,32]:3} 1700000000000
            target_info{"host.cpus"="4", instance="one", job="eu/shop"} 1 1700000000000
            # http.requests counter "{request}" "served"
            # queue.size gauge "1" ""
            # latency histogram "s" ""
            # size histogram "By" ""
            # old summary "" ""
            ! metric "delta": invalid temporality and type combination
        "#]],
    );
}

/// Names of metrics, and of the labels of the first, under each strategy.
///
/// Source: otlptranslator `metric_namer.go`, `label_namer.go`, `strategy.go`.
#[test]
fn each_strategy_names_as_upstream_does() {
    let metric = |name: &str, unit: &str, kind: &str| {
        format!(
            "{{\"name\": \"{name}\", \"unit\": \"{unit}\", {kind} \"dataPoints\": [{{\"timeUnixNano\": \"1700000000000000000\", \
             \"asInt\": \"1\", \"attributes\": [{{\"key\": \"a.b\", \"value\": {{\"stringValue\": \"x\"}}}}, {{\"key\": \"a_b\", \
             \"value\": {{\"stringValue\": \"y\"}}}}]}}]}}}}"
        )
    };
    let (counter, gauge) = ("\"sum\": {\"aggregationTemporality\": 2, \"isMonotonic\": true,", "\"gauge\": {");
    let metrics = [
        metric("http.requests", "{request}", counter),
        metric("net.io", "By/s", gauge),
        metric("queue.size", "1", gauge),
        metric("1st.hit%", "ms", gauge),
        metric("already_total", "", counter),
        metric("sent.bytes", "By", counter),
    ];
    let message =
        format!("{{\"resourceMetrics\": [{{\"scopeMetrics\": [{{\"metrics\": [{}]}}]}}]}}", metrics.join(", "));
    let both = "a_b=\"x;y\"";
    let apart = "\"a.b\"=\"x\", a_b=\"y\"";
    for (strategy, labels, names) in [
        (
            "UnderscoreEscapingWithSuffixes",
            both,
            [
                "http_requests_total",
                "net_io_bytes_per_second",
                "queue_size_ratio",
                "_1st_hit_milliseconds",
                "already_total",
                "sent_bytes_total",
            ],
        ),
        (
            "UnderscoreEscapingWithoutSuffixes",
            both,
            ["http_requests", "net_io", "queue_size", "_1st_hit", "already_total", "sent_bytes"],
        ),
        (
            "NoUTF8EscapingWithSuffixes",
            apart,
            [
                "http.requests_total",
                "net.io_bytes_per_second",
                "queue.size_ratio",
                "1st.hit%_milliseconds",
                "already_total",
                "sent.bytes_total",
            ],
        ),
        ("NoTranslation", apart, ["http.requests", "net.io", "queue.size", "1st.hit%", "already_total", "sent.bytes"]),
    ] {
        let config = OtlpConfig { translation_strategy: strategy.to_owned(), ..OtlpConfig::default() };
        let settings = Settings { config, native_delta: false, lookback_ms: 300_000 };
        let translated = translate(&decode_json(message.as_bytes()).expect("it decodes"), &settings);
        let mut found: Vec<&str> = translated.series.keys().filter_map(|labels| labels.metric_name()).collect();
        let mut expected = names.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{strategy}");
        let text = shown(&translated);
        assert!(text.lines().filter(|line| line.contains(labels)).count() == names.len(), "{strategy}: {text}");
    }
}

#[test]
fn protobuf_and_json_say_the_same() {
    // One gauge with an attribute and a double value, field by field.
    let field = |number: u8, bytes: &[u8]| [vec![number << 3 | 2, bytes.len() as u8], bytes.to_vec()].concat();
    let attribute = [field(1, b"k"), field(2, &field(1, b"v"))].concat();
    let time = [vec![3 << 3 | 1], 1_700_000_000_000_000_000u64.to_le_bytes().to_vec()].concat();
    let value = [vec![4 << 3 | 1], 2.5f64.to_le_bytes().to_vec()].concat();
    let point = [time, value, field(7, &attribute)].concat();
    let metric = [field(1, b"g"), field(5, &field(1, &point))].concat();
    let message = field(1, &field(2, &field(2, &metric)));
    let json = r#"{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "g", "gauge": {"dataPoints": [
        {"timeUnixNano": "1700000000000000000", "asDouble": 2.5,
         "attributes": [{"key": "k", "value": {"stringValue": "v"}}]}]}}]}]}]}"#;
    assert_eq!(decode_protobuf(&message), decode_json(json.as_bytes()));
}
