//! Images: a manifest, its configuration and its layers.

use std::io::Read;

use knarr_base::Digest;
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, Platform, media_type,
};
use knarr_tree::changeset::{Listing, limits_of};

use crate::{Store, StoreError, layers};

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What the manifest says.
    pub manifest: Manifest,
    /// What its configuration says.
    pub config: ImageConfig,
}

impl Image {
    pub(crate) fn load(
        store: &Store,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<Self, StoreError> {
        let chosen = choose(store, descriptor, platform)?;
        let manifest = Manifest::parse(&store.read(&chosen, MAX_MANIFEST_BYTES)?)?;
        if !media_type::is_config(&manifest.config.media_type) {
            return Err(StoreError::BadImage {
                image: chosen.digest,
                reason: format!("it is no image, but an artifact of {}", manifest.config.media_type),
            });
        }
        let config = ImageConfig::parse(&store.read(&manifest.config, MAX_CONFIG_BYTES)?)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(StoreError::BadImage {
                image: chosen.digest,
                reason: format!(
                    "it has {} layers, its configuration {}",
                    manifest.layers.len(),
                    config.rootfs.diff_ids.len()
                ),
            });
        }
        Ok(Self { descriptor: chosen, manifest, config })
    }

    /// The layers with the digests of what they unpack to, the lowest first.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, Digest)> {
        self.manifest.layers.iter().zip(self.config.rootfs.diff_ids.iter().copied())
    }

    /// All its paths. `see` is given the content of each file of each layer, with the layer's number.
    pub fn listing(
        &self,
        store: &Store,
        see: &mut dyn FnMut(usize, &str, &mut dyn Read) -> std::io::Result<()>,
    ) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for (number, layer) in self.manifest.layers.iter().enumerate() {
            let mut tar = layers::open(store, layer)?;
            let mut see = |path: &str, content: &mut dyn Read| see(number, path, content);
            listing.add_layer(&mut tar, &limits_of(layer.size), &mut see)?;
        }
        Ok(listing)
    }
}

/// The manifest for a platform: of an index the first entry that serves it.
pub fn choose(store: &Store, descriptor: &Descriptor, platform: &Platform) -> Result<Descriptor, StoreError> {
    let mut descriptor = descriptor.clone();
    // An index may list indexes; deeper than this it is made to waste time.
    for _ in 0..4 {
        if !media_type::is_index(&descriptor.media_type) {
            return Ok(descriptor);
        }
        let index = ImageIndex::parse(&store.read(&descriptor, MAX_MANIFEST_BYTES)?)?;
        let picked = pick(&descriptor, &index, platform)?;
        let mut here = index.manifests.iter().filter(|entry| store.has(entry)).peekable();
        // An image may have been pulled for one machine only, and be wanted for another.
        if !store.has(&picked) && here.peek().is_some() {
            return Err(no_platform(&descriptor, here, platform));
        }
        descriptor = picked;
    }
    Err(StoreError::BadImage {
        image: descriptor.digest,
        reason: "its indexes are nested too deep".to_owned(),
    })
}

/// An index's entry for a platform; the only one that has none serves every platform.
pub fn pick(of: &Descriptor, index: &ImageIndex, platform: &Platform) -> Result<Descriptor, StoreError> {
    let serves =
        |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|offered| offered.serves(platform));
    if let Some(entry) = index.manifests.iter().find(serves) {
        return Ok(entry.clone());
    }
    if let [only] = index.manifests.as_slice()
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    Err(no_platform(of, index.manifests.iter(), platform))
}

fn no_platform<'a>(
    of: &Descriptor,
    entries: impl Iterator<Item = &'a Descriptor>,
    wanted: &Platform,
) -> StoreError {
    // What builders attest is listed for machines that nobody has.
    let offered =
        entries.filter_map(|entry| entry.platform.as_ref()).filter(|offered| offered.os != "unknown");
    StoreError::NoPlatform {
        name: of.ref_name().map_or_else(|| of.digest.to_string(), str::to_owned),
        wanted: wanted.to_string(),
        offered: offered.map(ToString::to_string).collect(),
    }
}
