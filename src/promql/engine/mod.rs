//! The engine: plan, select, evaluate.

mod aggregate;
mod aggregate_k;
mod annotations;
mod binary;
mod elements;
mod eval;
mod feed;
mod functions;
mod grid;
mod info;
mod moment;
mod parts;
mod plan;
mod range;
mod rows;
mod select;
mod shared;
mod sliding;

use std::sync::Arc;
use std::time::Duration;

use promesh_model::storage::{Budget, Queryable, StorageError};
use promesh_model::time::ms_of;
use promesh_model::{FloatHistogram, Labels, Timestamp};
use thiserror::Error;

use crate::parser::{self, Expr, ParseErrors, ParseOptions, ValueType};
pub(crate) use aggregate::group_labels;
pub use annotations::{Annotations, capped};
pub(crate) use annotations::{Note, Operation};
use eval::Evaluator;
use functions::math_of_one;
pub(crate) use functions::quantile::almost_equal;
use grid::{Grid, Sample, Steps, is_absent};
pub use parts::{Part, PartAnswer, Parts};

/// Switches that upstream calls feature flags. All are off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Experimental parts of the language.
    pub parse: ParseOptions,
    /// Use the start timestamps of samples in `rate`, `increase`, `irate`, `resets` and `start_timestamp`.
    pub start_timestamps: bool,
    /// Take the `__type__` label instead of the name's suffix as the sign of a counter.
    pub type_and_unit_labels: bool,
}

/// How an engine works. The defaults are those of upstream's flags.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How far back an instant looks for a sample. Default 5m.
    pub lookback_delta: Duration,
    /// The most samples a query may hold at once. Default 50,000,000.
    pub max_samples: u64,
    /// The step of subqueries that name none: the global evaluation interval. Default 1m.
    pub default_step: Duration,
    /// Whether names are dropped at the end of the query instead of by each function. Default off.
    pub delayed_name_removal: bool,
    /// Experimental switches.
    pub features: Features,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            lookback_delta: Duration::from_secs(300),
            max_samples: 50_000_000,
            default_step: Duration::from_secs(60),
            delayed_name_removal: false,
            features: Features::default(),
        }
    }
}

/// What one query may differ in.
#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// Through which it is cancelled, and what storage may load for it; without, nobody cancels it.
    pub budget: Option<Budget>,
    /// Instead of the engine's lookback.
    pub lookback_delta: Option<Duration>,
    /// Whether to count samples per step.
    pub per_step_stats: bool,
    /// Who computes aggregations where their samples are; without, all are computed here.
    pub parts: Option<Arc<dyn Parts>>,
}

/// Why a query was not answered.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum QueryError {
    /// The text is no query; the API's `bad_data`.
    #[error(transparent)]
    Parse(#[from] ParseErrors),
    /// The query asks for something impossible; the API's `bad_data`.
    #[error("{0}")]
    BadData(String),
    /// Evaluation failed; the API's `execution`.
    #[error("{0}")]
    Execution(String),
    /// It was cancelled; the API's `canceled`.
    #[error("query was canceled in expression evaluation")]
    Cancelled,
    /// Its time was over; the API's `timeout`. Given by whoever watches the clock.
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// It would hold too many samples; the API's `execution`.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// Storage failed; the API's `internal`.
    #[error("expanding series: {0}")]
    Storage(String),
}

impl From<StorageError> for QueryError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Cancelled => QueryError::Cancelled,
            StorageError::TooManySamples => QueryError::TooManySamples,
            StorageError::Failed(why) => QueryError::Storage(why),
        }
    }
}

/// A float or a histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(Arc<FloatHistogram>),
}

/// One element of a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// Whose it is.
    pub labels: Labels,
    /// The instant of evaluation.
    pub at: Timestamp,
    /// Its value.
    pub value: SampleValue,
}

/// One series of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSeries {
    /// Whose it is.
    pub labels: Labels,
    /// Its floats, by time.
    pub floats: Vec<(Timestamp, f64)>,
    /// Its histograms, by time.
    pub histograms: Vec<(Timestamp, Arc<FloatHistogram>)>,
}

/// The value of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Scalar {
        /// The instant of evaluation.
        at: Timestamp,
        /// The number.
        value: f64,
    },
    /// A text.
    String {
        /// The instant of evaluation.
        at: Timestamp,
        /// The text.
        value: String,
    },
    /// One sample a series, in the order of the last sorting function, else of evaluation.
    Vector(Vec<VectorSample>),
    /// Series sorted by labels.
    Matrix(Vec<MatrixSeries>),
}

/// What a query touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples that selectors gave to the steps, each as often as a step used it.
    pub total_samples: u64,
    /// The most samples held at once.
    pub peak_samples: u64,
    /// `total_samples` per step, when asked for.
    pub per_step: Option<Vec<(Timestamp, u64)>>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The value.
    pub value: Value,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// What a person may want to know.
    pub infos: Vec<String>,
    /// What it cost.
    pub stats: Stats,
}

