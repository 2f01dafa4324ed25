//! `/-/cluster/<order>`: what an operator asks of the mesh, or of one peer of it, through any peer.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{Method, StatusCode};

use crate::backend::{BackendError, ClusterOrder};
use crate::form::Form;
use crate::lifecycle::refusal;
use crate::respond::{success_json, text};
use crate::router::Api;

/// Carries out an order; `peer` names whom it concerns, by default the one that was asked.
pub(crate) async fn order(State(api): State<Api>, Path(order): Path<String>, method: Method, form: Form) -> Response {
    if let Some(refusal) = refusal(&api, &method) {
        return refusal;
    }
    let order = match order.as_str() {
        "leave" => ClusterOrder::Leave,
        "drain" => ClusterOrder::Drain,
        "undrain" => ClusterOrder::Undrain,
        "remove" => ClusterOrder::Remove,
        "snapshot" => ClusterOrder::Snapshot,
        "rebalance" => ClusterOrder::Rebalance,
        _ => return (StatusCode::NOT_FOUND, "no such order of the cluster").into_response(),
    };
    match api.backend.operate(order, form.get("peer")).await {
        Ok(done) => success_json(&done),
        Err(error @ BackendError::Unbuilt(_)) => text(StatusCode::NOT_IMPLEMENTED, error.to_string()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
