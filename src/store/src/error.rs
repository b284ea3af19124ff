//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use knarr_base::Digest;
use knarr_oci::OciError;
use knarr_tree::TreeError;

/// A fact that stopped work in the store, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refused something.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory that is something else.
    #[error("{path} is no store: {reason}")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image that is not there.
    #[error("there is no image {name}{}", meant(.near))]
    NoImage {
        /// What was asked for.
        name: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// A short digest that several images share.
    #[error("{prefix:?} is the beginning of several images: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Whom it could mean.
        candidates: Vec<String>,
    },
    /// An index without an image for a platform.
    #[error("{name} has no image for {wanted}, it has: {}", offered.join(", "))]
    NoPlatform {
        /// The image.
        name: String,
        /// What was wanted.
        wanted: String,
        /// What is there.
        offered: Vec<String>,
    },
    /// A blob that is not there.
    #[error("the {what} {digest} is missing")]
    MissingBlob {
        /// What it is to somebody.
        what: String,
        /// Its digest.
        digest: Digest,
    },
    /// A blob with other bytes than promised.
    #[error("the {what} {promised} has other bytes: {found}")]
    WrongBytes {
        /// What it is to somebody.
        what: String,
        /// What was promised.
        promised: String,
        /// What was found.
        found: String,
    },
    /// A document that is larger than any honest one.
    #[error(
        "the blob {digest} has {size_bytes} bytes, a document of its kind at most {limit_bytes}: it is larger than any honest one"
    )]
    TooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size_bytes: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// A layer that unpacks to something else than its configuration says.
    #[error("layer {layer} unpacks to {found}, its image promises {promised}")]
    WrongDiffId {
        /// The layer's blob.
        layer: Digest,
        /// What the configuration says.
        promised: Digest,
        /// What it is.
        found: Digest,
    },
    /// An image that says two things of itself.
    #[error("image {image} is malformed: {reason}")]
    BadImage {
        /// Its manifest.
        image: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// An archive that holds no image.
    #[error("{archive} is no image archive: {reason}")]
    BadArchive {
        /// The archive.
        archive: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A compression that layers do not have.
    #[error(
        "layer {layer} has the media type {media_type:?}, expected a tarball, plain or with gzip or zstd"
    )]
    UnknownLayer {
        /// Its blob.
        layer: Digest,
        /// Its media type.
        media_type: String,
    },
    /// What several platforms have in common is nothing that can be done.
    #[error("{0}")]
    Request(String),
    /// A name or document.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A tarball or tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Mounts and namespaces.
    #[error(transparent)]
    Linux(#[from] knarr_linux::LinuxError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

fn meant(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}
