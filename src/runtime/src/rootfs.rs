//! Work inside a container's root while the host's is still in sight.
//!
//! [`Rootfs`] finds every place by descriptor, as if the root were `/`: a link in an image leads nowhere outside, and
//! what is found is what is mounted on, however the tree changes meanwhile. The kernel's own tables are reached through
//! [`Proc`], a mount of procfs that nobody else sees.
//!
//! Spec: openat2(2) `RESOLVE_IN_ROOT`; CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565,
//! CVE-2025-52881 for what happens otherwise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use knarr_linux::mounts::{Attributes, Detached, set_attributes};
use rustix::fs::{
    self as sys, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fstat, makedev, mkdirat,
    mknodat, openat, openat2, readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::plan::DevicePlan;

const READ_ONLY: u64 = 1;
const MOST_LINKS: u32 = 40;

/// An open root.
#[derive(Debug)]
pub(crate) struct Rootfs {
    fd: OwnedFd,
    /// An empty directory that can only be read; what is hidden is covered with it.
    empty: Option<OwnedFd>,
    /// The host's `/dev/null`, which covers files.
    null: Option<OwnedFd>,
}

/// What is to be at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

impl Rootfs {
    /// Makes the directory a mount of its own.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let directory = sys::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let fd = Detached::copy_of(directory.as_fd(), true)?.attach(directory.as_fd())?;
        Ok(Self { fd, empty: None, null: None })
    }

    /// The root itself.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What is at a place, links inside the root followed.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                // Somebody moved a directory meanwhile; the kernel could not be sure.
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The same, made when it is not there, with the directories above.
    pub(crate) fn find_or_make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.make_last(path, kind) {
                Some(made) => Ok(made),
                None => self.make(path, kind, MOST_LINKS),
            },
            other => other,
        }
    }

    /// The usual case: only the last part is missing, and nothing is there that leads elsewhere.
    fn make_last(&self, path: &Path, kind: Kind) -> Option<OwnedFd> {
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let above = self.find(path.parent()?).ok()?;
        if !try_make_one(above.as_fd(), path.file_name()?, kind).ok()? {
            return None;
        }
        self.find(path).ok()
    }

    fn make(&self, path: &Path, kind: Kind, links: u32) -> io::Result<OwnedFd> {
        if links == 0 {
            return Err(Errno::LOOP.into());
        }
        let mut above = self.find(Path::new("/"))?;
        let mut walked = PathBuf::new();
        let parts: Vec<&std::ffi::OsStr> = normal_parts(path);
        for (index, part) in parts.iter().enumerate() {
            let kind = if index + 1 == parts.len() { kind } else { Kind::Directory };
            walked.push(part);
            above = match self.find(&walked) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Ok(target) = readlinkat(&above, *part, Vec::new()) {
                        // A link to what is not there yet: it is made where the link leads.
                        let target = PathBuf::from(target.to_string_lossy().into_owned());
                        let place = walked.parent().unwrap_or_else(|| Path::new("")).join(target);
                        self.make(&place, kind, links - 1)?
                    } else {
                        make_one(above.as_fd(), part, kind)?;
                        self.find(&walked)?
                    }
                }
                other => other?,
            };
        }
        Ok(above)
    }

    /// The open directory that has the last part of a path, and that part.
    fn parent_of<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p std::ffi::OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let above = path.parent().unwrap_or_else(|| Path::new("/"));
        Ok((self.find_or_make(above, Kind::Directory)?, name))
    }

    /// Makes a device, or shows the host's own.
    pub(crate) fn make_device(&self, device: &DevicePlan) -> io::Result<()> {
        if device.bind {
            return self.show_device(device);
        }
        let (parent, name) = self.parent_of(&device.path)?;
        let kind = match device.kind {
            'b' => FileType::BlockDevice,
            'p' => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        match mknodat(&parent, name, kind, Mode::empty(), makedev(device.major, device.minor)) {
            Err(Errno::EXIST) => check_device(parent.as_fd(), name, kind, device)?,
            Err(Errno::PERM) => return self.show_device(device),
            other => other?,
        }
        let mode = Mode::from_raw_mode(device.mode);
        sys::chownat(
            &parent,
            name,
            Some(Uid::from_raw(device.uid)),
            Some(Gid::from_raw(device.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(sys::chmodat(&parent, name, mode, AtFlags::empty())?)
    }

    fn show_device(&self, device: &DevicePlan) -> io::Result<()> {
        let host = sys::open(&device.path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = fstat(&host)?;
        let wanted = if device.kind == 'b' { FileType::BlockDevice } else { FileType::CharacterDevice };
        if FileType::from_raw_mode(stat.st_mode) != wanted
            || stat.st_rdev != makedev(device.major, device.minor)
        {
            let reason = format!("the host's is not {} {}:{}", device.kind, device.major, device.minor);
            return Err(io::Error::other(reason));
        }
        let place = self.find_or_make(&device.path, Kind::File)?;
        Detached::copy_of(host.as_fd(), false)?.attach(place.as_fd())?;
        Ok(())
    }

    /// Makes a symbolic link, unless something is there already.
    pub(crate) fn link(&self, path: &Path, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        match symlinkat(target, &parent, name) {
            Err(Errno::EXIST) if path.ends_with("ptmx") => {
                // The one that must be the container's own and not the host's.
                unlinkat(&parent, name, AtFlags::empty())?;
                Ok(symlinkat(target, &parent, name)?)
            }
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Shows a descriptor's file at a place.
    pub(crate) fn show(&self, what: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let place = self.find_or_make(path, Kind::File)?;
        Detached::copy_of(what, false)?.attach(place.as_fd())?;
        Ok(())
    }

    /// Makes a place read-only. Where nothing is, nothing needs to be kept.
    pub(crate) fn make_read_only(&self, path: &Path) -> io::Result<()> {
        let place = match self.find(path) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        let copy = Detached::copy_of(place.as_fd(), true)?;
        copy.set(&Attributes { set: READ_ONLY, clear: 0 }, true)?;
        copy.attach(place.as_fd())?;
        Ok(())
    }

    /// Hides a place. Where nothing is, nothing needs to be hidden.
    pub(crate) fn mask(&mut self, path: &Path) -> io::Result<()> {
        let place = match self.find(path) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        if !FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir() {
            let null = match self.null.take() {
                Some(null) => null,
                None => host_null()?,
            };
            Detached::copy_of(null.as_fd(), false)?.attach(place.as_fd())?;
            self.null = Some(null);
            return Ok(());
        }
        match &self.empty {
            Some(empty) => _ = Detached::copy_of(empty.as_fd(), false)?.attach(place.as_fd())?,
            None => self.empty = Some(empty_directory()?.attach(place.as_fd())?),
        }
        Ok(())
    }

    /// Makes the root itself read-only, with nothing that is mounted in it.
    pub(crate) fn make_root_read_only(&self) -> io::Result<()> {
        set_attributes(self.fd.as_fd(), &Attributes { set: READ_ONLY, clear: 0 }, false)
    }

    /// Whether a place is reached without any link.
    pub(crate) fn is_direct(&self, path: &Path) -> bool {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        openat2(&self.fd, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).is_ok()
    }
}

fn empty_directory() -> io::Result<Detached> {
    let option = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    Detached::file_system("tmpfs", "tmpfs", &[option("mode", "0555"), option("nr_inodes", "1")], READ_ONLY)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn normal_parts(path: &Path) -> Vec<&std::ffi::OsStr> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => _ = parts.pop(),
            _ => {}
        }
    }
    parts
}

fn make_one(parent: BorrowedFd<'_>, name: &std::ffi::OsStr, kind: Kind) -> io::Result<()> {
    try_make_one(parent, name, kind).map(drop)
}

/// Answers whether nothing was there before.
fn try_make_one(parent: BorrowedFd<'_>, name: &std::ffi::OsStr, kind: Kind) -> io::Result<bool> {
    let made = match kind {
        Kind::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

fn check_device(
    parent: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    kind: FileType,
    device: &DevicePlan,
) -> io::Result<()> {
    let stat = sys::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_same = FileType::from_raw_mode(stat.st_mode) == kind
        && (kind == FileType::Fifo || stat.st_rdev == makedev(device.major, device.minor));
    if is_same { Ok(()) } else { Err(io::Error::other("something else is there already")) }
}

/// The host's `/dev/null`, made sure to be it: what hides paths must not be a file that somebody can write.
fn host_null() -> io::Result<OwnedFd> {
    let null = sys::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = fstat(&null)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != makedev(1, 3) {
        return Err(io::Error::other("the host's /dev/null is not the null device"));
    }
    Ok(null)
}

/// The kernel's tables as this process sees them, wherever `/proc` may lead.
#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

impl Proc {
    /// A mount of our own; where a user may not have one, the one at `/proc`, made sure to be it.
    pub(crate) fn open() -> io::Result<Self> {
        if let Ok(mount) = Detached::file_system("proc", "proc", &[], 0) {
            return Ok(Self(mount.into_fd()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let proc = openat(CWD, "/proc", flags, Mode::empty())?;
        if sys::fstatfs(&proc)?.f_type as i64 != PROC_SUPER_MAGIC {
            return Err(io::Error::other("/proc is no procfs"));
        }
        Ok(Self(proc))
    }

    /// Writes to a table.
    pub(crate) fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(&self.0, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        if sys::fstatfs(&fd)?.f_type as i64 != PROC_SUPER_MAGIC {
            return Err(io::Error::other("it is no table of the kernel's"));
        }
        io::Write::write_all(&mut std::fs::File::from(fd), value.as_bytes())
    }
}

/// Copies what is in one directory into another, owners, permissions, links and all.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(from, ".", flags, Mode::empty())?;
    let to = openat(to, ".", flags, Mode::empty())?;
    for entry in sys::Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from.as_fd(), to.as_fd(), name)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    let stat = sys::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let open = |at| openat(at, name, nofollow | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            copy_tree(open(from)?.as_fd(), open(to)?.as_fd())?;
        }
        FileType::RegularFile => {
            let mut source =
                std::fs::File::from(openat(from, name, nofollow | OFlags::RDONLY, Mode::empty())?);
            let flags = nofollow | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut copy = std::fs::File::from(openat(to, name, flags, Mode::from_raw_mode(0o600))?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(&target, to, name)?;
        }
        // Sockets, pipes and devices live where they are.
        _ => return Ok(()),
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    sys::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        sys::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(())
}
