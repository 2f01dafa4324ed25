//! Functions of ranges: each series is read once, and a window slides over it from step to step.

use std::borrow::Cow;
use std::sync::Arc;

use promesh_model::labels::METRIC_NAME;
use promesh_model::storage::{HistogramPoint, SeriesColumns};
use promesh_model::value::is_stale;
use promesh_model::{CounterReset, FloatHistogram, Labels, Timestamp};

use super::annotations::{Annotations, Note};
use super::eval::Evaluator;
use super::functions::over_time::{RangeFunction, range_function};
use super::grid::{Floats, Grid, Row, Sample, Steps, is_absent};
use super::plan::{Kind, Node, Selector};
use super::select::advance;
use super::{MatrixSeries, QueryError};
use crate::parser::{Function, Span};

/// The samples of one series without staleness markers.
pub(crate) struct RangeSeries<'a> {
    pub labels: Labels,
    pub drop_name: bool,
    pub times: Cow<'a, [i64]>,
    pub values: Cow<'a, [f64]>,
    /// One a float, or none at all.
    pub starts: Cow<'a, [i64]>,
    pub histograms: Cow<'a, [HistogramPoint]>,
    /// Whether start timestamps count.
    pub with_starts: bool,
}

impl<'a> RangeSeries<'a> {
    /// Borrows the columns of a series, or copies those with markers in them.
    pub fn of(columns: &'a SeriesColumns, with_starts: bool) -> RangeSeries<'a> {
        let starts: &[i64] = if with_starts { &columns.start_timestamps } else { &[] };
        let mut series = RangeSeries {
            labels: columns.labels.clone(),
            drop_name: false,
            times: Cow::Borrowed(&columns.timestamps),
            values: Cow::Borrowed(&columns.values),
            starts: Cow::Borrowed(starts),
            histograms: Cow::Borrowed(&columns.histograms),
            with_starts,
        };
        if columns.values.iter().any(|value| is_stale(*value)) {
            let fresh = |at: &usize| !is_stale(columns.values[*at]);
            let kept: Vec<usize> = (0..columns.values.len()).filter(fresh).collect();
            series.times = kept.iter().map(|at| columns.timestamps[*at]).collect();
            series.values = kept.iter().map(|at| columns.values[*at]).collect();
            series.starts = kept.iter().filter_map(|at| starts.get(*at).copied()).collect();
        }
        if columns.histograms.iter().any(|point| is_stale(point.value.sum)) {
            series.histograms = columns.histograms.iter().filter(|p| !is_stale(p.value.sum)).cloned().collect();
        }
        series
    }

    fn metric(&self) -> &str {
        self.labels.value(METRIC_NAME)
    }
}

/// The samples of one series in one range.
pub(crate) struct Window<'a> {
    pub times: &'a [i64],
    pub values: &'a [f64],
    pub starts: &'a [i64],
    pub histograms: &'a [HistogramPoint],
    /// Where the floats begin in the series.
    pub first: usize,
    /// Where in the series a counter was reset, as indices of floats; only for counters.
    pub resets: &'a [usize],
    /// The instant of the step.
    pub at: i64,
    /// The range proper: (start, end].
    pub start: i64,
    pub end: i64,
    /// Whether start timestamps count.
    pub with_starts: bool,
}

impl Window<'_> {
    pub fn is_mixed(&self) -> bool {
        !self.values.is_empty() && !self.histograms.is_empty()
    }

    /// When a histogram sample began; 0 when unknown or when start timestamps do not count.
    pub fn start_of(&self, point: &HistogramPoint) -> i64 {
        if self.with_starts { point.start } else { 0 }
    }

    fn samples(&self) -> usize {
        self.values.len() + self.histograms.iter().map(|point| point.value.sample_size()).sum::<usize>()
    }
}

/// What a range function works with besides the window.
pub(crate) struct RangeCall<'a> {
    pub annotations: &'a mut Annotations,
    pub metric: &'a str,
    /// The first argument.
    pub span: Span,
    /// The range's width in seconds.
    pub seconds: f64,
    /// The scalar arguments at this step.
    pub params: [f64; 2],
    pub smoothed: bool,
    pub anchored: bool,
    pub error: Option<QueryError>,
}

