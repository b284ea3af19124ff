//! Pulls: an image comes into the store, from mirrors or the registry itself.
//!
//! Documents are read first, then all blobs that are missing come, several at once; the name is given last.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use knarr_base::{Digest, HumanSize};
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, Reference, manifest,
    media_type,
};
use knarr_store::{Ingest, Partial, Store, StoreError};

use crate::RegistryError;
use crate::client::repository::Repository;
use crate::client::tree::{Tree, Which};
use crate::client::wire::Wire;
use crate::client::{BlobStep, Client, Progress};

/// What is pulled of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// For which machines.
    pub which: Which,
    /// What speaks of it comes, too.
    pub referrers: bool,
    /// The name that it gets in the store; without one its own.
    pub name: Option<String>,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The name it has in the store.
    pub name: String,
    /// Blobs that were fetched.
    pub fetched: usize,
    /// Blobs that were here.
    pub known: usize,
    /// Bytes of those that were fetched.
    pub bytes: u64,
    /// What speaks of it.
    pub referrers: usize,
    /// The name was of this very image before.
    pub is_known: bool,
}

/// What speaks of something that speaks of an image is looked for this deep.
const MAX_REFERRER_DEPTH: usize = 3;
/// So much more of a blob than before makes a broken transfer count as progress.
const WORTH_ANOTHER_TRY_BYTES: u64 = 1 << 20;

impl Client {
    /// Brings an image into the store.
    pub fn pull(
        &self,
        store: &Store,
        reference: &Reference,
        how: &Pull,
        progress: &dyn Progress,
    ) -> Result<Pulled, RegistryError> {
        let wire = self.wire();
        let ingest = store.ingest()?;
        let repositories = self.repositories_of(&wire, reference, progress)?;
        let from = Sources { client: self, wire: &wire, repositories: &repositories, progress };
        let own_name = || match reference.digest() {
            Some(digest) => reference.with_digest(digest).to_string(),
            None => reference.to_string(),
        };
        let name = how.name.clone().unwrap_or_else(own_name);
        let entries = store.entries()?;
        let before = entries.iter().find(|entry| entry.ref_name() == Some(&name));
        let (mut root, bytes) = from.root(store, reference, before)?;
        let is_known = before.is_some_and(|before| before.digest == root.digest);
        let mut tree = Tree::gather(&root, bytes, &how.which, &mut |entry| from.document(store, entry))?;
        let referrers = if how.referrers { from.referrers(store, &mut tree)? } else { Vec::new() };
        let missing = missing(store, &tree.blobs);
        let bytes = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
        let coming: Vec<Descriptor> = tree.blobs.iter().filter(|blob| !store.has(blob)).cloned().collect();
        progress.begin(&root, &coming);
        progress.expect_bytes(bytes);
        tree.blobs
            .iter()
            .filter(|blob| store.has(blob))
            .for_each(|blob| progress.blob(blob, BlobStep::Known));
        self.in_parallel(&wire, &missing, |blob| from.blob(&ingest, blob))?;
        for (descriptor, bytes) in &tree.manifests {
            ingest.put(&descriptor.media_type, bytes)?;
        }
        root.platform = platform_of(store, &root)?;
        if let (Which::One(wanted), Some(found)) = (&how.which, &root.platform)
            && !found.serves(wanted)
        {
            progress.warn(&format!("{name} is for {found}, not for {wanted}"));
        }
        wire.check()?;
        ingest.add(Some(&name), &root)?;
        referrers.iter().try_for_each(|referrer| ingest.add(None, referrer))?;
        let (fetched, known) = (missing.len(), tree.blobs.len() - missing.len());
        Ok(Pulled { descriptor: root, name, fetched, known, bytes, referrers: referrers.len(), is_known })
    }

    /// Where an image is looked for: at the mirrors, then at the registry itself.
    pub(crate) fn repositories_of(
        &self,
        wire: &Wire,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Vec<Repository>, RegistryError> {
        let endpoints = self.sources(wire, reference, progress)?;
        Ok(endpoints.into_iter().map(|at| Repository::new(at, reference.repository(), "pull")).collect())
    }
}

/// Blobs that are not here, the largest first, so that it is not the last one that takes longest.
fn missing(store: &Store, blobs: &[Descriptor]) -> Vec<Descriptor> {
    let mut missing: Vec<Descriptor> = blobs.iter().filter(|blob| !store.has(blob)).cloned().collect();
    missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    missing
}

/// For which machines an image is whose configuration is here.
fn platform_of(store: &Store, root: &Descriptor) -> Result<Option<knarr_oci::Platform>, RegistryError> {
    if !media_type::is_manifest(&root.media_type) {
        return Ok(None);
    }
    let manifest = Manifest::parse(&store.read(root, MAX_MANIFEST_BYTES)?)?;
    if !media_type::is_config(&manifest.config.media_type) {
        return Ok(None);
    }
    Ok(Some(ImageConfig::parse(&store.read(&manifest.config, MAX_CONFIG_BYTES)?)?.platform()))
}

/// Where documents and blobs come from.
pub(crate) struct Sources<'a> {
    pub client: &'a Client,
    pub wire: &'a Wire,
    pub repositories: &'a [Repository],
    pub progress: &'a dyn Progress,
}

