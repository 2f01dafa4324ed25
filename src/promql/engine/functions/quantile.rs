//! Quantiles and fractions: of values, of classic buckets, of native histograms.
//!
//! Source: prometheus `promql/quantile.go`.

use promesh_model::FloatHistogram;
use promesh_model::histogram::Bucket;

use super::super::annotations::Note;

/// The order in which values are ranked: NaN first.
pub(crate) fn rank_order(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// What a quantile outside 0 … 1 is.
fn outside(q: f64) -> Option<f64> {
    if q < 0.0 {
        Some(f64::NEG_INFINITY)
    } else if q > 1.0 {
        Some(f64::INFINITY)
    } else {
        None
    }
}

/// The quantile of values, which are sorted in passing.
pub(crate) fn of_values(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if let Some(extreme) = outside(q) {
        return extreme;
    }
    values.sort_unstable_by(|a, b| rank_order(*a, *b));
    of_sorted(q, values)
}

/// The quantile of some sorted values; `q` is between 0 and 1.
pub(crate) fn of_sorted(q: f64, values: &[f64]) -> f64 {
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min((values.len() - 1) as f64);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// A bucket of a classic histogram: all observations up to a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassicBucket {
    pub upper: f64,
    pub count: f64,
}

/// Differences below this part of the counts come from rounding.
const SMALL_DELTA: f64 = 1e-12;

/// Whether two numbers are equal but for rounding.
///
/// Source: prometheus `util/almost.Equal`.
pub(crate) fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    use promesh_model::value::is_stale;
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < epsilon
}

/// Where counts had to be made monotonic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forced {
    pub bucket_min: f64,
    pub bucket_max: f64,
    pub diff_max: f64,
}

fn sort(buckets: &mut [ClassicBucket]) -> bool {
    buckets.sort_by(|a, b| a.upper.partial_cmp(&b.upper).unwrap_or(std::cmp::Ordering::Equal));
    buckets.last().is_some_and(|bucket| bucket.upper == f64::INFINITY)
}

fn coalesce(buckets: &mut Vec<ClassicBucket>) {
    buckets.dedup_by(|next, kept| {
        let same = next.upper == kept.upper;
        if same {
            kept.count += next.count;
        }
        same
    });
}

fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut before = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count, SMALL_DELTA) {
            bucket.count = before;
        } else if count < before {
            bucket.count = before;
            let start = Forced { bucket_min: f64::INFINITY, bucket_max: f64::NEG_INFINITY, diff_max: 0.0 };
            let forced = forced.get_or_insert(start);
            forced.bucket_min = forced.bucket_min.min(bucket.upper);
            forced.bucket_max = forced.bucket_max.max(bucket.upper);
            forced.diff_max = forced.diff_max.max(before - count);
        } else {
            before = count;
        }
    }
    forced
}

