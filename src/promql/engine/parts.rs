//! Aggregations of a query that others compute: found in the tree before anything is read, asked for, and put into the
//! plan as given values.
//!
//! What may be pushed down works on one shard's series at a time: selectors, functions of ranges and of single values,
//! arithmetic with numbers, and one-to-one joins on labels with job and instance among them, because series with the
//! same job and instance lie in one shard.

use promesh_model::Timestamp;
use promesh_model::storage::{Budget, Queryable};
use promesh_model::time::ms_of;
use serde::{Deserialize, Serialize};

use super::annotations::Annotations;
use super::eval::Evaluator;
use super::grid::{Grid, Row, Sample, Steps};
use super::select::nothing;
use super::{Engine, QueryError, QueryOptions, Value, math_of_one, plan};
use crate::parser::{Aggregate, Cardinality, Expr, Function, Span, ValueType};
use crate::parts::{Partial, PartialOp};

/// An aggregation of a query, to be computed over some of the series it is about.
///
/// The whole query travels, because instants and remarks are about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The query.
    pub query: String,
    /// Where in it the aggregation stands.
    pub span: (usize, usize),
    /// The first instant of the query, in ms.
    pub start: i64,
    /// Its last instant, in ms.
    pub end: i64,
    /// From one instant to the next, in ms; 0 for an instant query.
    pub step: i64,
    /// How far back an instant looks, in ms.
    pub lookback: i64,
    /// The first instant of which samples are needed, in ms.
    pub from: i64,
    /// The last.
    pub to: i64,
    /// Whether it joins series: then those without job or instance make it fail.
    pub joins: bool,
}

/// The state of an aggregation over some series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartAnswer {
    /// The state.
    pub partial: Partial,
    /// Remarks of its vector.
    pub warnings: Vec<String>,
    /// Remarks of its vector.
    pub infos: Vec<String>,
    /// Samples its steps used.
    pub samples: u64,
}

/// Who computes parts of queries where the samples are.
pub trait Parts: std::fmt::Debug + Send + Sync {
    /// The state over all series there are, or `None` when it is better computed from samples.
    ///
    /// # Errors
    /// When the query is cancelled or too large.
    fn compute(&self, part: &Part, budget: &Budget) -> Result<Option<PartAnswer>, QueryError>;
}

/// What was computed elsewhere.
#[derive(Default)]
pub(super) struct Given {
    pub spans: Vec<Span>,
    pub grids: Vec<Grid>,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    pub samples: u64,
    /// Remarks of the aggregations themselves.
    pub annotations: Annotations,
}

impl Engine {
    /// Computes a part over the series of a storage.
    ///
    /// # Errors
    /// As [`QueryError`] says; `BadData` when the query has no such aggregation.
    pub fn part(&self, storage: &dyn Queryable, part: &Part, budget: Budget) -> Result<PartAnswer, QueryError> {
        let expr = self.parse(&part.query)?;
        let aggregate = find(&expr, part.span);
        let op = aggregate.and_then(|found| Some((found, PartialOp::of(found)?)));
        let Some((aggregate, op)) = op else {
            return Err(QueryError::BadData(format!("no aggregation that merges at {:?} of the query", part.span)));
        };
        let steps = part.steps();
        if steps.count as u64 > self.options.max_samples {
            return Err(QueryError::TooManySamples);
        }
        let step = ms_of(self.options.default_step).max(1);
        let planned = plan::plan("", &aggregate.expr, steps, part.end, part.step == 0, part.lookback, step, &[])?;
        let mut evaluator = Evaluator::new(&self.options, storage, budget, part.lookback, steps, false);
        evaluator.select(&planned.requests, &planned.readers)?;
        let mut partial = Partial::new(op, &aggregate.grouping, aggregate.without);
        let (mut floats, mut histograms) = (Vec::new(), Vec::new());
        // Row by row: the vector as a whole is series × steps, the state is not.
        evaluator.each_row(&planned.root, steps, &mut |_, row, name_gone| {
            floats.clear();
            histograms.clear();
            for step in 0..steps.count {
                match row.sample(step) {
                    Some(Sample::Float(value)) => floats.push((Timestamp(steps.at(step)), value)),
                    Some(Sample::Histogram(value)) => histograms.push((Timestamp(steps.at(step)), value)),
                    None => {}
                }
            }
            if name_gone {
                row.labels = row.without_name();
            }
            partial.fold_series(&row.labels, &floats, &histograms);
            Ok(())
        })?;
        evaluator.finish_sources();
        let (warnings, infos) = evaluator.annotations.texts(&part.query);
        Ok(PartAnswer { partial, warnings, infos, samples: evaluator.stats().total_samples })
    }

