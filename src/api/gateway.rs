//! The Pushgateway's API: `/metrics/job/…`, `/api/v1/metrics`, `/api/v1/status`, `/api/v1/admin/wipe`, and what the mesh
//! scrapes of it.
//!
//! Source: pushgateway README, `handler/push.go`, `api/v1/api.go`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, put};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use promesh_gateway::{Family, Format, Group, Groups, PUSH_FAILURE_TIME, PUSH_TIME, grouping_key, read_families};
use promesh_model::labels::METRIC_NAME;
use promesh_model::value::format_float_g;
use promesh_model::{Labels, Timestamp};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::respond::{success, text};
use crate::router::Api;

/// Bound on a body, before and after decompression. What it becomes has to fit one message between peers.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Why a push or a delete was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GatewayError {
    /// The client is to change it: 400.
    #[error("{0}")]
    Refused(String),
    /// It is to come again: 503.
    #[error("{0}")]
    Unavailable(String),
    /// The disk: 500.
    #[error("{0}")]
    Failed(String),
}

/// The pushed groups of the mesh, whichever peer is asked.
#[async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// Takes a push; returns when it is safe. With `replace`, other families of the group go.
    ///
    /// # Errors
    /// As [`GatewayError`] says.
    async fn push(&self, group: Labels, families: BTreeMap<String, Family>, replace: bool) -> Result<(), GatewayError>;

    /// Deletes a group; returns when that is safe. Nothing happens when there is none.
    ///
    /// # Errors
    /// As [`GatewayError`] says.
    async fn delete(&self, group: Labels) -> Result<(), GatewayError>;

    /// Looks at the groups.
    fn read(&self, look: &mut dyn FnMut(&Groups));
}

/// The path at which all groups are exposed.
pub const EXPOSED_AT: &str = "/pushgateway/metrics";

/// The routes, for a peer that takes pushes.
pub(crate) fn routes(gateway: Arc<dyn Gateway>) -> Router<Api> {
    let metrics = any({
        let gateway = Arc::clone(&gateway);
        move |request: Request| change(gateway, request)
    });
    let listing = Arc::clone(&gateway);
    let exposed = Arc::clone(&gateway);
    Router::new()
        .route("/metrics/{*key}", metrics)
        .route("/api/v1/metrics", get(move || async move { list(listing.as_ref()) }))
        .route("/api/v1/status", get(status))
        .route("/api/v1/admin/wipe", put(move |State(api): State<Api>| wipe(gateway, api)))
        .route(EXPOSED_AT, get(move || async move { exposition(exposed.as_ref()) }))
        .layer(DefaultBodyLimit::disable())
}

