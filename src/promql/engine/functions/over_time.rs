//! `*_over_time` and the table of all functions that take a range.

use std::sync::Arc;

use promesh_model::CounterReset;
use promesh_model::histogram::{CompensatedHistogram, kahan_add};

use super::super::annotations::{Note, Operation};
use super::super::grid::Sample;
use super::super::range::{RangeCall, Window};
use super::{extended, quantile, rate, trend};

/// A function of a range.
#[derive(Clone, Copy)]
pub(crate) struct RangeFunction {
    pub apply: fn(&mut RangeCall<'_>, &Window<'_>) -> Option<Sample>,
    /// Whether it wants to know where the counter was reset.
    pub counter: bool,
    /// Whether it is `rate` or `increase`.
    pub per_second_or_increase: bool,
}

/// The function of this name.
pub(crate) fn range_function(name: &str) -> Option<RangeFunction> {
    let plain = |apply| RangeFunction { apply, counter: false, per_second_or_increase: false };
    let counter = |apply| RangeFunction { apply, counter: true, per_second_or_increase: true };
    Some(match name {
        "rate" => counter(rate::rate),
        "increase" => counter(rate::increase),
        "delta" => plain(rate::delta),
        "irate" => plain(rate::irate),
        "idelta" => plain(rate::idelta),
        "changes" => plain(extended::changes),
        "resets" => plain(extended::resets),
        "deriv" => plain(trend::deriv),
        "predict_linear" => plain(trend::predict_linear),
        "double_exponential_smoothing" => plain(trend::double_exponential_smoothing),
        "avg_over_time" => plain(avg),
        "sum_over_time" => plain(sum),
        "count_over_time" => plain(count),
        "min_over_time" => plain(min),
        "max_over_time" => plain(max),
        "first_over_time" => plain(first),
        "last_over_time" => plain(last),
        "present_over_time" | "absent_over_time" => plain(present),
        "stddev_over_time" => plain(stddev),
        "stdvar_over_time" => plain(stdvar),
        "quantile_over_time" => plain(quantile_over_time),
        "mad_over_time" => plain(mad),
        "ts_of_first_over_time" => plain(ts_of_first),
        "ts_of_last_over_time" => plain(ts_of_last),
        "ts_of_min_over_time" => plain(ts_of_min),
        "ts_of_max_over_time" => plain(ts_of_max),
        _ => return None,
    })
}

/// Floats of the window; notes histograms that are left out. Nothing without floats.
pub(super) fn floats_only<'w>(call: &mut RangeCall<'_>, window: &Window<'w>) -> Option<&'w [f64]> {
    if window.values.is_empty() {
        return None;
    }
    if !window.histograms.is_empty() {
        call.note(Note::IgnoredInMixedRange);
    }
    Some(window.values)
}

fn present(_: &mut RangeCall<'_>, _: &Window<'_>) -> Option<Sample> {
    Some(Sample::Float(1.0))
}

fn count(_: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    Some(Sample::Float((window.values.len() + window.histograms.len()) as f64))
}

fn first(_: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    match (window.times.first(), window.histograms.first()) {
        (Some(at), Some(point)) if point.timestamp <= *at => Some(Sample::Histogram(Arc::clone(&point.value))),
        (Some(_), _) => Some(Sample::Float(window.values[0])),
        (None, point) => point.map(|point| Sample::Histogram(Arc::clone(&point.value))),
    }
}

fn last(_: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    match (window.times.last(), window.histograms.last()) {
        (Some(at), Some(point)) if point.timestamp >= *at => Some(Sample::Histogram(Arc::clone(&point.value))),
        (Some(_), _) => window.values.last().map(|value| Sample::Float(*value)),
        (None, point) => point.map(|point| Sample::Histogram(Arc::clone(&point.value))),
    }
}

fn ts_of_first(_: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let float = window.times.first().copied();
    let histogram = window.histograms.first().map(|point| point.timestamp);
    seconds(float.into_iter().chain(histogram).min())
}

fn ts_of_last(_: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let float = window.times.last().copied();
    let histogram = window.histograms.last().map(|point| point.timestamp);
    seconds(float.into_iter().chain(histogram).max())
}

fn seconds(ms: Option<i64>) -> Option<Sample> {
    ms.map(|ms| Sample::Float(ms as f64 / 1000.0))
}

/// The index of the value that beats the others; NaN is beaten by anything.
fn best(values: &[f64], beats: impl Fn(f64, f64) -> bool) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if beats(*value, values[best]) || values[best].is_nan() {
            best = index;
        }
    }
    best
}

fn min(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let values = floats_only(call, window)?;
    Some(Sample::Float(values[best(values, |value, so_far| value < so_far)]))
}

fn max(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let values = floats_only(call, window)?;
    Some(Sample::Float(values[best(values, |value, so_far| value > so_far)]))
}

fn ts_of_min(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let values = floats_only(call, window)?;
    seconds(Some(window.times[best(values, |value, so_far| value <= so_far)]))
}

fn ts_of_max(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let values = floats_only(call, window)?;
    seconds(Some(window.times[best(values, |value, so_far| value >= so_far)]))
}

fn sum(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    if window.is_mixed() {
        call.note(Note::MixedFloatsHistograms);
        return None;
    }
    if window.values.is_empty() {
        return histogram_total(call, window, false);
    }
    let (mut sum, mut compensation) = (0.0, 0.0);
    for value in window.values {
        (sum, compensation) = kahan_add(*value, sum, compensation);
    }
    Some(Sample::Float(if sum.is_infinite() { sum } else { sum + compensation }))
}

