//! Uploads: what comes in and is no blob yet, and blobs that came in and that no manifest needs yet.
//!
//! [`Uploads`] owns a directory below the store's `tmp/` that is locked as long as the server lives: whoever
//! removes garbage lets it be, and after a kill it is garbage itself. A finished blob is *held* there by a hard
//! link for a while, so that garbage collectors of other processes cannot take it away before its manifest comes.
//!
//! Spec: OCI distribution-spec 1.1, "Push"; docs/formats/registry.md.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use knarr_base::{Digest, DigestWriter};
use knarr_store::{Store, StoreError};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::OwnedMutexGuard;

use super::range::Chunk;
use super::refusal::Refusal;
use super::route::Repository;
use super::view::lock;

/// Bounds of what waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Uploads that were begun and not ended.
    pub max_sessions: usize,
    /// After this long without a byte an upload is gone.
    pub session_age: Duration,
    /// For so long a blob is held without a manifest that needs it.
    pub hold_age: Duration,
    /// For so long a client may send nothing.
    pub stall: Duration,
}

const MAX_HELD: usize = 100_000;
const BATCH_BYTES: usize = 256 << 10;

/// What comes in.
#[derive(Debug)]
pub(crate) struct Uploads {
    store: Store,
    bounds: Bounds,
    directory: tempfile::TempDir,
    /// Tells others that somebody lives here.
    _lock: File,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    held: Mutex<HashMap<(Digest, Repository), Instant>>,
    /// When something came in last.
    last: Mutex<Instant>,
}

/// An upload that was begun.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: String,
    pub repository: Repository,
    path: PathBuf,
    /// Bytes that are in the file: what the client is told.
    offset: AtomicU64,
    touched: Mutex<Instant>,
    /// Held by the one request that writes.
    progress: Arc<tokio::sync::Mutex<Progress>>,
}

/// Where an upload is. Without a hasher it has ended, or failed.
pub(crate) struct Progress {
    hasher: Option<DigestWriter<io::Sink>>,
    size: u64,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Session {
    /// How many bytes are there.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// Where its next chunk goes.
    pub(crate) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.id)
    }
}

/// The turn to write, which only one request has.
pub(crate) type Turn = OwnedMutexGuard<Progress>;

impl Uploads {
    pub(crate) fn new(store: &Store, bounds: Bounds) -> Result<Self, StoreError> {
        let tmp = store.path().join("tmp");
        let failed = |path: &Path| fail("create", path.to_owned());
        let directory =
            tempfile::Builder::new().prefix("registry-").tempdir_in(&tmp).map_err(failed(&tmp))?;
        let path = directory.path().join("lock");
        let held = directory.path().join("held");
        let own = File::create(&path).and_then(|file| file.lock().map(|()| file)).map_err(failed(&path))?;
        fs::create_dir(&held).map_err(failed(&held))?;
        Ok(Self {
            store: store.clone(),
            bounds,
            directory,
            _lock: own,
            sessions: Mutex::default(),
            held: Mutex::default(),
            last: Mutex::new(Instant::now()),
        })
    }

    /// Begins an upload.
    pub(crate) fn begin(&self, repository: &Repository) -> Result<Arc<Session>, Refusal> {
        let id = uuid()?;
        let path = self.directory.path().join(&id);
        let session = Arc::new(Session {
            id: id.clone(),
            repository: repository.clone(),
            path: path.clone(),
            offset: AtomicU64::new(0),
            touched: Mutex::new(Instant::now()),
            progress: Arc::new(tokio::sync::Mutex::new(Progress {
                hasher: Some(DigestWriter::new(io::sink())),
                size: 0,
            })),
        });
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= self.bounds.max_sessions {
            return Err(Refusal::TooMany { what: "uploads that were begun and not ended" });
        }
        let file = File::create_new(&path).map_err(fail("create", path.clone()))?;
        // A blob is for others to read, whatever this process's mask is.
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(fail("change", path))?;
        sessions.insert(id, Arc::clone(&session));
        drop(sessions);
        self.touch();
        Ok(session)
    }

    /// An upload that was begun in this repository.
    pub(crate) fn session(&self, repository: &Repository, id: &str) -> Result<Arc<Session>, Refusal> {
        let found = lock(&self.sessions).get(id).filter(|session| session.repository == *repository).cloned();
        found.ok_or_else(|| Refusal::UploadUnknown { repository: repository.to_string() })
    }

