//! Unpacking a tarball into a root, as dpkg would.
//!
//! [`unpack`] streams once. A [`Policy`] decides for each entry whether and where it is written;
//! what the archive says can never lead out of the root.
//!
//! Spec: POSIX ustar and pax, GNU tar; Debian Policy 10; dpkg keeps links to directories.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self as sys, AtFlags, FileType, Mode};

use crate::TreeError;
use crate::root::{Root, chown_at, create, fail, meta_at, set_mtime_at, set_xattr_at};

/// What an entry or a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier file (in archives only).
    HardLink,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket (on disk only).
    Socket,
}

/// What is known of an entry before it is written.
#[derive(Clone, Copy, Debug)]
pub struct EntryHead<'a> {
    /// Without leading `/` or `./`; empty for the root itself.
    pub path: &'a str,
    /// What it is.
    pub kind: Kind,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is written.
    Write,
    /// It is left out.
    Skip,
    /// It is written under another path.
    WriteAs(String),
}

/// Decides what becomes of each entry.
pub trait Policy {
    /// Decides about one entry.
    fn decide(&self, head: &EntryHead<'_>) -> Decision;
}

/// Writes everything.
pub struct Everything;

impl Policy for Everything {
    fn decide(&self, _: &EntryHead<'_>) -> Decision {
        Decision::Write
    }
}

/// An entry that was in the archive and not left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without leading `/` or `./`; empty for the root itself.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Seconds since the epoch.
    pub mtime: i64,
}

/// Bounds for an archive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most entries.
    pub entries: u64,
    /// Most bytes of content.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: 64 << 30 }
    }
}

/// Unpacks `tar` into `root`; answers with the entries that belong to the package, in order.
pub fn unpack(
    root: &Root,
    tar: &mut dyn Read,
    policy: &dyn Policy,
    limits: &Limits,
) -> Result<Vec<Entry>, TreeError> {
    let mut work = Work {
        root,
        limits,
        bytes: 0,
        parent: None,
        times: Vec::new(),
        skipped: HashSet::new(),
        entries: Vec::new(),
    };
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().map_err(TreeError::Read)? {
        work.entry(entry.map_err(TreeError::Read)?, policy)?;
    }
    work.finish()
}

struct Work<'a> {
    root: &'a Root,
    limits: &'a Limits,
    bytes: u64,
    /// The last parent directory: entries of one directory follow each other.
    parent: Option<(String, OwnedFd)>,
    /// Directories whose time is set when nothing more is written into them.
    times: Vec<(String, i64)>,
    skipped: HashSet<String>,
    entries: Vec<Entry>,
}

