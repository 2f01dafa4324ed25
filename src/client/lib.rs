//! The HTTP client that scraping, discovery, delivery and remote write share: pools, TLS, authentication, proxies,
//! redirects, limits.
//!
//! One [`HttpClient`] is one way of speaking: everything with the same settings shares its pool of connections.
//! Deadlines are the caller's, bodies are read under a cap, credentials never follow a redirect to another host and
//! appear in no error.

mod auth;
pub mod aws;
mod body;
mod connect;
mod gate;
mod gunzip;
mod oauth2;
mod proxy;
mod redirect;
mod signer;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use promesh_config::http::{Header, HttpClientConfig};
use promesh_trace::Kind;
use url::Url;

use auth::Auth;
use connect::Connector;

pub use body::{BodyError, LineReader, read_body};
pub use gate::Gate;
use gate::GatedBody;
pub use signer::Signer;
pub use tls::{Inside, Tls};

/// What a request is asked with.
pub const USER_AGENT: &str = concat!("promesh/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer. No variant's text holds credentials.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings cannot be used: a certificate that does not parse, a file that is not there.
    #[error("{0}")]
    Settings(String),
    /// The request could not be made or the answer broke off.
    #[error("{method} \"{url}\": {cause}")]
    Transport {
        /// As Go writes it: `Get`.
        method: String,
        /// Without password.
        url: String,
        /// What happened, cause by cause.
        cause: String,
    },
    /// The deadline passed.
    #[error("{method} \"{url}\": context deadline exceeded")]
    Timeout {
        /// As Go writes it: `Get`.
        method: String,
        /// Without password.
        url: String,
    },
    /// No token, no password file.
    #[error("authentication: {0}")]
    Auth(String),
    /// More than ten redirects, or one to something that is no URL.
    #[error("redirect: {0}")]
    Redirect(String),
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST` …
    pub method: Method,
    /// Where. A user and password in it become basic authentication, as in Go.
    pub url: Url,
    /// Beside those that the client sets.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
}

impl Request {
    /// A `GET`.
    pub fn get(url: Url) -> Request {
        Request { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A `POST`.
    pub fn post(url: Url, content_type: &'static str, body: impl Into<Bytes>) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Request { method: Method::POST, url, headers, body: body.into() }
    }
}

/// The head of an answer, and its body still to be read.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// Read it with [`read_body`].
    pub body: Incoming,
    /// Who answered, after redirects.
    pub url: Url,
}

/// One way of speaking HTTP, and its connections. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    pool: Client<Connector, GatedBody>,
    auth: Auth,
    headers: Vec<(HeaderName, Header)>,
    follow_redirects: bool,
    content: u128,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpClient({:032x})", self.0.content)
    }
}

/// Longer than any sane scrape interval, so that connections live from scrape to scrape.
const IDLE_MAX: Duration = Duration::from_secs(300);

impl HttpClient {
    /// A client with these settings. Certificate files are read now, and again when a connection is made.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for what cannot be read or is no certificate, key or header.
    pub fn new(config: &HttpClientConfig) -> Result<HttpClient, ClientError> {
        HttpClient::through(config, Connector::new(config, None)?)
    }

    /// As [`HttpClient::new`], with new connections spread over all addresses of a host in turn.
    ///
    /// # Errors
    /// As [`HttpClient::new`].
    pub fn spread(config: &HttpClientConfig) -> Result<HttpClient, ClientError> {
        HttpClient::through(config, Connector::new(config, None)?.spread())
    }

    /// A client all of whose requests go to a Unix socket, in plain HTTP.
    ///
    /// # Errors
    /// As [`HttpClient::new`].
    pub fn over_socket(config: &HttpClientConfig, path: PathBuf) -> Result<HttpClient, ClientError> {
        HttpClient::through(config, Connector::new(config, Some(path))?)
    }

    fn through(config: &HttpClientConfig, connector: Connector) -> Result<HttpClient, ClientError> {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_MAX).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let mut headers = Vec::new();
        for (name, header) in &config.http_headers {
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| ClientError::Settings(format!("http_headers: {name:?} is not a header name")))?;
            headers.push((parsed, header.clone()));
        }
        Ok(HttpClient(Arc::new(Inner {
            pool: builder.build(connector),
            auth: Auth::new(config)?,
            headers,
            follow_redirects: config.follow_redirects,
            content: promesh_config::prometheus::content_digest(config),
        })))
    }

    /// Sends a request, following redirects if the settings say so, and returns the head of the answer.
    ///
    /// # Errors
    /// As [`ClientError`] says. A status of 400 or 500 is an answer, not an error.
    pub async fn send(&self, request: Request, timeout: Duration) -> Result<Response, ClientError> {
        let (method, url) = (go_method(&request.method), redacted(&request.url));
        match tokio::time::timeout(timeout, self.follow(request, None)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { method, url }),
        }
    }

    /// Sends a request and reads the whole answer, undone of gzip.
    ///
    /// # Errors
    /// As [`HttpClient::send`], and when the body is longer than `bytes_max` or breaks off.
    pub async fn fetch(
        &self,
        request: Request,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), ClientError> {
        self.fetch_gated(request, timeout, bytes_max, None).await
    }

    /// As [`HttpClient::fetch`], but once the connection is made, and its TLS, the gate is asked: if it is closed, no
    /// request goes out and the answer is an error.
    ///
    /// # Errors
    /// As [`HttpClient::fetch`].
    pub async fn fetch_gated(
        &self,
        request: Request,
        timeout: Duration,
        bytes_max: usize,
        gate: Option<Gate>,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), ClientError> {
        let (method, url) = (go_method(&request.method), redacted(&request.url));
        let transport = |cause: String| ClientError::Transport { method: method.clone(), url: url.clone(), cause };
        let whole = async {
            let response = self.follow(request, gate).await?;
            let mut body = Vec::new();
            read_body(response.body, &response.headers, bytes_max, &mut body)
                .await
                .map_err(|error| transport(error.to_string()))?;
            Ok((response.status, response.headers, body))
        };
        match tokio::time::timeout(timeout, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { method: method.clone(), url: url.clone() }),
        }
    }

    async fn follow(&self, mut request: Request, gate: Option<Gate>) -> Result<Response, ClientError> {
        let origin = request.url.clone();
        for _ in 0..=redirect::REDIRECTS_MAX {
            let trusted = redirect::same_host(&origin, &request.url);
            let response = self.once(&request, trusted, gate.clone()).await?;
            if !self.0.follow_redirects {
                return Ok(response);
            }
            match redirect::next(&request, &response)? {
                Some(next) => request = next,
                None => return Ok(response),
            }
        }
        Err(ClientError::Redirect(format!("stopped after {} redirects", redirect::REDIRECTS_MAX)))
    }

    /// `trusted`: whether credentials and configured headers may go there.
    async fn once(&self, request: &Request, trusted: bool, gate: Option<Gate>) -> Result<Response, ClientError> {
        let mut headers = request.headers.clone();
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        if trusted {
            self.add_headers(&mut headers)?;
            if let Some(value) = self.0.auth.header(&request.url).await? {
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        let transport = |cause: String| ClientError::Transport {
            method: go_method(&request.method),
            url: redacted(&request.url),
            cause,
        };
        let mut url = request.url.clone();
        // Credentials travel in the header only.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let uri: http::Uri = url.as_str().parse().map_err(|_| transport("unsupported URL".to_owned()))?;
        let mut built = http::Request::new(GatedBody::new(request.body.clone(), gate));
        *built.method_mut() = request.method.clone();
        *built.uri_mut() = uri;
        *built.headers_mut() = headers;
        // Where it goes, but not the path: a webhook's is a secret.
        let span = promesh_trace::below(Kind::Client, format!("HTTP {}", request.method), || {
            let host = request.url.host_str().unwrap_or_default().to_owned();
            vec![("http.request.method", request.method.to_string()), ("server.address", host)]
        });
        span.name_in(built.headers_mut());
        let answer = self.0.pool.request(built).await.map_err(|error| {
            let mut why = causes(&error);
            // Only that the connection went away: why, the connection knows.
            if let Some(cause) = connect::Broken::of(&error).filter(|cause| !why.contains(cause)) {
                why = format!("{why}: {cause}");
            }
            span.fail(&why);
            transport(why)
        })?;
        let (head, body) = answer.into_parts();
        span.fact("http.response.status_code", i64::from(head.status.as_u16()));
        Ok(Response { status: head.status, headers: head.headers, body, url: request.url.clone() })
    }

    fn add_headers(&self, headers: &mut HeaderMap) -> Result<(), ClientError> {
        for (name, header) in &self.0.headers {
            let mut add = |value: &str| {
                let value = HeaderValue::from_str(value).map_err(|_| {
                    ClientError::Settings(format!("http_headers: {name} has a value that cannot be sent"))
                })?;
                headers.append(name, value);
                Ok::<(), ClientError>(())
            };
            for value in &header.values {
                add(value)?;
            }
            for secret in &header.secrets {
                add(secret.expose())?;
            }
            for file in &header.files {
                add(&auth::read_trimmed(file.as_path())?)?;
            }
        }
        Ok(())
    }
}

/// `GET` → `Get`, as Go's errors begin.
fn go_method(method: &Method) -> String {
    let mut text = method.as_str().to_ascii_lowercase();
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// A URL that may be printed.
pub fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // Fails only for URLs that cannot have a password.
        let _ = shown.set_password(Some("xxxxx"));
    }
    shown.to_string()
}

/// An error and what caused it, outermost first, each said once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    // The outermost only says that this client failed.
    if parts.len() > 1 && parts[0].starts_with("client error") {
        parts.remove(0);
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests;