    /// Ends an upload without a blob.
    pub(crate) fn cancel(&self, session: &Session) {
        lock(&self.sessions).remove(&session.id);
        // The file may have become a blob.
        let _ = fs::remove_file(&session.path);
    }

    /// Takes a body, which goes behind what is there. Answers with the turn, for [`Self::finish`].
    pub(crate) async fn append(
        &self,
        session: &Arc<Session>,
        chunk: Option<Chunk>,
        body: &mut Incoming,
        received: &mut u64,
    ) -> Result<Turn, Refusal> {
        let turn = Arc::clone(&session.progress).try_lock_owned().map_err(|_| Refusal::UploadInvalid {
            reason: "another request is writing to this upload".to_owned(),
        })?;
        if turn.hasher.is_none() {
            return Err(Refusal::UploadUnknown { repository: session.repository.to_string() });
        }
        if let Some(chunk) = chunk
            && chunk.start != turn.size
        {
            return Err(Refusal::OutOfOrder { location: session.location(), expected: turn.size });
        }
        let outcome = self.pump(session, turn, chunk, body, received).await;
        // What is broken cannot be continued: a client that vanished may come back, and find what was written.
        if matches!(outcome, Err(Refusal::Store(_) | Refusal::SizeInvalid { .. })) {
            self.cancel(session);
        }
        self.touch();
        outcome
    }

    async fn pump(
        &self,
        session: &Arc<Session>,
        mut turn: Turn,
        chunk: Option<Chunk>,
        body: &mut Incoming,
        received: &mut u64,
    ) -> Result<Turn, Refusal> {
        let begun = turn.size;
        let mut next = self.gather(body, received).await;
        loop {
            let batch = next?;
            let promised = chunk.map_or(u64::MAX, |chunk| chunk.length);
            let there = turn.size - begun + batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            if there > promised || (batch.is_empty() && chunk.is_some() && there < promised) {
                return Err(Refusal::SizeInvalid {
                    reason: format!("the chunk was promised as {promised} bytes, {there} came"),
                });
            }
            if batch.is_empty() {
                return Ok(turn);
            }
            let own = Arc::clone(session);
            let writing = tokio::task::spawn_blocking(move || write(&own, turn, &batch));
            let (written, gathered) = join(writing, self.gather(body, received)).await;
            turn = written??;
            next = gathered;
        }
    }

    /// The next bytes of a body; none when it has ended.
    async fn gather(&self, body: &mut Incoming, received: &mut u64) -> Result<Vec<Bytes>, Refusal> {
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < BATCH_BYTES {
            let frame = tokio::time::timeout(self.bounds.stall, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::Stalled)? else { break };
            let frame = frame.map_err(|_| Refusal::BrokenOff)?;
            if let Ok(bytes) = frame.into_data() {
                size += bytes.len();
                *received += bytes.len() as u64;
                batch.push(bytes);
            }
        }
        Ok(batch)
    }

    /// Makes a blob of an upload, if it is the one that was promised.
    pub(crate) fn finish(&self, session: &Session, mut turn: Turn, promised: Digest) -> Result<u64, Refusal> {
        let Some(hasher) = turn.hasher.take() else {
            return Err(Refusal::UploadUnknown { repository: session.repository.to_string() });
        };
        let (_, found, size) = hasher.finish();
        let outcome = if found == promised {
            self.persist(session, promised, size)
        } else {
            Err(Refusal::DigestMismatch { promised, found })
        };
        self.cancel(session);
        outcome.map(|()| size)
    }

    fn persist(&self, session: &Session, digest: Digest, size: u64) -> Result<(), Refusal> {
        let blob = self.store.blob_path(digest);
        if self.store.blob_size(digest) == Some(size) && self.hold(&session.repository, digest, &blob).is_ok()
        {
            return Ok(());
        }
        let file = File::open(&session.path).map_err(fail("open", session.path.clone()))?;
        file.sync_data().map_err(fail("write", session.path.clone()))?;
        // Held before it is there: at no moment can it be taken away.
        self.hold(&session.repository, digest, &session.path)?;
        fs::rename(&session.path, &blob).map_err(fail("create", blob))?;
        Ok(())
    }

