//! Upstream's tables for histograms, read from the conformance data when it is there.

use serde_json::Value;

use super::{CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Span};

fn tables() -> Option<Vec<Value>> {
    let path = format!(
        "{}/../../../shared/conformance/go_tables/model_histogram_float_histogram_test.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).expect("the table is JSON");
    Some(file["tables"].as_array().expect("a list of tables").clone())
}

fn cases<'a>(tables: &'a [Value], func: &str) -> &'a [Value] {
    let table = tables.iter().find(|table| table["func"] == func).expect("the table is there");
    table["value"].as_array().expect("a list of cases")
}

/// A number; `None` when the table holds an expression of Go that is no product.
fn number(value: &Value) -> Option<f64> {
    match value["$go"].as_str() {
        None if value.is_null() => Some(0.0),
        None => value.as_f64(),
        Some(text) => text
            .split(['*', '/'])
            .next()
            .filter(|_| !text.contains('/'))
            .and_then(|_| text.split('*').map(|factor| factor.trim().parse::<f64>().ok()).product()),
    }
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array().map_or(Some(Vec::new()), |list| list.iter().map(number).collect())
}

fn spans(value: &Value) -> Vec<Span> {
    let span = |span: &Value| {
        let (offset, length) = if span.is_array() { (&span[0], &span[1]) } else { (&span["Offset"], &span["Length"]) };
        Span { offset: offset.as_i64().unwrap_or(0) as i32, length: length.as_u64().unwrap_or(0) as u32 }
    };
    value.as_array().map_or_else(Vec::new, |list| list.iter().map(span).collect())
}

fn histogram(value: &Value) -> Option<FloatHistogram> {
    let counter_reset = match value["CounterResetHint"]["$id"].as_str().unwrap_or("UnknownCounterReset") {
        "CounterReset" => CounterReset::Reset,
        "NotCounterReset" => CounterReset::NotReset,
        "GaugeType" => CounterReset::Gauge,
        _ => CounterReset::Unknown,
    };
    let schema = match value["Schema"]["$id"].as_str() {
        Some(_) => CUSTOM_BUCKETS_SCHEMA,
        None => value["Schema"].as_i64().unwrap_or(0) as i32,
    };
    Some(FloatHistogram {
        counter_reset,
        schema,
        zero_threshold: number(&value["ZeroThreshold"])?,
        zero_count: number(&value["ZeroCount"])?,
        count: number(&value["Count"])?,
        sum: number(&value["Sum"])?,
        positive_spans: spans(&value["PositiveSpans"]),
        negative_spans: spans(&value["NegativeSpans"]),
        positive_buckets: numbers(&value["PositiveBuckets"])?,
        negative_buckets: numbers(&value["NegativeBuckets"])?,
        custom_values: numbers(&value["CustomValues"])?.into(),
    })
}

/// Equal data in equal layout but for empty buckets, numbers within 1e-9.
fn assert_same(name: &Value, mut got: FloatHistogram, mut wanted: FloatHistogram) {
    got.compact(0);
    wanted.compact(0);
    let numbers = |histogram: &FloatHistogram| {
        let mut numbers = vec![histogram.count, histogram.sum, histogram.zero_count];
        numbers.extend(histogram.positive_buckets.iter().chain(&histogram.negative_buckets));
        numbers
    };
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * a.abs().max(1.0) || (a.is_nan() && b.is_nan()) || a == b;
    let (a, b) = (numbers(&got), numbers(&wanted));
    assert!(a.len() == b.len() && a.iter().zip(&b).all(close), "{name}: {got} instead of {wanted}");
    assert_eq!(got.positive_spans, wanted.positive_spans, "{name}");
    assert_eq!(got.negative_spans, wanted.negative_spans, "{name}");
    assert_eq!(got.schema, wanted.schema, "{name}");
    assert_eq!(got.zero_threshold, wanted.zero_threshold, "{name}");
    assert_eq!(got.custom_values, wanted.custom_values, "{name}");
}

#[test]
fn resets_are_detected_as_upstream_does() {
    let Some(tables) = tables() else { return };
    let mut count = 0;
    for case in cases(&tables, "TestFloatHistogramDetectReset") {
        let (Some(before), Some(now)) = (histogram(&case[1]), histogram(&case[2])) else { continue };
        assert_eq!(Value::from(now.detect_reset(&before)), case[3], "{}", case[0]);
        count += 1;
    }
    assert!(count > 20, "only {count} cases");
}

#[test]
fn sums_are_upstreams() {
    let Some(tables) = tables() else { return };
    let mut count = 0;
    for case in cases(&tables, "TestFloatHistogramAdd") {
        let (Some(mut a), Some(b)) = (histogram(&case["in1"]), histogram(&case["in2"])) else { continue };
        let Some(wanted) = histogram(&case["expected"]).filter(|_| case["expErrMsg"].is_null()) else { continue };
        let mut kahan = super::CompensatedHistogram::new(a.clone());
        match (a.add(&b), kahan.add(&b)) {
            (Ok(_), Ok(_)) => {}
            (Err(_), Err(_)) => continue,
            both => panic!("{}: {both:?}", case["name"]),
        }
        assert_same(&case["name"], a, wanted.clone());
        assert_same(&case["name"], kahan.finish(), wanted);
        count += 1;
    }
    assert!(count > 10, "only {count} cases");
}

#[test]
fn compaction_drops_what_upstream_drops() {
    let Some(tables) = tables() else { return };
    for case in cases(&tables, "TestFloatHistogramCompact") {
        let (Some(mut histogram), Some(wanted)) = (histogram(&case[1]), histogram(&case[3])) else { continue };
        let gap = case[2].as_u64().expect("a number of empty buckets") as usize;
        histogram.compact(gap);
        assert_same(&case[0], histogram, wanted);
    }
}

#[test]
fn lower_resolution_is_upstreams() {
    let Some(tables) = tables() else { return };
    for case in cases(&tables, "TestFloatHistogramCopyToSchema") {
        let (Some(mut from), Some(wanted)) = (histogram(&case[2]), histogram(&case[3])) else { continue };
        from.reduce_resolution(number(&case[1]).unwrap_or(f64::from(CUSTOM_BUCKETS_SCHEMA)) as i32);
        assert_same(&case[0], from, wanted);
    }
}
