//! Range functions over floats alone, for windows that slide: each sample enters and leaves a window once.
//!
//! What a window needs is kept from step to step: sums and moments as two stacks (what came in since the last turn as
//! one state, what was there before as states of its ends), extremes as a queue of candidates, quantiles as a sorted list,
//! counts as prefix sums. Sums add the same numbers as a rescan with the same compensation, in another order: equal but
//! for the last bit. Series with infinities, NaN or numbers near the end of the range go the general way, where order
//! matters.

use promesh_model::histogram::kahan_add;
use promesh_model::storage::Budget;

use super::functions::quantile;
use super::grid::Steps;
use moments::Moments;

mod moments;

/// A function that can slide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sliding {
    Rate {
        counter: bool,
        per_second: bool,
    },
    Instant {
        counter: bool,
    },
    Sum,
    Avg,
    Min,
    Max,
    Count,
    First,
    Last,
    Present,
    Changes,
    Resets,
    Quantile,
    Deviation,
    Variance,
    /// Half of the values are nearer to their median than this.
    Mad,
    Slope,
    Line,
}

impl Sliding {
    pub fn of(name: &str) -> Option<Sliding> {
        Some(match name {
            "rate" => Sliding::Rate { counter: true, per_second: true },
            "increase" => Sliding::Rate { counter: true, per_second: false },
            "delta" => Sliding::Rate { counter: false, per_second: false },
            "irate" => Sliding::Instant { counter: true },
            "idelta" => Sliding::Instant { counter: false },
            "sum_over_time" => Sliding::Sum,
            "avg_over_time" => Sliding::Avg,
            "min_over_time" => Sliding::Min,
            "max_over_time" => Sliding::Max,
            "count_over_time" => Sliding::Count,
            "first_over_time" => Sliding::First,
            "last_over_time" => Sliding::Last,
            "present_over_time" => Sliding::Present,
            "changes" => Sliding::Changes,
            "resets" => Sliding::Resets,
            "quantile_over_time" => Sliding::Quantile,
            "stddev_over_time" => Sliding::Deviation,
            "stdvar_over_time" => Sliding::Variance,
            "mad_over_time" => Sliding::Mad,
            "deriv" => Sliding::Slope,
            "predict_linear" => Sliding::Line,
            _ => return None,
        })
    }

    /// Whether order and compensation could show in the result when a value is not an ordinary number.
    ///
    /// Answers the magnitude that values must stay below.
    fn wants_below(self) -> Option<f64> {
        use Sliding::{Avg, Deviation, Line, Mad, Max, Min, Quantile, Slope, Sum, Variance};
        match self {
            Sum | Avg | Min | Max | Quantile | Mad => Some(LARGE),
            Deviation | Variance | Slope | Line => Some(LARGE_SQUARED),
            _ => None,
        }
    }
}

/// Where windows lie: (t − offset − range, t − offset], t being the step or a fixed instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub steps: Steps,
    pub range: i64,
    pub offset: i64,
    pub at: Option<i64>,
}

/// One window: samples `low..high` of the series.
struct Window {
    step: usize,
    low: usize,
    high: usize,
    start: i64,
    end: i64,
}

impl Windows {
    /// Visits the windows with samples in them; answers how many samples all of them have.
    #[inline(always)]
    fn visit(&self, times: &[i64], mut visit: impl FnMut(Window)) -> u64 {
        let (mut low, mut high, mut total) = (0, 0, 0u64);
        for step in 0..self.steps.count {
            let end = self.at.unwrap_or_else(|| self.steps.at(step)).saturating_sub(self.offset);
            let start = end.saturating_sub(self.range);
            if step == 0 {
                // Storage gives what the first window needs and little before it.
                low = times.partition_point(|at| *at <= start);
                high = low;
            }
            while low < times.len() && times[low] <= start {
                low += 1;
            }
            high = high.max(low);
            while high < times.len() && times[high] <= end {
                high += 1;
            }
            if low < high {
                total += (high - low) as u64;
                visit(Window { step, low, high, start, end });
            }
        }
        total
    }
}

/// Numbers beyond this may overflow when added up.
const LARGE: f64 = 1e290;
/// Numbers beyond this may overflow when their squares are added up.
const LARGE_SQUARED: f64 = 1e140;
/// So many values are moved between two looks at the budget.
const MOVES: usize = 1 << 22;

/// Memory that is used again for each series.
#[derive(Default)]
pub(crate) struct Scratch {
    pub times: Vec<i64>,
    pub values: Vec<f64>,
    indices: Vec<usize>,
    counts: Vec<u32>,
    sums: Vec<(f64, f64)>,
    sorted: Vec<f64>,
    moments: Vec<Moments>,
}

/// One series' floats, staleness markers left out.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a> {
    pub times: &'a [i64],
    pub values: &'a [f64],
}