    /// Holds a blob for a repository. `from` is where its bytes are.
    pub(crate) fn hold(&self, repository: &Repository, digest: Digest, from: &Path) -> Result<(), Refusal> {
        let mut held = lock(&self.held);
        if held.len() >= MAX_HELD {
            return Err(Refusal::TooMany { what: "blobs that no manifest needs" });
        }
        let link = self.held_path(digest);
        match fs::hard_link(from, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fail("create", link)(error).into());
            }
            _ => {}
        }
        held.insert((digest, repository.clone()), Instant::now());
        drop(held);
        self.touch();
        Ok(())
    }

    /// Whether a blob came into this repository lately.
    pub(crate) fn holds(&self, repository: &Repository, digest: Digest) -> bool {
        let held = lock(&self.held).get(&(digest, repository.clone())).copied();
        held.is_some_and(|since| since.elapsed() < self.bounds.hold_age)
    }

    /// Whether anything came into this repository lately.
    pub(crate) fn knows(&self, repository: &Repository) -> bool {
        lock(&self.held).keys().any(|(_, own)| own == repository)
    }

    /// Lets a blob go that came into this repository. Answers whether it was held.
    pub(crate) fn release(&self, repository: &Repository, digest: Digest) -> bool {
        let mut held = lock(&self.held);
        let known = held.remove(&(digest, repository.clone())).is_some();
        self.drop_link(&held, digest);
        known
    }

    /// Opens a blob; one that a garbage collector took away comes back from where it is held.
    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        match self.store.open_blob(digest) {
            Err(StoreError::MissingBlob { .. }) if self.held_path(digest).exists() => {
                self.restore(digest)?;
                self.store.open_blob(digest)
            }
            outcome => outcome,
        }
    }

    /// Puts a held blob back to where it belongs, if it is no longer there.
    pub(crate) fn restore(&self, digest: Digest) -> Result<(), StoreError> {
        if self.store.blob_size(digest).is_some() {
            return Ok(());
        }
        let blob = self.store.blob_path(digest);
        match fs::hard_link(self.held_path(digest), &blob) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                Err(fail("create", blob)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what is too old.
    pub(crate) fn expire(&self) {
        let old: Vec<Arc<Session>> = lock(&self.sessions)
            .values()
            .filter(|session| lock(&session.touched).elapsed() >= self.bounds.session_age)
            .filter(|session| session.progress.try_lock().is_ok())
            .cloned()
            .collect();
        old.iter().for_each(|session| self.cancel(session));
        let mut held = lock(&self.held);
        let gone: Vec<(Digest, Repository)> = held
            .iter()
            .filter(|(_, since)| since.elapsed() >= self.bounds.hold_age)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            held.remove(&key);
            self.drop_link(&held, key.0);
        }
    }

    /// For how long nothing came in; nothing while an upload is open.
    pub(crate) fn idle(&self) -> Option<Duration> {
        lock(&self.sessions).is_empty().then(|| lock(&self.last).elapsed())
    }

    /// Something was changed.
    pub(crate) fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }

    fn held_path(&self, digest: Digest) -> PathBuf {
        self.directory.path().join("held").join(digest.hex())
    }

    fn drop_link(&self, held: &HashMap<(Digest, Repository), Instant>, digest: Digest) {
        if !held.keys().any(|(own, _)| *own == digest) {
            // It may never have been linked.
            let _ = fs::remove_file(self.held_path(digest));
        }
    }
}

/// Writes a batch, on a thread that may block. The turn goes with it: when the client vanishes meanwhile,
/// file and hasher still agree.
fn write(session: &Session, mut turn: Turn, batch: &[Bytes]) -> Result<Turn, Refusal> {
    let failed = fail("write", session.path.clone());
    let outcome = File::options()
        .append(true)
        .open(&session.path)
        .and_then(|mut file| batch.iter().try_for_each(|bytes| file.write_all(bytes)));
    if let Err(error) = outcome {
        turn.hasher = None;
        return Err(failed(error).into());
    }
    for bytes in batch {
        if let Some(hasher) = &mut turn.hasher {
            hasher.write_all(bytes).map_err(&failed)?;
        }
        turn.size += bytes.len() as u64;
    }
    session.offset.store(turn.size, Ordering::Release);
    *lock(&session.touched) = Instant::now();
    Ok(turn)
}

/// A name that nobody guesses.
fn uuid() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Refusal::Died)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn fail(doing: &'static str, path: PathBuf) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::File { doing, path: path.clone(), source }
}
