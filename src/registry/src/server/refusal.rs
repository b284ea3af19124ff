//! Refusals: what a client is told instead of what it asked for.
//!
//! [`Refusal`] is a fact; [`Refusal::status`] and [`Refusal::code`] say it in the words of the protocol.
//!
//! Spec: OCI distribution-spec 1.1, "Error Codes"; RFC 9110, "Status Codes"; RFC 6750 for challenges.

use http::{HeaderValue, Response, StatusCode, header};
use knarr_base::Digest;
use knarr_store::StoreError;
use serde_json::json;

use super::body::{Content, Reply};

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{name:?} is no name of a repository")]
    NameInvalid { name: String },
    #[error("there is no repository {name}")]
    NameUnknown { name: String },
    #[error("repository {repository} has no blob {digest}")]
    BlobUnknown { repository: String, digest: String },
    #[error("repository {repository} has no manifest {reference}")]
    ManifestUnknown { repository: String, reference: String },
    #[error("the manifest needs {}: not in repository {repository}", list(.missing))]
    ManifestBlobUnknown { repository: String, missing: Vec<Digest> },
    #[error("{reason}")]
    ManifestInvalid { reason: String },
    #[error("manifests may have {limit_bytes} bytes, this one has more")]
    ManifestTooLarge { limit_bytes: u64 },
    #[error("{found:?} is no digest that this registry knows: expected sha256: and 64 lower-case digits")]
    DigestInvalid { found: String },
    #[error("the digest was promised as {promised}, the content has {found}")]
    DigestMismatch { promised: Digest, found: Digest },
    #[error("{reason}")]
    SizeInvalid { reason: String },
    #[error("there is no such upload in repository {repository}")]
    UploadUnknown { repository: String },
    #[error("{reason}")]
    UploadInvalid { reason: String },
    #[error("the next byte of this upload is {expected}, the chunk begins elsewhere")]
    OutOfOrder { location: String, expected: u64 },
    #[error("the blob has {size} bytes, the range lies outside")]
    RangeOutside { size: u64 },
    #[error("{reason}")]
    Unsupported { reason: String },
    #[error("{method} is nothing that can be done here")]
    Method { method: String, allow: &'static str },
    #[error("there is nothing at this address")]
    NoRoute,
    #[error("a name and a password are needed, or a token that allows this")]
    Unauthorized { challenge: String },
    #[error("too much at once: {what}")]
    TooMany { what: &'static str },
    #[error("the client stopped sending")]
    Stalled,
    #[error("the request broke off")]
    BrokenOff,
    #[error("the store refused")]
    Store(#[source] StoreError),
    #[error("a task died")]
    Died,
}

fn list(digests: &[Digest]) -> String {
    digests.iter().take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NameInvalid { .. }
            | Self::ManifestBlobUnknown { .. }
            | Self::ManifestInvalid { .. }
            | Self::DigestInvalid { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeInvalid { .. }
            | Self::UploadInvalid { .. }
            | Self::BrokenOff => StatusCode::BAD_REQUEST,
            Self::NameUnknown { .. }
            | Self::BlobUnknown { .. }
            | Self::ManifestUnknown { .. }
            | Self::UploadUnknown { .. }
            | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::ManifestTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::OutOfOrder { .. } | Self::RangeOutside { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unsupported { .. } | Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::Store(error) if is_full(error) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(_) | Self::Died => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NameInvalid { .. } => "NAME_INVALID",
            Self::NameUnknown { .. } => "NAME_UNKNOWN",
            Self::BlobUnknown { .. } => "BLOB_UNKNOWN",
            Self::ManifestUnknown { .. } => "MANIFEST_UNKNOWN",
            Self::ManifestBlobUnknown { .. } => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid { .. } => "MANIFEST_INVALID",
            Self::DigestInvalid { .. } | Self::DigestMismatch { .. } => "DIGEST_INVALID",
            Self::ManifestTooLarge { .. } | Self::SizeInvalid { .. } => "SIZE_INVALID",
            Self::UploadUnknown { .. } => "BLOB_UPLOAD_UNKNOWN",
            Self::UploadInvalid { .. }
            | Self::OutOfOrder { .. }
            | Self::RangeOutside { .. }
            | Self::Stalled
            | Self::BrokenOff => "BLOB_UPLOAD_INVALID",
            Self::Unsupported { .. } | Self::Method { .. } | Self::NoRoute => "UNSUPPORTED",
            Self::Unauthorized { .. } => "UNAUTHORIZED",
            Self::TooMany { .. } => "TOOMANYREQUESTS",
            // The protocol has no word for a server's own trouble.
            Self::Store(_) | Self::Died => "UNKNOWN",
        }
    }

    /// What the log is told beside the status: trouble of the server's own, with its causes.
    pub(crate) fn trouble(&self) -> Option<String> {
        if !self.status().is_server_error() {
            return None;
        }
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Some(text)
    }

    /// The answer.
    pub(crate) fn reply(&self) -> Reply {
        let mut error = json!({ "code": self.code(), "message": self.to_string() });
        if let Self::ManifestBlobUnknown { missing, .. } = self {
            error["detail"] = json!(missing.iter().take(100).collect::<Vec<_>>());
        }
        let body = json!({ "errors": [error] }).to_string();
        let mut reply = Response::new(Content::from(body));
        *reply.status_mut() = self.status();
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers() {
            // A value that is no header's is the client's own nonsense: it does without.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        reply
    }

    fn headers(&self) -> Vec<(header::HeaderName, String)> {
        match self {
            Self::Unauthorized { challenge } => vec![(header::WWW_AUTHENTICATE, challenge.clone())],
            Self::Method { allow, .. } => vec![(header::ALLOW, (*allow).to_owned())],
            Self::Unsupported { .. } => vec![(header::ALLOW, "GET, HEAD".to_owned())],
            Self::RangeOutside { size } => vec![(header::CONTENT_RANGE, format!("bytes */{size}"))],
            Self::OutOfOrder { location, expected } => vec![
                (header::LOCATION, location.clone()),
                (header::RANGE, format!("0-{}", expected.saturating_sub(1))),
            ],
            Self::TooMany { .. } => vec![(header::RETRY_AFTER, "5".to_owned())],
            _ => Vec::new(),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<tokio::task::JoinError> for Refusal {
    fn from(_: tokio::task::JoinError) -> Self {
        Self::Died
    }
}

fn is_full(error: &StoreError) -> bool {
    let StoreError::File { source, .. } = error else { return false };
    matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
