//! Network namespaces that are held by a file.
//!
//! [`hold`] and [`remove`] are the two ends of one's life; [`inside`] does something in one. A new one takes the kernel
//! longer than all that is done with it later, so [`Spare`] keeps one that is new. A thread that enters a
//! namespace never does anything else afterwards. What is in a namespace is for [`crate::state`] to know.
//!
//! Spec: network_namespaces(7).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use knarr_linux::process::{Namespace, join_namespace, unshare};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::fstatfs;
use tokio::runtime::Handle;

use crate::link::Links;

/// A namespace that is open, with its links.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) file: File,
    pub(crate) links: Links,
}

/// A new namespace, with its loopback up. It ends with its descriptors, unless a file holds it.
pub(crate) fn make() -> io::Result<Space> {
    on_a_thread(|| {
        unshare(Namespace::Network.flag())?;
        let mut links = Links::open()?;
        links.up(LOOPBACK).map_err(io::Error::other)?;
        Ok(Space { file: File::open(OWN)?, links })
    })
}

/// A file at `path` holds the namespace from now on.
pub(crate) fn hold(space: &Space, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o444).open(path)?;
    let own = format!("/proc/self/fd/{}", space.file.as_raw_fd());
    let held = mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    held.map_err(io::Error::from).inspect_err(|_| {
        let _ = remove(path);
    })
}

/// A new namespace that nobody has yet. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spare {
    shared: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    space: Option<Space>,
    /// Somebody is about to make one.
    pending: bool,
}

impl Spare {
    /// The one that is there, or one that is made now; another one is made soon. Must be called in a runtime.
    pub(crate) fn take(&self) -> io::Result<Space> {
        let taken = self.lock().space.take();
        self.make_later();
        taken.map_or_else(make, Ok)
    }

    /// Makes one when what is done now is over.
    pub(crate) fn make_later(&self) {
        if std::mem::replace(&mut self.lock().pending, true) {
            return;
        }
        let spare = self.clone();
        Handle::current().spawn_blocking(move || {
            thread::sleep(PAUSE);
            let made = make();
            let mut kept = spare.lock();
            kept.pending = false;
            match made {
                Ok(space) => kept.space = Some(space),
                // Who needs one will try again, and say so.
                Err(error) => tracing::debug!(%error, "no namespace is kept in reserve"),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespace that a file holds; `None` when the file is not there or holds none.
pub(crate) fn open(path: &Path) -> io::Result<Option<Space>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if fstatfs(&file)?.f_type != NSFS {
        return Ok(None);
    }
    let links = inside(file.as_fd(), Links::open)??;
    Ok(Some(Space { file, links }))
}

/// The file lets go of its namespace and is gone; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does something in a namespace, on a thread that ends with it.
pub(crate) fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(|| {
        join_namespace(namespace, Namespace::Network.flag())?;
        Ok(work())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("knarr-netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

const OWN: &str = "/proc/thread-self/ns/net";
const LOOPBACK: u32 = 1;
/// How long a start may take for which the last spare one was taken.
const PAUSE: Duration = Duration::from_millis(12);
/// The number of the file system that namespaces are files of.
const NSFS: i64 = 0x6e73_6673;
