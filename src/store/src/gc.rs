//! What is reachable, what is not, and what is broken.
//!
//! [`prune`] removes blobs, unpacked layers and leftovers that nothing needs; [`check`] names all that
//! is not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use knarr_base::{Digest, DigestWriter};
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, media_type,
};
use knarr_tree::root::Root;

use crate::layers::{CHAIN, chain_ids};
use crate::store::fail;
use crate::{Store, StoreError};

/// All blobs that something consists of, with their sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// By digest.
    pub blobs: BTreeMap<Digest, u64>,
    /// What the layers unpack to.
    pub diff_ids: BTreeSet<Digest>,
    /// What the layers are together with all below them.
    pub chain_ids: BTreeSet<Digest>,
}

const MAX_DEPTH: usize = 8;

impl Reach {
    /// Adds all that `descriptor` consists of. Of an index only the entries that are there.
    pub fn add(&mut self, store: &Store, descriptor: &Descriptor) -> Result<(), StoreError> {
        self.visit(store, descriptor, 0)
    }

    fn visit(&mut self, store: &Store, descriptor: &Descriptor, depth: usize) -> Result<(), StoreError> {
        check_depth(descriptor, depth)?;
        if self.blobs.insert(descriptor.digest, descriptor.size).is_some() {
            return Ok(());
        }
        if media_type::is_index(&descriptor.media_type) {
            let index = ImageIndex::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
            let there = index.manifests.iter().filter(|entry| store.has(entry));
            return there.into_iter().try_for_each(|entry| self.visit(store, entry, depth + 1));
        }
        if !media_type::is_manifest(&descriptor.media_type) {
            return Ok(());
        }
        let manifest = Manifest::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
        self.blobs.insert(manifest.config.digest, manifest.config.size);
        self.blobs.extend(manifest.layers.iter().map(|layer| (layer.digest, layer.size)));
        if media_type::is_config(&manifest.config.media_type) && store.has(&manifest.config) {
            let config = ImageConfig::parse(&store.read(&manifest.config, MAX_CONFIG_BYTES)?)?;
            self.chain_ids.extend(chain_ids(&config.rootfs.diff_ids));
            self.diff_ids.extend(config.rootfs.diff_ids);
        }
        Ok(())
    }
}

/// Whether all that a manifest or index consists of is there. Of an index only the entries that are there count.
pub(crate) fn check_complete(store: &Store, descriptor: &Descriptor) -> Result<(), StoreError> {
    check_part(store, "manifest", descriptor)?;
    check_inside(store, descriptor, 0, &mut BTreeSet::new())
}

/// `seen` keeps an index that lists one thing twice, and so do its entries, from growing without end.
fn check_inside(
    store: &Store,
    descriptor: &Descriptor,
    depth: usize,
    seen: &mut BTreeSet<Digest>,
) -> Result<(), StoreError> {
    check_depth(descriptor, depth)?;
    if !seen.insert(descriptor.digest) {
        return Ok(());
    }
    if media_type::is_manifest(&descriptor.media_type) {
        let manifest = Manifest::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
        check_part(store, "configuration", &manifest.config)?;
        return manifest.layers.iter().try_for_each(|layer| check_part(store, "layer", layer));
    }
    let index = ImageIndex::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
    for entry in index.manifests.iter().filter(|entry| store.blob_size(entry.digest).is_some()) {
        check_part(store, "manifest", entry)?;
        check_inside(store, entry, depth + 1, seen)?;
    }
    Ok(())
}

fn check_depth(descriptor: &Descriptor, depth: usize) -> Result<(), StoreError> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    let reason = "its indexes are nested too deep".to_owned();
    Err(StoreError::BadImage { image: descriptor.digest, reason })
}

