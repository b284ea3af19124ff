//! The client: releases, indices and .debs, verified and cached.
//!
//! [`Mirror`] blocks its caller and does its transfers on a runtime of its own. Progress and
//! finished files are told through callbacks.
//!
//! Spec: Debian Repository Format, "Acquire-By-Hash"; RFC 9110, range requests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use knarr_base::{Architecture, Digest, DigestReader, DigestWriter, Timestamp};
use knarr_deb::packages::{IndexBuilder, IndexBytes, PackagesIndex};
use knarr_deb::release::{FileSum, Release};
use knarr_linux::mapped::MappedFile;
use knarr_pgp::{Signed, verify_detached, verify_inline};

use crate::MirrorError;
use crate::cache::{Cache, NewFile, touch};
use crate::fetch::Transfer;
use crate::release::{Expect, Leniency, Source, VerifiedRelease};

/// How a mirror is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the cache lies.
    pub cache: PathBuf,
    /// Nothing is fetched.
    pub offline: bool,
    /// Transfers at once.
    pub jobs: usize,
    /// How often a transfer is tried again.
    pub retries: u32,
    /// A transfer in which nothing comes for this long is given up.
    pub stall: Duration,
    /// What is given up on purpose.
    pub lenient: Leniency,
}

/// A .deb to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFile {
    /// Base addresses, tried in this order.
    pub mirrors: Vec<String>,
    /// Path below the address.
    pub path: String,
    /// Promised size in bytes.
    pub size_bytes: u64,
    /// Promised digest.
    pub digest: Digest,
}

/// Told how many bytes more are here, fetched or found in the cache; no byte of a .deb is told twice.
pub type OnBytes<'a> = &'a (dyn Fn(u64) + Sync);

/// Asks mirrors, and keeps what they answered.
pub struct Mirror {
    options: Options,
    cache: Cache,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    cancel: &'static AtomicBool,
    max_age: Option<Duration>,
}

static NEVER: AtomicBool = AtomicBool::new(false);

const MAX_RELEASE_BYTES: u64 = 32 << 20;
const MAX_FILE_BYTES: u64 = 8 << 30;
const MAX_INDEX_BYTES: u64 = 2 << 30;
/// What `xz -9` needs, and as much again.
const MAX_XZ_BYTES: u64 = 128 << 20;
/// So much more of a .deb than before makes a broken transfer count as progress.
const WORTH_ANOTHER_TRY_BYTES: u64 = 1 << 20;
/// From this rate on, unpacking .xz takes longer than fetching the larger .gz.
const FAST_BYTES_PER_SECOND: f64 = 4e6;

