//! Upstream's table tests of its parsers, read from the conformance data when it is there.
//!
//! The tables hold a part of upstream's expectations, in their order: what they hold must come in that order. Left out,
//! each for a reason: comments (they are skipped here, not told), `_created` lines as start timestamps (in text they stay
//! series, as with upstream's default), and `__type__`/`__unit__` labels (an option of upstream's that is not built).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::*;
use promesh_model::histogram::Span;
use promesh_model::ingest::HistogramValue;

fn tables(format: &str) -> Option<Vec<Value>> {
    let file = format!("model_textparse_{format}parse_test.json");
    let path = format!("{}/../../../shared/conformance/go_tables/{file}", env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("conformance data is absent: these cases did not run");
        return None;
    };
    let file: Value = serde_json::from_str(&text).expect("the table is JSON");
    Some(file["tables"].as_array().expect("a list of tables").clone())
}

fn table<'a>(tables: &'a [Value], func: &str, var: &str) -> &'a Value {
    let found = tables.iter().find(|table| table["func"] == func && table["var"] == var);
    &found.unwrap_or_else(|| panic!("{func} has {var}"))["value"]
}

/// One entry, in a form that both sides have.
#[derive(Debug, PartialEq)]
enum Entry {
    Meta(String),
    Series { labels: BTreeMap<String, String>, value: Number, at: Option<i64>, exemplars: Vec<String> },
}

#[derive(Debug, PartialEq)]
enum Number {
    Float(String),
    Histogram(Box<Plain>),
}

/// Buckets that are not empty, by their place.
type Buckets = Vec<(i64, f64)>;

/// Schema, count, sum, zero bucket, buckets on both sides, custom bounds, whether it is a gauge.
type Plain = (i64, f64, f64, [f64; 2], [Buckets; 2], Vec<f64>, bool);

fn filled(spans: &[(i64, u64)], counts: &[f64], as_deltas: bool) -> Buckets {
    let (mut place, mut count, mut counts, mut out) = (0, 0.0, counts.iter(), Vec::new());
    for (offset, length) in spans {
        place += offset;
        for _ in 0..*length {
            let given = counts.next().copied().expect("a count for each place of a span");
            count = if as_deltas { count + given } else { given };
            if count != 0.0 {
                out.push((place, count));
            }
            place += 1;
        }
    }
    out
}

fn spans_of(spans: &[Span]) -> Vec<(i64, u64)> {
    spans.iter().map(|span| (i64::from(span.offset), u64::from(span.length))).collect()
}

fn number_of(value: &HistogramValue) -> Number {
    use promesh_model::histogram::CounterReset::Gauge;
    let whole = |deltas: &[i64]| deltas.iter().map(|delta| *delta as f64).collect::<Vec<_>>();
    Number::Histogram(Box::new(match value {
        HistogramValue::Integer(h) => (
            i64::from(h.schema),
            h.count as f64,
            h.sum,
            [h.zero_threshold, h.zero_count as f64],
            [
                filled(&spans_of(&h.positive_spans), &whole(&h.positive_buckets), true),
                filled(&spans_of(&h.negative_spans), &whole(&h.negative_buckets), true),
            ],
            h.custom_values.to_vec(),
            h.counter_reset == Gauge,
        ),
        HistogramValue::Float(h) => (
            i64::from(h.schema),
            h.count,
            h.sum,
            [h.zero_threshold, h.zero_count],
            [
                filled(&spans_of(&h.positive_spans), &h.positive_buckets, false),
                filled(&spans_of(&h.negative_spans), &h.negative_buckets, false),
            ],
            h.custom_values.to_vec(),
            h.counter_reset == Gauge,
        ),
    }))
}

