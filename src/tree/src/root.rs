//! A directory that nothing leads out of.
//!
//! [`Root`] resolves every path inside itself, as if it were `/`, with the kernel's help. Readers follow
//! links inside the root; what changes something never follows the last component. What is done with
//! a whole tree is the work of [`crate::archive`], [`crate::copy`] and [`crate::compare`].
//!
//! Spec: openat2(2), `RESOLVE_IN_ROOT`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    self as sys, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::TreeError;
use crate::unpack::Kind;

/// A directory whose inside is addressed by paths that cannot leave it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What the system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// When anything about it changed last: seconds and nanoseconds since the epoch.
    pub ctime: (i64, u32),
    /// Number of names.
    pub links: u32,
    /// File system and inode: what names of one file share.
    pub inode: (u64, u64),
}

/// The largest file that is ever read whole.
pub const MAX_READ_BYTES: u64 = 256 << 20;

impl Root {
    /// Opens a directory, which is made when it is not there; those above it must exist.
    pub fn create(path: &Path) -> Result<Self, TreeError> {
        match std::fs::create_dir(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(TreeError::File { doing: "create", path: path.to_owned(), source })
            }
            _ => Self::open(path),
        }
    }

    /// Opens an existing directory.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = sys::openat(CWD, path, flags, Mode::empty());
        let fd = fd.map_err(|error| TreeError::File {
            doing: "open",
            path: path.to_owned(),
            source: error.into(),
        })?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The top of a mount that has no path on the host; `path` is what it is called.
    pub fn of_mount(mount: BorrowedFd<'_>, path: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = sys::openat(mount, ".", flags, Mode::empty());
        let fd = fd.map_err(|error| TreeError::File {
            doing: "open",
            path: path.to_owned(),
            source: error.into(),
        })?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The directory's path on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether something is there; a dangling link is.
    pub fn exists(&self, path: &str) -> Result<bool, TreeError> {
        match self.lstat(path) {
            Ok(_) => Ok(true),
            Err(TreeError::Path { source, .. }) if is_absent(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is there, links not followed.
    pub fn lstat(&self, path: &str) -> Result<Meta, TreeError> {
        let (parent, name) = self.parent(path, "look at")?;
        meta_at(parent.as_fd(), name).map_err(|error| fail("look at", path, error))
    }

    /// What is there, links followed inside the root.
    pub fn stat(&self, path: &str) -> Result<Meta, TreeError> {
        let fd = self.resolve(path, OFlags::PATH)?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = sys::statx(&fd, "", flags, StatxFlags::BASIC_STATS)
            .map_err(|error| fail("look at", path, error.into()))?;
        Ok(meta_of(&stat))
    }

    /// The whole content of a file of at most [`MAX_READ_BYTES`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        let mut file = self.open_file(path)?;
        let size_bytes = file.metadata().map_err(|error| fail("read", path, error))?.len();
        if size_bytes > MAX_READ_BYTES {
            return Err(TreeError::TooLarge {
                path: path.to_owned(),
                size_bytes,
                limit_bytes: MAX_READ_BYTES,
            });
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        let mut bounded = (&mut file).take(MAX_READ_BYTES);
        bounded.read_to_end(&mut bytes).map_err(|error| fail("read", path, error))?;
        Ok(bytes)
    }

    /// A file opened for reading, links followed inside the root.
    pub fn open_file(&self, path: &str) -> Result<File, TreeError> {
        Ok(File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?))
    }

    /// Where a symbolic link points.
    pub fn read_link(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        let (parent, name) = self.parent(path, "read the link")?;
        let target = sys::readlinkat(&parent, name, Vec::new())
            .map_err(|error| fail("read the link", path, error.into()))?;
        Ok(target.into_bytes())
    }

    /// Writes a file so that nobody ever sees half of it. An existing one is replaced.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "write")?;
        let temporary = temporary_name(name);
        let outcome = (|| {
            let mut file = create(parent.as_fd(), &temporary, mode)?;
            file.write_all(bytes)?;
            Ok(sys::renameat(&parent, &temporary, &parent, name)?)
        })();
        outcome.map_err(|error| {
            let _ = sys::unlinkat(&parent, &temporary, AtFlags::empty());
            fail("write", path, error)
        })
    }

    /// Adds to the end of a file, which is made with `mode` when it is not there.
    pub fn append(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "append to")?;
        let flags = OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match sys::openat(&parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => create(parent.as_fd(), name, mode),
            opened => opened.map(File::from).map_err(io::Error::from),
        };
        let appended = file.and_then(|mut file| file.write_all(bytes));
        appended.map_err(|error| fail("append to", path, error))
    }

    /// Creates one directory; an existing one, or a link to one, stays as it is.
    pub fn create_dir(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        self.make_dir(path, mode).map(drop)
    }

    /// Creates a directory and those above it.
    pub fn create_dir_all(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        self.make_dirs(path, mode).map(drop)
    }

    /// Makes a symbolic link; what stands there is replaced unless it is a directory.
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "link")?;
        replace(parent.as_fd(), name, || sys::symlinkat(target, &parent, name))
            .map_err(|error| fail("link", path, error))
    }

    /// Gives a file a second name; what stands there is replaced unless it is a directory.
    pub fn hard_link(&self, from: &str, path: &str) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "link")?;
        let (old_parent, old_name) = self.parent(from, "link to")?;
        self.link_at((old_parent.as_fd(), old_name), (parent.as_fd(), name))
            .map_err(|error| fail("link", path, error))
    }

    /// Makes a device node or a named pipe; what stands there is replaced unless it is a directory.
    pub fn mknod(&self, path: &str, kind: Kind, mode: u32, device: (u32, u32)) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "create")?;
        mknod_at(parent.as_fd(), name, kind, device)
            .and_then(|()| chmod_at(parent.as_fd(), name, mode))
            .map_err(|error| fail("create", path, error))
    }

    /// Renames inside the root.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), TreeError> {
        let (old_parent, old_name) = self.parent(from, "rename")?;
        let (parent, name) = self.parent(to, "rename to")?;
        sys::renameat(&old_parent, old_name, &parent, name)
            .map_err(|error| fail("rename", from, error.into()))
    }

    /// Removes a file, link or device.
    pub fn remove_file(&self, path: &str) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "remove")?;
        sys::unlinkat(&parent, name, AtFlags::empty()).map_err(|error| fail("remove", path, error.into()))
    }

    /// Removes a directory with all that is in it, or a file; nothing happens when nothing is there.
    pub fn remove_dir_all(&self, path: &str) -> Result<(), TreeError> {
        let (parent, name) = match self.parent(path, "remove") {
            Err(TreeError::Path { source, .. }) if is_absent(&source) => return Ok(()),
            parent => parent?,
        };
        remove_at(parent.as_fd(), name).map_err(|error| fail("remove", path, error))
    }

    /// Sets permission bits; a link is refused.
    pub fn set_mode(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "set the mode of")?;
        chmod_at(parent.as_fd(), name, mode).map_err(|error| fail("set the mode of", path, error))
    }

    /// Sets owner and group, links not followed.
    pub fn set_owner(&self, path: &str, uid: u32, gid: u32) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "set the owner of")?;
        chown_at(parent.as_fd(), name, uid, gid).map_err(|error| fail("set the owner of", path, error))
    }

    /// Sets the time of modification in whole seconds, links not followed.
    pub fn set_mtime(&self, path: &str, mtime: i64) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "set the time of")?;
        set_mtime_at(parent.as_fd(), name, mtime).map_err(|error| fail("set the time of", path, error))
    }

    /// Sets the time of a directory, if there is one, links followed; in seconds since the epoch.
    pub(crate) fn set_directory_mtime(&self, path: &str, mtime: i64) -> Result<(), TreeError> {
        let Ok(directory) = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(()) };
        sys::futimens(&directory, &times_of(mtime))
            .map_err(|error| fail("set the time of", path, error.into()))
    }

    /// Names in a directory, sorted by bytes.
    pub fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        names_in(fd.as_fd()).map_err(|error| fail("list", path, error))
    }

    /// Sets one extended attribute, links not followed.
    pub fn set_xattr(&self, path: &str, key: &str, value: &[u8]) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "set attributes of")?;
        set_xattr_at(parent.as_fd(), name, key, value).map_err(|error| fail("set attributes of", path, error))
    }

    /// Extended attributes of a file, links not followed.
    pub fn xattrs(&self, path: &str) -> Result<BTreeMap<String, Vec<u8>>, TreeError> {
        let (parent, name) = self.parent(path, "read attributes of")?;
        let attributes = xattrs_at(parent.as_fd(), name);
        Ok(attributes.map_err(|error| fail("read attributes of", path, error))?.into_iter().collect())
    }

    /// Whether a directory of an overlay's layer hides what lower ones have in it.
    pub fn is_opaque(&self, path: &str) -> Result<bool, TreeError> {
        let directory = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut value = [0_u8; 1];
        let marks = ["trusted.overlay.opaque", "user.overlay.opaque"];
        Ok(marks.iter().any(|mark| sys::fgetxattr(&directory, *mark, &mut value).is_ok() && value == *b"y"))
    }

    /// Creates one directory and says whether it was missing.
    pub(crate) fn make_dir(&self, path: &str, mode: u32) -> Result<bool, TreeError> {
        let (parent, name) = self.parent(path, "create")?;
        match sys::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let directory = open_dir_at(parent.as_fd(), name);
                let set = directory.and_then(|fd| Ok(sys::fchmod(&fd, Mode::from_raw_mode(mode))?));
                set.map(|()| true).map_err(|error| fail("create", path, error))
            }
            Err(Errno::EXIST) if self.stat(path)?.kind != Kind::Directory => {
                Err(fail("create", path, Errno::NOTDIR.into()))
            }
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(fail("create", path, error.into())),
        }
    }

    /// Creates a directory and those above it, and names those that were missing.
    pub(crate) fn make_dirs(&self, path: &str, mode: u32) -> Result<Vec<String>, TreeError> {
        let path = path.trim_matches('/');
        let mut made = Vec::new();
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            if self.make_dir(&path[..end], mode)? {
                made.push(path[..end].to_owned());
            }
        }
        Ok(made)
    }

    /// Links `old` as `new`. Two names of one file stay what they are.
    pub(crate) fn link_at(&self, old: (BorrowedFd<'_>, &str), new: (BorrowedFd<'_>, &str)) -> io::Result<()> {
        let link = || sys::linkat(old.0, old.1, new.0, new.1, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) if meta_at(old.0, old.1)?.inode == meta_at(new.0, new.1)?.inode => Ok(()),
            Err(Errno::EXIST) => replace(new.0, new.1, link),
            outcome => Ok(outcome?),
        }
    }

    /// The directory that holds the last component of `path`, and that component.
    pub(crate) fn parent<'p>(
        &self,
        path: &'p str,
        doing: &'static str,
    ) -> Result<(OwnedFd, &'p str), TreeError> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = if name.is_empty() { "." } else { name };
        if name == ".." {
            return Err(TreeError::HostilePath { path: path.to_owned(), reason: "it ends in \"..\"" });
        }
        let fd = self.resolve_dir(parent).map_err(|error| fail(doing, path, error))?;
        Ok((fd, name))
    }

    pub(crate) fn resolve_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(sys::openat2(&self.fd, inside(path), flags, Mode::empty(), RESOLVE)?)
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, TreeError> {
        let fd = sys::openat2(&self.fd, inside(path), flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE);
        fd.map_err(|error| fail("open", path, error.into()))
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How often a path is tried again that another thread keeps taking.
const ATTEMPTS: u32 = 16;

fn inside(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    if path.is_empty() { "." } else { path }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn temporary_name(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name: String = name.chars().take(60).collect();
    format!(".{name}.knarr-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn fail(doing: &'static str, path: &str, source: io::Error) -> TreeError {
    TreeError::Path { doing, path: path.trim_start_matches('/').to_owned(), source }
}

/// A new file of exactly these permission bits.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<File> {
    let file = create_private(parent, name)?;
    sys::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file)
}

/// A new file that nobody else may read yet.
pub(crate) fn create_private(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    sys::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Makes what `make` makes in the place of what is there, unless that is a directory.
pub(crate) fn replace<T>(
    parent: BorrowedFd<'_>,
    name: &str,
    make: impl Fn() -> rustix::io::Result<T>,
) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        match make() {
            Err(Errno::EXIST) => match sys::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            },
            outcome => return Ok(outcome?),
        }
    }
    Err(Errno::EXIST.into())
}

