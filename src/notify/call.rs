//! Requests, and what answers mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use promesh_client::{ClientError, Gate, HttpClient, Request};
use promesh_config::yaml::FilePath;
use promesh_model::Secret;
use url::Url;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of an answer is told.
const ANSWER_CHARS_TOLD: usize = 300;

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// `POST`, `PUT`.
    pub method: Method,
    /// Where. It may be a secret: never print it.
    pub url: Url,
    /// Besides content type and what the client adds.
    pub headers: Vec<(&'static str, String)>,
    /// What kind of body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Call {
    /// A `POST` of JSON.
    pub fn json(url: Url, body: &serde_json::Value) -> Call {
        Call::text(url, "application/json", body.to_string())
    }

    /// A `POST` of a text.
    pub fn text(url: Url, content_type: &'static str, body: String) -> Call {
        Call { method: Method::POST, url, headers: Vec::new(), content_type, body }
    }
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The lease had run out.
    Closed,
    /// It may pass.
    Retry {
        /// What the receiver asked for.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// It will not pass.
    Refused {
        /// Why.
        why: String,
    },
}

/// What an answer means: what to remember, or why it failed.
pub type Check = fn(StatusCode, &HeaderMap, &[u8]) -> Result<BTreeMap<String, String>, CallError>;

/// Sends one request.
pub async fn send(
    client: &HttpClient,
    call: Call,
    timeout: Duration,
    lease: Option<Gate>,
    check: Check,
) -> Result<BTreeMap<String, String>, CallError> {
    let mut request = Request::post(call.url, call.content_type, call.body);
    if request.body.is_empty() {
        // There is nothing whose type could be said.
        request.headers.remove(header::CONTENT_TYPE);
    }
    request.method = call.method;
    for (name, value) in call.headers {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| CallError::Refused { why: format!("{name}: the value cannot stand in a header") })?;
        request.headers.insert(HeaderName::from_static(name), value);
    }
    let closed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&closed);
    let gate = lease.map(|lease| {
        Gate::new(move || {
            let open = lease.is_open();
            noted.store(!open, Ordering::Relaxed);
            open
        })
    });
    match client.fetch_gated(request, timeout, ANSWER_BYTES_MAX, gate).await {
        Ok((status, headers, body)) => check(status, &headers, &body),
        Err(_) if closed.load(Ordering::Relaxed) => Err(CallError::Closed),
        Err(ClientError::Settings(why) | ClientError::Auth(why)) => Err(CallError::Retry { after: None, why }),
        // The URL may be a secret; the cause says enough.
        Err(ClientError::Transport { cause, .. }) => Err(CallError::Retry { after: None, why: cause }),
        Err(ClientError::Timeout { .. }) => {
            Err(CallError::Retry { after: None, why: format!("no answer within {timeout:?}") })
        }
        Err(ClientError::Redirect(why)) => Err(CallError::Refused { why }),
    }
}

/// What a status means to most receivers: 2xx is taken, 5xx and 429 may pass, all else will not.
///
/// # Errors
/// As said.
pub fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    if status.is_success() {
        return Ok(BTreeMap::new());
    }
    let why = format!("unexpected status code {}{}", status.as_u16(), told(body));
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(CallError::Retry { after: retry_after(headers), why });
    }
    Err(CallError::Refused { why })
}

/// The beginning of an answer, for people.
pub fn told(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(ANSWER_CHARS_TOLD).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// `Retry-After` in seconds. Dates are left out: clocks differ.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// A secret, or the trimmed content of the file that holds it.
///
/// # Errors
/// When the file cannot be read.
pub async fn secret_of(secret: &Secret, file: &FilePath) -> Result<String, String> {
    if file.is_empty() || !secret.is_empty() {
        return Ok(secret.expose().to_owned());
    }
    let text = tokio::fs::read_to_string(file.as_path()).await;
    text.map(|text| text.trim().to_owned()).map_err(|error| format!("read {}: {error}", file.0))
}

/// A URL from a text that may be a secret: the text stays out of the error.
///
/// # Errors
/// When it is none.
pub fn url_of(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("the URL is empty after templating".to_owned());
    }
    Url::parse(text).map_err(|error| format!("the URL does not parse: {error}"))
}
