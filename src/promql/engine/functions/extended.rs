//! `anchored` and `smoothed` ranges; `changes` and `resets`, which may be anchored.
//!
//! An anchored range begins at the last sample before it; a smoothed one also ends at the first after it, and values at
//! its edges are interpolated.

use promesh_model::storage::HistogramPoint;
use promesh_model::{CounterReset, FloatHistogram};

use super::super::annotations::{Note, Operation};
use super::super::grid::Sample;
use super::super::range::{RangeCall, Window, as_gauge, interpolate_histograms, started_anew};
use super::rate::{add, subtract};

/// First and last sample to use, given how to read the n-th timestamp.
///
/// The last index is never looked at by the searches, as upstream: it is the fallback.
fn edges(count: usize, time: impl Fn(usize) -> i64, start: i64, end: i64, smoothed: bool) -> (usize, usize) {
    let last = count - 1;
    let search = |holds: &dyn Fn(usize) -> bool| (0..last).find(|at| holds(*at)).unwrap_or(last);
    let first = search(&|at| time(at) > start).saturating_sub(1);
    let last = if smoothed { search(&|at| time(at) >= end) } else { last };
    (first, last)
}

/// The value at an instant on the line between two samples; a reset counter is taken to have begun at zero.
fn interpolate(before: (i64, f64), after: (i64, f64), at: i64, counter: bool) -> f64 {
    let from = if counter && after.1 < before.1 { 0.0 } else { before.1 };
    from + (after.1 - from) * (at - before.0) as f64 / (after.0 - before.0) as f64
}

fn left_edge(points: &[(i64, f64)], first: usize, start: i64, smoothed: bool, counter: bool) -> f64 {
    match points.get(first + 1) {
        Some(next) if smoothed && points[first].0 < start => interpolate(points[first], *next, start, counter),
        _ => points[first].1,
    }
}

fn right_edge(points: &[(i64, f64)], last: usize, end: i64, smoothed: bool, counter: bool) -> f64 {
    if smoothed && last > 0 && points[last].0 > end {
        return interpolate(points[last - 1], points[last], end, counter);
    }
    points[last].1
}

/// The samples of an extended range as they are shown: with values at both edges.
///
/// Source: prometheus `promql.extendFloats`.
pub(crate) fn extend(points: &[(i64, f64)], start: i64, end: i64, smoothed: bool) -> Vec<(i64, f64)> {
    let (mut first, mut last) = edges(points.len(), |at| points[at].0, start, end, smoothed);
    if points[last].0 <= start {
        return Vec::new();
    }
    let left = left_edge(points, first, start, smoothed, false);
    let right = right_edge(points, last, end, smoothed, false);
    if points[first].0 <= start {
        first += 1;
    }
    let mut inner = last + 1;
    if points[last].0 >= end {
        inner = last;
        last = last.saturating_sub(1);
    }
    debug_assert!(last < points.len());
    let mut out = vec![(start, left)];
    out.extend_from_slice(points.get(first..inner).unwrap_or(&[]));
    out.push((end, right));
    out
}

/// `rate`, `increase` and `delta` over an extended range.
pub(super) fn rate(call: &mut RangeCall<'_>, window: &Window<'_>, counter: bool, per_second: bool) -> Option<Sample> {
    if window.values.is_empty() {
        return histogram_rate(call, window, counter, per_second);
    }
    let points: Vec<(i64, f64)> = window.times.iter().copied().zip(window.values.iter().copied()).collect();
    let (first, last) = edges(points.len(), |at| points[at].0, window.start, window.end, call.smoothed);
    if points[last].0 <= window.start || (call.smoothed && points[first].0 > window.end) {
        return None;
    }
    let left = left_edge(&points, first, window.start, call.smoothed, counter);
    let right = right_edge(&points, last, window.end, call.smoothed, counter);
    let mut result = right - left;
    if counter {
        let from = if points[first].0 <= window.start { first + 1 } else { first };
        let to = if points[last].0 >= window.end { last } else { last + 1 };
        let mut before = left;
        let inner = points.get(from..to).unwrap_or(&[]).iter().map(|point| point.1);
        for value in inner.chain([right]) {
            if value < before {
                result += before;
            }
            before = value;
        }
    }
    Some(Sample::Float(if per_second { result / call.seconds } else { result }))
}

fn note_reconciled(call: &mut RangeCall<'_>, reconciled: [bool; 2]) {
    for (reconciled, operation) in reconciled.into_iter().zip([Operation::Subtraction, Operation::Addition]) {
        if reconciled {
            call.note(|_| Note::BoundsReconciled(operation));
        }
    }
}

fn between(
    call: &mut RangeCall<'_>,
    before: &HistogramPoint,
    after: &HistogramPoint,
    at: i64,
    counter: bool,
) -> Option<FloatHistogram> {
    match interpolate_histograms(before, after, at, counter) {
        Ok((histogram, reconciled)) => {
            note_reconciled(call, reconciled);
            Some(histogram)
        }
        Err(_) => {
            call.note(Note::MixedExponentialCustom);
            None
        }
    }
}

