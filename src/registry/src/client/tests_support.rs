//! A registry on the loopback that can be broken, and images for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use knarr_base::{Architecture, Digest, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, ImageIndex, Manifest, media_type};

use crate::client::{Client, HostOptions, Options, Progress};
use crate::credentials::Credentials;

/// What the registry does instead of what it should.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status, more header lines, and a body.
    Status(u16, &'static str, &'static str),
    /// Sends so many bytes of the body, and then the end of the connection.
    CutAfter(usize),
    /// Sends so many bytes of the body, and then nothing.
    StallAfter(usize),
    /// Sends other bytes.
    Bytes(Vec<u8>),
    /// Sends all but the last bytes, and says that this is all.
    ShortBy(usize),
    /// Answers to a range with everything.
    IgnoreRange,
    /// Answers to a range with another one.
    WrongRange,
    /// Adds a header line.
    Header(String),
    /// Sends somewhere else.
    Redirect(String),
    /// Keeps so many bytes of what is sent, and ends the connection.
    CutBody(usize),
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub body: Vec<u8>,
}

/// Asks for tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// Without one tokens are for everybody.
    pub password: Option<String>,
    /// Requests that a token is good for.
    pub uses: usize,
    /// `Basic` instead of tokens.
    pub basic: bool,
    /// Where tokens are; without it here.
    pub realm: Option<String>,
    pub issued: usize,
    pub left: usize,
}

#[derive(Default)]
pub(crate) struct State {
    /// By repository and version.
    pub manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// By repository and digest.
    pub blobs: BTreeMap<(String, String), Vec<u8>>,
    pub uploads: BTreeMap<String, Vec<u8>>,
    faults: Vec<(String, usize, Fault)>,
    asked: Vec<Asked>,
    pub guard: Option<Guard>,
    pub lists_referrers: bool,
    pub mounts: bool,
    pub tags: Vec<String>,
    serial: usize,
}

pub(crate) struct Server {
    pub host: String,
    state: Arc<Mutex<State>>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl Server {
    pub(crate) fn new() -> Self {
        Self::serve(None)
    }

    /// One that speaks TLS, and the certificate of who signed its own.
    pub(crate) fn tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Self::serve(Some(Arc::new(config))), made.cert.pem())
    }

    fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = State { lists_referrers: true, mounts: true, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (shared, own) = (Arc::clone(&state), host.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, host, tls) = (Arc::clone(&shared), own.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        let connection = rustls::ServerConnection::new(config).unwrap();
                        let stream = rustls::StreamOwned::new(connection, stream);
                        answer(&mut BufReader::new(Box::new(stream)), &state, &host)
                    }
                    None => answer(&mut BufReader::new(Box::new(stream)), &state, &host),
                });
            }
        });
        Self { host, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Breaks so many requests whose method and path, with a space between, contain `part`.
    pub(crate) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.state().faults.push((part.to_owned(), times, fault));
    }

    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// What was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// How often something was asked for since the last look.
    pub(crate) fn count(&self, part: &str) -> usize {
        let asked = self.state().asked.clone();
        asked.iter().filter(|asked| format!("{} {}", asked.method, asked.path).contains(part)).count()
    }

    pub(crate) fn put(&self, repository: &str, tag: &str, image: &TestImage) {
        let mut state = self.state();
        for blob in &image.blobs {
            state.blobs.insert((repository.to_owned(), Digest::of(blob).to_string()), blob.clone());
        }
        let kind = image.kind.to_owned();
        for version in [tag.to_owned(), image.digest().to_string()] {
            state.manifests.insert((repository.to_owned(), version), (kind.clone(), image.bytes.clone()));
        }
    }

    pub(crate) fn has(&self, repository: &str, bytes: &[u8]) -> bool {
        self.state().blobs.contains_key(&(repository.to_owned(), Digest::of(bytes).to_string()))
    }
}