pub(crate) fn open_dir_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
    Ok(sys::openat(parent, name, flags, Mode::empty())?)
}

/// Names in a directory, sorted by bytes.
pub(crate) fn names_in(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in sys::Dir::read_from(directory)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => match std::str::from_utf8(name) {
                Ok(name) => names.push(name.to_owned()),
                Err(_) => {
                    let shown = String::from_utf8_lossy(name).into_owned();
                    return Err(io::Error::other(format!("the name {shown:?} is no UTF-8 text")));
                }
            },
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match sys::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_dir_at(parent, name)?;
    for inside in names_in(directory.as_fd())? {
        remove_at(directory.as_fd(), &inside)?;
    }
    Ok(sys::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

pub(crate) fn chown_at(parent: BorrowedFd<'_>, name: &str, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(sys::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the mode of what is no link. Only through a descriptor is it sure which file that is.
pub(crate) fn chmod_at(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    let fd = sys::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(sys::fstat(&fd)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    Ok(sys::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))?)
}

pub(crate) fn mknod_at(parent: BorrowedFd<'_>, name: &str, kind: Kind, device: (u32, u32)) -> io::Result<()> {
    let file_type = match kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        _ => return Err(Errno::INVAL.into()),
    };
    let device = sys::makedev(device.0, device.1);
    replace(parent, name, || sys::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device))
}

