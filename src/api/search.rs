//! `/search/metric_names`, `/search/label_names`, `/search/label_values`: names and values that resemble what is typed, in
//! batches of a JSON object a line. Behind `--enable-feature=search-api`, as in Prometheus.
//!
//! Source: prometheus `web/api/v1/search.go` for parameters, their texts and the lines' form; how much something resembles
//! is computed by [`resemblance`].

mod resemblance;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use promesh_model::labels::{METRIC_NAME, quoted};
use promesh_model::storage::{ListRequest, Listing};
use promesh_model::{Matcher, Timestamp};
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorType};
use crate::form::{Form, atoi, parse_bool};
use crate::listing::list;
use crate::router::Api;
use resemblance::{Algorithm, Term};

/// How many results, and how many a line, when nobody says.
const RESULTS: usize = 100;
/// Terms in one request.
const TERMS_MAX: usize = 32;
/// Bytes of a term: what resembles it costs as many steps for each name.
const TERM_BYTES_MAX: usize = 256;

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    MetricNames { with_metadata: bool },
    LabelNames,
    LabelValues(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Rising,
    Falling,
    Score,
}

struct Asked {
    matcher_sets: Vec<Vec<Matcher>>,
    terms: Vec<Term>,
    order: Order,
    with_score: bool,
    start: Timestamp,
    end: Timestamp,
    limit: usize,
    batch: usize,
}

pub(crate) async fn metric_names(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let asked = Asked::parse(&api, &form, "metric_names")?;
    let with_metadata = boolean(&form, "include_metadata", false)?;
    answer(&api, asked, What::MetricNames { with_metadata }).await
}

pub(crate) async fn label_names(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let asked = Asked::parse(&api, &form, "label_names")?;
    answer(&api, asked, What::LabelNames).await
}

pub(crate) async fn label_values(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let asked = Asked::parse(&api, &form, "label_values")?;
    let label = form.get("label").to_owned();
    if label.is_empty() {
        return Err(ApiError::bad_data("missing required parameter \"label\""));
    }
    answer(&api, asked, What::LabelValues(label)).await
}

fn disabled() -> ApiError {
    ApiError::new(ErrorType::Unavailable, "search API disabled")
}

fn boolean(form: &Form, name: &str, default: bool) -> Result<bool, ApiError> {
    match form.get(name) {
        "" => Ok(default),
        text => parse_bool(text)
            .map_err(|_| ApiError::bad_data(format!("invalid {name} {}: must be boolean", quoted(text)))),
    }
}

/// A number that may be absent or zero, both meaning the default.
fn count(form: &Form, name: &str) -> Result<usize, ApiError> {
    match form.get(name) {
        "" => Ok(RESULTS),
        text => match atoi(text).ok().and_then(|number| usize::try_from(number).ok()) {
            Some(0) => Ok(RESULTS),
            Some(number) => Ok(number),
            None => Err(ApiError::bad_data(format!("invalid {name} {}: must be non-negative integer", quoted(text)))),
        },
    }
}

impl Asked {
    fn parse(api: &Api, form: &Form, endpoint: &str) -> Result<Asked, ApiError> {
        if !api.options.enable_search {
            return Err(disabled());
        }
        let now = api.backend.now().wall;
        let start = form.time_or("start", Timestamp(now.ms() - 3_600_000))?;
        let end = form.time_or("end", now)?;
        let matcher_sets = form.matcher_sets().map_err(ApiError::bad_data)?;
        let threshold = match form.get("fuzz_threshold") {
            "" => 0,
            text => {
                let bad = || ApiError::bad_data(format!("invalid fuzz_threshold {}: must be 0-100", quoted(text)));
                let number = atoi(text).map_err(|_| bad())?;
                u8::try_from(number).ok().filter(|number| *number <= 100).ok_or_else(bad)?
            }
        };
        let algorithm = match form.get("fuzz_alg") {
            "" | "subsequence" => Algorithm::Subsequence,
            "jarowinkler" => Algorithm::JaroWinkler,
            other => {
                let known = "must be one of [subsequence jarowinkler]";
                return Err(ApiError::bad_data(format!("unsupported fuzz_alg {}: {known}", quoted(other))));
            }
        };
        let case_sensitive = boolean(form, "case_sensitive", true)?;
        let with_score = boolean(form, "include_score", false)?;
        let searches: Vec<&str> = form.all("search[]").collect();
        if searches.len() > TERMS_MAX || searches.iter().any(|term| term.len() > TERM_BYTES_MAX) {
            let bound = format!("at most {TERMS_MAX} search[] terms of {TERM_BYTES_MAX} bytes each");
            return Err(ApiError::bad_data(bound));
        }
        let order = order(form, endpoint, !searches.is_empty())?;
        let term = |text: &&str| Term::new(text, algorithm, f64::from(threshold) / 100.0, case_sensitive);
        let limit = count(form, "limit")?.min(api.options.search_limit_max);
        let batch = count(form, "batch_size")?;
        let terms = searches.iter().map(term).collect();
        Ok(Asked { matcher_sets, terms, order, with_score, start, end, limit, batch })
    }

