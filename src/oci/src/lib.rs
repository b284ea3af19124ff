//! OCI images as values: configuration, manifest and index, and their exact bytes.
//!
//! Start with [`ImageConfig`]. Writing a layout to a disk is `tree`'s work, talking to registries
//! `registry`'s.
//!
//! Spec: OCI image-spec 1.1.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use knarr_base::{Architecture, Digest, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

/// Media types of the OCI image specification.
pub mod media_type {
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer that is a plain tarball.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
}

/// Points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Notes about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Points to `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new() }
    }
}

/// A layer: its blob, and the digest of what the blob unpacks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the tarball before compression.
    pub diff_id: Digest,
    /// What made it, for `history`.
    pub created_by: String,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// For which machines.
    pub architecture: Architecture,
    /// When it was made.
    pub created: Timestamp,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// What runs when nothing is named.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// The bytes of the configuration blob.
    #[must_use]
    pub fn to_bytes(&self, layers: &[Layer]) -> Vec<u8> {
        let (architecture, variant) = self.architecture.oci();
        let created = self.created.to_string();
        let history: Vec<Value> =
            layers.iter().map(|layer| json!({"created": created, "created_by": layer.created_by})).collect();
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let mut config = json!({"created": created, "architecture": architecture});
        if let Some(variant) = variant {
            config["variant"] = json!(variant);
        }
        config["os"] = json!("linux");
        config["config"] = json!({"Env": self.env, "Cmd": self.cmd, "Labels": self.labels});
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["history"] = json!(history);
        config.to_string().into_bytes()
    }
}

/// The bytes of a manifest.
#[must_use]
pub fn manifest_bytes(config: &Descriptor, layers: &[Layer]) -> Vec<u8> {
    let layers: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": layers})
        .to_string()
        .into_bytes()
}

/// The bytes of `index.json` for one manifest known by `name`.
#[must_use]
pub fn index_bytes(manifest: &Descriptor, name: &str, architecture: Architecture) -> Vec<u8> {
    let (oci, variant) = architecture.oci();
    let mut platform = json!({"architecture": oci, "os": "linux"});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    let entry = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": manifest.size,
        "annotations": {"org.opencontainers.image.ref.name": name},
        "platform": platform,
    });
    json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry]}).to_string().into_bytes()
}
