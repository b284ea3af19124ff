//! A container's root, as it can be looked at and written to from outside.
//!
//! Of a container that runs it is reached through `/proc/PID/root`, which is opened once; of one that does not, its
//! layers, volumes and binds are mounted where one thread alone sees them. Both are a [`Root`]: no path leads out of it,
//! whatever a container's programs do to their links meanwhile.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knarr_linux::mounts::{Attributes, Detached};
use knarr_linux::process::{self, Process};
use knarr_tree::root::Root;
use nix::libc;
use rustix::fs::{Mode, OFlags};

use crate::containers::Container;
use crate::containers::record::Record;
use crate::view::{in_private_mounts, with_layers};
use crate::{Engine, EngineError};

/// Files of ours that a container sees.
const OWN_FILES: [(&str, &str); 3] =
    [("hosts", "etc/hosts"), ("hostname", "etc/hostname"), ("resolv.conf", "etc/resolv.conf")];

impl Engine {
    /// Looks at a container's root with all that is mounted in it. For threads that may block.
    pub(super) fn look<T: Send>(
        &self,
        container: &Arc<Container>,
        look: impl FnOnce(&Root) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        self.look_and_write(container, look)
    }

    /// The same, to write to it.
    pub(super) fn look_and_write<T: Send>(
        &self,
        container: &Arc<Container>,
        look: impl FnOnce(&Root) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        if let Some(root) = running(container)? {
            return look(&root);
        }
        // An upper directory has one overlay at a time: nobody starts it now.
        let turn = container.turn.blocking_lock();
        if container.live.phase().removed {
            return Err(EngineError::not_found(format!("No such container: {}", container.id)));
        }
        if let Some(root) = running(container)? {
            drop(turn);
            return look(&root);
        }
        let (record, directory) = self.files_of(container);
        in_private_mounts(move || {
            let root = mount(&record, &directory)?;
            look(&root)
        })
    }
}

/// The root of a container that runs.
fn running(container: &Container) -> Result<Option<Root>, EngineError> {
    let (running, pid) = {
        let record = container.record();
        (record.state.running, record.state.pid)
    };
    if !running || pid <= 0 {
        return Ok(None);
    }
    Ok(open_live(pid)?.map(|(_, root)| root))
}

/// A process and its root; `None` when it has ended, and its number may be another's.
fn open_live(pid: i32) -> Result<Option<(Process, Root)>, EngineError> {
    let Ok(process) = Process::open(pid) else { return Ok(None) };
    let root = Root::open(Path::new(&format!("/proc/{pid}/root")));
    let ended = process
        .wait_end(Some(Duration::ZERO))
        .map_err(EngineError::file("ask for", format!("/proc/{pid}")))?;
    if ended { Ok(None) } else { Ok(Some((process, root?))) }
}

/// Mounts a container's root and what belongs into it. They end with the thread.
fn mount(record: &Record, directory: &Path) -> Result<Root, EngineError> {
    let target = directory.join("rootfs");
    let text = |path: &Path| Some(path.to_string_lossy().into_owned());
    let mut options: Vec<(String, Option<String>)> =
        record.layers.iter().rev().map(|layer| ("lowerdir+".to_owned(), text(layer))).collect();
    options.push(("upperdir".to_owned(), text(&directory.join("upper"))));
    options.push(("workdir".to_owned(), text(&directory.join("work"))));
    std::fs::create_dir_all(&target).map_err(EngineError::file("make", &target))?;
    let place = File::open(&target).map_err(EngineError::file("open", &target))?;
    let mounted = match record.layers.is_empty() {
        // An image without layers is an empty directory.
        true => open_path(&directory.join("upper")).and_then(|upper| Detached::copy_of(upper.as_fd(), false)),
        false => Detached::file_system("overlay", "knarr", &options, 0),
    };
    mounted.and_then(|mount| mount.attach(place.as_fd())).map_err(EngineError::file("mount on", &target))?;
    let root = Root::open(&target)?;
    let mut mounts: Vec<(PathBuf, String, bool)> = record
        .mounts
        .iter()
        .filter(|mount| matches!(mount.kind.as_str(), "bind" | "volume"))
        .map(|mount| (PathBuf::from(&mount.source), super::path::clean(&mount.target), mount.writable))
        .collect();
    mounts.sort_by_key(|(_, target, _)| target.len());
    for (source, target, writable) in mounts.into_iter().filter(|(_, target, _)| !target.is_empty()) {
        mount_in(&root, &source, &target, writable, true)?;
    }
    for (own, target) in OWN_FILES {
        mount_in(&root, &directory.join(own), target, false, false)?;
    }
    Ok(root)
}

/// Mounts something of the host in a root. What is not there is left out: a copy of other files needs it not.
fn mount_in(root: &Root, source: &Path, target: &str, writable: bool, make: bool) -> Result<(), EngineError> {
    let Ok(from) = open_path(source) else { return Ok(()) };
    if !root.exists(target)? {
        if !make {
            return Ok(());
        }
        make_place(root, target, source.is_dir())?;
    }
    let Ok(to) = root.open_file(target) else { return Ok(()) };
    let failed = EngineError::file("mount in the container", source);
    let mounted = Detached::copy_of(from.as_fd(), true).and_then(|mount| {
        if !writable {
            mount.set(&Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 }, true)?;
        }
        mount.attach(to.as_fd())
    });
    mounted.map(drop).map_err(failed)
}

/// Where something is to be mounted there must be something like it.
fn make_place(root: &Root, target: &str, directory: bool) -> Result<(), EngineError> {
    if directory {
        return Ok(root.create_dir_all(target, 0o755)?);
    }
    if let Some((parent, _)) = target.rsplit_once('/') {
        root.create_dir_all(parent, 0o755)?;
    }
    Ok(root.write(target, b"", 0o644)?)
}

fn open_path(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Looks at a container's root without what is mounted in it.
pub(super) fn bare<T: Send>(
    record: &Record,
    directory: &Path,
    look: impl FnOnce(&Root) -> Result<T, EngineError> + Send,
) -> Result<T, EngineError> {
    if record.state.running
        && let Some((process, root)) = open_live(record.state.pid)?
    {
        let alone = without_mounts(&process, &root)?;
        return look(&Root::open(Path::new(&format!("/proc/self/fd/{}", alone.as_fd().as_raw_fd())))?);
    }
    let mut stack = record.layers.clone();
    stack.push(directory.join("upper"));
    with_layers(&stack, look)
}

/// The root's own mount, once more, attached nowhere. Only who is in its namespace may ask for it.
fn without_mounts(process: &Process, root: &Root) -> Result<Detached, EngineError> {
    let copy = || {
        process::unshare(libc::CLONE_FS.unsigned_abs().into())?;
        process.join_namespaces(libc::CLONE_NEWNS.unsigned_abs().into())?;
        Detached::copy_of(root.as_fd(), false)
    };
    let copied = std::thread::scope(|scope| {
        scope.spawn(copy).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    copied.map_err(EngineError::file("copy the mount of", root.path()))
}
