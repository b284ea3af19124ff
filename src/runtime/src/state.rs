//! Containers on disk: one directory each, in which a state, the configuration and a door lie.
//!
//! [`Container::open`] finds one by its id, [`Container::status`] says what it does. The directory lies in a file system
//! in memory and ends with the machine, as the processes do: nothing here waits for a disk. It changes by rename, under
//! a lock on the directory.
//!
//! Spec: OCI runtime-spec, `runtime.md` "State".

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use knarr_linux::cgroup::{Cgroup, Directory};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::RuntimeError;
use crate::spec::{Hooks, Spec, read_bounded};

/// The version of the state's format. Others are refused.
const FORMAT: u32 = 1;
/// Where [`crate::lifecycle::start`] knocks; gone when the program runs.
pub(crate) const DOOR: &str = "start.sock";
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
const LONGEST_ID: usize = 1024;

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    format: u32,
    /// Which version of the specification its configuration follows.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Its first process; 0 while there is none.
    pub pid: i32,
    /// When that process started, in the kernel's ticks: another one of that number started later.
    pub start_time: u64,
    /// Its bundle's directory.
    pub bundle: PathBuf,
    /// Its root.
    pub rootfs: PathBuf,
    /// When it was made.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// Free words.
    pub annotations: BTreeMap<String, String>,
    /// Kinds of namespaces that it does not share with its maker.
    pub namespaces: u64,
    /// Whether it has a user namespace.
    pub user_namespace: bool,
    /// Its configuration has a program and no hooks: whoever starts or deletes it need not read it again.
    #[serde(default)]
    plain: bool,
    /// Its control group.
    cgroup: Vec<SavedDirectory>,
    unified: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SavedDirectory {
    controllers: Vec<String>,
    root: PathBuf,
    path: PathBuf,
    made: Option<PathBuf>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    Creating,
    /// It waits for its start.
    Created,
    /// Its program runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl State {
    /// The state of a container that is about to be made.
    #[must_use]
    pub fn new(id: &str, bundle: &Path, spec: &Spec) -> Self {
        let root = spec.root.as_ref().map(|root| bundle.join(&root.path));
        Self {
            format: FORMAT,
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: root.unwrap_or_default(),
            created: now(),
            owner: rustix::process::geteuid().as_raw(),
            annotations: spec.annotations.clone(),
            plain: spec.process.is_some() && spec.hooks == Hooks::default(),
            ..Self::default()
        }
    }

    pub(crate) fn set_cgroup(&mut self, cgroup: &Cgroup) {
        self.unified = cgroup.unified;
        let save = |directory: &Directory| SavedDirectory {
            controllers: directory.controllers.clone(),
            root: directory.root.clone(),
            path: directory.path.clone(),
            made: directory.made.clone(),
        };
        self.cgroup = cgroup.directories.iter().map(save).collect();
    }

    /// Its control group.
    #[must_use]
    pub fn cgroup(&self) -> Cgroup {
        let load = |saved: &SavedDirectory| Directory {
            controllers: saved.controllers.clone(),
            root: saved.root.clone(),
            path: saved.path.clone(),
            made: saved.made.clone(),
        };
        Cgroup { unified: self.unified, directories: self.cgroup.iter().map(load).collect() }
    }

    /// The state as the specification has it.
    #[must_use]
    pub fn to_json(&self, status: &str) -> Value {
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": if status == "stopped" { 0 } else { self.pid },
            "bundle": self.bundle,
        });
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }

    pub(crate) fn to_hook_json(&self, status: &str) -> String {
        self.to_json(status).to_string()
    }

    /// What the one who decides on system calls is told.
    pub(crate) fn to_seccomp_json(&self, metadata: &str) -> String {
        // Spec: config-linux.md, "The Container Process State".
        json!({
            "ociVersion": self.oci_version,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": metadata,
            "state": self.to_json("creating"),
        })
        .to_string()
    }

    fn is_alive(&self) -> bool {
        self.pid > 0 && process_start(self.pid).is_some_and(|started| started == self.start_time)
    }
}

/// This moment, as states and logs have it.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// When a process started; none when it has ended, even if nobody has asked for its status yet.
pub(crate) fn process_start(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have anything in it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_gone = matches!(fields.next()?, "Z" | "X" | "x");
    let started = fields.nth(18)?.parse().ok()?;
    (!is_gone).then_some(started)
}

/// A container's directory, locked.
#[derive(Debug)]
pub struct Container {
    /// Where it is.
    pub directory: PathBuf,
    /// What is known of it.
    pub state: State,
    lock: Option<fs::File>,
}

impl Container {
    /// Checks an id: it becomes a name of a directory.
    pub fn check_id(id: &str) -> Result<(), RuntimeError> {
        let is_sign = |sign: char| sign.is_ascii_alphanumeric() || "+-._".contains(sign);
        let is_good =
            !id.is_empty() && id.len() <= LONGEST_ID && id.chars().all(is_sign) && !matches!(id, "." | "..");
        if is_good { Ok(()) } else { Err(RuntimeError::BadId { id: id.to_owned() }) }
    }

