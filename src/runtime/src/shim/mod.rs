//! The shim: the process that a container has for itself, and that outlives everybody else.
//!
//! An engine asks the [`launcher`] for one over a socket, and talks to it in [`frame`]s. The shim mounts the container's root
//! where nobody else sees it, makes and starts the container, owns its streams, writes its log, and leaves its exit
//! status on the disk. It has one thread, so that it can fork.
//!
//! Spec: docs/formats/shim.md, docs/formats/log.md.

pub mod frame;
pub mod launcher;
pub mod log;
mod program;
mod serve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spec::ProcessSpec;

pub use launcher::init_if_requested;

/// The file in the container's directory that tells how it ended.
pub const EXIT_FILE: &str = "exit.json";

/// What a shim is told first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's id.
    pub id: String,
    /// Where its log and its exit status go.
    pub directory: PathBuf,
    /// Where the shim listens; at most 107 bytes.
    pub socket: PathBuf,
    /// Where the OCI configuration lies.
    pub bundle: PathBuf,
    /// Where the runtime keeps its state.
    pub runtime_root: PathBuf,
    /// The root's layers.
    pub overlay: Option<Overlay>,
    /// Other images that are mounted.
    pub extra: Vec<ExtraOverlay>,
    /// Whether the program has a terminal.
    pub terminal: bool,
    /// Its size: columns, lines.
    pub console_size: Option<(u16, u16)>,
    /// Whether the program has an input.
    pub open_stdin: bool,
    /// Whether its input ends with its first client.
    pub stdin_once: bool,
    /// What happens to what it writes.
    pub log: LogConfig,
    /// The container's name.
    pub name: String,
}

/// A root of layers that can be written to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// The lowest first.
    pub lowers: Vec<PathBuf>,
    /// What is written.
    pub upper: PathBuf,
    /// The kernel's own.
    pub work: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// It ends with its container: nothing waits for the disk for its sake.
    #[serde(default)]
    pub volatile: bool,
}

/// An image that is mounted, read-only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExtraOverlay {
    /// The lowest first.
    pub lowers: Vec<PathBuf>,
    /// Where, on the host.
    pub target: PathBuf,
}

/// What happens to what a program writes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogConfig {
    /// `json-file`, `local`, `journald`, `none`.
    pub driver: String,
    /// Its options, as docker names them.
    pub options: BTreeMap<String, String>,
    /// Labels and variables that go with each line.
    pub attributes: BTreeMap<String, String>,
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its status, or 128 and the signal.
    pub code: i32,
    /// The kernel ended a process for want of memory.
    pub oom: bool,
    /// When, RFC 3339.
    pub at: String,
}

impl Exit {
    /// Of a container of which nobody knows how it ended: the machine or its shim went down.
    #[must_use]
    pub fn unknown() -> Self {
        Self { code: 137, oom: false, at: crate::state::now() }
    }

    /// As it lies on the disk.
    #[must_use]
    pub fn load(directory: &Path) -> Option<Self> {
        let bytes = std::fs::read(directory.join(EXIT_FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// What is asked of a shim: the first frame of a connection, and more of them on the one that launched it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Make the container: the answer is [`Answer::Made`]. Only on the connection that came with the shim.
    Make(Box<ShimConfig>),
    /// Start the container's program: [`Answer::Started`].
    Start,
    /// Tell when it ends: [`Answer::Started`], and in time [`Answer::Ended`].
    Watch,
    /// Connect to its streams: [`Answer::Done`], then data both ways.
    Attach {
        /// Its input.
        stdin: bool,
        /// Its output.
        stdout: bool,
        /// Its errors.
        stderr: bool,
    },
    /// Change the terminal's size: of the container, or of an exec.
    Resize {
        /// Which exec.
        exec: Option<String>,
        /// In characters.
        width: u16,
        /// In characters.
        height: u16,
    },
    /// Run another program: [`Answer::Started`], data both ways, [`Answer::Ended`].
    Exec {
        /// Its name among requests.
        id: String,
        /// What runs.
        process: Box<ProcessSpec>,
        /// Whether it has an input.
        stdin: bool,
        /// Whether its output is wanted.
        attach: bool,
    },
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// The container is made.
    Made,
    /// A program runs.
    Started {
        /// Its number on the host.
        pid: i32,
    },
    /// It was done.
    Done,
    /// It ended.
    Ended {
        /// How.
        exit: Exit,
    },
    /// It could not be done.
    Refused {
        /// What kind of refusal.
        why: Refusal,
        /// The words.
        text: String,
    },
}

/// Why a program does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// There is no such program.
    NotFound,
    /// It cannot be executed.
    NotExecutable,
    /// Anything else.
    Failed,
}
