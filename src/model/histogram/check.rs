//! Validity and equality.

use thiserror::Error;

use super::bounds::{is_custom, is_exponential};
use super::{FloatHistogram, Histogram, Span};

/// Why a histogram is no good, in upstream's words.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs)]
pub enum HistogramError {
    #[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
    IncompatibleSchemas,
    #[error(
        "{1} observations found in buckets, but the Count field is {2}: histogram's observation count should {0} the \
         number of observations found in the buckets (in absence of NaN)"
    )]
    CountMismatch(&'static str, u64, u64),
    #[error("observation count is  {0}: histogram's observation count is negative")]
    NegativeCount(f64),
    #[error(
        "{side}bucket number {number} has observation count of {count}: histogram has a bucket whose observation \
         count is negative"
    )]
    NegativeBucket { side: &'static str, number: usize, count: f64 },
    #[error("zero bucket has observation count of {0}: histogram has a bucket whose observation count is negative")]
    NegativeZeroBucket(f64),
    #[error("{0}span number {1} with offset {2}: histogram has a span whose offset is negative")]
    NegativeOffset(&'static str, usize, i32),
    #[error(
        "{0}spans need {1} buckets, have {2} buckets: histogram spans specify different number of buckets than provided"
    )]
    SpansMismatch(&'static str, u64, usize),
    #[error(
        "custom buckets: only {0} custom bounds defined which is insufficient to cover total span length of {1}: \
             histogram custom bounds are too few"
    )]
    TooFewBounds(usize, u64),
    #[error(
        "custom buckets: previous bound is {0:.6} and current is {1:.6}: histogram custom bounds must be in strictly \
         increasing order"
    )]
    BoundsNotRising(f64, f64),
    #[error("custom buckets: histogram custom bounds must be finite")]
    InfiniteBound,
    #[error("custom buckets: histogram custom bounds must not be NaN")]
    NanBound,
    #[error("custom buckets: must have zero count of 0")]
    CustomZeroCount,
    #[error("custom buckets: must have zero threshold of 0")]
    CustomZeroThreshold,
    #[error("custom buckets: must not have negative spans")]
    CustomNegativeSpans,
    #[error("custom buckets: must not have negative buckets")]
    CustomNegativeBuckets,
    #[error("histogram with exponential schema must not have custom bounds")]
    ExponentialWithBounds,
    #[error(
        "histogram has an invalid schema, which must be between -4 and 8 for exponential buckets, or -53 for custom \
         buckets, got schema {0}"
    )]
    InvalidSchema(i32),
}

fn check_spans(side: &'static str, spans: &[Span], buckets: usize) -> Result<(), HistogramError> {
    let mut needed = 0u64;
    for (number, span) in spans.iter().enumerate() {
        if number > 0 && span.offset < 0 {
            return Err(HistogramError::NegativeOffset(side, number + 1, span.offset));
        }
        needed += u64::from(span.length);
    }
    if needed == buckets as u64 { Ok(()) } else { Err(HistogramError::SpansMismatch(side, needed, buckets)) }
}

fn check_bounds(bounds: &[f64], spans: &[Span], buckets: usize) -> Result<(), HistogramError> {
    if bounds.iter().any(|bound| bound.is_nan()) {
        return Err(HistogramError::NanBound);
    }
    if let Some(pair) = bounds.windows(2).find(|pair| pair[1] <= pair[0]) {
        return Err(HistogramError::BoundsNotRising(pair[0], pair[1]));
    }
    if bounds.iter().any(|bound| bound.is_infinite()) {
        return Err(HistogramError::InfiniteBound);
    }
    let mut needed = 0u64;
    let mut reach = 0u64;
    for (number, span) in spans.iter().enumerate() {
        let offset = u64::try_from(span.offset)
            .map_err(|_| HistogramError::NegativeOffset("custom buckets: ", number + 1, span.offset))?;
        needed += u64::from(span.length);
        reach += u64::from(span.length) + offset;
    }
    if needed != buckets as u64 {
        return Err(HistogramError::SpansMismatch("custom buckets: ", needed, buckets));
    }
    if bounds.len() as u64 + 1 < reach { Err(HistogramError::TooFewBounds(bounds.len(), reach)) } else { Ok(()) }
}

