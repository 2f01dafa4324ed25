use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// A collector that speaks gRPC: gives each request's path, headers and message.
async fn collector() -> (String, mpsc::UnboundedReceiver<(String, HeaderMap, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let (to, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let to = to.clone();
            let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let to = to.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let message = body.collect().await.expect("a whole body").to_bytes();
                    to.send((head.uri.path().to_owned(), head.headers, message)).expect("heard");
                    // An empty message, and that all is well.
                    let mut well = HeaderMap::new();
                    well.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(well)];
                    let mut answer = http::Response::new(StreamBody::new(Frames(frames.into_iter())));
                    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), answer),
            );
        }
    });
    (endpoint, asked)
}

/// Frames that are there already.
struct Frames(std::array::IntoIter<Frame<Bytes>, 2>);

impl futures_util::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next().map(Ok))
    }
}

fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_over_grpc_and_nothing_is_made_without_a_section() {
    let no_client = |_: &TracingConfig, _: Duration| -> Result<Arc<dyn opentelemetry_http::HttpClient>, String> {
        Err("not over HTTP".to_owned())
    };
    let tracing = Tracing::default();
    let none = span(Kind::Internal, "unseen", || unreachable!("nobody asks for facts"));
    let mut headers = HeaderMap::new();
    none.name_in(&mut headers);
    assert!(headers.is_empty());

    let (endpoint, mut asked) = collector().await;
    let section = TracingConfig {
        client_type: "grpc".to_owned(),
        endpoint,
        sampling_fraction: 1.0,
        insecure: true,
        headers: [("x-own".to_owned(), "v".to_owned())].into(),
        ..TracingConfig::default()
    };
    tracing.follow(Some(&section), &no_client).expect("it can be followed");
    {
        assert!(below(Kind::Client, "alone", Vec::new).0.is_none(), "without a span around it there is none");
        let outer = span(Kind::Internal, "outer", || vec![("fact", "stated".to_owned())]);
        outer.around(async { below(Kind::Client, "inner", Vec::new).name_in(&mut headers) }).await;
        outer.fail("it broke");
    }
    let carried = headers.get("traceparent").expect("the request carries it").to_str().expect("text").to_owned();
    assert!(carried.starts_with("00-") && carried.ends_with("-01"), "{carried}");
    tracing.stop().await;
    let (path, headers, message) = asked.recv().await.expect("a request");
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(headers.get("x-own").expect("its header"), "v");
    for text in ["service.name", "promesh", "outer", "inner", "fact", "stated", "it broke"] {
        assert!(contains(&message, text), "{text}");
    }
    assert!(!contains(&message, "alone") && !contains(&message, "unseen"));

    let mut unsafe_tls = TracingConfig { insecure: false, ..section };
    unsafe_tls.tls_config.insecure_skip_verify = true;
    let error = Tracing::default().follow(Some(&unsafe_tls), &no_client).expect_err("it cannot");
    assert!(error.to_string().contains("insecure_skip_verify"), "{error}");
}