impl Sources<'_> {
    /// The first document, from the store when it is sure to be the same.
    pub(crate) fn root(
        &self,
        store: &Store,
        reference: &Reference,
        before: Option<&Descriptor>,
    ) -> Result<(Descriptor, Bytes), RegistryError> {
        if let Some(digest) = reference.digest()
            && let Some(known) = kept(store, digest)?
        {
            return Ok(known);
        }
        // Asking for the digest only costs little, and nothing of what registries count.
        if let (Some(before), Some(tag), None) = (before, reference.tag(), reference.digest()) {
            let there = match self.first(&|repository| self.run(repository.head(self.wire, tag))) {
                Err(error) if error.is_passing() || matches!(error, RegistryError::Interrupted) => {
                    return Err(error);
                }
                // Where that cannot be asked for, the document itself can.
                outcome => outcome.ok().flatten(),
            };
            if there == Some(before.digest)
                && let Some(known) = kept(store, before.digest)?
            {
                return Ok(known);
            }
        }
        self.fetch_root(reference)
    }

    pub(crate) fn fetch_root(&self, reference: &Reference) -> Result<(Descriptor, Bytes), RegistryError> {
        let (version, promised) = (reference.version(), reference.digest());
        self.first(&|repository| self.run(repository.manifest(self.wire, &version, promised)))
    }

    /// A document that an index lists.
    pub(crate) fn document(&self, store: &Store, entry: &Descriptor) -> Result<Option<Bytes>, RegistryError> {
        if store.has(entry) {
            return Ok(Some(store.read(entry, MAX_MANIFEST_BYTES)?.into()));
        }
        self.fetch_document(entry).map(Some)
    }

    pub(crate) fn fetch_document(&self, entry: &Descriptor) -> Result<Bytes, RegistryError> {
        self.first(&|repository| self.run(repository.listed(self.wire, entry)))
    }

    /// What speaks of the image and of each of its manifests; their documents and blobs join the tree's.
    fn referrers(&self, store: &Store, tree: &mut Tree) -> Result<Vec<Descriptor>, RegistryError> {
        let mut subjects: Vec<Digest> = tree.manifests.iter().map(|(known, _)| known.digest).collect();
        let mut found = Vec::new();
        for _ in 0..MAX_REFERRER_DEPTH {
            let mut next = Vec::new();
            for subject in subjects {
                for referrer in self.referrers_of(subject)? {
                    if tree.has(referrer.digest) {
                        continue;
                    }
                    let Some(bytes) = self.document(store, &referrer)? else { continue };
                    if subject_of(&referrer, &bytes)? != Some(subject) {
                        let text = format!("{} is listed as if it spoke of {subject}", referrer.digest);
                        self.progress.warn(&text);
                        continue;
                    }
                    tree.add(&referrer, bytes, &mut |entry| self.document(store, entry))?;
                    next.push(referrer.digest);
                    found.push(referrer);
                }
            }
            subjects = next;
        }
        Ok(found)
    }

    pub(crate) fn referrers_of(&self, subject: Digest) -> Result<Vec<Descriptor>, RegistryError> {
        self.first(&|repository| self.run(repository.referrers(self.wire, subject)))
    }

    /// Asks one after the other, until one answers well. The last one is the registry itself, whose error counts.
    fn first<T>(&self, ask: &dyn Fn(&Repository) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let Some((registry, mirrors)) = self.repositories.split_last() else {
            return Err(RegistryError::Request("no registry is named".to_owned()));
        };
        for mirror in mirrors.iter().filter(|mirror| !mirror.is_gone.load(Ordering::Relaxed)) {
            match ask(mirror) {
                Err(error) if error.is_of_the_registry() => self.passed_by(mirror, &error),
                outcome => return outcome,
            }
        }
        ask(registry)
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        self.client.runtime.block_on(work)
    }

    fn passed_by(&self, mirror: &Repository, error: &RegistryError) {
        if matches!(error, RegistryError::Connection { .. } | RegistryError::Stalled { .. }) {
            mirror.is_gone.store(true, Ordering::Relaxed);
        }
        // That a mirror does not have everything is no news.
        if !matches!(error, RegistryError::NotFound { .. }) {
            self.progress.warn(&format!("mirror {}: {error}", mirror.endpoint.name));
        }
    }

    /// One blob, from whoever has it.
    fn blob(&self, ingest: &Ingest<'_>, blob: &Descriptor) -> Result<(), RegistryError> {
        let told = AtomicU64::new(0);
        let tell = |size: u64| {
            let before = told.fetch_max(size, Ordering::Relaxed);
            if size > before {
                self.progress.bytes(size - before);
                self.progress.blob(blob, BlobStep::Moved(size));
            }
        };
        self.first(&|repository| self.blob_from(repository, ingest, blob, &tell, &told))?;
        self.progress.blob(blob, BlobStep::Done);
        self.progress.note(&format!("{}: fetched {}", &blob.digest.hex()[..12], HumanSize(blob.size)));
        Ok(())
    }

    /// What a broken connection left is gone on with, in this run or the next.
    fn blob_from(
        &self,
        repository: &Repository,
        ingest: &Ingest<'_>,
        blob: &Descriptor,
        tell: &(dyn Fn(u64) + Sync),
        told: &AtomicU64,
    ) -> Result<(), RegistryError> {
        let (mut attempt, mut reached) = (0, 0);
        loop {
            if ingest.store().has(blob) {
                return Ok(());
            }
            let error = match self.blob_once(repository, ingest, blob, tell) {
                Err(error) if error.is_passing() => error,
                outcome => return outcome,
            };
            // A line that breaks again and again is good enough while it gets on.
            let size = told.load(Ordering::Relaxed);
            attempt = if size >= reached + WORTH_ANOTHER_TRY_BYTES { 0 } else { attempt + 1 };
            reached = size;
            if attempt > self.wire.retries {
                return Err(error);
            }
            self.run(self.wire.pause(attempt, error))?;
        }
    }

    fn blob_once(
        &self,
        repository: &Repository,
        ingest: &Ingest<'_>,
        blob: &Descriptor,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let wrong = |error: StoreError| match error {
            StoreError::WrongBytes { promised, found, .. } => RegistryError::WrongBytes {
                what: format!("blob {} of {}/{}", blob.digest, repository.endpoint.name, repository.name),
                promised,
                found,
            },
            error => error.into(),
        };
        let mut partial = ingest.partial(blob)?;
        let went_on = partial.size_bytes() > 0;
        self.fetch(repository, &mut partial, tell)?;
        match partial.finish() {
            // The beginning may be of a liar or of a crash: once more, all from this one.
            Err(StoreError::WrongBytes { .. }) if went_on => {
                let mut partial = ingest.partial(blob)?;
                self.fetch(repository, &mut partial, tell)?;
                partial.finish().map_err(wrong)
            }
            outcome => outcome.map_err(wrong),
        }
    }

    /// Receives on this thread, hashes and writes on another one.
    fn fetch(
        &self,
        repository: &Repository,
        partial: &mut Partial<'_>,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let coming = self.run(repository.open(self.wire, partial))?;
        tell(partial.size_bytes());
        let Some(coming) = coming else { return Ok(()) };
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                while let Some(chunk) = receiver.blocking_recv() {
                    partial.push(&chunk)?;
                    tell(partial.size_bytes());
                }
                Ok::<(), RegistryError>(())
            });
            let came = self.run(coming.drain(self.wire, sender));
            // What the writer stopped for is why the rest did not come.
            writer.join().unwrap_or(Err(RegistryError::Interrupted)).and(came)
        })
    }
}

/// Chunks that wait for the disk.
const QUEUE: usize = 32;

/// A document that is here by its digest.
fn kept(store: &Store, digest: Digest) -> Result<Option<(Descriptor, Bytes)>, RegistryError> {
    let Some(size) = store.blob_size(digest).filter(|size| *size <= MAX_MANIFEST_BYTES) else {
        return Ok(None);
    };
    let bytes = store.read(&Descriptor::new("", digest, size), MAX_MANIFEST_BYTES)?;
    Ok(manifest::sniff(&bytes).map(|kind| (Descriptor::new(kind, digest, size), bytes.into())))
}

/// What a document speaks of.
pub(crate) fn subject_of(descriptor: &Descriptor, bytes: &[u8]) -> Result<Option<Digest>, RegistryError> {
    let subject = if media_type::is_index(&descriptor.media_type) {
        ImageIndex::parse(bytes)?.subject
    } else {
        Manifest::parse(bytes)?.subject
    };
    Ok(subject.map(|subject| subject.digest))
}
