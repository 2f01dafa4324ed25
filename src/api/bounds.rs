//! Alertmanager's bounds on requests: how many `GET`s at once, how long any may take.
//!
//! Source: alertmanager api/api.go `limitHandler`.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, StatusCode};

use crate::respond::text;
use crate::router::Api;

/// What is counted for the metrics page.
#[derive(Debug, Default)]
pub struct Bounded {
    /// `GET`s that run.
    pub in_flight: AtomicU64,
    /// `GET`s that were refused.
    pub refused: AtomicU64,
}

/// One of the `GET`s that run, until it is dropped: also when its client went away.
struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses one `GET` too many, and ends what takes too long, both with 503.
pub(crate) async fn bound(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (most, timeout) = (api.options.get_concurrency, api.options.timeout);
    let bounded = &api.meter.bounded;
    let running = (most > 0 && request.method() == Method::GET).then(|| {
        let before = bounded.in_flight.fetch_add(1, Ordering::Relaxed);
        (before, Running(&bounded.in_flight))
    });
    if running.as_ref().is_some_and(|(before, _)| *before >= most as u64) {
        bounded.refused.fetch_add(1, Ordering::Relaxed);
        let why = format!("Limit of concurrent GET requests reached ({most}), try again later.\n");
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    if timeout.is_zero() {
        return next.run(request).await;
    }
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let why = format!("Exceeded configured timeout of {}.", api.options.timeout_shown);
            text(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}
