//! Words every floor shares: digests, architectures, times and sizes.
//!
//! Start with [`Digest`]: what a signed index promises and what a stream of bytes turned out
//! to be are both one. Nothing here reads a file, a clock or the environment.
//!
//! Spec: FIPS 180-4 (SHA-256), Debian Policy 11.1 (architectures), RFC 5322 (dates).
#![forbid(unsafe_code)]

pub mod architecture;
pub mod digest;
pub mod near;
pub mod size;
pub mod time;

pub use architecture::Architecture;
pub use digest::{Digest, DigestReader, DigestWriter};
pub use near::near;
pub use size::HumanSize;
pub use time::Timestamp;