struct Head {
    path: String,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    link: String,
    device: (u32, u32),
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Work<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>, policy: &dyn Policy) -> Result<(), TreeError> {
        let Some(mut head) = read_head(&mut entry)? else { return Ok(()) };
        self.bytes += entry.size();
        if self.bytes > self.limits.bytes {
            return Err(TreeError::TooMuch { limit: self.limits.bytes, what: "bytes" });
        }
        if self.entries.len() as u64 >= self.limits.entries {
            return Err(TreeError::TooMuch { limit: self.limits.entries, what: "entries" });
        }
        self.entries.push(Entry { path: head.path.clone(), kind: head.kind, mtime: head.mtime });
        match policy.decide(&EntryHead { path: &head.path, kind: head.kind }) {
            Decision::Write => {}
            Decision::WriteAs(path) => head.path = path,
            Decision::Skip => {
                self.skipped.insert(head.path);
                return Ok(());
            }
        }
        self.write(&head, &mut entry)
    }

    fn write(&mut self, head: &Head, content: &mut dyn Read) -> Result<(), TreeError> {
        if head.kind == Kind::Directory {
            return self.write_directory(head);
        }
        self.enter_parent(&head.path)?;
        let (_, name) = split(&head.path);
        match head.kind {
            Kind::File => self.write_file(head, name, content)?,
            Kind::HardLink => return self.write_hard_link(head),
            Kind::Symlink => {
                let parent = self.parent_fd();
                self.root.replace(parent.as_fd(), name, &head.path, || {
                    sys::symlinkat(head.link.as_str(), parent, name)
                })?;
            }
            _ => self.write_node(head, name)?,
        }
        let parent = self.parent_fd();
        let own = chown_at(parent.as_fd(), name, head.uid, head.gid);
        own.map_err(|error| fail("set the owner of", &head.path, error))?;
        if head.kind != Kind::Symlink {
            // chown clears setuid and setgid, so the mode comes after it.
            let mode = sys::chmodat(parent, name, Mode::from_raw_mode(head.mode), AtFlags::empty());
            mode.map_err(|error| fail("set the mode of", &head.path, error.into()))?;
        }
        for (key, value) in &head.xattrs {
            let set = set_xattr_at(parent.as_fd(), name, key, value);
            set.map_err(|error| fail("set attributes of", &head.path, error))?;
        }
        set_mtime_at(parent.as_fd(), name, head.mtime)
            .map_err(|error| fail("set the time of", &head.path, error))
    }

    fn write_file(&self, head: &Head, name: &str, content: &mut dyn Read) -> Result<(), TreeError> {
        let parent = self.parent_fd().as_fd();
        let created = match create(parent, name, 0o600) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                sys::unlinkat(parent, name, AtFlags::empty())
                    .map_err(io::Error::from)
                    .and_then(|()| create(parent, name, 0o600))
            }
            created => created,
        };
        let mut file = created.map_err(|error| fail("create", &head.path, error))?;
        copy(content, &mut file).map_err(|error| match error {
            CopyError::Read(error) => TreeError::Read(error),
            CopyError::Write(error) => fail("write", &head.path, error),
        })
    }

    fn write_hard_link(&self, head: &Head) -> Result<(), TreeError> {
        if self.skipped.contains(&head.link) {
            return Err(TreeError::HostilePath {
                path: head.path.clone(),
                reason: "it is a hard link to a file that was left out",
            });
        }
        self.root.hard_link(&head.link, &head.path)
    }

    fn write_node(&self, head: &Head, name: &str) -> Result<(), TreeError> {
        let kind = match head.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = sys::makedev(head.device.0, head.device.1);
        let parent = self.parent_fd();
        self.root.replace(parent.as_fd(), name, &head.path, || {
            sys::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
        })
    }

    /// An existing directory keeps its mode and owner, a link to one stays a link.
    fn write_directory(&mut self, head: &Head) -> Result<(), TreeError> {
        if head.path.is_empty() {
            self.times.push((head.path.clone(), head.mtime));
            return Ok(());
        }
        self.enter_parent(&head.path)?;
        let (_, name) = split(&head.path);
        let parent = self.parent_fd();
        match sys::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => {
                if self.root.stat(&head.path)?.kind != Kind::Directory {
                    return Err(fail("create", &head.path, io::Error::from(io::ErrorKind::NotADirectory)));
                }
                return Ok(());
            }
            outcome => outcome.map_err(|error| fail("create", &head.path, error.into()))?,
        }
        let own = chown_at(parent.as_fd(), name, head.uid, head.gid);
        own.map_err(|error| fail("set the owner of", &head.path, error))?;
        let mode = sys::chmodat(parent, name, Mode::from_raw_mode(head.mode), AtFlags::empty());
        mode.map_err(|error| fail("set the mode of", &head.path, error.into()))?;
        self.times.push((head.path.clone(), head.mtime));
        Ok(())
    }

    fn enter_parent(&mut self, path: &str) -> Result<(), TreeError> {
        let (parent, _) = split(path);
        if self.parent.as_ref().is_some_and(|(known, _)| known == parent) {
            return Ok(());
        }
        let fd = match self.root.resolve_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.root.create_dir_all(parent, 0o755)?;
                self.root.resolve_dir(parent)
            }
            outcome => outcome,
        };
        self.parent = Some((parent.to_owned(), fd.map_err(|error| fail("open", parent, error))?));
        Ok(())
    }

    fn parent_fd(&self) -> &OwnedFd {
        // Every writer calls enter_parent first.
        self.parent.as_ref().map_or_else(|| unreachable!("a parent was entered"), |(_, fd)| fd)
    }

    fn finish(self) -> Result<Vec<Entry>, TreeError> {
        for (path, mtime) in self.times.iter().rev() {
            let (parent, name) = self.root.parent(path, "set the time of")?;
            // Another package may have put a link there since: then it is not ours any more.
            if meta_at(parent.as_fd(), name).is_ok_and(|meta| meta.kind == Kind::Directory) {
                set_mtime_at(parent.as_fd(), name, *mtime)
                    .map_err(|error| fail("set the time of", path, error))?;
            }
        }
        Ok(self.entries)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn read_head<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Option<Head>, TreeError> {
    use tar::EntryType;
    let raw_path = text(&entry.path_bytes())?;
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        EntryType::XGlobalHeader => return Ok(None),
        other => return Err(TreeError::UnknownKind { path: raw_path, kind: char::from(other.as_byte()) }),
    };
    let read = TreeError::Read;
    let number = |value: io::Result<u64>| value.map_err(read).map(|value| value as u32);
    let (mode, uid, gid) =
        (header.mode().map_err(read)? & 0o7777, number(header.uid())?, number(header.gid())?);
    let mtime = header.mtime().map_err(read)? as i64;
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => (
            header.device_major().map_err(read)?.unwrap_or(0),
            header.device_minor().map_err(read)?.unwrap_or(0),
        ),
        _ => (0, 0),
    };
    let link = entry.link_name_bytes().map_or_else(|| Ok(String::new()), |link| text(&link))?;
    let mut head =
        Head { path: safe_path(&raw_path)?, kind, mode, uid, gid, mtime, link, device, xattrs: Vec::new() };
    if kind == Kind::HardLink {
        head.link = safe_path(&head.link)?;
    }
    read_pax(entry, &mut head)?;
    Ok(Some(head))
}

