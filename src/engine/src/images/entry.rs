//! The store's entries, gathered: one image, all its names.
//!
//! [`entries`] lists them without what only speaks of images (signatures, lists of packages), and [`find`] is how all
//! requests find theirs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Mutex, PoisonError};

use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Reference, manifest, media_type};
use knarr_store::store::familiar;
use knarr_store::{Found, Image, Store, StoreError, layers};

use super::glob;
use crate::EngineError;
use crate::containers::platform_of;

/// An image with all its names.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its manifest or index.
    pub(crate) descriptor: Descriptor,
    /// Full names, sorted: with a tag, or with a digest.
    pub(crate) names: Vec<String>,
    /// For this machine, or else for the first that it is here for.
    pub(crate) image: Option<Image>,
}

impl Entry {
    /// An image as it is found without looking for its names.
    pub(crate) fn unnamed(store: &Store, descriptor: &Descriptor) -> Result<Self, EngineError> {
        let image = image_of(store, descriptor)?;
        Ok(Self { descriptor: descriptor.bare(), names: Vec::new(), image: Some(image) })
    }

    /// `sha256:…`
    pub(crate) fn id(&self) -> String {
        self.descriptor.digest.to_string()
    }

    /// When it was made, in seconds since the epoch; 0 when nobody knows.
    pub(crate) fn created(&self) -> i64 {
        create_seconds(self.image.as_ref().and_then(|image| image.config.created.as_deref()))
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.image.as_ref().map_or(&NONE, |image| &image.config.config.labels)
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels().get(key).map(String::as_str)
    }

    /// Names with a tag, as people type them.
    pub(crate) fn repo_tags(&self) -> Vec<String> {
        self.names.iter().filter(|name| !name.contains('@')).map(|name| familiar(name)).collect()
    }

    /// `name@sha256:…` of each repository that it has a name in.
    pub(crate) fn repo_digests(&self) -> Vec<String> {
        let id = self.id();
        let mut digests: Vec<String> = self
            .names
            .iter()
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| format!("{}@{id}", name.familiar_name()))
            .collect();
        digests.sort();
        digests.dedup();
        digests
    }

    /// Whether one of its names fits a pattern.
    pub(crate) fn fits(&self, pattern: &str) -> bool {
        self.names.iter().any(|name| name_fits(name, pattern))
    }

    /// What its unpacked layers hold; a layer that is not unpacked counts with its compressed size.
    pub(crate) fn size_bytes(&self, store: &Store) -> u64 {
        let Some(image) = &self.image else { return 0 };
        let size =
            |(layer, diff_id): (&Descriptor, Digest)| unpacked_bytes(store, diff_id).unwrap_or(layer.size);
        image.layers().map(size).fold(0, u64::saturating_add)
    }
}

/// Whether a full name fits a pattern of `reference`: as people type it, with its tag or without.
#[must_use]
pub fn name_fits(name: &str, pattern: &str) -> bool {
    let shown = familiar(name);
    let bare = Reference::parse(name).map(|name| name.familiar_name()).unwrap_or_default();
    glob::fits(pattern, &shown) || glob::fits(pattern, &bare)
}

/// All images; what is none or is broken is left out.
pub(crate) fn entries(store: &Store) -> Result<Vec<Entry>, EngineError> {
    let mut found: BTreeMap<Digest, Entry> = BTreeMap::new();
    for descriptor in store.entries()? {
        let name = descriptor.ref_name().map(str::to_owned);
        let speaks =
            name.as_deref().is_some_and(|name| knarr_store::companions::subject_of_name(name).is_some());
        if descriptor.artifact_type.is_some() || speaks {
            continue;
        }
        if let Some(known) = found.get_mut(&descriptor.digest) {
            known.names.extend(name);
            continue;
        }
        if let Ok(mut entry) = Entry::unnamed(store, &descriptor) {
            entry.names.extend(name);
            found.insert(descriptor.digest, entry);
        }
    }
    let mut all: Vec<Entry> = found.into_values().collect();
    all.iter_mut().for_each(|entry| entry.names.sort());
    Ok(all)
}

/// Finds an image by name, id, or the beginning of its id.
pub(crate) fn find(store: &Store, name: &str) -> Result<Found, EngineError> {
    store.find(name).map_err(|error| match error {
        StoreError::NoImage { .. } => {
            let shown =
                Reference::parse(name).map_or_else(|_| name.to_owned(), |full| familiar(&full.to_string()));
            EngineError::not_found(format!("No such image: {shown}"))
        }
        StoreError::Ambiguous { .. } => EngineError::invalid(error.to_string()),
        error => error.into(),
    })
}

/// The image for this machine, or for the first machine that it is here for.
pub(crate) fn image_of(store: &Store, descriptor: &Descriptor) -> Result<Image, EngineError> {
    let error = match store.image(descriptor, &platform_of(None)?) {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    if !media_type::is_index(&descriptor.media_type) {
        return Err(error.into());
    }
    let index = ImageIndex::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
    for entry in index.manifests.iter().filter(|entry| store.has(entry)) {
        if let Some(platform) = entry.platform.as_ref().filter(|platform| platform.os != "unknown")
            && let Ok(image) = store.image(entry, platform)
        {
            return Ok(image);
        }
    }
    Err(error.into())
}

/// A manifest or index that is here, whether or not it has a name.
pub(crate) fn descriptor_of(store: &Store, id: &str) -> Result<Descriptor, EngineError> {
    let gone = || EngineError::not_found(format!("No such image: {id}"));
    let digest: Digest = id.parse().map_err(|_| gone())?;
    let size = store.blob_size(digest).ok_or_else(gone)?;
    let bytes = store.read(&Descriptor::new("", digest, size), MAX_MANIFEST_BYTES)?;
    Ok(Descriptor::new(manifest::sniff(&bytes).ok_or_else(gone)?, digest, size))
}

/// What a layer's unpacked files hold. It is counted once: what has a digest does not change.
pub(crate) fn unpacked_bytes(store: &Store, diff_id: Digest) -> Option<u64> {
    static KNOWN: Mutex<Option<HashMap<Digest, u64>>> = Mutex::new(None);
    let path = layers::overlay_path(store, diff_id);
    if fs::symlink_metadata(&path).is_err() {
        return None;
    }
    let lock = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().as_ref().and_then(|known| known.get(&diff_id)) {
        return Some(*known);
    }
    let bytes = crate::volumes::tree_bytes(&path);
    lock().get_or_insert_default().insert(diff_id, bytes);
    Some(bytes)
}

/// A name of an image as docker's clients may write it, with docker's words for what is none.
pub(crate) fn parse_reference(text: &str) -> Result<Reference, EngineError> {
    Reference::parse(text).map_err(|_| {
        let plain = text.split('@').next().unwrap_or(text);
        let name = match plain.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => plain,
        };
        let path = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
            _ => name,
        };
        if path.chars().any(|c| c.is_ascii_uppercase())
            && Reference::parse(&text.replacen(path, &path.to_ascii_lowercase(), 1)).is_ok()
        {
            let library = if path == name && !path.contains('/') { "library/" } else { "" };
            return EngineError::invalid(format!(
                "invalid reference format: repository name ({library}{path}) must be lowercase"
            ));
        }
        EngineError::invalid("invalid reference format")
    })
}

/// Seconds since the epoch of an RFC 3339 text.
pub(crate) fn create_seconds(text: Option<&str>) -> i64 {
    text.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}
