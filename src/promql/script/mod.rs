//! The `.test` language: load series, evaluate queries, compare.
//!
//! ```text
//! load 1m
//!   up{job="a"} 1+0x10
//!
//! eval instant at 5m sum(up)
//!   {} 1
//! ```
//!
//! Every instant evaluation is repeated with all selectors pinned by `@` at other times, and as the middle of a range
//! query; all must agree.
//!
//! Source: prometheus `promql/promqltest`.

mod compare;
mod parse;
mod storage;

use std::time::Duration;

use promesh_model::Timestamp;

use crate::parser::{At, Expr, ParseOptions};
use crate::{Engine, EngineOptions, Features, QueryError, QueryOptions, Value};
use parse::{Command, Eval, Mode};
pub use storage::MemoryStorage;

/// How a script is run.
#[derive(Clone, Debug)]
pub struct ScriptOptions {
    /// The engine's options.
    pub engine: EngineOptions,
}

impl Default for ScriptOptions {
    /// What upstream's scripts assume: everything experimental switched on, 10,000 samples, a subquery step of 1m.
    fn default() -> Self {
        let features =
            Features { parse: ParseOptions::everything(), start_timestamps: true, type_and_unit_labels: false };
        let engine =
            EngineOptions { delayed_name_removal: true, max_samples: 10_000, features, ..EngineOptions::default() };
        ScriptOptions { engine }
    }
}

/// A line of a script that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// What came of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many evaluations were checked.
    pub evals: usize,
    /// Those that failed, and lines that do not parse.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs a script. An evaluation that fails does not keep the others from being run; a line that does not parse does.
pub fn run(text: &str, options: &ScriptOptions) -> Report {
    let mut report = Report::default();
    let engine = Engine::new(options.engine.clone());
    let mut storage = MemoryStorage::default();
    let commands = match parse::commands(text, &options.engine.features.parse) {
        Ok(commands) => commands,
        Err(failure) => {
            report.failures.push(failure);
            return report;
        }
    };
    for command in commands {
        match command {
            Command::Clear => storage = MemoryStorage::default(),
            Command::Load(load) => {
                if let Err(message) = load.apply(&mut storage) {
                    report.failures.push(Failure { line: load.line, message });
                }
            }
            Command::Eval(eval) => {
                report.evals += 1;
                if let Err(message) = check(&engine, &storage, &eval) {
                    report.failures.push(Failure { line: eval.line, message });
                }
            }
        }
    }
    report
}

fn check(engine: &Engine, storage: &MemoryStorage, eval: &Eval) -> Result<(), String> {
    let options = QueryOptions::default();
    match eval.mode {
        Mode::Range { start, end, step } => {
            let outcome = engine.range(storage, &eval.query, start, end, step, &options);
            match expected_failure(eval, outcome)? {
                Some(outcome) => {
                    compare::annotations(eval, &outcome)?;
                    compare::value(eval, &outcome.value)
                }
                None => Ok(()),
            }
        }
        Mode::Instant { at } => {
            check_instant(engine, storage, eval, &eval.query, at)?;
            for (query, at) in pinned(engine, eval, at) {
                check_instant(engine, storage, eval, &query, at)
                    .map_err(|why| format!("as {query} at {}: {why}", at.0))?;
            }
            Ok(())
        }
    }
}

/// The outcome, or nothing when a failure was expected and came.
fn expected_failure(
    eval: &Eval,
    outcome: Result<crate::Outcome, QueryError>,
) -> Result<Option<crate::Outcome>, String> {
    match outcome {
        Err(error) if eval.expects_failure() => compare::failure(eval, &error.to_string()).map(|()| None),
        Err(error) => Err(format!("error evaluating query: {error}")),
        Ok(_) if eval.expects_failure() => Err("expected an error but got none".to_owned()),
        Ok(outcome) => Ok(Some(outcome)),
    }
}