fn read_pax<R: Read>(entry: &mut tar::Entry<'_, R>, head: &mut Head) -> Result<(), TreeError> {
    let Some(extensions) = entry.pax_extensions().map_err(TreeError::Read)? else { return Ok(()) };
    for extension in extensions {
        let extension = extension.map_err(TreeError::Read)?;
        let key = extension.key().map_err(|error| TreeError::Read(io::Error::other(error)))?;
        let value = extension.value_bytes();
        let number =
            || std::str::from_utf8(value).ok().and_then(|value| value.split('.').next()?.parse::<i64>().ok());
        match key {
            "uid" => head.uid = number().map_or(head.uid, |id| id as u32),
            "gid" => head.gid = number().map_or(head.gid, |id| id as u32),
            "mtime" => head.mtime = number().unwrap_or(head.mtime),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    head.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, TreeError> {
    let hostile =
        |reason| TreeError::HostilePath { path: String::from_utf8_lossy(bytes).into_owned(), reason };
    if bytes.contains(&0) {
        return Err(hostile("it holds a NUL byte"));
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| hostile("it is no UTF-8 text"))
}

fn safe_path(raw: &str) -> Result<String, TreeError> {
    let hostile = |reason| TreeError::HostilePath { path: raw.chars().take(200).collect(), reason };
    if raw.len() > 4096 {
        return Err(hostile("it is longer than 4096 bytes"));
    }
    let mut path = String::with_capacity(raw.len());
    for part in raw.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => return Err(hostile("it holds \"..\"")),
            part if part.len() > 255 => return Err(hostile("a name is longer than 255 bytes")),
            part => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(part);
            }
        }
    }
    match (raw, path.is_empty()) {
        ("", _) => Err(hostile("it is empty")),
        _ => Ok(path),
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut dyn Read, to: &mut dyn io::Write) -> Result<(), CopyError> {
    let mut buffer = [0_u8; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read]).map_err(CopyError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests;
