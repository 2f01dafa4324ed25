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
use super::grid::{Floats, Grid, Row, Sample, Steps, absent, is_absent};
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
    let mut index: HashMap<Labels, u32, RandomState> = HashMap::default();
    let mut grouping = Grouping { labels: Vec::new(), of: Vec::with_capacity(grid.rows.len()) };
    for row in &grid.rows {
        let labels = group_labels(&row.labels, names, without);
        let next = grouping.labels.len() as u32;
        let group = *index.entry(labels.clone()).or_insert(next);
        if group == next {
            grouping.labels.push(labels);
        }
        grouping.of.push(group);
    }
    grouping
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
        let grid = self.grid(&node.expr, steps)?;
        let held = grid.samples();
        let result = match (&param, node.op.keeps_series()) {
            (Some(param), true) => self.aggregate_k(node, grid, param, steps)?,
            _ => {
                let grouping = grouping(&grid, &node.grouping, node.without);
                match node.op {
                    AggregateOp::Sum | AggregateOp::Avg => self.total(node, &grid, &grouping, steps)?,
                    AggregateOp::Quantile => {
                        let param = param.unwrap_or_else(|| nothing(steps.count));
                        self.quantile(node, &grid, &grouping, &param, steps)?
                    }
                    _ => self.fold(node, &grid, &grouping, steps)?,
                }
            }
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
    fn fold(
        &mut self,
        node: &AggregateNode,
        grid: &Grid,
        grouping: &Grouping,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let mut rows = Self::group_rows(grid, grouping, steps);
        let op = node.op;
        let counts_histograms = matches!(op, AggregateOp::Count | AggregateOp::Group);
        let spread = matches!(op, AggregateOp::Stddev | AggregateOp::Stdvar);
        let cells = if spread { rows.len() * steps.count } else { 0 };
        let (mut counts, mut means) = (vec![0.0; cells], vec![0.0; cells]);
        for (number, (row, group)) in grid.rows.iter().zip(&grouping.of).enumerate() {
            if number % 256 == 0 {
                self.check()?;
            }
            let target = &mut rows[*group as usize].floats;
            if row.histograms.is_some() {
                if counts_histograms {
                    for step in (0..steps.count).filter(|step| row.histogram(*step).is_some()) {
                        let before = if is_absent(target[step]) { 0.0 } else { target[step] };
                        target[step] = if op == AggregateOp::Count { before + 1.0 } else { 1.0 };
                    }
                } else if (0..steps.count).any(|step| row.histogram(step).is_some()) {
                    self.annotations.add(node.expr.span, Note::IgnoredInAggregation(op.as_str()));
                }
            }
            let base = *group as usize * steps.count;
            for (step, value) in row.floats.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
                let slot = &mut target[step];
                let first = is_absent(*slot);
                *slot = match op {
                    AggregateOp::Count if first => 1.0,
                    AggregateOp::Count => *slot + 1.0,
                    AggregateOp::Group => 1.0,
                    AggregateOp::Min if first || *value < *slot || slot.is_nan() => *value,
                    AggregateOp::Max if first || *value > *slot || slot.is_nan() => *value,
                    AggregateOp::Min | AggregateOp::Max => *slot,
                    _ => {
                        let cell = base + step;
                        deviate(first, *slot, *value, &mut counts[cell], &mut means[cell])
                    }
                };
            }
        }
        if spread {
            for (number, row) in rows.iter_mut().enumerate() {
                for (step, value) in row.floats.iter_mut().enumerate().filter(|(_, value)| !is_absent(**value)) {
                    let variance = *value / counts[number * steps.count + step];
                    *value = if op == AggregateOp::Stddev { variance.sqrt() } else { variance };
                }
            }
        }
        Ok(finish(rows))
    }

    /// `sum` and `avg`, of floats and of histograms.
    fn total(
        &mut self,
        node: &AggregateNode,
        grid: &Grid,
        grouping: &Grouping,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let mean = node.op == AggregateOp::Avg;
        let mut rows = Self::group_rows(grid, grouping, steps);
        let cells = rows.len() * steps.count;
        let mut compensations = vec![0.0; cells];
        let mut counts = vec![0u32; if mean { cells } else { 0 }];
        // Cells whose sum would overflow go on as means.
        let mut incremental: HashMap<usize, (), RandomState> = HashMap::default();
        let mut histograms: HashMap<usize, HistogramCell, RandomState> = HashMap::default();
        for (number, (row, group)) in grid.rows.iter().zip(&grouping.of).enumerate() {
            if number % 256 == 0 {
                self.check()?;
            }
            let base = *group as usize * steps.count;
            let target = &mut rows[*group as usize].floats;
            for (step, value) in row.floats.iter().enumerate() {
                if is_absent(*value) {
                    continue;
                }
                let (slot, cell) = (&mut target[step], base + step);
                if mean {
                    counts[cell] += 1;
                }
                if is_absent(*slot) {
                    *slot = *value;
                    continue;
                }
                let compensation = &mut compensations[cell];
                if mean && !incremental.is_empty() && incremental.contains_key(&cell) {
                    add_to_mean(slot, compensation, *value, f64::from(counts[cell]));
                    continue;
                }
                let (sum, next) = kahan_add(*value, *slot, *compensation);
                if mean && sum.is_infinite() {
                    let before = f64::from(counts[cell]) - 1.0;
                    (*slot, *compensation) = (*slot / before, *compensation / before);
                    incremental.insert(cell, ());
                    add_to_mean(slot, compensation, *value, f64::from(counts[cell]));
                } else {
                    (*slot, *compensation) = (sum, next);
                }
            }
            if let Some(column) = &row.histograms {
                let metric = row.labels.value(METRIC_NAME);
                for (step, histogram) in column.iter().enumerate().filter_map(|(s, h)| Some((s, h.as_ref()?))) {
                    let has_float = !is_absent(target[step]);
                    self.add_histogram(
                        node.expr.span,
                        &mut histograms,
                        base + step,
                        histogram,
                        mean,
                        has_float,
                        metric,
                    );
                }
            }
        }
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
            self.check()?;
            for step in 0..steps.count {
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
        let grid = self.grid(&node.expr, steps)?;
        let mut index: HashMap<Labels, usize, RandomState> = HashMap::default();
        let mut rows: Vec<Row> = Vec::new();
        for row in &grid.rows {
            self.check()?;
            for step in 0..steps.count {
                let value = match row.sample(step) {
                    None => continue,
                    Some(Sample::Float(value)) => format_float(value),
                    Some(Sample::Histogram(histogram)) => histogram.to_string(),
                };
                let mut labels = row.labels.to_builder();
                labels.set(&label, &value);
                let labels = group_labels(&labels.build(), &names, node.without);
                let at = *index.entry(labels.clone()).or_insert(rows.len());
                if at == rows.len() {
                    rows.push(Row::of(labels, nothing(steps.count)));
                }
                let slot = &mut rows[at].floats[step];
                *slot = if is_absent(*slot) { 1.0 } else { *slot + 1.0 };
            }
        }
        let result = Grid { rows };
        self.hold(result.samples())?;
        self.release(grid.samples());
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
