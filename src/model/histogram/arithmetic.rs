//! Sums and differences.
//!
//! Two exponential histograms meet in the lower of the two resolutions and in the smallest zero bucket that holds
//! both and cuts no populated bucket. Two with custom bounds meet in the bounds that both have. An exponential and a
//! custom one do not meet.
//!
//! Source: prometheus `model/histogram/float_histogram.go`, `Add`, `Sub`, `KahanAdd`.

use std::iter::Peekable;
use std::sync::Arc;

use super::bounds::{exponential_bound, is_exponential};
use super::buckets::{Half, Side, from_side, lower_index, side};
use super::{CounterReset, FloatHistogram, HistogramError, Span};

/// What a person should know about a sum or difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// One side was known to be reset, the other known not to be.
    pub reset_collision: bool,
    /// Custom bounds differed and were reduced to the common ones.
    pub bounds_reconciled: bool,
}

impl Combined {
    /// Either's remarks.
    pub fn or(self, other: Combined) -> Combined {
        Combined {
            reset_collision: self.reset_collision || other.reset_collision,
            bounds_reconciled: self.bounds_reconciled || other.bounds_reconciled,
        }
    }
}

/// One step of a compensated sum by Kahan with Neumaier's improvement: the new sum and the new compensation.
///
/// Source: prometheus `util/kahansum.Inc`.
#[inline]
pub fn kahan_add(term: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + term;
    let compensation = if total.is_infinite() {
        0.0
    } else if sum.abs() >= term.abs() {
        compensation + ((sum - total) + term)
    } else {
        compensation + ((term - total) + sum)
    };
    (total, compensation)
}

/// Merges two lists by index. Where only one has a bucket, it stands alone.
fn merge<T: Copy>(
    a: impl Iterator<Item = (i32, T)>,
    b: impl Iterator<Item = (i32, f64)>,
    alone: impl Fn(f64) -> T,
    both: impl Fn(T, f64) -> T,
) -> Vec<(i32, T)> {
    let mut a: Peekable<_> = a.peekable();
    let mut b: Peekable<_> = b.peekable();
    let mut merged = Vec::with_capacity(a.size_hint().0 + b.size_hint().0);
    loop {
        let next = match (a.peek().copied(), b.peek().copied()) {
            (None, None) => return merged,
            (Some(left), Some(right)) if left.0 == right.0 => {
                a.next();
                b.next();
                (left.0, both(left.1, right.1))
            }
            (Some(left), right) if right.is_none_or(|right| left.0 < right.0) => {
                a.next();
                left
            }
            (_, Some(right)) => {
                b.next();
                (right.0, alone(right.1))
            }
            (Some(_), None) => unreachable!("the arm before takes a left bucket that stands alone"),
        };
        merged.push(next);
    }
}

/// A histogram that is a sum, with what rounding took from each of its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct CompensatedHistogram {
    /// The sum so far.
    pub sum: FloatHistogram,
    /// Compensation for count, sum and zero count.
    scalars: [f64; 3],
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// A count and its compensation.
type Kahan = (f64, f64);

impl CompensatedHistogram {
    /// A sum of one.
    pub fn new(first: FloatHistogram) -> CompensatedHistogram {
        CompensatedHistogram {
            scalars: [0.0; 3],
            positive: vec![0.0; first.positive_buckets.len()],
            negative: vec![0.0; first.negative_buckets.len()],
            sum: first,
        }
    }

    /// Adds one.
    ///
    /// # Errors
    /// `IncompatibleSchemas`; nothing changed then.
    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, HistogramError> {
        let mut combined = self.sum.meet(other)?;
        let mut other_zero = other.zero_count;
        if !self.sum.is_custom() {
            other_zero = self.reconcile_zero(other);
            (self.sum.zero_count, self.scalars[2]) = kahan_add(other_zero, self.sum.zero_count, self.scalars[2]);
        }
        (self.sum.count, self.scalars[0]) = kahan_add(other.count, self.sum.count, self.scalars[0]);
        (self.sum.sum, self.scalars[1]) = kahan_add(other.sum, self.sum.sum, self.scalars[1]);
        debug_assert!(self.sum.is_custom() || !other_zero.is_nan() || other.zero_count.is_nan());
        if self.sum.is_custom() {
            combined.bounds_reconciled = self.add_custom(other);
        } else {
            self.add_exponential(other);
        }
        Ok(combined)
    }