/// Whether a blob is there with the size that is promised.
fn check_part(store: &Store, what: &str, blob: &Descriptor) -> Result<(), StoreError> {
    match store.blob_size(blob.digest) {
        None => Err(StoreError::MissingBlob { what: what.to_owned(), digest: blob.digest }),
        Some(size) if size != blob.size => Err(StoreError::WrongBytes {
            what: what.to_owned(),
            promised: format!("{}, {} bytes", blob.digest, blob.size),
            found: format!("{size} bytes"),
        }),
        Some(_) => Ok(()),
    }
}

/// The descriptor of `entry` as a referrer of `subject`, if it is one.
pub(crate) fn referrer(
    store: &Store,
    entry: &Descriptor,
    subject: Digest,
) -> Result<Option<Descriptor>, StoreError> {
    let Some((of, referrer)) = subject_of(store, entry)? else { return Ok(None) };
    Ok((of == subject).then_some(referrer))
}

/// What an entry says something about, and its descriptor as a referrer has it.
pub(crate) fn subject_of(
    store: &Store,
    entry: &Descriptor,
) -> Result<Option<(Digest, Descriptor)>, StoreError> {
    let bytes = match store.read(entry, MAX_MANIFEST_BYTES) {
        Err(StoreError::MissingBlob { .. }) => return Ok(None),
        bytes => bytes?,
    };
    let (subject, artifact_type, annotations) = if media_type::is_index(&entry.media_type) {
        let index = ImageIndex::parse(&bytes)?;
        (index.subject, index.artifact_type, index.annotations)
    } else {
        let manifest = Manifest::parse(&bytes)?;
        let kind = manifest.artifact_type.or(Some(manifest.config.media_type));
        (manifest.subject, kind, manifest.annotations)
    };
    let bare = Descriptor { platform: None, ..entry.bare() };
    // Signatures that other tools made have a name only.
    let named = || entry.ref_name().and_then(crate::companions::subject_of_name);
    let subject = subject.map(|subject| subject.digest).or_else(named);
    Ok(subject.map(|subject| (subject, Descriptor { artifact_type, annotations, ..bare })))
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries of the index.
    pub images: usize,
    /// Blobs.
    pub blobs: usize,
    /// Unpacked layers.
    pub layers: usize,
    /// Leftovers of processes that are gone.
    pub leftovers: usize,
    /// Bytes of blobs and leftovers.
    pub bytes: u64,
}

/// Which images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// None: only what no image needs.
    None,
    /// Those without a name.
    Unnamed,
    /// All.
    All,
}

