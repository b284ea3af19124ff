//! Signatures of images, as cosign makes and checks them with keys.
//!
//! [`sign`] signs what a name stands for, [`verify`] looks whether a key signed it. A signature is an image of its own:
//! each layer is a signed text that names the digest, and carries the signature as a note. It has the tag that cosign
//! looks for, and its subject makes it a referrer, too. Keys are [`keys`]' work.
//!
//! Spec: cosign's SIGNATURE_SPEC ("simple signing" over ECDSA P-256 and SHA-256); docs/formats/provenance.md.

pub mod keys;

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageConfig, MAX_MANIFEST_BYTES, Manifest, Reference, media_type};
use knarr_store::companions::signature_tag;
use knarr_store::{Ingest, Store};
use serde::{Deserialize, Serialize};

pub use keys::{PrivateKey, PublicKey};

use crate::FactoryError;

/// What a signed text is.
pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What signatures are as a referrer.
pub const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The note that carries a signature.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;
/// More signatures of one image are nobody's wish.
const MAX_SIGNATURES: usize = 100;

/// Why something cannot be signed, or is not signed as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A key file that is none.
    #[error("the key {name} cannot be used: {reason}")]
    BadKey {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The password does not open the key.
    #[error("the key {name} does not open with this password")]
    WrongPassword {
        /// The file.
        name: String,
    },
    /// A key file that would be overwritten.
    #[error("{path} is there already: a key that is lost cannot be made again")]
    KeyExists {
        /// The file.
        path: PathBuf,
    },
    /// An image without any signature.
    #[error("image {image} is not signed")]
    NotSigned {
        /// Its manifest or index.
        image: Digest,
    },
    /// An image that others signed, or whose signatures were changed.
    #[error("none of the {} signatures of image {image} is good: {}", reasons.len(), reasons.join("; "))]
    NotVerified {
        /// Its manifest or index.
        image: Digest,
        /// Of each signature what is wrong with it.
        reasons: Vec<String>,
    },
    /// The machine has no random numbers, or refuses to sign.
    #[error("cannot {doing}: the machine's random numbers failed")]
    Random {
        /// What was tried.
        doing: &'static str,
    },
}

/// The text that is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What counts.
    pub critical: Critical,
    /// Notes.
    pub optional: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What counts of a signed text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Critical {
    /// What the image is called.
    pub identity: Identity,
    /// The image.
    pub image: Signed,
    /// Always `cosign container image signature`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What the image is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// Registry and repository.
    pub docker_reference: String,
}

/// The image that is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signed {
    /// Digest of its manifest or index.
    pub docker_manifest_digest: Digest,
}

impl Payload {
    /// The text for an image of this name.
    #[must_use]
    pub fn new(name: &Reference, image: Digest) -> Self {
        // Others know Docker Hub by the name of its index.
        let registry = if name.registry() == "docker.io" { "index.docker.io" } else { name.registry() };
        Self {
            critical: Critical {
                identity: Identity { docker_reference: format!("{registry}/{}", name.repository()) },
                image: Signed { docker_manifest_digest: image },
                kind: KIND.to_owned(),
            },
            optional: None,
        }
    }
}

/// Signs an image under its name. A signature that the key made before is answered with, and no other made.
pub fn sign(
    ingest: &Ingest<'_>,
    image: &Descriptor,
    name: &Reference,
    key: &PrivateKey,
) -> Result<Descriptor, FactoryError> {
    let store = ingest.store();
    let old = signatures(store, image.digest)?;
    let payload = Payload::new(name, image.digest);
    let mut layers = Vec::new();
    for signature in &old {
        let is_ours =
            check(store, signature, image.digest, &key.public()).is_ok_and(|known| known == payload);
        if is_ours && let Some(known) = find(store, image.digest)?.into_iter().next() {
            return Ok(known);
        }
        layers.push(signature.clone());
    }
    let bytes = serde_json::to_vec(&payload).map_err(|error| FactoryError::Request(error.to_string()))?;
    let mut layer = ingest.put(PAYLOAD, &bytes)?;
    layer.annotations.insert(SIGNATURE.to_owned(), BASE64_STANDARD.encode(key.sign(&bytes)?));
    layers.push(layer);
    let name = name.with_tag(&signature_tag(image.digest)).map_err(knarr_store::StoreError::from)?;
    put(ingest, image, layers, &name.to_string())
}

