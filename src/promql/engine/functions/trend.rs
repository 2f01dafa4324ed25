//! `deriv`, `predict_linear`, `double_exponential_smoothing`.

use promesh_model::histogram::kahan_add;

use super::super::QueryError;
use super::super::annotations::Note;
use super::super::grid::Sample;
use super::super::range::{RangeCall, Window};

/// Slope and value at `origin` of the least-squares line.
///
/// Source: prometheus `promql.linearRegression`.
fn regression(window: &Window<'_>, origin: i64) -> (f64, f64) {
    let first = window.values[0];
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    for (at, y) in window.times.iter().zip(window.values) {
        let x = (at - origin) as f64 / 1000.0;
        x_sum = kahan_add(x, x_sum.0, x_sum.1);
        y_sum = kahan_add(*y, y_sum.0, y_sum.1);
        xy_sum = kahan_add(x * y, xy_sum.0, xy_sum.1);
        xx_sum = kahan_add(x * x, xx_sum.0, xx_sum.1);
    }
    if window.values[1..].iter().all(|y| *y == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let n = window.values.len() as f64;
    let [x, y, xy, xx] = [x_sum, y_sum, xy_sum, xx_sum].map(|(sum, compensation)| sum + compensation);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// Notes histograms beside floats; false when there are too few floats.
fn enough(call: &mut RangeCall<'_>, window: &Window<'_>) -> bool {
    if !window.values.is_empty() && !window.histograms.is_empty() {
        call.note(Note::IgnoredInMixedRange);
    }
    window.values.len() >= 2
}

pub(super) fn deriv(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    // An origin near the samples keeps the numbers small.
    enough(call, window).then(|| Sample::Float(regression(window, window.times[0]).0))
}

pub(super) fn predict_linear(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    if !enough(call, window) {
        return None;
    }
    let (slope, intercept) = regression(window, window.at);
    Some(Sample::Float(slope * call.params[0] + intercept))
}

/// Source: <https://en.wikipedia.org/wiki/Exponential_smoothing>, as in prometheus.
pub(super) fn double_exponential_smoothing(call: &mut RangeCall<'_>, window: &Window<'_>) -> Option<Sample> {
    let [smoothing, trend] = call.params;
    for (name, short, factor) in [("smoothing", "sf", smoothing), ("trend", "tf", trend)] {
        if factor <= 0.0 || factor >= 1.0 {
            let why = format!("invalid {name} factor. Expected: 0 < {short} < 1, got: {factor:.6}");
            call.error = Some(QueryError::Execution(why));
            return None;
        }
    }
    if !enough(call, window) {
        return None;
    }
    let values = window.values;
    let (mut before, mut level) = (0.0, values[0]);
    let mut slope = values[1] - values[0];
    for (index, value) in values.iter().enumerate().skip(1) {
        if index > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = smoothing * value + (1.0 - smoothing) * (level + slope);
        (before, level) = (level, next);
    }
    Some(Sample::Float(level))
}
