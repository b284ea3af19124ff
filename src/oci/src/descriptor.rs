//! Descriptors: what points to a blob, and promises its size and digest.
//!
//! Spec: OCI image-spec, "OCI Content Descriptors".

use std::collections::BTreeMap;

use knarr_base::Digest;
use serde::{Deserialize, Serialize};

use crate::{Platform, annotation};

/// Points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What an artifact is that has no image configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes about it.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::config::or_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// For which machines it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Other places to fetch it from.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::config::or_default")]
    pub urls: Vec<String>,
}

impl Descriptor {
    /// Points to a blob of which digest and size are known.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: BTreeMap::new(),
            platform: None,
            urls: Vec::new(),
        }
    }

    /// Points to `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The name that a layout knows it by.
    #[must_use]
    pub fn ref_name(&self) -> Option<&str> {
        self.annotations.get(annotation::REF_NAME).map(String::as_str)
    }

    /// The same pointer without notes.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { platform: self.platform.clone(), ..Self::new(&self.media_type, self.digest, self.size) }
    }
}
