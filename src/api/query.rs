//! `/query`, `/query_range`, and what only parses: `/format_query`, `/parse_query`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use promesh_model::storage::Budget;
use promesh_model::{Monotonic, Timestamp};
use promesh_promql::{Engine, Outcome, QueryError, QueryOptions, Stats, Value, parser};
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::backend::QueryWatch;
use crate::error::ApiError;
use crate::form::Form;
use crate::json::{ValueWriter, result_type};
use crate::respond::{Remarks, success, success_in_pieces};
use crate::router::Api;
use crate::time::parse_span;

/// Upstream's bound on the points of a series: a week at 60s, or a year at 1h.
const POINTS_MAX: i128 = 11_000;
pub(crate) const TRUNCATED: &str = "results truncated due to limit";

/// How a query's time was spent.
#[derive(Clone, Copy, Debug, Default)]
struct Timings {
    queued: Duration,
    evaluated: Duration,
}

/// What a query asks, for those who take note of it.
#[derive(Debug)]
struct Asked {
    query: String,
    start: Timestamp,
    end: Timestamp,
    step: Duration,
    path: &'static str,
}

impl Asked {
    /// What the query log says. Source: prometheus `promql.Engine.exec`.
    fn line(&self, at: Timestamp, outcome: &Result<Outcome, QueryError>, timings: Timings) -> Json {
        let mut line = json!({
            "time": at.to_string(),
            "level": "INFO",
            "msg": "promql query logged",
            "params": {
                "query": self.query,
                "start": self.start.to_string(),
                "end": self.end.to_string(),
                "step": self.step.as_secs(),
            },
            "httpRequest": {"path": self.path},
        });
        match outcome {
            Ok(outcome) => line["stats"] = stats_json(&outcome.stats, timings),
            Err(error) => line["error"] = json!(error.to_string()),
        }
        line
    }
}

/// A query that others were told of; told of its end in any case.
struct Watched {
    watch: Arc<dyn QueryWatch>,
    slot: Option<usize>,
    line: Option<Json>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let line = self.line.take();
        self.watch.end(self.slot, &mut || line.clone().unwrap_or_else(|| json!({"error": "the query panicked"})));
    }
}

pub(crate) async fn instant(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let limit = form.limit()?;
    let at = form.time_or("time", api.backend.now().wall)?;
    let span = form.timeout()?;
    let options = options(&form)?;
    let query = form.get("query").to_owned();
    let asked = Asked { query: query.clone(), start: at, end: at, step: Duration::ZERO, path: "/api/v1/query" };
    let run = move |engine: &Engine, storage: &dyn promesh_model::storage::Queryable, options: &QueryOptions| {
        engine.instant(storage, &query, at, options)
    };
    let (outcome, timings) = evaluate(&api, asked, span, options, run).await?;
    Ok(answer(outcome, limit, form.get("stats"), timings))
}

pub(crate) async fn range(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let limit = form.limit()?;
    let (start, end, step) = range_of(&form)?;
    let span = form.timeout()?;
    let options = options(&form)?;
    let query = form.get("query").to_owned();
    let asked = Asked { query: query.clone(), start, end, step, path: "/api/v1/query_range" };
    let run = move |engine: &Engine, storage: &dyn promesh_model::storage::Queryable, options: &QueryOptions| {
        engine.range(storage, &query, start, end, step, options)
    };
    let (outcome, timings) = evaluate(&api, asked, span, options, run).await?;
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

/// Waits for a turn, runs on a blocking thread, within the time that is left.
async fn evaluate<F>(
    api: &Api,
    asked: Asked,
    span: Option<Duration>,
    mut options: QueryOptions,
    run: F,
) -> Result<(Outcome, Timings), ApiError>
where
    F: FnOnce(&Engine, &dyn promesh_model::storage::Queryable, &QueryOptions) -> Result<Outcome, QueryError>
        + Send
        + 'static,
{
    let span = span.unwrap_or(api.options.query_timeout).min(api.options.query_timeout);
    let arrived = api.backend.now().monotonic;
    let Ok(turn) = timeout(span, Arc::clone(&api.queries).acquire_owned()).await else {
        return Err(ApiError::overloaded("query timed out in query queue"));
    };
    let turn = turn.expect("the semaphore is never closed");
    let (engine, storage) = (api.backend.engine(), api.backend.storage());
    options.parts = api.backend.parts();
    let budget = Budget::new(engine.options().max_samples);
    let guard = CancelOnDrop(budget.clone());
    options.budget = Some(budget);
    let started = api.backend.now().monotonic;
    let backend = Arc::clone(&api.backend);
    let mut running = tokio::task::spawn_blocking(move || {
        let mut watched = backend.query_watch().map(|watch| {
            let slot = watch.begin(&asked.query, backend.now().wall);
            Watched { watch, slot, line: None }
        });
        let outcome = run(&engine, storage.as_ref(), &options);
        if let Some(watched) = &mut watched {
            let now = backend.now();
            watched.line = Some(asked.line(now.wall, &outcome, timings(arrived, started, now.monotonic)));
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
    let outcome =
        outcome.map_err(|_| QueryError::Execution("the query panicked: this is a bug, please report it".into()));
    let timings = timings(arrived, started, api.backend.now().monotonic);
    Ok((outcome??, timings))
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

fn stats_json(stats: &Stats, timings: Timings) -> Json {
    let (queued, evaluated) = (timings.queued.as_secs_f64(), timings.evaluated.as_secs_f64());
    let mut samples = json!({"totalQueryableSamples": stats.total_samples, "peakSamples": stats.peak_samples});
    if let Some(per_step) = &stats.per_step {
        let steps: Vec<_> = per_step.iter().map(|(at, count)| json!([at.as_secs_f64(), count])).collect();
        samples["totalQueryableSamplesPerStep"] = json!(steps);
    }
    json!({
        "timings": {
            "evalTotalTime": evaluated, "resultSortTime": 0, "queryPreparationTime": 0, "innerEvalTime": evaluated,
            "execQueueTime": queued, "execTotalTime": queued + evaluated,
        },
        "samples": samples,
    })
}

pub(crate) async fn format(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let expr = api.backend.engine().parse(form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    Ok(success(&parser::prettify(&expr)))
}

pub(crate) async fn parse(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let expr = api.backend.engine().parse(form.get("query")).map_err(|error| ApiError::parameter("query", error))?;
    Ok(success(&parser::to_json(&expr)))
}
