//! Queries that are the work of a moment: told from others before anything is read, so that whoever must not wait or work
//! for long can evaluate them where it stands.
//!
//! A hand-over to another thread and back costs more than most queries of a dashboard or a script. What is small is known
//! from the plan: few series, all of them at hand; few steps; nothing that reads more on its way.

use std::time::Duration;

use promesh_model::Timestamp;
use promesh_model::storage::Queryable;
use promesh_model::time::ms_of;

use super::grid::Steps;
use super::plan::{self, Planned};
use super::{Engine, Outcome, QueryError, QueryOptions};
use crate::parser::Expr;

/// A longer text may have too many nodes.
const TEXT_MAX: usize = 512;
/// Series × (steps + seconds of samples): some hundred microseconds.
const WORK_MAX: u64 = 20_000;

impl Engine {
    /// As [`Engine::instant`], when that is the work of a moment and waits for nobody; else nothing is done.
    ///
    /// # Errors
    /// As [`QueryError`] says.
    pub fn instant_in_a_moment(
        &self,
        storage: &dyn Queryable,
        query: &str,
        at: Timestamp,
        options: &QueryOptions,
    ) -> Result<Option<Outcome>, QueryError> {
        if query.len() > TEXT_MAX {
            return Ok(None);
        }
        let expr = self.parse(query)?;
        self.in_a_moment(storage, query, &expr, (Steps::one(at.0), true), at.0, options)
    }

    /// As [`Engine::range`], when that is the work of a moment and waits for nobody; else nothing is done.
    ///
    /// # Errors
    /// As [`QueryError`] says.
    pub fn range_in_a_moment(
        &self,
        storage: &dyn Queryable,
        query: &str,
        (start, end): (Timestamp, Timestamp),
        step: Duration,
        options: &QueryOptions,
    ) -> Result<Option<Outcome>, QueryError> {
        if query.len() > TEXT_MAX {
            return Ok(None);
        }
        let (expr, steps) = self.ranged(query, start, end, step)?;
        self.in_a_moment(storage, query, &expr, (steps, false), end.0, options)
    }

    fn in_a_moment(
        &self,
        storage: &dyn Queryable,
        query: &str,
        expr: &Expr,
        (steps, instant): (Steps, bool),
        end: i64,
        options: &QueryOptions,
    ) -> Result<Option<Outcome>, QueryError> {
        if steps.count as u64 > WORK_MAX.min(self.options.max_samples) || !reads_once(expr) {
            return Ok(None);
        }
        let step = ms_of(self.options.default_step).max(1);
        let shown = if options.per_step_stats { "" } else { query };
        let planned = plan::plan(shown, expr, steps, end, instant, self.lookback(options), step, &[])?;
        let Some((storage, series)) = storage.at_hand(&planned.requests) else { return Ok(None) };
        if work(&planned, series, steps.count) > WORK_MAX {
            return Ok(None);
        }
        let none = super::parts::Given::default();
        self.evaluate(storage, query, expr, (steps, instant), planned, none, options).map(Some)
    }
}

/// Whether all that is read is known before, and is looked at once a step.
fn reads_once(expr: &Expr) -> bool {
    let more = match expr {
        Expr::Subquery(_) => true,
        Expr::Call(call) => call.function.name == "info",
        _ => false,
    };
    !more && expr.children().into_iter().all(reads_once)
}

/// How much a query works at most, with a sample a second.
fn work(planned: &Planned, series: usize, steps: usize) -> u64 {
    let span = |request: &promesh_model::storage::SelectRequest| {
        if request.hints.newest_only { 1 } else { request.end.ms().abs_diff(request.start.ms()) / 1000 + 1 }
    };
    let seconds = planned.requests.iter().map(span).max().unwrap_or(0);
    (series as u64 + 1).saturating_mul(seconds.saturating_add(steps as u64))
}