fn check_instant(
    engine: &Engine,
    storage: &MemoryStorage,
    eval: &Eval,
    query: &str,
    at: Timestamp,
) -> Result<(), String> {
    let options = QueryOptions::default();
    let Some(outcome) = expected_failure(eval, engine.instant(storage, query, at, &options))? else { return Ok(()) };
    let as_written = Eval { query: query.to_owned(), ..eval.clone() };
    compare::annotations(&as_written, &outcome)?;
    compare::value(eval, &outcome.value)?;
    let depends_on_range = ["start()", "end()", "range()", "step()"].iter().any(|call| query.contains(call));
    if eval.instant_only || depends_on_range {
        return Ok(());
    }
    let minute = Duration::from_secs(60);
    let range = engine
        .range(storage, query, at.before(minute), at.after(minute), minute, &options)
        .map_err(|error| format!("in range mode: error evaluating query: {error}"))?;
    if eval.is_ordered() {
        return Ok(());
    }
    let middle = compare::middle(&range.value, at, &outcome.value);
    compare::value(eval, &middle).map_err(|why| format!("in range mode: {why}"))
}

/// The query with all selectors pinned to the instant, to be evaluated at other instants.
fn pinned(engine: &Engine, eval: &Eval, at: Timestamp) -> Vec<(String, Timestamp)> {
    let Ok(mut expr) = engine.parse(&eval.query) else { return Vec::new() };
    if depends_on_time(&expr) {
        return Vec::new();
    }
    pin(&mut expr, at.0);
    let query = expr.to_string();
    let times = if at.0 == 0 { vec![-1000, 0, 1000] } else { vec![-10 * at.0, 0, at.0 / 5, at.0, 10 * at.0] };
    times.into_iter().map(|time| (query.clone(), Timestamp(time))).collect()
}

fn depends_on_time(expr: &Expr) -> bool {
    let here = matches!(expr, Expr::Call(call) if matches!(
        call.function.name,
        "days_in_month" | "day_of_month" | "day_of_week" | "day_of_year" | "hour" | "minute" | "month" | "year"
            | "predict_linear" | "time" | "timestamp" | "start" | "end" | "range" | "step"
    ));
    here || expr.children().into_iter().any(depends_on_time)
}

fn pin(expr: &mut Expr, at: i64) {
    let fix = |slot: &mut Option<At>| {
        // As upstream: `@ start()` and `@ end()` are overwritten too.
        if !matches!(slot, Some(At::Timestamp(_))) {
            *slot = Some(At::Timestamp(at));
        }
    };
    match expr {
        Expr::Vector(selector) => fix(&mut selector.at),
        Expr::Matrix(matrix) => fix(&mut matrix.selector.at),
        Expr::Subquery(subquery) => {
            fix(&mut subquery.at);
        }
        Expr::Aggregate(node) => {
            pin(&mut node.expr, at);
            if let Some(param) = &mut node.param {
                pin(param, at);
            }
        }
        Expr::Binary(node) => {
            pin(&mut node.lhs, at);
            pin(&mut node.rhs, at);
        }
        Expr::Call(node) => node.args.iter_mut().for_each(|arg| pin(arg, at)),
        Expr::Paren(node) => pin(&mut node.expr, at),
        Expr::Unary(node) => pin(&mut node.expr, at),
        Expr::Number(_) | Expr::String(_) => {}
    }
}

/// A value as a message shows it.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Scalar { value, .. } => format!("scalar {value}"),
        Value::String { value, .. } => format!("string {value:?}"),
        Value::Vector(samples) => {
            let lines = samples.iter().map(|sample| format!("{} {}", sample.labels, compare::show(&sample.value)));
            format!("vector [{}]", lines.collect::<Vec<_>>().join(", "))
        }
        Value::Matrix(series) => {
            let lines = series.iter().map(|series| {
                let floats = series.floats.iter().map(|(at, value)| format!("{value} @[{}]", at.0));
                let histograms =
                    series.histograms.iter().map(|(at, value)| format!("{} @[{}]", value.test_expression(), at.0));
                let samples: Vec<String> = floats.chain(histograms).collect();
                format!("{} {}", series.labels, samples.join(" "))
            });
            format!("matrix [{}]", lines.collect::<Vec<_>>().join(", "))
        }
    }
}
