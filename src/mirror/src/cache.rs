//! The download cache: everything in it can be fetched again, and is checked again when it is used.
//!
//! Files appear by rename only, so two runs may share one cache. Downloads are not synced to the disk: a
//! file that a power cut damaged fails its check and is fetched anew. Remembered dates are no
//! download: they are synced, because losing one would let an old state be played back.
//!
//! Spec: docs/formats/cache.md.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use knarr_base::{Digest, Timestamp};

use crate::MirrorError;

/// The cache in a directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What one kind of file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `pool`, `indices`, `releases`, `products` or `builds`.
    pub kind: &'static str,
    /// How many files.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// How the name of an unfinished file begins.
const UNFINISHED: &str = ".new-";
const KINDS: [&str; 5] = ["pool", "indices", "releases", "products", "builds"];

impl Cache {
    /// The cache in `root`, made when it is not there.
    pub fn open(root: &Path) -> Result<Self, MirrorError> {
        let cache = Self { root: root.to_owned() };
        for kind in KINDS {
            let path = root.join(kind);
            fs::create_dir_all(&path).map_err(|source| MirrorError::Cache {
                doing: "create",
                path,
                source,
            })?;
        }
        Ok(cache)
    }

    /// Where a .deb of this digest lies.
    #[must_use]
    pub fn pool_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("pool").join(&hex[..2]).join(format!("{hex}.deb"))
    }

    /// Where the beginning of a .deb of this digest waits, when its transfer broke.
    #[must_use]
    pub fn partial_path(&self, digest: Digest) -> PathBuf {
        self.pool_path(digest).with_extension("partial")
    }

    /// Where the compact form of an index lies; `digest` is that of the text.
    #[must_use]
    pub fn index_path(&self, digest: Digest) -> PathBuf {
        self.root.join("indices").join(format!("{}.idx", digest.hex()))
    }

    /// Where the last Release file of this address lies.
    #[must_use]
    pub fn release_path(&self, url: &str) -> PathBuf {
        self.root.join("releases").join(format!("{}.signed", Digest::of(url.as_bytes()).hex()))
    }

    /// Where a finished root of this key lies, as the file that it was delivered as.
    #[must_use]
    pub fn product_path(&self, key: Digest) -> PathBuf {
        self.root.join("products").join(key.hex())
    }

    /// Where the record of a build's step lies.
    #[must_use]
    pub fn record_path(&self, key: Digest) -> PathBuf {
        self.root.join("builds").join(key.hex())
    }

    /// The newest date seen of a suite; `key` names the suite and its keys.
    pub fn newest_seen(&self, key: &str) -> Result<Option<Timestamp>, MirrorError> {
        let path = self.seen_path(key);
        let fail = |source| MirrorError::Cache { doing: "read", path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(|date| Some(Timestamp(date))).map_err(|_| {
                let reason = "it holds no date; once you trust the mirror, remove the file";
                fail(io::Error::new(io::ErrorKind::InvalidData, reason))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(fail(source)),
        }
    }

    /// Remembers a date, unless a newer one is known; runs at the same time take turns.
    pub fn remember(&self, key: &str, date: Timestamp) -> Result<(), MirrorError> {
        if self.newest_seen(key)?.is_some_and(|seen| seen >= date) {
            return Ok(());
        }
        let path = self.root.join("releases").join(".lock");
        let lock = File::options().create(true).append(true).open(&path).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        let _held = lock.map_err(|source| MirrorError::Cache { doing: "lock", path, source })?;
        if self.newest_seen(key)?.is_some_and(|seen| seen >= date) {
            return Ok(());
        }
        let mut file = self.create(&self.seen_path(key))?;
        file.write_all(format!("{}\n", date.0).as_bytes())?;
        file.sync()?;
        file.finish()
    }

    fn seen_path(&self, key: &str) -> PathBuf {
        self.root.join("releases").join(format!("{}.date", Digest::of(key.as_bytes()).hex()))
    }

    /// Writes a file so that nobody ever sees half of it.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), MirrorError> {
        let mut file = self.create(path)?;
        file.write_all(bytes)?;
        file.finish()
    }

    /// A file that appears at `path` when it is finished.
    pub fn create(&self, path: &Path) -> Result<NewFile, MirrorError> {
        let parent = path.parent().unwrap_or(&self.root);
        let fail = |source| MirrorError::Cache { doing: "create", path: path.to_owned(), source };
        fs::create_dir_all(parent).map_err(fail)?;
        let temporary = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(parent).map_err(fail)?;
        // Who removes leftovers can see by it that this one is none.
        temporary.as_file().lock().map_err(fail)?;
        Ok(NewFile { temporary, path: path.to_owned() })
    }

    /// A file for the .deb of this digest, which begins with what an earlier run left of it. The rename
    /// gives that to one run only; a reader of it is answered, too.
    pub fn create_from_partial(&self, digest: Digest) -> Result<(NewFile, Option<File>), MirrorError> {
        let path = self.pool_path(digest);
        let mut new = self.create(&path)?;
        let taken = fs::rename(self.partial_path(digest), new.temporary.path()).and_then(|()| {
            let file = File::options().read(true).append(true).open(new.temporary.path())?;
            file.lock()?;
            Ok((File::open(new.temporary.path())?, file))
        });
        match taken {
            Ok((left, file)) => {
                *new.temporary.as_file_mut() = file;
                Ok((new, Some(left)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((new, None)),
            Err(source) => Err(MirrorError::Cache { doing: "take over", path, source }),
        }
    }

    /// What each kind takes.
    pub fn usage(&self) -> Result<Vec<Usage>, MirrorError> {
        let sum = |kind| {
            let files = self.files(kind)?;
            Ok(Usage { kind, files: files.len() as u64, bytes: files.iter().map(|file| file.1).sum() })
        };
        KINDS.iter().copied().map(sum).collect()
    }

    /// Removes files not used for `max_age`, then the longest unused until `max_bytes` are kept.
    /// Answers how many files and bytes went. Remembered dates stay: they are protection, not cache.
    pub fn prune(&self, max_bytes: u64, max_age: Duration) -> Result<(u64, u64), MirrorError> {
        let (mut files, mut bytes) =
            self.prune_kinds(&["pool", "indices", "products", "builds"], max_bytes, max_age)?;
        for path in self.leftovers()? {
            bytes += fs::metadata(&path).map_or(0, |meta| meta.len());
            fs::remove_file(&path).map_err(|source| MirrorError::Cache { doing: "remove", path, source })?;
            files += 1;
        }
        Ok((files, bytes))
    }

    /// Removes the longest unused products until `max_bytes` are kept.
    pub fn prune_products(&self, max_bytes: u64) -> Result<(u64, u64), MirrorError> {
        self.prune_kinds(&["products"], max_bytes, Duration::MAX)
    }

    fn prune_kinds(
        &self,
        kinds: &[&'static str],
        max_bytes: u64,
        max_age: Duration,
    ) -> Result<(u64, u64), MirrorError> {
        let mut files = Vec::new();
        for kind in kinds {
            files.append(&mut self.files(kind)?);
        }
        files.sort_by_key(|file| std::cmp::Reverse(file.2));
        let (mut kept, mut removed) = (0_u64, (0, 0));
        let now = SystemTime::now();
        for (path, bytes, used) in files {
            let age = now.duration_since(used).unwrap_or_default();
            let keep = if is_unfinished(&path) {
                !is_left(&path)
            } else {
                age <= max_age && kept + bytes <= max_bytes
            };
            if keep {
                kept += bytes;
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => removed = (removed.0 + 1, removed.1 + bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(MirrorError::Cache { doing: "remove", path, source }),
            }
        }
        Ok(removed)
    }

    /// Unfinished files of runs that were killed; [`Cache::prune`] removes them.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, MirrorError> {
        let mut left = Vec::new();
        for kind in KINDS {
            let paths = self.files(kind)?.into_iter().map(|file| file.0);
            left.extend(paths.filter(|path| is_unfinished(path) && is_left(path)));
        }
        left.sort();
        Ok(left)
    }

    fn files(&self, kind: &str) -> Result<Vec<(PathBuf, u64, SystemTime)>, MirrorError> {
        let mut files = Vec::new();
        let mut directories = vec![self.root.join(kind)];
        while let Some(directory) = directories.pop() {
            let fail = |source| MirrorError::Cache { doing: "list", path: directory.clone(), source };
            for entry in fs::read_dir(&directory).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                // Another run may remove a file while we look.
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    directories.push(entry.path());
                } else if entry.path().extension().is_none_or(|extension| extension != "date")
                    && entry.file_name() != ".lock"
                {
                    files.push((entry.path(), meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
                }
            }
        }
        Ok(files)
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()))
}

/// Whether the run that wrote an unfinished file is gone: it would hold a lock.
fn is_left(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// A file on its way into the cache; it leaves no trace when it is dropped unfinished.
pub struct NewFile {
    temporary: tempfile::NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Appends.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), MirrorError> {
        let written = self.temporary.write_all(bytes);
        written.map_err(|source| MirrorError::Cache { doing: "write", path: self.path.clone(), source })
    }

    /// The file, to write into.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Throws away what was written.
    pub fn restart(&mut self) -> Result<(), MirrorError> {
        let file = self.temporary.as_file_mut();
        let restarted = file.set_len(0).and_then(|()| io::Seek::rewind(file));
        restarted.map_err(|source| MirrorError::Cache { doing: "write", path: self.path.clone(), source })
    }

    /// Waits until the disk has it: for the few files that cannot be fetched again.
    pub fn sync(&self) -> Result<(), MirrorError> {
        let synced = self.temporary.as_file().sync_all();
        synced.map_err(|source| MirrorError::Cache { doing: "write", path: self.path.clone(), source })
    }

    /// Lets the unfinished file appear at another path, for a later run to go on with.
    pub(crate) fn leave(self, path: &Path) {
        // Without it the next run fetches all.
        let _ = self.temporary.persist(path);
    }

    /// Lets the file appear.
    pub fn finish(self) -> Result<(), MirrorError> {
        let path = self.path;
        let persisted = self.temporary.persist(&path);
        persisted.map(drop).map_err(|error| MirrorError::Cache { doing: "create", path, source: error.error })
    }
}

/// Marks a file as used now, for [`Cache::prune`].
pub(crate) fn touch(path: &Path) {
    // A cache that cannot be touched is pruned a little early: no reason to fail.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests;
