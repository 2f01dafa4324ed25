//! Vector selectors: the last sample at or before each step, not older than the lookback.

use std::sync::Arc;

use promesh_model::storage::{HistogramPoint, SeriesColumns};
use promesh_model::value::is_stale;
use promesh_model::{CounterReset, FloatHistogram};

use super::QueryError;
use super::annotations::{Note, Operation};
use super::eval::Evaluator;
use super::grid::{Grid, Row, Sample, Steps, absent};
use super::plan::{Node, Selector};
use super::range::interpolate_histograms;
use promesh_model::labels::METRIC_NAME;

/// The last sample of a series at or before an instant.
pub(crate) struct Found<'a> {
    pub at: i64,
    pub start: i64,
    pub float: f64,
    pub histogram: Option<&'a HistogramPoint>,
}

/// A reader that moves forward over one series.
pub(crate) struct Cursor<'a> {
    series: &'a SeriesColumns,
    floats: usize,
    histograms: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(series: &'a SeriesColumns) -> Cursor<'a> {
        Cursor { series, floats: 0, histograms: 0 }
    }

    /// The last sample in (`reference` − `lookback`, `reference`] that is no staleness marker.
    pub fn find(&mut self, reference: i64, lookback: i64) -> Option<Found<'a>> {
        let (times, points) = (&self.series.timestamps, &self.series.histograms);
        if self.floats > 0 && times[self.floats - 1] > reference {
            self.floats = 0;
        }
        if self.histograms > 0 && points[self.histograms - 1].timestamp > reference {
            self.histograms = 0;
        }
        self.floats = advance(self.floats, times.len(), |at| times[at] <= reference);
        self.histograms = advance(self.histograms, points.len(), |at| points[at].timestamp <= reference);
        let float = self.floats.checked_sub(1);
        let histogram = self.histograms.checked_sub(1).map(|at| &points[at]);
        let histogram = histogram.filter(|point| float.is_none_or(|at| times[at] < point.timestamp));
        let found = match (histogram, float) {
            (Some(point), _) => Found { at: point.timestamp, start: point.start, float: 0.0, histogram: Some(point) },
            (None, Some(at)) => Found {
                at: times[at],
                start: self.series.start_timestamps.get(at).copied().unwrap_or(0),
                float: self.series.values[at],
                histogram: None,
            },
            (None, None) => return None,
        };
        let stale = found.histogram.map_or_else(|| is_stale(found.float), |point| is_stale(point.value.sum));
        (found.at > reference.saturating_sub(lookback) && !stale).then_some(found)
    }
}

/// The first index from `from` on that does not satisfy the condition. Gallops, so that far jumps are cheap.
pub(crate) fn advance(from: usize, len: usize, mut holds: impl FnMut(usize) -> bool) -> usize {
    let mut low = from;
    let mut width = 1;
    while low < len {
        let probe = (low + width - 1).min(len - 1);
        if holds(probe) {
            low = probe + 1;
            width *= 2;
        } else if width == 1 {
            return low;
        } else {
            // Between low and probe: halve.
            let mut high = probe;
            while low < high {
                let middle = low + (high - low) / 2;
                if holds(middle) { low = middle + 1 } else { high = middle }
            }
            return low;
        }
    }
    low
}

