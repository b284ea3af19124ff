//! Registries: images travel between stores over HTTP.
//!
//! [`client`] pulls from and pushes to any registry, [`server`] is a registry over a store. Keeping blobs is
//! `store`'s work, reading names and manifests `oci`'s.
//!
//! Spec: OCI distribution-spec 1.1.
#![forbid(unsafe_code)]

pub mod client;
pub mod credentials;
pub mod error;
pub mod server;

pub use error::RegistryError;
