//! The pages that people look at, embedded in the binary.
//!
//! One page of HTML stands for all of them: what it shows is decided in the browser, by the address it was asked at. It
//! asks the API of the same peer and nobody else. All its addresses are relative and every page lies one level below the
//! route prefix, so that it works under any prefix and behind proxies that strip one.
//!
//! Sources lie in `web/`, what is embedded in `dist/`: `npm ci && npm run build` in `web/` makes the second from the
//! first. Both are committed, so `cargo build` needs no npm; a test compares them.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

/// Names and bytes of everything under `assets/`. A name carries a hash of the bytes: it never means others.
static ASSETS: &[(&str, &[u8])] = include!("dist/assets.rs");

const PAGE: &str = include_str!("dist/index.html");

/// Where pages are, below the route prefix. `/` and `/graph` lead to the first.
pub const PATHS: [&str; 12] = [
    "/query",
    "/alerts",
    "/rules",
    "/targets",
    "/service-discovery",
    "/alertmanager",
    "/alertmanager-discovery",
    "/cluster",
    "/status",
    "/config",
    "/flags",
    "/tsdb-status",
];

/// What `/consoles/…` says.
pub const NO_CONSOLES: &str = "404 page not found: promesh renders no console templates (--web.console.templates)";

/// Scripts and styles of this origin only, nothing inline; nobody else may frame a page that can end silences.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// The pages of a peer.
#[derive(Clone, Debug)]
pub struct Pages {
    page: Bytes,
    tag: String,
    /// The path of the external URL, without a slash at its end.
    path: String,
}

impl Pages {
    /// Pages under a title (`--web.page-title`), reached from outside at `external_path` (`/`, or `/x`).
    pub fn new(title: &str, external_path: &str) -> Pages {
        let page = PAGE.replace("{{title}}", &escaped(title));
        let tag = tag_of(page.as_bytes());
        Pages { page: page.into(), tag, path: external_path.trim_end_matches('/').to_owned() }
    }

    /// Any of the pages: the browser knows which.
    pub fn page(&self, asked: &HeaderMap) -> Response<Bytes> {
        let mut response = tagged(asked, &self.tag, "text/html; charset=utf-8", self.page.clone());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        // Addresses hold queries; a runbook's host need not know them.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    /// A file under `assets/`, if there is one of that name.
    pub fn asset(name: &str, asked: &HeaderMap) -> Option<Response<Bytes>> {
        let (name, bytes) = ASSETS.iter().find(|(candidate, _)| *candidate == name)?;
        let mut response = tagged(asked, &tag_of(name.as_bytes()), content_type(name), Bytes::from_static(bytes));
        let for_ever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(CACHE_CONTROL, for_ever);
        Some(response)
    }

    /// To the query page, for `/` and `/graph`. `query` is kept: links into Prometheus' old page mean the same here.
    pub fn to_query(&self, query: Option<&str>) -> Response<Bytes> {
        self.redirect(StatusCode::FOUND, "/query", query)
    }

    /// To a page that was asked for with a slash at its end.
    pub fn without_slash(&self, path: &str, query: Option<&str>) -> Response<Bytes> {
        self.redirect(StatusCode::MOVED_PERMANENTLY, path.trim_end_matches('/'), query)
    }

    fn redirect(&self, status: StatusCode, path: &str, query: Option<&str>) -> Response<Bytes> {
        let separator = if query.is_some() { "?" } else { "" };
        let place = format!("{}{path}{separator}{}", self.path, query.unwrap_or_default());
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        // Path and query of a request are ASCII without control characters, and so is a URL's path.
        if let Ok(place) = HeaderValue::try_from(place) {
            response.headers_mut().insert(LOCATION, place);
        }
        response
    }
}

/// The bytes, or that they have not changed.
fn tagged(asked: &HeaderMap, tag: &str, content_type: &'static str, bytes: Bytes) -> Response<Bytes> {
    let has = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|one| one.trim() == tag || one.trim() == "*"))
    };
    let unchanged = asked.get_all(IF_NONE_MATCH).iter().any(has);
    let mut response = Response::new(if unchanged { Bytes::new() } else { bytes });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("a tag is hexadecimal between quotes"));
    response
}

/// Weak, since the same bytes may travel compressed.
fn tag_of(bytes: &[u8]) -> String {
    format!("W/\"{:016x}\"", xxh3_64(bytes))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Text as it may stand between tags and in a quoted attribute.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}
