//! The routes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, OriginalUri};
use axum::handler::Handler;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, any, get, on};
use axum::{Router, middleware};
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use promesh_ui::Pages;
use regex::Regex;
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::backend::Backend;
use crate::metered::HttpMeter;
use crate::respond::{no_content, text};
use crate::{
    admin, bounds, cors, extras, federate, gateway, lifecycle, listing, metered, operate, otlp, pages, query,
    remote_read, remote_write, rules, search, status, targets, v2,
};

/// What flags say about the API.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Prefix of all routes: `/`, or `/x` without a slash at its end.
    pub route_prefix: String,
    /// The path of the external URL: where redirects between pages lead.
    pub external_path: String,
    /// The title of the pages.
    pub page_title: String,
    /// Origins that CORS admits; anchored.
    pub cors_origin: Regex,
    /// POST /-/reload and /-/quit.
    pub enable_lifecycle: bool,
    /// Whether the peer stands for an Alertmanager, and answers as one where the two differ.
    pub alerting_only: bool,
    /// `GET`s at once; 0 for no limit.
    pub get_concurrency: usize,
    /// How long a request may take until its answer begins; zero for no limit.
    pub timeout: Duration,
    /// The same, as Go prints it.
    pub timeout_shown: String,
    /// `/api/v1/admin`.
    pub enable_admin_api: bool,
    /// `/api/v1/write`.
    pub enable_remote_write_receiver: bool,
    /// `/api/v1/otlp/v1/metrics`.
    pub enable_otlp_receiver: bool,
    /// The most samples of one remote read; none for no limit.
    pub read_samples_max: Option<u64>,
    /// Remote reads at once; none for no limit.
    pub read_concurrency: Option<usize>,
    /// Bytes of a frame of a streamed remote read, about.
    pub read_frame_bytes_max: usize,
    /// `/api/v1/search`.
    pub enable_search: bool,
    /// The most results of a search.
    pub search_limit_max: usize,
    /// Which messages remote write accepts, by their protobuf names.
    pub remote_write_messages: Vec<String>,
    /// Who may listen to notifications at once.
    pub notifications_subscribers_max: usize,
    /// Queries at once; at least one.
    pub query_concurrency: usize,
    /// Longest run of a query, waiting for its turn included.
    pub query_timeout: Duration,
}

impl Default for ApiOptions {
    fn default() -> Self {
        ApiOptions {
            route_prefix: "/".to_owned(),
            external_path: "/".to_owned(),
            page_title: "promesh".to_owned(),
            cors_origin: Regex::new("^(?s:.*)$").expect("a valid expression"),
            enable_lifecycle: false,
            alerting_only: false,
            get_concurrency: 0,
            timeout: Duration::ZERO,
            timeout_shown: String::new(),
            enable_admin_api: false,
            enable_remote_write_receiver: false,
            enable_otlp_receiver: false,
            read_samples_max: Some(50_000_000),
            read_concurrency: Some(10),
            read_frame_bytes_max: 1 << 20,
            enable_search: false,
            search_limit_max: 10_000,
            remote_write_messages: remote_write::MESSAGES.map(str::to_owned).to_vec(),
            notifications_subscribers_max: 16,
            query_concurrency: 20,
            query_timeout: Duration::from_secs(120),
        }
    }
}

/// What every handler has. One count to raise for each of the many that hold it while a request is on its way.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What is behind [`Api`].
pub(crate) struct Shared {
    pub backend: Arc<dyn Backend>,
    pub options: Arc<ApiOptions>,
    pub queries: Arc<Semaphore>,
    /// Places for remote reads.
    pub reads: Arc<Semaphore>,
    /// Places for those who listen to notifications.
    pub listeners: Arc<Semaphore>,
    pub pages: Arc<Pages>,
    pub meter: Arc<HttpMeter>,
    /// Label sets that were pushed before.
    pub pushed: Arc<remote_write::KnownLabels>,
}

