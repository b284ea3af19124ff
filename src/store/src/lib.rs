//! The store: images on this machine, in an OCI layout that other tools read as it is.
//!
//! Start with [`Store`]. Blobs come in through an [`Ingest`], names through [`Ingest::add`], and what no
//! name reaches is removed by [`gc`]. Several processes may use one store at once; a kill at any moment
//! leaves a store that opens, and at most files under `tmp/`.
//!
//! Spec: OCI image-spec, "Image Layout Specification"; docs/formats/store.md.
#![forbid(unsafe_code)]

pub mod archive;
pub mod companions;
pub mod error;
pub mod gc;
pub mod image;
pub mod ingest;
pub mod layers;
pub mod lease;
pub mod partial;
pub mod store;

pub use companions::{Companion, companions};
pub use error::StoreError;
pub use image::Image;
pub use ingest::{Artifact, BlobWriter, Ingest};
pub use partial::Partial;
pub use store::{Found, Store};

#[cfg(test)]
mod tests;
