//! Passwords from a file that `htpasswd -B` writes.
//!
//! [`Passwords::check`] is slow on purpose when it sees a password for the first time, and as slow for names
//! that are not there. What was right is remembered for a few minutes, not as the password but as a keyed
//! digest. The file is read again when it changes.
//!
//! Spec: htpasswd(1), bcrypt only.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::error::ServerError;
use super::refusal::Refusal;
use super::view::lock;

/// Names and passwords.
pub(crate) struct Passwords {
    path: PathBuf,
    users: Mutex<Users>,
    key: hmac::Key,
    /// What was right, and when.
    seen: Mutex<HashMap<Vec<u8>, Instant>>,
    /// Few at a time: each takes a core for a tenth of a second.
    turns: Semaphore,
    /// Those who wait for a turn; more are sent away.
    waiting: Semaphore,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Users {
    changed: Option<SystemTime>,
    hashes: HashMap<String, String>,
}

const MAX_FILE_BYTES: u64 = 4 << 20;
const REMEMBERED: Duration = Duration::from_secs(300);
const MAX_SEEN: usize = 4096;
const MAX_WAITING: usize = 64;
/// A hash of nothing that anybody knows, for names that are not there.
const NOBODY: &str = "$2b$10$CwTycUXWue0Thq9StjUM0uJ8Zr1x7xQ3jY8Hk3mTgGyKc1o6xYd5e";

impl Passwords {
    pub(crate) fn open(path: &Path) -> Result<Self, ServerError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| {
            ServerError::System { doing: "get random numbers", source: std::io::ErrorKind::Other.into() }
        })?;
        Ok(Self {
            path: path.to_owned(),
            users: Mutex::new(read(path)?),
            key,
            seen: Mutex::default(),
            turns: Semaphore::new(2),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Whether this is the name's password.
    pub(crate) async fn check(this: &Arc<Self>, name: &str, password: &str) -> Result<bool, Refusal> {
        let hash = this.hash_of(name);
        let seal = this.seal(name, password, hash.as_deref());
        if lock(&this.seen).get(&seal).is_some_and(|since| since.elapsed() < REMEMBERED) {
            return Ok(true);
        }
        let busy = |_| Refusal::TooMany { what: "passwords" };
        let _place = this.waiting.try_acquire().map_err(busy)?;
        let _turn = this.turns.acquire().await.map_err(|_| Refusal::Died)?;
        let (password, known) = (password.to_owned(), hash.is_some());
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let is_right =
            tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        if is_right && known {
            this.remember(seal);
        }
        Ok(is_right && known)
    }

    fn hash_of(&self, name: &str) -> Option<String> {
        let mut users = lock(&self.users);
        if changed(&self.path) != users.changed {
            match read(&self.path) {
                Ok(fresh) => *users = fresh,
                // Half-written, most likely: the old ones stay good until it can be read.
                Err(error) => tracing::warn!(%error, "the password file was not read again"),
            }
        }
        users.hashes.get(name).cloned()
    }

    /// Changes with the hash, so that a password that was changed is forgotten.
    fn seal(&self, name: &str, password: &str, hash: Option<&str>) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name, password, hash.unwrap_or_default()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().to_vec()
    }

    fn remember(&self, seal: Vec<u8>) {
        let mut seen = lock(&self.seen);
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(seal, Instant::now());
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn read(path: &Path) -> Result<Users, ServerError> {
    let failed = |source| ServerError::File { path: path.to_owned(), source };
    let changed = changed(path);
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(ServerError::Htpasswd {
            path: path.to_owned(),
            line: 1,
            reason: format!("the file has more than {MAX_FILE_BYTES} bytes"),
        });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let mut hashes = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, hash) = parse(line).map_err(|reason| ServerError::Htpasswd {
            path: path.to_owned(),
            line: number + 1,
            reason,
        })?;
        hashes.insert(name, hash);
    }
    Ok(Users { changed, hashes })
}

fn parse(line: &str) -> Result<(String, String), String> {
    let (name, hash) = line.split_once(':').ok_or("expected NAME:HASH")?;
    let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| hash.starts_with(prefix));
    if !is_bcrypt || hash.len() != 60 {
        return Err(format!("{name:?} has no bcrypt hash, which `htpasswd -B` makes"));
    }
    Ok((name.to_owned(), hash.to_owned()))
}
