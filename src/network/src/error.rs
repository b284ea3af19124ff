//! What can go wrong with networks.

use std::io;

/// A fact about a network that a user can act on. Messages are docker's where its users know one.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no such network, endpoint or sandbox.
    #[error("{message}")]
    NotFound {
        /// The whole message.
        message: String,
    },
    /// An address, a port or a name is taken.
    #[error("{message}")]
    Conflict {
        /// The whole message.
        message: String,
    },
    /// The network is in use, or one of ours that stays.
    #[error("{message}")]
    Forbidden {
        /// The whole message.
        message: String,
    },
    /// The request cannot be right.
    #[error("{message}")]
    Invalid {
        /// The whole message.
        message: String,
    },
    /// Not here.
    #[error("{message}")]
    Unsupported {
        /// The whole message.
        message: String,
    },
    /// The kernel refused a step.
    #[error("cannot {doing}")]
    Kernel {
        /// What was tried.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Turns the kernel's refusal into the step that failed.
pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let doing = doing.into();
    move |source| NetworkError::Kernel { doing, source }
}
