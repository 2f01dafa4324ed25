//! `/admin/tsdb/…`, behind `--web.enable-admin-api`.

use axum::extract::State;
use axum::response::Response;
use promesh_model::Timestamp;
use promesh_promql::parser;
use serde_json::json;

use crate::error::{ApiError, ErrorType};
use crate::form::{Form, parse_bool};
use crate::respond::{no_content, success};
use crate::router::Api;

fn check_enabled(api: &Api) -> Result<(), ApiError> {
    if api.options.enable_admin_api {
        Ok(())
    } else {
        Err(ApiError::new(ErrorType::Unavailable, "admin APIs disabled"))
    }
}

pub(crate) async fn delete_series(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    check_enabled(&api)?;
    form.check()?;
    if form.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let (start, end) = (form.time_or("start", Timestamp::MIN)?, form.time_or("end", Timestamp::MAX)?);
    // All are read before anything is deleted.
    let sets: Result<Vec<_>, _> = form.all("match[]").map(parser::parse_selector).collect();
    for matchers in sets.map_err(|error| ApiError::parameter("match[]", error))? {
        api.backend.delete_series(matchers, start, end).await?;
    }
    Ok(no_content())
}

pub(crate) async fn clean_tombstones(State(api): State<Api>) -> Result<Response, ApiError> {
    check_enabled(&api)?;
    api.backend.clean_tombstones().await?;
    Ok(no_content())
}

pub(crate) async fn snapshot(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    check_enabled(&api)?;
    let skip_head = match form.get("skip_head") {
        "" => false,
        text => parse_bool(text)
            .map_err(|error| ApiError::parameter("skip_head", format!("unable to parse boolean: {error}")))?,
    };
    Ok(success(&json!({"name": api.backend.snapshot(skip_head).await?})))
}

/// `DELETE /api/v1/series` of Prometheus 2 and later: its answer, status and words (`tests/table.txt` has it recorded). What
/// deletes series is `POST /api/v1/admin/tsdb/delete_series`.
pub(crate) async fn drop_series() -> ApiError {
    ApiError::new(ErrorType::Internal, "not implemented")
}
