//! Failures, as clients see them: a status and `{"message": …}`.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use knarr_engine::{EngineError, Kind};
use serde_json::json;

/// What a handler fails with.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

/// What a handler answers.
pub(crate) type Answer = Result<Response, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 501: a sentence that says what is not here.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self { status: status(error.kind()), message: error.message() }
    }
}

/// The status of a kind of failure.
const fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status.is_server_error() {
            tracing::info!(status = self.status.as_u16(), message = self.message, "request failed");
        }
        let body = json!({ "message": self.message }).to_string();
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}
