//! Where the pages are. They answer before the peer is ready, to say that it is not.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::any;
use http::{HeaderMap, StatusCode, Uri};
use promesh_ui::{NO_CONSOLES, PATHS, Pages};

use crate::respond::text;
use crate::router::{Api, NOT_FOUND, only_get};

/// The pages and what they consist of, below the route prefix.
pub(crate) fn routes() -> Router<Api> {
    let mut routes = Router::new()
        .route("/", only_get(to_query))
        .route("/graph", only_get(to_query))
        .route("/assets/{name}", only_get(asset))
        .route("/consoles", any(no_consoles))
        .route("/consoles/", any(no_consoles))
        .route("/consoles/{*name}", any(no_consoles));
    for path in PATHS {
        routes = routes.route(path, only_get(page)).route(&format!("{path}/"), only_get(without_slash));
    }
    routes
}

/// What stands outside a route prefix: the way in.
pub(crate) fn outside(prefix: &str) -> Router<Api> {
    let inside = format!("{prefix}/");
    let way_in = move || std::future::ready(found(&inside));
    Router::new().route("/", only_get(way_in)).route(&format!("{prefix}/"), only_get(to_query))
}

fn found(place: &str) -> Response {
    let mut response = Redirect::to(place).into_response();
    // As Prometheus says it.
    *response.status_mut() = StatusCode::FOUND;
    response
}

async fn page(State(api): State<Api>, headers: HeaderMap) -> Response {
    api.pages.page(&headers).map(Body::from)
}

async fn to_query(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    api.pages.to_query(query.as_deref()).map(Body::from)
}

async fn without_slash(State(api): State<Api>, uri: Uri) -> Response {
    api.pages.without_slash(uri.path(), uri.query()).map(Body::from)
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match Pages::asset(&name, &headers) {
        Some(response) => response.map(Body::from),
        None => text(StatusCode::NOT_FOUND, NOT_FOUND),
    }
}

async fn no_consoles() -> Response {
    text(StatusCode::NOT_FOUND, NO_CONSOLES)
}