impl RangeCall<'_> {
    pub fn note(&mut self, note: impl FnOnce(String) -> Note) {
        let note = note(self.metric.to_owned());
        self.annotations.add(self.span, note);
    }
}

/// The geometry of a range argument.
struct Reach {
    range: i64,
    offset: i64,
    at: Option<i64>,
    before: i64,
    after: i64,
    anchored: bool,
    smoothed: bool,
}

impl Evaluator<'_> {
    /// A function with a range among its arguments.
    pub fn range_call(
        &mut self,
        node: &Node,
        function: &'static Function,
        args: &[Node],
        index: usize,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let name = function.name;
        let Some(run) = range_function(name) else {
            return Err(QueryError::Execution(format!("function {name} takes no range")));
        };
        let params = args
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != index)
            .map(|(_, arg)| self.scalar(arg, steps))
            .collect::<Result<Vec<_>, _>>()?;
        let mut grid = match &args[index].kind {
            Kind::Range(selector, range) => {
                check_extended(name, selector)?;
                let selection = self.selection(selector);
                let with_starts =
                    self.options.features.start_timestamps && matches!(name, "rate" | "irate" | "increase" | "resets");
                let extended = selector.anchored || selector.smoothed;
                let reach = Reach {
                    range: *range,
                    offset: selector.offset,
                    at: selector.at,
                    before: if extended { self.lookback } else { 0 },
                    after: if selector.smoothed { self.lookback } else { 0 },
                    anchored: selector.anchored,
                    smoothed: selector.smoothed,
                };
                let series = selection.series.iter().map(|columns| RangeSeries::of(columns, with_starts));
                self.slide(run, args, series, &reach, &params, steps)?
            }
            Kind::Subquery(subquery) => {
                let (series, samples) = self.subquery_series(subquery, steps)?;
                let reach = Reach {
                    range: subquery.range,
                    offset: subquery.offset,
                    at: subquery.at,
                    before: 0,
                    after: 0,
                    anchored: false,
                    smoothed: false,
                };
                let grid = self.slide(run, args, series.into_iter(), &reach, &params, steps)?;
                self.release(samples);
                grid
            }
            _ => return Err(QueryError::Execution(format!("function {name} needs a range vector"))),
        };
        if name == "absent_over_time" {
            return Ok(absent_over_time(&grid, &args[0], steps));
        }
        if !matches!(name, "last_over_time" | "first_over_time") {
            self.drop_names(&mut grid);
        } else if !self.options.delayed_name_removal {
            for row in grid.rows.iter_mut().filter(|row| row.drop_name) {
                row.labels = row.without_name();
            }
        }
        self.forbid_duplicates(&grid)?;
        debug_assert!(node.span.end >= node.span.start);
        Ok(grid)
    }

    fn slide<'s>(
        &mut self,
        run: RangeFunction,
        args: &[Node],
        series: impl Iterator<Item = RangeSeries<'s>>,
        reach: &Reach,
        params: &[Floats],
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let mut grid = Grid::default();
        let mut annotations = std::mem::take(&mut self.annotations);
        let mut result = Ok(());
        for (number, series) in series.enumerate() {
            if number % 16 == 0 {
                result = self.check();
            }
            let row = result.and_then(|()| {
                self.slide_one(run, remark_span(&args[0]), &series, reach, params, steps, &mut annotations)
            });
            match row {
                Ok(row) => grid.rows.extend(row),
                Err(error) => {
                    self.annotations = annotations;
                    return Err(error);
                }
            }
            result = Ok(());
        }
        self.annotations = annotations;
        Ok(grid)
    }

    #[allow(clippy::too_many_arguments)]
    fn slide_one(
        &mut self,
        run: RangeFunction,
        span: Span,
        series: &RangeSeries<'_>,
        reach: &Reach,
        params: &[Floats],
        steps: Steps,
        annotations: &mut Annotations,
    ) -> Result<Option<Row>, QueryError> {
        let resets = if run.counter { counter_resets(series) } else { Vec::new() };
        let mut call = RangeCall {
            annotations,
            metric: series.metric(),
            span,
            seconds: reach.range as f64 / 1000.0,
            params: [0.0; 2],
            smoothed: reach.smoothed,
            anchored: reach.anchored,
            error: None,
        };
        let mut row: Option<Row> = None;
        let (mut low, mut high, mut low_h, mut high_h) = (0, 0, 0, 0);
        for step in 0..steps.count {
            let at = steps.at(step);
            let end = reach.at.unwrap_or(at).saturating_sub(reach.offset);
            let start = end.saturating_sub(reach.range);
            let (from, to) = (start.saturating_sub(reach.before), end.saturating_add(reach.after));
            low = advance(low, series.times.len(), |i| series.times[i] <= from);
            high = advance(high.max(low), series.times.len(), |i| series.times[i] <= to);
            if !series.histograms.is_empty() {
                low_h = advance(low_h, series.histograms.len(), |i| series.histograms[i].timestamp <= from);
                high_h = advance(high_h.max(low_h), series.histograms.len(), |i| series.histograms[i].timestamp <= to);
            }
            if low == high && low_h == high_h {
                continue;
            }
            let window = Window {
                times: &series.times[low..high],
                values: &series.values[low..high],
                starts: series.starts.get(low..high).unwrap_or(&[]),
                histograms: &series.histograms[low_h..high_h],
                first: low,
                resets: &resets,
                at,
                start,
                end,
                with_starts: series.with_starts,
            };
            self.count(at, window.samples());
            for (param, column) in call.params.iter_mut().zip(params) {
                *param = column[step];
            }
            let sample = (run.apply)(&mut call, &window);
            if let Some(error) = call.error.take() {
                return Err(error);
            }
            if let Some(sample) = sample {
                row.get_or_insert_with(|| Row::empty(series.labels.clone(), steps.count)).set(step, Some(sample));
            }
        }
        let Some(mut row) = row else { return Ok(None) };
        row.drop_name = series.drop_name;
        self.hold(row.samples())?;
        if run.per_second_or_increase {
            self.note_non_counter(&mut call, &series.labels, &row);
        }
        Ok(Some(row))
    }

    /// A counter's name should say that it is one.
    fn note_non_counter(&self, call: &mut RangeCall<'_>, labels: &Labels, row: &Row) {
        if call.metric.is_empty() || row.floats.iter().all(|value| is_absent(*value)) {
            return;
        }
        if self.options.features.type_and_unit_labels {
            let kind = labels.value("__type__");
            if !matches!(kind, "counter" | "histogram") {
                let kind = kind.to_owned();
                call.note(|metric| Note::PossibleNonCounterLabel(metric, kind));
            }
        } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| call.metric.ends_with(suffix)) {
            call.note(Note::PossibleNonCounter);
        }
    }

    /// A range selector as the value of an instant query: its raw samples.
    pub fn range_value(&mut self, selector: &Selector, range: i64, at: i64) -> Result<Vec<MatrixSeries>, QueryError> {
        let selection = Arc::clone(&self.selections[selector.request]);
        let end = selector.at.unwrap_or(at).saturating_sub(selector.offset);
        let start = end.saturating_sub(range);
        let extended = selector.anchored || selector.smoothed;
        let from = start.saturating_sub(if extended { self.lookback } else { 0 });
        let to = end.saturating_add(if selector.smoothed { self.lookback } else { 0 });
        let mut matrix = Vec::new();
        for columns in &selection.series {
            let series = RangeSeries::of(columns, false);
            let floats = series.times.partition_point(|t| *t <= from)..series.times.partition_point(|t| *t <= to);
            let points = &series.histograms;
            let points =
                &points[points.partition_point(|p| p.timestamp <= from)..points.partition_point(|p| p.timestamp <= to)];
            if extended && !points.is_empty() {
                let word = if selector.anchored { "anchored" } else { "smoothed" };
                return Err(QueryError::Execution(format!("{word} modifier is not supported with histograms")));
            }
            let mut floats: Vec<(i64, f64)> = floats.map(|index| (series.times[index], series.values[index])).collect();
            if extended && !floats.is_empty() {
                floats = super::functions::extended::extend(&floats, start, end, selector.smoothed);
            }
            self.count(at, floats.len() + points.iter().map(|p| p.value.sample_size()).sum::<usize>());
            self.hold(floats.len() + points.len())?;
            if !floats.is_empty() || !points.is_empty() {
                matrix.push(MatrixSeries {
                    labels: columns.labels.clone(),
                    floats: floats.into_iter().map(|(t, value)| (Timestamp(t), value)).collect(),
                    histograms: points.iter().map(|p| (Timestamp(p.timestamp), Arc::clone(&p.value))).collect(),
                });
            }
        }
        matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(matrix)
    }
}