/// Writes a function's value at each step into `out`, which holds nothing yet; answers how many samples the windows
/// have, or `None` when the series has to go the general way, or the query is cancelled.
pub(crate) fn slide(
    sliding: Sliding,
    windows: &Windows,
    series: Floats<'_>,
    params: &[super::grid::Floats],
    scratch: &mut Scratch,
    out: &mut [f64],
    budget: &Budget,
) -> Option<u64> {
    let Floats { times, values } = series;
    if sliding.wants_below().is_some_and(|large| !values.iter().all(|value| value.abs() < large)) {
        return None;
    }
    Some(match sliding {
        Sliding::Rate { counter, per_second } => rates(windows, series, counter, per_second, scratch, out),
        Sliding::Instant { counter } => windows.visit(times, |window| {
            if window.high - window.low < 2 {
                return;
            }
            let last = window.high - 1;
            let (old, new) = (values[last - 1], values[last]);
            let change = if counter && new < old { new } else { new - old };
            let seconds = (times[last] - times[last - 1]) as f64 / 1000.0;
            out[window.step] = if counter { change / seconds } else { change };
        }),
        Sliding::Sum => sums(windows, series, scratch, |step, (sum, compensation), _| out[step] = sum + compensation),
        Sliding::Avg => sums(windows, series, scratch, |step, (sum, compensation), count| {
            out[step] = sum / count + compensation / count;
        }),
        Sliding::Min => extremes(windows, series, &mut scratch.indices, out, |new, old| new < old),
        Sliding::Max => extremes(windows, series, &mut scratch.indices, out, |new, old| new > old),
        Sliding::Count => windows.visit(times, |window| out[window.step] = (window.high - window.low) as f64),
        Sliding::First => windows.visit(times, |window| out[window.step] = values[window.low]),
        Sliding::Last => windows.visit(times, |window| out[window.step] = values[window.high - 1]),
        Sliding::Present => windows.visit(times, |window| out[window.step] = 1.0),
        Sliding::Changes => {
            let changed = |old: f64, new: f64| old != new && !(old.is_nan() && new.is_nan());
            pairs(windows, series, &mut scratch.counts, out, changed)
        }
        Sliding::Resets => pairs(windows, series, &mut scratch.counts, out, |old, new| new < old),
        Sliding::Quantile => {
            let param = params.first().filter(|param| param.iter().all(|q| (0.0..=1.0).contains(q)))?;
            let sorted = &mut scratch.sorted;
            ranked(windows, series, sorted, budget, |step, sorted| {
                out[step] = quantile::of_sorted(param[step], sorted);
            })?
        }
        Sliding::Mad => {
            let sorted = &mut scratch.sorted;
            ranked(windows, series, sorted, budget, |step, sorted| {
                out[step] = median_deviation(sorted);
            })?
        }
        Sliding::Deviation => Moments::slide(windows, series, &mut scratch.moments, |window, moments| {
            out[window.step] = moments.variance().sqrt();
        }),
        Sliding::Variance => Moments::slide(windows, series, &mut scratch.moments, |window, moments| {
            out[window.step] = moments.variance();
        }),
        Sliding::Slope => Moments::slide(windows, series, &mut scratch.moments, |window, moments| {
            if window.high - window.low >= 2 {
                out[window.step] = moments.slope();
            }
        }),
        Sliding::Line => {
            let ahead = params.first()?;
            Moments::slide(windows, series, &mut scratch.moments, |window, moments| {
                if window.high - window.low >= 2 {
                    // Instants are counted from the series' first.
                    let origin = (windows.steps.at(window.step) - times[0]) as f64 / 1000.0;
                    out[window.step] = moments.slope() * ahead[window.step] + moments.value_at(origin);
                }
            })
        }
    })
}

