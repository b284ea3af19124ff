//! Pushes: an image of the store goes to a registry.
//!
//! Blobs go first, several at once, then manifests, then the index; the tag is put last. What speaks of the
//! image follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use knarr_base::{Digest, HumanSize};
use knarr_linux::mapped::MappedFile;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Manifest, Platform, Reference, media_type};
use knarr_store::Store;
use knarr_store::gc::Reach;
use knarr_store::{Companion, companions};

use crate::RegistryError;
use crate::client::repository::{Repository, referrers_tag};
use crate::client::tree::{Tree, Which};
use crate::client::upload::{Content, Sent, Upload};
use crate::client::wire::Wire;
use crate::client::{BlobStep, Client, Options, Progress};

/// What is pushed of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Of an image for several machines only this one.
    pub platform: Option<Platform>,
    /// What speaks of it goes, too.
    pub referrers: bool,
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the registry has under the name now.
    pub descriptor: Descriptor,
    /// Blobs that were sent.
    pub sent: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Blobs that another repository lent.
    pub mounted: usize,
    /// Blobs that were there.
    pub known: usize,
    /// What speaks of the image and was not there.
    pub referrers: usize,
}

impl Client {
    /// Sends an image to a registry.
    pub fn push(
        &self,
        store: &Store,
        image: &Descriptor,
        reference: &Reference,
        how: &Push,
        progress: &dyn Progress,
    ) -> Result<Pushed, RegistryError> {
        let wire = self.wire();
        let root = match &how.platform {
            Some(platform) => knarr_store::image::choose(store, image, platform)?,
            None => image.clone(),
        };
        let endpoint = self.endpoint(&wire, reference.registry())?;
        let to = Repository::new(endpoint, reference.repository(), "pull,push");
        let mounts = Mounts::of_store(store, reference)?;
        let delivery = Delivery::new(self, &wire, &to, reference, progress);
        let tree = stored_tree(store, &root)?;
        let content = |blob: &Descriptor| content(store, blob);
        delivery.tree(&tree, &reference.version(), &mounts, &content)?;
        let mut referrers = 0;
        if how.referrers {
            referrers = delivery.referrers(store, &root, &mounts)?;
        }
        Ok(delivery.done(root, referrers))
    }
}

/// An image of the store, as far as it is here.
fn stored_tree(store: &Store, root: &Descriptor) -> Result<Tree, RegistryError> {
    let bytes = store.read(root, MAX_MANIFEST_BYTES)?.into();
    Tree::gather(root, bytes, &Which::All, &mut |entry| {
        let is_here = store.has(entry);
        Ok(if is_here { Some(store.read(entry, MAX_MANIFEST_BYTES)?.into()) } else { None })
    })
}

fn content(store: &Store, blob: &Descriptor) -> Result<Content<'static>, RegistryError> {
    let path = store.blob_path(blob.digest);
    if !store.has(blob) {
        let what = "layer or configuration".to_owned();
        return Err(knarr_store::StoreError::MissingBlob { what, digest: blob.digest }.into());
    }
    let mapped = MappedFile::open(&path);
    let mapped = mapped.map_err(|source| RegistryError::File { doing: "read", path, source })?;
    Ok(Content::Here(Bytes::from_owner(mapped)))
}

/// Which other repositories of a registry may have a blob.
#[derive(Default)]
pub(crate) struct Mounts(BTreeMap<String, BTreeSet<Digest>>);

impl Mounts {
    /// By the names of the store: what has one of the same registry was pulled from there, or pushed.
    fn of_store(store: &Store, reference: &Reference) -> Result<Self, RegistryError> {
        let mut found = Self::default();
        for entry in store.entries()? {
            let Some(name) = entry.ref_name().and_then(|name| Reference::parse(name).ok()) else { continue };
            if name.registry() != reference.registry() || name.repository() == reference.repository() {
                continue;
            }
            let mut reach = Reach::default();
            // A broken image lends nothing, and stops nothing.
            if reach.add(store, &entry).is_ok() {
                found.0.entry(name.repository().to_owned()).or_default().extend(reach.blobs.keys());
            }
        }
        Ok(found)
    }