/// Where remarks on a range are placed. Upstream has lost the place of a subquery by then and shows the query's start.
fn remark_span(arg: &Node) -> Span {
    if matches!(arg.kind, Kind::Subquery(_)) { Span::default() } else { arg.span }
}

fn check_extended(name: &str, selector: &Selector) -> Result<(), QueryError> {
    let (word, safe) = if selector.anchored {
        ("anchored", &["changes", "delta", "increase", "rate", "resets"][..])
    } else if selector.smoothed {
        ("smoothed", &["delta", "increase", "rate"][..])
    } else {
        return Ok(());
    };
    if safe.contains(&name) {
        return Ok(());
    }
    let safe = safe.join(", ");
    Err(QueryError::Execution(format!("{word} modifier can only be used with: {safe} - not with {name}")))
}

/// Where the floats of a counter fall, or a start timestamp says that it began anew.
fn counter_resets(series: &RangeSeries<'_>) -> Vec<usize> {
    let mut resets = Vec::new();
    for (before, pair) in series.values.windows(2).enumerate() {
        let now = before + 1;
        let started = series
            .starts
            .get(now)
            .is_some_and(|start| started_anew(series.starts[before], series.times[before], *start, series.times[now]));
        if pair[1] < pair[0] || started {
            resets.push(now);
        }
    }
    resets
}

