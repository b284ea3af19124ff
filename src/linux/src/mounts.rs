//! Mounts by descriptor: made first, attached later, never looked up by a path in between.
//!
//! A [`Detached`] mount is seen by nobody until [`Detached::attach`] puts it onto an open directory or file.
//!
//! Spec: fsopen(2), open_tree(2), mount_setattr(2), move_mount(2), pivot_root(2).

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::process::check;

/// A mount that is attached nowhere yet.
#[derive(Debug)]
pub struct Detached(OwnedFd);

/// Flags of a mount that change: bits of `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Those that come.
    pub set: u64,
    /// Those that go.
    pub clear: u64,
}

/// How mounts and unmounts below a mount reach its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation(u64);

impl Propagation {
    /// Both ways.
    pub const SHARED: Self = Self(libc::MS_SHARED);
    /// From the other side only.
    pub const SLAVE: Self = Self(libc::MS_SLAVE);
    /// Not at all.
    pub const PRIVATE: Self = Self(libc::MS_PRIVATE);
    /// Not at all, and no copy can be made.
    pub const UNBINDABLE: Self = Self(libc::MS_UNBINDABLE);
}

impl Detached {
    /// What is mounted at an open file or directory, once more; with everything below if `recursive`.
    pub fn copy_of(place: BorrowedFd<'_>, recursive: bool) -> io::Result<Self> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        Ok(Self(open_tree(place, "", flags)?))
    }

    /// A new mount of a file system. Where the kernel refuses an option, the error carries its words.
    pub fn file_system(
        kind: &str,
        source: &str,
        options: &[(String, Option<String>)],
        attributes: u64,
    ) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let configured = configure(&context, source, options);
        configured.map_err(|error| with_reason(&context, error))?;
        let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Changes flags of the mount, or of all mounts in it.
    pub fn set(&self, attributes: &Attributes, recursive: bool) -> io::Result<()> {
        set_attributes(self.0.as_fd(), attributes, recursive)
    }

    /// Maps the owners of its files through a user namespace.
    pub fn map_ids(&self, user_namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        let change = MountAttributes {
            set: libc::MOUNT_ATTR_IDMAP,
            user_namespace: user_namespace.as_raw_fd() as u64,
            ..MountAttributes::default()
        };
        change.apply(self.0.as_fd(), recursive)
    }

    /// Puts it onto an open file or directory. The descriptor that comes back is the mount's root.
    pub fn attach(self, to: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, "", to, "", flags)?;
        Ok(self.0)
    }

    /// The descriptor, to be handed to a child.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl From<OwnedFd> for Detached {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn configure(
    context: &OwnedFd,
    source: &str,
    options: &[(String, Option<String>)],
) -> rustix::io::Result<()> {
    if !source.is_empty() {
        fsconfig_set_string(context, "source", source)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, key, value)?,
            None => fsconfig_set_flag(context, key)?,
        }
    }
    fsconfig_create(context)
}

/// The kernel tells in words what it does not like, when it is read from the context.
fn with_reason(context: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut words = [0; 512];
    let error = io::Error::from(error);
    let Ok(file) = context.try_clone() else { return error };
    match std::fs::File::from(file).read(&mut words) {
        Ok(length) if length > 2 => {
            let words = String::from_utf8_lossy(&words[2..length]).trim().to_owned();
            io::Error::new(error.kind(), format!("{words} ({error})"))
        }
        _ => error,
    }
}

/// Changes flags of the mount whose root is open, or of all mounts in it.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: &Attributes, recursive: bool) -> io::Result<()> {
    let mut change =
        MountAttributes { set: attributes.set, clear: attributes.clear, ..MountAttributes::default() };
    // The ways to keep access times exclude each other: the kernel wants the old one cleared as a whole.
    if (change.set | change.clear) & libc::MOUNT_ATTR__ATIME != 0 {
        change.clear |= libc::MOUNT_ATTR__ATIME;
    }
    change.apply(mount, recursive)
}

/// Sets how mounts reach the copies of the mount whose root is open.
pub fn set_propagation(mount: BorrowedFd<'_>, propagation: Propagation, recursive: bool) -> io::Result<()> {
    MountAttributes { propagation: propagation.0, ..MountAttributes::default() }.apply(mount, recursive)
}

#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    fn apply(&self, mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
        let (fd, empty, size) = (mount.as_raw_fd(), c"".as_ptr(), size_of::<Self>());
        // SAFETY: path and structure live during the call, and the size is the structure's own.
        check(unsafe {
            libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, std::ptr::from_ref(self), size)
        })?;
        Ok(())
    }
}

/// The open directory becomes `/`, and the old root is gone, with all that was mounted in it. `reaches_host` says
/// whether mounts of the old root are still shared with the host's, so that they are parted before.
pub fn pivot_root(root: BorrowedFd<'_>, reaches_host: bool) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies over the new one now. What is unmounted there must not be unmounted on the host.
    if reaches_host {
        mount(None::<&str>, ".", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    }
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// The open directory, which must be a mount's root, is moved onto `/` and becomes it: for roots that cannot be pivoted,
/// like an initramfs. What of the host is mounted elsewhere is taken away before, as far as it can be.
pub fn move_root(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    for place in ["/proc", "/sys"] {
        // Not there, or held by a namespace of others: then it is covered by the new root.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}
