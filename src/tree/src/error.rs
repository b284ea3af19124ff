//! What can go wrong with file trees.

use std::io;
use std::path::PathBuf;

/// A fact that stopped work on a tree, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The system refused something inside a root.
    #[error("cannot {doing} /{path} in the root")]
    Path {
        /// What was tried.
        doing: &'static str,
        /// Path inside the root.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The system refused something outside a root.
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
    /// A path that no honest archive holds.
    #[error("the archive holds the path {path:?}: {reason}")]
    HostilePath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link whose file was left out.
    #[error("the archive holds {path:?}, a hard link to {target:?}, which was left out")]
    LinkToExcluded {
        /// The link.
        path: String,
        /// The file.
        target: String,
    },
    /// A file that changed while it was read.
    #[error("/{path} in the root became shorter while it was read: {expected_bytes} bytes were promised")]
    Shrunk {
        /// Path inside the root.
        path: String,
        /// Its size when the reading began.
        expected_bytes: u64,
    },
    /// An entry to be added whose directory is not there.
    #[error("{path:?} cannot be added to the archive: its directory is not in the root")]
    NoDirectory {
        /// The entry.
        path: String,
    },
    /// An entry that is none of the known kinds.
    #[error("the archive holds {path:?} of unknown type {kind:?}")]
    UnknownKind {
        /// The path.
        path: String,
        /// The type byte.
        kind: char,
    },
    /// An archive beyond the limits.
    #[error("the archive holds more than {limit} {what}")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Entries or bytes.
        what: &'static str,
    },
    /// The archive could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The output could not be written.
    #[error("cannot write the output")]
    Write(#[source] io::Error),
    /// A file is larger than it may be.
    #[error("/{path} in the root has {size_bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// Path inside the root.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// What an image cannot hold.
    #[error("/{path} does not fit into an ext4 image: {reason}")]
    Unfit {
        /// Path inside the root.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A program that makes images is missing or failed.
    #[error("{program} {reason}")]
    Tool {
        /// Its name.
        program: &'static str,
        /// What happened.
        reason: String,
    },
}