    /// Takes an id: makes its directory, in which the configuration lies as it is now.
    pub(crate) fn reserve(root: &Path, state: State, config: &[u8]) -> Result<Self, RuntimeError> {
        Self::check_id(&state.id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true).create(root).map_err(RuntimeError::file("make", root))?;
        let directory = root.join(&state.id);
        match builder.recursive(false).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::Exists { id: state.id });
            }
            other => other.map_err(RuntimeError::file("make", &directory))?,
        }
        let lock = lock(&directory, &state.id)?;
        let container = Self { directory, state, lock: Some(lock) };
        container.write(CONFIG, config)?;
        container.save()?;
        Ok(container)
    }

    /// Finds a container and locks it.
    pub fn open(root: &Path, id: &str) -> Result<Self, RuntimeError> {
        Self::check_id(id)?;
        let directory = root.join(id);
        let lock = lock(&directory, id)?;
        let state = read_state(&directory, id)?;
        Ok(Self { directory, state, lock: Some(lock) })
    }

    /// Lets others have it. A child must do so at once: it shares its parent's lock.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// Waits until nobody else changes it; held until the file is unlocked, also by a child that has it.
    pub(crate) fn turn(&self) -> Result<fs::File, RuntimeError> {
        lock(&self.directory, &self.state.id)
    }

    /// What it does.
    pub fn status(&self) -> Result<Status, RuntimeError> {
        status_of(&self.directory, &self.state)
    }

    /// Its configuration, as it was when it was made.
    pub fn spec(&self) -> Result<Spec, RuntimeError> {
        let path = self.directory.join(CONFIG);
        Spec::parse(&read_bounded(&path)?).map_err(|source| RuntimeError::Config { path, source })
    }

    /// The same, for those who look for hooks only: nothing when there are none.
    pub(crate) fn spec_unless_plain(&self) -> Result<Option<Spec>, RuntimeError> {
        if self.state.plain { Ok(None) } else { self.spec().map(Some) }
    }

    pub(crate) fn door(&self) -> PathBuf {
        self.directory.join(DOOR)
    }

    pub(crate) fn save(&self) -> Result<(), RuntimeError> {
        let text = serde_json::to_vec(&self.state)
            .map_err(|source| RuntimeError::Config { path: self.directory.join(STATE), source })?;
        self.write(STATE, &text)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        replace(&self.directory.join(name), bytes, 0o600)
    }

    /// Forgets it.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(RuntimeError::file("remove", &self.directory)),
        }
    }
}

/// Every container below a root, without their locks, with what it does.
pub fn list(root: &Path) -> Result<Vec<(State, Status)>, RuntimeError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(RuntimeError::file("list", root))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RuntimeError::file("list", root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match read_state(&entry.path(), &name) {
            Ok(state) => all.push((state.clone(), status_of(&entry.path(), &state)?)),
            // One that is just being made or removed.
            Err(RuntimeError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by(|one, other| one.0.id.cmp(&other.0.id));
    Ok(all)
}

fn lock(directory: &Path, id: &str) -> Result<fs::File, RuntimeError> {
    let open = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(directory);
    let file = match open {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RuntimeError::NotFound { id: id.to_owned() });
        }
        other => other.map_err(RuntimeError::file("open", directory))?,
    };
    file.lock().map_err(RuntimeError::file("lock", directory))?;
    Ok(file)
}

fn read_state(directory: &Path, id: &str) -> Result<State, RuntimeError> {
    let path = directory.join(STATE);
    let text = match read_bounded(&path) {
        Err(RuntimeError::File { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Err(RuntimeError::NotFound { id: id.to_owned() });
        }
        other => other?,
    };
    let state: State =
        serde_json::from_slice(&text).map_err(|source| RuntimeError::Config { path, source })?;
    if state.format != FORMAT {
        let reason = format!(
            "container {id} was made by another knarr (format {}): delete it with that one",
            state.format
        );
        return Err(RuntimeError::Request(reason));
    }
    Ok(state)
}

fn status_of(directory: &Path, state: &State) -> Result<Status, RuntimeError> {
    if state.pid == 0 {
        return Ok(Status::Creating);
    }
    if !state.is_alive() {
        return Ok(Status::Stopped);
    }
    if directory.join(DOOR).exists() {
        return Ok(Status::Created);
    }
    let frozen = !state.cgroup.is_empty() && state.cgroup().is_frozen()?;
    Ok(if frozen { Status::Paused } else { Status::Running })
}

/// Puts bytes at a path in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RuntimeError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        // The first error is the one that matters.
        let _ = fs::remove_file(&new);
        RuntimeError::file("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::{Container, process_start};

    #[test]
    fn an_id_is_no_path() {
        for good in ["a", "A.b-c_d+1", "..."] {
            assert!(Container::check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "ä"] {
            assert!(Container::check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_process_has_started_and_none_without_a_number_has() {
        assert!(process_start(std::process::id() as i32).is_some_and(|ticks| ticks > 0));
        assert_eq!(process_start(0), None);
    }
}