    /// Divides by a number.
    pub fn divide(&mut self, divisor: f64) {
        self.sum.divide(divisor);
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        for part in self.scalars.iter_mut().chain(&mut self.positive).chain(&mut self.negative) {
            *part /= divisor;
        }
    }

    /// Multiplies by a number.
    pub fn scale(&mut self, factor: f64) {
        self.sum.scale(factor);
        for part in self.scalars.iter_mut().chain(&mut self.positive).chain(&mut self.negative) {
            *part *= factor;
        }
    }

    /// The sum with the compensation put back.
    pub fn finish(mut self) -> FloatHistogram {
        self.sum.count += self.scalars[0];
        self.sum.sum += self.scalars[1];
        self.sum.zero_count += self.scalars[2];
        for (count, part) in self.sum.positive_buckets.iter_mut().zip(&self.positive) {
            *count += part;
        }
        for (count, part) in self.sum.negative_buckets.iter_mut().zip(&self.negative) {
            *count += part;
        }
        self.sum
    }

    fn side(&self, half: Half) -> Vec<(i32, Kahan)> {
        let parts = match half {
            Half::Positive => &self.positive,
            Half::Negative => &self.negative,
        };
        self.sum.half(half).zip(parts).map(|((index, count), part)| (index, (count, *part))).collect()
    }

    fn set_side(&mut self, half: Half, side: Vec<(i32, Kahan)>) {
        let (spans, counts) = from_side(side.iter().map(|(index, (count, _))| (*index, *count)), 0);
        let parts = side.into_iter().map(|(_, (_, part))| part).collect();
        match half {
            Half::Positive => {
                (self.sum.positive_spans, self.sum.positive_buckets, self.positive) = (spans, counts, parts);
            }
            Half::Negative => {
                (self.sum.negative_spans, self.sum.negative_buckets, self.negative) = (spans, counts, parts);
            }
        }
    }

    fn reconcile_zero(&mut self, other: &FloatHistogram) -> f64 {
        if self.sum.zero_threshold == other.zero_threshold {
            return other.zero_count;
        }
        let mut plain = self.sum.clone();
        let other_zero = plain.reconcile_zero_buckets(other);
        // What moved into the zero bucket takes its compensation along.
        let edge = plain.zero_threshold;
        for half in [Half::Positive, Half::Negative] {
            let schema = self.sum.schema;
            let (inside, outside): (Vec<_>, Vec<_>) = self
                .side(half)
                .into_iter()
                .partition(|(index, _)| exponential_bound(index.wrapping_sub(1), schema) < edge);
            for (_, (_, part)) in inside {
                self.scalars[2] += part;
            }
            self.set_side(half, outside);
        }
        self.sum.zero_count = plain.zero_count;
        self.sum.zero_threshold = edge;
        other_zero
    }

    fn add_exponential(&mut self, other: &FloatHistogram) {
        let schema = self.sum.schema.min(other.schema);
        for half in [Half::Positive, Half::Negative] {
            let mut mine: Vec<(i32, Kahan)> = Vec::new();
            for (index, (count, part)) in self.side(half) {
                let index = lower_index(index, self.sum.schema, schema);
                match mine.last_mut() {
                    Some((last, sum)) if *last == index => {
                        *sum = kahan_add(count, sum.0, sum.1);
                        *sum = kahan_add(part, sum.0, sum.1);
                    }
                    _ => mine.push((index, (count, part))),
                }
            }
            let theirs = other.half_from(half, self.sum.zero_threshold, schema);
            let both = |(sum, part): Kahan, count| kahan_add(count, sum, part);
            let merged = merge(mine.into_iter(), theirs.into_iter(), |count| (count, 0.0), both);
            self.set_side(half, merged);
        }
        self.sum.schema = schema;
    }