/// Whether a start timestamp says that a counter was reset since the sample before.
///
/// Source: prometheus `promql.isStartTimestampReset`.
pub(crate) fn started_anew(before_start: i64, before: i64, start: i64, at: i64) -> bool {
    if start == 0 || start >= at || start < before {
        return false;
    }
    // Equal to the sample before: a delta, unless the start before is unknown or invalid.
    start > before || (before_start <= before && before_start != 0 && before_start != before)
}

fn absent_over_time(grid: &Grid, arg: &Node, steps: Steps) -> Grid {
    let mut row = Row::empty(super::functions::labels::absent_labels(arg), steps.count);
    for step in 0..steps.count {
        if !grid.rows.iter().any(|present| present.is_present(step)) {
            row.floats[step] = 1.0;
        }
    }
    row.drop_name = true;
    if row.is_empty() { Grid::default() } else { Grid { rows: vec![row] } }
}

/// A histogram between two others, and whether custom bounds were reconciled in subtracting and in adding.
///
/// Source: prometheus `promql.interpolateHistograms`.
pub(crate) fn interpolate_histograms(
    before: &HistogramPoint,
    after: &HistogramPoint,
    at: i64,
    counter: bool,
) -> Result<(FloatHistogram, [bool; 2]), promesh_model::histogram::HistogramError> {
    if at == before.timestamp {
        return Ok(((*before.value).clone(), [false; 2]));
    }
    if at == after.timestamp {
        return Ok(((*after.value).clone(), [false; 2]));
    }
    let part = (at - before.timestamp) as f64 / (after.timestamp - before.timestamp) as f64;
    let mut result = (*after.value).clone();
    if counter && after.value.detect_reset(&before.value) {
        result.scale(part);
        return Ok((result, [false; 2]));
    }
    let subtracted = result.sub(&before.value)?;
    result.scale(part);
    let added = result.add(&before.value)?;
    Ok((result, [subtracted.bounds_reconciled, added.bounds_reconciled]))
}

/// Marks a histogram as a gauge, without empty buckets.
pub(crate) fn as_gauge(mut histogram: FloatHistogram) -> Sample {
    histogram.counter_reset = CounterReset::Gauge;
    histogram.compact(0);
    Sample::Histogram(Arc::new(histogram))
}
