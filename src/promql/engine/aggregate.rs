//! Aggregations that make one series a group.
//!
//! Groups are found once per query; then each series' column is added to its group's columns.
//!
//! Source: prometheus `evaluator.rangeEvalAgg`, `aggregation`, `aggregationCountValues`.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use promesh_model::histogram::kahan_add;
use promesh_model::labels::METRIC_NAME;
use promesh_model::value::format_float;
use promesh_model::{FloatHistogram, Labels};

use super::QueryError;
use super::annotations::{Note, Operation};
use super::eval::{Evaluator, text_of};
use super::functions::over_time::HistogramTotal;
use super::functions::quantile;
use super::grid::{Floats, Grid, Row, Sample, Steps, absent, is_absent, is_metadata};
use super::plan::AggregateNode;
use super::select::nothing;
use crate::parser::{AggregateOp, Span};

/// Which rows belong together.
pub(crate) struct Grouping {
    pub labels: Vec<Labels>,
    /// The group of each row.
    pub of: Vec<u32>,
}

/// The labels of a series' group.
pub(crate) fn group_labels(labels: &Labels, names: &[String], without: bool) -> Labels {
    let listed = |name: &str| names.iter().any(|label| label == name);
    match (without, names.is_empty()) {
        (true, _) => labels.without(|name| name == METRIC_NAME || listed(name)),
        (false, true) => Labels::empty(),
        (false, false) => labels.without(|name| !listed(name)),
    }
}

pub(crate) fn grouping(grid: &Grid, names: &[String], without: bool) -> Grouping {
    let mut groups = Groups::new(names, without);
    let of = grid.rows.iter().map(|row| groups.of(&row.labels, false)).collect();
    Grouping { labels: groups.labels, of }
}

/// Groups as they are met. Label sets are compared as packed bytes: one is made for a new group only.
struct Groups<'n> {
    names: &'n [String],
    without: bool,
    index: HashMap<Vec<u8>, u32, RandomState>,
    labels: Vec<Labels>,
    key: Vec<u8>,
    /// The key and number of the row before: neighbours are often of one group.
    last: Vec<u8>,
    last_number: u32,
}

impl<'n> Groups<'n> {
    fn new(names: &'n [String], without: bool) -> Groups<'n> {
        let (key, last) = (Vec::new(), Vec::new());
        Groups { names, without, index: HashMap::default(), labels: Vec::new(), key, last, last_number: 0 }
    }

    /// The group of a series, whose name may be gone already.
    fn of(&mut self, labels: &Labels, name_gone: bool) -> u32 {
        self.key.clear();
        let listed = |name: &str| self.names.iter().any(|label| label == name);
        if self.without {
            labels.pack_kept(&mut self.key, |name| {
                !(name == METRIC_NAME || listed(name) || name_gone && is_metadata(name))
            });
        } else if !self.names.is_empty() {
            labels.pack_kept(&mut self.key, |name| listed(name) && !(name_gone && is_metadata(name)));
        }
        if !self.labels.is_empty() && self.key == self.last {
            return self.last_number;
        }
        let number = match self.index.get(&self.key) {
            Some(number) => *number,
            None => {
                let number = self.labels.len() as u32;
                self.index.insert(self.key.clone(), number);
                self.labels.push(Labels::from_packed(&self.key).expect("pairs of a label set, in order"));
                number
            }
        };
        self.last.clone_from(&self.key);
        self.last_number = number;
        number
    }
}

impl Evaluator<'_> {
    pub fn aggregate(&mut self, node: &AggregateNode, steps: Steps) -> Result<Grid, QueryError> {
        if node.op == AggregateOp::CountValues {
            return self.count_values(node, steps);
        }
        let param = match &node.param {
            Some(param) => Some(self.scalar(param, steps)?),
            None => None,
        };
        if !node.op.keeps_series() && node.op != AggregateOp::Quantile {
            let result = match node.op {
                AggregateOp::Sum | AggregateOp::Avg => self.total(node, steps)?,
                _ => self.fold(node, steps)?,
            };
            self.hold(result.samples())?;
            return Ok(result);
        }
        let grid = self.grid(&node.expr, steps)?;
        let held = grid.samples();
        let param = param.unwrap_or_else(|| nothing(steps.count));
        let result = if node.op.keeps_series() {
            self.aggregate_k(node, grid, &param, steps)?
        } else {
            let grouping = grouping(&grid, &node.grouping, node.without);
            self.quantile(node, &grid, &grouping, &param, steps)?
        };
        self.hold(result.samples())?;
        self.release(held);
        Ok(result)
    }

