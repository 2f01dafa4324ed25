//! The whole router over a fixture, against answers recorded from a real Prometheus.

mod bounds;
mod fixture;
mod pages;
mod push;
mod search;
mod table;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::backend::Readiness;
use crate::{ApiOptions, router};
use fixture::Fixture;

/// What came back.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// All that may be switched on is.
fn options() -> ApiOptions {
    ApiOptions {
        enable_lifecycle: true,
        enable_admin_api: true,
        enable_remote_write_receiver: true,
        ..ApiOptions::default()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.expect("the router always answers");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("bodies do not fail").to_bytes().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    // As `first_line` has it; the type of `Uri` is stricter than Go.
    let path = path.replace('[', "%5B").replace(']', "%5D").replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
    Request::builder().method(method).uri(path)
}

async fn get(router: &Router, path: &str) -> Reply {
    send(router, request(Method::GET, path).body(Body::empty()).expect("a request")).await
}

fn over(fixture: Fixture) -> Router {
    router(Arc::new(fixture), options())
}

fn over_with(options: ApiOptions) -> Router {
    router(Arc::new(Fixture::default()), options)
}

#[tokio::test]
async fn a_peer_that_is_not_ready_says_so() {
    for (readiness, stopping) in [(Readiness::Starting, "false"), (Readiness::Stopping, "true")] {
        let router = over(Fixture { readiness, ..Fixture::default() });
        for path in ["/api/v1/query?query=1", "/-/ready", "/federate", "/api/v1/status/flags"] {
            let reply = get(&router, path).await;
            assert_eq!((reply.status, reply.text().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"));
            assert_eq!(reply.header("x-prometheus-stopping"), stopping);
        }
        for path in ["/-/healthy", "/metrics", "/api/v1/status/walreplay", "/api/v1/cluster"] {
            assert_eq!(get(&router, path).await.status, StatusCode::OK, "{path}");
        }
    }
}

#[tokio::test]
async fn profiles_say_that_they_are_not_built() {
    let router = over(Fixture::default());
    for path in ["/debug/pprof/", "/debug/pprof/heap"] {
        let reply = get(&router, path).await;
        assert_eq!(reply.status, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert!(reply.text().contains("perf record"), "{}", reply.text());
    }
}

#[tokio::test]
async fn the_lifecycle_is_closed_unless_opened() {
    let closed = router(Arc::new(Fixture::default()), ApiOptions::default());
    for path in ["/-/reload", "/-/quit"] {
        let reply = send(&closed, request(Method::POST, path).body(Body::empty()).expect("a request")).await;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::FORBIDDEN, "Lifecycle API is not enabled."));
    }
    let reply = send(
        &closed,
        request(Method::POST, "/api/v1/admin/tsdb/clean_tombstones").body(Body::empty()).expect("a request"),
    )
    .await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(reply.text().contains(r#""errorType":"unavailable","error":"admin APIs disabled""#));
    let reply = send(&closed, request(Method::POST, "/api/v1/write").body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refused_configuration_is_a_500_with_its_reason() {
    let router = over(Fixture { reload: Err("prometheus.yml:3:5: unknown field".to_owned()), ..Fixture::default() });
    let reply = send(&router, request(Method::POST, "/-/reload").body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.text(), "failed to reload config: prometheus.yml:3:5: unknown field\n");
}

#[tokio::test]
async fn cors_admits_origins_as_prometheus_does() {
    let router = over(Fixture::default());
    let from = |origin: &'static str| request(Method::GET, "/api/v1/query?query=1").header("origin", origin);
    let reply = send(&router, from("http://x").body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.header("access-control-allow-origin"), "http://x");
    assert_eq!(reply.header("access-control-allow-headers"), "Accept, Authorization, Content-Type, Origin");
    assert_eq!(reply.header("vary"), "Origin");
    let strict = ApiOptions { cors_origin: regex::Regex::new("^(?s:http://y)$").expect("valid"), ..options() };
    let strict = over_with(strict);
    let reply = send(&strict, from("http://x").body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn large_answers_come_in_pieces_and_compressed_if_wanted() {
    let router = over(Fixture::with_series(5000));
    let path = r#"/api/v1/query_range?query={__name__=~"many"}&start=0&end=100&step=1"#;
    let plain = get(&router, path).await;
    assert_eq!(plain.header("content-length"), "", "too large for one piece");
    let answer: serde_json::Value = serde_json::from_slice(&plain.body).expect("valid JSON");
    assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(5000));
    for encoding in ["gzip", "zstd"] {
        let wanted = request(Method::GET, path).header("accept-encoding", encoding);
        let packed = send(&router, wanted.body(Body::empty()).expect("a request")).await;
        assert_eq!(packed.header("content-encoding"), encoding);
        assert!(packed.body.len() < plain.body.len() / 4);
    }
    let small = get(&router, "/api/v1/query?query=1&time=1").await;
    assert_eq!(small.header("content-length"), small.body.len().to_string());
}

#[tokio::test]
async fn queries_wait_for_their_turn_and_then_get_a_503() {
    let few = ApiOptions { query_concurrency: 1, query_timeout: Duration::from_millis(300), ..options() };
    let fixture = Fixture { storage_delay: Duration::from_secs(2), ..Fixture::with_series(1) };
    let router = router(Arc::new(fixture), few);
    let (first, second) =
        tokio::join!(get(&router, "/api/v1/query?query=many"), get(&router, "/api/v1/query?query=many"));
    for reply in [&first, &second] {
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.text().contains(r#""errorType":"timeout""#), "{}", reply.text());
    }
    let queued = [&first, &second].into_iter().find(|reply| reply.text().contains("query queue")).expect("one waited");
    assert_eq!(queued.header("retry-after"), "1");
}

#[tokio::test]
async fn a_query_whose_client_is_gone_is_cancelled() {
    let fixture = Fixture { storage_delay: Duration::from_secs(60), ..Fixture::with_series(1) };
    let cancelled = Arc::clone(&fixture.cancelled);
    let router = over(fixture);
    let abandoned = tokio::time::timeout(Duration::from_millis(200), get(&router, "/api/v1/query?query=many"));
    assert!(abandoned.await.is_err());
    for _ in 0..500 {
        if cancelled.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the storage never learned that nobody waits");
}

#[tokio::test]
async fn a_route_prefix_goes_before_everything() {
    let prefixed = router(Arc::new(Fixture::default()), ApiOptions { route_prefix: "/prom".into(), ..options() });
    assert_eq!(get(&prefixed, "/prom/api/v1/query?query=1").await.status, StatusCode::OK);
    assert_eq!(get(&prefixed, "/prom/-/healthy").await.status, StatusCode::OK);
    assert_eq!(get(&prefixed, "/api/v1/query?query=1").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_real_listener_serves_and_stops() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = crate::ServeOptions::new(8, Duration::from_secs(5));
    let (_, routes) = tokio::sync::watch::channel(over(Fixture::default()));
    let serving = tokio::spawn(crate::serve(listener, routes, options, async {
        let _ = stopped.await;
    }));
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(answer, b"HTTP/1.1 200");
    stop.send(()).expect("still serving");
    tokio::time::timeout(Duration::from_secs(10), serving).await.expect("stops in time").expect("no panic");
}

/// Keeps what the log would say.
#[derive(Default)]
struct Lines(parking_lot::Mutex<Vec<serde_json::Value>>);

impl crate::QueryWatch for Lines {
    fn begin(&self, _: &str, _: promesh_model::Timestamp) -> Option<usize> {
        None
    }

    fn wants_lines(&self) -> bool {
        true
    }

    fn end(&self, _: Option<usize>, line: Option<serde_json::Value>) {
        self.0.lock().extend(line);
    }
}

#[tokio::test]
async fn the_query_log_tells_who_asked_what_and_how() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let lines = Arc::new(Lines::default());
    let fixture = Fixture { watch: Some(Arc::clone(&lines) as _), ..Fixture::default() };
    let router = router(Arc::new(fixture), ApiOptions { route_prefix: "/prom".into(), ..options() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let options = crate::ServeOptions::new(8, Duration::from_secs(5));
    let (_router, routes) = tokio::sync::watch::channel(router);
    let serving = tokio::spawn(crate::serve(listener, routes, options, std::future::pending()));
    let form = "query=up&start=1&end=50&step=5";
    let head = "host: x\r\nconnection: close\r\n";
    for request in [
        format!("GET /prom/api/v1/query?query=up&time=5 HTTP/1.1\r\n{head}\r\n"),
        format!(
            "POST /prom/api/v1/query_range HTTP/1.1\r\n{head}content-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{form}",
            form.len()
        ),
        format!("GET /prom/api/v1/query?query=up%2B HTTP/1.1\r\n{head}\r\n"),
        format!("GET /prom/api/v1/query?query=label_replace(up,%22%22,%22%22,%22%22,%22%22) HTTP/1.1\r\n{head}\r\n"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.read_to_end(&mut Vec::new()).await.expect("answered");
    }
    serving.abort();
    let lines = lines.0.lock();
    // What is no query was not executed, and is not logged.
    assert_eq!(lines.len(), 3, "{lines:?}");
    let asked = |path: &str, method: &str| serde_json::json!({"clientIP": "127.0.0.1", "method": method, "path": path});
    assert_eq!(lines[0]["httpRequest"], asked("/prom/api/v1/query", "GET"));
    assert_eq!(lines[1]["httpRequest"], asked("/prom/api/v1/query_range", "POST"));
    assert_eq!(
        lines[1]["params"],
        serde_json::json!({
            "query": "up", "start": "1970-01-01T00:00:01.000Z", "end": "1970-01-01T00:00:50.000Z", "step": 5
        })
    );
    assert!(lines[2]["error"].as_str().is_some_and(|error| error.contains("label_replace")), "{}", lines[2]);
    assert!(lines.iter().all(|line| line["stats"]["timings"]["execTotalTime"].is_number()), "{lines:?}");
}

#[tokio::test]
async fn a_url_as_people_type_it_is_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (_keep, routes) = tokio::sync::watch::channel(over(Fixture::default()));
    let options = crate::ServeOptions::new(4, Duration::from_secs(5));
    tokio::spawn(crate::serve(listener, routes, options, std::future::pending()));
    for query in [r#"query=up{job="node"}"#, "query=up>0", r#"query=up{job="a<b"}"#] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        let request = format!("GET /api/v1/query?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{query}: {answer}");
    }
}
