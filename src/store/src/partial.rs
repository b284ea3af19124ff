//! Blobs that come over a network: what a broken connection left is gone on with.
//!
//! [`Ingest::partial`] opens the beginning that an earlier try left under `tmp/`, or a new file. While a
//! process writes to it, it is locked; without its process it is a leftover like any other.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use knarr_base::DigestWriter;
use knarr_oci::Descriptor;

use crate::store::{fail, set_public};
use crate::{Ingest, Store, StoreError};

/// A blob of which some bytes are here. Dropped before its end it stays, for the next try.
pub struct Partial<'a> {
    store: &'a Store,
    promised: Descriptor,
    file: File,
    path: PathBuf,
    hash: DigestWriter<io::Sink>,
    size_bytes: u64,
    /// The next try is to find it.
    keep: bool,
}

impl<'a> Ingest<'a> {
    /// Opens what is here of a blob. Where another process has the same one in work, a file of our own.
    pub fn partial(&self, promised: &Descriptor) -> Result<Partial<'a>, StoreError> {
        let store = self.store();
        let tmp = store.path().join("tmp");
        let path = tmp.join(format!("pull-{}.partial", promised.digest.hex()));
        let (file, path, keep) = match open_alone(&path)? {
            Some(file) => (file, path, true),
            None => {
                let own = tempfile::Builder::new().prefix("blob-").tempfile_in(&tmp);
                let own = own.map_err(fail("create a file in", &tmp))?;
                own.as_file().lock().map_err(fail("lock", own.path()))?;
                let (file, path) = own.into_parts();
                let path = path.keep().map_err(|error| fail("keep", &tmp)(error.error))?;
                (file, path, false)
            }
        };
        let hash = DigestWriter::new(io::sink());
        let mut partial =
            Partial { store, promised: promised.clone(), file, path, hash, size_bytes: 0, keep };
        partial.read_beginning()?;
        Ok(partial)
    }
}

/// Opens or makes a file that nobody else has in work; `None` when somebody has.
fn open_alone(path: &std::path::Path) -> Result<Option<File>, StoreError> {
    loop {
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(fail("open", path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(fail("lock", path)(source)),
            Ok(()) => {}
        }
        // Whoever had it may have finished it between our opening and our lock: then it is a blob now.
        let own = file.metadata().map_err(fail("read", path))?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(Some(file)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("read", path)(error)),
            _ => {}
        }
    }
}

impl Partial<'_> {
    /// So many bytes are here.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What it is to become.
    #[must_use]
    pub const fn promised(&self) -> &Descriptor {
        &self.promised
    }

    fn read_beginning(&mut self) -> Result<(), StoreError> {
        let there = io::copy(&mut self.file, &mut self.hash).map_err(fail("read", &self.path))?;
        self.size_bytes = there;
        if there > self.promised.size { self.restart() } else { Ok(()) }
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(fail("write", &self.path))?;
        self.hash.write_all(bytes).map_err(fail("hash", &self.path))?;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is here.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.hash = DigestWriter::new(io::sink());
        self.size_bytes = 0;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(fail("empty", &self.path))
    }

    /// Ends the blob, if it is what was promised; else nothing of it stays.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let hash = std::mem::replace(&mut self.hash, DigestWriter::new(io::sink()));
        let (_, found, size) = hash.finish();
        if (found, size) != (self.promised.digest, self.promised.size) {
            self.keep = false;
            return Err(StoreError::WrongBytes {
                what: "blob".to_owned(),
                promised: format!("{}, {} bytes", self.promised.digest, self.promised.size),
                found: format!("{found}, {size} bytes"),
            });
        }
        let path = self.store.blob_path(found);
        let error = fail("create", &path);
        set_public(&self.file).map_err(&error)?;
        self.file.sync_data().map_err(&error)?;
        fs::rename(&self.path, &path).map_err(&error)?;
        // It lies under its own name now.
        self.keep = true;
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.keep || self.size_bytes == 0 {
            // What cannot be removed is a leftover that prune finds.
            let _ = fs::remove_file(&self.path);
        }
    }
}
