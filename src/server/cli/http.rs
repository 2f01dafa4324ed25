//! Asking a peer over HTTP, for the commands.

use std::time::Duration;

use http::Method;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use url::Url;

use super::Failure;

const TIMEOUT: Duration = Duration::from_secs(130);
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// An answer of Prometheus' API, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The `data` field.
    pub data: Value,
    /// The `warnings` and `infos` fields.
    pub notes: Vec<String>,
}

/// Gets `path` below `base` and opens Prometheus' envelope.
pub(crate) fn get(base: &str, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
    ask(Method::GET, base, path, query)
}

/// As [`get`], for what changes something. The peer needs `--web.enable-lifecycle`.
pub(crate) fn post(base: &str, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
    ask(Method::POST, base, path, query)
}

fn ask(method: Method, base: &str, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
    let url = address(base, path, query)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let (status, body) = runtime.block_on(fetch(method, &url)).map_err(|why| Failure::new(format!("{url}: {why}")))?;
    let envelope: Value = serde_json::from_slice(&body)
        .map_err(|_| Failure::new(format!("{url}: answered {status}: {}", excerpt(&body))))?;
    open(envelope)
}

/// Gets a page as text.
pub(crate) fn fetch_text(base: &str, path: &str) -> Result<(http::StatusCode, String), Failure> {
    let url = address(base, path, &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let (status, body) =
        runtime.block_on(fetch(Method::GET, &url)).map_err(|why| Failure::new(format!("{url}: {why}")))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The beginning of an answer that is not in Prometheus' form.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().filter(|c| !c.is_control() || *c == '\n').take(500).collect()
}

fn open(mut envelope: Value) -> Result<Answer, Failure> {
    if envelope["status"] != "success" {
        let text = |field: &str| envelope[field].as_str().unwrap_or_default().to_owned();
        return Err(Failure::new(format!("{}: {}", text("errorType"), text("error"))));
    }
    let texts = |field: &str| envelope[field].as_array().cloned().unwrap_or_default();
    let note = |value: Value| value.as_str().map(str::to_owned);
    let notes = texts("warnings").into_iter().chain(texts("infos")).filter_map(note).collect();
    Ok(Answer { data: envelope["data"].take(), notes })
}

fn address(base: &str, path: &str, query: &[(&str, String)]) -> Result<Url, Failure> {
    let text = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let mut url = Url::parse(&text).map_err(|error| Failure::usage(format!("{base:?} is not a URL: {error}")))?;
    url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

async fn fetch(method: Method, url: &Url) -> Result<(http::StatusCode, Vec<u8>), String> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls()?).https_or_http().enable_http1();
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    let client: Client<_, Full<&[u8]>> = Client::builder(TokioExecutor::new()).build(connector.wrap_connector(plain));
    let uri: http::Uri = url.as_str().parse().map_err(|error| format!("not an address: {error}"))?;
    let exchange = async {
        let request = http::Request::builder().method(method).uri(uri).body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let response = client.request(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes().into()))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// An error with its causes: the first alone says "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn tls() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
