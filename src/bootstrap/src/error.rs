//! What can go wrong in a bootstrap.

use std::io;
use std::path::PathBuf;

use knarr_base::Architecture;

/// A fact that stopped a bootstrap, with its evidence.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file of the user's or ours could not be used.
    #[error("cannot {doing} {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried: `read`, `write`, …
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The target is there already.
    #[error("the target {path} exists and is not empty")]
    TargetExists {
        /// Which target.
        path: PathBuf,
    },
    /// A .deb without a control stanza.
    #[error("the control file is empty")]
    EmptyControl,
    /// A control stanza without a field that it must have.
    #[error("the control file has no {field} field")]
    MissingControlField {
        /// Which field.
        field: String,
    },
    /// A .deb that is not what the index said it was.
    #[error("{path} holds {found}, the index promises {promised}")]
    WrongPackage {
        /// Path in the pool.
        path: String,
        /// Name, version, architecture in the index.
        promised: String,
        /// Name, version, architecture in the .deb.
        found: String,
    },
    /// Anything wrong inside a .deb.
    #[error("in package {package}")]
    Package {
        /// Which package.
        package: String,
        /// What is wrong.
        #[source]
        source: Box<Self>,
    },
    /// Two packages ship one file and neither may replace the other's.
    #[error("{second} and {first} both ship /{path}, and neither declares that it replaces the other")]
    FileConflict {
        /// Without leading `/`.
        path: String,
        /// A package.
        first: String,
        /// Another package.
        second: String,
    },
    /// A maintainer script ended badly.
    #[error("the {step} script of package {package} {status}{}", script_output(.output))]
    Script {
        /// Which package.
        package: String,
        /// `preinst`, `postinst`, `postinst triggered`.
        step: String,
        /// How it ended.
        status: String,
        /// The last of what it printed.
        output: String,
    },
    /// A hook ended badly.
    #[error("the {stage} hook {hook:?} {status}{}", script_output(.output))]
    Hook {
        /// `setup`, `extract`, `essential`, `customize`.
        stage: &'static str,
        /// As typed.
        hook: String,
        /// How it ended.
        status: String,
        /// The last of what it printed.
        output: String,
    },
    /// A hook that Knarr does not know.
    #[error("hook {hook:?}: {reason}")]
    BadHook {
        /// As typed.
        hook: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Triggers that set each other off without end.
    #[error("triggers of {packages} set each other off again and again")]
    TriggerLoop {
        /// Which packages.
        packages: String,
    },
    /// A lock that cannot be used.
    #[error("the lock {path} cannot be used: {reason}")]
    BadLock {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A lock beyond every sensible size.
    #[error("the lock {path} has {size_bytes} bytes, more than any real one")]
    LockTooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// `--locked`, and resolving anew gives something else.
    #[error("the lock {path} is out of date, and --locked forbids to change it:\n{changes}")]
    LockDiffers {
        /// Which file.
        path: PathBuf,
        /// One change a line.
        changes: String,
    },
    /// The machine cannot run this architecture's programs.
    #[error(
        "programs of the root must run, and this machine cannot run those of {architecture}: {program} is not there"
    )]
    CannotRun {
        /// Which architecture.
        architecture: Architecture,
        /// The emulator that is missing.
        program: String,
    },
    /// A package ships what only the machine's root can make.
    #[error("it ships the device node {path:?}, which cannot be made without root")]
    DeviceNode {
        /// Path inside the root.
        path: String,
    },
    /// Ctrl-C or a signal.
    #[error("interrupted")]
    Interrupted,
    /// A repository without `Signed-By`, and no keyring that could stand in.
    #[error("{place} has no Signed-By, and no keyring was named")]
    NoKeys {
        /// File and line.
        place: String,
    },
    /// A request that cannot be met.
    #[error("{0}")]
    Request(String),
    /// A .deb or an index that breaks its format.
    #[error(transparent)]
    Deb(#[from] knarr_deb::DebError),
    /// No set of packages meets the request.
    #[error(transparent)]
    Unresolvable(#[from] knarr_deb::resolve::Unresolvable),
    /// Mirror, index or download trouble.
    #[error(transparent)]
    Mirror(#[from] knarr_mirror::MirrorError),
    /// Trouble with the file tree.
    #[error(transparent)]
    Tree(#[from] knarr_tree::TreeError),
    /// Trouble with the kernel.
    #[error(transparent)]
    Linux(#[from] knarr_linux::LinuxError),
}

fn script_output(output: &str) -> String {
    if output.trim().is_empty() {
        "; it printed nothing".to_owned()
    } else {
        format!("; it printed:\n{}", output.trim_end())
    }
}