/// Source: prometheus `promql.extendedHistogramRate`.
fn histogram_rate(call: &mut RangeCall<'_>, window: &Window<'_>, counter: bool, per_second: bool) -> Option<Sample> {
    let points = window.histograms;
    let (first, last) = edges(points.len(), |at| points[at].timestamp, window.start, window.end, call.smoothed);
    let too_early = points[last].timestamp <= window.start;
    if too_early || (call.smoothed && points[first].timestamp > window.end) {
        return None;
    }
    let custom = points[first].value.is_custom();
    for point in &points[first..=last] {
        if point.value.is_custom() != custom {
            call.note(Note::MixedExponentialCustom);
            return None;
        }
        if counter && point.value.counter_reset == CounterReset::Gauge {
            call.note(Note::NotCounter);
        }
    }
    let left = match points.get(first + 1) {
        Some(next) if call.smoothed && points[first].timestamp < window.start => {
            between(call, &points[first], next, window.start, counter)?
        }
        _ => (*points[first].value).clone(),
    };
    let right = if call.smoothed && last > 0 && points[last].timestamp > window.end {
        between(call, &points[last - 1], &points[last], window.end, counter)?
    } else {
        (*points[last].value).clone()
    };
    let gauge = |histogram: &FloatHistogram| histogram.counter_reset == CounterReset::Gauge;
    if !counter && (!gauge(&left) || !gauge(&right)) {
        call.note(Note::NotGauge);
    }
    let mut result = right.clone();
    if !subtract(call, &mut result, &left) {
        return None;
    }
    if counter
        && let Some(lost) = lost_to_resets(call, window, first, last, &left, &right)?
        && !add(call, &mut result, &lost)
    {
        return None;
    }
    if per_second {
        result.divide(call.seconds);
    }
    Some(as_gauge(result))
}

/// What resets between the edges took away. The outer `None` ends the calculation.
///
/// Source: prometheus `promql.correctForCounterResetsHistogram`.
fn lost_to_resets(
    call: &mut RangeCall<'_>,
    window: &Window<'_>,
    first: usize,
    last: usize,
    left: &FloatHistogram,
    right: &FloatHistogram,
) -> Option<Option<FloatHistogram>> {
    let points = window.histograms;
    let mut from = first + 1;
    let mut before = left;
    if let Some(next) = points.get(from)
        && call.smoothed
        && points[first].timestamp < window.start
        && next.value.detect_reset(&points[first].value)
    {
        // The left edge was interpolated across this reset: it is accounted for.
        before = &next.value;
        from += 1;
    }
    // The last sample is represented by the right edge.
    if from > last {
        return Some(None);
    }
    let mut lost: Option<FloatHistogram> = None;
    for now in points[from..last].iter().map(|point| &*point.value).chain([right]) {
        if now.detect_reset(before) {
            match &mut lost {
                None => lost = Some(before.clone()),
                Some(lost) => {
                    if !add(call, lost, before) {
                        return None;
                    }
                }
            }
        }
        before = now;
    }
    Some(lost)
}

/// A float or a histogram with its times.
#[derive(Clone, Copy)]
struct Mixed<'a> {
    at: i64,
    start: i64,
    float: f64,
    histogram: Option<&'a FloatHistogram>,
}

/// All samples in time order; of an anchored range, from the last one at or before its start.
fn in_order<'a>(call: &RangeCall<'_>, window: &Window<'a>) -> Option<Vec<Mixed<'a>>> {
    let starts = window.starts;
    let floats = window.times.iter().enumerate().map(|(index, at)| Mixed {
        at: *at,
        start: starts.get(index).copied().unwrap_or(0),
        float: window.values[index],
        histogram: None,
    });
    let mut all: Vec<Mixed<'a>> = floats.collect();
    if !window.histograms.is_empty() {
        all.extend(window.histograms.iter().map(|point| Mixed {
            at: point.timestamp,
            start: window.start_of(point),
            float: 0.0,
            histogram: Some(&point.value),
        }));
        all.sort_by_key(|sample| sample.at);
    }
    if call.anchored {
        let before = all.partition_point(|sample| sample.at <= window.start);
        if before == all.len() {
            return None;
        }
        all.drain(..before.saturating_sub(1));
    }
    Some(all)
}

pub(super) fn resets(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let samples = in_order(call, window)?;
    let reset = |pair: &&[Mixed<'_>]| {
        let (before, now) = (pair[0], pair[1]);
        let anew = started_anew(before.start, before.at, now.start, now.at);
        match (before.histogram, now.histogram) {
            (None, None) => now.float < before.float || anew,
            (Some(old), Some(new)) => anew || new.detect_reset(old),
            _ => true,
        }
    };
    Some(Sample::Float(samples.windows(2).filter(reset).count() as f64))
}

pub(super) fn changes(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let samples = in_order(call, window)?;
    let changed = |pair: &&[Mixed<'_>]| match (pair[0].histogram, pair[1].histogram) {
        (None, None) => pair[0].float != pair[1].float && !(pair[0].float.is_nan() && pair[1].float.is_nan()),
        (Some(old), Some(new)) => !new.same_data(old),
        _ => true,
    };
    Some(Sample::Float(samples.windows(2).filter(changed).count() as f64))
}