/// Evaluates queries. Stateless but for its options; share it freely.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// An engine.
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options }
    }

    /// Its options.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Parses with the engine's switches.
    ///
    /// # Errors
    /// As [`parser::parse`].
    pub fn parse(&self, query: &str) -> Result<Expr, ParseErrors> {
        parser::parse(query, &self.options.features.parse)
    }

    /// Evaluates at one instant.
    ///
    /// # Errors
    /// As [`QueryError`] says.
    pub fn instant(
        &self,
        storage: &dyn Queryable,
        query: &str,
        at: Timestamp,
        options: &QueryOptions,
    ) -> Result<Outcome, QueryError> {
        let expr = self.parse(query)?;
        self.run(storage, query, &expr, Steps::one(at.0), at.0, true, options)
    }

    /// Evaluates at every step from `start` to `end`, both inclusive.
    ///
    /// # Errors
    /// As [`QueryError`] says; `BadData` when the query is no vector or scalar or the step is zero.
    pub fn range(
        &self,
        storage: &dyn Queryable,
        query: &str,
        start: Timestamp,
        end: Timestamp,
        step: Duration,
        options: &QueryOptions,
    ) -> Result<Outcome, QueryError> {
        let (expr, steps) = self.ranged(query, start, end, step)?;
        self.run(storage, query, &expr, steps, end.0, false, options)
    }

    /// A range query, parsed, and its steps.
    fn ranged(
        &self,
        query: &str,
        start: Timestamp,
        end: Timestamp,
        step: Duration,
    ) -> Result<(Expr, Steps), QueryError> {
        let expr = self.parse(query)?;
        let value_type = expr.value_type();
        if !matches!(value_type, ValueType::Vector | ValueType::Scalar) {
            let why = format!(
                "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
                value_type.documented()
            );
            return Err(QueryError::BadData(why));
        }
        let interval = ms_of(step);
        if interval <= 0 {
            return Err(QueryError::BadData(
                "zero or negative query resolution step widths are not accepted".to_owned(),
            ));
        }
        let steps = Steps::between(start.0, end.0, interval);
        Ok((expr, steps))
    }

    fn lookback(&self, options: &QueryOptions) -> i64 {
        ms_of(options.lookback_delta.unwrap_or(self.options.lookback_delta)).max(1)
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        storage: &dyn Queryable,
        query: &str,
        expr: &Expr,
        steps: Steps,
        end: i64,
        instant: bool,
        options: &QueryOptions,
    ) -> Result<Outcome, QueryError> {
        if steps.count as u64 > self.options.max_samples {
            return Err(QueryError::TooManySamples);
        }
        let lookback = self.lookback(options);
        let given = self.ask_parts(query, expr, steps, end, instant, options)?;
        let default_step = ms_of(self.options.default_step).max(1);
        // Counted step by step, each part counts for itself.
        let shown = if options.per_step_stats { "" } else { query };
        let planned = plan::plan(shown, expr, steps, end, instant, lookback, default_step, &given.spans)?;
        self.evaluate(storage, query, expr, (steps, instant), planned, given, options)
    }

    #[allow(clippy::too_many_arguments)]
    fn evaluate(
        &self,
        storage: &dyn Queryable,
        query: &str,
        expr: &Expr,
        (steps, instant): (Steps, bool),
        planned: plan::Planned,
        given: parts::Given,
        options: &QueryOptions,
    ) -> Result<Outcome, QueryError> {
        let lookback = self.lookback(options);
        let budget = options.budget.clone().unwrap_or_else(Budget::unlimited);
        let mut evaluator = Evaluator::new(&self.options, storage, budget, lookback, steps, options.per_step_stats);
        evaluator.annotations = given.annotations;
        evaluator.given = given.grids;
        evaluator.count_all(given.samples);
        evaluator.share(planned.shared);
        evaluator.select(&planned.requests, &planned.readers)?;
        let value = evaluator.value(&planned.root, expr.value_type(), steps, instant)?;
        evaluator.finish_sources();
        let (warnings, infos) = evaluator.annotations.texts(query);
        let (warnings, infos) = (merged(warnings, given.warnings), merged(infos, given.infos));
        Ok(Outcome { value, warnings, infos, stats: evaluator.stats() })
    }
}

/// Remarks of several places, sorted, each once.
fn merged(mut texts: Vec<String>, more: Vec<String>) -> Vec<String> {
    if !more.is_empty() {
        texts.extend(more);
        texts.sort();
        texts.dedup();
    }
    texts
}

impl From<SampleValue> for Sample {
    fn from(value: SampleValue) -> Sample {
        match value {
            SampleValue::Float(value) => Sample::Float(value),
            SampleValue::Histogram(histogram) => Sample::Histogram(histogram),
        }
    }
}

fn vector(grid: Grid, at: i64) -> Vec<VectorSample> {
    let at = Timestamp(at);
    grid.rows
        .into_iter()
        .filter_map(|row| {
            let value = match row.sample(0)? {
                Sample::Float(value) => SampleValue::Float(value),
                Sample::Histogram(histogram) => SampleValue::Histogram(histogram),
            };
            Some(VectorSample { labels: row.labels, at, value })
        })
        .collect()
}

fn matrix(mut grid: Grid, steps: Steps) -> Vec<MatrixSeries> {
    grid.sort();
    grid.rows
        .into_iter()
        .filter_map(|row| {
            let mut series = MatrixSeries { labels: row.labels.clone(), floats: Vec::new(), histograms: Vec::new() };
            if row.histograms.is_none() {
                series.floats.reserve_exact(row.floats.iter().filter(|value| !is_absent(**value)).count());
            }
            for step in 0..steps.count {
                let at = Timestamp(steps.at(step));
                match row.sample(step) {
                    Some(Sample::Float(value)) => series.floats.push((at, value)),
                    Some(Sample::Histogram(histogram)) => series.histograms.push((at, histogram)),
                    None => {}
                }
            }
            (!series.floats.is_empty() || !series.histograms.is_empty()).then_some(series)
        })
        .collect()
}
