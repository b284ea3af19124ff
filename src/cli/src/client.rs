//! The engine's other side: requests to a daemon, here or elsewhere.
//!
//! [`Client::open`] finds the daemon, and starts one when nobody answers at the usual place. Each request has a connection of its
//! own; what cannot be done comes back as an [`ApiFailure`].
//!
//! Spec: Docker Engine API; docs/guide/daemon.md.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::settings::Settings;

/// A daemon that was started must answer within this.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// A daemon that started by itself leaves after so many seconds in which nobody needed it.
const IDLE_S: u64 = 60;
/// Answers that are read whole are not larger than this.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The daemon said no.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiFailure {
    /// The status of its answer.
    pub(crate) status: u16,
    /// Its words.
    pub(crate) message: String,
}

#[derive(Clone, Debug)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
    Tls { authority: String, directory: PathBuf },
}

/// Both directions of a connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that a program's streams have.
pub(crate) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// A body that goes.
pub(crate) type Sent = BoxBody<Bytes, io::Error>;

/// A daemon.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// The daemon that `host`, `KNARR_HOST` or `DOCKER_HOST` names, or this machine's own, started when it does not run.
    pub(crate) fn open(host: Option<&str>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = match named_host(host) {
            Some(text) => parse_host(&text)?,
            None => {
                let path = default_socket();
                ensure_daemon(&path)?;
                Address::Unix(path)
            }
        };
        Ok(Self { address, runtime })
    }

    /// Runs asynchronous work.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        match &self.address {
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                Ok(Box::new(stream.with_context(|| {
                    format!("cannot reach the daemon at {}: is it running?", path.display())
                })?))
            }
            Address::Tcp(authority) => Ok(Box::new(tcp(authority).await?)),
            Address::Tls { authority, directory } => {
                let connector = tls(directory)?;
                let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
                let name = rustls::pki_types::ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                let stream = connector.connect(name, tcp(authority).await?).await;
                Ok(Box::new(stream.with_context(|| {
                    format!("the daemon at {authority} does not accept us, or we not it")
                })?))
            }
        }
    }

    /// Sends a request. An answer that is a refusal is an [`ApiFailure`].
    pub(crate) async fn send(&self, request: Request<Sent>) -> anyhow::Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // What went wrong with a connection shows in what it was for.
            let _ = connection.with_upgrades().await;
        });
        let response = sender.send_request(request).await.context("the daemon broke off")?;
        let status = response.status();
        if status.is_success()
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NOT_MODIFIED
        {
            return Ok(response);
        }
        let bytes = read_all(response.into_body()).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|value| value["message"].as_str().map(str::to_owned));
        let message = said.unwrap_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()));
        Err(ApiFailure { status: status.as_u16(), message }.into())
    }

    /// GET, with a JSON document as the answer.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.document(request(Method::GET, path, None)?).await
    }

    /// POST of a document; the answer's, or null when it has none.
    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.document(request(Method::POST, path, body)?).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.document(request(Method::DELETE, path, None)?).await
    }

    async fn document(&self, request: Request<Sent>) -> anyhow::Result<Value> {
        let bytes = read_all(self.send(request).await?.into_body()).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).context("the daemon's answer is no JSON")
    }

    /// A connection to a program's streams.
    pub(crate) async fn upgrade(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Upgraded> {
        let mut request = request(Method::POST, path, body)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, http::HeaderValue::from_static("tcp"));
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("the daemon answers {} instead of giving the connection", response.status());
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    /// A request whose answer is a line of JSON again and again.
    pub(crate) async fn lines(&self, request: Request<Sent>) -> anyhow::Result<Lines> {
        Ok(Lines { body: self.send(request).await?.into_body(), held: Vec::new() })
    }
}

/// Documents that come one a line.
pub(crate) struct Lines {
    body: Incoming,
    held: Vec<u8>,
}

impl Lines {
    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).context("the daemon's answer is no JSON");
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.context("the daemon broke off")?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None if self.held.trim_ascii().is_empty() => return Ok(None),
                None => self.held.push(b'\n'),
            }
            if self.held.len() > MAX_ANSWER_BYTES {
                bail!("the daemon's answer has a line of more than {MAX_ANSWER_BYTES} bytes");
            }
        }
    }
}

/// A request with a document, or without.
pub(crate) fn request(method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Request<Sent>> {
    let builder = Request::builder().method(method).uri(path).header(header::HOST, "knarr");
    Ok(match body {
        Some(value) => {
            builder.header(header::CONTENT_TYPE, "application/json").body(sent(value.to_string().into()))?
        }
        None => builder.body(sent(Bytes::new()))?,
    })
}

/// A request whose body comes from a reader.
pub(crate) fn upload(
    method: Method,
    path: &str,
    reader: impl AsyncRead + Send + Sync + 'static,
) -> anyhow::Result<Request<Sent>> {
    let stream = tokio_util::io::ReaderStream::with_capacity(reader, 64 << 10).map_ok(Frame::data);
    let builder = Request::builder().method(method).uri(path).header(header::HOST, "knarr");
    Ok(builder
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(BodyExt::boxed(StreamBody::new(stream)))?)
}

fn sent(bytes: Bytes) -> Sent {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

async fn read_all(mut body: Incoming) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the daemon broke off")?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            bail!("the daemon's answer is larger than {MAX_ANSWER_BYTES} bytes");
        }
    }
    Ok(bytes)
}

