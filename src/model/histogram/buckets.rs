//! Iterating over buckets, and the layouts they are kept in.
//!
//! Inside this module a side of a histogram is a list of (index, count): rising indices, whatever spans held them.
//! Spans are only the way to write such a list down.

use super::bounds::{bound, exponential_bound, is_custom, is_exponential};
use super::{FloatHistogram, Histogram, Span};

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether the lower bound belongs to the bucket.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to the bucket.
    pub upper_inclusive: bool,
    /// Observations in it.
    pub count: f64,
    /// Its index on its side; 0 for the zero bucket.
    pub index: i32,
}

impl Bucket {
    /// Which part of the bucket's width lies below a value within it; on a logarithmic scale unless `linear`.
    ///
    /// Source: prometheus `histogram.Bucket.FractionBelow`.
    pub fn fraction_below(&self, value: f64, linear: bool) -> f64 {
        if linear {
            return (value - self.lower) / (self.upper - self.lower);
        }
        let lower = self.lower.abs().log2();
        let upper = self.upper.abs().log2();
        let value_log = value.abs().log2();
        if value > 0.0 { (value_log - lower) / (upper - lower) } else { 1.0 - (value_log - upper) / (lower - upper) }
    }
}

/// One side of a histogram as (index, count).
pub(super) type Side = Vec<(i32, f64)>;

/// The indices that spans name, in order. Spans may come from outside: nothing here overflows.
pub(super) fn indices(spans: &[Span]) -> impl Iterator<Item = i32> + '_ {
    let mut next = 0i32;
    spans.iter().flat_map(move |span| {
        let start = next.wrapping_add(span.offset);
        next = start.wrapping_add(span.length as i32);
        (0..span.length).map(move |step| start.wrapping_add(step as i32))
    })
}

/// Pairs indices with counts; the shorter of the two decides.
pub(super) fn side<'a>(spans: &'a [Span], buckets: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    indices(spans).zip(buckets.iter().copied())
}

/// Writes a list down as spans and buckets. A gap of at most `gap_max` empty buckets stays within a span.
pub(super) fn from_side(side: impl IntoIterator<Item = (i32, f64)>, gap_max: usize) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut buckets = Vec::new();
    let mut next = 0i32;
    for (index, count) in side {
        let gap = index.wrapping_sub(next);
        match spans.last_mut() {
            Some(span) if gap >= 0 && gap as usize <= gap_max => {
                buckets.extend(std::iter::repeat_n(0.0, gap as usize));
                span.length += gap as u32 + 1;
            }
            _ => spans.push(Span { offset: gap, length: 1 }),
        }
        buckets.push(count);
        next = index.wrapping_add(1);
    }
    (spans, buckets)
}

/// The index of a bucket in a lower resolution.
pub(super) fn lower_index(index: i32, schema: i32, target: i32) -> i32 {
    (index.wrapping_sub(1) >> schema.saturating_sub(target).clamp(0, 31)).wrapping_add(1)
}

/// A side in a lower resolution: buckets that fall together are summed.
pub(super) fn lower_side(side: impl Iterator<Item = (i32, f64)>, schema: i32, target: i32) -> Side {
    let mut lower: Side = Vec::new();
    for (index, count) in side {
        let index = lower_index(index, schema, target);
        match lower.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => lower.push((index, count)),
        }
    }
    lower
}

/// Which half of the number line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Positive,
    Negative,
}

impl FloatHistogram {
    /// Whether the bounds of its buckets are custom.
    pub fn is_custom(&self) -> bool {
        is_custom(self.schema)
    }