impl Mirror {
    /// A client with a cache.
    pub fn new(options: Options) -> Result<Self, MirrorError> {
        let cache = Cache::open(&options.cache)?;
        // Another part of the program may have installed it: one is as good as the other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |reason: String| MirrorError::Connection { url: "(no address yet)".to_owned(), reason };
        let client = reqwest::Client::builder()
            .user_agent(concat!("knarr/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.stall)
            .pool_max_idle_per_host(options.jobs)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            builder.worker_threads(2).enable_all().build().map_err(|error| failed(error.to_string()))?;
        Ok(Self { options, cache, client, runtime, cancel: &NEVER, max_age: None })
    }

    /// Gives up with [`MirrorError::Interrupted`] soon after `flag` is set, whatever is going on.
    #[must_use]
    pub const fn cancelled_by(mut self, flag: &'static AtomicBool) -> Self {
        self.cancel = flag;
        self
    }

    /// Refuses Release files older than this: for suites that do not say how long they are valid.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    fn check_cancelled(&self) -> Result<(), MirrorError> {
        if self.cancel.load(Ordering::Relaxed) { Err(MirrorError::Interrupted) } else { Ok(()) }
    }

    const fn transfer<'a>(&'a self, url: &'a str, limit_bytes: u64, cancel: &'a AtomicBool) -> Transfer<'a> {
        Transfer { client: &self.client, url, limit_bytes, stall: self.options.stall, cancel }
    }

    /// The cache.
    #[must_use]
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Fetches and checks a suite's Release file.
    pub fn release(
        &self,
        source: &Source,
        architecture: Architecture,
        now: Timestamp,
    ) -> Result<VerifiedRelease, MirrorError> {
        let mut last = None;
        for mirror in &source.mirrors {
            let base = source.url(mirror);
            match self.release_from(&base, source, architecture, now) {
                Err(error) if error.is_passing() || matches!(error, MirrorError::Status { .. }) => {
                    last = Some(error);
                }
                outcome => return outcome,
            }
        }
        Err(last.unwrap_or_else(|| MirrorError::Connection {
            url: source.suite.clone(),
            reason: "no mirror is named".to_owned(),
        }))
    }

    fn release_from(
        &self,
        base: &str,
        source: &Source,
        architecture: Architecture,
        now: Timestamp,
    ) -> Result<VerifiedRelease, MirrorError> {
        let (signed, raw) = self.signed_release(base, source)?;
        let url = raw[0].url.clone();
        let release = Release::parse(signed.text())
            .map_err(|source| MirrorError::Format { url: url.clone(), source })?;
        let key = format!(
            "{}\n{}\n{}\n{}",
            release.origin,
            release.label,
            source.suite,
            Digest::of(source.keyring.as_bytes())
        );
        let expect =
            Expect { source, architecture, now, max_age: self.max_age, lenient: self.options.lenient };
        let warnings = expect.check(&url, &release, self.cache.newest_seen(&key)?)?;
        // Only what passed every check may change what is remembered.
        self.cache.remember(&key, release.date)?;
        if !self.options.offline {
            raw.iter()
                .try_for_each(|file| self.cache.write(&self.cache.release_path(&file.url), &file.bytes))?;
        }
        let digest = Digest::of(signed.text());
        let rate = raw[0].rate;
        let mut keys = signed.fingerprints().to_vec();
        keys.sort();
        keys.dedup();
        Ok(VerifiedRelease { source: source.clone(), release, digest, keys, url, rate, warnings })
    }

    /// `InRelease`, or where there is none `Release` and `Release.gpg`; and the bytes as they came.
    fn signed_release(&self, base: &str, source: &Source) -> Result<(Signed, Vec<Raw>), MirrorError> {
        let distrust = |url: &str, source| MirrorError::Untrusted { url: url.to_owned(), source };
        let missing = match self.small(format!("{base}/InRelease")) {
            Ok(raw) => {
                let signed = verify_inline(&source.keyring, &raw.bytes);
                return Ok((signed.map_err(|error| distrust(&raw.url, error))?, vec![raw]));
            }
            Err(error) if is_missing(&error) => error,
            Err(error) => return Err(error),
        };
        let text = match self.small(format!("{base}/Release")) {
            Err(MirrorError::Offline { .. }) => return Err(missing),
            outcome => outcome?,
        };
        let signature = match self.small(format!("{base}/Release.gpg")) {
            Err(error) if is_missing(&error) => {
                return Err(distrust(&text.url, knarr_pgp::PgpError::NoSignature));
            }
            outcome => outcome?,
        };
        let signed = verify_detached(&source.keyring, &text.bytes, &signature.bytes);
        Ok((signed.map_err(|error| distrust(&text.url, error))?, vec![text, signature]))
    }

    /// A small file whole, not verified yet: from the network, or with `--offline` as it was kept.
    fn small(&self, url: String) -> Result<Raw, MirrorError> {
        if self.options.offline {
            let kept = std::fs::read(self.cache.release_path(&url));
            let bytes = kept.map_err(|_| MirrorError::Offline { url: url.clone() })?;
            return Ok(Raw { url, bytes, rate: 0.0 });
        }
        let mut bytes = Vec::new();
        let mut rate = 0.0;
        self.retrying(|| {
            bytes.clear();
            let transfer = self.transfer(&url, MAX_RELEASE_BYTES, self.cancel);
            let mut sink = |chunk: &[u8]| {
                bytes.extend_from_slice(chunk);
                Ok(())
            };
            let done = self.runtime.block_on(transfer.run(0, &mut || Ok(()), &mut sink))?;
            rate = done.size_bytes as f64 / done.body.as_secs_f64().max(1e-4);
            Ok(())
        })?;
        Ok(Raw { url, bytes, rate })
    }

    /// One file from anywhere, known by its digest: from the cache, or fetched and checked while it streams.
    pub fn file(&self, url: &str, digest: Digest) -> Result<PathBuf, MirrorError> {
        let path = self.cache.pool_path(digest);
        if std::fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == digest) {
            touch(&path);
            return Ok(path);
        }
        if self.options.offline {
            return Err(MirrorError::Offline { url: url.to_owned() });
        }
        self.retrying(|| {
            let mut new = self.cache.create(&path)?;
            let mut hash = DigestWriter::new(io::sink());
            let mut sink = |chunk: &[u8]| {
                // Hashing cannot fail.
                let _ = io::Write::write_all(&mut hash, chunk);
                new.write_all(chunk)
            };
            let transfer = self.transfer(url, MAX_FILE_BYTES, self.cancel);
            self.runtime.block_on(transfer.run(0, &mut || Ok(()), &mut sink))?;
            let found = hash.finish().1;
            if found != digest {
                return Err(MirrorError::DigestMismatch { url: url.to_owned(), promised: digest, found });
            }
            new.finish()
        })?;
        Ok(path)
    }

    fn retrying(&self, mut work: impl FnMut() -> Result<(), MirrorError>) -> Result<(), MirrorError> {
        let mut attempt = 0;
        loop {
            match work() {
                Err(error) if error.is_passing() && attempt < self.options.retries => {
                    let end = Instant::now() + pause(attempt);
                    while Instant::now() < end {
                        self.check_cancelled()?;
                        std::thread::sleep(pause(0).min(end.saturating_duration_since(Instant::now())));
                    }
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// The packages of a component for an architecture: from the cache when it has what the Release promises.
    pub fn index(
        &self,
        release: &VerifiedRelease,
        component: &str,
        architecture: &str,
        on_bytes: OnBytes<'_>,
    ) -> Result<PackagesIndex, MirrorError> {
        let name = index_name(&release.release, component, architecture);
        let Some(text) = release.release.files.get(&name).copied() else {
            return Err(MirrorError::MissingIndex { url: release.url.clone(), name });
        };
        let path = self.cache.index_path(text.digest);
        if let Some(index) = open_index(&path, text.digest) {
            touch(&path);
            return Ok(index);
        }
        let (suffix, packed) = choose_compression(release, &name);
        if self.options.offline {
            return Err(MirrorError::Offline {
                url: format!("{}/{name}", release.source.url(&release.source.mirrors[0])),
            });
        }
        let mut last = None;
        for mirror in &release.source.mirrors {
            let base = release.source.url(mirror);
            for url in index_urls(&base, &name, suffix, packed, release.by_hash()) {
                let mut compact = Vec::new();
                let fetched = self.retrying(|| {
                    compact = self.fetch_index(&url, suffix, packed, text, on_bytes)?;
                    Ok(())
                });
                match fetched {
                    Ok(()) => return self.keep_index(&path, compact, &url),
                    Err(error) if error.is_passing() || matches!(error, MirrorError::Status { .. }) => {
                        last = Some(telling(last, error));
                    }
                    // Under its other name a mirror has the same bytes; another mirror may have the right ones.
                    Err(error) if error.is_of_the_mirror() => {
                        last = Some(telling(last, error));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| MirrorError::MissingIndex { url: release.url.clone(), name }))
    }

    fn keep_index(&self, path: &Path, compact: Vec<u8>, url: &str) -> Result<PackagesIndex, MirrorError> {
        self.cache.write(path, &compact)?;
        PackagesIndex::open(Arc::new(compact))
            .map_err(|source| MirrorError::Format { url: url.to_owned(), source })
    }

    /// Fetches on one thread, unpacks and parses on this one.
    fn fetch_index(
        &self,
        url: &str,
        suffix: &str,
        packed: FileSum,
        text: FileSum,
        on_bytes: OnBytes<'_>,
    ) -> Result<Vec<u8>, MirrorError> {
        if text.size_bytes > MAX_INDEX_BYTES {
            return Err(MirrorError::TooLarge { url: url.to_owned(), limit_bytes: MAX_INDEX_BYTES });
        }
        let (sender, receiver) = sync_channel::<Bytes>(64);
        std::thread::scope(|scope| {
            let transfer = scope.spawn(move || {
                let transfer = self.transfer(url, packed.size_bytes, self.cancel);
                let mut sink = |chunk: &[u8]| {
                    on_bytes(chunk.len() as u64);
                    // The other side is gone only when it failed: its error counts.
                    sender.send(Bytes::copy_from_slice(chunk)).map_err(|_| MirrorError::Interrupted)
                };
                self.runtime.block_on(transfer.run(0, &mut || Ok(()), &mut sink))
            });
            let parsed =
                parse_index(url, suffix, ChunkReader { receiver, chunk: Bytes::new() }, packed, text);
            let transferred = transfer.join().unwrap_or(Err(MirrorError::Interrupted));
            self.check_cancelled()?;
            match (transferred, parsed) {
                (Err(MirrorError::Interrupted), Err(error)) | (Ok(_), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(_), Ok(compact)) => Ok(compact),
            }
        })
    }

    /// Fetches .debs, several at once; `on_ready` hears of each as soon as it is here and verified.
    pub fn pool(
        &self,
        files: &[PoolFile],
        on_ready: &(dyn Fn(usize, PathBuf) + Sync),
        on_bytes: OnBytes<'_>,
        cancel: &AtomicBool,
    ) -> Result<(), MirrorError> {
        let one = async |position: usize, file: &PoolFile| {
            let path = self.pool_file(file, on_bytes, cancel).await?;
            on_ready(position, path);
            Ok::<(), MirrorError>(())
        };
        let transfers = files.iter().enumerate().map(|(position, file)| one(position, file));
        let mut work =
            std::pin::pin!(futures_util::stream::iter(transfers).buffer_unordered(self.options.jobs.max(1)));
        self.runtime.block_on(async {
            while let Some(outcome) = work.next().await {
                outcome?;
            }
            Ok(())
        })
    }

    async fn pool_file(
        &self,
        file: &PoolFile,
        on_bytes: OnBytes<'_>,
        cancel: &AtomicBool,
    ) -> Result<PathBuf, MirrorError> {
        let path = self.cache.pool_path(file.digest);
        if is_intact(path.clone(), file).await {
            touch(&path);
            on_bytes(file.size_bytes);
            return Ok(path);
        }
        let url = |mirror: &String| format!("{}/{}", mirror.trim_end_matches('/'), encode_path(&file.path));
        if self.options.offline {
            return Err(MirrorError::Offline {
                url: file.mirrors.first().map_or_else(|| file.path.clone(), url),
            });
        }
        let told = AtomicU64::new(0);
        let (mut attempt, mut reached) = (0, 0);
        let mut last = None;
        loop {
            let mut may_pass = false;
            for mirror in &file.mirrors {
                match self.pool_transfer(&url(mirror), file, &told, on_bytes, cancel).await {
                    Ok(()) => return Ok(path),
                    Err(error @ (MirrorError::Cache { .. } | MirrorError::Interrupted)) => return Err(error),
                    Err(error) => {
                        may_pass |= error.is_passing();
                        last = Some(telling(last, error));
                    }
                }
            }
            // A line that breaks again and again is good enough while it gets on.
            let gets_on = told.load(Ordering::Relaxed) >= reached + WORTH_ANOTHER_TRY_BYTES;
            reached = told.load(Ordering::Relaxed);
            attempt = if gets_on { 0 } else { attempt + 1 };
            if !may_pass || attempt > self.options.retries {
                break;
            }
            pausing(attempt, cancel).await?;
        }
        Err(last.unwrap_or_else(|| MirrorError::Connection {
            url: file.path.clone(),
            reason: "no mirror is named".to_owned(),
        }))
    }

    /// One .deb from one mirror. What a broken connection left is gone on with, in this run or the next.
    async fn pool_transfer(
        &self,
        url: &str,
        file: &PoolFile,
        told: &AtomicU64,
        on_bytes: OnBytes<'_>,
        cancel: &AtomicBool,
    ) -> Result<(), MirrorError> {
        let mut new = Incoming::resume(&self.cache, file)?;
        let went_on = new.size_bytes > 0;
        let outcome = self.fill(url, &mut new, told, on_bytes, cancel).await;
        let outcome = match outcome.and_then(|()| new.check(url)) {
            // The beginning may be of another mirror's other file: once more, all from this one.
            Err(MirrorError::DigestMismatch { .. }) if went_on => {
                new.restart()?;
                let outcome = self.fill(url, &mut new, told, on_bytes, cancel).await;
                outcome.and_then(|()| new.check(url))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) => new.file.finish(),
            Err(error) => {
                if error.is_passing() || matches!(error, MirrorError::Interrupted) {
                    new.leave(&self.cache);
                }
                Err(error)
            }
        }
    }

    /// Fetches what is missing.
    async fn fill(
        &self,
        url: &str,
        new: &mut Incoming,
        told: &AtomicU64,
        on_bytes: OnBytes<'_>,
        cancel: &AtomicBool,
    ) -> Result<(), MirrorError> {
        let (start, promised_bytes) = (new.size_bytes, new.promised_bytes);
        let tell = |size_bytes: u64| {
            let before = told.fetch_max(size_bytes, Ordering::Relaxed);
            if size_bytes > before {
                on_bytes(size_bytes - before);
            }
        };
        tell(start);
        if start == promised_bytes {
            return Ok(());
        }
        let transfer = self.transfer(url, promised_bytes, cancel);
        let cell = Mutex::new(new);
        let lock = || cell.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sink = |chunk: &[u8]| {
            let mut new = lock();
            new.push(chunk)?;
            tell(new.size_bytes);
            Ok(())
        };
        let done = transfer.run(start, &mut || lock().restart(), &mut sink).await?;
        if done.size_bytes < promised_bytes {
            let (url, found_bytes) = (url.to_owned(), done.size_bytes);
            return Err(MirrorError::Truncated { url, found_bytes, promised_bytes });
        }
        Ok(())
    }
}

/// A small file as it came.
struct Raw {
    url: String,
    bytes: Vec<u8>,
    /// Bytes a second.
    rate: f64,
}

fn is_missing(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Status { status: 403 | 404 | 410, .. } | MirrorError::Offline { .. })
}

/// A .deb on its way.
struct Incoming {
    file: NewFile,
    writer: DigestWriter<io::Sink>,
    size_bytes: u64,
    promised_bytes: u64,
    promised: Digest,
}

impl Incoming {
    /// Takes over what an earlier run left; nobody else has it then.
    fn resume(cache: &Cache, file: &PoolFile) -> Result<Self, MirrorError> {
        let (new, left) = cache.create_from_partial(file.digest)?;
        let mut incoming = Self {
            file: new,
            writer: DigestWriter::new(io::sink()),
            size_bytes: 0,
            promised_bytes: file.size_bytes,
            promised: file.digest,
        };
        if let Some(mut left) = left {
            let hashed = io::copy(&mut left, &mut incoming.writer);
            match hashed {
                Ok(size_bytes) if size_bytes <= file.size_bytes => incoming.size_bytes = size_bytes,
                _ => incoming.restart()?,
            }
        }
        Ok(incoming)
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), MirrorError> {
        self.file.write_all(chunk)?;
        self.size_bytes += chunk.len() as u64;
        let hashed = io::Write::write_all(&mut self.writer, chunk);
        hashed.map_err(|_| MirrorError::Interrupted)
    }

    fn restart(&mut self) -> Result<(), MirrorError> {
        self.size_bytes = 0;
        self.writer = DigestWriter::new(io::sink());
        self.file.restart()
    }

    fn check(&mut self, url: &str) -> Result<(), MirrorError> {
        let found = std::mem::replace(&mut self.writer, DigestWriter::new(io::sink())).finish().1;
        if found == self.promised {
            return Ok(());
        }
        Err(MirrorError::DigestMismatch { url: url.to_owned(), promised: self.promised, found })
    }

    /// Leaves what is here to the next try.
    fn leave(self, cache: &Cache) {
        if self.size_bytes > 0 {
            self.file.leave(&cache.partial_path(self.promised));
        }
    }
}

async fn pausing(attempt: u32, cancel: &AtomicBool) -> Result<(), MirrorError> {
    let end = Instant::now() + pause(attempt);
    while Instant::now() < end {
        if cancel.load(Ordering::Relaxed) {
            return Err(MirrorError::Interrupted);
        }
        tokio::time::sleep(pause(0).min(end.saturating_duration_since(Instant::now()))).await;
    }
    Ok(())
}

/// Of two failures the one that tells more: "not found" elsewhere does not explain anything.
fn telling(known: Option<MirrorError>, new: MirrorError) -> MirrorError {
    match known {
        Some(known) if !matches!(known, MirrorError::Status { .. }) => known,
        _ => new,
    }
}

fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(6))
}

/// Names in a pool hold `+`, `~` and `:`; only what a URL cannot hold is written as `%XX`.
pub(crate) fn encode_path(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"/+~:.-_=,@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

impl VerifiedRelease {
    /// The path of an index below the Release file, whether it is there or not.
    #[must_use]
    pub fn index_path(&self, component: &str, architecture: &str) -> String {
        index_name(&self.release, component, architecture)
    }
}

/// `main/binary-amd64/Packages`; security suites of old put a directory before it; a directory without
/// components has one index for all.
fn index_name(release: &Release, component: &str, architecture: &str) -> String {
    if component.is_empty() {
        let dotted = release.files.contains_key("./Packages");
        return if dotted { "./Packages".to_owned() } else { "Packages".to_owned() };
    }
    let plain = format!("{component}/binary-{architecture}/Packages");
    let prefixed = release.components.iter().find(|has| has.rsplit('/').next() == Some(component));
    match prefixed {
        Some(full) if !release.files.contains_key(&plain) => format!("{full}/binary-{architecture}/Packages"),
        _ => plain,
    }
}

fn choose_compression(release: &VerifiedRelease, name: &str) -> (&'static str, FileSum) {
    let order =
        if release.rate > FAST_BYTES_PER_SECOND { [".gz", ".zst", ".xz"] } else { [".xz", ".zst", ".gz"] };
    let offered = |suffix: &&'static str| {
        release.release.files.get(&format!("{name}{suffix}")).map(|sum| (*suffix, *sum))
    };
    order.iter().find_map(offered).unwrap_or_else(|| ("", release.release.files[name]))
}

fn index_urls(base: &str, name: &str, suffix: &str, packed: FileSum, by_hash: bool) -> Vec<String> {
    let directory = name.rsplit_once('/').map_or_else(String::new, |(directory, _)| format!("/{directory}"));
    let hashed = by_hash.then(|| format!("{base}{directory}/by-hash/SHA256/{}", packed.digest.hex()));
    hashed.into_iter().chain([format!("{base}/{name}{suffix}")]).collect()
}

fn open_index(path: &Path, source: Digest) -> Option<PackagesIndex> {
    let bytes: IndexBytes = Arc::new(MappedFile::open(path).ok()?);
    PackagesIndex::open(bytes).ok().filter(|index| index.source() == source)
}

/// Whether the file is here and is what was promised, hashed beside the transfers.
async fn is_intact(path: PathBuf, file: &PoolFile) -> bool {
    let (size_bytes, digest) = (file.size_bytes, file.digest);
    let hash = move || {
        let opened = File::open(path)?;
        if opened.metadata()?.len() != size_bytes {
            return Ok(false);
        }
        let mut reader = DigestReader::new(opened);
        io::copy(&mut reader, &mut io::sink())?;
        Ok::<_, io::Error>(reader.finish().1 == digest)
    };
    matches!(tokio::task::spawn_blocking(hash).await, Ok(Ok(true)))
}

struct ChunkReader {
    receiver: Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            match self.receiver.recv() {
                Ok(chunk) => self.chunk = chunk,
                Err(_) => return Ok(0),
            }
        }
        let length = self.chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

/// Unpacks and parses while the bytes come; nothing of it is used before both digests are right.
fn parse_index(
    url: &str,
    suffix: &str,
    reader: ChunkReader,
    packed: FileSum,
    text: FileSum,
) -> Result<Vec<u8>, MirrorError> {
    let mut counted = DigestReader::new(reader);
    let parsed = {
        let decoder: Box<dyn Read + '_> = match suffix {
            ".gz" => Box::new(flate2::read::MultiGzDecoder::new(&mut counted)),
            ".xz" => Box::new(xz_decoder(&mut counted).map_err(|error| broken(url, &error))?),
            ".zst" => Box::new(zstd::Decoder::new(&mut counted).map_err(|error| broken(url, &error))?),
            _ => Box::new(&mut counted),
        };
        parse_text(url, decoder, text)
    };
    // Read what the decoder left, so that size and digest are those of the whole file.
    let rest = io::copy(&mut counted, &mut io::sink());
    rest.map_err(|error| broken(url, &error))?;
    let (_, found, size_bytes) = counted.finish();
    if size_bytes < packed.size_bytes {
        return Err(MirrorError::Truncated {
            url: url.to_owned(),
            found_bytes: size_bytes,
            promised_bytes: packed.size_bytes,
        });
    }
    if found != packed.digest {
        return Err(MirrorError::DigestMismatch { url: url.to_owned(), promised: packed.digest, found });
    }
    parsed
}

/// Its bytes are not verified yet: they must not decide how much memory is taken.
fn xz_decoder<R: Read>(reader: R) -> io::Result<xz2::read::XzDecoder<R>> {
    let stream = xz2::stream::Stream::new_stream_decoder(MAX_XZ_BYTES, xz2::stream::CONCATENATED)?;
    Ok(xz2::read::XzDecoder::new_stream(reader, stream))
}

fn parse_text(url: &str, mut decoder: Box<dyn Read + '_>, text: FileSum) -> Result<Vec<u8>, MirrorError> {
    let format = |source| MirrorError::Format { url: url.to_owned(), source };
    let mut builder = IndexBuilder::new();
    let mut digest = DigestWriter::new(io::sink());
    let mut buffer = vec![0; 256 << 10];
    let mut size_bytes = 0;
    loop {
        let read = decoder.read(&mut buffer).map_err(|error| broken(url, &error))?;
        if read == 0 {
            break;
        }
        size_bytes += read as u64;
        if size_bytes > text.size_bytes {
            return Err(MirrorError::TooLarge { url: url.to_owned(), limit_bytes: text.size_bytes });
        }
        io::Write::write_all(&mut digest, &buffer[..read]).map_err(|error| broken(url, &error))?;
        builder.push_text(&buffer[..read]).map_err(format)?;
    }
    let found = digest.finish().1;
    if found != text.digest {
        return Err(MirrorError::DigestMismatch {
            url: format!("{url} (unpacked)"),
            promised: text.digest,
            found,
        });
    }
    builder.finish(text.digest).map_err(format)
}

fn broken(url: &str, error: &io::Error) -> MirrorError {
    let source = knarr_deb::DebError::Read {
        member: "index",
        source: io::Error::new(error.kind(), error.to_string()),
    };
    MirrorError::Format { url: url.to_owned(), source }
}

#[cfg(test)]
mod tests;