/// The quantile of a classic histogram; values are taken to be spread evenly within a bucket.
pub(crate) fn of_classic(q: f64, buckets: &mut Vec<ClassicBucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if let Some(extreme) = outside(q) {
        return (extreme, None);
    }
    if !sort(buckets) {
        return (f64::NAN, None);
    }
    coalesce(buckets);
    let forced = make_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if buckets.len() < 2 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    // As a binary search: NaN counts compare false.
    let at = buckets[..last].partition_point(|bucket| bucket.count < rank || (bucket.count - rank).is_nan());
    if at == last {
        return (buckets[last - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (mut start, mut count) = (0.0, buckets[at].count);
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (buckets[at].upper - start) * (rank / count), forced)
}

/// The part of a classic histogram's observations between two values.
pub(crate) fn fraction_of_classic(lower: f64, upper: f64, buckets: &mut Vec<ClassicBucket>) -> f64 {
    if !sort(buckets) {
        return f64::NAN;
    }
    coalesce(buckets);
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut ranks = Ranks::default();
    let mut start = if buckets[0].upper <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for bucket in buckets.iter() {
        let rank = ranks.rank;
        let interpolate = |value: f64| {
            if start == f64::NEG_INFINITY {
                return bucket.count;
            }
            rank + (bucket.count - rank) * (value - start) / (bucket.upper - start)
        };
        if ranks.visit(lower, upper, start, bucket.upper, interpolate) {
            break;
        }
        ranks.rank = bucket.count;
        start = bucket.upper;
    }
    ranks.fraction(count, count)
}

/// The ranks of two values among observations, found bucket by bucket.
#[derive(Default)]
struct Ranks {
    rank: f64,
    lower: Option<f64>,
    upper: Option<f64>,
}

impl Ranks {
    /// Looks at one bucket; true when both ranks are known.
    fn visit(&mut self, lower: f64, upper: f64, start: f64, end: f64, interpolate: impl Fn(f64) -> f64) -> bool {
        for (slot, value) in [(&mut self.lower, lower), (&mut self.upper, upper)] {
            if slot.is_none() && start >= value {
                *slot = Some(self.rank);
            }
        }
        for (slot, value) in [(&mut self.lower, lower), (&mut self.upper, upper)] {
            if slot.is_none() && start < value && end > value {
                *slot = Some(interpolate(value));
            }
        }
        self.lower.is_some() && self.upper.is_some()
    }

    fn fraction(&self, most: f64, count: f64) -> f64 {
        let rank = |rank: Option<f64>| rank.map_or(most, |rank| if rank > most { most } else { rank });
        (rank(self.upper) - rank(self.lower)) / count
    }
}

/// Cuts the zero bucket to one side when the other side is empty.
fn cut_zero(histogram: &FloatHistogram, bucket: &mut Bucket) {
    match (histogram.negative_buckets.is_empty(), histogram.positive_buckets.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

/// The quantile of a native histogram, with remarks made through `note`.
pub(crate) fn of_histogram(q: f64, histogram: &FloatHistogram, mut note: impl FnMut(fn(String) -> Note)) -> f64 {
    if let Some(extreme) = outside(q) {
        return extreme;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    // Observations of NaN are counted but in no bucket: then one has to count from below.
    let has_nan = histogram.sum.is_nan();
    let forward = has_nan || q < 0.5;
    let mut buckets = histogram.all_buckets();
    if !forward {
        buckets.reverse();
    }
    let mut rank = if forward { q * histogram.count } else { (1.0 - q) * histogram.count };
    let mut count = 0.0;
    let mut bucket =
        Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0, index: 0 };
    let mut rest = buckets.iter();
    for candidate in rest.by_ref() {
        bucket = *candidate;
        if candidate.count == 0.0 {
            continue;
        }
        count += candidate.count;
        if count >= rank {
            break;
        }
    }
    if !histogram.is_custom() {
        if bucket.lower < 0.0 && bucket.upper > 0.0 {
            cut_zero(histogram, &mut bucket);
        }
    } else if bucket.lower == f64::NEG_INFINITY {
        if bucket.upper <= 0.0 {
            return bucket.upper;
        }
        bucket.lower = 0.0;
    } else if bucket.upper == f64::INFINITY {
        return bucket.lower;
    }
    count = count.min(histogram.count);
    if count < rank {
        if has_nan {
            note(Note::QuantileNan);
            return f64::NAN;
        }
        return bucket.upper;
    }
    rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let found = bucket;
    if has_nan {
        count += rest.map(|bucket| bucket.count).sum::<f64>();
        if count < histogram.count {
            note(Note::QuantileSkewed);
        }
    }
    let part = rank / found.count;
    if histogram.is_custom() || (found.lower <= 0.0 && found.upper >= 0.0) {
        return found.lower + (found.upper - found.lower) * part;
    }
    let (lower, upper) = (found.lower.abs().log2(), found.upper.abs().log2());
    if found.lower > 0.0 {
        (lower + (upper - lower) * part).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - part)).exp2()
    }
}

/// The part of a native histogram's observations between two values, with remarks made through `note`.
pub(crate) fn fraction_of_histogram(
    lower: f64,
    upper: f64,
    histogram: &FloatHistogram,
    mut note: impl FnMut(fn(String) -> Note),
) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut ranks = Ranks::default();
    let mut seen = 0.0;
    let buckets = histogram.all_buckets();
    let mut rest = buckets.iter();
    for bucket in rest.by_ref() {
        let mut bucket = *bucket;
        seen += bucket.count;
        let is_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if is_zero {
            cut_zero(histogram, &mut bucket);
        }
        let rank = ranks.rank;
        let linear = histogram.is_custom() || is_zero;
        let interpolate = |value: f64| {
            if linear && bucket.lower == f64::NEG_INFINITY {
                return bucket.count;
            }
            rank + bucket.count * bucket.fraction_below(value, linear)
        };
        if ranks.visit(lower, upper, bucket.lower, bucket.upper, interpolate) {
            break;
        }
        ranks.rank += bucket.count;
    }
    let mut count = histogram.count;
    if histogram.sum.is_nan() {
        count = seen + rest.map(|bucket| bucket.count).sum::<f64>();
        if count < histogram.count {
            note(Note::FractionNan);
        }
    }
    ranks.fraction(count, histogram.count)
}
