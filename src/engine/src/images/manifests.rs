//! The manifests of an image, one for each platform, as far as they are here.
//!
//! Spec: Docker Engine API, `ImageManifestSummary`.

use bollard_stubs::models::{
    ImageManifestSummary, ImageManifestSummaryAttestationData, ImageManifestSummaryImageData,
    ImageManifestSummaryImageDataSize, ImageManifestSummaryKindEnum as Kind, ImageManifestSummarySize,
    OciPlatform,
};
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, media_type,
};
use knarr_store::Store;

use super::{Entry, shown, shown_platform, signed, unpacked_bytes};

/// What a builder says of an image next to it.
const ATTESTS: &str = "vnd.docker.reference.digest";

/// All manifests of an image. `users` are the containers of the one that it is here.
pub(super) fn summaries(store: &Store, entry: &Entry, users: &[String]) -> Vec<ImageManifestSummary> {
    let index = store
        .read(&entry.descriptor, MAX_MANIFEST_BYTES)
        .ok()
        .filter(|_| media_type::is_index(&entry.descriptor.media_type));
    let manifests = match index.and_then(|bytes| ImageIndex::parse(&bytes).ok()) {
        Some(index) => index.manifests,
        None => vec![entry.descriptor.clone()],
    };
    let own = entry.image.as_ref().map(|image| image.descriptor.digest);
    let of = |manifest: &Descriptor| {
        let users = if own == Some(manifest.digest) { users } else { &[] };
        summary(store, manifest, users)
    };
    manifests.iter().map(of).collect()
}

fn summary(store: &Store, descriptor: &Descriptor, users: &[String]) -> ImageManifestSummary {
    let manifest = store.read(descriptor, MAX_MANIFEST_BYTES).ok();
    let manifest = manifest.and_then(|bytes| Manifest::parse(&bytes).ok());
    let blobs: Vec<&Descriptor> =
        manifest.iter().flat_map(|manifest| manifest.layers.iter().chain([&manifest.config])).collect();
    let here = blobs.iter().filter(|blob| store.has(blob)).map(|blob| blob.size);
    let content = here.sum::<u64>() + if manifest.is_some() { descriptor.size } else { 0 };
    let config = manifest.as_ref().and_then(|manifest| config_of(store, manifest));
    let attests = descriptor.annotations.get(ATTESTS).cloned();
    let unpacked = config.as_ref().map_or(0, |config| unpacked(store, config));
    ImageManifestSummary {
        id: descriptor.digest.to_string(),
        descriptor: shown(descriptor),
        available: manifest.is_some() && blobs.iter().all(|blob| store.has(blob)),
        size: ImageManifestSummarySize { total: signed(content + unpacked), content: signed(content) },
        kind: Some(if attests.is_some() { Kind::ATTESTATION } else { Kind::IMAGE }),
        image_data: attests.is_none().then(|| ImageManifestSummaryImageData {
            platform: platform_of(descriptor, config.as_ref()),
            containers: users.to_vec(),
            size: ImageManifestSummaryImageDataSize { unpacked: signed(unpacked) },
        }),
        attestation_data: attests.map(|digest| ImageManifestSummaryAttestationData { _for: digest }),
    }
}

fn config_of(store: &Store, manifest: &Manifest) -> Option<ImageConfig> {
    let is_one = media_type::is_config(&manifest.config.media_type);
    let bytes = store.read(&manifest.config, MAX_CONFIG_BYTES).ok().filter(|_| is_one)?;
    ImageConfig::parse(&bytes).ok()
}

/// What those layers hold that are unpacked.
fn unpacked(store: &Store, config: &ImageConfig) -> u64 {
    let layers = config.rootfs.diff_ids.iter();
    layers.filter_map(|diff_id| unpacked_bytes(store, *diff_id)).fold(0, u64::saturating_add)
}

fn platform_of(descriptor: &Descriptor, config: Option<&ImageConfig>) -> OciPlatform {
    let said = descriptor.platform.as_ref().map(shown_platform);
    said.or_else(|| config.map(|config| shown_platform(&config.platform()))).unwrap_or_default()
}
