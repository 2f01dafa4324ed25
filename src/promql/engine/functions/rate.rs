//! `rate`, `increase`, `delta`, `irate`, `idelta`.

use std::sync::Arc;

use promesh_model::storage::HistogramPoint;
use promesh_model::{CounterReset, FloatHistogram};

use super::super::annotations::{Note, Operation};
use super::super::grid::Sample;
use super::super::range::{RangeCall, Window, as_gauge, started_anew};
use super::extended;

pub(super) fn rate(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    extrapolated(call, window, true, true)
}

pub(super) fn increase(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    extrapolated(call, window, true, false)
}

pub(super) fn delta(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    extrapolated(call, window, false, false)
}

pub(super) fn irate(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    instant(call, window, true)
}

pub(super) fn idelta(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    instant(call, window, false)
}

/// Subtracts, with remarks; false when the two do not go together.
pub(super) fn subtract(call: &mut RangeCall<'_>, from: &mut FloatHistogram, other: &FloatHistogram) -> bool {
    match from.sub(other) {
        Ok(combined) => {
            if combined.bounds_reconciled {
                call.note(|_| Note::BoundsReconciled(Operation::Subtraction));
            }
            true
        }
        Err(_) => {
            call.note(Note::MixedExponentialCustom);
            false
        }
    }
}

/// Adds, with remarks; false when the two do not go together.
pub(super) fn add(call: &mut RangeCall<'_>, to: &mut FloatHistogram, other: &FloatHistogram) -> bool {
    match to.add(other) {
        Ok(combined) => {
            if combined.bounds_reconciled {
                call.note(|_| Note::BoundsReconciled(Operation::Addition));
            }
            true
        }
        Err(_) => {
            call.note(Note::MixedExponentialCustom);
            false
        }
    }
}

/// Whether a start timestamp lies within the samples it should follow.
///
/// Source: prometheus `promql.checkStartTimeOverlap`.
fn overlaps(before_start: i64, before: i64, start: i64) -> bool {
    start != 0 && start < before && start != before_start
}

fn float_increase(call: &mut RangeCall<'_>, window: &Window<'_>, counter: bool) -> f64 {
    let values = window.values;
    let mut increase = values[values.len() - 1] - values[0];
    if !counter {
        return increase;
    }
    let overlap = |at: usize| overlaps(window.starts[at - 1], window.times[at - 1], window.starts[at]);
    if (1..window.starts.len()).any(overlap) {
        call.note(Note::StartTimeOverlap);
    }
    // The series knows where it was reset; those after the window's first sample count.
    let from = window.resets.partition_point(|at| *at <= window.first);
    for reset in window.resets[from..].iter().take_while(|at| **at < window.first + values.len()) {
        increase += values[reset - window.first - 1];
    }
    increase
}

