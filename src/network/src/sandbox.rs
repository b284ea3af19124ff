//! Network namespaces that are held by a file.
//!
//! [`make`] and [`remove`] are the two ends of one's life; [`inside`] does something in one. A thread that enters a
//! namespace never does anything else afterwards. What is in a namespace is for [`crate::state`] to know.
//!
//! Spec: network_namespaces(7).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use knarr_linux::process::{Namespace, join_namespace, unshare};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::fstatfs;

use crate::link::Links;

/// A namespace that is open, with its links.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) file: File,
    pub(crate) links: Links,
}

/// A new namespace, with its loopback up, held by a file at `path`.
pub(crate) fn make(path: &Path) -> io::Result<Space> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o444).open(path)?;
    let made = on_a_thread(|| {
        unshare(Namespace::Network.flag())?;
        mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mut links = Links::open()?;
        links.up(LOOPBACK).map_err(io::Error::other)?;
        Ok(Space { file: File::open(OWN)?, links })
    });
    made.inspect_err(|_| {
        let _ = remove(path);
    })
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
/// The number of the file system that namespaces are files of.
const NSFS: i64 = 0x6e73_6673;
