//! `/status/…`, `/cluster`, `/notifications`, `/version`, `/metrics`.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::json;

use crate::error::ApiError;
use crate::form::{Form, atoi};
use crate::respond::{success, success_json};
use crate::router::Api;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

pub(crate) async fn config(State(api): State<Api>) -> Response {
    success(&json!({"yaml": api.backend.config_yaml()}))
}

pub(crate) async fn flags(State(api): State<Api>) -> Response {
    success(&api.backend.flags())
}

pub(crate) async fn build_info(State(api): State<Api>) -> Response {
    success(&api.backend.build_info())
}

pub(crate) async fn runtime_info(State(api): State<Api>) -> Response {
    success_json(&api.backend.runtime_info())
}

pub(crate) async fn cluster(State(api): State<Api>) -> Response {
    success_json(&api.backend.cluster().await)
}

pub(crate) async fn tsdb(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let limit = match form.get("limit") {
        "" => 10,
        text => {
            let limit = atoi(text).ok().and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
            limit.ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?
        }
    };
    Ok(success(&api.backend.tsdb_status(limit).await?))
}

pub(crate) async fn wal_replay(State(api): State<Api>) -> Response {
    let [min, max, current] = api.backend.wal_replay();
    success(&json!({"min": min, "max": max, "current": current}))
}

pub(crate) async fn version(State(api): State<Api>) -> Response {
    let info = serde_json::to_string(&api.backend.build_info()).expect("build information is plain text");
    with_type(format!("{info}\n"), "text/plain; charset=utf-8")
}

pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    with_type(api.backend.metrics().await, TEXT_FORMAT)
}

pub(crate) fn with_type(text: String, content_type: &'static str) -> Response {
    let mut response = text.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn text_format(text: String) -> Response {
    with_type(text, TEXT_FORMAT)
}
