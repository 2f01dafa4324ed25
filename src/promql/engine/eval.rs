//! Walking the plan.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::storage::{Budget, Queryable, Selection};
use promesh_model::{CounterReset, Timestamp};
use smallvec::SmallVec;

use super::annotations::Annotations;
use super::feed::Source;
use super::grid::{Floats, Grid, Row, Steps, is_absent};
use super::plan::{Kind, Node, SubqueryNode};
use super::range::RangeSeries;
use super::shared::SharedParts;
use super::sliding::Scratch;
use super::{EngineOptions, QueryError, Stats, Value, matrix, vector};
use crate::parser::ValueType;

/// So many times more cells than samples may a query make: series come and go, so that grids have gaps.
const CELLS_PER_SAMPLE: u64 = 8;

/// One running query.
pub(crate) struct Evaluator<'a> {
    pub options: &'a EngineOptions,
    pub storage: &'a dyn Queryable,
    pub budget: Budget,
    pub lookback: i64,
    /// The answers to the plan's requests, and how many nodes read each.
    pub sources: Vec<Source<'a>>,
    pub readers: Vec<u32>,
    pub scratch: Scratch,
    /// Values computed elsewhere.
    pub given: Vec<Grid>,
    /// Selections without the buckets of histograms, made when first needed.
    pub bare_selections: BTreeMap<usize, Arc<Selection>>,
    pub annotations: Annotations,
    pub shared: SharedParts,
    query: Steps,
    held: u64,
    /// Cells of grids that were made, whether there is a sample in them or not.
    cells: u64,
    peak: u64,
    total: u64,
    per_step: Option<Vec<u64>>,
}