    /// Empty columns, one a group.
    fn group_rows(grid: &Grid, grouping: &Grouping, steps: Steps) -> Vec<Row> {
        let mut rows: Vec<Row> =
            grouping.labels.iter().map(|labels| Row::of(labels.clone(), nothing(steps.count))).collect();
        for (row, group) in grid.rows.iter().zip(&grouping.of) {
            rows[*group as usize].drop_name |= row.drop_name;
        }
        rows
    }

    /// `count group min max stddev stdvar`.
    fn fold(&mut self, node: &AggregateNode, steps: Steps) -> Result<Grid, QueryError> {
        let op = node.op;
        let counts_histograms = matches!(op, AggregateOp::Count | AggregateOp::Group);
        let spread = matches!(op, AggregateOp::Stddev | AggregateOp::Stdvar);
        let mut groups = Groups::new(&node.grouping, node.without);
        let mut rows: Vec<Row> = Vec::new();
        let (mut counts, mut means) = (Vec::new(), Vec::new());
        self.each_row(&node.expr, steps, &mut |this, row, name_gone| {
            let group = groups.of(&row.labels, name_gone) as usize;
            if group == rows.len() {
                this.hold(steps.count)?;
                rows.push(Row::of(groups.labels[group].clone(), nothing(steps.count)));
                if spread {
                    counts.resize(rows.len() * steps.count, 0.0);
                    means.resize(rows.len() * steps.count, 0.0);
                }
            }
            rows[group].drop_name |= row.drop_name;
            let target = &mut rows[group].floats[..];
            if row.histograms.is_some() {
                if counts_histograms {
                    for step in (0..steps.count).filter(|step| row.histogram(*step).is_some()) {
                        let before = if is_absent(target[step]) { 0.0 } else { target[step] };
                        target[step] = if op == AggregateOp::Count { before + 1.0 } else { 1.0 };
                    }
                } else if (0..steps.count).any(|step| row.histogram(step).is_some()) {
                    this.annotations.add(node.expr.span, Note::IgnoredInAggregation(op.as_str()));
                }
            }
            match op {
                AggregateOp::Count => merge(target, &row.floats, |slot, _| slot + 1.0, |_| 1.0),
                AggregateOp::Group => merge(target, &row.floats, |_, _| 1.0, |_| 1.0),
                AggregateOp::Min => merge(target, &row.floats, |slot, value| better(slot, value, value < slot), |v| v),
                AggregateOp::Max => merge(target, &row.floats, |slot, value| better(slot, value, value > slot), |v| v),
                _ => {
                    let base = group * steps.count;
                    for (step, value) in row.floats.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
                        let (slot, cell) = (&mut target[step], base + step);
                        *slot = deviate(is_absent(*slot), *slot, *value, &mut counts[cell], &mut means[cell]);
                    }
                }
            }
            Ok(())
        })?;
        if spread {
            for (number, row) in rows.iter_mut().enumerate() {
                for (step, value) in row.floats.iter_mut().enumerate().filter(|(_, value)| !is_absent(**value)) {
                    let variance = *value / counts[number * steps.count + step];
                    *value = if op == AggregateOp::Stddev { variance.sqrt() } else { variance };
                }
            }
        }
        self.release(rows.len() * steps.count);
        Ok(finish(rows))
    }

    /// `sum` and `avg`, of floats and of histograms.
    fn total(&mut self, node: &AggregateNode, steps: Steps) -> Result<Grid, QueryError> {
        let mean = node.op == AggregateOp::Avg;
        let mut groups = Groups::new(&node.grouping, node.without);
        let mut rows: Vec<Row> = Vec::new();
        let mut compensations: Vec<f64> = Vec::new();
        let mut counts: Vec<u32> = Vec::new();
        // Cells whose sum would overflow go on as means.
        let mut incremental: HashMap<usize, (), RandomState> = HashMap::default();
        let mut histograms: HashMap<usize, HistogramCell, RandomState> = HashMap::default();
        self.each_row(&node.expr, steps, &mut |this, row, name_gone| {
            let group = groups.of(&row.labels, name_gone) as usize;
            let base = group * steps.count;
            if group == rows.len() {
                this.hold(steps.count)?;
                rows.push(Row::of(groups.labels[group].clone(), nothing(steps.count)));
                compensations.resize(base + steps.count, 0.0);
                counts.resize(if mean { base + steps.count } else { 0 }, 0);
            }
            rows[group].drop_name |= row.drop_name;
            let target = &mut rows[group].floats[..];
            let compensations = &mut compensations[base..];
            if !mean {
                for ((slot, compensation), value) in target.iter_mut().zip(compensations).zip(&row.floats) {
                    if is_absent(*value) {
                        continue;
                    }
                    if is_absent(*slot) {
                        *slot = *value;
                    } else {
                        (*slot, *compensation) = kahan_add(*value, *slot, *compensation);
                    }
                }
            } else {
                for (step, value) in row.floats.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
                    let (slot, cell) = (&mut target[step], base + step);
                    counts[cell] += 1;
                    if is_absent(*slot) {
                        *slot = *value;
                        continue;
                    }
                    let compensation = &mut compensations[step];
                    if !incremental.is_empty() && incremental.contains_key(&cell) {
                        add_to_mean(slot, compensation, *value, f64::from(counts[cell]));
                        continue;
                    }
                    let (sum, next) = kahan_add(*value, *slot, *compensation);
                    if sum.is_infinite() {
                        let before = f64::from(counts[cell]) - 1.0;
                        (*slot, *compensation) = (*slot / before, *compensation / before);
                        incremental.insert(cell, ());
                        add_to_mean(slot, compensation, *value, f64::from(counts[cell]));
                    } else {
                        (*slot, *compensation) = (sum, next);
                    }
                }
            }
            if let Some(column) = &row.histograms {
                let metric = if name_gone { "" } else { row.labels.value(METRIC_NAME) };
                for (step, histogram) in column.iter().enumerate().filter_map(|(s, h)| Some((s, h.as_ref()?))) {
                    let has_float = !is_absent(target[step]);
                    let cell = base + step;
                    this.add_histogram(node.expr.span, &mut histograms, cell, histogram, mean, has_float, metric);
                }
            }
            Ok(())
        })?;
        for (number, row) in rows.iter_mut().enumerate() {
            for (step, value) in row.floats.iter_mut().enumerate().filter(|(_, value)| !is_absent(**value)) {
                let cell = number * steps.count + step;
                *value = match counts.get(cell) {
                    Some(count) if !incremental.contains_key(&cell) => {
                        let count = f64::from(*count);
                        *value / count + compensations[cell] / count
                    }
                    _ => *value + compensations[cell],
                };
            }
        }
        if !histograms.is_empty() {
            self.finish_histograms(node.expr.span, &mut rows, histograms, steps);
        }
        self.release(rows.len() * steps.count);
        Ok(finish(rows))
    }

    #[allow(clippy::too_many_arguments)]
    fn add_histogram(
        &mut self,
        span: Span,
        cells: &mut HashMap<usize, HistogramCell, RandomState>,
        cell: usize,
        histogram: &Arc<FloatHistogram>,
        mean: bool,
        has_float: bool,
        metric: &str,
    ) {
        let Some(state) = cells.get_mut(&cell) else {
            let fresh = || HistogramCell::Total(Box::new(HistogramTotal::new((**histogram).clone(), mean)));
            // With a float in the group there will be no result: no use adding up.
            cells.insert(cell, if has_float { HistogramCell::Mixed } else { fresh() });
            return;
        };
        let HistogramCell::Total(total) = state else { return };
        if total.add(histogram).is_err() {
            self.annotations.add(span, Note::MixedExponentialCustom(metric.to_owned()));
            *state = HistogramCell::Incompatible;
        }
    }

    fn finish_histograms(
        &mut self,
        span: Span,
        rows: &mut [Row],
        cells: HashMap<usize, HistogramCell, RandomState>,
        steps: Steps,
    ) {
        for (cell, state) in cells {
            let (row, step) = (&mut rows[cell / steps.count], cell % steps.count);
            let mixed = !is_absent(row.floats[step]);
            row.floats[step] = absent();
            if mixed {
                self.annotations.add(span, Note::MixedFloatsHistogramsAggregation);
                continue;
            }
            let HistogramCell::Total(total) = state else { continue };
            let (mut result, collision, reconciled) = total.finish();
            if collision {
                self.annotations.add(span, Note::ResetCollision(Operation::Aggregation));
            }
            if reconciled {
                self.annotations.add(span, Note::BoundsReconciled(Operation::Aggregation));
            }
            result.compact(0);
            row.set_histogram(step, Arc::new(result));
        }
    }

    fn quantile(
        &mut self,
        node: &AggregateNode,
        grid: &Grid,
        grouping: &Grouping,
        param: &Floats,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let span = node.param.as_ref().map_or(node.expr.span, |param| param.span);
        // Of the parameters over time, upstream reports the extremes.
        let (least, most) = extreme(param);
        for q in param.iter().filter(|q| q.is_nan() || (**q < 0.0 && **q == least) || (**q > 1.0 && **q == most)) {
            self.annotations.add(span, Note::InvalidQuantile(*q));
        }
        let mut rows = Self::group_rows(grid, grouping, steps);
        let mut members = vec![Vec::new(); rows.len()];
        for (row, group) in grid.rows.iter().zip(&grouping.of) {
            members[*group as usize].push(row);
            if (0..steps.count).any(|step| row.histogram(step).is_some()) {
                self.annotations.add(node.expr.span, Note::IgnoredInAggregation("quantile"));
            }
        }
        let mut values = Vec::new();
        for (row, members) in rows.iter_mut().zip(&members) {
            for step in 0..steps.count {
                if step % 16 == 0 {
                    self.check()?;
                }
                values.clear();
                values.extend(members.iter().map(|member| member.floats[step]).filter(|value| !is_absent(*value)));
                if !values.is_empty() {
                    row.floats[step] = quantile::of_values(param[step], &mut values);
                }
            }
        }
        Ok(finish(rows))
    }

    /// Counts equal values; the value becomes a label.
    fn count_values(&mut self, node: &AggregateNode, steps: Steps) -> Result<Grid, QueryError> {
        let label = node.param.as_ref().map_or("", text_of).to_owned();
        if label.is_empty() {
            return Err(QueryError::Execution("invalid label name \"\"".to_owned()));
        }
        let mut names = node.grouping.clone();
        if !node.without {
            names.push(label.clone());
        }
        let mut index: HashMap<Labels, usize, RandomState> = HashMap::default();
        let mut rows: Vec<Row> = Vec::new();
        // Rows by base group and the value's bits: text and labels are made once for each.
        let mut bases = Groups::new(&node.grouping, node.without);
        let mut known: HashMap<(u32, u64), usize, RandomState> = HashMap::default();
        self.each_row(&node.expr, steps, &mut |this, row, name_gone| {
            if name_gone {
                row.labels = row.without_name();
            }
            let base = bases.of(&row.labels, false);
            let mut row_of = |value: String, rows: &mut Vec<Row>| {
                let mut labels = row.labels.to_builder();
                labels.set(&label, &value);
                let labels = group_labels(&labels.build(), &names, node.without);
                *index.entry(labels.clone()).or_insert_with(|| {
                    rows.push(Row::of(labels, nothing(steps.count)));
                    rows.len() - 1
                })
            };
            let before = rows.len();
            let mut last = None;
            for step in 0..steps.count {
                let at = match row.sample(step) {
                    None => continue,
                    Some(Sample::Float(value)) => match last {
                        Some((bits, at)) if bits == value.to_bits() => at,
                        _ => {
                            let at = *known
                                .entry((base, value.to_bits()))
                                .or_insert_with(|| row_of(format_float(value), &mut rows));
                            last = Some((value.to_bits(), at));
                            at
                        }
                    },
                    Some(Sample::Histogram(histogram)) => row_of(histogram.to_string(), &mut rows),
                };
                let slot = &mut rows[at].floats[step];
                *slot = if is_absent(*slot) { 1.0 } else { *slot + 1.0 };
            }
            // Each value makes a whole row.
            this.hold((rows.len() - before) * steps.count)
        })?;
        self.release(rows.len() * steps.count);
        // Upstream's order is that of a hash map; this one is the same wherever the samples lie.
        let mut result = Grid { rows };
        result.sort();
        self.hold(result.samples())?;
        Ok(result)
    }
}

