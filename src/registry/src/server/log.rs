//! The access log: one record for each request.
//!
//! [`Access`] is the record; what becomes of it is for whoever runs the server to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub peer: SocketAddr,
    /// The name that was given with a good password or token.
    pub user: Option<String>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the request's body that were read.
    pub received_bytes: u64,
    /// Bytes of the answer's body that were sent.
    pub sent_bytes: u64,
    /// From the request's head to the answer's last byte.
    pub duration: Duration,
    /// Trouble of the server's own.
    pub trouble: Option<String>,
}

/// Where records go.
pub type Sink = Arc<dyn Fn(&Access) + Send + Sync>;

/// A record that writes itself when it is dropped, which is when the answer's body is gone.
pub(crate) struct Line {
    pub access: Access,
    pub started: Instant,
    pub sink: Sink,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.access.duration = self.started.elapsed();
        (self.sink)(&self.access);
    }
}
