//! `/-/healthy`, `/-/ready`, `/-/reload`, `/-/quit`, and the gate before everything that needs a ready peer.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode};

use crate::backend::{Readiness, ReloadScope};
use crate::form::Form;
use crate::respond::text;
use crate::router::Api;

pub(crate) async fn healthy(State(api): State<Api>) -> &'static str {
    if api.options.alerting_only { "OK" } else { "Prometheus Server is Healthy.\n" }
}

pub(crate) async fn ready(State(api): State<Api>) -> &'static str {
    if api.options.alerting_only { "OK" } else { "Prometheus Server is Ready.\n" }
}

/// Profiles of Go's runtime, which there is none of.
pub(crate) async fn profiles() -> Response {
    let why = "profiles are not built into promesh: use perf(1) on its machine, `perf record -g -p PID`\n";
    (StatusCode::NOT_IMPLEMENTED, why).into_response()
}

/// Lets requests through once the peer is ready.
pub(crate) async fn gate(State(api): State<Api>, request: Request, next: Next) -> Response {
    let stopping = match api.backend.readiness() {
        Readiness::Ready => return next.run(request).await,
        Readiness::Starting => "false",
        Readiness::Stopping => "true",
    };
    unavailable(stopping)
}

/// The answer of a peer that is not there yet, or no longer.
pub(crate) fn unavailable(stopping: &'static str) -> Response {
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").into_response();
    response.headers_mut().insert("x-prometheus-stopping", HeaderValue::from_static(stopping));
    response
}

/// Whether a request that changes the process may do so.
pub(crate) fn refusal(api: &Api, method: &Method) -> Option<Response> {
    match *method {
        Method::POST | Method::PUT => {}
        Method::GET => {
            return Some((StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed").into_response());
        }
        _ => return Some(text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")),
    }
    let enabled = api.options.enable_lifecycle;
    (!enabled).then(|| (StatusCode::FORBIDDEN, "Lifecycle API is not enabled.").into_response())
}

pub(crate) async fn reload(State(api): State<Api>, method: Method, form: Form) -> Response {
    if let Some(refusal) = refusal(&api, &method) {
        return refusal;
    }
    let scope = if form.get("scope") == "cluster" { ReloadScope::Cluster } else { ReloadScope::Peer };
    match api.backend.reload(scope).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error}")),
    }
}

pub(crate) async fn quit(State(api): State<Api>, method: Method) -> Response {
    if let Some(refusal) = refusal(&api, &method) {
        return refusal;
    }
    api.backend.quit();
    "Requesting termination... Goodbye!".into_response()
}
