//! What can go wrong between this machine and a registry.

use std::io;
use std::path::PathBuf;

use knarr_oci::OciError;
use knarr_store::StoreError;

/// A fact that stopped a pull, a push or a login, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// 401 or 403.
    #[error("{what}: the registry refuses it to {who} ({status}{})", told(.reason))]
    Refused {
        /// What was asked for.
        what: String,
        /// As whom.
        who: String,
        /// HTTP status.
        status: u16,
        /// What the registry said.
        reason: String,
    },
    /// 404.
    #[error("{what}: the registry does not have it{}", told(.reason))]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry said.
        reason: String,
    },
    /// 429, or 503 with a time to come back.
    #[error("{what}: the registry asks for fewer requests ({status}{}{})", told(.reason), wait(.seconds))]
    Busy {
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the registry said.
        reason: String,
        /// When to come back.
        seconds: Option<u64>,
    },
    /// Another status than the protocol has there.
    #[error("{what}: the registry answered {status}{}", told(.reason))]
    Status {
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the registry said.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("{what}: {reason}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// An answer that is too large.
    #[error("{what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// Bytes that are not those promised.
    #[error("{what} is {found}, promised was {promised}")]
    WrongBytes {
        /// What was asked for.
        what: String,
        /// Digest and size that were promised.
        promised: String,
        /// What came.
        found: String,
    },
    /// Nothing came, or nothing was taken.
    #[error("{what}: nothing moved for {seconds} seconds")]
    Stalled {
        /// What was asked for.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// No connection, or it broke.
    #[error("{what}: {reason}")]
    Connection {
        /// What was asked for.
        what: String,
        /// What the network said.
        reason: String,
    },
    /// An index of which this machine has a part only.
    #[error(
        "{name} is here for some of its machines only: {missing} is missing, and {registry} does not have it"
    )]
    Incomplete {
        /// The image.
        name: String,
        /// A manifest that is not here.
        missing: String,
        /// Where it should go.
        registry: String,
    },
    /// Something that cannot be done.
    #[error("{0}")]
    Request(String),
    /// A file that cannot be used.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the user's that says nothing useful.
    #[error("{path}: {reason}")]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A credential helper that failed.
    #[error("docker-credential-{helper} {verb} failed: {reason}")]
    Helper {
        /// Which one.
        helper: String,
        /// What it was asked for.
        verb: &'static str,
        /// What it said.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name or document.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl RegistryError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            Self::Busy { .. } | Self::Stalled { .. } | Self::Connection { .. } => true,
            _ => false,
        }
    }

    /// Whether another registry may have what this one does not give.
    #[must_use]
    pub const fn is_of_the_registry(&self) -> bool {
        !matches!(self, Self::Store(_) | Self::Interrupted | Self::File { .. } | Self::BadFile { .. })
    }
}

fn told(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn wait(seconds: &Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(", again in {seconds} seconds"))
}
