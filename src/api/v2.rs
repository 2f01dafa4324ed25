//! Alertmanager's API, `/api/v2`: bodies, status codes and texts are upstream's (0.33).
//!
//! Source: alertmanager api/v2/openapi.yaml, api/v2/api.go; go-openapi's answers to what does not validate.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::handler::Handler;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use promesh_alerting::SilenceError;
use promesh_alerting::SilenceId;
use promesh_alerting::api::{parse_alerts, parse_silence};
use serde::Serialize;
use serde_json::{Value, json};

use crate::form::parse_pairs;
use crate::pager::{AlertList, Pager, PagerError};

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// go-openapi's code for a value that is not of its type.
const WRONG_TYPE: u16 = 601;
/// For one that is missing.
const REQUIRED: u16 = 602;
/// For a list that is too short.
const TOO_FEW: u16 = 612;

type Ask = State<Arc<dyn Pager>>;

/// The routes below `/api/v2`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(pager: Arc<dyn Pager>) -> Router<S> {
    Router::new()
        .route("/status", only_get(status))
        .route("/receivers", only_get(receivers))
        .route("/alerts", also_post(on(MethodFilter::GET, alerts).post(post_alerts)))
        .route("/alerts/groups", only_get(groups))
        .route("/silences", also_post(on(MethodFilter::GET, silences).post(post_silence)))
        .route("/silence/{id}", refusing(on(MethodFilter::GET, silence).delete(expire), "DELETE,GET"))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(pager)
}

type Routes = MethodRouter<Arc<dyn Pager>>;

fn only_get<T: 'static>(handler: impl Handler<T, Arc<dyn Pager>>) -> Routes {
    refusing(on(MethodFilter::GET, handler), "GET")
}

fn also_post(routes: Routes) -> Routes {
    refusing(routes, "POST,GET")
}

fn refusing(routes: Routes, allowed: &'static str) -> Routes {
    routes.fallback(move |method: Method| async move {
        let text = format!("method {method} is not allowed, but [{allowed}] are");
        let mut response = invalid(StatusCode::METHOD_NOT_ALLOWED, 405, &text);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        response
    })
}

async fn not_found(uri: Uri) -> Response {
    invalid(StatusCode::NOT_FOUND, 404, &format!("path /api/v2{} was not found", uri.path()))
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(body).expect("what the API shows has text keys only");
    text.push(b'\n');
    with_json(status, text.into())
}

fn with_json(status: StatusCode, body: Bytes) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// go-openapi's answer to what does not validate.
fn invalid(status: StatusCode, code: u16, message: &str) -> Response {
    let mut response = with_json(status, json!({"code": code, "message": message}).to_string().into());
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    response
}

fn unprocessable(code: u16, message: &str) -> Response {
    invalid(StatusCode::UNPROCESSABLE_ENTITY, code, message)
}

fn failed(error: &PagerError) -> Response {
    let status = match error {
        PagerError::Bad(_) | PagerError::Silence(SilenceError::Invalid(_) | SilenceError::Limit(_)) => {
            StatusCode::BAD_REQUEST
        }
        PagerError::Silence(SilenceError::NotFound) => StatusCode::NOT_FOUND,
        PagerError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &error.to_string())
}

fn given<T: Serialize>(result: &Result<T, PagerError>) -> Response {
    match result {
        Ok(body) => answer(StatusCode::OK, body),
        Err(error) => failed(error),
    }
}

async fn status(State(pager): Ask) -> Response {
    answer(StatusCode::OK, &pager.status().await)
}

async fn receivers(State(pager): Ask) -> Response {
    answer(StatusCode::OK, &pager.receivers().await)
}

async fn alerts(State(pager): Ask, RawQuery(query): RawQuery) -> Response {
    listed(&*pager, AlertList::Alerts, query).await
}

async fn groups(State(pager): Ask, RawQuery(query): RawQuery) -> Response {
    listed(&*pager, AlertList::Groups, query).await
}

async fn listed(pager: &dyn Pager, list: AlertList, query: Option<String>) -> Response {
    match pager.alerts(list, parse_pairs(query.unwrap_or_default().as_bytes())).await {
        Ok(body) => with_json(StatusCode::OK, body),
        Err(error) => failed(&error),
    }
}

/// The body as JSON: what is no JSON, or of another kind, is refused in go-openapi's words.
fn body_of(headers: &HeaderMap, body: &[u8], name: &str) -> Result<Value, Box<Response>> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if !body.is_empty() && !media_type.eq_ignore_ascii_case("application/json") {
        let shown = if media_type.is_empty() { "application/octet-stream" } else { media_type };
        let text = format!("unsupported media type {shown:?}, only [application/json] are allowed");
        return Err(Box::new(invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, 415, &text)));
    }
    if body.trim_ascii().is_empty() {
        return Err(Box::new(unprocessable(REQUIRED, &format!("{name} in body is required"))));
    }
    serde_json::from_slice(body).map_err(|error| Box::new(unreadable(name, &error)))
}

