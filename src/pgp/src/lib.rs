//! Signatures against keyrings: which bytes were signed by a key that we were told to trust.
//!
//! [`Keyring`] holds the keys, [`verify_inline`] and [`verify_detached`] answer with [`Signed`]
//! text. Nothing of the user's own GnuPG is read or changed: every check has a home of its own.
//!
//! Spec: RFC 9580, section 7 (cleartext signatures) and 6 (armour).
#![forbid(unsafe_code)]

mod armor;
pub mod keyring;
mod verify;

pub use keyring::Keyring;
pub use verify::{Signed, verify_detached, verify_inline};

use std::io;
use std::path::PathBuf;

/// Why a text cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgpError {
    /// A keyring could not be read.
    #[error("cannot read the keyring {path}")]
    Keyring {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A keyring that is neither binary nor armoured.
    #[error("the keyring {name} is damaged: {reason}")]
    BadKeyring {
        /// Which file.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A pinned fingerprint that is none.
    #[error("{found:?} is no fingerprint: expected 40 or 64 hexadecimal digits")]
    BadFingerprint {
        /// What was given.
        found: String,
    },
    /// A pinned key that no keyring holds.
    #[error("the key {fingerprint} is in none of the keyrings")]
    NoSuchKey {
        /// Of the key.
        fingerprint: String,
    },
    /// The text is not framed as a signed text must be.
    #[error("the signed text is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no signature at all.
    #[error("it carries no signature")]
    NoSignature,
    /// The text is not what was signed.
    #[error("its signature is bad: the text was changed after it was signed")]
    BadSignature,
    /// Signed by keys that are not in the keyring only.
    #[error("it is signed by {} only, which the keyring does not hold", fingerprints.join(", "))]
    UnknownKey {
        /// Of the keys.
        fingerprints: Vec<String>,
    },
    /// Signed by keys of the keyring, but by none of those that are pinned.
    #[error("it is signed by {} only, pinned is {}", fingerprints.join(", "), pinned.join(", "))]
    NotPinned {
        /// Of the keys that signed.
        fingerprints: Vec<String>,
        /// Of the keys that may.
        pinned: Vec<String>,
    },
    /// Signed by a key that has expired.
    #[error("it is signed by the key {fingerprint}, which has expired")]
    KeyExpired {
        /// Of the key.
        fingerprint: String,
    },
    /// Signed by a key that was revoked.
    #[error("it is signed by the key {fingerprint}, which was revoked")]
    KeyRevoked {
        /// Of the key.
        fingerprint: String,
    },
    /// The signature itself has expired.
    #[error("its signature by the key {fingerprint} has expired")]
    SignatureExpired {
        /// Of the key.
        fingerprint: String,
    },
    /// Signed with a hash that proves nothing.
    #[error("its signature uses {hash}, which proves nothing any more")]
    WeakDigest {
        /// Name of the hash.
        hash: String,
    },
    /// Signed in a way that this machine's gpg does not know.
    #[error("gpg cannot check the signature by the key {fingerprint}: {reason}")]
    Unsupported {
        /// Of the key.
        fingerprint: String,
        /// What gpg said.
        reason: String,
    },
    /// gpg could not do its work.
    #[error("gpg could not check the signature")]
    Engine(#[source] gpgme::Error),
    /// A home for gpg could not be made.
    #[error("cannot prepare a home for gpg")]
    Home(#[source] io::Error),
}
