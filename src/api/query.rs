//! `/query`, `/query_range`, and what only parses: `/format_query`, `/parse_query`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::Method;
use http::request::Parts;
use promesh_model::storage::{Budget, Queryable};
use promesh_model::{Monotonic, Timestamp};
use promesh_promql::{Engine, Outcome, QueryError, QueryOptions, Value, parser};
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::asked::{Asked, Origin, Timings, stats_json};
use crate::backend::QueryWatch;
use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::json::{ValueWriter, result_type};
use crate::respond::{Remarks, success, success_in_pieces};
use crate::router::Api;
use crate::serve::ClientAddress;
use crate::time::parse_span;

/// Upstream's bound on the points of a series: a week at 60s, or a year at 1h.
const POINTS_MAX: i128 = 11_000;
pub(crate) const TRUNCATED: &str = "results truncated due to limit";

/// A query that others were told of; told of its end in any case.
struct Watched {
    watch: Arc<dyn QueryWatch>,
    slot: Option<usize>,
    /// What the log says; until it is known, that the query panicked.
    line: Option<Json>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.end(self.slot, self.line.take());
    }
}

/// Who sent a request, and how.
pub(crate) struct Requester {
    client: Option<IpAddr>,
    method: Method,
}

impl<S: Sync> FromRequestParts<S> for Requester {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Requester, Infallible> {
        let client = parts.extensions.get::<ClientAddress>().map(|address| address.0);
        Ok(Requester { client, method: parts.method.clone() })
    }
}

impl Requester {
    fn origin(self, api: &Api, path: &str) -> Origin {
        let prefix = api.options.route_prefix.trim_end_matches('/');
        Origin::Http { client: self.client, method: self.method.to_string(), path: format!("{prefix}{path}") }
    }
}

pub(crate) async fn instant(State(api): State<Api>, from: Requester, form: Form) -> Result<Response, ApiError> {
    let limit = form.limit()?;
    let at = form.time_or("time", api.backend.now().wall)?;
    let span = form.timeout()?;
    let options = options(&form)?;
    let query = form.get("query").to_owned();
    let origin = from.origin(&api, "/api/v1/query");
    let asked = Asked { query, start: at, end: at, step: Duration::ZERO, origin };
    let (outcome, timings) = evaluate(&api, asked, span, options).await?;
    Ok(answer(outcome, limit, form.get("stats"), timings))
}

/// A time that is over before it began.
fn check_timeout(span: Option<Duration>) -> Result<(), ApiError> {
    if span == Some(Duration::ZERO) {
        return Err(ApiError::new(ErrorType::Execution, "context deadline exceeded"));
    }
    Ok(())
}

pub(crate) async fn range(State(api): State<Api>, from: Requester, form: Form) -> Result<Response, ApiError> {
    let limit = form.limit()?;
    let (start, end, step) = range_of(&form)?;
    let span = form.timeout()?;
    let options = options(&form)?;
    let query = form.get("query").to_owned();
    let origin = from.origin(&api, "/api/v1/query_range");
    let asked = Asked { query, start, end, step, origin };
    let (outcome, timings) = evaluate(&api, asked, span, options).await?;
    Ok(answer(outcome, limit, form.get("stats"), timings))
}

fn range_of(form: &Form) -> Result<(Timestamp, Timestamp, Duration), ApiError> {
    let start = form.time("start")?;
    let end = form.time("end")?;
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step = parse_span(form.get("step")).map_err(|error| ApiError::parameter("step", error))?;
    if step <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", why));
    }
    if (i128::from(end.ms()) - i128::from(start.ms())) * 1_000_000 / i128::from(step) > POINTS_MAX {
        let why = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution \
                   (?step=XX)";
        return Err(ApiError::bad_data(why));
    }
    // Samples have milliseconds; a finer step would not move.
    Ok((start, end, Duration::from_nanos(step as u64).max(Duration::from_millis(1))))
}

fn options(form: &Form) -> Result<QueryOptions, ApiError> {
    let lookback_delta = match form.get("lookback_delta") {
        "" => None,
        text => {
            let bad = |error| ApiError::bad_data(format!("error parsing lookback delta duration: {error}"));
            // Zero or less: the default.
            u64::try_from(parse_span(text).map_err(bad)?).ok().filter(|span| *span > 0).map(Duration::from_nanos)
        }
    };
    Ok(QueryOptions { lookback_delta, per_step_stats: form.get("stats") == "all", ..QueryOptions::default() })
}

/// Cancels what it guards when it is dropped: the client went away, or the time is over.
pub(crate) struct CancelOnDrop(pub Budget);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The answer of the engine.
fn run(asked: &Asked, engine: &Engine, storage: &dyn Queryable, options: &QueryOptions) -> Result<Outcome, QueryError> {
    if asked.step.is_zero() {
        engine.instant(storage, &asked.query, asked.start, options)
    } else {
        engine.range(storage, &asked.query, asked.start, asked.end, asked.step, options)
    }
}

/// The same, if it takes a moment only.
fn run_in_a_moment(
    asked: &Asked,
    engine: &Engine,
    storage: &dyn Queryable,
    options: &QueryOptions,
) -> Result<Option<Outcome>, QueryError> {
    if asked.step.is_zero() {
        engine.instant_in_a_moment(storage, &asked.query, asked.start, options)
    } else {
        engine.range_in_a_moment(storage, &asked.query, (asked.start, asked.end), asked.step, options)
    }
}

