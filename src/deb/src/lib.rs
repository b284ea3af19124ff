//! Debian's words: stanzas, versions, relations, Release files, indices, .debs, and choosing packages.
//!
//! Bytes go in and values come out; nothing here reads a file, a clock or the network. Start with
//! [`stanza`] for the text format and [`packages`] for what a suite offers.
//!
//! Spec: Debian Policy; the Debian Repository Format; deb(5), deb822(5), deb-version(7).
#![forbid(unsafe_code)]

pub mod conffiles;
pub mod error;
pub mod package_file;
pub mod packages;
pub mod recode;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod stanza;
pub mod triggers;
pub mod version;

pub use error::DebError;
