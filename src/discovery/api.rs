//! What kinds that ask an HTTP API have in common: requests, answers, labels.

use std::time::Duration;

use ::http::header::ACCEPT;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use promesh_client::{HttpClient, Request, redacted};
use promesh_config::http::HttpClientConfig;
use promesh_model::{Labels, LabelsBuilder};
use serde_json::Value;
use url::Url;

use crate::{ADDRESS, DiscoveryError, TargetGroup, label_name};

const ANSWER_BYTES_MAX: usize = 256 << 20;
/// A list that has more pages than this has no end.
pub(crate) const PAGES_MAX: usize = 10_000;

/// One back end's API.
#[derive(Debug)]
pub(crate) struct Api {
    client: HttpClient,
    timeout: Duration,
}

impl Api {
    /// `timeout`: of each request; upstream takes the refresh interval.
    pub(crate) fn new(http: &HttpClientConfig, timeout: Duration) -> Result<Api, DiscoveryError> {
        Ok(Api::over(HttpClient::new(http)?, timeout))
    }

    pub(crate) fn over(client: HttpClient, timeout: Duration) -> Api {
        Api { client, timeout: timeout.max(Duration::from_secs(1)) }
    }

    /// The answer's status, headers and body.
    pub(crate) async fn exchange(&self, request: Request) -> Result<(StatusCode, HeaderMap, Vec<u8>), DiscoveryError> {
        Ok(self.client.fetch(request, self.timeout, ANSWER_BYTES_MAX).await?)
    }

    /// The headers and body of an answer that is a success.
    pub(crate) async fn send(&self, request: Request) -> Result<(HeaderMap, Vec<u8>), DiscoveryError> {
        let url = redacted(&request.url);
        let (status, headers, body) = self.exchange(request).await?;
        if status.is_success() {
            return Ok((headers, body));
        }
        Err(DiscoveryError::Answer(format!("{url}: server returned HTTP status {status}: {}", first_line(&body))))
    }

    /// As [`Api::send`], read as JSON.
    pub(crate) async fn json(&self, mut request: Request) -> Result<Value, DiscoveryError> {
        let url = redacted(&request.url);
        request.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        let (_, body) = self.send(request).await?;
        serde_json::from_slice(&body).map_err(|error| DiscoveryError::Answer(format!("{url}: {error}")))
    }

    /// As [`Api::json`], of a `GET`.
    pub(crate) async fn get(&self, url: Url) -> Result<Value, DiscoveryError> {
        self.json(Request::get(url)).await
    }
}

/// What a refusal says first, for a log.
fn first_line(body: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * CHARS_MAX)]).into_owned();
    text.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

/// A URL of settings with a path below it and a query; empty values are left out.
pub(crate) fn url(base: &str, path: &str, query: &[(&str, &str)]) -> Result<Url, DiscoveryError> {
    let unusable = |error: &dyn std::fmt::Display| DiscoveryError::Settings(format!("{base:?} is not a URL: {error}"));
    let mut url = Url::parse(base).map_err(|error| unusable(&error))?;
    if url.cannot_be_a_base() {
        return Err(unusable(&"it has no host"));
    }
    let below = format!("{}/{}", url.path().trim_end_matches('/'), path.trim_start_matches('/'));
    url.set_path(&below);
    if query.iter().any(|(_, value)| !value.is_empty()) {
        url.query_pairs_mut().extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
    }
    Ok(url)
}

/// A segment of a path.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Adds a header whose value may be secret.
pub(crate) fn secret_header(request: &mut Request, name: &'static str, value: &str) -> Result<(), DiscoveryError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| DiscoveryError::Settings(format!("the value for the header {name} cannot be sent")))?;
    value.set_sensitive(true);
    request.headers.insert(HeaderName::from_static(name), value);
    Ok(())
}

/// A host and a port; IPv6 in brackets.
pub(crate) fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What stands at a path of names in an answer, as a label's value: nothing is the empty text.
pub(crate) fn text(value: &Value, path: &str) -> String {
    shown(path.split('.').fold(value, |value, name| &value[name]))
}

/// A text, number or bool as a label's value.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => String::new(),
    }
}

/// The elements of a list at a path; none when there is no list.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    path.split('.').fold(value, |value, name| &value[name]).as_array().map_or(&[], Vec::as_slice)
}

/// Names and values of an object at a path.
pub(crate) fn pairs<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let object = path.split('.').fold(value, |value, name| &value[name]).as_object();
    object.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// A list of texts with the separator around each, also at both ends: a rule can match a whole one wherever it stands.
pub(crate) fn joined<T: AsRef<str>>(texts: &[T], separator: &str) -> String {
    let mut out = separator.to_owned();
    for text in texts {
        out.push_str(text.as_ref());
        out.push_str(separator);
    }
    out
}

/// The texts of a list.
pub(crate) fn texts(value: &Value, path: &str) -> Vec<String> {
    list(value, path).iter().map(shown).collect()
}

/// The labels of one target, those of its kind with a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    prefix: String,
    labels: LabelsBuilder,
}

impl Meta {
    /// `kind`: what stands between `__meta_` and the names.
    pub(crate) fn of(kind: &str) -> Meta {
        Meta { prefix: format!("__meta_{kind}_"), labels: LabelsBuilder::default() }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<str>) -> &mut Meta {
        self.labels.set(&format!("{}{name}", self.prefix), value.as_ref());
        self
    }

    /// Fields of an answer: label names and paths.
    pub(crate) fn take(&mut self, value: &Value, fields: &[(&str, &str)]) -> &mut Meta {
        for (name, path) in fields {
            self.set(name, text(value, path));
        }
        self
    }

    /// A list that is not empty, joined.
    pub(crate) fn join<T: AsRef<str>>(&mut self, name: &str, texts: &[T], separator: &str) -> &mut Meta {
        if !texts.is_empty() {
            self.set(name, joined(texts, separator));
        }
        self
    }

    /// A label for each name, made fit for a label.
    pub(crate) fn each<N: AsRef<str>>(
        &mut self,
        prefix: &str,
        pairs: impl IntoIterator<Item = (N, String)>,
    ) -> &mut Meta {
        for (name, value) in pairs {
            self.set(&format!("{prefix}{}", label_name(name.as_ref())), value);
        }
        self
    }

    /// The target's address.
    pub(crate) fn address(&mut self, address: impl AsRef<str>) -> &mut Meta {
        self.labels.set(ADDRESS, address.as_ref());
        self
    }

    /// A label without the kind's prefix.
    pub(crate) fn plain(&mut self, name: &str, value: impl AsRef<str>) -> &mut Meta {
        self.labels.set(name, value.as_ref());
        self
    }

    pub(crate) fn build(&self) -> Labels {
        self.labels.build()
    }
}

/// The one group of most kinds.
pub(crate) fn group(source: &str, targets: Vec<Labels>) -> Vec<TargetGroup> {
    vec![TargetGroup { source: source.to_owned(), targets, labels: Labels::empty() }]
}
