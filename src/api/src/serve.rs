//! Listening: unix sockets, TCP with TLS, sockets that systemd opened.
//!
//! [`serve`] takes connections until it is told to stop. Each is HTTP/1.1 with upgrades and half-closed connections, as
//! attached clients need them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use knarr_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::drain::{Kept, waits_for_word};
use crate::peer::{self, Peer};
use crate::router::router;
use crate::version;

/// A client has so long to send the head of a request.
pub(crate) const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// When no descriptor is left, others must be closed before one can be opened.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests that run when it is told to stop have so long.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// A unix socket, with mode 0660 and a group when one is named.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Who else may use it.
        group: Option<u32>,
    },
    /// TCP; without TLS only on the loopback.
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// `None`: everybody who reaches it may do everything.
        tls: Option<Tls>,
    },
    /// A unix socket that is open already.
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

/// Serves the API until `stop` is true, then lets requests end for a moment. `active` counts open requests, so that a daemon
/// that started by itself knows when nobody needs it.
///
/// # Errors
/// An address cannot be listened on, or a certificate not be read.
pub async fn serve(
    engine: Engine,
    listen: Vec<Listen>,
    stop: watch::Receiver<bool>,
    active: Arc<AtomicUsize>,
) -> io::Result<()> {
    let service = Service { router: router(engine), active, peer: None };
    let mut doors = Vec::new();
    for one in listen {
        doors.push(Door::open(one).await?);
    }
    let tasks: Vec<_> =
        doors.into_iter().map(|door| tokio::spawn(door.serve(service.clone(), stop.clone()))).collect();
    for task in tasks {
        task.await.map_err(io::Error::other)?;
    }
    let deadline = tokio::time::Instant::now() + FAREWELL;
    while service.active.load(Ordering::SeqCst) > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[derive(Clone)]
struct Service {
    router: Router,
    active: Arc<AtomicUsize>,
    /// Who asks, where that can be told.
    peer: Option<Peer>,
}

/// Counts a request for as long as it lives.
struct Active(Arc<AtomicUsize>);

impl Active {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response, std::convert::Infallible> {
        let silent = waits_for_word(request.headers());
        let (parts, body) = request.into_parts();
        let kept = Kept::new(Body::new(body));
        let mut response = self.route(Request::from_parts(parts, Body::new(kept.clone()))).await;
        let refused = response.status().is_client_error() || response.status().is_server_error();
        if refused && !silent {
            // Meanwhile the answer is on its way.
            tokio::spawn(kept.drain());
        }
        version::mark(&mut response);
        Ok(response)
    }

    async fn route(&self, mut request: Request<Body>) -> Response {
        let (asked, uri) = match version::strip(request.uri()) {
            Ok(found) => found,
            Err(error) => return error.into_response(),
        };
        tracing::debug!(method = %request.method(), path = uri.path(), "request");
        *request.uri_mut() = uri;
        request.extensions_mut().insert(asked);
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        let active = Active::new(&self.active);
        let mut router = self.router.clone();
        let answer = tower_call(&mut router, request).await;
        // The answer's body may go on for long: it is counted until it is dropped.
        let peer = self.peer.clone();
        answer.map(|body| Body::new(Counted { body, _active: active, peer, left: None }))
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| {
            let service = self.clone();
            async move { service.answer(request).await }
        });
        let served = http1::Builder::new()
            .half_close(true)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

async fn tower_call(router: &mut Router, request: Request<Body>) -> Response {
    use hyper::service::Service as _;
    let service = hyper_util::service::TowerToHyperService::new(router.clone());
    match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A body that counts as a request while it lives, and ends when nobody is there to read it.
struct Counted {
    body: Body,
    _active: Active,
    peer: Option<Peer>,
    /// The client's leaving; not waited for before there was nothing to say.
    left: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl hyper::body::Body for Counted {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        let frame = std::pin::Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() {
            let peer = self.peer.clone();
            let left = self.left.get_or_insert_with(|| Box::pin(peer::left(peer)));
            if left.as_mut().poll(context).is_ready() {
                return std::task::Poll::Ready(Some(Err(axum::Error::new("the client has left"))));
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

enum Door {
    Unix(UnixListener, Option<PathBuf>),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl Door {
    async fn open(listen: Listen) -> io::Result<Self> {
        match listen {
            Listen::Unix { path, group } => Ok(Self::Unix(bind(&path, group).await?, Some(path))),
            Listen::Tcp { address, tls } => {
                let acceptor = tls.as_ref().map(acceptor).transpose()?;
                let listener = TcpListener::bind(address)
                    .await
                    .map_err(|error| told(&format!("listen on {address}"), &error))?;
                Ok(Self::Tcp(listener, acceptor))
            }
            Listen::Fd(fd) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?, None))
            }
        }
    }

    async fn serve(self, service: Service, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&service) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "no connection can be taken now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        if let Self::Unix(_, Some(path)) = &self {
            // Whoever comes now is to start another daemon, not to wait for this one.
            let _ = std::fs::remove_file(path);
        }
    }

    async fn accept(&self, service: &Service) -> io::Result<()> {
        match self {
            Self::Unix(listener, _) => {
                let peer = Peer::new(listener.accept().await?.0);
                let service = Service { peer: Some(peer.clone()), ..service.clone() };
                tokio::spawn(service.connection(peer));
            }
            Self::Tcp(listener, None) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(service.clone().connection(stream));
            }
            Self::Tcp(listener, Some(acceptor)) => {
                let (stream, peer) = listener.accept().await?;
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => service.connection(stream).await,
                        Ok(Err(error)) => tracing::info!(%peer, %error, "a client was not let in"),
                        Err(_) => tracing::info!(%peer, "a client did not say who it is"),
                    }
                });
            }
        }
        Ok(())
    }
}

fn told(doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {doing}: {error}"))
}

/// Listens where nobody does: a socket that is left of a daemon that is gone is replaced.
async fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let error = |error: io::Error| told(&format!("listen on {}", path.display()), &error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        let taken = io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there");
        return Err(error(taken));
    }
    match std::fs::remove_file(path) {
        Err(gone) if gone.kind() != io::ErrorKind::NotFound => return Err(error(gone)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(error)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(error)?;
    }
    Ok(listener)
}

fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bad = |path: &Path, why: String| io::Error::other(format!("{}: {why}", path.display()));
    let certificates = |path: &Path| -> io::Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, error.to_string()))?;
        found.collect::<Result<_, _>>().map_err(|error| bad(path, error.to_string()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(|error| bad(&tls.ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| bad(&tls.ca, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| bad(&tls.key, error.to_string()))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(|error| bad(&tls.cert, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