/// An image as bytes.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl TestImage {
    /// An image of layers that are no tarballs: nobody here looks into them.
    pub(crate) fn new(layers: &[&[u8]]) -> Self {
        Self::of_architecture(Architecture::native(), layers, None)
    }

    pub(crate) fn of_architecture(
        architecture: Architecture,
        layers: &[&[u8]],
        subject: Option<Descriptor>,
    ) -> Self {
        let mut config = ImageConfig::new(architecture, Timestamp(0));
        layers.iter().for_each(|layer| config.push_layer(Digest::of(layer), "test"));
        let config = config.to_bytes();
        let descriptors = layers.iter().map(|layer| Descriptor::of(media_type::LAYER_ZSTD, layer)).collect();
        let mut manifest = Manifest::of_image(Descriptor::of(media_type::CONFIG, &config), descriptors);
        manifest.subject = subject;
        let blobs = layers.iter().map(|layer| layer.to_vec()).chain([config]).collect();
        Self { kind: media_type::MANIFEST, bytes: manifest.to_bytes(), blobs }
    }

    pub(crate) fn index(entries: Vec<Descriptor>) -> Self {
        Self { kind: media_type::INDEX, bytes: ImageIndex::of(entries).to_bytes(), blobs: Vec::new() }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.kind, &self.bytes)
    }
}

/// A client that gives up soon.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        jobs: 3,
        retries: 2,
        stall: Duration::from_millis(400),
        whole_bytes: 1 << 20,
        chunk_bytes: 1 << 20,
        ..Options::new(Credentials::open(&dir.join("docker")))
    }
}

pub(crate) fn client(dir: &Path) -> Client {
    Client::new(options(dir)).unwrap()
}

pub(crate) fn host_options(mirrors: &[&str]) -> HostOptions {
    let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
    HostOptions { mirrors, ..HostOptions::default() }
}

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Told {
    pub bytes: std::sync::atomic::AtomicU64,
    pub expected: std::sync::atomic::AtomicU64,
    pub warnings: Mutex<Vec<String>>,
}

impl Progress for Told {
    fn expect_bytes(&self, bytes: u64) {
        self.expected.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    fn bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    fn note(&self, _: &str) {}

    fn warn(&self, text: &str) {
        self.warnings.lock().unwrap().push(text.to_owned());
    }
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

fn reply(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: headers.into(), body: body.into() }
}

fn answer(reader: &mut BufReader<Box<dyn Wire>>, state: &Mutex<State>, host: &str) -> io::Result<()> {
    let Some((mut asked, length)) = read_head(reader)? else { return Ok(()) };
    let line = format!("{} {}", asked.method, asked.path);
    let fault = {
        let mut state = state.lock().unwrap();
        let found =
            state.faults.iter_mut().find(|(part, times, _)| *times > 0 && line.contains(part.as_str()));
        found.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        })
    };
    if let Some(Fault::CutBody(bytes)) = fault {
        let mut kept = vec![0; bytes.min(length)];
        reader.read_exact(&mut kept)?;
        asked.body = kept;
        let mut state = state.lock().unwrap();
        respond(&mut state, &asked, host);
        state.asked.push(asked);
        return Ok(());
    }
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body)?;
    let mut answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        match fault {
            Some(Fault::Status(status, headers, body)) => reply(status, headers, body),
            Some(Fault::Redirect(ref to)) => reply(307, format!("Location: {to}\r\n"), ""),
            _ => guarded(&mut state, &asked, host),
        }
    };
    match &fault {
        Some(Fault::Bytes(bytes)) => answer.body = bytes.clone(),
        Some(Fault::ShortBy(bytes)) => answer.body.truncate(answer.body.len() - bytes),
        Some(Fault::Header(line)) => answer.headers.push_str(line),
        _ => {}
    }
    if asked.method == "GET" && asked.path.contains("/blobs/sha256") && answer.status == 200 {
        ranged(&mut answer, &asked, fault.as_ref());
    }
    let out = reader.get_mut();
    write!(
        out,
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
        answer.status,
        answer.body.len(),
        answer.headers
    )?;
    let body = if asked.method == "HEAD" { &[][..] } else { &answer.body[..] };
    match fault {
        Some(Fault::CutAfter(bytes)) => out.write_all(&body[..bytes.min(body.len())])?,
        Some(Fault::StallAfter(bytes)) => {
            out.write_all(&body[..bytes.min(body.len())])?;
            out.flush()?;
            std::thread::sleep(Duration::from_secs(20));
        }
        _ => out.write_all(body)?,
    }
    out.flush()
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(Asked, usize)>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut asked = Asked { method: method.to_owned(), path: path.to_owned(), ..Asked::default() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            return Ok(Some((asked, length)));
        }
        let (name, value) = line.trim().split_once(':').unwrap();
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = Some(value),
            "range" => asked.range = Some(value),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
}

