//! A registry over a store: what it holds is served as repositories, and what is pushed it holds.
//!
//! [`serve`] runs one until the process is told to end; [`Server`] is for those with a runtime of their own.
//! What a request means is [`service`]'s to say, what the store's entries are as repositories [`view`]'s. The
//! store is shared with every other command while the server runs.
//!
//! Spec: OCI distribution-spec 1.1; docs/formats/registry.md.

mod auth;
mod blobs;
mod body;
mod connection;
pub mod error;
mod htpasswd;
mod log;
mod manifests;
mod options;
mod range;
mod refusal;
mod route;
mod service;
mod tls;
mod token;
mod uploads;
mod view;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use knarr_store::gc::{self, Which};
use knarr_store::{Store, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

pub use auth::Scheme;
pub use error::ServerError;
pub use log::{Access, Sink};
pub use options::{Limits, Options, TlsFiles};

use auth::Gate;
use htpasswd::Passwords;
use service::Service;
use token::Tokens;
use uploads::{Bounds, Uploads};
use view::Shelves;

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    limits: Limits,
    gc_after: Option<Duration>,
}

impl Server {
    /// Opens the store and listens. Nothing is answered before [`Self::run`].
    pub fn bind(options: &Options, sink: Sink) -> Result<Self, ServerError> {
        let gate = gate(options)?;
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let store = Store::open(&options.directory)?;
        let (listener, address) = listen(options)?;
        let limits = options.limits;
        let bounds = Bounds {
            max_sessions: limits.max_uploads,
            session_age: limits.upload_age,
            hold_age: options.gc_after.map_or(limits.hold_age, |age| age.min(limits.hold_age)),
            stall: limits.stall,
        };
        let service = Arc::new(Service {
            uploads: Uploads::new(&store, bounds)?,
            shelves: Shelves::new(store),
            gate,
            read_only: options.read_only,
            is_tls: tls.is_some(),
            stall: limits.stall,
            sink,
        });
        Ok(Self { listener, address, tls, service, limits, gc_after: options.gc_after })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients write it.
    #[must_use]
    pub fn url(&self) -> String {
        let protocol = if self.tls.is_some() { "https" } else { "http" };
        format!("{protocol}://{}", self.address)
    }

    /// Serves until `until` is ready, and then until requests under way have ended.
    pub async fn run(self, until: impl Future<Output = ()>) -> Result<(), ServerError> {
        let listener = tokio::net::TcpListener::from_std(self.listener)
            .map_err(|source| ServerError::Listen { address: self.address.to_string(), source })?;
        let keeper = tokio::spawn(keep_house(Arc::clone(&self.service), self.gc_after));
        connection::run(listener, self.tls, self.service, self.limits, until).await;
        keeper.abort();
        Ok(())
    }
}

/// Serves until SIGINT, SIGTERM or SIGHUP. `ready` is called once it listens.
pub fn serve(options: &Options, sink: Sink, ready: impl FnOnce(&Server)) -> Result<(), ServerError> {
    let system = |doing| move |source| ServerError::System { doing, source };
    let server = Server::bind(options, sink)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(system("start threads"))?;
    let outcome = runtime.block_on(async {
        let watched = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = watched.map(signal).into_iter().collect::<Result<Vec<_>, _>>();
        let mut signals = signals.map_err(system("watch signals"))?;
        ready(&server);
        let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        let ended = futures_util::future::select_all(waiting);
        server.run(async move { drop(ended.await) }).await
    });
    runtime.shutdown_timeout(LAST_GRACE);
    outcome
}

const MAX_BLOCKING_THREADS: usize = 64;
const LAST_GRACE: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_secs(60);

fn gate(options: &Options) -> Result<Gate, ServerError> {
    if options.htpasswd.is_none() && (options.scheme == Scheme::Token || options.anonymous_pull) {
        return Err(ServerError::Options(
            "tokens and anonymous pulls need names and passwords, and no htpasswd file is given".to_owned(),
        ));
    }
    let passwords = options.htpasswd.as_deref().map(Passwords::open).transpose()?.map(Arc::new);
    let tokens = (options.scheme == Scheme::Token).then(|| Tokens::new(options.token_age)).transpose()?;
    Ok(Gate { passwords, tokens, anonymous_pull: options.anonymous_pull })
}

fn listen(options: &Options) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address: options.listen.clone(), source };
    let mut addresses = options.listen.to_socket_addrs().map_err(failed)?;
    let address = addresses.next().ok_or_else(|| failed(std::io::ErrorKind::AddrNotAvailable.into()))?;
    if !address.ip().is_loopback() && options.tls.is_none() && !options.insecure {
        return Err(ServerError::Exposed { address });
    }
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Removes what is too old, again and again.
async fn keep_house(service: Arc<Service>, gc_after: Option<Duration>) {
    let round = gc_after.map_or(ROUND, |age| (age / 2).clamp(Duration::from_millis(100), ROUND));
    let mut is_clean = false;
    loop {
        tokio::time::sleep(round).await;
        let service = Arc::clone(&service);
        let work = tokio::task::spawn_blocking(move || {
            service.uploads.expire();
            collect(&service, gc_after, is_clean)
        });
        match work.await {
            Ok(Ok(now_clean)) => is_clean = now_clean,
            Ok(Err(error)) => tracing::warn!(%error, "garbage was not collected"),
            Err(error) => tracing::warn!(%error, "garbage was not collected"),
        }
    }
}

/// Collects garbage when nothing came in for long enough, once. Answers whether all is clean.
fn collect(service: &Service, gc_after: Option<Duration>, is_clean: bool) -> Result<bool, StoreError> {
    let Some(age) = gc_after else { return Ok(false) };
    if service.uploads.idle().is_none_or(|idle| idle < age) {
        return Ok(false);
    }
    if is_clean {
        return Ok(true);
    }
    // Somebody who brings something in from elsewhere goes first.
    Ok(gc::prune(&service.shelves.store, Which::Unnamed, false)?.is_some())
}

#[cfg(test)]
mod tests;