    /// One repository that has all of them.
    pub(crate) fn from_all(repository: &str, blobs: &[Descriptor]) -> Self {
        let blobs = blobs.iter().map(|blob| blob.digest).collect();
        Self(BTreeMap::from([(repository.to_owned(), blobs)]))
    }

    fn of(&self, blob: Digest) -> Vec<String> {
        let having = self.0.iter().filter(|(_, blobs)| blobs.contains(&blob));
        having.map(|(repository, _)| repository.clone()).collect()
    }
}

/// Something goes to one repository.
pub(crate) struct Delivery<'a> {
    client: &'a Client,
    wire: &'a Wire,
    to: &'a Repository,
    name: String,
    progress: &'a dyn Progress,
    sent: AtomicUsize,
    bytes: AtomicU64,
    mounted: AtomicUsize,
    known: AtomicUsize,
}

/// Opens a blob.
pub(crate) type Open<'a, 'b> = &'a (dyn Fn(&Descriptor) -> Result<Content<'b>, RegistryError> + Sync);

impl<'a> Delivery<'a> {
    pub(crate) fn new(
        client: &'a Client,
        wire: &'a Wire,
        to: &'a Repository,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            client,
            wire,
            to,
            name: reference.to_string(),
            progress,
            sent: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            mounted: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
        }
    }

    pub(crate) fn done(self, descriptor: Descriptor, referrers: usize) -> Pushed {
        Pushed {
            descriptor,
            sent: self.sent.into_inner(),
            bytes: self.bytes.into_inner(),
            mounted: self.mounted.into_inner(),
            known: self.known.into_inner(),
            referrers,
        }
    }

    /// Sends what an image consists of; its last manifest gets the tag. Answers whether the registry lists it by
    /// itself as something that speaks of another one.
    pub(crate) fn tree(
        &self,
        tree: &Tree,
        version: &str,
        mounts: &Mounts,
        open: Open<'_, '_>,
    ) -> Result<bool, RegistryError> {
        let Some((root, _)) = tree.manifests.last() else { return Ok(false) };
        let there = self.client.runtime.block_on(self.to.head(self.wire, version))?;
        self.progress.begin(root, &tree.blobs);
        if there == Some(root.digest) {
            tree.blobs.iter().for_each(|blob| self.progress.blob(blob, BlobStep::Known));
            self.known.fetch_add(tree.blobs.len(), Ordering::Relaxed);
            self.progress.note(&format!("{}: already there, with all its blobs", &root.digest.hex()[..12]));
            return Ok(false);
        }
        self.check_absent(tree)?;
        let is_sent = |blob: &&Descriptor| !media_type::is_foreign(&blob.media_type);
        let mut blobs: Vec<&Descriptor> = tree.blobs.iter().filter(is_sent).collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        self.progress.expect_bytes(blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add));
        self.client.in_parallel(self.wire, &blobs, |blob| self.blob(blob, mounts, open))?;
        let mut is_listed = false;
        for (number, (descriptor, bytes)) in tree.manifests.iter().enumerate() {
            let is_root = number + 1 == tree.manifests.len();
            let own = descriptor.digest.to_string();
            let version = if is_root { version } else { &own };
            let put = self.to.put_manifest(self.wire, version, &descriptor.media_type, bytes);
            is_listed = self.client.runtime.block_on(put)?;
        }
        Ok(is_listed)
    }

    /// What is not here must be there.
    fn check_absent(&self, tree: &Tree) -> Result<(), RegistryError> {
        for missing in &tree.absent {
            let digest = missing.digest.to_string();
            if self.client.runtime.block_on(self.to.head(self.wire, &digest))?.is_none() {
                return Err(RegistryError::Incomplete {
                    name: self.name.clone(),
                    missing: missing.platform.as_ref().map_or(digest, ToString::to_string),
                    registry: self.to.endpoint.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn blob(&self, blob: &Descriptor, mounts: &Mounts, open: Open<'_, '_>) -> Result<(), RegistryError> {
        let told = AtomicU64::new(0);
        let tell = |size: u64| {
            let before = told.fetch_max(size, Ordering::Relaxed);
            if size > before {
                self.progress.bytes(size - before);
                self.progress.blob(blob, BlobStep::Moved(size));
            }
        };
        let (to, wire, content) = (self.to, self.wire, open(blob)?);
        let Options { whole_bytes, chunk_bytes, .. } = self.client.options;
        let upload = Upload { to, wire, blob, content, whole_bytes, chunk_bytes, tell: &tell };
        let others = mounts.of(blob.digest);
        let sent = self.client.runtime.block_on(upload.run(&others))?;
        tell(blob.size);
        self.progress.blob(
            blob,
            match sent {
                Sent::Known => BlobStep::Known,
                Sent::Mounted => BlobStep::Mounted(others.first().map_or("", String::as_str)),
                Sent::Uploaded => BlobStep::Done,
            },
        );
        let (count, text) = match sent {
            Sent::Known => (&self.known, "already there".to_owned()),
            Sent::Mounted => (&self.mounted, "mounted from another repository".to_owned()),
            Sent::Uploaded => (&self.sent, format!("sent {}", HumanSize(blob.size))),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if sent == Sent::Uploaded {
            self.bytes.fetch_add(blob.size, Ordering::Relaxed);
        }
        self.progress.note(&format!("{}: {text}", &blob.digest.hex()[..12]));
        Ok(())
    }

    /// Sends what speaks of the image and of each of its manifests. Signatures get the tag that cosign looks for, too.
    fn referrers(&self, store: &Store, root: &Descriptor, mounts: &Mounts) -> Result<usize, RegistryError> {
        let content = |blob: &Descriptor| content(store, blob);
        let mut count = 0;
        for Companion { descriptor, subject, tag } in companions(store, root)? {
            let tree = stored_tree(store, &descriptor)?;
            count += usize::from(self.referrer(&tree, &descriptor, subject, mounts, &content)?);
            if let Some(tag) = tag {
                self.tree(&tree, &tag, mounts, &content)?;
            }
        }
        Ok(count)
    }

    /// Sends what speaks of a manifest, and sees to it that it is found. Answers whether it was not there before.
    pub(crate) fn referrer(
        &self,
        tree: &Tree,
        referrer: &Descriptor,
        subject: Digest,
        mounts: &Mounts,
        open: Open<'_, '_>,
    ) -> Result<bool, RegistryError> {
        let known = self.client.runtime.block_on(self.to.referrers(self.wire, subject))?;
        if known.iter().any(|known| known.digest == referrer.digest) {
            return Ok(false);
        }
        if !self.tree(tree, &referrer.digest.to_string(), mounts, open)? {
            self.client.runtime.block_on(self.list(referrer, subject))?;
        }
        Ok(true)
    }

    /// Where the registry keeps no list by itself, a tag stands for it.
    async fn list(&self, referrer: &Descriptor, subject: Digest) -> Result<(), RegistryError> {
        let known = self.to.referrers(self.wire, subject).await?;
        if known.iter().any(|known| known.digest == referrer.digest) {
            return Ok(());
        }
        let index = self.to.tagged_referrers(self.wire, subject).await?;
        let mut index = index.unwrap_or_else(|| ImageIndex::of(Vec::new()));
        index.manifests.push(referrer.clone());
        let bytes = Bytes::from(index.to_bytes());
        self.to.put_manifest(self.wire, &referrers_tag(subject), media_type::INDEX, &bytes).await.map(drop)
    }
}

/// The descriptor of a manifest as lists of referrers have it.
pub(crate) fn as_referrer(descriptor: &Descriptor, bytes: &[u8]) -> Result<Descriptor, RegistryError> {
    let (artifact_type, annotations) = if media_type::is_index(&descriptor.media_type) {
        let index = ImageIndex::parse(bytes)?;
        (index.artifact_type, index.annotations)
    } else {
        let manifest = Manifest::parse(bytes)?;
        (manifest.artifact_type.or(Some(manifest.config.media_type)), manifest.annotations)
    };
    Ok(Descriptor { artifact_type, annotations, platform: None, ..descriptor.bare() })
}