/// All routes over a peer.
pub fn router(backend: Arc<dyn Backend>, options: ApiOptions) -> Router {
    let queries = Arc::new(Semaphore::new(options.query_concurrency.max(1)));
    let reads = options.read_concurrency.unwrap_or(Semaphore::MAX_PERMITS).clamp(1, Semaphore::MAX_PERMITS);
    let reads = Arc::new(Semaphore::new(reads));
    let prefix = options.route_prefix.clone();
    let pages = Arc::new(Pages::new(&options.page_title, &options.external_path));
    let listeners = Arc::new(Semaphore::new(options.notifications_subscribers_max));
    let (meter, options) = (backend.http_meter(), Arc::new(options));
    let shared = Shared { listeners, backend, options, queries, reads, pages, meter, pushed: Arc::default() };
    let api = Api(Arc::new(shared));
    let counted = middleware::from_fn_with_state(api.clone(), metered::count);
    let routes = ungated(&api).merge(gated(&api)).merge(pages::routes()).layer(counted);
    let mut routes = routes.fallback(not_found).with_state(api.clone());
    if api.options.get_concurrency > 0 || !api.options.timeout.is_zero() {
        routes = routes.layer(middleware::from_fn_with_state(api.clone(), bounds::bound));
    }
    let routes = routes.layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
    if prefix == "/" {
        routes
    } else {
        pages::outside(&prefix).with_state(api).nest(&prefix, routes).fallback(not_found)
    }
}

/// What answers from the first moment on.
fn ungated(api: &Api) -> Router<Api> {
    let cors = middleware::from_fn_with_state(api.clone(), cors::allow_origin);
    let always = Router::new()
        .route("/api/v1/status/walreplay", only_get(status::wal_replay))
        .route("/api/v1/notifications", only_get(extras::notifications))
        .route("/api/v1/notifications/live", only_get(extras::notifications_live))
        // A peer that is not ready yet is when one wants to know how the mesh is.
        .route("/api/v1/cluster", only_get(status::cluster))
        .layer(cors);
    Router::new()
        .route("/-/healthy", only_get(lifecycle::healthy))
        .route("/-/reload", any(lifecycle::reload))
        .route("/-/quit", any(lifecycle::quit))
        .route("/-/cluster/{order}", any(operate::order))
        .route("/metrics", get(status::metrics))
        .route("/debug/pprof/", any(lifecycle::profiles))
        .route("/debug/pprof/{profile}", any(lifecycle::profiles))
        .merge(always)
}

/// What needs a ready peer.
fn gated(api: &Api) -> Router<Api> {
    let gate = middleware::from_fn_with_state(api.clone(), lifecycle::gate);
    let cors = middleware::from_fn_with_state(api.clone(), cors::allow_origin);
    let enveloped = Router::new().nest("/api/v1", reads().merge(admin_routes())).layer(cors.clone());
    // Remote write bounds its bodies itself.
    let push = Router::new()
        .route("/api/v1/write", only_post(remote_write::write))
        .route("/api/v1/read", only_post(remote_read::read))
        .route("/api/v1/otlp/v1/metrics", only_post(otlp::metrics))
        .layer(DefaultBodyLimit::disable());
    let alerts = match api.backend.pager() {
        Some(pager) => Router::new().nest("/api/v2", v2::router(pager)).layer(cors.clone()),
        None => Router::new(),
    };
    let pushes = api.backend.gateway().map_or_else(Router::new, gateway::routes);
    let federation = get(federate::federate).head(method_not_allowed).options(allowed_get).fallback(method_not_allowed);
    Router::new()
        .merge(pushes)
        .route("/-/ready", get(lifecycle::ready).options(options).fallback(method_not_allowed))
        .route("/federate", federation)
        .route("/version", only_get(status::version))
        .merge(enveloped)
        .merge(alerts)
        .merge(push)
        .layer(gate)
}

