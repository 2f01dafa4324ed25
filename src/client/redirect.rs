//! Where an answer sends a request next, and what goes along.
//!
//! Source: Go `net/http.Client`; RFC 9110 §15.4.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use url::Url;

use crate::{ClientError, Request, Response};

/// As in Go.
pub(crate) const REDIRECTS_MAX: usize = 10;

/// Whether credentials meant for one URL may go to another: the same scheme, host and port, or TLS gained on the same
/// host.
pub(crate) fn same_host(origin: &Url, other: &Url) -> bool {
    let same_port = origin.port_or_known_default() == other.port_or_known_default();
    let upgraded = origin.scheme() == "http" && other.scheme() == "https";
    origin.host_str() == other.host_str() && ((origin.scheme() == other.scheme() && same_port) || upgraded)
}

/// The next request of a redirect; `None` when the answer is none.
pub(crate) fn next(request: &Request, response: &Response) -> Result<Option<Request>, ClientError> {
    let keeps_method = match response.status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            matches!(request.method, Method::GET | Method::HEAD)
        }
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => return Ok(None),
    };
    let Some(location) = response.headers.get(header::LOCATION) else { return Ok(None) };
    let location = location.to_str().map_err(|_| ClientError::Redirect("location is not a text".to_owned()))?;
    let url = request
        .url
        .join(location)
        .map_err(|error| ClientError::Redirect(format!("location cannot be followed: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ClientError::Redirect(format!("unsupported scheme {:?}", url.scheme())));
    }
    let mut next = request.clone();
    if !keeps_method {
        next.method = Method::GET;
        next.body = Bytes::new();
        next.headers.remove(header::CONTENT_TYPE);
        next.headers.remove(header::CONTENT_ENCODING);
    }
    if !same_host(&request.url, &url) {
        next.headers.remove(header::AUTHORIZATION);
        next.headers.remove(header::COOKIE);
        next.headers.remove(header::WWW_AUTHENTICATE);
    }
    next.url = url;
    Ok(Some(next))
}