fn ranged(answer: &mut Reply, asked: &Asked, fault: Option<&Fault>) {
    let Some(range) = asked.range.as_deref().and_then(|range| range.strip_prefix("bytes=")) else { return };
    if matches!(fault, Some(Fault::IgnoreRange)) {
        return;
    }
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let start = if matches!(fault, Some(Fault::WrongRange)) { start - 1 } else { start };
    let size = answer.body.len();
    if start >= size {
        *answer = reply(416, "", "");
        return;
    }
    let end = end.parse().map_or(size, |end: usize| end + 1).min(size);
    answer.status = 206;
    answer.headers.push_str(&format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1));
    answer.body = answer.body[start..end].to_vec();
}

fn guarded(state: &mut State, asked: &Asked, host: &str) -> Reply {
    let Some(mut guard) = state.guard.clone() else { return respond(state, asked, host) };
    let wanted = guard.password.as_ref().map(|password| {
        let pair = base64::engine::general_purpose::STANDARD.encode(password);
        format!("Basic {pair}")
    });
    if asked.path.starts_with("/token") {
        let sent = String::from_utf8_lossy(&asked.body).into_owned();
        let is_known =
            wanted.is_none() || asked.authorization == wanted || sent.contains("refresh_token=IDENTITY");
        if !is_known {
            return reply(401, "", r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
        }
        guard.issued += 1;
        guard.left = guard.uses;
        let token = format!(r#"{{"token":"T{}","expires_in":3600}}"#, guard.issued);
        state.guard = Some(guard);
        return reply(200, "", token);
    }
    let challenge = match (guard.basic, &guard.realm) {
        (true, _) => "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned(),
        (false, realm) => {
            let realm = realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
            format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"test\"\r\n")
        }
    };
    let token = format!("Bearer T{}", guard.issued);
    let is_good = match guard.basic {
        true => asked.authorization == wanted,
        false => guard.left > 0 && asked.authorization.as_deref() == Some(token.as_str()),
    };
    if !is_good {
        return reply(401, challenge, r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#);
    }
    guard.left = guard.left.saturating_sub(1);
    state.guard = Some(guard);
    respond(state, asked, host)
}

fn respond(state: &mut State, asked: &Asked, host: &str) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    if path.is_empty() {
        return reply(200, "", "{}");
    }
    if path == "_catalog" {
        let names: BTreeSet<&String> = state.manifests.keys().map(|(repository, _)| repository).collect();
        return reply(200, "", serde_json::json!({ "repositories": names }).to_string());
    }
    for (noun, handle) in [
        ("/manifests/", manifests as fn(&mut State, &Asked, &str, &str) -> Reply),
        ("/referrers/", referrers),
        ("/tags/", tags),
    ] {
        if let Some((repository, rest)) = path.split_once(noun) {
            return handle(state, asked, repository, rest);
        }
    }
    match path.split_once("/blobs/") {
        Some((repository, rest)) => match rest.strip_prefix("uploads/") {
            Some(id) => uploads(state, asked, repository, id, &query, host),
            None => match state.blobs.get(&(repository.to_owned(), rest.to_owned())) {
                Some(blob) => reply(200, "", blob.clone()),
                None => reply(404, "", r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no blob"}]}"#),
            },
        },
        None => reply(404, "", ""),
    }
}

fn manifests(state: &mut State, asked: &Asked, repository: &str, version: &str) -> Reply {
    let key = (repository.to_owned(), version.to_owned());
    if asked.method == "PUT" {
        let digest = Digest::of(&asked.body).to_string();
        let kind = knarr_oci::manifest::sniff(&asked.body).unwrap().to_owned();
        let subject = Manifest::parse(&asked.body).ok().and_then(|manifest| manifest.subject);
        for version in [version.to_owned(), digest.clone()] {
            state.manifests.insert((repository.to_owned(), version), (kind.clone(), asked.body.clone()));
        }
        let subject = subject.filter(|_| state.lists_referrers);
        let subject = subject.map_or_else(String::new, |of| format!("OCI-Subject: {}\r\n", of.digest));
        return reply(201, format!("Docker-Content-Digest: {digest}\r\n{subject}"), "");
    }
    match state.manifests.get(&key) {
        Some((kind, bytes)) => {
            let digest = Digest::of(bytes);
            reply(200, format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n"), bytes.clone())
        }
        None => reply(404, "", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag"}]}"#),
    }
}

fn referrers(state: &mut State, _: &Asked, repository: &str, of: &str) -> Reply {
    if !state.lists_referrers {
        return reply(404, "", "404 page not found");
    }
    let mut found = BTreeMap::new();
    for ((own, _), (kind, bytes)) in &state.manifests {
        let subject = Manifest::parse(bytes).ok().and_then(|manifest| manifest.subject);
        if own == repository && subject.is_some_and(|subject| subject.digest.to_string() == of) {
            found.insert(Digest::of(bytes), Descriptor::of(kind, bytes));
        }
    }
    reply(200, "", ImageIndex::of(found.into_values().collect()).to_bytes())
}

/// Pages of two.
fn tags(state: &mut State, asked: &Asked, _: &str, _: &str) -> Reply {
    let last = asked.path.split_once("last=").map_or("", |(_, last)| last);
    let page: Vec<&String> = state.tags.iter().filter(|tag| tag.as_str() > last).take(2).collect();
    let link = match page[..] {
        [_, last] => {
            format!("Link: <{}?last={last}>; rel=\"next\"\r\n", asked.path.split('?').next().unwrap())
        }
        _ => String::new(),
    };
    reply(200, link, serde_json::json!({ "name": "x", "tags": page }).to_string())
}

fn uploads(
    state: &mut State,
    asked: &Asked,
    repository: &str,
    id: &str,
    query: &BTreeMap<String, String>,
    host: &str,
) -> Reply {
    let place = |id: &str, size: usize| {
        let end = size.saturating_sub(1);
        format!("Location: /v2/{repository}/blobs/uploads/{id}?state=s\r\nRange: 0-{end}\r\n")
    };
    if asked.method == "POST" {
        if let (Some(digest), Some(from), true) = (query.get("mount"), query.get("from"), state.mounts)
            && let Some(blob) = state.blobs.get(&(from.clone(), digest.clone())).cloned()
        {
            state.blobs.insert((repository.to_owned(), digest.clone()), blob);
            return reply(201, format!("Location: http://{host}/v2/{repository}/blobs/{digest}\r\n"), "");
        }
        state.serial += 1;
        let id = format!("u{}", state.serial);
        state.uploads.insert(id.clone(), Vec::new());
        return reply(202, place(&id, 0), "");
    }
    let Some(upload) = state.uploads.get_mut(id) else {
        return reply(404, "", r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no session"}]}"#);
    };
    upload.extend_from_slice(&asked.body);
    let size = upload.len();
    match asked.method.as_str() {
        "PATCH" => reply(202, place(id, size), ""),
        "GET" => reply(204, place(id, size), ""),
        "DELETE" => {
            state.uploads.remove(id);
            reply(204, "", "")
        }
        _ => {
            let blob = state.uploads.remove(id).unwrap();
            let digest = Digest::of(&blob).to_string();
            if query.get("digest") != Some(&digest) {
                return reply(400, "", r#"{"errors":[{"code":"DIGEST_INVALID","message":"other bytes"}]}"#);
            }
            state.blobs.insert((repository.to_owned(), digest.clone()), blob);
            reply(201, format!("Location: /x\r\nDocker-Content-Digest: {digest}\r\n"), "")
        }
    }
}
