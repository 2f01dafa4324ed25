//! Functions, one file a family.

mod date;
pub(crate) mod extended;
mod histogram;
pub(crate) mod labels;
mod math;
pub(crate) mod over_time;
pub(crate) mod quantile;
mod rate;
mod sort;
mod trend;

use super::QueryError;
use super::annotations::Note;
use super::eval::{Evaluator, text_of};
use super::grid::{Grid, Row, Sample, Steps, is_absent};
use super::plan::{Kind, Node};
use super::select::nothing;
use crate::parser::{Function, ValueType};

impl Evaluator<'_> {
    /// Calls a function at every step.
    pub fn call(
        &mut self,
        node: &Node,
        function: &'static Function,
        args: &[Node],
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let name = function.name;
        if let Some(index) = range_argument(args) {
            return self.range_call(node, function, args, index, steps);
        }
        if let Some(apply) = math::function(name) {
            return self.math(&args[0], apply, steps);
        }
        if let Some(part) = date::function(name) {
            return self.date(args.first(), part, steps);
        }
        match name {
            "time" => Ok(Grid::scalar(steps.times().map(|at| at as f64 / 1000.0).collect())),
            "pi" => Ok(Grid::scalar(steps.times().map(|_| std::f64::consts::PI).collect())),
            "vector" => Ok(Grid::scalar(self.scalar(&args[0], steps)?)),
            "scalar" => self.scalar_of(&args[0], steps),
            "max_of" | "min_of" => self.extreme_of(args, name == "max_of", steps),
            "absent" => self.absent(&args[0], steps),
            "timestamp" => self.timestamp(&args[0], steps),
            "start_timestamp" => self.start_timestamp(&args[0], steps),
            "round" => self.round(args, steps),
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(name, args, steps),
            "label_replace" => self.label_replace(args, steps),
            "label_join" => self.label_join(args, steps),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                if steps.count > 1 {
                    self.annotations.add(node.span, Note::SortInRange);
                }
                self.sort(name, args, steps)
            }
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev" | "histogram_stdvar" => {
                self.histogram_number(name, &args[0], steps)
            }
            "histogram_quantile" => self.histogram_quantile(args, steps),
            "histogram_quantiles" => self.histogram_quantiles(args, steps),
            "histogram_fraction" => self.histogram_fraction(args, steps),
            _ => Err(QueryError::Execution(format!("function {name} is not built for these arguments"))),
        }
    }

    /// Maps the floats of a vector; histograms fall out.
    pub(super) fn map_floats(
        &mut self,
        arg: &Node,
        steps: Steps,
        map: impl Fn(usize, f64) -> f64,
    ) -> Result<Grid, QueryError> {
        let mut grid = self.grid(arg, steps)?;
        for row in &mut grid.rows {
            row.histograms = None;
            for (step, value) in row.floats.iter_mut().enumerate() {
                if !is_absent(*value) {
                    *value = map(step, *value);
                }
            }
        }
        grid.drop_empty();
        self.finish_renamed(grid)
    }

    /// Drops names and makes one series of those that became equal.
    pub(super) fn finish_renamed(&mut self, mut grid: Grid) -> Result<Grid, QueryError> {
        self.drop_names(&mut grid);
        if !self.options.delayed_name_removal {
            grid.merge_duplicates()?;
        }
        Ok(grid)
    }

    fn scalar_of(&mut self, arg: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let grid = self.grid(arg, steps)?;
        let mut found = vec![0u8; steps.count];
        let mut values = smallvec::SmallVec::from_elem(f64::NAN, steps.count);
        for row in &grid.rows {
            for (step, value) in row.floats.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
                values[step] = if found[step] == 0 { *value } else { f64::NAN };
                found[step] = 1;
            }
        }
        self.release(grid.samples());
        self.hold(steps.count)?;
        Ok(Grid::scalar(values))
    }

    fn extreme_of(&mut self, args: &[Node], max: bool, steps: Steps) -> Result<Grid, QueryError> {
        let (a, b) = (self.scalar(&args[0], steps)?, self.scalar(&args[1], steps)?);
        // Go's Max and Min: NaN wins.
        let pick = |(a, b): (&f64, &f64)| match (a.is_nan() || b.is_nan(), max) {
            (true, _) => f64::NAN,
            (false, true) => a.max(*b),
            (false, false) => a.min(*b),
        };
        Ok(Grid::scalar(a.iter().zip(&b).map(pick).collect()))
    }

    fn absent(&mut self, arg: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let grid = self.grid(arg, steps)?;
        let mut row = Row::of(labels::absent_labels(arg), nothing(steps.count));
        for step in 0..steps.count {
            if !grid.rows.iter().any(|present| present.is_present(step)) {
                row.floats[step] = 1.0;
            }
        }
        self.release(grid.samples());
        Ok(if row.is_empty() { Grid::default() } else { Grid { rows: vec![row] } })
    }

    /// When the samples were taken; of anything but a selector, the instants of evaluation.
    fn timestamp(&mut self, arg: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let grid = match &arg.kind {
            Kind::Vector(selector) => {
                let selection = self.whole_selection(selector.request)?;
                let time = |found: &super::select::Found<'_>| Sample::Float(found.at as f64 / 1000.0);
                let lookback = self.lookback;
                self.look_up(&selection.series, selector.offset, selector.at, steps, time, lookback)?
            }
            _ => {
                let mut grid = self.grid(arg, steps)?;
                for row in &mut grid.rows {
                    for step in 0..steps.count {
                        if row.is_present(step) {
                            row.set(step, Some(Sample::Float(steps.at(step) as f64 / 1000.0)));
                        }
                    }
                    row.histograms = None;
                }
                grid
            }
        };
        self.finish_renamed(grid)
    }

    /// When the counters behind the samples began; only of selectors, and only where start timestamps count.
    fn start_timestamp(&mut self, arg: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let Kind::Vector(selector) = &arg.kind else { return Ok(Grid::default()) };
        if !self.options.features.start_timestamps {
            return Ok(Grid::default());
        }
        let selection = self.whole_selection(selector.request)?;
        let start = |found: &super::select::Found<'_>| Sample::Float(found.start as f64 / 1000.0);
        let lookback = self.lookback;
        let grid = self.look_up(&selection.series, selector.offset, selector.at, steps, start, lookback)?;
        self.finish_renamed(grid)
    }

    fn round(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let nearest = match args.get(1) {
            Some(arg) => self.scalar(arg, steps)?,
            None => smallvec::SmallVec::from_elem(1.0, steps.count),
        };
        self.map_floats(&args[0], steps, |step, value| {
            // The inverse causes fewer inaccuracies than dividing.
            let inverse = 1.0 / nearest[step];
            (value * inverse + 0.5).floor() / inverse
        })
    }

    fn clamp(&mut self, name: &str, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let edge = |value| smallvec::SmallVec::<[f64; 2]>::from_elem(value, steps.count);
        let grid_arg = &args[0];
        let (low, high) = match name {
            "clamp" => (self.scalar(&args[1], steps)?, self.scalar(&args[2], steps)?),
            "clamp_min" => (self.scalar(&args[1], steps)?, edge(f64::INFINITY)),
            _ => (edge(f64::NEG_INFINITY), self.scalar(&args[1], steps)?),
        };
        let clamped = |step: usize, value: f64| {
            if high[step] < low[step] {
                return super::grid::absent();
            }
            // Go's Max and Min: NaN wins.
            if value.is_nan() || low[step].is_nan() || high[step].is_nan() {
                return f64::NAN;
            }
            value.min(high[step]).max(low[step])
        };
        let mut grid = self.map_floats(grid_arg, steps, clamped)?;
        grid.drop_empty();
        Ok(grid)
    }
}

/// Whether a function maps each value by itself and keeps all labels but the name.
pub(super) fn math_of_one(name: &str) -> bool {
    math::function(name).is_some()
}

/// Which argument is a range, if one is.
pub(super) fn range_argument(args: &[Node]) -> Option<usize> {
    args.iter().position(|arg| arg.value_type == ValueType::Matrix)
}

/// The text arguments of a call.
pub(super) fn texts(args: &[Node]) -> Vec<&str> {
    args.iter().map(text_of).collect()
}
