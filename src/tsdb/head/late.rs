//! Samples that came after younger ones of their series: sorted, until the windows they belong to are written.

use promesh_model::ingest::HistogramValue;
use promesh_model::value::is_stale;

use super::series::{Value, same};

/// The late samples of one series, each instant once.
#[derive(Debug, Default)]
pub struct Late {
    samples: Vec<(i64, Value)>,
}

impl Late {
    /// Takes a sample in. Where one stands already the better stays (see [`is_better`]); answers false if nothing
    /// changed.
    pub fn insert(&mut self, at: i64, value: Value) -> bool {
        match self.samples.binary_search_by_key(&at, |sample| sample.0) {
            Ok(found) if is_better(&value, &self.samples[found].1) => {
                self.samples[found].1 = value;
                true
            }
            Ok(_) => false,
            Err(place) => {
                self.samples.insert(place, (at, value));
                true
            }
        }
    }

    /// The sample at an instant.
    pub fn get(&self, at: i64) -> Option<Value> {
        let found = self.samples.binary_search_by_key(&at, |sample| sample.0).ok()?;
        Some(self.samples[found].1.clone())
    }

    /// The samples in `start ..= end`.
    pub fn range(&self, start: i64, end: i64) -> &[(i64, Value)] {
        let from = self.samples.partition_point(|sample| sample.0 < start);
        let to = self.samples.partition_point(|sample| sample.0 <= end);
        &self.samples[from..to.max(from)]
    }

    /// Forgets the samples before `t`.
    pub fn drop_before(&mut self, t: i64) {
        self.samples.drain(..self.samples.partition_point(|sample| sample.0 < t));
        self.samples.shrink_to_fit();
    }

    /// Forgets these samples, unless another took their place.
    pub fn drop_written(&mut self, written: &[(i64, Value)]) {
        self.samples.retain(|(at, value)| {
            written
                .binary_search_by_key(at, |sample| sample.0)
                .is_ok_and(|found| same(&written[found].1, value))
                .eq(&false)
        });
        self.samples.shrink_to_fit();
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

/// Which of two values for one instant stays, alike on every peer: a sample before a staleness marker, a histogram
/// before a float, then the greater bits.
pub fn is_better(a: &Value, b: &Value) -> bool {
    rank(a) > rank(b)
}

fn rank(value: &Value) -> (bool, bool, u64, u64) {
    match value {
        Value::Float(bits) => (!is_stale(f64::from_bits(*bits)), false, *bits, 0),
        Value::Histogram(HistogramValue::Integer(h)) => (!is_stale(h.sum), true, h.count, h.sum.to_bits()),
        Value::Histogram(HistogramValue::Float(h)) => (!is_stale(h.sum), true, h.count.to_bits(), h.sum.to_bits()),
    }
}

/// Whether two histograms say the same. The hint is left out: it depends on what stood before.
pub fn same_histogram(a: &HistogramValue, b: &HistogramValue) -> bool {
    match (a, b) {
        (HistogramValue::Integer(a), HistogramValue::Integer(b)) => {
            (is_stale(a.sum) && is_stale(b.sum))
                || a.schema == b.schema
                    && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
                    && (a.zero_count, a.count, a.sum.to_bits()) == (b.zero_count, b.count, b.sum.to_bits())
                    && (&a.positive_spans, &a.negative_spans) == (&b.positive_spans, &b.negative_spans)
                    && (&a.positive_buckets, &a.negative_buckets) == (&b.positive_buckets, &b.negative_buckets)
                    && a.custom_values == b.custom_values
        }
        (HistogramValue::Float(a), HistogramValue::Float(b)) => {
            (is_stale(a.sum) && is_stale(b.sum))
                || a.schema == b.schema
                    && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
                    && (a.zero_count.to_bits(), a.count.to_bits(), a.sum.to_bits())
                        == (b.zero_count.to_bits(), b.count.to_bits(), b.sum.to_bits())
                    && (&a.positive_spans, &a.negative_spans) == (&b.positive_spans, &b.negative_spans)
                    && (&a.positive_buckets, &a.negative_buckets) == (&b.positive_buckets, &b.negative_buckets)
                    && a.custom_values == b.custom_values
        }
        _ => false,
    }
}