fn reads() -> Router<Api> {
    Router::new()
        .route("/query", get_or_post(query::instant))
        .route("/query_range", get_or_post(query::range))
        .route("/query_exemplars", get_or_post(listing::exemplars))
        .route("/format_query", get_or_post(query::format))
        .route("/parse_query", get_or_post(query::parse))
        .route("/series", get_or_post(listing::series).delete(admin::drop_series))
        .route("/labels", get_or_post(listing::label_names))
        .route("/label/{name}/values", only_get(listing::label_values))
        .route("/search/metric_names", get_or_post(search::metric_names))
        .route("/search/label_names", get_or_post(search::label_names))
        .route("/search/label_values", get_or_post(search::label_values))
        .route("/targets", only_get(targets::targets))
        .route("/targets/relabel_steps", only_get(targets::relabel_steps))
        .route("/targets/metadata", only_get(targets::target_metadata))
        .route("/scrape_pools", only_get(targets::scrape_pools))
        .route("/metadata", only_get(targets::metadata))
        .route("/alertmanagers", only_get(targets::alertmanagers))
        .route("/rules", only_get(rules::rules))
        .route("/alerts", only_get(rules::alerts))
        .route("/status/config", only_get(status::config))
        .route("/status/flags", only_get(status::flags))
        .route("/status/buildinfo", only_get(status::build_info))
        .route("/status/runtimeinfo", only_get(status::runtime_info))
        .route("/status/tsdb", only_get(status::tsdb))
        .route("/status/tsdb/blocks", only_get(extras::blocks))
        .route("/status/self_metrics", only_get(extras::self_metrics))
        .route("/features", only_get(extras::features))
        .route("/scrape_pools/config", only_get(extras::scrape_pool_config))
}

fn admin_routes() -> Router<Api> {
    Router::new()
        .route("/admin/tsdb/delete_series", post_or_put(admin::delete_series))
        .route("/admin/tsdb/clean_tombstones", post_or_put(admin::clean_tombstones))
        .route("/admin/tsdb/snapshot", post_or_put(admin::snapshot))
}

fn methods<T: 'static>(filter: MethodFilter, handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    // A handler of GET would answer HEAD too.
    on(filter, handler).head(method_not_allowed).options(options).fallback(method_not_allowed)
}

pub(crate) fn only_get<T: 'static>(handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    methods(MethodFilter::GET, handler)
}

fn only_post<T: 'static>(handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    methods(MethodFilter::POST, handler)
}

fn get_or_post<T: 'static>(handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    methods(MethodFilter::GET.or(MethodFilter::POST), handler)
}

fn post_or_put<T: 'static>(handler: impl Handler<T, Api>) -> MethodRouter<Api> {
    methods(MethodFilter::POST.or(MethodFilter::PUT), handler)
}

async fn options() -> Response {
    no_content()
}

/// What Prometheus' router says of itself where nothing else answers OPTIONS.
async fn allowed_get() -> Response {
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, OPTIONS"));
    response
}

async fn method_not_allowed() -> Response {
    text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

/// What is said of paths that are none.
pub(crate) const NOT_FOUND: &str = "404 page not found";

/// Paths with `//`, `/./` or `/../` are sent to what they mean, as Go's router does; CORS asks for any path of the API.
pub(crate) async fn not_found(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let clean = cleaned(uri.path());
    if clean != uri.path() {
        let place = uri.query().map_or_else(|| clean.clone(), |query| format!("{clean}?{query}"));
        let Ok(location) = HeaderValue::from_str(&place) else { return text(StatusCode::NOT_FOUND, NOT_FOUND) };
        let body = match method {
            Method::GET => format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escaped(&place)),
            _ => String::new(),
        };
        let mut response = (StatusCode::MOVED_PERMANENTLY, body).into_response();
        response.headers_mut().insert(LOCATION, location);
        if method == Method::GET || method == Method::HEAD {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        } else {
            response.headers_mut().remove(CONTENT_TYPE);
        }
        return response;
    }
    if method == Method::OPTIONS && uri.path().contains("/api/v1/") {
        return no_content();
    }
    text(StatusCode::NOT_FOUND, NOT_FOUND)
}

/// A path without empty steps, and without steps that stay or go back.
///
/// Source: Go `net/http` `cleanPath`, `path.Clean`.
fn cleaned(path: &str) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let slash = if path.ends_with('/') && !steps.is_empty() { "/" } else { "" };
    format!("/{}{slash}", steps.join("/"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_gos_router_does() {
        for (path, expected) in [
            ("/api/v1/query", "/api/v1/query"),
            ("/api/v1//query", "/api/v1/query"),
            ("//api/v1/query/", "/api/v1/query/"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("/", "/"),
            ("", "/"),
        ] {
            assert_eq!(cleaned(path), expected, "{path}");
        }
    }
}