impl FloatHistogram {
    /// Checks that spans, buckets and bounds agree and that nothing is negative.
    ///
    /// # Errors
    /// What is wrong with it, the first thing found.
    ///
    /// Source: prometheus `FloatHistogram.Validate`.
    pub fn validate(&self) -> Result<(), HistogramError> {
        if is_custom(self.schema) {
            check_bounds(&self.custom_values, &self.positive_spans, self.positive_buckets.len())?;
            check_custom_unused(
                self.zero_count == 0.0,
                self.zero_threshold,
                &self.negative_spans,
                self.negative_buckets.is_empty(),
            )?;
        } else if is_exponential(self.schema) {
            check_spans("positive side: ", &self.positive_spans, self.positive_buckets.len())?;
            check_spans("negative side: ", &self.negative_spans, self.negative_buckets.len())?;
            check_counts("negative side: ", &self.negative_buckets)?;
            if self.zero_count < 0.0 {
                return Err(HistogramError::NegativeZeroBucket(self.zero_count));
            }
            if !self.custom_values.is_empty() {
                return Err(HistogramError::ExponentialWithBounds);
            }
        } else {
            return Err(HistogramError::InvalidSchema(self.schema));
        }
        if self.count < 0.0 {
            return Err(HistogramError::NegativeCount(self.count));
        }
        check_counts("positive side: ", &self.positive_buckets)
    }

    /// Whether two hold the same data, bit for bit, whatever empty spans they are written with. The reset hint does
    /// not count.
    ///
    /// Source: prometheus `FloatHistogram.Equals`.
    pub fn same_data(&self, other: &FloatHistogram) -> bool {
        let bits =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let layout = |a: &[Span], b: &[Span]| super::buckets::indices(a).eq(super::buckets::indices(b));
        self.schema == other.schema
            && bits(&[self.count, self.sum, self.zero_count], &[other.count, other.sum, other.zero_count])
            && self.zero_threshold == other.zero_threshold
            && (!self.is_custom() || self.custom_values == other.custom_values)
            && bits(&self.positive_buckets, &other.positive_buckets)
            && bits(&self.negative_buckets, &other.negative_buckets)
            && layout(&self.positive_spans, &other.positive_spans)
            && layout(&self.negative_spans, &other.negative_spans)
    }
}

fn check_counts(side: &'static str, counts: &[f64]) -> Result<(), HistogramError> {
    match counts.iter().position(|count| *count < 0.0) {
        None => Ok(()),
        Some(at) => Err(HistogramError::NegativeBucket { side, number: at + 1, count: counts[at] }),
    }
}

fn check_custom_unused(
    no_zero_count: bool,
    zero_threshold: f64,
    negative_spans: &[Span],
    no_negative_buckets: bool,
) -> Result<(), HistogramError> {
    if !no_zero_count {
        return Err(HistogramError::CustomZeroCount);
    }
    if zero_threshold != 0.0 {
        return Err(HistogramError::CustomZeroThreshold);
    }
    if !negative_spans.is_empty() {
        return Err(HistogramError::CustomNegativeSpans);
    }
    if no_negative_buckets { Ok(()) } else { Err(HistogramError::CustomNegativeBuckets) }
}

/// Sums bucket counts written as deltas.
fn total(side: &'static str, deltas: &[i64]) -> Result<u64, HistogramError> {
    let (mut count, mut total) = (0i64, 0u64);
    for (at, delta) in deltas.iter().enumerate() {
        count = count.wrapping_add(*delta);
        let positive = u64::try_from(count).map_err(|_| HistogramError::NegativeBucket {
            side,
            number: at + 1,
            count: count as f64,
        })?;
        total = total.wrapping_add(positive);
    }
    Ok(total)
}

impl Histogram {
    /// Checks that spans, buckets, bounds and the total agree.
    ///
    /// # Errors
    /// What is wrong with it, the first thing found.
    ///
    /// Source: prometheus `Histogram.Validate`.
    pub fn validate(&self) -> Result<(), HistogramError> {
        let mut negative = 0;
        if is_custom(self.schema) {
            check_bounds(&self.custom_values, &self.positive_spans, self.positive_buckets.len())?;
            check_custom_unused(
                self.zero_count == 0,
                self.zero_threshold,
                &self.negative_spans,
                self.negative_buckets.is_empty(),
            )?;
        } else if is_exponential(self.schema) {
            check_spans("positive side: ", &self.positive_spans, self.positive_buckets.len())?;
            check_spans("negative side: ", &self.negative_spans, self.negative_buckets.len())?;
            negative = total("negative side: ", &self.negative_buckets)?;
            if !self.custom_values.is_empty() {
                return Err(HistogramError::ExponentialWithBounds);
            }
        } else {
            return Err(HistogramError::InvalidSchema(self.schema));
        }
        let in_buckets =
            negative.wrapping_add(total("positive side: ", &self.positive_buckets)?).wrapping_add(self.zero_count);
        // Observations of NaN are counted but in no bucket; they make the sum NaN.
        if self.sum.is_nan() {
            if in_buckets > self.count {
                return Err(HistogramError::CountMismatch("be at least", in_buckets, self.count));
            }
        } else if in_buckets != self.count {
            return Err(HistogramError::CountMismatch("equal", in_buckets, self.count));
        }
        Ok(())
    }
}
