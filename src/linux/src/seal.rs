//! This program's own file, out of reach of what it starts.
//!
//! A container that makes this program run `/proc/self/exe` has a handle on the file; through a mount that allows
//! writing it could later overwrite it (CVE-2019-5736). [`start_again_read_only`] starts the program again from a
//! read-only mount that is attached nowhere, so the handle never becomes a writable one.
//!
//! Spec: open_tree(2), mount_setattr(2), memfd_create(2), execveat(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};

use crate::mounts::{Attributes, Detached};
use crate::process::become_file;

/// The name under which the program runs again.
pub const SEALED_NAME: &str = "knarr-oci-sealed";
const MOUNT_READ_ONLY: u64 = 1;

/// Starts this program again, with these arguments, so that its file cannot be written to through it. Returns when it
/// already is so.
pub fn start_again_read_only(arguments: &[String]) -> io::Result<()> {
    if is_read_only()? {
        return Ok(());
    }
    let text = |text: &String| CString::new(text.as_bytes());
    let name = [SEALED_NAME.to_owned()];
    let arguments = name.iter().chain(arguments).map(text).collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os().map(|(key, value)| {
        CString::new([key.into_vec(), b"=".to_vec(), value.into_vec()].concat()).map_err(io::Error::from)
    });
    let environment = environment.collect::<io::Result<Vec<_>>>()?;
    let program = sealed_program()?;
    Err(become_file(program.as_fd(), &arguments, &environment))
}

/// Nobody below can write to the file: its mount is read-only, it is a sealed copy, or it belongs to somebody else and
/// this process has no right over it.
fn is_read_only() -> io::Result<bool> {
    let mount = rustix::fs::statvfs("/proc/self/exe")?;
    if mount.f_flag.bits() & MOUNT_READ_ONLY != 0 {
        return Ok(true);
    }
    let stat = rustix::fs::stat("/proc/self/exe")?;
    let ours = rustix::process::geteuid();
    let is_memfd = std::env::args_os().next().is_some_and(|name| name == SEALED_NAME) && stat.st_nlink == 0;
    Ok(is_memfd || (!ours.is_root() && stat.st_uid != ours.as_raw()))
}

fn sealed_program() -> io::Result<OwnedFd> {
    through_a_mount().or_else(|_| through_memory())
}

fn through_a_mount() -> io::Result<OwnedFd> {
    let file = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mount = Detached::copy_of(file.as_fd(), false)?;
    mount.set(&Attributes { set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, clear: 0 }, false)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount.as_fd()));
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn through_memory() -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("knarr", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut from = std::fs::File::open("/proc/self/exe")?;
    let mut to = std::fs::File::from(memory);
    io::copy(&mut from, &mut to)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&to, seals)?;
    drop(from);
    Ok(rustix::fs::openat(
        CWD,
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to)),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