impl Evaluator<'_> {
    pub fn vector_selector(&mut self, node: &Node, selector: &Selector, steps: Steps) -> Result<Grid, QueryError> {
        if selector.smoothed {
            let selection = self.selection(selector)?;
            return Ok(self.smoothed_selector(node, selector, &selection.series, steps));
        }
        self.gather(node, steps)
    }

    /// One row a series; each found sample is turned into a value.
    pub fn look_up(
        &mut self,
        series: &[SeriesColumns],
        offset: i64,
        at: Option<i64>,
        steps: Steps,
        value: impl Fn(&Found<'_>) -> Sample,
        lookback: i64,
    ) -> Result<Grid, QueryError> {
        let mut grid = Grid { rows: Vec::with_capacity(series.len()) };
        for (index, columns) in series.iter().enumerate() {
            if index % 64 == 0 {
                self.check()?;
            }
            let mut cursor = Cursor::new(columns);
            let mut row: Option<Row> = None;
            let mut samples = 0;
            for step in 0..steps.count {
                let reference = at.unwrap_or_else(|| steps.at(step)).saturating_sub(offset);
                let Some(found) = cursor.find(reference, lookback) else { continue };
                let row = row.get_or_insert_with(|| Row::empty(columns.labels.clone(), steps.count));
                let sample = value(&found);
                let size = match &sample {
                    Sample::Float(_) => 1,
                    Sample::Histogram(histogram) => histogram.sample_size(),
                };
                samples += size;
                self.count(steps.at(step), size);
                match sample {
                    Sample::Float(value) => row.floats[step] = value,
                    Sample::Histogram(histogram) => row.set_histogram(step, histogram),
                }
            }
            self.hold(samples)?;
            grid.rows.extend(row);
        }
        Ok(grid)
    }

    /// `selector smoothed`: values between samples are interpolated.
    ///
    /// Source: prometheus `evaluator.smoothSeries`.
    fn smoothed_selector(&mut self, node: &Node, selector: &Selector, series: &[SeriesColumns], steps: Steps) -> Grid {
        let mut grid = Grid::default();
        for columns in series {
            let mut row = Row::empty(columns.labels.clone(), steps.count);
            let metric = columns.labels.value(METRIC_NAME).to_owned();
            let fresh: Vec<usize> = (0..columns.values.len()).filter(|at| !is_stale(columns.values[*at])).collect();
            let points: Vec<&HistogramPoint> =
                columns.histograms.iter().filter(|point| !is_stale(point.value.sum)).collect();
            for step in 0..steps.count {
                let wanted = selector.at.unwrap_or_else(|| steps.at(step)).saturating_sub(selector.offset);
                let (low, high) = (wanted.saturating_sub(self.lookback), wanted.saturating_add(self.lookback));
                let within = |at: i64| at > low && at <= high;
                let floats: Vec<usize> = fresh.iter().copied().filter(|at| within(columns.timestamps[*at])).collect();
                let near: Vec<&HistogramPoint> = points.iter().copied().filter(|p| within(p.timestamp)).collect();
                if !floats.is_empty() && !near.is_empty() {
                    self.annotations.add(node.span, Note::MixedFloatsHistograms(metric.clone()));
                    continue;
                }
                if let Some(value) = smooth_float(columns, &floats, wanted) {
                    row.floats[step] = value;
                } else if let Some(histogram) = self.smooth_histogram(node, &metric, &near, wanted) {
                    row.set_histogram(step, Arc::new(histogram));
                }
            }
            if !row.is_empty() {
                grid.rows.push(row);
            }
        }
        grid
    }

    fn smooth_histogram(
        &mut self,
        node: &Node,
        metric: &str,
        near: &[&HistogramPoint],
        wanted: i64,
    ) -> Option<FloatHistogram> {
        use CounterReset::{Gauge, Unknown};
        let next = near.partition_point(|point| point.timestamp < wanted);
        if let Some(point) = near.get(next).filter(|point| point.timestamp == wanted) {
            return Some((*point.value).clone());
        }
        let before = near[..next].last()?;
        let Some(after) = near.get(next) else {
            let mut carried = (*before.value).clone();
            carried.counter_reset = Unknown;
            return Some(carried);
        };
        if before.value.is_custom() != after.value.is_custom() {
            self.annotations.add(node.span, Note::MixedExponentialCustom(metric.to_owned()));
            return None;
        }
        let counter = before.value.counter_reset != Gauge || after.value.counter_reset != Gauge;
        let (result, combined) = interpolate_histograms(before, after, wanted, counter).ok()?;
        for (reconciled, operation) in combined.into_iter().zip([Operation::Subtraction, Operation::Addition]) {
            if reconciled {
                self.annotations.add(node.span, Note::BoundsReconciled(operation));
            }
        }
        Some(result)
    }
}

fn smooth_float(columns: &SeriesColumns, near: &[usize], wanted: i64) -> Option<f64> {
    let (times, values) = (&columns.timestamps, &columns.values);
    let next = near.partition_point(|at| times[*at] < wanted);
    match (next.checked_sub(1).map(|at| near[at]), near.get(next)) {
        (_, Some(&at)) if times[at] == wanted => Some(values[at]),
        (Some(before), Some(&after)) => {
            let part = (wanted - times[before]) as f64;
            Some(values[before] + (values[after] - values[before]) * part / (times[after] - times[before]) as f64)
        }
        (Some(before), None) => Some(values[before]),
        (None, _) => None,
    }
}

/// A column of nothing.
pub(crate) fn nothing(steps: usize) -> super::grid::Floats {
    smallvec::SmallVec::from_elem(absent(), steps)
}