/// A value as it stands in a path or behind a `?`.
pub(crate) fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// `?a=1&b=2`, of what has a value.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let pairs = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
    let text = pairs.collect::<Vec<_>>().join("&");
    if text.is_empty() { text } else { format!("?{text}") }
}

/// Whether the engine that was asked for is another one than this machine's own, whose images lie in this machine's store.
pub(crate) fn elsewhere(flag: Option<&str>) -> Option<String> {
    let own = format!("unix://{}", default_socket().display());
    named_host(flag).filter(|host| *host != own)
}

/// The host that was asked for: by flag, by our variable, by docker's.
pub(crate) fn named_host(flag: Option<&str>) -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    flag.map(str::to_owned).or_else(|| variable("KNARR_HOST")).or_else(|| variable("DOCKER_HOST"))
}

fn parse_host(text: &str) -> anyhow::Result<Address> {
    if let Some(path) = text.strip_prefix("unix://") {
        return Ok(Address::Unix(path.into()));
    }
    if text.starts_with('/') {
        return Ok(Address::Unix(text.into()));
    }
    let Some(authority) = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")) else {
        bail!("host {text:?}: expected unix:///PATH or tcp://HOST:PORT");
    };
    let verify = std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|value| !value.is_empty());
    let directory = std::env::var_os("DOCKER_CERT_PATH").filter(|value| !value.is_empty());
    let port = if verify { 2376 } else { 2375 };
    let authority =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") };
    if !verify {
        return Ok(Address::Tcp(authority));
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    Ok(Address::Tls { authority, directory: directory.map_or_else(home, PathBuf::from) })
}

async fn tcp(authority: &str) -> anyhow::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect(authority).await;
    stream.with_context(|| format!("cannot reach the daemon at {authority}"))
}

fn tls(directory: &Path) -> anyhow::Result<tokio_rustls::TlsConnector> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| directory.join(name);
    let certificates = |name: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let path = file(name);
        let told = || path.display().to_string();
        CertificateDer::pem_file_iter(&path).with_context(told)?.collect::<Result<_, _>>().with_context(told)
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("ca.pem")? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(file("key.pem"))
        .with_context(|| file("key.pem").display().to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("cert.pem")?, key)?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// What ends with the machine.
pub(crate) fn run_dir() -> PathBuf {
    if !knarr_linux::namespace::is_unprivileged() {
        return "/run/knarr".into();
    }
    let own = || format!("/tmp/knarr-{}", nix::unistd::geteuid()).into();
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(own, |dir| PathBuf::from(dir).join("knarr"))
}

/// Where this machine's own daemon listens.
pub(crate) fn default_socket() -> PathBuf {
    run_dir().join("knarr.sock")
}

/// Starts the machine's daemon when nobody answers.
fn ensure_daemon(socket: &Path) -> anyhow::Result<()> {
    if answers(socket) {
        return Ok(());
    }
    // Its words are shown when it does not come up.
    Settings::load()?;
    let directory = socket.parent().context("the socket has no directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let log = directory.join("daemon.log");
    let output = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["daemon", "--idle-timeout", &IDLE_S.to_string()]);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("cannot start the daemon")?;
    let begun = Instant::now();
    while begun.elapsed() < START_PATIENCE {
        if answers(socket) {
            return Ok(());
        }
        // Another one may have been started at the same moment: then this one has left, and that one answers.
        if let Some(status) = child.try_wait()?
            && !status.success()
            && !answers_soon(socket)
        {
            bail!("the daemon does not start: {}", last_words(&log));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the daemon does not answer at {}: {}", socket.display(), last_words(&log))
}

fn answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

fn answers_soon(socket: &Path) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        answers(socket)
    })
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    format!("{last} (see {})", log.display())
}

#[cfg(test)]
mod tests {
    use super::{encode, parse_host, query};

    #[test]
    fn hosts_are_read() {
        assert!(
            matches!(parse_host("unix:///a/b").unwrap(), super::Address::Unix(path) if path == std::path::Path::new("/a/b"))
        );
        assert!(matches!(parse_host("tcp://a").unwrap(), super::Address::Tcp(text) if text == "a:2375"));
        assert!(parse_host("ssh://a").is_err());
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(encode("a b/c"), "a%20b%2Fc");
        assert_eq!(query(&[("a", Some("1".to_owned())), ("b", None)]), "?a=1");
        assert_eq!(query(&[("b", None)]), "");
    }
}
