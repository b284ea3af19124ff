//! Bootstrap: from the name of a suite to a working root filesystem.
//!
//! [`run`] does all of it: resolve to a lock, fetch and unpack side by side, configure, clean, and
//! write the target. The plan comes first ([`lock::Lock`]), effects after.
//!
//! Spec: Debian Policy 6; docs/formats/lock.md.
#![forbid(unsafe_code)]

pub mod configure;
pub mod database;
pub mod error;
pub mod filter;
pub mod finish;
pub mod hooks;
pub mod lock;
pub mod options;
pub mod order;
pub mod output;
pub mod package;
pub mod plan;
pub mod replay;
pub mod reuse;
pub mod run;
pub mod scripts;
pub mod sources;
pub mod stage;
pub mod target;
pub mod unpack;
pub mod variant;

pub use error::BootstrapError;
pub use options::Options;
pub use run::{Report, run};

/// An error and its causes in one line.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Hears how far a bootstrap is.
pub trait Progress: Sync {
    /// A phase begins.
    fn phase(&self, name: &str);
    /// So many bytes will be fetched.
    fn expect_bytes(&self, bytes: u64);
    /// More bytes were fetched.
    fn bytes(&self, bytes: u64);
    /// Something a person should know.
    fn warn(&self, text: &str);
}
