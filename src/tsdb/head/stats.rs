//! Figures about the head: for `/api/v1/status/tsdb` and for metrics.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_model::ingest::IngestError;
use promesh_model::time::Timestamp;

use super::{AppendOutcome, Head};

/// A name and a figure.
pub type Ranked = Vec<(String, u64)>;

/// Cardinality of the head, as `/api/v1/status/tsdb` shows it: each list has the largest first, then by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TsdbStats {
    /// Series.
    pub series: u64,
    /// Different label pairs.
    pub label_pairs: u64,
    /// Chunks: one open a series, and the full ones.
    pub chunks: u64,
    /// The oldest instant that is not in a block; `None` for an empty head.
    pub min_time: Option<Timestamp>,
    /// The newest sample; `None` for an empty head.
    pub max_time: Option<Timestamp>,
    /// Series by metric name.
    pub series_by_metric: Ranked,
    /// Values by label name.
    pub values_by_label: Ranked,
    /// Bytes of the values by label name, each value as often as series have it.
    pub bytes_by_label: Ranked,
    /// Series by label pair, `name=value`.
    pub series_by_pair: Ranked,
}

/// What became of samples since the start.
#[derive(Debug, Default)]
pub struct Counters {
    appended: AtomicU64,
    late: AtomicU64,
    duplicates: AtomicU64,
    settled: AtomicU64,
    exemplars: AtomicU64,
    contradictions: AtomicU64,
    out_of_order: AtomicU64,
    out_of_bounds: AtomicU64,
    too_old: AtomicU64,
}

/// A reading of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadCounts {
    /// Samples taken in order (`prometheus_tsdb_head_samples_appended_total`, with `late`).
    pub appended: u64,
    /// Samples taken among older ones (`prometheus_tsdb_head_out_of_order_samples_appended_total`).
    pub late: u64,
    /// Samples that were there already.
    pub duplicates: u64,
    /// Of two values for one instant that came from peers the better stays.
    pub settled: u64,
    /// Exemplars taken.
    pub exemplars: u64,
    /// Another value for an instant that had one.
    pub contradictions: u64,
    /// `prometheus_tsdb_out_of_order_samples_total`.
    pub out_of_order: u64,
    /// `prometheus_tsdb_out_of_bound_samples_total`.
    pub out_of_bounds: u64,
    /// `prometheus_tsdb_too_old_samples_total`.
    pub too_old: u64,
}

impl Counters {
    /// Counts a batch.
    pub fn note(&self, outcome: &AppendOutcome) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.appended, outcome.appended);
        add(&self.late, outcome.late);
        add(&self.duplicates, outcome.duplicates);
        add(&self.settled, outcome.settled);
        add(&self.exemplars, outcome.exemplars);
        for rejected in &outcome.rejected {
            match rejected.reason {
                IngestError::Duplicate => add(&self.contradictions, 1),
                IngestError::OutOfOrder => add(&self.out_of_order, 1),
                IngestError::OutOfBounds => add(&self.out_of_bounds, 1),
                IngestError::TooOld => add(&self.too_old, 1),
                _ => {}
            }
        }
    }

    /// Counts samples of a copied chunk.
    pub fn note_settled(&self, count: u64) {
        self.settled.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> HeadCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HeadCounts {
            appended: read(&self.appended),
            late: read(&self.late),
            duplicates: read(&self.duplicates),
            settled: read(&self.settled),
            exemplars: read(&self.exemplars),
            contradictions: read(&self.contradictions),
            out_of_order: read(&self.out_of_order),
            out_of_bounds: read(&self.out_of_bounds),
            too_old: read(&self.too_old),
        }
    }
}

impl Head {
    /// What became of samples since the start, replay included.
    pub fn counts(&self) -> HeadCounts {
        self.counters.read()
    }

    /// The head's cardinality, the `limit` largest of each list.
    pub fn stats(&self, limit: usize) -> TsdbStats {
        let (oldest, newest) = (self.oldest_time(), self.max_time());
        let is_empty = newest == Timestamp::MIN;
        let mut stats = TsdbStats {
            series: self.series_count() as u64,
            chunks: self.series_count() as u64 + self.spill.chunk_count(),
            min_time: (!is_empty).then_some(oldest),
            max_time: (!is_empty).then_some(newest),
            ..TsdbStats::default()
        };
        let index = self.index.read();
        for name in index.postings.names(None) {
            let text = index.symbols.text(name);
            let (mut values, mut bytes) = (0, 0);
            for (value, list) in index.postings.values(name) {
                let (value, count) = (index.symbols.text(value), list.len() as u64);
                values += 1;
                bytes += value.len() as u64 * count;
                stats.series_by_pair.push((format!("{text}={value}"), count));
                if text == promesh_model::labels::METRIC_NAME {
                    stats.series_by_metric.push((value.to_owned(), count));
                }
            }
            stats.label_pairs += values;
            stats.values_by_label.push((text.to_owned(), values));
            stats.bytes_by_label.push((text.to_owned(), bytes));
        }
        drop(index);
        for list in [
            &mut stats.series_by_metric,
            &mut stats.values_by_label,
            &mut stats.bytes_by_label,
            &mut stats.series_by_pair,
        ] {
            list.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
            list.truncate(limit);
        }
        stats
    }
}