impl<'a> Evaluator<'a> {
    pub fn new(
        options: &'a EngineOptions,
        storage: &'a dyn Queryable,
        budget: Budget,
        lookback: i64,
        query: Steps,
        per_step: bool,
    ) -> Evaluator<'a> {
        Evaluator {
            options,
            storage,
            budget,
            lookback,
            sources: Vec::new(),
            readers: Vec::new(),
            scratch: Scratch::default(),
            given: Vec::new(),
            bare_selections: BTreeMap::new(),
            annotations: Annotations::default(),
            shared: SharedParts::default(),
            query,
            held: 0,
            cells: 0,
            peak: 0,
            total: 0,
            per_step: per_step.then(|| vec![0; query.count]),
        }
    }

    // Limits and statistics.

    pub fn check(&self) -> Result<(), QueryError> {
        Ok(self.budget.check()?)
    }

    /// Counts samples that are kept.
    pub fn hold(&mut self, samples: usize) -> Result<(), QueryError> {
        self.held += samples as u64;
        self.peak = self.peak.max(self.held);
        if self.held > self.options.max_samples { Err(QueryError::TooManySamples) } else { Ok(()) }
    }

    /// Counts the cells of a row that is kept: columns are dense, so that a few samples at many steps take memory too.
    pub fn hold_cells(&mut self, steps: usize) -> Result<(), QueryError> {
        self.cells += steps as u64;
        let limit = self.options.max_samples.saturating_mul(CELLS_PER_SAMPLE);
        if self.cells > limit { Err(QueryError::TooManySamples) } else { Ok(()) }
    }

    pub fn release(&mut self, samples: usize) {
        self.held = self.held.saturating_sub(samples as u64);
    }

    /// Counts samples that a step used.
    pub fn count(&mut self, at: i64, samples: usize) {
        self.total += samples as u64;
        if let Some(per_step) = &mut self.per_step {
            // What a subquery uses between steps belongs to the step that asked for it: the next one.
            let step = (at - self.query.start + self.query.interval - 1).max(0) / self.query.interval;
            let last = per_step.len() - 1;
            per_step[usize::try_from(step).unwrap_or(last).min(last)] += samples as u64;
        }
    }

    /// Counts samples of many steps at once; only while [`Evaluator::counts_steps`] is false.
    pub fn count_all(&mut self, samples: u64) {
        self.total += samples;
    }

    /// Samples counted so far.
    pub fn counted(&self) -> u64 {
        self.total
    }

    /// Whether samples have to be counted step by step.
    pub fn counts_steps(&self) -> bool {
        self.per_step.is_some()
    }

    pub fn stats(&self) -> Stats {
        let per_step = self
            .per_step
            .as_ref()
            .map(|counts| self.query.times().map(Timestamp).zip(counts.iter().copied()).collect());
        Stats { total_samples: self.total, peak_samples: self.peak, per_step }
    }

    // Values.

    /// The value of the whole query.
    pub fn value(
        &mut self,
        root: &Node,
        value_type: ValueType,
        steps: Steps,
        instant: bool,
    ) -> Result<Value, QueryError> {
        let at = Timestamp(steps.start);
        if value_type == ValueType::String {
            return Ok(Value::String { at, value: text_of(root).to_owned() });
        }
        if value_type == ValueType::Matrix {
            return self.matrix_value(root, steps.start);
        }
        let mut grid = self.grid(root, steps)?;
        self.drop_delayed_names(&mut grid)?;
        if !instant {
            return Ok(Value::Matrix(matrix(grid, steps)));
        }
        Ok(match value_type {
            ValueType::Scalar => Value::Scalar { at, value: grid.rows[0].floats[0] },
            _ => Value::Vector(vector(grid, steps.start)),
        })
    }

    /// With delayed name removal, names go now.
    fn drop_delayed_names(&self, grid: &mut Grid) -> Result<(), QueryError> {
        if !self.options.delayed_name_removal {
            return Ok(());
        }
        for row in grid.rows.iter_mut().filter(|row| row.drop_name) {
            row.labels = row.without_name();
        }
        grid.merge_duplicates()
    }

    /// Takes a function's rows whose names are to go: at once, or marked for later.
    pub fn drop_names(&self, grid: &mut Grid) {
        for row in &mut grid.rows {
            if !self.options.delayed_name_removal {
                row.labels = row.without_name();
            }
            row.drop_name = true;
        }
    }

    /// Evaluates a node at every step.
    pub fn grid(&mut self, node: &Node, steps: Steps) -> Result<Grid, QueryError> {
        self.check()?;
        if steps.count == 0 {
            return Ok(Grid::default());
        }
        match &node.kind {
            Kind::Number(value) => {
                self.hold(steps.count)?;
                Ok(Grid::scalar(SmallVec::from_elem(*value, steps.count)))
            }
            Kind::Vector(selector) => self.vector_selector(node, selector, steps),
            Kind::Call(function, args) => self.call(node, function, args, steps),
            Kind::Aggregate(aggregate) => self.aggregate(aggregate, steps),
            Kind::Binary(binary) => self.binary(node, binary, steps),
            Kind::Negate(operand) => self.negate(operand, steps),
            Kind::Plus(operand) => self.grid(operand, steps),
            Kind::Invariant(inner) => self.invariant(inner, steps),
            Kind::Info(info) => self.info(info, steps),
            Kind::Given(number) => {
                let grid = self.given[*number].clone();
                self.hold(grid.samples())?;
                Ok(grid)
            }
            Kind::Shared(number) => self.shared_grid(*number, node.span, steps),
            Kind::Text(_) | Kind::Range(..) | Kind::Subquery(_) => {
                let what = node.value_type.documented();
                Err(QueryError::Execution(format!("{what} where an instant vector or scalar is needed")))
            }
        }
    }

    /// A scalar at every step.
    pub fn scalar(&mut self, node: &Node, steps: Steps) -> Result<Floats, QueryError> {
        let mut grid = self.grid(node, steps)?;
        self.release(steps.count);
        let row = grid.rows.pop().ok_or_else(|| QueryError::Execution("a scalar without a value".to_owned()))?;
        debug_assert!(row.floats.iter().all(|value| !is_absent(*value)), "scalars have no gaps");
        Ok(row.floats)
    }

    fn invariant(&mut self, inner: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let once = self.grid(inner, Steps { count: 1, ..steps })?;
        if steps.count == 1 {
            return Ok(once);
        }
        self.hold(once.samples().saturating_mul(steps.count - 1))?;
        let repeat = |row: Row| Row {
            floats: SmallVec::from_elem(row.floats[0], steps.count),
            histograms: row.histogram(0).map(|histogram| vec![Some(Arc::clone(histogram)); steps.count]),
            labels: row.labels,
            drop_name: row.drop_name,
        };
        Ok(Grid { rows: once.rows.into_iter().map(repeat).collect() })
    }

    fn negate(&mut self, operand: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let mut grid = self.grid(operand, steps)?;
        for row in &mut grid.rows {
            for value in row.floats.iter_mut().filter(|value| !is_absent(**value)) {
                *value = -*value;
            }
            for histogram in row.histograms.iter_mut().flatten().flatten() {
                Arc::make_mut(histogram).scale(-1.0);
            }
        }
        self.drop_names(&mut grid);
        if !self.options.delayed_name_removal {
            grid.merge_duplicates()?;
        }
        Ok(grid)
    }

    // Ranges.

    /// Evaluates a subquery at its own steps: those instants and the values at them.
    fn subquery(&mut self, node: &SubqueryNode, steps: Steps) -> Result<(Steps, Grid), QueryError> {
        let (start, end) = match node.at {
            Some(at) => (at, at),
            None => (steps.start, steps.end()),
        };
        let (start, end) = (start.saturating_sub(node.offset), end.saturating_sub(node.offset));
        // The first multiple of the step after the range begins.
        let begin = start.saturating_sub(node.range);
        let mut first = node.step.saturating_mul(begin / node.step);
        if first <= begin {
            first = first.saturating_add(node.step);
        }
        let inner = Steps::between(first, end, node.step);
        if inner.count as u64 > self.options.max_samples {
            return Err(QueryError::TooManySamples);
        }
        let grid = self.grid(&node.expr, inner)?;
        Ok((inner, grid))
    }

    /// The series of a subquery as a range function reads them.
    pub fn subquery_series(
        &mut self,
        node: &SubqueryNode,
        steps: Steps,
    ) -> Result<(Vec<RangeSeries<'static>>, usize), QueryError> {
        let (inner, grid) = self.subquery(node, steps)?;
        let samples = grid.samples();
        let series = grid.rows.into_iter().map(|row| row_series(row, inner)).collect();
        Ok((series, samples))
    }

    /// A range selector or subquery as the value of an instant query.
    fn matrix_value(&mut self, root: &Node, at: i64) -> Result<Value, QueryError> {
        let steps = Steps::one(at);
        match &root.kind {
            Kind::Subquery(subquery) => {
                let (inner, mut grid) = self.subquery(subquery, steps)?;
                self.drop_delayed_names(&mut grid)?;
                Ok(Value::Matrix(matrix(grid, inner)))
            }
            Kind::Range(selector, range) => Ok(Value::Matrix(self.range_value(selector, *range, at)?)),
            _ => Err(QueryError::Execution("a range vector that is neither selector nor subquery".to_owned())),
        }
    }
}

