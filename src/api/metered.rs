//! How often each handler was asked, how long it took and how much it said, under Prometheus' names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use parking_lot::RwLock;

use crate::bounds::Bounded;
use crate::router::Api;

/// Upstream's bounds, in seconds.
const SECONDS: [f64; 9] = [0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];
/// Upstream's bounds, in bytes.
const BYTES: [f64; 8] = [1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

#[derive(Debug)]
struct Histogram<const N: usize> {
    /// Up to each bound, not cumulative.
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    /// In thousandths.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new() -> Histogram<N> {
        Histogram {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn observe(&self, bounds: &[f64; N], value: f64) {
        let place = bounds.partition_point(|bound| *bound < value);
        self.counts.get(place).unwrap_or(&self.beyond).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1000.0) as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, handler: &str, bounds: &[f64; N]) {
        let mut total = 0;
        for (bound, count) in bounds.iter().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            let bound = promesh_model::value::format_float_g(*bound);
            let _ = writeln!(out, "{name}_bucket{{handler=\"{handler}\",le=\"{bound}\"}} {total}");
        }
        total += self.beyond.load(Ordering::Relaxed);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1000.0;
        let _ = writeln!(out, "{name}_bucket{{handler=\"{handler}\",le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{handler=\"{handler}\"}} {sum}");
        let _ = writeln!(out, "{name}_count{{handler=\"{handler}\"}} {total}");
    }
}

/// What is counted of one handler.
#[derive(Debug)]
struct Counted {
    seconds: Histogram<9>,
    bytes: Histogram<8>,
    /// Requests by status; there are few.
    codes: RwLock<BTreeMap<u16, AtomicU64>>,
}

/// What is counted of all handlers.
#[derive(Debug, Default)]
pub struct HttpMeter {
    /// What [`crate::bounds`] counts.
    pub bounded: Bounded,
    handlers: RwLock<BTreeMap<String, Arc<Counted>>>,
}

impl HttpMeter {
    fn of(&self, handler: &str) -> Arc<Counted> {
        if let Some(known) = self.handlers.read().get(handler) {
            return Arc::clone(known);
        }
        let fresh =
            || Arc::new(Counted { seconds: Histogram::new(), bytes: Histogram::new(), codes: RwLock::default() });
        Arc::clone(self.handlers.write().entry(handler.to_owned()).or_insert_with(fresh))
    }

    fn observe(&self, handler: &str, status: u16, took: Duration, bytes: Option<u64>) {
        let counted = self.of(handler);
        counted.seconds.observe(&SECONDS, took.as_secs_f64());
        if let Some(bytes) = bytes {
            counted.bytes.observe(&BYTES, bytes as f64);
        }
        if let Some(count) = counted.codes.read().get(&status) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counted.codes.write().entry(status).or_default().fetch_add(1, Ordering::Relaxed);
    }

    /// Three families in text format 0.0.4.
    pub fn exposition(&self) -> String {
        let handlers = self.handlers.read();
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let requests = "prometheus_http_requests_total";
        head(&mut out, requests, "counter", "Counter of HTTP requests.");
        for (handler, counted) in handlers.iter() {
            for (code, count) in counted.codes.read().iter() {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(out, "{requests}{{code=\"{code}\",handler=\"{handler}\"}} {count}");
            }
        }
        let seconds = "prometheus_http_request_duration_seconds";
        head(&mut out, seconds, "histogram", "Histogram of latencies for HTTP requests.");
        for (handler, counted) in handlers.iter() {
            counted.seconds.write(&mut out, seconds, handler, &SECONDS);
        }
        let bytes = "prometheus_http_response_size_bytes";
        head(&mut out, bytes, "histogram", "Histogram of response size for HTTP requests.");
        for (handler, counted) in handlers.iter() {
            counted.bytes.write(&mut out, bytes, handler, &BYTES);
        }
        out
    }
}

/// Counts one request. An answer that comes in pieces has no length before its end: its size is not counted.
pub(crate) async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let began = api.backend.now().monotonic;
    let path = matched.as_ref().map(|matched| {
        let prefix = &api.options.route_prefix;
        if prefix == "/" { matched.as_str() } else { matched.as_str().trim_start_matches(prefix.as_str()) }
    });
    let span = promesh_trace::answering(request.headers(), named(path.unwrap_or("/")), || {
        vec![("http.request.method", request.method().to_string()), ("url.path", request.uri().path().to_owned())]
    });
    let response = span.around(next.run(request)).await;
    span.fact("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.fail(response.status());
    }
    if let Some(path) = path {
        let took = api.backend.now().monotonic.since(began);
        let bytes = response.body().size_hint().exact();
        api.meter.observe(&named(path), response.status().as_u16(), took, bytes);
    }
    response
}

/// A route as upstream's `handler` label has it: `:name` for what may stand in a place.
fn named(path: &str) -> String {
    if !path.contains('{') {
        return path.to_owned();
    }
    let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => name.strip_prefix('*').map_or_else(|| format!(":{name}"), |rest| format!("*{rest}")),
        None => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_handler_status_time_and_size() {
        let meter = HttpMeter::default();
        meter.observe("/api/v1/query", 200, Duration::from_millis(150), Some(50));
        meter.observe("/api/v1/query", 200, Duration::from_secs(200), None);
        meter.observe("/api/v1/query", 503, Duration::from_millis(100), Some(2_000_000));
        let text = meter.exposition();
        for line in [
            "prometheus_http_requests_total{code=\"200\",handler=\"/api/v1/query\"} 2",
            "prometheus_http_requests_total{code=\"503\",handler=\"/api/v1/query\"} 1",
            "prometheus_http_request_duration_seconds_bucket{handler=\"/api/v1/query\",le=\"0.1\"} 1",
            "prometheus_http_request_duration_seconds_bucket{handler=\"/api/v1/query\",le=\"0.2\"} 2",
            "prometheus_http_request_duration_seconds_bucket{handler=\"/api/v1/query\",le=\"120\"} 2",
            "prometheus_http_request_duration_seconds_bucket{handler=\"/api/v1/query\",le=\"+Inf\"} 3",
            "prometheus_http_request_duration_seconds_sum{handler=\"/api/v1/query\"} 200.25",
            "prometheus_http_response_size_bytes_bucket{handler=\"/api/v1/query\",le=\"1e+06\"} 1",
            "prometheus_http_response_size_bytes_count{handler=\"/api/v1/query\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn handlers_are_named_as_upstream_names_them() {
        for (path, name) in [
            ("/api/v1/query", "/api/v1/query"),
            ("/api/v1/label/{name}/values", "/api/v1/label/:name/values"),
            ("/metrics/{*key}", "/metrics/*key"),
        ] {
            assert_eq!(named(path), name);
        }
    }
}