    pub(super) fn half(&self, half: Half) -> impl Iterator<Item = (i32, f64)> + '_ {
        match half {
            Half::Positive => side(&self.positive_spans, &self.positive_buckets),
            Half::Negative => side(&self.negative_spans, &self.negative_buckets),
        }
    }

    fn bucket(&self, half: Half, index: i32, count: f64) -> Bucket {
        let at = |index| bound(index, self.schema, &self.custom_values);
        let (lower, upper) = match half {
            Half::Positive => (at(index.wrapping_sub(1)), at(index)),
            Half::Negative => (-at(index), -at(index.wrapping_sub(1))),
        };
        let (lower_inclusive, upper_inclusive) =
            if self.is_custom() { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
        Bucket { lower, upper, lower_inclusive, upper_inclusive, count, index }
    }

    /// The positive buckets, upwards from zero.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.half(Half::Positive).map(|(index, count)| self.bucket(Half::Positive, index, count))
    }

    /// The negative buckets, downwards from zero.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.half(Half::Negative).map(|(index, count)| self.bucket(Half::Negative, index, count))
    }

    /// The zero bucket.
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
            index: 0,
        }
    }

    /// All buckets from the lowest to the highest; the zero bucket when it is populated. Buckets that overlap the zero
    /// bucket are cut at its edge.
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let edge = self.zero_threshold;
        let cut = |mut bucket: Bucket| {
            if bucket.upper < 0.0 && bucket.upper > -edge {
                bucket.upper = -edge;
            } else if bucket.lower > 0.0 && bucket.lower < edge {
                bucket.lower = edge;
            }
            bucket
        };
        let mut all: Vec<Bucket> = self.negative().map(cut).collect();
        all.reverse();
        if self.zero_count > 0.0 {
            all.push(self.zero_bucket());
        }
        all.extend(self.positive().map(cut));
        all
    }

    /// Drops empty buckets; gaps of at most `gap_max` between populated ones stay as buckets of zero.
    ///
    /// Source: prometheus `FloatHistogram.Compact`.
    pub fn compact(&mut self, gap_max: usize) -> &mut Self {
        let tidy = |spans: &mut Vec<Span>, buckets: &mut Vec<f64>| {
            let dense = buckets.iter().all(|count| *count != 0.0)
                && spans.iter().skip(1).all(|span| span.length > 0 && span.offset as i64 > gap_max as i64)
                && spans.first().is_none_or(|span| span.length > 0);
            if !dense {
                (*spans, *buckets) = from_side(side(spans, buckets).filter(|(_, count)| *count != 0.0), gap_max);
            }
        };
        tidy(&mut self.positive_spans, &mut self.positive_buckets);
        tidy(&mut self.negative_spans, &mut self.negative_buckets);
        self
    }

    /// Merges buckets into those of a lower resolution. Does nothing for custom buckets or a schema that is not lower.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if self.is_custom() || !is_exponential(schema) || schema >= self.schema {
            return;
        }
        let from = self.schema;
        let lower = |spans: &[Span], buckets: &[f64]| from_side(lower_side(side(spans, buckets), from, schema), 0);
        (self.positive_spans, self.positive_buckets) = lower(&self.positive_spans, &self.positive_buckets);
        (self.negative_spans, self.negative_buckets) = lower(&self.negative_spans, &self.negative_buckets);
        self.schema = schema;
    }

    /// A side in a resolution, without the buckets that lie wholly within ±`edge`.
    pub(super) fn half_from(&self, half: Half, edge: f64, schema: i32) -> Side {
        let mut side = lower_side(self.half(half), self.schema, schema);
        if edge != 0.0 && is_exponential(schema) {
            let inside = side.iter().take_while(|(index, _)| exponential_bound(*index, schema) <= edge).count();
            side.drain(..inside);
        }
        side
    }

    /// Multiplies all counts and the sum. A negative factor makes a gauge of it.
    pub fn scale(&mut self, factor: f64) -> &mut Self {
        self.each_number(|number| number * factor);
        if factor < 0.0 {
            self.counter_reset = super::CounterReset::Gauge;
        }
        self
    }

    /// Divides all counts and the sum; division by zero removes all buckets. A negative divisor makes a gauge of it.
    pub fn divide(&mut self, divisor: f64) -> &mut Self {
        self.each_number(|number| number / divisor);
        if divisor == 0.0 {
            self.positive_buckets.clear();
            self.negative_buckets.clear();
            self.positive_spans.clear();
            self.negative_spans.clear();
        }
        if divisor < 0.0 {
            self.counter_reset = super::CounterReset::Gauge;
        }
        self
    }

    fn each_number(&mut self, change: impl Fn(f64) -> f64) {
        self.zero_count = change(self.zero_count);
        self.count = change(self.count);
        self.sum = change(self.sum);
        for count in self.positive_buckets.iter_mut().chain(&mut self.negative_buckets) {
            *count = change(*count);
        }
    }

    /// Whether any number in it is infinite.
    pub fn has_overflow(&self) -> bool {
        [self.zero_count, self.count, self.sum]
            .iter()
            .chain(&self.positive_buckets)
            .chain(&self.negative_buckets)
            .chain(&*self.custom_values)
            .any(|number| number.is_infinite())
    }

    /// How many samples of 16 bytes it counts for in a query's budget.
    ///
    /// Source: prometheus `promql.totalHPointSize` and `FloatHistogram.Size`.
    pub fn sample_size(&self) -> usize {
        let spans = self.positive_spans.len() + self.negative_spans.len();
        let numbers = self.positive_buckets.len() + self.negative_buckets.len() + self.custom_values.len();
        (168 + 8 * spans + 8 * numbers + 8) / 16
    }
}

impl Histogram {
    /// Whether the bounds of its buckets are custom.
    pub fn is_custom(&self) -> bool {
        is_custom(self.schema)
    }
}