/// All that a parser gives.
fn given(parser: &mut dyn Parser) -> Result<Vec<Entry>, ParseError> {
    let mut entries = Vec::new();
    loop {
        let (value, at) = match parser.next(None)? {
            None => return Ok(entries),
            Some(Event::Type { family, kind }) => {
                entries.push(Entry::Meta(format!("{family} is a {kind}")));
                continue;
            }
            Some(Event::Help { family, text }) => {
                entries.push(Entry::Meta(format!("{family}: {text}")));
                continue;
            }
            Some(Event::Unit { family, unit }) => {
                entries.push(Entry::Meta(format!("{family} in {unit}")));
                continue;
            }
            Some(Event::Sample(sample)) => (Number::Float(sample.value.to_string()), sample.timestamp),
            Some(Event::Histogram(histogram)) => (number_of(&histogram.value), histogram.timestamp),
        };
        let mut raw = RawLabels::default();
        parser.labels(&mut raw);
        let labels = raw.0.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut exemplars = Vec::new();
        while let Some((exemplar, own)) = parser.exemplar() {
            let at = own.then_some(exemplar.timestamp.0);
            exemplars.push(format!("{} {} {at:?}", exemplar.labels, exemplar.value));
        }
        entries.push(Entry::Series { labels, value, at, exemplars });
    }
}

