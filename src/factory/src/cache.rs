//! Keys and records: what was done before is not done again.
//!
//! A [`Key`] is the digest of all that a step depends on; its record names the layers that it made. The layers
//! themselves are blobs of the store: a record whose layers were pruned counts as none.

use std::io::Write;

use knarr_base::{Digest, DigestWriter};
use knarr_mirror::cache::Cache;
use knarr_oci::Descriptor;
use knarr_store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::FactoryError;

/// A layer, and what made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of its tarball.
    pub diff_id: Digest,
    /// For the image's history.
    pub created_by: String,
}

/// Grows with each part that a step depends on.
pub struct KeyMaker(DigestWriter<std::io::Sink>);

/// The digest of all that a step depends on.
pub type Key = Digest;

/// Another version of this program may make other bytes.
const FORMAT: &str = concat!("knarr-build-1 ", env!("CARGO_PKG_VERSION"));

impl KeyMaker {
    /// A key of a kind of step.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self(DigestWriter::new(std::io::sink())).with(FORMAT.as_bytes()).with(kind.as_bytes())
    }

    /// A key of a tree: the same whatever version of this program makes it.
    #[must_use]
    pub fn tree() -> Self {
        Self(DigestWriter::new(std::io::sink())).with(b"knarr-tree-1")
    }

    /// Adds a part; parts never run into each other.
    #[must_use]
    pub fn with(mut self, part: &[u8]) -> Self {
        // Hashing cannot fail.
        let _ = self.0.write_all(&(part.len() as u64).to_le_bytes());
        let _ = self.0.write_all(part);
        self
    }

    /// Adds a value by its JSON.
    #[must_use]
    pub fn with_json(self, value: &impl Serialize) -> Self {
        // The factory's values have string keys and nothing that can fail.
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        self.with(&bytes)
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        self.0.finish().1
    }
}

/// The record of a key; none that cannot be read.
pub fn load<T: DeserializeOwned>(cache: &Cache, key: Key) -> Option<T> {
    let bytes = std::fs::read(path(cache, key)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Keeps the record of a key.
pub fn save(cache: &Cache, key: Key, record: &impl Serialize) -> Result<(), FactoryError> {
    let bytes = serde_json::to_vec(record).map_err(|error| FactoryError::Request(error.to_string()))?;
    Ok(cache.write(&path(cache, key), &bytes)?)
}

/// The layers of a key, if all of them are still in the store.
pub fn layers(cache: &Cache, store: &Store, key: Key) -> Option<Vec<LayerRecord>> {
    let layers: Vec<LayerRecord> = load(cache, key)?;
    layers.iter().all(|layer| store.has(&layer.descriptor)).then_some(layers)
}

/// Whether there is a record of a key.
pub fn has(cache: &Cache, key: Key) -> bool {
    path(cache, key).exists()
}

fn path(cache: &Cache, key: Key) -> std::path::PathBuf {
    cache.record_path(key)
}
