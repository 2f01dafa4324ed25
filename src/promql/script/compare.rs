//! Values and annotations against what a script expects.

use std::sync::Arc;

use promesh_model::{FloatHistogram, Labels, Timestamp};

use super::parse::{Eval, Mode, Text};
use crate::engine::almost_equal;
use crate::parser::{SeriesDescription, SeriesValue};
use crate::{MatrixSeries, Outcome, SampleValue, Value, VectorSample};

/// The relative error that is allowed.
const EPSILON: f64 = 0.000_001;

pub(super) fn failure(eval: &Eval, message: &str) -> Result<(), String> {
    match &eval.expected.fail {
        Some(expected) if !expected.matches(message) => {
            Err(format!("expected error matching {expected:?}, but got: {message}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn annotations(eval: &Eval, outcome: &Outcome) -> Result<(), String> {
    all_match("warn", &eval.expected.warn, &outcome.warnings)?;
    all_match("info", &eval.expected.info, &outcome.infos)?;
    for (forbidden, found) in [(eval.expected.no_warn, &outcome.warnings), (eval.expected.no_info, &outcome.infos)] {
        if forbidden && !found.is_empty() {
            return Err(format!("unexpected annotations: {found:?}"));
        }
    }
    Ok(())
}

fn all_match(kind: &str, expected: &[Text], found: &[String]) -> Result<(), String> {
    if expected.is_empty() {
        return Ok(());
    }
    for text in expected {
        if !found.iter().any(|found| text.matches(found)) {
            return Err(format!("expected {kind} annotation matching {text:?}, found: {found:?}"));
        }
    }
    match found.iter().find(|found| !expected.iter().any(|text| text.matches(found))) {
        Some(unexpected) => Err(format!("unexpected {kind} annotation {unexpected:?}")),
        None => Ok(()),
    }
}

pub(super) fn value(eval: &Eval, value: &Value) -> Result<(), String> {
    let expected = &eval.expected;
    let context = |why: String| format!("{why}; result: {}", super::show(value));
    match value {
        Value::String { value, .. } => match &expected.string {
            Some(wanted) if wanted == value => Ok(()),
            wanted => Err(context(format!("expected string {wanted:?}"))),
        },
        Value::Scalar { value, .. } => match expected.scalar {
            Some(wanted) if almost_equal(wanted, *value, EPSILON) => Ok(()),
            wanted => Err(context(format!("expected scalar {wanted:?}"))),
        },
        Value::Vector(samples) => vector(eval, samples).map_err(context),
        Value::Matrix(series) => matrix(eval, series).map_err(context),
    }
}

fn find<'a>(eval: &'a Eval, labels: &Labels) -> Result<(usize, &'a SeriesDescription), String> {
    let found = eval.expected.series.iter().enumerate().rfind(|(_, series)| series.labels == *labels);
    found.ok_or_else(|| format!("unexpected metric {labels} in result"))
}

fn vector(eval: &Eval, samples: &[VectorSample]) -> Result<(), String> {
    if eval.expected.scalar.is_some() {
        return Err("expected scalar result".to_owned());
    }
    for (position, sample) in samples.iter().enumerate() {
        let (wanted_position, series) = find(eval, &sample.labels)?;
        if eval.is_ordered() && wanted_position != position {
            return Err(format!(
                "expected metric {} at position {wanted_position} but was at {position}",
                sample.labels
            ));
        }
        let wanted = series.values.first().ok_or("expected series has no value")?;
        if !same(wanted, &sample.value) {
            return Err(format!("expected {wanted:?} for {} but got {}", sample.labels, show(&sample.value)));
        }
    }
    match eval.expected.series.iter().find(|series| !samples.iter().any(|sample| sample.labels == series.labels)) {
        Some(missing) => Err(format!("expected metric {} not found", missing.labels)),
        None => Ok(()),
    }
}

fn matrix(eval: &Eval, found: &[MatrixSeries]) -> Result<(), String> {
    if eval.is_ordered() {
        return Err("expected ordered result, but query returned a matrix".to_owned());
    }
    if !found.is_sorted_by(|a, b| a.labels <= b.labels) {
        return Err("matrix results should always be sorted by labels".to_owned());
    }
    let (start, step) = match (eval.expected.matrix, eval.mode) {
        (Some((start, _, step)), _) | (None, Mode::Range { start, step, .. }) => (start, step),
        _ => return Err("expected a vector, but got a matrix".to_owned()),
    };
    for series in found {
        let (_, wanted) = find(eval, &series.labels)?;
        let mut got: Vec<(Timestamp, SampleValue)> =
            series.floats.iter().map(|(at, value)| (*at, SampleValue::Float(*value))).collect();
        got.extend(series.histograms.iter().map(|(at, value)| (*at, SampleValue::Histogram(Arc::clone(value)))));
        got.sort_by_key(|(at, _)| *at);
        let expected: Vec<(Timestamp, &SeriesValue)> = wanted
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| **value != SeriesValue::Omitted)
            .map(|(index, value)| (Timestamp(start.0 + index as i64 * step.as_millis() as i64), value))
            .collect();
        if got.len() != expected.len() {
            return Err(format!("expected {} points for {} but got {}", expected.len(), series.labels, got.len()));
        }
        for ((at, value), (wanted_at, wanted)) in got.iter().zip(expected) {
            if *at != wanted_at || !same(wanted, value) {
                return Err(format!(
                    "expected {wanted:?} at {} for {} but got {} at {}",
                    wanted_at.0,
                    series.labels,
                    show(value),
                    at.0
                ));
            }
        }
    }
    match eval.expected.series.iter().find(|series| !found.iter().any(|found| found.labels == series.labels)) {
        Some(missing) => Err(format!("expected metric {} not found", missing.labels)),
        None => Ok(()),
    }
}

pub(super) fn show(value: &SampleValue) -> String {
    match value {
        SampleValue::Float(value) => value.to_string(),
        SampleValue::Histogram(histogram) => histogram.test_expression(),
    }
}

fn same(wanted: &SeriesValue, got: &SampleValue) -> bool {
    match (wanted, got) {
        (SeriesValue::Float(wanted), SampleValue::Float(got)) => almost_equal(*wanted, *got, EPSILON),
        (SeriesValue::Histogram { value, hint_given }, SampleValue::Histogram(got)) => {
            same_histogram(value, got, *hint_given)
        }
        _ => false,
    }
}

fn same_histogram(wanted: &FloatHistogram, got: &FloatHistogram, with_hint: bool) -> bool {
    let tidy = |histogram: &FloatHistogram| {
        let mut histogram = histogram.clone();
        histogram.compact(0);
        histogram
    };
    let (wanted, got) = (tidy(wanted), tidy(got));
    let close =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| almost_equal(*a, *b, EPSILON));
    wanted.schema == got.schema
        && close(&[wanted.count, wanted.sum, wanted.zero_count], &[got.count, got.sum, got.zero_count])
        && wanted.zero_threshold == got.zero_threshold
        && (!wanted.is_custom() || wanted.custom_values == got.custom_values)
        && wanted.positive_spans == got.positive_spans
        && wanted.negative_spans == got.negative_spans
        && close(&wanted.positive_buckets, &got.positive_buckets)
        && close(&wanted.negative_buckets, &got.negative_buckets)
        && (!with_hint || wanted.counter_reset == got.counter_reset)
}

/// The middle step of a range query as the instant query's value would be.
pub(super) fn middle(range: &Value, at: Timestamp, instant: &Value) -> Value {
    let Value::Matrix(series) = range else { return range.clone() };
    let sample = |series: &MatrixSeries| {
        let float = series.floats.iter().find(|(time, _)| *time == at).map(|(_, value)| SampleValue::Float(*value));
        let histogram = || {
            let point = series.histograms.iter().find(|(time, _)| *time == at);
            point.map(|(_, value)| SampleValue::Histogram(Arc::clone(value)))
        };
        let value = float.or_else(histogram)?;
        Some(VectorSample { labels: series.labels.clone(), at, value })
    };
    let samples: Vec<VectorSample> = series.iter().filter_map(sample).collect();
    match (instant, samples.first().map(|sample| &sample.value)) {
        (Value::Scalar { .. }, Some(SampleValue::Float(value))) => Value::Scalar { at, value: *value },
        _ => Value::Vector(samples),
    }
}
