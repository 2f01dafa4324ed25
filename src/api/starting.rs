//! What a process answers that is not a peer yet: it reads its log back, which may take minutes.

use axum::Router;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use http::HeaderValue;
use http::header::CONNECTION;
use serde_json::json;

use crate::respond::success;
use crate::router::ApiOptions;

/// Routes until the peer is there: it is healthy, it is not ready, and so far is its log read back. `segments` are the
/// first segment of the log, the last, and the one being read.
pub fn starting(options: &ApiOptions, segments: impl Fn() -> [u64; 3] + Clone + Send + Sync + 'static) -> Router {
    let healthy = if options.alerting_only { "OK" } else { "Prometheus Server is Healthy.\n" };
    let replay = move || async move {
        let [min, max, current] = segments();
        success(&json!({"min": min, "max": max, "current": current}))
    };
    let routes = Router::new()
        .route("/-/healthy", get(move || async move { healthy }))
        .route("/api/v1/status/walreplay", get(replay))
        .fallback(unavailable);
    let routes = match options.route_prefix.as_str() {
        "/" => routes,
        prefix => Router::new().nest(prefix, routes).fallback(unavailable),
    };
    // Whoever comes again must meet the peer, and a connection keeps its routes.
    routes.layer(middleware::from_fn(async |request, next: Next| {
        let mut response = next.run(request).await;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }))
}

async fn unavailable() -> Response {
    crate::lifecycle::unavailable("false")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn check(prefix: &str, path: &str, status: StatusCode, body: &str) {
        let options = ApiOptions { route_prefix: prefix.to_owned(), ..ApiOptions::default() };
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = starting(&options, || [3, 9, 5]).oneshot(request).await.expect("infallible");
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()[CONNECTION], "close", "{path}");
        let said = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(String::from_utf8_lossy(&said), body, "{path}");
    }

    #[tokio::test]
    async fn a_process_that_reads_its_log_is_healthy_and_not_ready() {
        let replay = r#"{"status":"success","data":{"min":3,"max":9,"current":5}}"#;
        check("/", "/-/healthy", StatusCode::OK, "Prometheus Server is Healthy.\n").await;
        check("/", "/-/ready", StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").await;
        check("/", "/api/v1/query?query=up", StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").await;
        check("/", "/api/v1/status/walreplay", StatusCode::OK, replay).await;
        check("/mesh", "/mesh/-/healthy", StatusCode::OK, "Prometheus Server is Healthy.\n").await;
        check("/mesh", "/-/healthy", StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").await;
    }
}
