//! What can go wrong between a mirror and this machine.

use std::io;
use std::path::PathBuf;

use knarr_base::{Digest, Timestamp};

/// A fact that stopped a fetch, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// A suite that nobody knows.
    #[error("unknown suite {name:?}: known are {} (and their aliases), or a path to a suite file", known.join(", "))]
    UnknownSuite {
        /// What was asked for.
        name: String,
        /// What exists.
        known: Vec<String>,
    },
    /// A suite file that cannot be used.
    #[error("{path}: {reason}")]
    BadSuite {
        /// Which file.
        path: String,
        /// What is wrong, with its line.
        reason: String,
    },
    /// A sources file that cannot be read.
    #[error("cannot read {path}")]
    SourcesFile {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A sources file or line that cannot be used.
    #[error("{place}: {reason}")]
    BadSources {
        /// File and line.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A signature that proves nothing.
    #[error("{url} cannot be trusted")]
    Untrusted {
        /// Of the Release file.
        url: String,
        /// Why.
        #[source]
        source: knarr_pgp::PgpError,
    },
    /// A Release file past its date.
    #[error("{url} was valid until {valid_until}, and now it is {now}")]
    Expired {
        /// Of the Release file.
        url: String,
        /// Its own word.
        valid_until: Timestamp,
        /// This machine's clock.
        now: Timestamp,
    },
    /// A Release file older than one seen before.
    #[error(
        "{url} is of {found}, but one of {seen} was seen before: somebody may be playing back an old state"
    )]
    Rollback {
        /// Of the Release file.
        url: String,
        /// Its date.
        found: Timestamp,
        /// The newest date seen.
        seen: Timestamp,
    },
    /// A Release file from the future.
    #[error("{url} is of {date}, and now it is {now}: this machine's clock may be wrong")]
    FromTheFuture {
        /// Of the Release file.
        url: String,
        /// Its date.
        date: Timestamp,
        /// This machine's clock.
        now: Timestamp,
    },
    /// A Release file older than the user allows.
    #[error("{url} is of {date}: older than the {max_age_days} days that are allowed")]
    TooOld {
        /// Of the Release file.
        url: String,
        /// Its date.
        date: Timestamp,
        /// The bound, in whole days.
        max_age_days: u64,
    },
    /// A Release file of another suite.
    #[error("{url} is of suite {suite:?}, code name {codename:?}: expected {expected:?}")]
    WrongSuite {
        /// Of the Release file.
        url: String,
        /// What it says.
        suite: String,
        /// What it says.
        codename: String,
        /// What was asked for.
        expected: String,
    },
    /// A component that the suite lacks.
    #[error("{url} has no component {component:?}: it has {}", found.join(", "))]
    MissingComponent {
        /// Of the Release file.
        url: String,
        /// What was asked for.
        component: String,
        /// What it has.
        found: Vec<String>,
    },
    /// An architecture that the suite lacks.
    #[error("{url} has no architecture {architecture}: it has {}", found.join(", "))]
    MissingArchitecture {
        /// Of the Release file.
        url: String,
        /// What was asked for.
        architecture: String,
        /// What it has.
        found: Vec<String>,
    },
    /// A Release file that promises no such index.
    #[error("{url} promises no index {name}")]
    MissingIndex {
        /// Of the Release file.
        url: String,
        /// Which index.
        name: String,
    },
    /// A file in a format that is broken.
    #[error("{url} is damaged")]
    Format {
        /// Which file.
        url: String,
        /// What is wrong.
        #[source]
        source: knarr_deb::DebError,
    },
    /// Bytes that are not those promised.
    #[error("{url} is {found}, promised was {promised}")]
    DigestMismatch {
        /// Which file.
        url: String,
        /// By the signed index.
        promised: Digest,
        /// What came.
        found: Digest,
    },
    /// More bytes than promised.
    #[error("{url} is longer than the {limit_bytes} bytes that were promised")]
    TooLarge {
        /// Which file.
        url: String,
        /// The promise.
        limit_bytes: u64,
    },
    /// Fewer bytes than promised.
    #[error("{url} ended after {found_bytes} bytes, promised were {promised_bytes}")]
    Truncated {
        /// Which file.
        url: String,
        /// What came.
        found_bytes: u64,
        /// The promise.
        promised_bytes: u64,
    },
    /// The server's answer was no.
    #[error("{url}: the server answered {status}")]
    Status {
        /// Which file.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The server stopped sending.
    #[error("{url}: nothing came for {seconds} seconds")]
    Stalled {
        /// Which file.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// No connection.
    #[error("cannot fetch {url}: {reason}")]
    Connection {
        /// Which file.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// `--offline`, and it is not in the cache.
    #[error("{url} is not in the cache, and --offline forbids to fetch it")]
    Offline {
        /// Which file.
        url: String,
    },
    /// The cache could not be used.
    #[error("cannot {doing} {path} in the cache")]
    Cache {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A keyring that cannot be used.
    #[error(transparent)]
    Keyring(#[from] knarr_pgp::PgpError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl MirrorError {
    /// Whether trying again, or another mirror, may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 || *status == 408 || *status == 429,
            Self::Stalled { .. } | Self::Connection { .. } | Self::Truncated { .. } => true,
            _ => false,
        }
    }

    /// Whether the bytes that this mirror has are wrong, so that another mirror may help.
    #[must_use]
    pub const fn is_of_the_mirror(&self) -> bool {
        matches!(self, Self::DigestMismatch { .. } | Self::TooLarge { .. } | Self::Format { .. })
    }
}
