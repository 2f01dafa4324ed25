//! Functions of ranges: each series is read once, and a window slides over it from step to step.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use promesh_model::labels::METRIC_NAME;
use promesh_model::storage::{HistogramPoint, SeriesColumns};
use promesh_model::value::is_stale;
use promesh_model::{CounterReset, FloatHistogram, Labels, MatchOp, Matcher, Timestamp};

use super::annotations::{Annotations, Note};
use super::eval::Evaluator;
use super::functions::over_time::{RangeFunction, range_function};
use super::grid::{Floats, Grid, Row, Sample, Steps, duplicate_labels, is_absent, is_metadata};
use super::plan::{Kind, Node, Selector};
use super::select::advance;
use super::sliding::{self, Sliding, Windows};
use super::{MatrixSeries, QueryError};
use crate::parser::{Function, Span};

/// So many samples are looked at between two looks at the budget.
const LOOKS: usize = 1 << 20;

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

/// Takes a row at a time; the flag says that the metric's name is gone although the labels still have it. A row whose
/// columns are taken out is kept by whom they went to.
pub(crate) type Consume<'c, 'a> = dyn FnMut(&mut Evaluator<'a>, &mut Row, bool) -> Result<(), QueryError> + 'c;

/// A range function on its way over the series of its argument.
struct Slide {
    run: RangeFunction,
    /// The way for floats alone, if there is one.
    sliding: Option<Sliding>,
    span: Span,
    reach: Reach,
    params: Vec<Floats>,
    steps: Steps,
    drops_name: bool,
    /// Whether no two series differ in their names only.
    unique: bool,
    /// Packed labels without names, where they may be equal.
    seen: HashSet<Vec<u8>, RandomState>,
    key: Vec<u8>,
}

impl Slide {
    fn call<'c>(&self, annotations: &'c mut Annotations, metric: &'c str) -> RangeCall<'c> {
        RangeCall {
            annotations,
            metric,
            span: self.span,
            seconds: self.reach.range as f64 / 1000.0,
            params: [0.0; 2],
            smoothed: self.reach.smoothed,
            anchored: self.reach.anchored,
            error: None,
        }
    }
}

fn names_one_metric(matcher: &Matcher) -> bool {
    matcher.op == MatchOp::Equal && matcher.name == METRIC_NAME && !matcher.value.is_empty()
}

/// Whether labels go with the name that may tell series apart.
fn has_type_or_unit(labels: &Labels) -> bool {
    let near = labels.iter().map(|(name, _)| name).take_while(|name| *name <= "__unit__");
    near.into_iter().any(|name| matches!(name, "__type__" | "__unit__"))
}

/// The geometry of a range argument.
#[derive(Clone, Copy, Default)]
struct Reach {
    range: i64,
    offset: i64,
    at: Option<i64>,
    before: i64,
    after: i64,
    anchored: bool,
    smoothed: bool,
}

impl<'a> Evaluator<'a> {
    /// A function with a range among its arguments.
    pub fn range_call(
        &mut self,
        node: &Node,
        function: &'static Function,
        args: &[Node],
        index: usize,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        if function.name != "absent_over_time" {
            return self.gather(node, steps);
        }
        debug_assert_eq!(index, 0, "absent_over_time takes nothing but a range");
        let mut present = vec![false; steps.count];
        self.each_slid(function, args, index, steps, &mut |_, row, _| {
            for (step, present) in present.iter_mut().enumerate() {
                *present |= row.is_present(step);
            }
            Ok(())
        })?;
        Ok(absent_over_time(&present, &args[0], steps))
    }

    /// Visits the value of a range function series by series. Names that the function drops are still there, and told
    /// about, when they need not be kept to the end of the query.
    pub fn each_slid(
        &mut self,
        function: &'static Function,
        args: &[Node],
        index: usize,
        steps: Steps,
        consume: &mut Consume<'_, 'a>,
    ) -> Result<(), QueryError> {
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
        let delayed = self.options.delayed_name_removal;
        let mut slide = Slide {
            run,
            sliding: Sliding::of(name).filter(|_| !self.counts_steps()),
            span: remark_span(&args[0]),
            reach: Reach::default(),
            params,
            steps,
            drops_name: !matches!(name, "last_over_time" | "first_over_time"),
            unique: true,
            seen: HashSet::default(),
            key: Vec::new(),
        };
        let mut row = Row::empty(Labels::empty(), steps.count);
        match &args[index].kind {
            Kind::Range(selector, range) => {
                check_extended(name, selector)?;
                let with_starts =
                    self.options.features.start_timestamps && matches!(name, "rate" | "irate" | "increase" | "resets");
                let extended = selector.anchored || selector.smoothed;
                slide.reach = Reach {
                    range: *range,
                    offset: selector.offset,
                    at: selector.at,
                    before: if extended { self.lookback } else { 0 },
                    after: if selector.smoothed { self.lookback } else { 0 },
                    anchored: selector.anchored,
                    smoothed: selector.smoothed,
                };
                slide.unique = delayed || selector.matchers.iter().any(names_one_metric);
                let mut feed = self.feed(selector)?;
                let mut number = 0;
                while let Some(columns) = feed.next()? {
                    if number % 16 == 0 {
                        self.check()?;
                    }
                    number += 1;
                    row.reset(columns.labels.clone(), steps.count);
                    if self.slide_columns(&slide, columns, with_starts, &mut row)? {
                        self.pass_on(&mut slide, &mut row, consume)?;
                    }
                }
                self.finish_feed(feed);
            }
            Kind::Subquery(subquery) => {
                let (series, samples) = self.subquery_series(subquery, steps)?;
                slide.reach =
                    Reach { range: subquery.range, offset: subquery.offset, at: subquery.at, ..Reach::default() };
                slide.unique = delayed;
                for (number, series) in series.into_iter().enumerate() {
                    if number % 16 == 0 {
                        self.check()?;
                    }
                    row.reset(series.labels.clone(), steps.count);
                    if self.slide_series(&slide, &series, &mut row)? {
                        self.pass_on(&mut slide, &mut row, consume)?;
                    }
                }
                self.release(samples);
            }
            _ => return Err(QueryError::Execution(format!("function {name} needs a range vector"))),
        }
        Ok(())
    }

    /// Hands a row on, unless another had the same labels.
    fn pass_on(&mut self, slide: &mut Slide, row: &mut Row, consume: &mut Consume<'_, 'a>) -> Result<(), QueryError> {
        row.drop_name |= slide.drops_name;
        let gone = row.drop_name && !self.options.delayed_name_removal;
        if gone && (!slide.unique || has_type_or_unit(&row.labels)) {
            slide.key.clear();
            row.labels.pack_kept(&mut slide.key, |name| !is_metadata(name));
            if !slide.seen.insert(slide.key.clone()) {
                return Err(duplicate_labels());
            }
        }
        let samples = row.samples();
        self.hold(samples)?;
        consume(self, row, gone)?;
        if !row.floats.is_empty() {
            self.release(samples);
        }
        Ok(())
    }

    /// One series of storage; answers whether there is anything in the row.
    fn slide_columns(
        &mut self,
        slide: &Slide,
        columns: &SeriesColumns,
        with_starts: bool,
        row: &mut Row,
    ) -> Result<bool, QueryError> {
        let without_starts = !with_starts || columns.start_timestamps.is_empty();
        let plain = columns.histograms.is_empty() && without_starts;
        if let Some(sliding) = slide.sliding.filter(|_| plain && !slide.reach.anchored && !slide.reach.smoothed) {
            let (mut times, mut values) = (Vec::new(), Vec::new());
            let mut series = sliding::Floats { times: &columns.timestamps, values: &columns.values };
            if columns.values.iter().any(|value| is_stale(*value)) {
                times = std::mem::take(&mut self.scratch.times);
                values = std::mem::take(&mut self.scratch.values);
                times.clear();
                values.clear();
                for (at, value) in columns.timestamps.iter().zip(&columns.values).filter(|(_, v)| !is_stale(**v)) {
                    times.push(*at);
                    values.push(*value);
                }
                series = sliding::Floats { times: &times, values: &values };
            }
            let Reach { range, offset, at, .. } = slide.reach;
            let windows = Windows { steps: slide.steps, range, offset, at };
            let (params, scratch) = (&slide.params, &mut self.scratch);
            let slid = sliding::slide(sliding, &windows, series, params, scratch, &mut row.floats, &self.budget);
            if times.capacity() > 0 {
                (self.scratch.times, self.scratch.values) = (times, values);
            }
            self.check()?;
            if let Some(samples) = slid {
                self.count_all(samples);
                let found = row.floats.iter().any(|value| !is_absent(*value));
                if found && slide.run.per_second_or_increase {
                    let mut annotations = std::mem::take(&mut self.annotations);
                    self.note_non_counter(&mut slide.call(&mut annotations, row.labels.value(METRIC_NAME)), row);
                    self.annotations = annotations;
                }
                return Ok(found);
            }
        }
        self.slide_series(slide, &RangeSeries::of(columns, with_starts), row)
    }

    /// The general way: any function over floats and histograms.
    fn slide_series(&mut self, slide: &Slide, series: &RangeSeries<'_>, row: &mut Row) -> Result<bool, QueryError> {
        let mut annotations = std::mem::take(&mut self.annotations);
        let result = self.slide_one(slide, series, row, &mut annotations);
        self.annotations = annotations;
        result
    }

    fn slide_one(
        &mut self,
        slide: &Slide,
        series: &RangeSeries<'_>,
        row: &mut Row,
        annotations: &mut Annotations,
    ) -> Result<bool, QueryError> {
        let Slide { run, reach, params, steps, .. } = slide;
        let resets = if run.counter { counter_resets(series) } else { Vec::new() };
        let mut call = slide.call(annotations, series.metric());
        let mut found = false;
        let mut looked_at = 0;
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
            let samples = window.samples();
            self.count(at, samples);
            looked_at += samples;
            if looked_at >= LOOKS {
                looked_at = 0;
                self.check()?;
            }
            for (param, column) in call.params.iter_mut().zip(params) {
                *param = column[step];
            }
            let sample = (run.apply)(&mut call, &window);
            if let Some(error) = call.error.take() {
                return Err(error);
            }
            if let Some(sample) = sample {
                found = true;
                row.set(step, Some(sample));
            }
        }
        row.drop_name = series.drop_name;
        if found && run.per_second_or_increase {
            self.note_non_counter(&mut call, row);
        }
        Ok(found)
    }

    /// A counter's name should say that it is one.
    fn note_non_counter(&self, call: &mut RangeCall<'_>, row: &Row) {
        if call.metric.is_empty() || row.floats.iter().all(|value| is_absent(*value)) {
            return;
        }
        if self.options.features.type_and_unit_labels {
            let kind = row.labels.value("__type__");
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
        let selection = self.whole_selection(selector.request)?;
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

fn absent_over_time(present: &[bool], arg: &Node, steps: Steps) -> Grid {
    let mut row = Row::empty(super::functions::labels::absent_labels(arg), steps.count);
    for (value, _) in row.floats.iter_mut().zip(present).filter(|(_, present)| !**present) {
        *value = 1.0;
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
