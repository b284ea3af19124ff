//! What a server is to be.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::Scheme;

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store that it serves.
    pub directory: PathBuf,
    /// Host and port; port 0 lets the system choose.
    pub listen: String,
    /// Certificate and key.
    pub tls: Option<TlsFiles>,
    /// Names and passwords; without them anybody may do all.
    pub htpasswd: Option<PathBuf>,
    /// How names and passwords become rights.
    pub scheme: Scheme,
    /// For how long a token is good.
    pub token_age: Duration,
    /// Whether anybody may pull.
    pub anonymous_pull: bool,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Remove what no tag needs when nothing came in for so long.
    pub gc_after: Option<Duration>,
    /// Whether other machines may come without TLS.
    pub insecure: bool,
    /// Bounds for clients.
    pub limits: Limits,
}

/// The files of TLS, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who must have signed the certificates of clients.
    pub client_ca: Option<PathBuf>,
}

/// Bounds for clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more wait.
    pub max_connections: usize,
    /// Uploads that were begun and not ended; more are refused.
    pub max_uploads: usize,
    /// For so long a client may be silent before a request, and take for its head.
    pub head: Duration,
    /// For so long a client may send nothing of a body, or take nothing of an answer.
    pub stall: Duration,
    /// An upload is gone after this long without a byte.
    pub upload_age: Duration,
    /// A blob that no manifest needs is there for so long.
    pub hold_age: Duration,
    /// How long requests may still run when the server is to end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_uploads: 1000,
            head: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            upload_age: Duration::from_secs(3600),
            hold_age: Duration::from_secs(86_400),
            grace: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// A store on the loopback, open to all who are on this machine.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            listen: "127.0.0.1:5000".to_owned(),
            tls: None,
            htpasswd: None,
            scheme: Scheme::Basic,
            token_age: Duration::from_secs(300),
            anonymous_pull: false,
            read_only: false,
            gc_after: None,
            insecure: false,
            limits: Limits::default(),
        }
    }
}
