//! What an image consists of: indexes, manifests and blobs, gathered before anything is moved.
//!
//! [`Tree::gather`] reads documents through its caller and touches nothing else. What is built to waste time
//! or room is refused here.

use std::collections::BTreeSet;

use bytes::Bytes;
use knarr_base::Digest;
use knarr_oci::{
    Descriptor, ImageIndex, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, Platform, media_type,
};

use crate::RegistryError;

/// For which machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that an index lists.
    All,
    /// One of them.
    One(Platform),
}

/// What an image consists of.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Manifests and indexes with their bytes; what an index lists comes before it.
    pub manifests: Vec<(Descriptor, Bytes)>,
    /// Configurations and layers, each once.
    pub blobs: Vec<Descriptor>,
    /// Manifests that an index lists and that are not here.
    pub absent: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
    seen_blobs: BTreeSet<Digest>,
    size_bytes: usize,
}

/// An index lists at most this many, and an image has no more manifests altogether.
const MAX_MANIFESTS: usize = 1000;
const MAX_BLOBS: usize = 10_000;
/// All documents together.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;
/// An index may list indexes, this deep.
const MAX_DEPTH: usize = 4;

/// Gives a document's bytes, or nothing where it may be absent.
pub(crate) type Read<'a> = &'a mut dyn FnMut(&Descriptor) -> Result<Option<Bytes>, RegistryError>;

impl Tree {
    /// Gathers an image from its first document.
    pub(crate) fn gather(
        root: &Descriptor,
        bytes: Bytes,
        which: &Which,
        read: Read<'_>,
    ) -> Result<Self, RegistryError> {
        let mut tree = Self::default();
        tree.visit(root, bytes, which, read, 0)?;
        Ok(tree)
    }

    /// Adds another image, such as one that says something about the first.
    pub(crate) fn add(
        &mut self,
        root: &Descriptor,
        bytes: Bytes,
        read: Read<'_>,
    ) -> Result<(), RegistryError> {
        self.visit(root, bytes, &Which::All, read, 0)
    }

    /// Whether a document is among them.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.seen.contains(&digest)
    }

    fn visit(
        &mut self,
        descriptor: &Descriptor,
        bytes: Bytes,
        which: &Which,
        read: Read<'_>,
        depth: usize,
    ) -> Result<(), RegistryError> {
        let refuse = |reason: String| RegistryError::Answer { what: descriptor.digest.to_string(), reason };
        if !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        if self.manifests.len() + depth >= MAX_MANIFESTS {
            return Err(refuse(format!("the image has more than {MAX_MANIFESTS} manifests")));
        }
        self.size_bytes += bytes.len();
        if self.size_bytes > MAX_DOCUMENT_BYTES {
            return Err(refuse(format!("the image's manifests are larger than {MAX_DOCUMENT_BYTES} bytes")));
        }
        if media_type::is_index(&descriptor.media_type) {
            if depth == MAX_DEPTH {
                return Err(refuse(format!("its indexes are nested more than {MAX_DEPTH} deep")));
            }
            self.visit_index(descriptor, &bytes, which, read, depth)?;
        } else {
            self.visit_manifest(descriptor, &bytes)?;
        }
        self.manifests.push((descriptor.clone(), bytes));
        Ok(())
    }

    fn visit_index(
        &mut self,
        descriptor: &Descriptor,
        bytes: &[u8],
        which: &Which,
        read: Read<'_>,
        depth: usize,
    ) -> Result<(), RegistryError> {
        let index = ImageIndex::parse(bytes)?;
        if index.manifests.len() > MAX_MANIFESTS {
            let (what, count) = (descriptor.digest.to_string(), index.manifests.len());
            let reason = format!("the index lists {count} manifests, more than {MAX_MANIFESTS}");
            return Err(RegistryError::Answer { what, reason });
        }
        let entries = match which {
            Which::All => index.manifests,
            Which::One(platform) => vec![knarr_store::image::pick(descriptor, &index, platform)?],
        };
        for entry in entries {
            let is_known =
                media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type);
            if self.has(entry.digest) || !is_known {
                continue;
            }
            if entry.size > MAX_MANIFEST_BYTES {
                return Err(RegistryError::TooLarge {
                    what: format!("manifest {}", entry.digest),
                    limit_bytes: MAX_MANIFEST_BYTES,
                });
            }
            match read(&entry)? {
                Some(bytes) => self.visit(&entry, bytes, which, read, depth + 1)?,
                None => self.absent.push(entry),
            }
        }
        Ok(())
    }

    fn visit_manifest(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), RegistryError> {
        let manifest = Manifest::parse(bytes)?;
        if media_type::is_config(&manifest.config.media_type) && manifest.config.size > MAX_CONFIG_BYTES {
            return Err(RegistryError::TooLarge {
                what: format!("configuration {}", manifest.config.digest),
                limit_bytes: MAX_CONFIG_BYTES,
            });
        }
        for blob in std::iter::once(manifest.config).chain(manifest.layers) {
            if self.seen_blobs.insert(blob.digest) {
                self.blobs.push(blob);
            }
        }
        if self.blobs.len() > MAX_BLOBS {
            return Err(RegistryError::Answer {
                what: descriptor.digest.to_string(),
                reason: format!("the image has more than {MAX_BLOBS} layers"),
            });
        }
        Ok(())
    }
}
