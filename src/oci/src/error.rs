//! What can be wrong with OCI documents and names.

/// What can be wrong with OCI documents and names.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A name that is no reference.
    #[error("{found:?} is no image name: {reason}")]
    BadReference {
        /// The name.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A document that cannot be read.
    #[error("the {what} cannot be read: {reason}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A document of another kind.
    #[error("expected an {expected}, found {found:?}")]
    WrongType {
        /// What was expected.
        expected: &'static str,
        /// Its media type.
        found: String,
    },
    /// Too large to be read whole.
    #[error("the {what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What it should be.
        what: &'static str,
        /// The bound.
        limit_bytes: u64,
    },
    /// A platform that has no name here.
    #[error("{found:?} is no platform: expected os/architecture, such as linux/amd64 or linux/arm/v7")]
    BadPlatform {
        /// The text.
        found: String,
    },
}