pub(crate) fn times_of(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn set_mtime_at(parent: BorrowedFd<'_>, name: &str, mtime: i64) -> io::Result<()> {
    Ok(sys::utimensat(parent, name, &times_of(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives an open file or directory its owner, mode, attributes and time, in the order that keeps them.
pub(crate) fn set_all(
    fd: BorrowedFd<'_>,
    owner: (u32, u32),
    mode: u32,
    xattrs: &[(String, Vec<u8>)],
    mtime: i64,
) -> Result<(), (&'static str, io::Error)> {
    // chown clears setuid, setgid and capabilities, so these come after it.
    let own = sys::fchown(fd, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    own.map_err(|error| ("set the owner of", error.into()))?;
    let set = sys::fchmod(fd, Mode::from_raw_mode(mode));
    set.map_err(|error| ("set the mode of", error.into()))?;
    for (key, value) in xattrs {
        let set = sys::fsetxattr(fd, key.as_str(), value, XattrFlags::empty());
        set.map_err(|error| ("set attributes of", error.into()))?;
    }
    sys::futimens(fd, &times_of(mtime)).map_err(|error| ("set the time of", error.into()))
}

pub(crate) fn meta_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<Meta> {
    let stat = sys::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    Ok(meta_of(&stat))
}

fn meta_of(stat: &sys::Statx) -> Meta {
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::File,
    };
    Meta {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size_bytes: stat.stx_size,
        mtime: stat.stx_mtime.tv_sec,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        links: stat.stx_nlink,
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        inode: (u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), stat.stx_ino),
    }
}

/// Attributes that belong to the file and not to the machine that it lies on, sorted by name.
pub(crate) fn xattrs_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = fd_path(parent, name);
    xattrs_with(|names| sys::llistxattr(&path, names), |key, value| sys::lgetxattr(&path, key, value))
}

fn xattrs_with(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut few = [0_u8; 512];
    let mut many = Vec::new();
    let names = match list(&mut few) {
        Ok(length) => &few[..length],
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            many.resize(MAX_XATTR_BYTES, 0);
            let length = list(&mut many)?;
            &many[..length]
        }
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for key in names.split(|&byte| byte == 0).filter_map(|key| std::str::from_utf8(key).ok()) {
        if is_portable(key) {
            let mut value = vec![0_u8; MAX_XATTR_BYTES];
            let length = get(key, &mut value)?;
            value.truncate(length);
            attributes.push((key.to_owned(), own_capability(key, value)));
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// The kernel's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const MAX_XATTR_BYTES: usize = 65_536;

pub(crate) fn is_portable(key: &str) -> bool {
    let of_the_machine =
        ["system.", "trusted.", "user.overlay.", "security.selinux", "security.ima", "security.evm"];
    !key.is_empty() && !of_the_machine.iter().any(|prefix| key.starts_with(prefix))
}

/// Capabilities of the root of this very namespace, in the form that names no namespace.
fn own_capability(key: &str, mut value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    if key == "security.capability" && value.len() == 24 && value[3] == REVISION_3 && value[20..] == [0; 4] {
        value.truncate(20);
        value[3] = REVISION_2;
    }
    value
}

pub(crate) fn set_xattr_at(parent: BorrowedFd<'_>, name: &str, key: &str, value: &[u8]) -> io::Result<()> {
    Ok(sys::lsetxattr(fd_path(parent, name), key, value, XattrFlags::empty())?)
}

/// A path to `name` in the directory `parent`: attribute calls take no directory.
fn fd_path(parent: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", parent.as_raw_fd())
}

impl Root {
    /// Makes an entry that comes from no archive; what stands there is replaced.
    pub fn make_entry(&self, entry: &crate::archive::ExtraEntry) -> Result<(), TreeError> {
        match entry.kind {
            Kind::Directory => self.create_dir(&entry.path, entry.mode)?,
            Kind::Symlink => self.symlink(&entry.link, &entry.path)?,
            kind => self.mknod(&entry.path, kind, entry.mode, entry.device)?,
        }
        self.set_owner(&entry.path, 0, 0)?;
        match entry.kind {
            Kind::Symlink => Ok(()),
            // chown clears setgid.
            _ => self.set_mode(&entry.path, entry.mode),
        }
    }
}

#[cfg(test)]
mod tests;
