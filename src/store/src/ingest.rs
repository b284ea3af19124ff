//! Bringing something in: blobs first, the name last.
//!
//! [`Ingest`] holds off the garbage collector; [`Ingest::add`] names what was brought in, after a look
//! whether all of it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use knarr_base::{Digest, DigestWriter};
use knarr_oci::{Descriptor, Manifest, annotation, media_type};
use knarr_tree::TreeError;
use knarr_tree::compress::Compression;
use knarr_tree::layer::{WrittenLayer, write_layer};

use crate::store::{fail, named, set_public};
use crate::{Store, StoreError, gc};

/// Something is being brought in.
#[derive(Debug)]
pub struct Ingest<'a> {
    store: &'a Store,
    /// As long as it is open nothing is removed.
    _lock: File,
}

impl<'a> Ingest<'a> {
    pub(crate) const fn new(store: &'a Store, lock: File) -> Self {
        Self { store, _lock: lock }
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &'a Store {
        self.store
    }

    /// Puts a small blob.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, StoreError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if !self.store.has(&descriptor) {
            let mut blob = self.blob()?;
            blob.write_all(bytes).map_err(|source| blob.error(source))?;
            blob.finish(Some(&descriptor))?;
        }
        Ok(descriptor)
    }

    /// Begins a blob of which nothing is known yet.
    pub fn blob(&self) -> Result<BlobWriter<'a>, StoreError> {
        let directory = self.store.path().join("tmp");
        let file = tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&directory)
            .map_err(fail("create a file in", &directory))?;
        // Who removes leftovers can see by it that this one is none.
        file.as_file().lock().map_err(fail("lock", file.path()))?;
        Ok(BlobWriter {
            store: self.store,
            out: DigestWriter::new(io::BufWriter::with_capacity(256 << 10, file)),
        })
    }

    /// Puts a blob of known size and digest from a stream, which is read to its end.
    pub fn copy(&self, descriptor: &Descriptor, from: &mut dyn Read) -> Result<(), StoreError> {
        let mut blob = self.blob()?;
        // One byte more than promised is enough to know.
        let mut bounded = from.take(descriptor.size.saturating_add(1));
        io::copy(&mut bounded, &mut blob).map_err(|source| blob.error(source))?;
        blob.finish(Some(descriptor)).map(drop)
    }

    /// Writes a layer; `write` gives its tarball.
    pub fn layer(
        &self,
        compression: Compression,
        write: impl FnOnce(&mut dyn Write) -> Result<(), TreeError>,
    ) -> Result<WrittenLayer, StoreError> {
        let blob = self.blob()?;
        let (file, _, _) = blob.out.finish();
        let file = file
            .into_inner()
            .map_err(|error| fail("write", &self.store.path().join("tmp"))(error.into_error()))?;
        let out = file.reopen().map_err(fail("open", file.path()))?;
        let layer = write_layer(out, compression, write)?;
        persist(self.store, file, layer.descriptor.digest)?;
        Ok(layer)
    }

    /// Attaches documents to a manifest: media type and content of each. Answers with the artifact.
    pub fn attach(
        &self,
        subject: &Descriptor,
        artifact_type: &str,
        documents: &[(&str, Vec<u8>)],
    ) -> Result<Descriptor, StoreError> {
        let documents = documents.iter().map(|(kind, bytes)| (*kind, bytes.clone())).collect();
        let artifact = Artifact { kind: artifact_type, documents, annotations: BTreeMap::new() };
        let descriptor = self.put_artifact(subject, &artifact)?;
        self.add(None, &descriptor)?;
        Ok(descriptor)
    }

    /// Attaches several artifacts to a manifest, all of them at once. Answers with them in their order.
    pub fn attach_all(
        &self,
        subject: &Descriptor,
        artifacts: &[Artifact<'_>],
    ) -> Result<Vec<Descriptor>, StoreError> {
        // Each blob waits for the disk: side by side they wait once.
        let descriptors = std::thread::scope(|scope| {
            let put = |artifact| scope.spawn(move || self.put_artifact(subject, artifact));
            let waiting: Vec<_> = artifacts.iter().map(put).collect();
            let join = |one: std::thread::ScopedJoinHandle<'_, _>| {
                one.join().unwrap_or(Err(StoreError::Interrupted))
            };
            waiting.into_iter().map(join).collect::<Result<Vec<Descriptor>, _>>()
        })?;
        self.store.edit(|index| {
            for descriptor in &descriptors {
                if index.manifests.iter().all(|known| known.digest != descriptor.digest) {
                    index.manifests.push(descriptor.clone());
                }
            }
            Ok(())
        })?;
        Ok(descriptors)
    }

    fn put_artifact(&self, subject: &Descriptor, artifact: &Artifact<'_>) -> Result<Descriptor, StoreError> {
        let config = self.put(media_type::EMPTY, b"{}")?;
        let put = artifact.documents.iter().map(|(kind, bytes)| {
            let mut descriptor = self.put(kind, bytes)?;
            descriptor.annotations.clone_from(&artifact.annotations);
            Ok(descriptor)
        });
        let layers = put.collect::<Result<_, StoreError>>()?;
        let mut manifest = Manifest::of_image(config, layers);
        manifest.artifact_type = Some(artifact.kind.to_owned());
        manifest.subject = Some(Descriptor { platform: None, ..subject.bare() });
        manifest.annotations.clone_from(&artifact.annotations);
        let mut descriptor = self.put(media_type::MANIFEST, &manifest.to_bytes())?;
        descriptor.artifact_type = manifest.artifact_type;
        Ok(descriptor)
    }

    /// The disk must know the names of blobs before it knows who needs them.
    fn sync_blobs(&self) -> Result<(), StoreError> {
        let path = self.store.path().join("blobs/sha256");
        File::open(&path).and_then(|directory| directory.sync_all()).map_err(fail("sync", &path))
    }

    /// Names an image, or with no name makes it known by its digest. All that it consists of must be there.
    pub fn add(&self, name: Option<&str>, descriptor: &Descriptor) -> Result<(), StoreError> {
        gc::check_complete(self.store, descriptor)?;
        self.sync_blobs()?;
        let entry = named(descriptor, name);
        self.store.edit(|index| {
            let same = |known: &Descriptor| known.digest == entry.digest && known.ref_name() == name;
            if let Some(known) = index.manifests.iter_mut().find(|known| same(known)) {
                *known = entry.clone();
                return Ok(());
            }
            if let Some(name) = name {
                unname(&mut index.manifests, name);
                // An entry without a name is one of an image that has lost its name, or never had one.
                // One that a registry's repository holds stays there.
                index.manifests.retain(|known| {
                    known.digest != entry.digest
                        || known.ref_name().is_some()
                        || known.annotations.contains_key(annotation::REPOSITORY)
                });
            } else if index.manifests.iter().any(|known| known.digest == entry.digest) {
                return Ok(());
            }
            index.manifests.push(entry.clone());
            Ok(())
        })
    }
}