/// `rate`, `increase`, `delta`; as `functions::rate::extrapolated` for floats without start timestamps.
fn rates(
    windows: &Windows,
    Floats { times, values }: Floats<'_>,
    counter: bool,
    per_second: bool,
    scratch: &mut Scratch,
    out: &mut [f64],
) -> u64 {
    let resets = &mut scratch.indices;
    resets.clear();
    if counter {
        resets.extend((1..values.len()).filter(|at| values[*at] < values[*at - 1]));
    }
    let seconds = windows.range as f64 / 1000.0;
    let mut next_reset = 0;
    windows.visit(times, |Window { step, low, high, start, end }| {
        if high - low < 2 {
            return;
        }
        let (first, last) = (times[low], times[high - 1]);
        let mut increase = values[high - 1] - values[low];
        if !resets.is_empty() {
            while next_reset < resets.len() && resets[next_reset] <= low {
                next_reset += 1;
            }
            for reset in resets[next_reset..].iter().take_while(|at| **at < high) {
                increase += values[reset - 1];
            }
        }
        let sampled = (last - first) as f64 / 1000.0;
        let average = sampled / (high - low - 1) as f64;
        let threshold = average * 1.1;
        let mut to_start = (first - start) as f64 / 1000.0;
        let mut to_end = (end - last) as f64 / 1000.0;
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if counter && increase > 0.0 && values[low] >= 0.0 {
            // Never beyond where the counter would have been zero.
            to_start = to_start.min(sampled * (values[low] / increase));
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = (sampled + to_start + to_end) / sampled;
        if per_second {
            factor /= seconds;
        }
        out[step] = increase * factor;
    })
}

/// Adds two sums with their compensations.
fn join(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (sum, compensation) = kahan_add(b.0, a.0, a.1);
    (sum, compensation + b.1)
}

fn sums(
    windows: &Windows,
    Floats { times, values }: Floats<'_>,
    scratch: &mut Scratch,
    mut result: impl FnMut(usize, (f64, f64), f64),
) -> u64 {
    // Sums from each sample up to the last turn, and the sum of what came after it.
    let ends = &mut scratch.sums;
    ends.clear();
    ends.resize(values.len(), (0.0, 0.0));
    let (mut turn, mut summed, mut newer) = (0, 0, (0.0, 0.0));
    windows.visit(times, |Window { step, low, high, .. }| {
        if low >= turn {
            turn = high;
            let mut sum = (0.0, 0.0);
            for at in (low..high).rev() {
                sum = kahan_add(values[at], sum.0, sum.1);
                ends[at] = sum;
            }
            (newer, summed) = ((0.0, 0.0), high);
        }
        for value in &values[summed..high] {
            newer = kahan_add(*value, newer.0, newer.1);
        }
        summed = high;
        result(step, join(ends[low], newer), (high - low) as f64);
    })
}

fn extremes(
    windows: &Windows,
    Floats { times, values }: Floats<'_>,
    candidates: &mut Vec<usize>,
    out: &mut [f64],
    beats: impl Fn(f64, f64) -> bool,
) -> u64 {
    // From `front` on: samples that none after them beats, the best first.
    candidates.clear();
    let (mut front, mut taken) = (0, 0);
    windows.visit(times, |Window { step, low, high, .. }| {
        for at in taken.max(low)..high {
            while candidates.len() > front && candidates.last().is_some_and(|last| beats(values[at], values[*last])) {
                candidates.pop();
            }
            candidates.push(at);
        }
        taken = high;
        while candidates[front] < low {
            front += 1;
        }
        out[step] = values[candidates[front]];
    })
}

/// How many neighbours in a window satisfy a condition.
fn pairs(
    windows: &Windows,
    Floats { times, values }: Floats<'_>,
    counts: &mut Vec<u32>,
    out: &mut [f64],
    counted: impl Fn(f64, f64) -> bool,
) -> u64 {
    counts.clear();
    let mut count = 0;
    for at in 0..values.len() {
        count += u32::from(at > 0 && counted(values[at - 1], values[at]));
        counts.push(count);
    }
    windows.visit(times, |Window { step, low, high, .. }| out[step] = f64::from(counts[high - 1] - counts[low]))
}

/// Visits each window's values in order of their size.
fn ranked(
    windows: &Windows,
    Floats { times, values }: Floats<'_>,
    sorted: &mut Vec<f64>,
    budget: &Budget,
    mut result: impl FnMut(usize, &[f64]),
) -> Option<u64> {
    sorted.clear();
    let (mut from, mut to) = (0, 0);
    let (mut moves, mut cancelled) = (0, false);
    let total = windows.visit(times, |Window { step, low, high, .. }| {
        if cancelled {
            return;
        }
        let changed = high - to + low.saturating_sub(from);
        if low >= to || changed > (high - low) / 2 {
            sorted.clear();
            sorted.extend_from_slice(&values[low..high]);
            sorted.sort_unstable_by(f64::total_cmp);
            moves += high - low;
        } else {
            for value in &values[from..low] {
                let at = sorted.partition_point(|known| known.total_cmp(value).is_lt());
                sorted.remove(at);
            }
            for value in &values[to..high] {
                let at = sorted.partition_point(|known| known.total_cmp(value).is_lt());
                sorted.insert(at, *value);
            }
            moves += changed * sorted.len();
        }
        if moves >= MOVES {
            moves = 0;
            cancelled = budget.check().is_err();
        }
        (from, to) = (low, high);
        result(step, sorted);
    });
    (!cancelled).then_some(total)
}

/// The median of the distances from the median.
fn median_deviation(sorted: &[f64]) -> f64 {
    let median = quantile::of_sorted(0.5, sorted);
    // Distances grow from where the median lies to both sides: the two are merged up to the middle.
    let mut right = sorted.partition_point(|value| *value < median);
    let mut left = right;
    let mut next = || {
        let below = (left > 0).then(|| median - sorted[left - 1]);
        let above = sorted.get(right).map(|value| value - median);
        match (below, above) {
            (Some(below), above) if above.is_none_or(|above| below <= above) => {
                left -= 1;
                below
            }
            (_, Some(above)) => {
                right += 1;
                above
            }
            (_, None) => f64::NAN,
        }
    };
    let middle = (sorted.len() - 1) / 2;
    let lower = (0..=middle).fold(0.0, |_, _| next());
    let upper = if sorted.len().is_multiple_of(2) { next() } else { lower };
    quantile::of_sorted(0.5, &[lower, upper])
}
