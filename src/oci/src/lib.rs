//! OCI words: references, descriptors, manifests, indexes and configurations as values.
//!
//! Start with [`Manifest`]. A blob's bytes decide its digest, so what was read is never written again
//! from these types; they are for reading, and for writing what is new. Keeping blobs is `store`'s work,
//! moving them `registry`'s.
//!
//! Spec: OCI image-spec 1.1; Docker Image Specification 1.3 for what docker adds to configurations.
#![forbid(unsafe_code)]

pub mod config;
pub mod descriptor;
pub mod error;
pub mod manifest;
pub mod platform;
pub mod reference;

pub use config::{Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use error::OciError;
pub use manifest::{ImageIndex, Manifest};
pub use platform::Platform;
pub use reference::Reference;

/// Annotations and labels with a meaning of their own.
pub mod annotation {
    /// The name of an image in a layout.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// When it was made.
    pub const CREATED: &str = "org.opencontainers.image.created";
    /// What containerd calls the image.
    pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
    /// In which repository of a registry an image is that has no name.
    pub const REPOSITORY: &str = "dev.knarr.repository";
}

/// Media types.
pub mod media_type {
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// The configuration of what needs none.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// A layer that is a plain tarball.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's name for an index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's name for a manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's name for a configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's name for a layer compressed with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's name for a plain layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

    /// Whether it names an index, OCI's or docker's.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// Whether it names a manifest, OCI's or docker's.
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it names a layer that its maker lets nobody pass on: registries have only where it is to be had.
    #[must_use]
    pub fn is_foreign(media_type: &str) -> bool {
        media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
    }

    /// Whether it names an image configuration, OCI's or docker's.
    #[must_use]
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }
}

/// Manifests, indexes and configurations are read up to this size; registries accept no larger ones.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Configurations may carry large labels.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