/// The increase between first and last sample, stretched to the range.
///
/// If samples are close to an edge of the range, the increase is extended to it; else by half the usual distance
/// between samples, and for counters never beyond where they would have been zero.
///
/// Source: prometheus `promql.extrapolatedRate`.
fn extrapolated(call: &mut RangeCall<'_>, window: &Window<'_>, counter: bool, per_second: bool) -> Option<Sample> {
    if window.is_mixed() {
        call.note(Note::MixedFloatsHistograms);
        return None;
    }
    if call.anchored || call.smoothed {
        return extended::rate(call, window, counter, per_second);
    }
    let points = window.histograms;
    let (count, first, last) = match (window.times, points) {
        ([first, .., last], _) => (window.times.len(), *first, *last),
        ([only], _) => (1, *only, *only),
        ([], [only]) => (1, only.timestamp, only.timestamp),
        ([], [first, .., last]) => (points.len(), first.timestamp, last.timestamp),
        ([], []) => return None,
    };
    let mut float = 0.0;
    let mut histogram = None;
    if !window.values.is_empty() {
        float = float_increase(call, window, counter);
    } else if points.len() > 1 {
        histogram = Some(histogram_increase(call, window, counter)?);
    }
    let starts_with = match window.values {
        [] => points.first().map(|point| window.start_of(point)),
        _ => window.starts.first().copied(),
    };
    let mut to_start = (first - window.start) as f64 / 1000.0;
    let mut to_end = (window.end - last) as f64 / 1000.0;
    let mut sampled = (last - first) as f64 / 1000.0;
    let average = if count > 1 { sampled / (count - 1) as f64 } else { 0.0 };
    let threshold = average * 1.1;
    let began = starts_with.filter(|start| counter && *start != 0 && *start > window.start && *start < first);
    if let Some(start) = began {
        // The counter began at zero within the range.
        to_start = 0.0;
        sampled = (last - start) as f64 / 1000.0;
        if let Some(value) = window.values.first() {
            float += value;
        } else if let Some(histogram) = &mut histogram {
            if !add(call, histogram, &points[0].value) {
                return None;
            }
        } else {
            histogram = Some((*points[0].value).clone());
        }
    } else if count == 1 {
        return None;
    } else {
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if counter {
            to_start = to_start.min(to_zero(window, float, histogram.as_ref(), sampled).unwrap_or(to_start));
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
    if per_second {
        factor /= call.seconds;
    }
    Some(match histogram {
        Some(mut histogram) => {
            histogram.scale(factor);
            Sample::Histogram(Arc::new(histogram))
        }
        None => Sample::Float(float * factor),
    })
}

/// How long before the first sample a counter with this slope was zero.
fn to_zero(window: &Window<'_>, float: f64, histogram: Option<&FloatHistogram>, sampled: f64) -> Option<f64> {
    if let Some(first) = window.values.first() {
        return (float > 0.0 && *first >= 0.0).then(|| sampled * (first / float));
    }
    let (histogram, first) = (histogram?, window.histograms.first()?);
    (histogram.count > 0.0 && first.value.count >= 0.0).then(|| sampled * (first.value.count / histogram.count))
}

/// The increase of a histogram, counter resets taken into account.
///
/// Source: prometheus `promql.histogramRate`.
fn histogram_increase(call: &mut RangeCall<'_>, window: &Window<'_>, counter: bool) -> Option<FloatHistogram> {
    let points = window.histograms;
    let (first, last) = (&points[0].value, &points[points.len() - 1].value);
    let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset == CounterReset::Gauge;
    if counter && (is_gauge(first) || is_gauge(last)) {
        call.note(Note::NotCounter);
    }
    let anew = |before: &HistogramPoint, now: &HistogramPoint| {
        started_anew(window.start_of(before), before.timestamp, window.start_of(now), now.timestamp)
    };
    let mut base = Arc::clone(first);
    let second = &points[1];
    if counter && (anew(&points[0], second) || second.value.detect_reset(first)) {
        // The first sample is not needed: what it was made of cannot disturb.
        base = Arc::new(FloatHistogram {
            schema: second.value.schema,
            custom_values: Arc::clone(&second.value.custom_values),
            ..FloatHistogram::default()
        });
    }
    let custom = base.is_custom();
    if last.is_custom() != custom {
        call.note(Note::MixedExponentialCustom);
        return None;
    }
    let mut schema = last.schema.min(base.schema);
    if counter {
        for point in &points[1..points.len() - 1] {
            if is_gauge(&point.value) {
                call.note(Note::NotCounter);
            }
            schema = schema.min(point.value.schema);
            if point.value.is_custom() != custom {
                call.note(Note::MixedExponentialCustom);
                return None;
            }
        }
    }
    let mut result = (**last).clone();
    result.reduce_resolution(schema);
    if !subtract(call, &mut result, &base) {
        return None;
    }
    if counter {
        let overlap =
            |pair: &[HistogramPoint]| overlaps(window.start_of(&pair[0]), pair[0].timestamp, window.start_of(&pair[1]));
        if points.windows(2).any(overlap) {
            call.note(Note::StartTimeOverlap);
        }
        let mut before = base;
        for pair in points.windows(2) {
            if (anew(&pair[0], &pair[1]) || pair[1].value.detect_reset(&before)) && !add(call, &mut result, &before) {
                return None;
            }
            before = Arc::clone(&pair[1].value);
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        call.note(Note::NotGauge);
    }
    result.counter_reset = CounterReset::Gauge;
    result.compact(0);
    Some(result)
}

/// One of the last two samples of a window.
#[derive(Clone)]
struct Point {
    at: i64,
    start: i64,
    value: Sample,
}

/// The last two samples, floats and histograms alike.
fn last_two(window: &Window<'_>) -> Option<[Point; 2]> {
    let floats = window.times.len();
    let mut points: Vec<Point> = (floats.saturating_sub(2)..floats)
        .map(|index| Point {
            at: window.times[index],
            start: window.starts.get(index).copied().unwrap_or(0),
            value: Sample::Float(window.values[index]),
        })
        .collect();
    let skip = window.histograms.len().saturating_sub(2);
    points.extend(window.histograms[skip..].iter().map(|point| Point {
        at: point.timestamp,
        start: window.start_of(point),
        value: Sample::Histogram(Arc::clone(&point.value)),
    }));
    points.sort_by_key(|point| point.at);
    let second = points.pop()?;
    Some([points.pop()?, second])
}

/// The change between the last two samples.
///
/// Source: prometheus `promql.instantValue`.
fn instant(call: &mut RangeCall<'_>, window: &Window<'_>, per_second: bool) -> Option<Sample> {
    let [before, now] = last_two(window)?;
    let seconds = (now.at - before.at) as f64 / 1000.0;
    if now.at == before.at {
        return None;
    }
    let anew = started_anew(before.start, before.at, now.start, now.at);
    match (before.value, now.value) {
        (Sample::Float(old), Sample::Float(new)) => {
            let change = if per_second && (new < old || anew) { new } else { new - old };
            Some(Sample::Float(if per_second { change / seconds } else { change }))
        }
        (Sample::Histogram(old), Sample::Histogram(new)) => {
            let gauges = [&old, &new].map(|histogram| histogram.counter_reset == CounterReset::Gauge);
            if per_second && gauges.contains(&true) {
                call.note(Note::NotCounter);
            }
            if !per_second && gauges.contains(&false) {
                call.note(Note::NotGauge);
            }
            let mut result = (*new).clone();
            if (!per_second || (!anew && !new.detect_reset(&old))) && !subtract(call, &mut result, &old) {
                return None;
            }
            if per_second {
                result.compact(0);
                result.divide(seconds);
            }
            Some(as_gauge(result))
        }
        _ => {
            call.note(Note::MixedFloatsHistograms);
            None
        }
    }
}
