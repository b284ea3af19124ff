//! A directory that nothing leads out of.
//!
//! [`Root`] resolves every path inside itself, as if it were `/`, with the kernel's help. The last
//! component of a path is never followed when something is written, except by [`Root::read`].
//!
//! Spec: openat2(2), `RESOLVE_IN_ROOT`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    self as sys, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps,
    Uid, XattrFlags,
};

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
    /// Number of names.
    pub links: u32,
    /// File system and inode: what names of one file share.
    pub inode: (u64, u64),
}

/// The largest file that is ever read whole.
pub const MAX_READ_BYTES: u64 = 256 << 20;

impl Root {
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
            Err(TreeError::Path { source, .. })
                if matches!(source.raw_os_error(), Some(ENOENT | ENOTDIR)) =>
            {
                Ok(false)
            }
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
        file.read_to_end(&mut bytes).map_err(|error| fail("read", path, error))?;
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

    /// Creates one directory; an existing one stays as it is.
    pub fn create_dir(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "create")?;
        match sys::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => sys::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(|e| fail("create", path, e.into())),
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(fail("create", path, error.into())),
        }
    }

    /// Creates a directory and those above it.
    pub fn create_dir_all(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.create_dir(&path[..end], mode)?;
        }
        self.create_dir(path, mode)
    }

    /// Makes a symbolic link; what stands there is replaced unless it is a directory.
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "link")?;
        self.replace(parent.as_fd(), name, path, || sys::symlinkat(target, &parent, name))
    }

    /// Gives a file a second name.
    pub fn hard_link(&self, from: &str, path: &str) -> Result<(), TreeError> {
        let (parent, name) = self.parent(path, "link")?;
        let (old_parent, old_name) = self.parent(from, "link to")?;
        self.replace(parent.as_fd(), name, path, || {
            sys::linkat(&old_parent, old_name, &parent, name, AtFlags::empty())
        })
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

    /// Removes a directory with all that is in it; nothing happens when it is not there.
    pub fn remove_dir_all(&self, path: &str) -> Result<(), TreeError> {
        if !self.exists(path)? {
            return Ok(());
        }
        for name in self.list(path)? {
            let inside = format!("{path}/{name}");
            match self.lstat(&inside)?.kind {
                Kind::Directory => self.remove_dir_all(&inside)?,
                _ => self.remove_file(&inside)?,
            }
        }
        let (parent, name) = self.parent(path, "remove")?;
        sys::unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(|error| fail("remove", path, error.into()))
    }

    /// Sets permission bits.
    pub fn set_mode(&self, path: &str, mode: u32) -> Result<(), TreeError> {
        let fd = self.resolve(path, OFlags::PATH)?;
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        sys::chmod(name, Mode::from_raw_mode(mode))
            .map_err(|error| fail("set the mode of", path, error.into()))
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

    /// Names in a directory, sorted by bytes.
    pub fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let directory = sys::Dir::read_from(&fd).map_err(|error| fail("list", path, error.into()))?;
        let mut names = Vec::new();
        for entry in directory {
            let entry = entry.map_err(|error| fail("list", path, error.into()))?;
            let name = entry
                .file_name()
                .to_str()
                .map_err(|_| fail("list", path, io::Error::other("a name is no UTF-8 text")))?;
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Extended attributes of a file, links not followed.
    pub fn xattrs(&self, path: &str) -> Result<BTreeMap<String, Vec<u8>>, TreeError> {
        let (parent, name) = self.parent(path, "read attributes of")?;
        xattrs_at(parent.as_fd(), name).map_err(|error| fail("read attributes of", path, error))
    }

    pub(crate) fn replace(
        &self,
        parent: BorrowedFd<'_>,
        name: &str,
        path: &str,
        make: impl Fn() -> rustix::io::Result<()>,
    ) -> Result<(), TreeError> {
        let outcome = match make() {
            Err(rustix::io::Errno::EXIST) => {
                sys::unlinkat(parent, name, AtFlags::empty()).and_then(|()| make())
            }
            outcome => outcome,
        };
        outcome.map_err(|error| fail("create", path, error.into()))
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
const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
const ENOTDIR: i32 = rustix::io::Errno::NOTDIR.raw_os_error();

fn inside(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    if path.is_empty() { "." } else { path }
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
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = sys::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    sys::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(File::from(fd))
}

pub(crate) fn chown_at(parent: BorrowedFd<'_>, name: &str, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(sys::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(crate) fn set_mtime_at(parent: BorrowedFd<'_>, name: &str, mtime: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(sys::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
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
        inode: (u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), stat.stx_ino),
    }
}

/// Attributes that belong to the file and not to the machine that it lies on.
pub(crate) fn xattrs_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let path = fd_path(parent, name);
    let mut attributes = BTreeMap::new();
    let mut names = vec![0_u8; 4096];
    let length = match sys::llistxattr(&path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOENT) => return Ok(attributes),
        Err(error) => return Err(error.into()),
    };
    for key in names[..length].split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        let key = String::from_utf8_lossy(key).into_owned();
        if key == "security.selinux" || key.starts_with("system.") || key.starts_with("trusted.") {
            continue;
        }
        let mut value = vec![0_u8; 65_536];
        let length = sys::lgetxattr(&path, key.as_str(), value.as_mut_slice())?;
        value.truncate(length);
        attributes.insert(key, value);
    }
    Ok(attributes)
}

pub(crate) fn set_xattr_at(parent: BorrowedFd<'_>, name: &str, key: &str, value: &[u8]) -> io::Result<()> {
    Ok(sys::lsetxattr(fd_path(parent, name), key, value, XattrFlags::empty())?)
}

/// A path to `name` in the directory `parent`: attribute calls take no directory.
fn fd_path(parent: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&parent))
}

impl Root {
    /// Makes an entry that comes from no archive; what stands there is replaced.
    pub fn make_entry(&self, entry: &crate::archive::ExtraEntry) -> Result<(), TreeError> {
        match entry.kind {
            Kind::Directory => self.create_dir(&entry.path, entry.mode)?,
            Kind::Symlink => self.symlink(&entry.link, &entry.path)?,
            _ => {
                let (parent, name) = self.parent(&entry.path, "create")?;
                let device = sys::makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_raw_mode(entry.mode);
                self.replace(parent.as_fd(), name, &entry.path, || {
                    sys::mknodat(&parent, name, FileType::CharacterDevice, mode, device)
                })?;
                self.set_mode(&entry.path, entry.mode)?;
            }
        }
        self.set_owner(&entry.path, 0, 0)
    }
}