/// Removes images, and all that none of the others needs. Waits until nobody brings anything in, unless
/// `wait` is not set: then `None` says that it could not be done now.
pub fn prune(store: &Store, which: Which, wait: bool) -> Result<Option<Pruned>, StoreError> {
    let Some(_lock) = store.lock_alone(wait)? else { return Ok(None) };
    let mut pruned = Pruned { images: remove_images(store, which)?, ..Pruned::default() };
    let reach = reachable(store)?;
    for (digest, path, size) in blobs(store)? {
        if !reach.blobs.contains_key(&digest) {
            fs::remove_file(&path).map_err(fail("remove", &path))?;
            pruned.blobs += 1;
            pruned.bytes += size;
        }
    }
    for (layer, path) in unpacked(store)? {
        if !layer.is_needed(&reach) {
            remove_tree(&path)?;
            pruned.layers += 1;
        }
    }
    for path in leftovers(store)? {
        pruned.bytes +=
            fs::symlink_metadata(&path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
        remove_tree(&path)?;
        pruned.leftovers += 1;
    }
    Ok(Some(pruned))
}

/// Removes what processes left in the midst of their work that no later one goes on with, unless somebody brings
/// something in just now. Answers with how many there were.
pub fn sweep(store: &Store) -> Result<usize, StoreError> {
    let Some(lock) = store.lock_alone(false)? else { return Ok(0) };
    let mut dead = leftovers(store)?;
    // Their names are nobody's any more: they go without holding up anybody.
    drop(lock);
    dead.retain(|path| path.extension().is_none_or(|extension| extension != "partial"));
    dead.iter().try_for_each(|path| remove_tree(path))?;
    Ok(dead.len())
}

fn remove_images(store: &Store, which: Which) -> Result<usize, StoreError> {
    if which == Which::None {
        // Referrers go with what they speak of.
        return drop_orphans(store);
    }
    let removed = store.edit(|index| {
        let before = index.manifests.len();
        index.manifests.retain(|entry| {
            which == Which::Unnamed
                && (entry.ref_name().is_some() || matches!(subject_of(store, entry), Ok(Some(_))))
        });
        Ok(before - index.manifests.len())
    })?;
    Ok(removed + drop_orphans(store)?)
}

/// Removes referrers whose subject nobody has any more, until none is left.
fn drop_orphans(store: &Store) -> Result<usize, StoreError> {
    let mut dropped = 0;
    loop {
        let entries = store.entries()?;
        let mut known: BTreeSet<Digest> = BTreeSet::new();
        for entry in &entries {
            known.insert(entry.digest);
            if media_type::is_index(&entry.media_type) && store.has(entry) {
                let index = ImageIndex::parse(&store.read(entry, MAX_MANIFEST_BYTES)?)?;
                known.extend(index.manifests.iter().map(|inner| inner.digest));
            }
        }
        let mut orphans = BTreeSet::new();
        // The name of a signature keeps nothing: it is found by its image alone.
        for entry in entries.iter().filter(|entry| !is_kept_by_name(entry)) {
            if subject_of(store, entry)?.is_some_and(|(subject, _)| !known.contains(&subject)) {
                orphans.insert(entry.digest);
            }
        }
        if orphans.is_empty() {
            return Ok(dropped);
        }
        dropped += orphans.len();
        store.edit(|index| {
            index.manifests.retain(|entry| is_kept_by_name(entry) || !orphans.contains(&entry.digest));
            Ok(())
        })?;
    }
}

fn is_kept_by_name(entry: &Descriptor) -> bool {
    entry.ref_name().is_some_and(|name| crate::companions::subject_of_name(name).is_none())
}

/// All that the index and the leases reach.
pub fn reachable(store: &Store) -> Result<Reach, StoreError> {
    let mut reach = Reach::default();
    store.entries()?.iter().try_for_each(|entry| reach.add(store, entry))?;
    crate::lease::held(store)?
        .iter()
        .filter(|held| store.has(held))
        .try_for_each(|held| reach.add(store, held))?;
    Ok(reach)
}

fn blobs(store: &Store) -> Result<Vec<(Digest, PathBuf, u64)>, StoreError> {
    let directory = store.path().join("blobs/sha256");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(fail("read", &directory))? {
        let entry = entry.map_err(fail("read", &directory))?;
        let size = entry.metadata().map_or(0, |meta| meta.len());
        if let Ok(digest) = entry.file_name().to_string_lossy().parse::<Digest>() {
            found.push((digest, entry.path(), size));
        }
    }
    found.sort();
    Ok(found)
}

/// A layer that is unpacked.
enum Unpacked {
    /// Alone, by what it unpacks to.
    Alone(Digest),
    /// For one chain of layers.
    InChain(Digest),
}

impl Unpacked {
    fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix(CHAIN) {
            Some(chain_id) => chain_id.parse().ok().map(Self::InChain),
            None => name.parse().ok().map(Self::Alone),
        }
    }

    fn is_needed(&self, reach: &Reach) -> bool {
        match self {
            Self::Alone(diff_id) => reach.diff_ids.contains(diff_id),
            Self::InChain(chain_id) => reach.chain_ids.contains(chain_id),
        }
    }
}

fn unpacked(store: &Store) -> Result<Vec<(Unpacked, PathBuf)>, StoreError> {
    let directory = store.path().join("layers");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(fail("read", &directory))?.flatten() {
        if let Some(layer) = Unpacked::parse(&entry.file_name().to_string_lossy()) {
            found.push((layer, entry.path()));
        }
    }
    Ok(found)
}

