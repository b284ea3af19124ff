//! Manifests and indexes.
//!
//! Spec: OCI image-spec, "Image Manifest" and "Image Index".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Descriptor, MAX_MANIFEST_BYTES, OciError, media_type};

/// One image for one platform, or an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "crate::config::or_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::config::or_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An image of these layers.
    #[must_use]
    pub fn of_image(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads a manifest, OCI's or docker's.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let manifest: Self = parse(bytes, "manifest")?;
        if !manifest.media_type.is_empty() && !media_type::is_manifest(&manifest.media_type) {
            return Err(OciError::WrongType { expected: "image manifest", found: manifest.media_type });
        }
        check_version(manifest.schema_version, "manifest")?;
        Ok(manifest)
    }

    /// The document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Sum of the sizes of layers and configuration in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum::<u64>().saturating_add(self.config.size)
    }
}

/// Several manifests under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it lists.
    #[serde(default, deserialize_with = "crate::config::or_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::config::or_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl ImageIndex {
    /// An index of these manifests.
    #[must_use]
    pub fn of(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index, OCI's or docker's.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let index: Self = parse(bytes, "index")?;
        if !index.media_type.is_empty() && !media_type::is_index(&index.media_type) {
            return Err(OciError::WrongType { expected: "image index", found: index.media_type });
        }
        check_version(index.schema_version, "index")?;
        Ok(index)
    }

    /// The document.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }
}

/// What a manifest's bytes say they are, for answers that come without a type.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        config: Option<serde::de::IgnoredAny>,
    }
    let head: Head = serde_json::from_slice(bytes).ok()?;
    let known =
        [media_type::INDEX, media_type::MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];
    match head.media_type {
        Some(name) => known.into_iter().find(|known| *known == name),
        None if head.manifests.is_some() => Some(media_type::INDEX),
        None if head.config.is_some() => Some(media_type::MANIFEST),
        None => None,
    }
}

fn check_version(version: u32, what: &'static str) -> Result<(), OciError> {
    if version == 2 {
        return Ok(());
    }
    Err(OciError::Malformed { what, reason: format!("its schemaVersion is {version}, expected 2") })
}

pub(crate) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8], what: &'static str) -> Result<T, OciError> {
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(OciError::TooLarge { what, limit_bytes: MAX_MANIFEST_BYTES });
    }
    serde_json::from_slice(bytes).map_err(|error| OciError::Malformed { what, reason: error.to_string() })
}

pub(crate) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    // These types have string keys and nothing that can fail.
    serde_json::to_vec(value).unwrap_or_default()
}
