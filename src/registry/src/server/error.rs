//! Why a server does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use knarr_store::StoreError;

/// A fact that keeps a server from starting, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was asked for.
        address: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An address that others reach, without TLS.
    #[error("{address} can be reached from other machines, and there is no TLS")]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("{path} cannot be used for TLS: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A password file that cannot be used.
    #[error("{path}, line {line}: {reason}")]
    Htpasswd {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// The machine refused threads or randomness.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