/// What lies in `tmp/` and belongs to nobody who lives.
fn leftovers(store: &Store) -> Result<Vec<PathBuf>, StoreError> {
    let directory = store.path().join("tmp");
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(fail("read", &directory))?.flatten() {
        let path = entry.path();
        let held = if path.is_dir() { path.join("lock") } else { path.clone() };
        let free = match fs::File::open(&held) {
            Ok(file) => file.try_lock().is_ok(),
            Err(_) => true,
        };
        if free {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    if !path.is_dir() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", path)(error)),
            _ => Ok(()),
        };
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    Ok(Root::open(parent)?.remove_dir_all(&name.to_string_lossy())?)
}

/// What a store takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries of the index, referrers included.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Bytes of blobs that no image needs.
    pub unneeded_bytes: u64,
    /// Layers that are unpacked, too.
    pub layers: u64,
    /// The room that their files take on the disk.
    pub layer_bytes: u64,
}

/// Adds up what a store takes.
pub fn usage(store: &Store) -> Result<Usage, StoreError> {
    let _lock = store.lock_shared()?;
    let reach = reachable(store)?;
    let mut usage = Usage { images: store.entries()?.len() as u64, ..Usage::default() };
    for (digest, _, size) in blobs(store)? {
        usage.blobs += 1;
        usage.blob_bytes += size;
        if !reach.blobs.contains_key(&digest) {
            usage.unneeded_bytes += size;
        }
    }
    for (_, path) in unpacked(store)? {
        usage.layers += 1;
        usage.layer_bytes += room(&path)?;
    }
    Ok(usage)
}

/// Bytes that a directory's files take on the disk.
fn room(top: &Path) -> Result<u64, StoreError> {
    let (mut bytes, mut directories) = (0, vec![top.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(fail("read", &directory))? {
            let entry = entry.map_err(fail("read", &directory))?;
            let meta = entry.metadata().map_err(fail("read", &directory))?;
            if meta.is_dir() {
                directories.push(entry.path());
            }
            bytes += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
        }
    }
    Ok(bytes)
}

/// Something in the store that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether an image suffers from it; else it only takes room, and prune removes it.
    pub broken: bool,
    /// What it is.
    pub text: String,
}

/// Looks at everything: every blob is hashed.
pub fn check(store: &Store) -> Result<Vec<Finding>, StoreError> {
    let _lock = store.lock_shared()?;
    let mut findings = Vec::new();
    let mut reach = Reach::default();
    for entry in store.entries()? {
        let name = entry.ref_name().map_or_else(|| entry.digest.to_string(), str::to_owned);
        if let Err(error) = check_complete(store, &entry).and_then(|()| reach.add(store, &entry)) {
            findings.push(Finding { broken: true, text: format!("image {name}: {error}") });
        }
    }
    for (digest, path, size) in blobs(store)? {
        if !reach.blobs.contains_key(&digest) {
            findings.push(Finding {
                broken: false,
                text: format!("blob {digest}: {size} bytes that no image needs"),
            });
        }
        let found = hash(&path)?;
        if found != digest {
            let broken = reach.blobs.contains_key(&digest);
            findings
                .push(Finding { broken, text: format!("blob {digest}: its bytes have the digest {found}") });
        }
    }
    for (layer, path) in unpacked(store)? {
        if !layer.is_needed(&reach) {
            let text = format!("unpacked layer {}: no image needs it", path.display());
            findings.push(Finding { broken: false, text });
        }
    }
    for path in leftovers(store)? {
        let text = format!("{}: left by a process that is gone", path.display());
        findings.push(Finding { broken: false, text });
    }
    Ok(findings)
}

fn hash(path: &Path) -> Result<Digest, StoreError> {
    let mut file = fs::File::open(path).map_err(fail("open", path))?;
    let mut digest = DigestWriter::new(io::sink());
    io::copy(&mut file, &mut digest).map_err(fail("read", path))?;
    Ok(digest.finish().1)
}
