//! Errors as Prometheus' API tells them: a type, a text, a status code.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use promesh_model::storage::StorageError;
use promesh_promql::QueryError;
use serde_json::json;

use crate::backend::BackendError;

/// The `errorType` of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The request is wrong: 400.
    BadData,
    /// The query cannot be evaluated: 422.
    Execution,
    /// The client went away: 499.
    Canceled,
    /// It took too long: 503.
    Timeout,
    /// This peer failed: 500.
    Internal,
    /// Not now, or not here: 503.
    Unavailable,
    /// There is no such thing: 404.
    NotFound,
}

impl ErrorType {
    /// The word in the envelope.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorType::BadData => "bad_data",
            ErrorType::Execution => "execution",
            ErrorType::Canceled => "canceled",
            ErrorType::Timeout => "timeout",
            ErrorType::Internal => "internal",
            ErrorType::Unavailable => "unavailable",
            ErrorType::NotFound => "not_found",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            ErrorType::BadData => StatusCode::BAD_REQUEST,
            ErrorType::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorType::Canceled => StatusCode::from_u16(499).expect("499 is in range"),
            ErrorType::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            // Upstream gives `unavailable` no code of its own.
            ErrorType::Internal | ErrorType::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorType::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", kind.name())]
pub struct ApiError {
    /// What kind.
    pub kind: ErrorType,
    /// What happened.
    pub message: String,
    /// Whether to say when to come back: the peer is overloaded, not broken.
    pub retry: bool,
}

impl ApiError {
    /// An error of a kind.
    pub fn new(kind: ErrorType, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into(), retry: false }
    }

    /// The request is wrong.
    pub fn bad_data(message: impl std::fmt::Display) -> ApiError {
        ApiError::new(ErrorType::BadData, message.to_string())
    }

    /// One parameter is wrong.
    pub fn parameter(name: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::bad_data(format!("invalid parameter \"{name}\": {why}"))
    }

    /// Too much is asked at once.
    pub fn overloaded(message: impl Into<String>) -> ApiError {
        ApiError { kind: ErrorType::Timeout, message: message.into(), retry: true }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let kind = match &error {
            QueryError::Parse(_) | QueryError::BadData(_) => return ApiError::parameter("query", error),
            QueryError::Execution(_) | QueryError::TooManySamples => ErrorType::Execution,
            QueryError::Cancelled => ErrorType::Canceled,
            QueryError::Timeout => ErrorType::Timeout,
            QueryError::Storage(_) => ErrorType::Internal,
        };
        ApiError::new(kind, error.to_string())
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Cancelled => ErrorType::Canceled,
            StorageError::TooManySamples | StorageError::Failed(_) => ErrorType::Execution,
        };
        ApiError::new(kind, error.to_string())
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        let kind = match &error {
            BackendError::Unavailable(_) => ErrorType::Unavailable,
            BackendError::Failed(_) | BackendError::Unbuilt(_) => ErrorType::Internal,
        };
        ApiError::new(kind, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"status": "error", "errorType": self.kind.name(), "error": self.message});
        let mut response = (self.kind.status(), body.to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.retry {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