    /// Has those aggregations of a query computed elsewhere that may be.
    pub(super) fn ask_parts(
        &self,
        query: &str,
        expr: &Expr,
        steps: Steps,
        end: i64,
        instant: bool,
        options: &QueryOptions,
    ) -> Result<Given, QueryError> {
        let mut given = Given::default();
        let Some(parts) = &options.parts else { return Ok(given) };
        if self.options.delayed_name_removal || options.per_step_stats {
            return Ok(given);
        }
        let budget = options.budget.clone().unwrap_or_else(Budget::unlimited);
        let lookback = ms_of(options.lookback_delta.unwrap_or(self.options.lookback_delta)).max(1);
        let mut wanted = Vec::new();
        pushable_in(expr, &mut wanted);
        for aggregate in wanted {
            let step = ms_of(self.options.default_step).max(1);
            let planned = plan::plan("", &aggregate.expr, steps, end, instant, lookback, step, &[])?;
            let from = planned.requests.iter().map(|request| request.start).min();
            let to = planned.requests.iter().map(|request| request.end).max();
            let (Some(Timestamp(from)), Some(Timestamp(to))) = (from, to) else { continue };
            let part = Part {
                query: query.to_owned(),
                span: (aggregate.span.start, aggregate.span.end),
                start: steps.start,
                end,
                step: if instant { 0 } else { steps.interval },
                lookback,
                from,
                to,
                joins: joins(&aggregate.expr),
            };
            let Some(answer) = parts.compute(&part, &budget)? else { continue };
            // Upstream places what it says about a choice of series at the whole aggregation.
            let span = if aggregate.op.keeps_series() { aggregate.span } else { aggregate.expr.span() };
            let value = answer.partial.finish(span, instant, &mut given.annotations);
            given.spans.push(aggregate.span);
            given.grids.push(grid_of(value, steps));
            given.warnings.extend(answer.warnings);
            given.infos.extend(answer.infos);
            given.samples += answer.samples;
        }
        Ok(given)
    }
}

impl Part {
    fn steps(&self) -> Steps {
        if self.step == 0 { Steps::one(self.start) } else { Steps::between(self.start, self.end, self.step) }
    }
}

fn grid_of(value: Value, steps: Steps) -> Grid {
    let mut grid = Grid::default();
    match value {
        Value::Vector(samples) => {
            for sample in samples {
                let mut row = Row::of(sample.labels, nothing(1));
                row.set(0, Some(sample.value.into()));
                grid.rows.push(row);
            }
        }
        Value::Matrix(series) => {
            let step_of = |at: Timestamp| ((at.0 - steps.start) / steps.interval) as usize;
            for series in series {
                let mut row = Row::of(series.labels, nothing(steps.count));
                for (at, value) in series.floats {
                    row.floats[step_of(at)] = value;
                }
                for (at, histogram) in series.histograms {
                    row.set_histogram(step_of(at), histogram);
                }
                grid.rows.push(row);
            }
        }
        Value::Scalar { .. } | Value::String { .. } => {}
    }
    grid
}

