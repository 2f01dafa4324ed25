//! Prints samples as `promtool tsdb dump` does.

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Span};
use promesh_model::ingest::HistogramValue;
use promesh_model::value::{format_float, is_stale};

use crate::head::series::Value;

/// How many samples at the beginning of a series promtool leaves out: it has one loop for floats, one for float
/// histograms and one for integer ones, and the end of each swallows a sample.
pub fn swallowed(first: &Value) -> usize {
    match first {
        Value::Float(_) => 0,
        Value::Histogram(HistogramValue::Float(_)) => 1,
        Value::Histogram(HistogramValue::Integer(_)) => 2,
    }
}

pub fn line(labels: &str, at: i64, value: &Value) -> String {
    let text = match value {
        Value::Float(bits) => float_g(f64::from_bits(*bits)),
        Value::Histogram(HistogramValue::Integer(h)) => histogram(&h.to_float()),
        Value::Histogram(HistogramValue::Float(h)) => histogram(h),
    };
    format!("{labels} {text} {at}\n")
}

/// Go's `%g`.
fn float_g(value: f64) -> String {
    if value == 0.0 || !value.is_finite() || is_stale(value) {
        return format_float(value);
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("`{:e}` prints an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    if (-4..6).contains(&exponent) {
        return format_float(value);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn histogram(h: &FloatHistogram) -> String {
    let mut parts = vec![format!("{{count:{}, sum:{}", count(h.count), float_g(h.sum))];
    let custom = h.schema == CUSTOM_BUCKETS_SCHEMA;
    let bound = |index: i32| if custom { custom_bound(&h.custom_values, index) } else { exponential(index, h.schema) };
    for (index, observations) in buckets(&h.negative_spans, &h.negative_buckets).rev() {
        parts.push(format!("[{},{}):{}", float_g(-bound(index)), float_g(-bound(index - 1)), count(observations)));
    }
    if h.zero_count != 0.0 {
        let zero = float_g(h.zero_threshold);
        parts.push(format!("[-{zero},{zero}]:{}", count(h.zero_count)));
    }
    for (index, observations) in buckets(&h.positive_spans, &h.positive_buckets) {
        let open = if custom && index == 0 { '[' } else { '(' };
        parts.push(format!("{open}{},{}]:{}", float_g(bound(index - 1)), float_g(bound(index)), count(observations)));
    }
    parts.join(", ") + "}"
}

fn count(value: f64) -> String {
    promesh_model::value::format_float_g(value)
}

fn buckets(spans: &[Span], counts: &[f64]) -> impl DoubleEndedIterator<Item = (i32, f64)> {
    let indexes = crate::chunk::layout::bucket_indexes(spans);
    let all: Vec<(i32, f64)> =
        indexes.into_iter().zip(counts.iter().copied()).filter(|(_, count)| *count != 0.0).collect();
    all.into_iter()
}

fn custom_bound(bounds: &[f64], index: i32) -> f64 {
    match usize::try_from(index) {
        Err(_) => f64::NEG_INFINITY,
        Ok(index) => bounds.get(index).copied().unwrap_or(f64::INFINITY),
    }
}

fn exponential(index: i32, schema: i32) -> f64 {
    if schema <= 0 {
        return 2f64.powi(index << -schema);
    }
    let part = 1 << schema;
    // Prometheus' own table differs from the nearest floats in the last digit.
    assert_eq!(schema, 2, "the data has no other schema above zero");
    let fraction = [0.5, 0.594_603_557_501_360_5, 0.707_106_781_186_547_5, 0.840_896_415_253_714_4]
        [index.rem_euclid(part) as usize];
    fraction * 2f64.powi(index.div_euclid(part) + 1)
}
