//! What a query asked, as the query log says it.

use std::net::IpAddr;
use std::time::Duration;

use promesh_model::Timestamp;
use promesh_promql::{Outcome, QueryError, Stats};
use serde_json::{Value as Json, json};

/// How a query's time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for its turn.
    pub queued: Duration,
    /// From then to its end.
    pub evaluated: Duration,
}

/// Who asked.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client.
    Http {
        /// Its address, if it came through a listener.
        client: Option<IpAddr>,
        /// The request's method.
        method: String,
        /// The request's path, with the prefix of all routes.
        path: String,
    },
    /// A rule group.
    Rules {
        /// The file it stands in.
        file: String,
        /// Its name.
        name: String,
    },
}

/// What a query asks, for those who take note of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its text.
    pub query: String,
    /// The first instant.
    pub start: Timestamp,
    /// The last.
    pub end: Timestamp,
    /// From one to the next; zero for an instant query.
    pub step: Duration,
    /// Who asked.
    pub origin: Origin,
}

impl Asked {
    /// What the query log says. Source: prometheus `promql.Engine.exec`, `httputil.ContextFromRequest`.
    pub fn line(&self, at: Timestamp, outcome: &Result<Outcome, QueryError>, timings: Timings) -> Json {
        let mut line = json!({
            "time": at.to_string(),
            "level": "INFO",
            "msg": "promql query logged",
            "params": {
                "query": self.query,
                "start": with_ms(self.start),
                "end": with_ms(self.end),
                "step": self.step.as_secs(),
            },
        });
        line["stats"] = match outcome {
            Ok(outcome) => stats_json(&outcome.stats, timings),
            Err(error) => {
                line["error"] = json!(error.to_string());
                stats_json(&Stats::default(), timings)
            }
        };
        match &self.origin {
            Origin::Http { client, method, path } => {
                let client = client.map_or_else(String::new, |client| client.to_string());
                line["httpRequest"] = json!({"clientIP": client, "method": method, "path": path});
            }
            Origin::Rules { file, name } => line["ruleGroup"] = json!({"file": file, "name": name}),
        }
        line
    }
}

/// An instant with three decimals, always.
fn with_ms(at: Timestamp) -> String {
    let text = at.to_string();
    let text = text.trim_end_matches('Z');
    let (seconds, part) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{part:0<3}Z")
}

pub(crate) fn stats_json(stats: &Stats, timings: Timings) -> Json {
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