/// Documents that say something about a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Artifact<'a> {
    /// What it is: its artifact type.
    pub kind: &'a str,
    /// Media type and content of each document.
    pub documents: Vec<(&'a str, Vec<u8>)>,
    /// Notes on the artifact and on each document.
    pub annotations: BTreeMap<String, String>,
}

/// Takes a name from whoever has it. Without any name left the image stays, by its digest.
fn unname(manifests: &mut Vec<Descriptor>, name: &str) {
    let Some(at) = manifests.iter().position(|known| known.ref_name() == Some(name)) else { return };
    let old = manifests.remove(at);
    if !manifests.iter().any(|known| known.digest == old.digest) {
        manifests.push(named(&old, None));
    }
}

/// A blob that grows. Dropped before its end it leaves nothing.
pub struct BlobWriter<'a> {
    store: &'a Store,
    out: DigestWriter<io::BufWriter<tempfile::NamedTempFile>>,
}

impl BlobWriter<'_> {
    /// Ends the blob; when `promised` is given, only if it is what was promised.
    pub fn finish(self, promised: Option<&Descriptor>) -> Result<(Digest, u64), StoreError> {
        let Self { store, out } = self;
        let (out, digest, size) = out.finish();
        let file =
            out.into_inner().map_err(|error| fail("write", &store.path().join("tmp"))(error.into_error()))?;
        if let Some(promised) = promised
            && (promised.digest, promised.size) != (digest, size)
        {
            return Err(StoreError::WrongBytes {
                what: "blob".to_owned(),
                promised: format!("{}, {} bytes", promised.digest, promised.size),
                found: if size > promised.size {
                    format!("more than {} bytes", promised.size)
                } else {
                    format!("{digest}, {size} bytes")
                },
            });
        }
        persist(store, file, digest)?;
        Ok((digest, size))
    }

    /// What a failed write becomes.
    #[must_use]
    pub fn error(&self, source: io::Error) -> StoreError {
        StoreError::File { doing: "write a blob in", path: self.store.path().join("tmp"), source }
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Brings a finished blob to the disk and gives it its name.
fn persist(store: &Store, file: tempfile::NamedTempFile, digest: Digest) -> Result<(), StoreError> {
    let path: PathBuf = store.blob_path(digest);
    let error = fail("create", &path);
    set_public(file.as_file()).map_err(&error)?;
    file.as_file().sync_data().map_err(&error)?;
    file.persist(&path).map_err(|persist| error(persist.error)).map(drop)
}
