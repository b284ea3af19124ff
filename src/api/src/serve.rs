//! Listening: unix sockets, TCP with TLS, sockets that systemd opened.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use knarr_engine::Engine;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// A unix socket, with mode 0660 and a group when one is named.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Who else may use it.
        group: Option<String>,
    },
    /// TCP; without TLS only on the loopback.
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// `None`: everybody who reaches it may do everything.
        tls: Option<Tls>,
    },
    /// A socket that is open already.
    Fd(OwnedFd),
}

/// Both sides show certificates.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who signs clients' certificates.
    pub ca: PathBuf,
    /// Ours.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Serves the API until `stop` comes, then lets requests end for a moment. `idle` is told with each request, so that
/// a daemon that started by itself knows when nobody needs it.
pub async fn serve(
    engine: Engine,
    listen: Vec<Listen>,
    stop: tokio::sync::watch::Receiver<bool>,
    active: std::sync::Arc<std::sync::atomic::AtomicUsize>,
) -> std::io::Result<()> {
    let _ = (engine, listen, stop, active);
    todo!()
}