fn avg(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    if window.is_mixed() {
        call.note(Note::MixedFloatsHistograms);
        return None;
    }
    if window.values.is_empty() {
        return histogram_total(call, window, true);
    }
    Some(Sample::Float(mean(window.values)))
}

/// The mean: the sum divided by the count, or, once the sum would overflow, carried on from mean to mean.
pub(crate) fn mean(values: &[f64]) -> f64 {
    let (mut sum, mut compensation) = (values[0], 0.0);
    let mut values = values.iter().enumerate().skip(1);
    let mut count = 1.0;
    for (index, value) in values.by_ref() {
        let (next, next_compensation) = kahan_add(*value, sum, compensation);
        if next.is_infinite() {
            return incremental_mean(sum / count, compensation / count, index, *value, values.map(|(_, value)| *value));
        }
        (sum, compensation) = (next, next_compensation);
        count = (index + 1) as f64;
    }
    sum / count + compensation / count
}

fn incremental_mean(
    mut mean: f64,
    mut compensation: f64,
    mut count: usize,
    first: f64,
    rest: impl Iterator<Item = f64>,
) -> f64 {
    for value in std::iter::once(first).chain(rest) {
        count += 1;
        let n = count as f64;
        let share = (n - 1.0) / n;
        (mean, compensation) = kahan_add(value / n, share * mean, share * compensation);
    }
    mean + compensation
}

/// Sum or mean of histograms.
fn histogram_total(call: &mut RangeCall<'_>, window: &Window<'_>, mean: bool) -> Option<Sample> {
    let mut total = HistogramTotal::new((*window.histograms[0].value).clone(), mean);
    for point in &window.histograms[1..] {
        if total.add(&point.value).is_err() {
            call.note(Note::MixedExponentialCustom);
            return None;
        }
    }
    let (result, collision, reconciled) = total.finish();
    if collision {
        call.note(|_| Note::ResetCollision(Operation::Aggregation));
    }
    if reconciled {
        call.note(|_| Note::BoundsReconciled(Operation::Aggregation));
    }
    Some(Sample::Histogram(Arc::new(result)))
}

/// A sum or mean of histograms in the making.
#[derive(Clone, Debug)]
pub(crate) struct HistogramTotal {
    sum: CompensatedHistogram,
    count: f64,
    mean: bool,
    incremental: bool,
    reset_seen: bool,
    not_reset_seen: bool,
    reconciled: bool,
}

impl HistogramTotal {
    pub fn new(first: promesh_model::FloatHistogram, mean: bool) -> HistogramTotal {
        HistogramTotal {
            reset_seen: first.counter_reset == CounterReset::Reset,
            not_reset_seen: first.counter_reset == CounterReset::NotReset,
            sum: CompensatedHistogram::new(first),
            count: 1.0,
            mean,
            incremental: false,
            reconciled: false,
        }
    }

    /// Adds one.
    ///
    /// # Errors
    /// When exponential and custom buckets meet.
    pub fn add(
        &mut self,
        other: &promesh_model::FloatHistogram,
    ) -> Result<(), promesh_model::histogram::HistogramError> {
        self.reset_seen |= other.counter_reset == CounterReset::Reset;
        self.not_reset_seen |= other.counter_reset == CounterReset::NotReset;
        self.count += 1.0;
        if !self.mean {
            self.reconciled |= self.sum.add(other)?.bounds_reconciled;
            return Ok(());
        }
        if !self.incremental {
            let mut sum = self.sum.clone();
            let combined = sum.add(other)?;
            self.reconciled |= combined.bounds_reconciled;
            if !sum.sum.has_overflow() {
                self.sum = sum;
                return Ok(());
            }
            self.incremental = true;
            self.sum.divide(self.count - 1.0);
        }
        self.sum.scale((self.count - 1.0) / self.count);
        let mut share = other.clone();
        share.divide(self.count);
        self.reconciled |= self.sum.add(&share)?.bounds_reconciled;
        Ok(())
    }

    /// The result, whether resets and non-resets met, whether custom bounds were reconciled.
    pub fn finish(mut self) -> (promesh_model::FloatHistogram, bool, bool) {
        if self.mean && !self.incremental {
            self.sum.divide(self.count);
        }
        (self.sum.finish(), self.reset_seen && self.not_reset_seen, self.reconciled)
    }
}

fn variance(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<f64> {
    let values = floats_only(call, window)?;
    let (mut mean, mut mean_c, mut sum, mut sum_c) = (0.0, 0.0, 0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let count = (index + 1) as f64;
        let delta = value - (mean + mean_c);
        (mean, mean_c) = kahan_add(delta / count, mean, mean_c);
        (sum, sum_c) = kahan_add(delta * (value - (mean + mean_c)), sum, sum_c);
    }
    Some((sum + sum_c) / values.len() as f64)
}

fn stdvar(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    variance(call, window).map(Sample::Float)
}

fn stddev(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    variance(call, window).map(|variance| Sample::Float(variance.sqrt()))
}

fn quantile_over_time(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    if window.values.is_empty() {
        return None;
    }
    let q = call.params[0];
    if !(0.0..=1.0).contains(&q) {
        call.note(|_| Note::InvalidQuantile(q));
    }
    let values = floats_only(call, window)?;
    Some(Sample::Float(quantile::of_values(q, &mut values.to_vec())))
}

fn mad(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let mut values = floats_only(call, window)?.to_vec();
    // A NaN makes the median undefined.
    if values.iter().any(|value| value.is_nan()) {
        return Some(Sample::Float(f64::NAN));
    }
    let median = quantile::of_values(0.5, &mut values);
    for value in &mut values {
        *value = (*value - median).abs();
    }
    Some(Sample::Float(quantile::of_values(0.5, &mut values)))
}
