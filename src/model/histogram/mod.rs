//! Native histograms: the integer form that expositions give and the float form that PromQL computes with.

//!
//! The files beside this one hold what can be done with them: `bounds` (where a bucket begins and ends), `buckets`
//! (iteration, compaction, lower resolution), `arithmetic` (sums and differences, with or without compensation),
//! `reset` (counter resets), `trim` (dropping observations), `check` (validity and equality), `text`.

mod arithmetic;
mod bounds;
mod buckets;
mod check;
mod reset;
#[cfg(test)]
mod tables;
mod text;
mod trim;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use arithmetic::{Combined, CompensatedHistogram, kahan_add};
pub use bounds::{bound, is_custom, is_exponential};
pub use buckets::Bucket;
pub use check::HistogramError;

/// The schema number of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// What is known about a counter reset between a histogram and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CounterReset {
    /// Nothing: it has to be found out by comparing.
    #[default]
    Unknown,
    /// There was one.
    Reset,
    /// There was none.
    NotReset,
    /// The histogram is a gauge: there are no resets.
    Gauge,
}

/// A run of consecutive buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Gap to the previous span; for the first span, the index of its first bucket.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// A native histogram with integer counts. Bucket counts are deltas to the bucket before, the first one absolute.
///
/// Source: prometheus `model/histogram.Histogram`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counter reset hint.
    pub counter_reset: CounterReset,
    /// Resolution: −4 … 8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// All observations.
    pub count: u64,
    /// Sum of observations; the staleness marker when the histogram is one.
    pub sum: f64,
    /// Where the positive buckets are.
    pub positive_spans: Vec<Span>,
    /// Where the negative buckets are.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive buckets, as deltas.
    pub positive_buckets: Vec<i64>,
    /// Counts of the negative buckets, as deltas.
    pub negative_buckets: Vec<i64>,
    /// Upper bounds of custom buckets, without the last, +Inf; empty for other schemas.
    pub custom_values: Arc<[f64]>,
}

/// A native histogram with float counts. Bucket counts are absolute.
///
/// Source: prometheus `model/histogram.FloatHistogram`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloatHistogram {
    /// Counter reset hint.
    pub counter_reset: CounterReset,
    /// Resolution: −4 … 8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of observations; the staleness marker when the histogram is one.
    pub sum: f64,
    /// Where the positive buckets are.
    pub positive_spans: Vec<Span>,
    /// Where the negative buckets are.
    pub negative_spans: Vec<Span>,
    /// Counts of the positive buckets.
    pub positive_buckets: Vec<f64>,
    /// Counts of the negative buckets.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets, without the last, +Inf; empty for other schemas.
    pub custom_values: Arc<[f64]>,
}

impl Histogram {
    /// The same histogram with float counts.
    pub fn to_float(&self) -> FloatHistogram {
        FloatHistogram {
            counter_reset: self.counter_reset,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count as f64,
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: absolute(&self.positive_buckets),
            negative_buckets: absolute(&self.negative_buckets),
            custom_values: Arc::clone(&self.custom_values),
        }
    }
}

fn absolute(deltas: &[i64]) -> Vec<f64> {
    deltas
        .iter()
        .scan(0i64, |count, delta| {
            *count += delta;
            Some(*count as f64)
        })
        .collect()
}