/// Histograms of one group at one step.
#[derive(Debug)]
enum HistogramCell {
    Total(Box<HistogramTotal>),
    /// There are floats too.
    Mixed,
    /// Exponential and custom buckets met.
    Incompatible,
}

fn finish(rows: Vec<Row>) -> Grid {
    let mut grid = Grid { rows };
    grid.drop_empty();
    grid
}

fn add_to_mean(mean: &mut f64, compensation: &mut f64, value: f64, count: f64) {
    let share = (count - 1.0) / count;
    (*mean, *compensation) = kahan_add(value / count, share * *mean, share * *compensation);
}

/// Folds a column into a group's.
#[inline(always)]
fn merge(target: &mut [f64], column: &[f64], next: impl Fn(f64, f64) -> f64, first: impl Fn(f64) -> f64) {
    for (slot, value) in target.iter_mut().zip(column) {
        if !is_absent(*value) {
            *slot = if is_absent(*slot) { first(*value) } else { next(*slot, *value) };
        }
    }
}

/// The new extreme; NaN gives way to anything.
#[inline(always)]
fn better(slot: f64, value: f64, beats: bool) -> f64 {
    if beats || slot.is_nan() { value } else { slot }
}

/// Smallest and largest, NaN left out.
fn extreme(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

/// One step of Welford's algorithm: the new sum of squared differences.
fn deviate(first: bool, squares: f64, value: f64, count: &mut f64, mean: &mut f64) -> f64 {
    *count += 1.0;
    if first {
        *mean = value;
        return if value.is_finite() { 0.0 } else { f64::NAN };
    }
    let delta = value - *mean;
    *mean += delta / *count;
    squares + delta * (value - *mean)
}
