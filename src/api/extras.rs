//! What Prometheus added after 3.5: `/features`, `/status/tsdb/blocks`, `/status/self_metrics`, `/scrape_pools/config`, and
//! notifications as they come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::StreamBody;
use promesh_promql::parser::FUNCTIONS;
use regex::Regex;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Notification;
use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::respond::{success, success_json};
use crate::router::Api;

/// How often notifications are looked at for whoever listens.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

pub(crate) async fn features(State(api): State<Api>) -> Response {
    let mut all = api.backend.features();
    let experimental = api.backend.engine().options().features.parse.experimental_functions;
    let functions: Map<String, Value> = FUNCTIONS
        .iter()
        .map(|function| (function.name.to_owned(), (!function.experimental || experimental).into()))
        .collect();
    all["promql_functions"] = functions.into();
    let options = &api.options;
    all["api"] = json!({
        "admin": options.enable_admin_api,
        "exclude_alerts": true,
        "label_values_match": true,
        "lifecycle": options.enable_lifecycle,
        "otlp_write_receiver": options.enable_otlp_receiver,
        "query_stats": true,
        "query_warnings": true,
        "remote_write_receiver": options.enable_remote_write_receiver,
        "search": options.enable_search,
        "search_fuzz_alg_jarowinkler": true,
        "search_fuzz_alg_subsequence": true,
        "time_range_labels": true,
        "time_range_series": true,
    });
    success_json(&all)
}

pub(crate) async fn blocks(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(success(&json!({"blocks": api.backend.blocks().await?})))
}

pub(crate) async fn scrape_pool_config(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let pool = form.get("scrapePool");
    if pool.is_empty() {
        return Err(ApiError::bad_data("no scrapePool parameter provided"));
    }
    match api.backend.scrape_pool_config(pool) {
        Some(yaml) => Ok(success(&json!({"yaml": yaml}))),
        None => Err(unknown_pool(pool)),
    }
}

fn unknown_pool(pool: &str) -> ApiError {
    ApiError::new(ErrorType::NotFound, format!("scrape pool {} not found", promesh_model::labels::quoted(pool)))
}

pub(crate) async fn notifications(State(api): State<Api>) -> Response {
    success(&api.backend.notifications())
}

/// Notifications as server-sent events: those of now, then each as it begins and ends.
pub(crate) async fn notifications_live(State(api): State<Api>) -> Response {
    let Ok(place) = Arc::clone(&api.listeners).try_acquire_owned() else {
        // As upstream: too many listen, and nobody is told again.
        return StatusCode::NO_CONTENT.into_response();
    };
    let events = futures_util::stream::unfold(Listener { api, known: Vec::new(), place, is_first: true }, next_events);
    let mut response = Body::new(StreamBody::new(events)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

struct Listener {
    api: Api,
    known: Vec<Notification>,
    place: OwnedSemaphorePermit,
    is_first: bool,
}

type Event = Result<http_body::Frame<Bytes>, Infallible>;

async fn next_events(mut listener: Listener) -> Option<(Event, Listener)> {
    // Held for as long as somebody listens.
    let _ = &listener.place;
    loop {
        if !std::mem::take(&mut listener.is_first) {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        let present = listener.api.backend.notifications();
        let mut text = String::new();
        let mut say = |notification: &Notification| {
            let data = serde_json::to_string(notification).expect("plain text");
            text.push_str(&format!("data: {data}\n\n"));
        };
        for gone in listener.known.iter().filter(|known| !present.iter().any(|one| one.text == known.text)) {
            say(&Notification { active: false, ..gone.clone() });
        }
        for new in present.iter().filter(|one| !listener.known.iter().any(|known| known.text == one.text)) {
            say(new);
        }
        listener.known = present;
        if !text.is_empty() {
            return Some((Ok(http_body::Frame::data(text.into())), listener));
        }
        if listener.api.backend.readiness() == crate::backend::Readiness::Stopping {
            return None;
        }
    }
}

/// The metrics page as a list of families.
pub(crate) async fn self_metrics(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let pattern = match form.get("metric_name_pattern") {
        "" => None,
        text => {
            let compiled = Regex::new(&format!("^(?s:{text})$"));
            Some(compiled.map_err(|error| ApiError::parameter("metric_name_pattern", error))?)
        }
    };
    let page = api.backend.metrics().await;
    let wanted = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
    let mut families: Vec<Value> = Vec::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.push(json!({"name": name, "help": help, "type": "UNTYPED", "metric": []}));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            if let (Some((_, kind)), Some(family)) = (rest.split_once(' '), families.last_mut()) {
                family["type"] = kind.to_ascii_uppercase().into();
            }
        } else if let Some((series, value)) = line.rsplit_once(' ')
            && let Some(family) = families.last_mut()
            && let Some(list) = family["metric"].as_array_mut()
        {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value = value.parse::<f64>().map_or_else(|_| json!(value), |value| json!(value));
            list.push(json!({"name": name, "label": pairs(labels.trim_end_matches('}')), "value": value}));
        }
    }
    families.retain(|family| wanted(family["name"].as_str().unwrap_or_default()));
    Ok(success(&families))
}

/// `a="b",c="d"` as names and values.
fn pairs(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut signs = after.char_indices();
        let mut end = after.len();
        while let Some((at, sign)) = signs.next() {
            match sign {
                '\\' => match signs.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                '"' => {
                    end = at + 1;
                    break;
                }
                sign => value.push(sign),
            }
        }
        found.push(json!({"name": name.trim_start_matches(','), "value": value}));
        rest = &after[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_pairs_are_read_with_their_escapes() {
        let expected = json!([{"name": "a", "value": "b\"c,d"}, {"name": "e", "value": "f"}]);
        assert_eq!(Value::Array(pairs("a=\"b\\\"c,d\",e=\"f\"")), expected);
    }
}