/// A row as columns of samples. Counter reset hints are forgotten: between the samples of a subquery others lie.
fn row_series(row: Row, steps: Steps) -> RangeSeries<'static> {
    let mut series = RangeSeries {
        drop_name: row.drop_name,
        times: Cow::Owned(Vec::new()),
        values: Cow::Owned(Vec::new()),
        starts: Cow::Borrowed(&[]),
        histograms: Cow::Owned(Vec::new()),
        labels: row.labels.clone(),
        with_starts: false,
    };
    for step in 0..steps.count {
        let at = steps.at(step);
        if !is_absent(row.floats[step]) {
            series.times.to_mut().push(at);
            series.values.to_mut().push(row.floats[step]);
        } else if let Some(histogram) = row.histogram(step) {
            let mut value = Arc::clone(histogram);
            if matches!(value.counter_reset, CounterReset::Reset | CounterReset::NotReset) {
                Arc::make_mut(&mut value).counter_reset = CounterReset::Unknown;
            }
            series.histograms.to_mut().push(promesh_model::storage::HistogramPoint { timestamp: at, start: 0, value });
        }
    }
    series
}

/// The text of a string node.
pub(crate) fn text_of(node: &Node) -> &str {
    match &node.kind {
        Kind::Text(text) => text,
        Kind::Invariant(inner) => text_of(inner),
        _ => "",
    }
}
