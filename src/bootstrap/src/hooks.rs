//! Hooks: what a user adds between the steps of a bootstrap.
//!
//! [`Hook::parse`] reads one as it was typed; [`Hooks::run`] carries it out. A hook is a program
//! of the user's own and runs with the rights of `knarr` itself, outside the sandbox.
//!
//! Spec: the hooks of the same names in mmdebstrap(1).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use knarr_tree::copy::{copy_in, copy_out};
use knarr_tree::root::Root;

use crate::BootstrapError;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The root is an empty directory.
    Setup,
    /// Packages are unpacked and none is configured.
    Extract,
    /// The essential packages are configured.
    Essential,
    /// Everything is configured.
    Customize,
}

impl Stage {
    /// Its name in options and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Extract => "extract",
            Self::Essential => "essential",
            Self::Customize => "customize",
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// `copy-in PATH… DIR`: from the host into a directory of the root.
    CopyIn(Vec<PathBuf>, String),
    /// `copy-out PATH… DIR`: from the root into a directory of the host.
    CopyOut(Vec<String>, PathBuf),
    /// `upload FILE PATH`: one file, under a name of its own.
    Upload(PathBuf, String),
    /// `download PATH FILE`: one file, under a name of its own.
    Download(String, PathBuf),
    /// `run COMMAND…`: a shell command inside the root, in the sandbox.
    Run(String),
    /// Anything else: a shell command on the host; `$1` is the root. An executable file is run itself.
    Shell(String),
}

impl Hook {
    /// Reads a hook as typed.
    pub fn parse(text: &str) -> Result<Self, BootstrapError> {
        let bad = |reason: &str| BootstrapError::BadHook { hook: text.to_owned(), reason: reason.to_owned() };
        let (verb, rest) = text.trim().split_once(char::is_whitespace).unwrap_or_else(|| (text.trim(), ""));
        let words = || shell_words::split(rest).map_err(|error| bad(&error.to_string()));
        let hook = match verb {
            "copy-in" | "copy-out" => {
                let mut paths = words()?;
                let last = paths.pop().filter(|_| !paths.is_empty());
                let last =
                    last.ok_or_else(|| bad("it needs at least one path and a directory to copy to"))?;
                if verb == "copy-in" {
                    Self::CopyIn(paths.into_iter().map(PathBuf::from).collect(), last)
                } else {
                    Self::CopyOut(paths, last.into())
                }
            }
            "upload" | "download" => {
                let [from, to]: [String; 2] =
                    words()?.try_into().map_err(|_| bad("it needs exactly two paths"))?;
                if verb == "upload" { Self::Upload(from.into(), to) } else { Self::Download(from, to.into()) }
            }
            "run" if rest.trim().is_empty() => return Err(bad("it needs a command")),
            "run" => Self::Run(rest.trim().to_owned()),
            "" => return Err(bad("it is empty")),
            _ => Self::Shell(text.to_owned()),
        };
        Ok(hook)
    }
}

/// Everything that was asked for, in the order in which it was.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Stage, text as typed, meaning.
    pub all: Vec<(Stage, String, Hook)>,
}

impl Hooks {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds a hook.
    pub fn add(&mut self, stage: Stage, text: &str) -> Result<(), BootstrapError> {
        self.all.push((stage, text.to_owned(), Hook::parse(text)?));
        Ok(())
    }

    /// Whether any hook runs at `stage`.
    #[must_use]
    pub fn any(&self, stage: Stage) -> bool {
        self.all.iter().any(|(at, ..)| *at == stage)
    }

    /// Runs the hooks of `stage`. `inside` runs a shell command in the root's sandbox.
    pub fn run(
        &self,
        stage: Stage,
        root: &Root,
        environment: &[(String, String)],
        inside: &mut dyn FnMut(&str) -> Result<(), BootstrapError>,
    ) -> Result<(), BootstrapError> {
        for (_, text, hook) in self.all.iter().filter(|(at, ..)| *at == stage) {
            match hook {
                Hook::Run(command) => inside(command)?,
                Hook::Shell(command) => shell(stage, command, root, environment)?,
                other => copy(other, root).map_err(|error| with_hook(text, &error))?,
            }
        }
        Ok(())
    }
}

fn with_hook(text: &str, error: &BootstrapError) -> BootstrapError {
    BootstrapError::BadHook { hook: text.to_owned(), reason: crate::error_chain(error) }
}

fn copy(hook: &Hook, root: &Root) -> Result<(), BootstrapError> {
    match hook {
        Hook::CopyIn(paths, to) => paths.iter().try_for_each(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(copy_in(path, root, &format!("{}/{name}", to.trim_end_matches('/')))?)
        }),
        Hook::CopyOut(paths, to) => paths.iter().try_for_each(|path| {
            let name = Path::new(path).file_name().unwrap_or_default();
            Ok(copy_out(root, path, &to.join(name))?)
        }),
        Hook::Upload(from, to) => Ok(copy_in(from, root, to)?),
        Hook::Download(from, to) => Ok(copy_out(root, from, to)?),
        Hook::Run(_) | Hook::Shell(_) => Ok(()),
    }
}

fn shell(
    stage: Stage,
    command: &str,
    root: &Root,
    environment: &[(String, String)],
) -> Result<(), BootstrapError> {
    let mut program = if is_executable(Path::new(command)) {
        Command::new(command)
    } else {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).arg("exec");
        shell
    };
    // What a hook prints belongs to people; standard output may be carrying a tarball.
    let stderr = std::io::stderr();
    let stdout =
        std::os::fd::AsFd::as_fd(&stderr).try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from);
    let status = program
        .arg(root.path())
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(stdout)
        .status();
    let failed = |status: String| BootstrapError::Hook {
        stage: stage.name(),
        hook: command.to_owned(),
        status,
        output: String::new(),
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("ended with {status}"))),
        Err(error) => Err(failed(format!("could not be started: {error}"))),
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