fn find(expr: &Expr, span: (usize, usize)) -> Option<&Aggregate> {
    match expr {
        Expr::Aggregate(aggregate) if (aggregate.span.start, aggregate.span.end) == span => Some(aggregate),
        Expr::Aggregate(aggregate) => find(&aggregate.expr, span),
        Expr::Binary(binary) => find(&binary.lhs, span).or_else(|| find(&binary.rhs, span)),
        Expr::Call(call) => call.args.iter().find_map(|arg| find(arg, span)),
        Expr::Paren(paren) => find(&paren.expr, span),
        Expr::Unary(unary) => find(&unary.expr, span),
        // What stands in a subquery is evaluated at other instants than the query's.
        Expr::Subquery(_) | Expr::Matrix(_) | Expr::Number(_) | Expr::String(_) | Expr::Vector(_) => None,
    }
}

/// The outermost aggregations that may be pushed down.
fn pushable_in<'e>(expr: &'e Expr, found: &mut Vec<&'e Aggregate>) {
    match expr {
        Expr::Aggregate(aggregate) if PartialOp::of(aggregate).is_some() && is_local(&aggregate.expr) => {
            found.push(aggregate);
        }
        Expr::Aggregate(aggregate) => pushable_in(&aggregate.expr, found),
        Expr::Binary(binary) => {
            pushable_in(&binary.lhs, found);
            pushable_in(&binary.rhs, found);
        }
        // `info` reads more than its arguments say.
        Expr::Call(call) if call.function.name != "info" => call.args.iter().for_each(|arg| pushable_in(arg, found)),
        Expr::Paren(paren) => pushable_in(&paren.expr, found),
        Expr::Unary(unary) => pushable_in(&unary.expr, found),
        _ => {}
    }
}

/// Whether a vector can be computed shard by shard.
fn is_local(expr: &Expr) -> bool {
    match expr {
        Expr::Vector(_) => true,
        Expr::Paren(paren) => is_local(&paren.expr),
        Expr::Unary(unary) => is_local(&unary.expr),
        Expr::Call(call) => is_local_call(call.function, &call.args),
        Expr::Binary(binary) if is_number(&binary.lhs) => is_local(&binary.rhs),
        Expr::Binary(binary) if is_number(&binary.rhs) => is_local(&binary.lhs),
        Expr::Binary(binary) => {
            let shards_meet = binary.matching.as_ref().is_some_and(|matching| {
                let listed = |name: &str| matching.labels.iter().any(|label| label == name);
                let kept = ["job", "instance"].iter().all(|name| listed(name) == matching.on);
                let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
                matching.cardinality == Cardinality::OneToOne && kept && !filled
            });
            shards_meet && !binary.op.is_set() && is_local(&binary.lhs) && is_local(&binary.rhs)
        }
        _ => false,
    }
}

fn is_local_call(function: &Function, args: &[Expr]) -> bool {
    // `absent` looks at all series at once.
    if let Some(range) = args.iter().position(|arg| arg.value_type() == ValueType::Matrix) {
        let others = args.iter().enumerate().all(|(at, arg)| at == range || is_number(arg));
        return others && function.name != "absent_over_time" && matches!(args[range], Expr::Matrix(_));
    }
    let keeps_labels =
        math_of_one(function.name) || matches!(function.name, "clamp" | "clamp_min" | "clamp_max" | "round");
    keeps_labels && args.split_first().is_some_and(|(first, rest)| is_local(first) && rest.iter().all(is_number))
}

fn is_number(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) => true,
        Expr::Paren(paren) => is_number(&paren.expr),
        Expr::Unary(unary) => is_number(&unary.expr),
        _ => false,
    }
}

fn joins(expr: &Expr) -> bool {
    match expr {
        Expr::Binary(binary) => {
            let vectors = !is_number(&binary.lhs) && !is_number(&binary.rhs);
            vectors || joins(&binary.lhs) || joins(&binary.rhs)
        }
        Expr::Call(call) => call.args.iter().any(joins),
        Expr::Paren(paren) => joins(&paren.expr),
        Expr::Unary(unary) => joins(&unary.expr),
        _ => false,
    }
}
