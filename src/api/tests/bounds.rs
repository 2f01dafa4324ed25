//! Alertmanager's bounds on requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{ApiOptions, Fixture, get, options};
use crate::router;

fn slow(own: ApiOptions) -> axum::Router {
    router(Arc::new(Fixture { storage_delay: Duration::from_millis(300), ..Fixture::default() }), own)
}

#[tokio::test]
async fn one_get_too_many_is_refused_and_the_place_is_free_again_later() {
    let router = slow(ApiOptions { get_concurrency: 1, ..options() });
    let (first, second) = tokio::join!(get(&router, "/api/v1/query?query=up"), get(&router, "/-/healthy"));
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.text(), "Limit of concurrent GET requests reached (1), try again later.\n\n");
    assert_eq!(get(&router, "/-/healthy").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_takes_too_long_is_ended() {
    let timeout = Duration::from_millis(20);
    let router = slow(ApiOptions { timeout, timeout_shown: "20ms".to_owned(), ..options() });
    let late = get(&router, "/api/v1/query?query=up").await;
    assert_eq!(
        (late.status, late.text()),
        (StatusCode::SERVICE_UNAVAILABLE, "Exceeded configured timeout of 20ms.\n".to_owned())
    );
    assert_eq!(get(&router, "/-/healthy").await.status, StatusCode::OK);
}
