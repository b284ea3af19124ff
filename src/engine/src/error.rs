//! What can go wrong, as facts for whoever asked.

use std::io;
use std::path::PathBuf;

/// What kind of failure it is: `api` makes a status of it, `cli` an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 304: it is so already.
    NotModified,
    /// 400: the request cannot be right.
    Invalid,
    /// 401: credentials are missing or wrong.
    Unauthorized,
    /// 403: not to be done to this object.
    Forbidden,
    /// 404: there is no such object.
    NotFound,
    /// 409: the object's state does not allow it.
    Conflict,
    /// 501: not here.
    Unsupported,
    /// 500: something outside failed.
    Failed,
}

/// A failure. Messages are docker's where its users and their scripts know one.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A sentence for the user, with its kind.
    #[error("{message}")]
    Said {
        /// Its kind.
        kind: Kind,
        /// The whole message.
        message: String,
    },
    /// A file or directory of ours failed.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] knarr_store::StoreError),
    /// A registry refused.
    #[error(transparent)]
    Registry(#[from] knarr_registry::RegistryError),
    /// A file tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] knarr_tree::TreeError),
    /// A name or document of an image is wrong.
    #[error(transparent)]
    Oci(#[from] knarr_oci::OciError),
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] knarr_runtime::RuntimeError),
    /// A network refused.
    #[error(transparent)]
    Network(#[from] knarr_network::NetworkError),
    /// A system call refused.
    #[error(transparent)]
    Linux(#[from] knarr_linux::LinuxError),
}

impl EngineError {
    /// A message of a kind.
    pub fn said(kind: Kind, message: impl Into<String>) -> Self {
        Self::Said { kind, message: message.into() }
    }

    /// 400 with a message.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::said(Kind::Invalid, message)
    }

    /// 404 with a message.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::said(Kind::NotFound, message)
    }

    /// 409 with a message.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::said(Kind::Conflict, message)
    }

    /// 500 with a message.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::said(Kind::Failed, message)
    }

    /// For `map_err`: a file failed.
    pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Said { kind, .. } => *kind,
            Self::Store(knarr_store::StoreError::NoImage { .. }) => Kind::NotFound,
            Self::Store(knarr_store::StoreError::Request(_)) | Self::Oci(_) => Kind::Invalid,
            Self::Network(error) => of_network(error),
            _ => Kind::Failed,
        }
    }

    /// The message with all its causes, as clients see it.
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}

const fn of_network(error: &knarr_network::NetworkError) -> Kind {
    use knarr_network::NetworkError as N;
    match error {
        N::NotFound { .. } => Kind::NotFound,
        N::Conflict { .. } => Kind::Conflict,
        N::Forbidden { .. } => Kind::Forbidden,
        N::Invalid { .. } => Kind::Invalid,
        N::Unsupported { .. } => Kind::Unsupported,
        N::Kernel { .. } => Kind::Failed,
    }
}
