//! Samples that came after younger ones of their series: sorted, until the windows they belong to are written.

use promesh_model::ingest::HistogramValue;
use promesh_model::value::is_stale;

use super::series::Value;

/// The late samples of one series, each instant once among those that wait.
#[derive(Debug, Default)]
pub struct Late {
    samples: Vec<(i64, Value)>,
    /// Samples that are being written into a block: still answered from here until it stands.
    writing: Vec<(i64, Value)>,
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

    /// Takes the sample at an instant away, unless it is being written already.
    pub fn remove(&mut self, at: i64) -> bool {
        let found = self.samples.binary_search_by_key(&at, |sample| sample.0);
        found.map(|place| drop(self.samples.remove(place))).is_ok()
    }

    /// The sample at an instant.
    pub fn get(&self, at: i64) -> Option<Value> {
        let find = |samples: &[(i64, Value)]| {
            let found = samples.binary_search_by_key(&at, |sample| sample.0).ok()?;
            Some(samples[found].1.clone())
        };
        find(&self.samples).or_else(|| find(&self.writing))
    }

    /// The samples in `start ..= end`: those that wait, and those that are being written.
    pub fn range(&self, start: i64, end: i64) -> [&[(i64, Value)]; 2] {
        [within(&self.samples, start, end), within(&self.writing, start, end)]
    }

    /// Whether any sample lies in `start ..= end`.
    pub fn has_any_in(&self, start: i64, end: i64) -> bool {
        self.range(start, end).iter().any(|samples| !samples.is_empty())
    }

    /// Takes the samples in `start .. end` aside to be written. They stay readable; [`Late::written`] ends it.
    pub fn begin_write(&mut self, start: i64, end: i64) -> &[(i64, Value)] {
        debug_assert!(self.writing.is_empty(), "one block is made at a time");
        let from = self.samples.partition_point(|sample| sample.0 < start);
        let to = self.samples.partition_point(|sample| sample.0 < end);
        self.writing = self.samples.drain(from..to.max(from)).collect();
        &self.writing
    }

    /// The block stands, or was not made: then the samples wait on. Answers how many were written.
    pub fn written(&mut self, stands: bool) -> usize {
        let writing = std::mem::take(&mut self.writing);
        if stands {
            self.samples.shrink_to_fit();
            return writing.len();
        }
        for (at, value) in writing {
            self.insert(at, value);
        }
        0
    }

    /// The newest instant.
    pub fn newest(&self) -> Option<i64> {
        let last = |samples: &[(i64, Value)]| samples.last().map(|sample| sample.0);
        last(&self.samples).max(last(&self.writing))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.writing.is_empty()
    }
}

fn within(samples: &[(i64, Value)], start: i64, end: i64) -> &[(i64, Value)] {
    let from = samples.partition_point(|sample| sample.0 < start);
    let to = samples.partition_point(|sample| sample.0 <= end);
    &samples[from..to.max(from)]
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