fn unreadable(name: &str, why: &dyn std::fmt::Display) -> Response {
    let text = format!("parsing {name} body from \"\" failed, because {why}");
    invalid(StatusCode::BAD_REQUEST, 400, &text)
}

async fn post_alerts(State(pager): Ask, headers: HeaderMap, body: Bytes) -> Response {
    let posted = match body_of(&headers, &body, "alerts") {
        Ok(posted) => posted,
        Err(response) => return *response,
    };
    let missing = posted.as_array().and_then(|alerts| alerts.iter().position(|alert| alert.get("labels").is_none()));
    if let Some(index) = missing {
        return unprocessable(REQUIRED, &format!("{index}.labels in body is required"));
    }
    if let Some((index, url)) = bad_generator(&posted) {
        return unprocessable(WRONG_TYPE, &format!("{index}.generatorURL in body must be of type uri: {url:?}"));
    }
    let (good, bad) = match parse_alerts(&body, pager.matcher_mode()) {
        Ok(parsed) => parsed,
        Err(error) => return unreadable("alerts", &error),
    };
    // Good ones are taken whatever is wrong with others.
    if !good.is_empty()
        && let Err(error) = pager.post(good).await
    {
        return failed(&error);
    }
    pager.count_invalid(bad.len());
    if bad.is_empty() {
        return StatusCode::OK.into_response();
    }
    answer(StatusCode::BAD_REQUEST, &bad.join("\n"))
}

/// The first alert whose source is no address: neither `scheme:…` nor `/…`.
fn bad_generator(posted: &Value) -> Option<(usize, &str)> {
    let is_uri = |text: &str| {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        text.is_empty() || text.starts_with('/') || named
    };
    let urls = posted.as_array()?.iter().map(|alert| alert.get("generatorURL").and_then(Value::as_str));
    urls.enumerate().find_map(|(index, url)| url.filter(|url| !is_uri(url)).map(|url| (index, url)))
}

async fn silences(State(pager): Ask, RawQuery(query): RawQuery) -> Response {
    let pairs = parse_pairs(query.unwrap_or_default().as_bytes());
    let filters = pairs.into_iter().filter(|(name, _)| name == "filter").map(|(_, value)| value);
    given(&pager.silences(filters.collect()).await)
}

async fn post_silence(State(pager): Ask, headers: HeaderMap, body: Bytes) -> Response {
    let posted = match body_of(&headers, &body, "silence") {
        Ok(posted) => posted,
        Err(response) => return *response,
    };
    for field in ["comment", "createdBy", "endsAt", "matchers", "startsAt"] {
        if posted.is_object() && posted.get(field).is_none_or(Value::is_null) {
            return unprocessable(REQUIRED, &format!("{field} in body is required"));
        }
    }
    if posted.get("matchers").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        return unprocessable(TOO_FEW, "matchers in body should have at least 1 items");
    }
    for (index, matcher) in posted.get("matchers").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let missing = ["isRegex", "name", "value"].into_iter().find(|field| matcher.get(field).is_none());
        if let Some(field) = missing {
            return unprocessable(REQUIRED, &format!("matchers.{index}.{field} in body is required"));
        }
    }
    // A name that no silence can have is the name of none.
    let id = posted.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    if id.is_some_and(|id| id.parse::<SilenceId>().is_err()) {
        return failed(&PagerError::Silence(SilenceError::NotFound));
    }
    let (id, body) = match parse_silence(&body) {
        Ok(parsed) => parsed,
        Err(error) if error.starts_with("invalid silence") => return failed(&PagerError::Bad(error)),
        Err(error) => return unreadable("silence", &error),
    };
    let refused = if body.ends_at <= body.starts_at {
        Some("start time must be before end time")
    } else if body.ends_at < pager.now().wall {
        Some("end time can't be in the past")
    } else {
        None
    };
    if let Some(why) = refused {
        return failed(&PagerError::Bad(format!("Failed to create silence: {why}")));
    }
    match pager.put_silence(id, body).await {
        Ok(id) => answer(StatusCode::OK, &json!({"silenceID": id.to_string()})),
        Err(error) => failed(&error),
    }
}

fn silence_id(text: &str) -> Result<SilenceId, Box<Response>> {
    let wrong = |_| Box::new(unprocessable(WRONG_TYPE, &format!("silenceID in path must be of type uuid: {text:?}")));
    text.parse().map_err(wrong)
}

async fn silence(State(pager): Ask, Path(id): Path<String>) -> Response {
    let id = match silence_id(&id) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    match pager.silence(id).await {
        Err(PagerError::Silence(SilenceError::NotFound)) => StatusCode::NOT_FOUND.into_response(),
        other => given(&other),
    }
}

async fn expire(State(pager): Ask, Path(id): Path<String>) -> Response {
    let id = match silence_id(&id) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    match pager.expire_silence(id).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(PagerError::Silence(SilenceError::NotFound)) => StatusCode::NOT_FOUND.into_response(),
        Err(error @ PagerError::Silence(_)) => answer(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => failed(&error),
    }
}
