//! What can be wrong with Debian's formats.

use knarr_base::Digest;
use knarr_base::digest::DigestError;
use knarr_base::time::TimestampError;

/// A fact that makes bytes unusable, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// A version that breaks the rules.
    #[error("{found:?} is no version: {reason}")]
    BadVersion {
        /// The text.
        found: String,
        /// Which rule.
        reason: &'static str,
    },
    /// A relation that breaks the rules.
    #[error("{found:?} is no relation: {reason}")]
    BadRelation {
        /// The text.
        found: String,
        /// Which rule.
        reason: &'static str,
    },
    /// Bytes that are no text.
    #[error("line {line} holds bytes that are no UTF-8 text")]
    NotText {
        /// From 1.
        line: usize,
    },
    /// A line of absurd length.
    #[error("line {line} has {size_bytes} bytes, more than control data ever has")]
    LineTooLong {
        /// From 1.
        line: usize,
        /// Its length.
        size_bytes: usize,
    },
    /// A line that starts with a space and continues nothing.
    #[error("line {line} continues a field, but no field stands before it")]
    StrayContinuation {
        /// From 1.
        line: usize,
    },
    /// A line that is no field.
    #[error("line {line} is {found:?}: expected \"Name: value\"")]
    NoColon {
        /// From 1.
        line: usize,
        /// Its text, shortened.
        found: String,
    },
    /// One field twice in a stanza.
    #[error("line {line} gives the field {field} a second time")]
    DuplicateField {
        /// From 1.
        line: usize,
        /// Which field.
        field: String,
    },
    /// A stanza without a field that it must have.
    #[error("the stanza at line {line} has no {field} field")]
    MissingField {
        /// From 1.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// A field whose value breaks the rules.
    #[error("line {line}: {field} is {found:?}: {reason}")]
    BadField {
        /// From 1.
        line: usize,
        /// Which field.
        field: &'static str,
        /// Its value, shortened.
        found: String,
        /// Which rule.
        reason: &'static str,
    },
    /// A Release file that promises no SHA-256 sums.
    #[error("the Release file has no SHA256 sums: MD5 and SHA1 prove nothing any more")]
    WeakDigests,
    /// A stanza of absurd size.
    #[error("a stanza is longer than {limit_bytes} bytes")]
    StanzaTooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// More of something than the format can count.
    #[error("the index has too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// A cached index that cannot be used.
    #[error("the cached index is damaged or of another version: {reason}")]
    BadIndex {
        /// What is wrong.
        reason: &'static str,
    },
    /// Something that is no .deb.
    #[error("not a .deb: {reason}")]
    NotAPackage {
        /// What is wrong.
        reason: String,
    },
    /// A .deb that unpacks to more than it may.
    #[error("the {member} member unpacks to more than {limit_bytes} bytes")]
    TooLarge {
        /// `control` or `data`.
        member: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// Reading failed.
    #[error("cannot read the {member} member")]
    Read {
        /// Which member.
        member: &'static str,
        /// The decoder's answer.
        #[source]
        source: std::io::Error,
    },
    /// A text that is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A text that is no date.
    #[error(transparent)]
    Timestamp(#[from] TimestampError),
    /// Bytes that differ from what was promised.
    #[error("{what} is {found}, promised was {promised}")]
    DigestMismatch {
        /// Of what.
        what: String,
        /// By the index.
        promised: Digest,
        /// What the bytes hash to.
        found: Digest,
    },
}
