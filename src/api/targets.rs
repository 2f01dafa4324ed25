//! `/targets`, `/scrape_pools`, `/metadata`, `/targets/metadata`, `/alertmanagers`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use promesh_model::ingest::Metadata;
use promesh_model::{Labels, Matcher, relabel};
use promesh_promql::parser;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::form::{Form, atoi};
use crate::respond::success;
use crate::router::Api;

pub(crate) async fn targets(State(api): State<Api>, form: Form) -> Response {
    let mut found = api.backend.targets().await;
    let pool = form.in_address("scrapePool");
    let state = form.in_address("state").to_lowercase();
    let shows = |wanted: &str| state.is_empty() || state == "any" || state == wanted;
    let of_pool = |candidate: &str| pool.is_empty() || candidate == pool;
    found.active.retain(|target| shows("active") && of_pool(&target.scrape_pool));
    found.active.sort_by(|a, b| a.scrape_pool.cmp(&b.scrape_pool));
    found.dropped.retain(|target| shows("dropped") && of_pool(&target.scrape_pool));
    found.dropped.sort_by(|a, b| a.scrape_pool.cmp(&b.scrape_pool));
    let counts = shows("dropped").then_some(found.dropped_counts);
    success(&json!({"activeTargets": found.active, "droppedTargets": found.dropped, "droppedTargetCounts": counts}))
}

/// What each rule of a job does to given labels.
pub(crate) async fn relabel_steps(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let given = |name: &str| match form.get(name) {
        "" => Err(ApiError::bad_data(format!("no {name} parameter provided"))),
        text => Ok(text.to_owned()),
    };
    let pool = given("scrapePool")?;
    let labels: Labels = serde_json::from_str(&given("labels")?)
        .map_err(|error| ApiError::bad_data(format!("error parsing labels: {error}")))?;
    let unknown = || ApiError::bad_data(format!("error retrieving scrape config: scrape pool {pool:?} not found"));
    let rules = api.backend.relabel_rules(&pool).ok_or_else(unknown)?;
    Ok(success(&json!({"steps": relabel::steps(&rules, &labels)})))
}

pub(crate) async fn scrape_pools(State(api): State<Api>) -> Response {
    let mut pools = api.backend.targets().await.pools;
    pools.sort();
    success(&json!({"scrapePools": pools}))
}

pub(crate) async fn alertmanagers(State(api): State<Api>) -> Response {
    let found = api.backend.alertmanagers().await;
    let list = |urls: &[String]| urls.iter().map(|url| json!({"url": url})).collect::<Vec<_>>();
    success(&json!({"activeAlertmanagers": list(&found.active), "droppedAlertmanagers": list(&found.dropped)}))
}

/// A number that may be absent or negative, both meaning no limit.
fn count(form: &Form, name: &str) -> Result<Option<usize>, ApiError> {
    match form.get(name) {
        "" => Ok(None),
        text => {
            let count = atoi(text).map_err(|_| ApiError::bad_data(format!("{name} must be a number")))?;
            Ok(usize::try_from(count).ok())
        }
    }
}

pub(crate) async fn metadata(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let limit = count(&form, "limit")?.unwrap_or(usize::MAX);
    let per_metric = count(&form, "limit_per_metric")?.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let metric = form.get("metric");
    let mut families: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for found in api.backend.metadata().await {
        if !metric.is_empty() && found.metric != metric {
            continue;
        }
        let family = families.entry(found.metric).or_default();
        if family.len() < per_metric && !family.contains(&found.metadata) {
            family.push(found.metadata);
        }
    }
    let shown: Map<String, Value> = families
        .into_iter()
        .take(limit)
        .map(|(name, family)| {
            let family: Vec<_> = family
                .iter()
                .map(|metadata| json!({"type": metadata.kind, "unit": metadata.unit, "help": metadata.help}))
                .collect();
            (name, family.into())
        })
        .collect();
    Ok(success(&shown))
}

pub(crate) async fn target_metadata(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let limit = count(&form, "limit")?.unwrap_or(usize::MAX);
    let matchers = match form.get("match_target") {
        "" => Vec::new(),
        text => parser::parse_selector(text).map_err(|error| ApiError::parameter("match_target", error))?,
    };
    let metric = form.get("metric");
    let found = api.backend.metadata().await;
    let wanted = found
        .iter()
        .filter(|found| all_match(&matchers, &found.target) && (metric.is_empty() || found.metric == metric));
    let shown: Vec<_> = wanted
        .take(limit)
        .map(|found| {
            let mut entry = json!({"target": found.target});
            // Upstream leaves the name out when it was asked for.
            if metric.is_empty() {
                entry["metric"] = found.metric.as_str().into();
            }
            entry["type"] = found.metadata.kind.as_str().into();
            entry["help"] = found.metadata.help.as_str().into();
            entry["unit"] = found.metadata.unit.as_str().into();
            entry
        })
        .collect();
    Ok(success(&shown))
}

pub(crate) fn all_match(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.value(&matcher.name)))
}