    fn add_custom(&mut self, other: &FloatHistogram) -> bool {
        let both = |(sum, part): Kahan, count| kahan_add(count, sum, part);
        if self.sum.custom_values == other.custom_values {
            let merged =
                merge(self.side(Half::Positive).into_iter(), other.half(Half::Positive), |count| (count, 0.0), both);
            self.set_side(Half::Positive, merged);
            return false;
        }
        let common = common_bounds(&self.sum.custom_values, &other.custom_values);
        let mut target = vec![(0.0, 0.0); common.len() + 1];
        for (index, (count, part)) in self.side(Half::Positive) {
            let slot = &mut target[slot_of(index, &self.sum.custom_values, &common)];
            *slot = kahan_add(count, slot.0, slot.1);
            *slot = kahan_add(part, slot.0, slot.1);
        }
        for (index, count) in other.half(Half::Positive) {
            let slot = &mut target[slot_of(index, &other.custom_values, &common)];
            *slot = kahan_add(count, slot.0, slot.1);
        }
        let populated = (0..).zip(target).filter(|(_, (count, part))| *count != 0.0 || *part != 0.0).collect();
        self.set_side(Half::Positive, populated);
        self.sum.custom_values = common;
        true
    }
}

/// The bounds that two histograms share.
fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    let mut rest = b.iter().peekable();
    a.iter()
        .filter(|bound| {
            while rest.next_if(|candidate| *candidate < *bound).is_some() {}
            rest.peek() == Some(bound)
        })
        .copied()
        .collect()
}

/// Where a bucket goes among the common bounds.
fn slot_of(index: i32, bounds: &[f64], common: &[f64]) -> usize {
    let upper = usize::try_from(index).ok().and_then(|index| bounds.get(index));
    upper.map_or(common.len(), |upper| common.partition_point(|bound| bound < upper))
}

impl FloatHistogram {
    /// Adds another.
    ///
    /// # Errors
    /// `IncompatibleSchemas` when only one has custom bounds; nothing changed then.
    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, HistogramError> {
        self.combine(other, 1.0)
    }

    /// Subtracts another. PromQL's `-` also makes a gauge of the result; that is for the caller to do.
    ///
    /// # Errors
    /// As [`FloatHistogram::add`].
    pub fn sub(&mut self, other: &FloatHistogram) -> Result<Combined, HistogramError> {
        self.combine(other, -1.0)
    }

    fn combine(&mut self, other: &FloatHistogram, sign: f64) -> Result<Combined, HistogramError> {
        let mut combined = self.meet(other)?;
        if !self.is_custom() {
            let other_zero = self.reconcile_zero_buckets(other);
            self.zero_count += sign * other_zero;
        }
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        if self.is_custom() && self.custom_values != other.custom_values {
            combined.bounds_reconciled = true;
            self.combine_reconciled(other, sign);
            return Ok(combined);
        }
        let schema = self.schema.min(other.schema);
        for half in [Half::Positive, Half::Negative] {
            self.combine_half(half, other, sign, schema);
        }
        self.schema = schema;
        Ok(combined)
    }

    fn combine_half(&mut self, half: Half, other: &FloatHistogram, sign: f64, schema: i32) {
        let (spans, buckets, other_spans) = match half {
            Half::Positive => (&self.positive_spans, &mut self.positive_buckets, &other.positive_spans),
            Half::Negative => (&self.negative_spans, &mut self.negative_buckets, &other.negative_spans),
        };
        let same_layout = self.schema == schema && other.schema == schema && spans == other_spans;
        if same_layout && (self.zero_threshold == 0.0 || self.zero_threshold == other.zero_threshold) {
            for (mine, (_, theirs)) in buckets.iter_mut().zip(other.half(half)) {
                *mine += sign * theirs;
            }
            return;
        }
        let edge = if is_exponential(schema) { self.zero_threshold } else { 0.0 };
        let mine = if self.schema == schema { self.half(half).collect() } else { self.half_from(half, 0.0, schema) };
        let theirs: Side = other.half_from(half, edge, schema);
        let merged = merge(mine.into_iter(), theirs.into_iter(), |count| sign * count, |a, b| a + sign * b);
        let (spans, buckets) = from_side(merged, 0);
        match half {
            Half::Positive => (self.positive_spans, self.positive_buckets) = (spans, buckets),
            Half::Negative => (self.negative_spans, self.negative_buckets) = (spans, buckets),
        }
    }