    /// Those of some texts in rising order that resemble what is looked for, in the order that is wanted.
    fn found(&self, texts: Vec<String>) -> Vec<(String, f64)> {
        let scored = texts.into_iter().filter_map(|text| self.score(&text).map(|score| (text, score)));
        let mut found: Vec<(String, f64)> = scored.collect();
        match self.order {
            Order::Rising => {}
            Order::Falling => found.reverse(),
            // Stable: equal scores stay in the order of their names.
            Order::Score => found.sort_by(|a, b| b.1.total_cmp(&a.1)),
        }
        found
    }

    /// How much a text resembles one of the terms; nothing when it does not.
    fn score(&self, text: &str) -> Option<f64> {
        if self.terms.is_empty() {
            return Some(1.0);
        }
        self.terms.iter().filter_map(|term| term.score(text)).reduce(f64::max)
    }
}

fn order(form: &Form, endpoint: &str, has_terms: bool) -> Result<Order, ApiError> {
    let (by, direction) = (form.get("sort_by"), form.get("sort_dir"));
    let bad = |why: String| Err(ApiError::bad_data(why));
    match (by, direction) {
        ("", direction) if !direction.is_empty() => bad("sort_dir is only valid when sort_by is set".to_owned()),
        ("score", direction) if !direction.is_empty() => bad("sort_dir is not supported for sort_by=score".to_owned()),
        (_, direction) if !matches!(direction, "" | "asc" | "dsc") => {
            bad(format!("invalid sort_dir {}: must be \"asc\" or \"dsc\"", quoted(direction)))
        }
        ("score", _) if !has_terms => bad("sort_by=score requires search[] to be set".to_owned()),
        ("score", _) => Ok(Order::Score),
        ("alpha", "dsc") => Ok(Order::Falling),
        ("" | "alpha", _) => Ok(Order::Rising),
        (other, _) => bad(format!("invalid sort_by {} for {endpoint}: must be \"alpha\" or \"score\"", quoted(other))),
    }
}

async fn answer(api: &Api, asked: Asked, what: What) -> Result<Response, ApiError> {
    let asked = Arc::new(asked);
    let name = match &what {
        What::MetricNames { .. } => Some(METRIC_NAME.to_owned()),
        What::LabelValues(name) => Some(name.clone()),
        What::LabelNames => None,
    };
    let scoring = Arc::clone(&asked);
    let listing = list(api, move |storage, budget| {
        let (matcher_sets, start, end) = (scoring.matcher_sets.clone(), scoring.start, scoring.end);
        let request = ListRequest { matcher_sets, start, end, limit: 0 };
        let listing = match &name {
            Some(name) => storage.label_values(name, &request, budget),
            None => storage.label_names(&request, budget),
        };
        listing.map(|listing| Listing { items: scoring.found(listing.items), warnings: listing.warnings })
    });
    let Listing { items: found, warnings } = listing.await?;
    let metadata = match what {
        What::MetricNames { with_metadata: true } => metadata(api).await,
        _ => HashMap::new(),
    };
    let has_more = found.len() > asked.limit;
    let shown = &found[..found.len().min(asked.limit)];
    let result = |(name, score): &(String, f64)| {
        let mut result = json!({"name": name});
        if asked.with_score {
            result["score"] = json!(score);
        }
        for (key, value) in metadata.get(name).into_iter().flatten().filter(|(_, value)| !value.is_empty()) {
            result[*key] = value.as_str().into();
        }
        result
    };
    let mut text = String::new();
    let mut batches = shown.chunks(asked.batch);
    let mut next = batches.next().unwrap_or_default();
    let mut said = warnings;
    loop {
        let results: Vec<Value> = next.iter().map(result).collect();
        let mut line = json!({"results": results});
        if !said.is_empty() {
            line["warnings"] = json!(std::mem::take(&mut said));
        }
        text.push_str(&format!("{line}\n"));
        match batches.next() {
            Some(batch) => next = batch,
            None => break,
        }
    }
    text.push_str(&format!("{}\n", json!({"status": "success", "has_more": has_more})));
    let mut response = text.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson; charset=utf-8"));
    Ok(response)
}

/// Type, help and unit by metric name, as some target says.
async fn metadata(api: &Api) -> HashMap<String, [(&'static str, String); 3]> {
    let found = api.backend.metadata().await.into_iter();
    let one = |found: crate::backend::TargetMetadata| {
        let metadata = found.metadata;
        (found.metric, [("type", metadata.kind.as_str().to_owned()), ("help", metadata.help), ("unit", metadata.unit)])
    };
    found.map(one).collect()
}
