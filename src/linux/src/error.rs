//! What the kernel can refuse.

use std::io;

/// A fact that stopped work with the kernel, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinuxError {
    /// A step of preparing a namespace or a sandbox failed.
    #[error("cannot {step}")]
    Step {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The user has no subordinate ids.
    #[error(
        "{file} gives user {user} fewer than 65536 ids: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` does, as root"
    )]
    NoSubordinateIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Whose line is missing.
        user: String,
    },
    /// `newuidmap` is missing or refused.
    #[error("{program} failed: {reason}; it comes with the package uidmap")]
    Mapper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// Ctrl-C or its kin.
    #[error("interrupted")]
    Interrupted,
    /// The sandbox could not be prepared, or went away.
    #[error("the sandbox {reason}")]
    Sandbox {
        /// What happened.
        reason: String,
    },
}

impl LinuxError {
    /// For `map_err`: which step the kernel refused.
    pub fn from_step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        Self::step(step)
    }

    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }
}
