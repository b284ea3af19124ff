//! What stops a container, as facts.

use std::io;
use std::path::{Path, PathBuf};

use knarr_linux::LinuxError;

/// A fact that stopped work on a container, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A file cannot be used.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `config.json`, or a part of it, cannot be read.
    #[error("{path} is no configuration of the OCI's")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file that somebody else wrote is larger than any honest one.
    #[error("{path} is larger than {most} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is read at most.
        most: u64,
    },
    /// The configuration asks for what makes no sense, or is not offered here.
    #[error("config.json: {field}: {reason}")]
    Invalid {
        /// Which field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An id that would be a path, or is empty.
    #[error(
        "{id:?} is no container id: letters, digits and the signs + - . _ make one, at most 1024 of them"
    )]
    BadId {
        /// The id.
        id: String,
    },
    /// The id is taken.
    #[error("container {id} already exists")]
    Exists {
        /// The id.
        id: String,
    },
    /// The id is not known.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// What is asked does not fit what the container does.
    #[error("cannot {verb} container {id}: it is {status}")]
    WrongStatus {
        /// What was asked.
        verb: &'static str,
        /// The container.
        id: String,
        /// What it is.
        status: String,
    },
    /// A step inside the container failed.
    #[error("{step}: {reason}")]
    Step {
        /// What was tried.
        step: String,
        /// Why not.
        reason: String,
    },
    /// A hook failed.
    #[error("{point} hook {path} {reason}")]
    Hook {
        /// When it runs.
        point: &'static str,
        /// The hook.
        path: PathBuf,
        /// What became of it, with the last of its output.
        reason: String,
    },
    /// A control group has processes that are not ours.
    #[error("control group {path} has processes of others")]
    CgroupBusy {
        /// The group.
        path: String,
    },
    /// The container's first process ended before it was ready.
    #[error("the container's process ended before it was ready")]
    Vanished,
    /// It did not end though it was killed.
    #[error("container {id} did not end within {seconds} s of SIGKILL")]
    Unkillable {
        /// The container.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The kernel refused something.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// What was asked for on the command line is impossible.
    #[error("{0}")]
    Request(String),
}

impl RuntimeError {
    pub(crate) fn file(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { doing, path, source }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// For `map_err`: a step and why it failed, in words that can be sent over a pipe.
    pub(crate) fn step<E: std::error::Error>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        let step = step.into();
        move |error| Self::Step { step, reason: chain(&error) }
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