/// What the log says of a query, if it says anything. Upstream logs what was executed: a text that is no query is not.
fn logged(
    watch: &dyn QueryWatch,
    asked: &Asked,
    at: Timestamp,
    outcome: &Result<Outcome, QueryError>,
    timings: Timings,
) -> Option<Json> {
    let wanted = watch.wants_lines() && !matches!(outcome, Err(QueryError::Parse(_)));
    wanted.then(|| asked.line(at, outcome, timings))
}

/// Evaluates a query, as a part of the request's trace.
async fn evaluate(
    api: &Api,
    asked: Asked,
    span: Option<Duration>,
    options: QueryOptions,
) -> Result<(Outcome, Timings), ApiError> {
    let traced = promesh_trace::below(promesh_trace::Kind::Internal, "promqlExec", || {
        vec![("query", asked.query.clone()), ("start", asked.start.to_string()), ("end", asked.end.to_string())]
    });
    let answer = traced.around(evaluate_in_turn(api, asked, span, options)).await;
    if let Err(error) = &answer {
        traced.fail(error);
    }
    answer
}

/// Waits for a turn, then evaluates: here when that is the work of a moment, else on a blocking thread, within the time
/// that is left.
async fn evaluate_in_turn(
    api: &Api,
    asked: Asked,
    span: Option<Duration>,
    mut options: QueryOptions,
) -> Result<(Outcome, Timings), ApiError> {
    check_timeout(span)?;
    let span = span.unwrap_or(api.options.query_timeout).min(api.options.query_timeout);
    let arrived = api.backend.now().monotonic;
    let turn = match Arc::clone(&api.queries).try_acquire_owned() {
        Ok(turn) => turn,
        Err(_) => match timeout(span, Arc::clone(&api.queries).acquire_owned()).await {
            Ok(turn) => turn.expect("the semaphore is never closed"),
            Err(_) => return Err(ApiError::overloaded("query timed out in query queue")),
        },
    };
    let (engine, storage) = (api.backend.engine(), api.backend.storage());
    let budget = Budget::new(engine.options().max_samples);
    let guard = CancelOnDrop(budget.clone());
    options.budget = Some(budget);
    let started = api.backend.now().monotonic;
    let here = AssertUnwindSafe(|| run_in_a_moment(&asked, &engine, storage.as_ref(), &options));
    let outcome = catch_unwind(here).map_err(|_| panicked())?;
    if let Some(outcome) = outcome.transpose() {
        let now = api.backend.now();
        let timings = timings(arrived, started, now.monotonic);
        // A slot in the file of running queries would be free again before anybody could read it.
        if let Some(watch) = api.backend.query_watch() {
            watch.end(None, logged(watch.as_ref(), &asked, now.wall, &outcome, timings));
        }
        return Ok((outcome?, timings));
    }
    options.parts = api.backend.parts();
    let backend = Arc::clone(&api.backend);
    let mut running = api.backend.reading().spawn_blocking(move || {
        let mut watched = backend.query_watch().map(|watch| {
            let slot = watch.begin(&asked.query, backend.now().wall);
            Watched { watch, slot, line: Some(json!({"error": "the query panicked"})) }
        });
        let outcome = run(&asked, &engine, storage.as_ref(), &options);
        if let Some(watched) = &mut watched {
            let now = backend.now();
            let timings = timings(arrived, started, now.monotonic);
            watched.line = logged(watched.watch.as_ref(), &asked, now.wall, &outcome, timings);
        }
        drop(watched);
        // Held until the thread is free again, not only until the client has its answer.
        drop(turn);
        outcome
    });
    let left = span.saturating_sub(started.since(arrived));
    let outcome = match timeout(left, &mut running).await {
        Ok(outcome) => outcome,
        Err(_) => {
            drop(guard);
            return Err(QueryError::Timeout.into());
        }
    };
    let outcome = outcome.map_err(|_| panicked())?;
    let timings = timings(arrived, started, api.backend.now().monotonic);
    Ok((outcome?, timings))
}

fn panicked() -> QueryError {
    QueryError::Execution("the query panicked: this is a bug, please report it".into())
}

fn timings(arrived: Monotonic, started: Monotonic, done: Monotonic) -> Timings {
    Timings { queued: started.since(arrived), evaluated: done.since(started) }
}

fn answer(mut outcome: Outcome, limit: usize, stats: &str, timings: Timings) -> Response {
    let mut remarks = Remarks { warnings: outcome.warnings, infos: outcome.infos };
    if truncate(&mut outcome.value, limit) {
        remarks.warnings.push(TRUNCATED.to_owned());
    }
    let after = if stats.is_empty() {
        b"}".to_vec()
    } else {
        format!(",\"stats\":{}}}", stats_json(&outcome.stats, timings)).into_bytes()
    };
    let before = format!("{{\"resultType\":\"{}\",\"result\":", result_type(&outcome.value));
    let mut writer = ValueWriter::new(outcome.value);
    success_in_pieces(before.as_bytes(), move |out, enough| writer.write(out, enough), after, remarks)
}

/// Cuts a list to a limit; 0 is none.
fn truncate(value: &mut Value, limit: usize) -> bool {
    fn cut<T>(list: &mut Vec<T>, limit: usize) -> bool {
        let longer = limit > 0 && list.len() > limit;
        if longer {
            list.truncate(limit);
        }
        longer
    }
    match value {
        Value::Vector(samples) => cut(samples, limit),
        Value::Matrix(series) => cut(series, limit),
        Value::Scalar { .. } | Value::String { .. } => false,
    }
}

pub(crate) async fn format(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let expr = api.backend.engine().parse(form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    Ok(success(&parser::prettify(&expr)))
}

pub(crate) async fn parse(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let expr = api.backend.engine().parse(form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    Ok(success(&parser::to_json(&expr)))
}
