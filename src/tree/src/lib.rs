//! File trees: one directory that nothing leads out of, tarballs into it and out of it.
//!
//! Start with [`root::Root`]. Every path is resolved by the kernel inside the root, so whatever an
//! archive or a symbolic link says, nothing outside is touched.
//!
//! Spec: openat2(2); POSIX pax and ustar formats; OCI image layout.
#![forbid(unsafe_code)]

pub mod archive;
pub mod changes;
pub mod changeset;
pub mod compress;
pub mod copy;
pub mod error;
pub mod ext4;
pub mod image;
pub mod layer;
pub mod layout;
pub mod links;
pub mod root;
pub mod unpack;

pub use error::TreeError;