async fn change(gateway: Arc<dyn Gateway>, request: Request) -> Response {
    let method = request.method().clone();
    if !matches!(method, Method::PUT | Method::POST | Method::DELETE) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    // As it stands in the request: a value may have an encoded slash.
    let path = request.uri().path();
    let key = path.split_once("/metrics/").map_or("", |(_, key)| key);
    let group = match grouping_key(key) {
        Ok(group) => group,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    if method == Method::DELETE {
        return match gateway.delete(group).await {
            Ok(()) => StatusCode::ACCEPTED.into_response(),
            Err(error) => refusal(&error),
        };
    }
    let headers = request.headers().clone();
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
    };
    let families = match decoded(&headers, &body) {
        Ok(body) => read_families(&body, format_of(&headers), &group),
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let families = match families {
        Ok(families) => families,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    match gateway.push(group, families, method == Method::PUT).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &GatewayError) -> Response {
    match error {
        GatewayError::Refused(why) => text(StatusCode::BAD_REQUEST, why),
        GatewayError::Failed(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
        GatewayError::Unavailable(why) => {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, why);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Anything unnamed is text: a script's `curl --data-binary` says that it sends a form.
fn format_of(headers: &HeaderMap) -> Format {
    let kind = header(headers, &CONTENT_TYPE);
    match kind.split(';').next().unwrap_or("").trim() {
        "application/vnd.google.protobuf" => Format::Protobuf,
        "application/openmetrics-text" => Format::OpenMetrics,
        _ => Format::Text,
    }
}

fn decoded(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, String> {
    let too_large = || format!("the decoded body is larger than {BODY_BYTES_MAX} bytes");
    match header(headers, &CONTENT_ENCODING) {
        "" | "identity" => Ok(body.clone()),
        "gzip" => {
            let mut out = Vec::new();
            let read = flate2::read::GzDecoder::new(&body[..]).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut out);
            read.map_err(|error| format!("gzip: {error}"))?;
            if out.len() > BODY_BYTES_MAX { Err(too_large()) } else { Ok(out.into()) }
        }
        "snappy" => {
            let length = snap::raw::decompress_len(body).map_err(|error| error.to_string())?;
            if length > BODY_BYTES_MAX {
                return Err(too_large());
            }
            snap::raw::Decoder::new().decompress_vec(body).map(Bytes::from).map_err(|error| error.to_string())
        }
        other => Err(format!("content encoding {other:?} is not read: gzip, snappy or none")),
    }
}

async fn wipe(gateway: Arc<dyn Gateway>, api: Api) -> Response {
    if !api.options.enable_admin_api {
        return text(StatusCode::NOT_FOUND, "Admin API is not enabled: --web.enable-admin-api");
    }
    let mut keys = Vec::new();
    gateway.read(&mut |groups| keys = groups.iter().map(|group| group.labels.clone()).collect());
    for key in keys {
        if let Err(error) = gateway.delete(key).await {
            return refusal(&error);
        }
    }
    StatusCode::ACCEPTED.into_response()
}

fn exposition(gateway: &dyn Gateway) -> Response {
    let mut shown = String::new();
    gateway.read(&mut |groups| shown = groups.exposition());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown).into_response()
}

async fn status(State(api): State<Api>) -> Response {
    let start = api.backend.runtime_info()["startTime"].clone();
    let built = api.backend.build_info();
    success(&json!({"build_information": built, "flags": api.backend.flags(), "start_time": start}))
}

fn list(gateway: &dyn Gateway) -> Response {
    let mut all = Vec::new();
    gateway.read(&mut |groups| all = groups.iter().map(group_json).collect());
    success(&all)
}

fn group_json(group: &Group) -> Value {
    let mut shown = Map::new();
    shown.insert("labels".into(), json!(group.labels));
    shown.insert("last_push_successful".into(), json!(group.last_push_succeeded()));
    for (name, stored) in &group.families {
        shown.insert(name.clone(), family_json(name, &stored.family, stored.at));
    }
    let newest = group.pushed_at().max(group.failed_at());
    let time = |at: i64| json!([{"labels": with_instance(&group.labels), "value": format_float_g(at as f64 / 1000.0)}]);
    for (name, at, what) in
        [(PUSH_FAILURE_TIME, group.failed_at(), "failed"), (PUSH_TIME, group.pushed_at(), "succeeded")]
    {
        let help = format!("Last Unix time when changing this group in the Pushgateway {what}.");
        let stamp = Timestamp(newest).to_string();
        shown.insert(name.to_owned(), json!({"time_stamp": stamp, "type": "GAUGE", "help": help, "metrics": time(at)}));
    }
    Value::Object(shown)
}

fn with_instance(labels: &Labels) -> Map<String, Value> {
    let mut shown = Map::new();
    if labels.get("instance").is_none() {
        shown.insert("instance".into(), json!(""));
    }
    let named = labels.iter().filter(|(name, _)| *name != METRIC_NAME);
    shown.extend(named.map(|(name, value)| (name.to_owned(), json!(value))));
    shown
}

fn family_json(name: &str, family: &Family, at: i64) -> Value {
    let parts = matches!(family.kind.as_str(), "histogram" | "summary");
    let mut metrics: Vec<Value> = Vec::new();
    let mut places: BTreeMap<Labels, usize> = BTreeMap::new();
    for (labels, bits) in &family.samples {
        let value = json!(format_float_g(f64::from_bits(*bits)));
        if !parts {
            metrics.push(json!({"labels": with_instance(labels), "value": value}));
            continue;
        }
        // A histogram's or summary's samples are one metric.
        let own = labels.without(|name| matches!(name, METRIC_NAME | "le" | "quantile"));
        let place = *places.entry(own.clone()).or_insert_with(|| {
            metrics.push(json!({"labels": with_instance(&own)}));
            metrics.len() - 1
        });
        let end = labels.value(METRIC_NAME).strip_prefix(name).unwrap_or("");
        let metric = &mut metrics[place];
        match (end, labels.get("le"), labels.get("quantile")) {
            ("_bucket", Some(bound), _) => metric["buckets"][bound] = value,
            ("_sum", ..) => metric["sum"] = value,
            ("_count", ..) => metric["count"] = value,
            (_, _, Some(quantile)) => metric["quantiles"][quantile] = value,
            _ => metric["value"] = value,
        }
    }
    let kind = if family.kind == "unknown" { "UNTYPED".to_owned() } else { family.kind.to_uppercase() };
    json!({"time_stamp": Timestamp(at).to_string(), "type": kind, "help": family.help, "metrics": metrics})
}