/// Labels of the table, without those of the option that is not built.
fn labels_of(value: &Value) -> BTreeMap<String, String> {
    let args = &value["args"];
    match value["$call"].as_str() {
        Some("typeAndUnitLabels") => return labels_of(&args[2]),
        Some("todoDetectFamilySwitch") => return labels_of(&args[1]),
        _ => {}
    }
    // A type as a label's value stands there as a conversion.
    let kind = |value: &Value| {
        value["args"][0]["$id"].as_str().map(|id| id.trim_start_matches("model.MetricType").to_lowercase())
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).or_else(|| kind(value)).expect("a text");
    let texts: Vec<String> = args.as_array().into_iter().flatten().map(text).collect();
    let pairs = texts.chunks_exact(2).filter(|pair| !pair[1].is_empty());
    pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn float(value: &Value) -> f64 {
    if value["$call"] == "math.Float64frombits" { f64::NAN } else { value.as_f64().unwrap_or(0.0) }
}

fn histogram(value: &Value, as_deltas: bool) -> Number {
    let spans = |name: &str| -> Vec<(i64, u64)> {
        let list = value[name].as_array().into_iter().flatten();
        list.map(|span| (span["Offset"].as_i64().unwrap_or(0), span["Length"].as_u64().unwrap_or(0))).collect()
    };
    let floats = |name: &str| -> Vec<f64> { value[name].as_array().into_iter().flatten().map(float).collect() };
    let schema = if value["Schema"].is_object() { -53 } else { value["Schema"].as_i64().unwrap_or(0) };
    let side = |side: &str| filled(&spans(&format!("{side}Spans")), &floats(&format!("{side}Buckets")), as_deltas);
    Number::Histogram(Box::new((
        schema,
        float(&value["Count"]),
        float(&value["Sum"]),
        [float(&value["ZeroThreshold"]), float(&value["ZeroCount"])],
        [side("Positive"), side("Negative")],
        floats("CustomValues"),
        value["CounterResetHint"]["$id"] == "histogram.GaugeType",
    )))
}

/// `None` for a comment.
fn wanted(entry: &Value) -> Option<Entry> {
    let family = entry["m"].as_str()?;
    if let Some(help) = entry["help"].as_str() {
        return Some(Entry::Meta(format!("{family}: {help}")));
    }
    if let Some(unit) = entry["unit"].as_str() {
        return Some(Entry::Meta(format!("{family} in {unit}")));
    }
    if let Some(kind) = entry["typ"]["$id"].as_str() {
        let kind = kind.trim_start_matches("model.MetricType").to_lowercase();
        return Some(Entry::Meta(format!("{family} is a {kind}")));
    }
    let value = match (&entry["shs"], &entry["fhs"]) {
        (Value::Null, Value::Null) => Number::Float(float(&entry["v"]).to_string()),
        (Value::Null, floats) => histogram(floats, false),
        (integers, _) => histogram(integers, true),
    };
    let exemplar = |exemplar: &Value| {
        let labels = promesh_model::Labels::from_pairs(labels_of(&exemplar["Labels"]));
        let at = (exemplar["HasTs"] == true).then(|| exemplar["Ts"].as_i64().unwrap_or(0));
        format!("{labels} {} {at:?}", float(&exemplar["Value"]))
    };
    Some(Entry::Series {
        labels: labels_of(&entry["lset"]),
        value,
        at: entry["t"]["args"][0].as_i64(),
        exemplars: entry["es"].as_array().into_iter().flatten().map(exemplar).collect(),
    })
}

/// Each expected entry comes, in the table's order. Returns how many there were.
fn check(what: &str, parser: &mut dyn Parser, expected: &Value, applies: impl Fn(&Value) -> bool) -> usize {
    let given = given(parser).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut rest = given.iter();
    let expected = expected.as_array().expect("a list of entries").iter().filter(|entry| applies(entry));
    let mut count = 0;
    for wanted in expected.filter_map(wanted) {
        let found = rest.any(|entry| *entry == wanted);
        assert!(found, "{what}: after {count} entries there is no {wanted:?}");
        count += 1;
    }
    count
}

const NULLS: &str = "\n# HELP metric foo\0bar\nnull_byte_metric{a=\"abc\0\"} 1\n";

#[test]
fn text_is_read_as_upstream_reads_it() {
    let Some(tables) = tables("prom") else { return };
    for (func, count_min) in [("TestPromParse", 30), ("TestUTF8PromParse", 8)] {
        let input = table(&tables, func, "input").as_str().expect("a text").to_owned() + NULLS;
        let mut parser = TextParser::new(input.as_bytes());
        let count = check(func, &mut parser, table(&tables, func, "exp"), |_| true);
        assert!(count >= count_min, "{func}: {count}");
    }
}

#[test]
fn open_metrics_is_read_as_upstream_reads_it() {
    let Some(nhcb) = tables("nhcb") else { return };
    let Some(open_metrics) = tables("openmetrics") else { return };
    let func = "TestNHCBParserOnOMParser";
    let input = table(&nhcb, func, "input").as_str().expect("a text").to_owned() + NULLS + "# EOF\n";
    let to_custom_buckets = || CustomBucketsParser::new(Box::new(OpenMetricsParser::new(input.as_bytes())), false);
    assert!(check(func, &mut to_custom_buckets(), table(&nhcb, func, "exp"), |_| true) >= 45);
    // The same exposition but for a few families, of which the table has no text.
    let expected = table(&open_metrics, "TestOpenMetricsParse", "exp");
    let has = |entry: &Value| {
        let name = entry["m"].as_str().unwrap_or("");
        !name.starts_with("nansum") && entry["help"] != "Summary with NaN value" && !name.contains("le=\"c\"")
    };
    let count = check("TestOpenMetricsParse", &mut OpenMetricsParser::new(input.as_bytes()), expected, has);
    assert!(count >= 55, "{count}");
    let func = "TestNHCBParserOMParser_MultipleHistograms";
    let input = table(&nhcb, func, "input").as_str().expect("a text");
    let mut parser = CustomBucketsParser::new(Box::new(OpenMetricsParser::new(input.as_bytes())), false);
    assert_eq!(check(func, &mut parser, table(&nhcb, func, "exp"), |_| true), 4);
    // Buckets that do not grow are no histogram; the others of the family are.
    let input = table(&nhcb, "TestNHCBParserErrorHandling", "input").as_str().expect("a text");
    let parser = CustomBucketsParser::new(Box::new(OpenMetricsParser::new(input.as_bytes())), false);
    let entries = given(&mut { parser }).expect("readable");
    let histograms = entries.iter().filter(|entry| matches!(entry, Entry::Series { value: Number::Histogram(_), .. }));
    assert_eq!(histograms.count(), 1, "{entries:#?}");
}

/// What is refused and what is not, and the first words of the reason.
fn check_verdicts(cases: &Value, parser: impl Fn(&[u8]) -> Result<Vec<Entry>, ParseError>) {
    for case in cases.as_array().expect("a list of cases") {
        // JSON cannot hold the byte that the table means.
        let input = case["input"].as_str().expect("a text").as_bytes();
        let input: Vec<u8> = replaced(input, "\u{fffd}".as_bytes(), b"\xff");
        let verdict = parser(&input);
        let reason = case["err"].as_str().unwrap_or("");
        if matches!(reason, "" | "EOF") {
            assert!(verdict.is_ok(), "{case}: {verdict:?}");
            continue;
        }
        let error = verdict.expect_err(&case.to_string()).message;
        // Upstream passes on what Go's number parser says, and names the keyword; here it is said what was expected.
        let in_own_words = [
            "expected metric name after",
            "expected text in",
            "strconv",
            "unsupported character in float",
            "invalid exemplar timestamp",
        ];
        if in_own_words.iter().any(|words| reason.starts_with(words)) {
            continue;
        }
        let start = reason.split([',', ':']).next().unwrap_or("").split(" while").next().unwrap_or("");
        let start = if start.starts_with("invalid timestamp") { "invalid timestamp" } else { start };
        assert!(error.starts_with(start), "{case}: {error}");
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

#[test]
fn what_upstream_refuses_is_refused_with_its_reason() {
    let Some(prom) = tables("prom") else { return };
    let text = |input: &[u8]| given(&mut TextParser::new(input));
    check_verdicts(table(&prom, "TestPromParseErrors", "cases"), text);
    check_verdicts(table(&prom, "TestPromNullByteHandling", "cases"), text);
    let Some(open_metrics) = tables("openmetrics") else { return };
    let parser = |input: &[u8]| given(&mut OpenMetricsParser::new(input));
    check_verdicts(table(&open_metrics, "TestOpenMetricsParseErrors", "cases"), parser);
    check_verdicts(table(&open_metrics, "TestOMNullByteHandling", "cases"), parser);
}

/// Protobuf's text form as the bytes that it stands for.
mod text_form {
    /// Field numbers and kinds by message: `m` a message, `s` a text, `v` a number, `z` a number in zigzag, `d` a double.
    const FIELDS: &str = "family name 1 s|family help 2 s|family type 3 v|family metric 4 m|family unit 5 s|\
        metric label 1 m|metric gauge 2 m|metric counter 3 m|metric summary 4 m|metric untyped 5 m|metric histogram 7 m|\
        metric timestamp_ms 6 v|label name 1 s|label value 2 s|gauge value 1 d|untyped value 1 d|counter value 1 d|\
        counter exemplar 2 m|counter start_timestamp 3 m|summary sample_count 1 v|summary sample_sum 2 d|\
        summary quantile 3 m|summary start_timestamp 4 m|quantile quantile 1 d|quantile value 2 d|\
        histogram sample_count 1 v|histogram sample_sum 2 d|histogram bucket 3 m|histogram sample_count_float 4 d|\
        histogram schema 5 z|histogram zero_threshold 6 d|histogram zero_count 7 v|histogram zero_count_float 8 d|\
        histogram negative_span 9 m|histogram negative_delta 10 z|histogram negative_count 11 d|\
        histogram positive_span 12 m|histogram positive_delta 13 z|histogram positive_count 14 d|\
        histogram start_timestamp 15 m|histogram exemplars 16 m|bucket cumulative_count 1 v|bucket upper_bound 2 d|\
        bucket exemplar 3 m|bucket cumulative_count_float 4 d|negative_span offset 1 z|negative_span length 2 v|\
        positive_span offset 1 z|positive_span length 2 v|exemplar label 1 m|exemplar value 2 d|exemplar timestamp 3 m|\
        exemplars label 1 m|exemplars value 2 d|exemplars timestamp 3 m|timestamp seconds 1 v|timestamp nanos 2 v|\
        start_timestamp seconds 1 v|start_timestamp nanos 2 v";
    const KINDS: [&str; 6] = ["COUNTER", "GAUGE", "SUMMARY", "UNTYPED", "HISTOGRAM", "GAUGE_HISTOGRAM"];

    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
        varint(out, field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }

    /// Reads lines up to the closing `>` of a message.
    fn message(name: &str, lines: &mut dyn Iterator<Item = &str>) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(line) = lines.next().map(str::trim) {
            if line == ">" {
                break;
            }
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let known = FIELDS.split('|').map(|known| known.split_whitespace().collect::<Vec<_>>());
            let known = known.into_iter().find(|known| known[0] == name && known[1] == field);
            let known = known.unwrap_or_else(|| panic!("{name} has {field}"));
            let number: u64 = known[2].parse().expect("a number");
            match known[3] {
                "m" => bytes(&mut out, number, &message(field, lines)),
                "s" => bytes(&mut out, number, value.trim_matches('"').as_bytes()),
                "d" => {
                    varint(&mut out, number << 3 | 1);
                    out.extend_from_slice(&value.parse::<f64>().expect("a number").to_le_bytes());
                }
                kind => {
                    let value = KINDS
                        .iter()
                        .position(|kind| *kind == value)
                        .map_or_else(|| value.parse::<i64>().expect("a number"), |place| place as i64);
                    varint(&mut out, number << 3);
                    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
                    varint(&mut out, if kind == "z" { zigzag } else { value as u64 });
                }
            }
        }
        out
    }

    /// Families one behind the other, each with its length.
    pub(super) fn families(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for text in texts {
            let family = message("family", &mut text.lines());
            varint(&mut out, family.len() as u64);
            out.extend_from_slice(&family);
        }
        out
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// Whether an entry speaks of one of these families.
fn of_families<'a>(texts: &'a [&str]) -> impl Fn(&Value) -> bool + 'a {
    let names: Vec<&str> = texts.iter().filter_map(|text| text.split('"').nth(1)).collect();
    move |entry| {
        let shown = entry["m"].as_str().unwrap_or("").split('\u{fffd}').next().unwrap_or("");
        ["", "_count", "_sum", "_bucket"]
            .iter()
            .any(|suffix| shown.strip_suffix(suffix).is_some_and(|family| names.contains(&family)))
    }
}

#[test]
fn protobuf_is_read_as_upstream_reads_it() {
    let Some(tables) = tables("protobuf") else { return };
    let families = texts(table(&tables, "createTestProtoBuf", "testMetricFamilies"));
    let input = text_form::families(&families);
    let mut count = 0;
    for scenario in table(&tables, "TestProtobufParse", "scenarios").as_array().expect("a list") {
        let flag = |place: usize| scenario["parser"]["args"][place] == true;
        // Of the input, ignoring native histograms, keeping classic ones, type and unit labels.
        let (ignores, keeps, with_types) = (flag(1), flag(2), flag(4));
        if !with_types {
            let options = HistogramOptions { native: !ignores, classic_too: keeps, to_custom_buckets: false };
            let mut parser = ProtobufParser::new(&input, options);
            let name = scenario["name"].as_str().unwrap_or("");
            count += check(name, &mut parser, &scenario["expected"], of_families(&families));
        }
    }
    let families = texts(table(&tables, "TestProtobufParseWithNHCB", "testMetricFamilies"));
    let input = text_form::families(&families);
    for case in table(&tables, "TestProtobufParseWithNHCB", "testCases").as_array().expect("a list") {
        if case["typeAndUnit"] != true {
            let (ignores, keeps) = (case["ignoreNative"] == true, case["keepClassic"] == true);
            let options = HistogramOptions { native: !ignores, classic_too: keeps, to_custom_buckets: true };
            let mut parser = ProtobufParser::new(&input, options);
            let name = format!("custom buckets, {options:?}");
            count += check(&name, &mut parser, &case["expected"], of_families(&families));
        }
    }
    assert!(count > 200, "{count}");
    for case in table(&tables, "TestProtobufParseHistogramSpanBucketMismatch", "range").as_array().expect("a list") {
        let input = text_form::families(&[case["input"].as_str().expect("a text")]);
        let options = HistogramOptions { native: true, ..HistogramOptions::default() };
        assert!(given(&mut ProtobufParser::new(&input, options)).is_err(), "{}", case["name"]);
    }
}
