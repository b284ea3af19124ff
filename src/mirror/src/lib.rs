//! Mirrors: from the name of a suite to verified indices and .debs on this machine.
//!
//! Start with [`client::Mirror`]. A [`release::VerifiedRelease`] is made only by checking a
//! signature, an index is fetched only by one, and a .deb is handed on only when its bytes are
//! those that an index promised.
//!
//! Spec: Debian Repository Format.
#![forbid(unsafe_code)]

pub mod cache;
pub mod client;
pub mod error;
mod fetch;
pub mod host;
pub mod release;
pub mod repository;
pub mod suite;
#[cfg(test)]
mod tests_support;

pub use client::{Mirror, Options, PoolFile};
pub use error::MirrorError;
