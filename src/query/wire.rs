//! Parts of queries on the wire. Forms never change in place: a new form is a new kind.

use std::sync::Arc;

use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{HistogramPoint, ListRequest, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::{FloatHistogram, Matcher, Timestamp};
use promesh_promql::Part;
use serde::{Deserialize, Serialize};

/// "Select these series of these shards."
pub(crate) const SELECT: u8 = 40;
/// A piece of the answer.
pub(crate) const SERIES: u8 = 41;
/// The end of an answer, with warnings.
pub(crate) const DONE: u8 = 42;
/// "List names, values or series."
pub(crate) const LIST: u8 = 43;
/// A piece of a list of texts.
pub(crate) const TEXTS: u8 = 44;
/// A piece of a list of label sets.
pub(crate) const LABEL_SETS: u8 = 45;
/// The part failed at the holder, and why.
pub(crate) const FAILED: u8 = 46;

/// "Compute this aggregation over these shards."
pub(crate) const PART: u8 = 70;
/// Its state.
pub(crate) const PART_STATE: u8 = 71;
/// The holder has not all of the samples, or cannot tell: they are to be read instead. With the reason.
pub(crate) const PART_SHORT: u8 = 72;

#[derive(Serialize, Deserialize)]
pub(crate) struct WirePart {
    pub(crate) part: Part,
    pub(crate) shards: ShardSet,
    pub(crate) samples_max: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireSelect {
    pub(crate) requests: Vec<WireRequest>,
    pub(crate) shards: ShardSet,
    pub(crate) samples_max: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireRequest {
    matchers: Vec<Matcher>,
    start: i64,
    end: i64,
    step_ms: i64,
    range_ms: i64,
    func: String,
    grouping: Vec<String>,
    by: bool,
    limit: u64,
}

impl WireRequest {
    pub(crate) fn of(request: &SelectRequest) -> WireRequest {
        let hints = &request.hints;
        WireRequest {
            matchers: request.matchers.clone(),
            start: request.start.ms(),
            end: request.end.ms(),
            step_ms: hints.step_ms,
            range_ms: hints.range_ms,
            func: hints.func.clone(),
            grouping: hints.grouping.clone(),
            by: hints.by,
            limit: hints.limit as u64,
        }
    }

    pub(crate) fn into_request(self) -> SelectRequest {
        let hints = SelectHints {
            step_ms: self.step_ms,
            range_ms: self.range_ms,
            func: self.func,
            grouping: self.grouping,
            by: self.by,
            limit: usize::try_from(self.limit).unwrap_or(0),
            // An older asker does not say; a newer one saves little by it.
            newest_only: false,
            shards: None,
        };
        SelectRequest { matchers: self.matchers, start: Timestamp(self.start), end: Timestamp(self.end), hints }
    }
}

/// One series. Instants are differences, so that a regular series costs a byte or two a sample beside its value.
#[derive(Serialize, Deserialize)]
pub(crate) struct WireSeries {
    labels: Labels,
    deltas: Vec<i64>,
    values: Vec<u64>,
    starts: Vec<i64>,
    histograms: Vec<(i64, i64, FloatHistogram)>,
}

impl WireSeries {
    pub(crate) fn of(series: SeriesColumns) -> WireSeries {
        let mut previous = 0;
        let delta = |at: i64| at.wrapping_sub(std::mem::replace(&mut previous, at));
        let point = |p: HistogramPoint| (p.timestamp, p.start, Arc::unwrap_or_clone(p.value));
        WireSeries {
            labels: series.labels,
            deltas: series.timestamps.into_iter().map(delta).collect(),
            values: series.values.into_iter().map(f64::to_bits).collect(),
            starts: series.start_timestamps,
            histograms: series.histograms.into_iter().map(point).collect(),
        }
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let histograms = self.histograms.iter().map(|(_, _, h)| 128 + 8 * h.positive_buckets.len()).sum::<usize>();
        64 + self.labels.as_packed().len() + self.values.len() * 12 + histograms
    }

    /// `None` when the columns are not of one length.
    pub(crate) fn into_columns(self) -> Option<SeriesColumns> {
        if self.deltas.len() != self.values.len() || !(self.starts.is_empty() || self.starts.len() == self.values.len())
        {
            return None;
        }
        let mut at = 0i64;
        let mut instant = |delta: i64| {
            at = at.wrapping_add(delta);
            at
        };
        let point = |(timestamp, start, value)| HistogramPoint { timestamp, start, value: Arc::new(value) };
        Some(SeriesColumns {
            labels: self.labels,
            timestamps: self.deltas.into_iter().map(&mut instant).collect(),
            values: self.values.into_iter().map(f64::from_bits).collect(),
            start_timestamps: self.starts,
            histograms: self.histograms.into_iter().map(point).collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Listed {
    Names,
    Values(String),
    Series,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WireList {
    pub(crate) what: Listed,
    matcher_sets: Vec<Vec<Matcher>>,
    start: i64,
    end: i64,
    limit: u64,
}

impl WireList {
    pub(crate) fn of(what: Listed, request: &ListRequest) -> WireList {
        WireList {
            what,
            matcher_sets: request.matcher_sets.clone(),
            start: request.start.ms(),
            end: request.end.ms(),
            limit: request.limit as u64,
        }
    }

    pub(crate) fn request(&self) -> ListRequest {
        ListRequest {
            matcher_sets: self.matcher_sets.clone(),
            start: Timestamp(self.start),
            end: Timestamp(self.end),
            limit: usize::try_from(self.limit).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_come_back() {
        let columns = SeriesColumns {
            labels: Labels::from_pairs([("a", "b")]),
            timestamps: vec![i64::MIN, -5, 1_000],
            values: vec![1.5, f64::NAN, promesh_model::value::stale_nan()],
            start_timestamps: Vec::new(),
            histograms: vec![HistogramPoint { timestamp: 7, start: 0, value: Arc::default() }],
        };
        let back = WireSeries::of(columns.clone()).into_columns().expect("columns of one length");
        assert_eq!(back.timestamps, columns.timestamps);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.values), bits(&columns.values));
        assert_eq!(back.histograms, columns.histograms);
        let torn = WireSeries { values: vec![1], ..WireSeries::of(columns) };
        assert!(torn.into_columns().is_none());
    }
}