fn put(
    ingest: &Ingest<'_>,
    image: &Descriptor,
    layers: Vec<Descriptor>,
    name: &str,
) -> Result<Descriptor, FactoryError> {
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.digest).collect();
    let config = ingest.put(media_type::CONFIG, &config.to_bytes())?;
    let mut manifest = Manifest::of_image(config, layers);
    manifest.artifact_type = Some(ARTIFACT.to_owned());
    manifest.subject = Some(Descriptor { platform: None, ..image.bare() });
    let mut descriptor = ingest.put(media_type::MANIFEST, &manifest.to_bytes())?;
    descriptor.artifact_type = manifest.artifact_type;
    let entries = ingest.store().entries()?;
    let old = entries.iter().find(|entry| entry.ref_name() == Some(name));
    ingest.add(Some(name), &descriptor)?;
    // What it replaces says nothing that it does not say.
    if let Some(old) = old.filter(|old| old.digest != descriptor.digest) {
        ingest.store().forget(old.digest)?;
    }
    Ok(descriptor)
}

/// Looks whether a key signed an image; answers with what it signed.
pub fn verify(store: &Store, image: Digest, key: &PublicKey) -> Result<Vec<Payload>, FactoryError> {
    let signatures = signatures(store, image)?;
    if signatures.is_empty() {
        return Err(SignError::NotSigned { image }.into());
    }
    let (mut good, mut reasons) = (Vec::new(), Vec::new());
    for signature in &signatures {
        match check(store, signature, image, key) {
            Ok(payload) => good.push(payload),
            Err(reason) => reasons.push(reason),
        }
    }
    if good.is_empty() { Err(SignError::NotVerified { image, reasons }.into()) } else { Ok(good) }
}

/// The manifests that carry signatures of an image.
fn find(store: &Store, image: Digest) -> Result<Vec<Descriptor>, FactoryError> {
    let mut found = store.referrers(image)?;
    found.retain(|referrer| {
        referrer.artifact_type.as_deref().is_some_and(|kind| kind == ARTIFACT || media_type::is_config(kind))
    });
    Ok(found)
}

fn signatures(store: &Store, image: Digest) -> Result<Vec<Descriptor>, FactoryError> {
    let mut signatures: Vec<Descriptor> = Vec::new();
    for manifest in find(store, image)? {
        let bytes = store.read(&manifest, MAX_MANIFEST_BYTES)?;
        let manifest = Manifest::parse(&bytes).map_err(knarr_store::StoreError::from)?;
        signatures.extend(manifest.layers.into_iter().filter(|layer| layer.media_type == PAYLOAD));
    }
    signatures.truncate(MAX_SIGNATURES);
    Ok(signatures)
}

/// What is wrong with a signature, if something is.
fn check(store: &Store, signature: &Descriptor, image: Digest, key: &PublicKey) -> Result<Payload, String> {
    let bytes = store.read(signature, MAX_PAYLOAD_BYTES).map_err(|error| error.to_string())?;
    let encoded = signature.annotations.get(SIGNATURE).ok_or("it carries no signature")?;
    let raw = BASE64_STANDARD.decode(encoded).map_err(|error| format!("it is no base64: {error}"))?;
    if !key.verifies(&bytes, &raw) {
        return Err("another key made it, or the text was changed".to_owned());
    }
    // Nothing of the text is believed before this line.
    let payload: Payload =
        serde_json::from_slice(&bytes).map_err(|error| format!("it is of another form: {error}"))?;
    if payload.critical.kind != KIND {
        return Err(format!("it is a {:?}, expected {KIND:?}", payload.critical.kind));
    }
    let signed = payload.critical.image.docker_manifest_digest;
    if signed != image {
        return Err(format!("it is of image {signed}"));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests;