    fn combine_reconciled(&mut self, other: &FloatHistogram, sign: f64) {
        let common = common_bounds(&self.custom_values, &other.custom_values);
        let mut target = vec![0.0; common.len() + 1];
        for (index, count) in self.half(Half::Positive) {
            target[slot_of(index, &self.custom_values, &common)] += count;
        }
        for (index, count) in other.half(Half::Positive) {
            target[slot_of(index, &other.custom_values, &common)] += sign * count;
        }
        (self.positive_spans, self.positive_buckets) =
            from_side((0..).zip(target).filter(|(_, count)| *count != 0.0), 0);
        self.custom_values = common;
    }

    /// Checks that two may be combined and settles the counter reset hint of the outcome.
    fn meet(&mut self, other: &FloatHistogram) -> Result<Combined, HistogramError> {
        if self.is_custom() != other.is_custom() {
            return Err(HistogramError::IncompatibleSchemas);
        }
        use CounterReset::{Gauge, Unknown};
        let mut combined = Combined::default();
        self.counter_reset = match (self.counter_reset, other.counter_reset) {
            (mine, theirs) if mine == theirs => mine,
            (Gauge, _) | (_, Gauge) => Gauge,
            (Unknown, _) | (_, Unknown) => Unknown,
            _ => {
                combined.reset_collision = true;
                Unknown
            }
        };
        Ok(combined)
    }

    /// Widens the zero bucket until it holds both and cuts no populated bucket of either. Gives the zero count that
    /// the other would have with it.
    fn reconcile_zero_buckets(&mut self, other: &FloatHistogram) -> f64 {
        let (mut other_count, mut other_threshold) = (other.zero_count, other.zero_threshold);
        // Each round moves one threshold up to a bound of a populated bucket: there are finitely many. NaN compares
        // with nothing, so it ends the loop.
        loop {
            if self.zero_threshold > other_threshold {
                (other_count, other_threshold) = other.zero_count_within(self.zero_threshold);
            }
            if other_threshold > self.zero_threshold {
                (self.zero_count, self.zero_threshold) = self.zero_count_within(other_threshold);
                self.drop_within_zero_bucket();
            }
            if self.zero_threshold.partial_cmp(&other_threshold) != Some(std::cmp::Ordering::Greater) {
                return other_count;
            }
        }
    }

    /// The zero count with a wider zero bucket, and the threshold moved up where it would cut a populated bucket.
    pub(super) fn zero_count_within(&self, wanted: f64) -> (f64, f64) {
        let mut threshold = wanted;
        loop {
            let (mut count, mut part) = (self.zero_count, 0.0);
            let before = threshold;
            for half in [Half::Positive, Half::Negative] {
                for (index, bucket) in self.half(half) {
                    let lower = exponential_bound(index.wrapping_sub(1), self.schema);
                    let upper = exponential_bound(index, self.schema);
                    if lower >= threshold {
                        break;
                    }
                    (count, part) = kahan_add(bucket, count, part);
                    if upper > threshold {
                        if bucket != 0.0 {
                            threshold = upper;
                        }
                        break;
                    }
                }
                // A wider zero bucket because of a negative bucket may now cut a positive one: start again.
                if half == Half::Negative && threshold != before {
                    break;
                }
            }
            if threshold == before {
                return (count, threshold);
            }
        }
    }

    fn drop_within_zero_bucket(&mut self) {
        let (edge, schema) = (self.zero_threshold, self.schema);
        let outside = |spans: &[Span], buckets: &[f64]| {
            let keep =
                |(index, count): &(i32, f64)| *count != 0.0 && exponential_bound(index.wrapping_sub(1), schema) >= edge;
            from_side(side(spans, buckets).filter(keep), 0)
        };
        (self.positive_spans, self.positive_buckets) = outside(&self.positive_spans, &self.positive_buckets);
        (self.negative_spans, self.negative_buckets) = outside(&self.negative_spans, &self.negative_buckets);
    }
}
