//! Columns of samples: filling them from chunks, and joining those of one series from several places.

use std::sync::Arc;

use promesh_model::ingest::HistogramValue;
use promesh_model::storage::{HistogramPoint, SeriesColumns};

use crate::chunk::{self, ChunkError, Encoding};
use crate::head::late::is_better;
use crate::head::series::Value;

/// Appends the samples of a chunk within `start ..= end`.
///
/// # Errors
/// When the bytes are no chunk; the samples before the damage are there.
pub fn push_chunk(
    columns: &mut SeriesColumns,
    encoding: Encoding,
    bytes: &[u8],
    start: i64,
    end: i64,
) -> Result<(), ChunkError> {
    if encoding == Encoding::Xor {
        return chunk::xor::decode_into(bytes, start, end, &mut columns.timestamps, &mut columns.values);
    }
    chunk::histogram::for_each(encoding, bytes, |at, value| {
        if at >= start && at <= end {
            push_value(columns, at, &Value::Histogram(value()));
        }
        at <= end
    })
}

/// Appends one sample.
pub fn push_value(columns: &mut SeriesColumns, at: i64, value: &Value) {
    match value {
        Value::Float(bits) => {
            columns.timestamps.push(at);
            columns.values.push(f64::from_bits(*bits));
        }
        Value::Histogram(value) => {
            let value = match value {
                HistogramValue::Integer(histogram) => Arc::new(histogram.to_float()),
                HistogramValue::Float(histogram) => Arc::clone(histogram),
            };
            columns.histograms.push(HistogramPoint { timestamp: at, start: 0, value });
        }
    }
}

/// How many samples of a query's budget the columns take: a histogram as many as its bytes fill.
pub fn sample_count(columns: &SeriesColumns) -> usize {
    let histograms: usize = columns
        .histograms
        .iter()
        .map(|point| 4 + (point.value.positive_buckets.len() + point.value.negative_buckets.len()) / 2)
        .sum();
    columns.values.len() + histograms
}

/// The last instant of any kind of sample.
pub fn last_instant(columns: &SeriesColumns) -> Option<i64> {
    Some(bounds(columns)?.1)
}

fn bounds(columns: &SeriesColumns) -> Option<(i64, i64)> {
    let first = [columns.timestamps.first().copied(), columns.histograms.first().map(|point| point.timestamp)];
    let last = [columns.timestamps.last().copied(), columns.histograms.last().map(|point| point.timestamp)];
    Some((first.into_iter().flatten().min()?, last.into_iter().flatten().max()?))
}

/// Adds later or overlapping samples of the same series, taking them out of `more`, whose memory stays; where two stand
/// at one instant the better stays.
pub fn join(into: &mut SeriesColumns, more: &mut SeriesColumns) {
    let Some((more_first, _)) = bounds(more) else { return };
    let Some((_, last)) = bounds(into) else {
        std::mem::swap(into, more);
        std::mem::swap(&mut into.labels, &mut more.labels);
        return;
    };
    if !(into.start_timestamps.is_empty() && more.start_timestamps.is_empty()) {
        into.start_timestamps.resize(into.timestamps.len(), 0);
        more.start_timestamps.resize(more.timestamps.len(), 0);
    }
    if more_first > last {
        into.start_timestamps.append(&mut more.start_timestamps);
        into.timestamps.append(&mut more.timestamps);
        into.values.append(&mut more.values);
        into.histograms.append(&mut more.histograms);
        return;
    }
    join_floats(into, more);
    join_histograms(into, &mut more.histograms);
    drop_shadowed(into);
}

fn join_floats(into: &mut SeriesColumns, more: &SeriesColumns) {
    let (times, values) = (std::mem::take(&mut into.timestamps), std::mem::take(&mut into.values));
    into.timestamps.reserve(times.len() + more.timestamps.len());
    into.values.reserve(times.len() + more.timestamps.len());
    let starts = std::mem::take(&mut into.start_timestamps);
    let with_starts = !starts.is_empty();
    let mut a = times.into_iter().zip(values).zip(starts.into_iter().chain(std::iter::repeat(0))).map(row).peekable();
    let more_starts = more.start_timestamps.iter().copied().chain(std::iter::repeat(0));
    let more_rows = more.timestamps.iter().copied().zip(more.values.iter().copied());
    let mut b = more_rows.zip(more_starts).map(row).peekable();
    loop {
        let (at, value, start) = match (a.peek().copied(), b.peek().copied()) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                a.next();
                b.next();
                let better = is_better(&Value::Float(y.1.to_bits()), &Value::Float(x.1.to_bits()));
                if better { y } else { x }
            }
            (Some(x), Some(y)) if x.0 < y.0 => a.next().unwrap_or(x),
            (Some(x), None) => a.next().unwrap_or(x),
            (_, Some(y)) => b.next().unwrap_or(y),
            (None, None) => break,
        };
        into.timestamps.push(at);
        into.values.push(value);
        if with_starts {
            into.start_timestamps.push(start);
        }
    }
}

fn row(((at, value), start): ((i64, f64), i64)) -> (i64, f64, i64) {
    (at, value, start)
}

fn join_histograms(into: &mut SeriesColumns, more: &mut Vec<HistogramPoint>) {
    if more.is_empty() {
        return;
    }
    into.histograms.append(more);
    let rank = |point: &HistogramPoint| {
        let stale = promesh_model::value::is_stale(point.value.sum);
        (!stale, point.value.count.to_bits(), point.value.sum.to_bits())
    };
    into.histograms.sort_by(|a, b| a.timestamp.cmp(&b.timestamp).then_with(|| rank(b).cmp(&rank(a))));
    into.histograms.dedup_by_key(|point| point.timestamp);
}

/// Takes floats away where a histogram stands at the same instant.
fn drop_shadowed(columns: &mut SeriesColumns) {
    if columns.histograms.is_empty() || columns.timestamps.is_empty() {
        return;
    }
    let shadowed = |at: &i64| columns.histograms.binary_search_by_key(at, |point| point.timestamp).is_ok();
    let keep: Vec<bool> = columns.timestamps.iter().map(|at| !shadowed(at)).collect();
    let mut keeps = keep.iter();
    columns.start_timestamps.retain(|_| *keeps.next().unwrap_or(&true));
    let mut keeps = keep.iter();
    columns.timestamps.retain(|_| *keeps.next().unwrap_or(&true));
    let mut keeps = keep.iter();
    columns.values.retain(|_| *keeps.next().unwrap_or(&true));
}
