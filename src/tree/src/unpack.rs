//! Unpacking a tarball into a root, as dpkg would.
//!
//! [`unpack`] streams once. A [`Policy`] decides for each entry whether and where it is written;
//! what the archive says can never lead out of the root.
//!
//! Spec: POSIX ustar and pax, GNU tar; Debian Policy 10; dpkg keeps links to directories.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use md5::{Digest as _, Md5};
use rustix::fs::{self as sys, Mode};
use rustix::io::Errno;

use crate::TreeError;
use crate::root::{
    Root, chmod_at, chown_at, create_private, fail, is_portable, meta_at, mknod_at, open_dir_at, remove_at,
    replace, set_all, set_mtime_at, set_xattr_at, times_of,
};

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
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a file in bytes.
    pub size_bytes: u64,
    /// Target of a link; of a hard link as a path without leading `/` or `./`.
    pub link: &'a str,
    /// Major and minor number of a device.
    pub device: (u32, u32),
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

    /// Whether the MD5 of a file's content is wanted, as dpkg's database needs it.
    fn wants_md5(&self, _head: &EntryHead<'_>) -> bool {
        false
    }

    /// Whether somebody else brings the content of a hard link whose target was left out; without that it is an error.
    fn adopts(&self, _link: &EntryHead<'_>) -> bool {
        false
    }

    /// Whether an entry takes the place of whatever is there, as layers of images do: then a directory's
    /// entry has the last word about it, and links to directories and directories themselves give way.
    fn replaces_everything(&self) -> bool {
        false
    }
}

/// Writes everything.
pub struct Everything;

impl Policy for Everything {
    fn decide(&self, _: &EntryHead<'_>) -> Decision {
        Decision::Write
    }
}

/// An entry that was in the archive, whether it was written or left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without leading `/` or `./`; empty for the root itself.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a file in bytes.
    pub size_bytes: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Target of a link; of a hard link as a path without leading `/` or `./`.
    pub link: String,
    /// Of the content of a file, when the policy wanted it and it was written.
    pub md5: Option<[u8; 16]>,
    /// Whether the policy let it into the root.
    pub written: bool,
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

/// Unpacks `tar` into `root` and reads it to its end; answers with all its entries, in order.
///
/// Several threads may unpack into one root at once.
pub fn unpack(
    root: &Root,
    tar: &mut dyn Read,
    policy: &dyn Policy,
    limits: &Limits,
) -> Result<Vec<Entry>, TreeError> {
    let allowance = Cell::new(MAX_HEADER_BYTES);
    let mut archive = tar::Archive::new(Metered { inner: tar, allowance: &allowance });
    let mut work = Work {
        root,
        policy,
        limits,
        bytes: 0,
        buffer: vec![0; BUFFER_BYTES],
        parent: None,
        implicit: HashSet::new(),
        times: Vec::new(),
        old_times: Vec::new(),
        touched: HashSet::new(),
        skipped: HashSet::new(),
        moved: HashMap::new(),
        entries: Vec::new(),
    };
    for entry in archive.entries().map_err(TreeError::Read)? {
        let entry = entry.map_err(TreeError::Read)?;
        allowance.set(u64::MAX);
        work.entry(entry)?;
        allowance.set(MAX_HEADER_BYTES);
    }
    allowance.set((limits.bytes - work.bytes).saturating_add(MAX_HEADER_BYTES));
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(TreeError::Read)?;
    work.finish()
}

/// Long names and attributes of one entry; the kernel allows 64 KiB for all attribute names.
const MAX_HEADER_BYTES: u64 = 4 << 20;

const BUFFER_BYTES: usize = 256 << 10;

/// Passes reads on until the allowance is spent: headers are held in memory, so they have a bound.
struct Metered<'a> {
    inner: &'a mut dyn Read,
    allowance: &'a Cell<u64>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what lies between two files is too large",
            ));
        }
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..room])?;
        self.allowance.set(left - read as u64);
        Ok(read)
    }
}

struct Work<'a> {
    root: &'a Root,
    policy: &'a dyn Policy,
    limits: &'a Limits,
    bytes: u64,
    buffer: Vec<u8>,
    /// The last parent directory: entries of one directory follow each other.
    parent: Option<(String, OwnedFd)>,
    /// Directories that were made for what is in them: their own entry may follow.
    implicit: HashSet<String>,
    /// Directories whose time is set when nothing more is written into them.
    times: Vec<(String, i64)>,
    /// Directories that were there before, with the times that they keep unless the archive says another.
    old_times: Vec<(String, i64)>,
    touched: HashSet<String>,
    skipped: HashSet<String>,
    /// Where files went that were written under another path.
    moved: HashMap<String, String>,
    entries: Vec<Entry>,
}

pub(crate) struct Head {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size_bytes: u64,
    pub(crate) mtime: i64,
    pub(crate) link: String,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Head {
    fn shown(&self) -> EntryHead<'_> {
        let Self { kind, mode, uid, gid, size_bytes, device, .. } = *self;
        EntryHead { path: &self.path, kind, mode, uid, gid, size_bytes, link: &self.link, device }
    }

    fn entry(&self) -> Entry {
        let Self { kind, mode, uid, gid, size_bytes, mtime, .. } = *self;
        let (path, link) = (self.path.clone(), self.link.clone());
        Entry { path, kind, mode, uid, gid, size_bytes, mtime, link, md5: None, written: true }
    }
}

impl Work<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), TreeError> {
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.bytes > self.limits.bytes {
            return Err(TreeError::TooMuch { limit: self.limits.bytes, what: "bytes" });
        }
        if self.entries.len() as u64 >= self.limits.entries {
            return Err(TreeError::TooMuch { limit: self.limits.entries, what: "entries" });
        }
        let Some(mut head) = read_head(&mut entry)? else { return self.drain(&mut entry) };
        let mut seen = head.entry();
        match self.policy.decide(&head.shown()) {
            Decision::Write | Decision::WriteAs(_) if self.is_adopted(&head) => seen.written = false,
            Decision::Write => seen.md5 = self.write(&head, &mut entry)?,
            Decision::WriteAs(path) => {
                head.path = safe_path(&path)?;
                self.moved.insert(seen.path.clone(), head.path.clone());
                seen.md5 = self.write(&head, &mut entry)?;
            }
            Decision::Skip => {
                seen.written = false;
                self.skipped.insert(head.path);
            }
        }
        self.entries.push(seen);
        self.drain(&mut entry)
    }

    /// Whether it is a hard link to what was left out, and the policy has a way to get it.
    fn is_adopted(&self, head: &Head) -> bool {
        head.kind == Kind::HardLink && self.skipped.contains(&head.link) && self.policy.adopts(&head.shown())
    }

    /// Reads what nobody wanted, so that only headers are left to be read between two entries.
    fn drain(&mut self, content: &mut dyn Read) -> Result<(), TreeError> {
        while content.read(&mut self.buffer).map_err(TreeError::Read)? > 0 {}
        Ok(())
    }

    fn write(&mut self, head: &Head, content: &mut dyn Read) -> Result<Option<[u8; 16]>, TreeError> {
        if head.kind == Kind::Directory {
            return self.write_directory(head).map(|()| None);
        }
        self.enter_parent(&head.path, head.mtime)?;
        let (_, name) = split(&head.path);
        if self.policy.replaces_everything() {
            self.clear_directory(head, name)?;
        }
        let md5 = match head.kind {
            Kind::File => self.write_file(head, name, content)?,
            Kind::HardLink => self.write_hard_link(head, name).map(|()| None)?,
            _ => self.write_other(head, name).map(|()| None)?,
        };
        self.leave_replaced(&head.path);
        Ok(md5)
    }

    fn write_file(
        &mut self,
        head: &Head,
        name: &str,
        content: &mut dyn Read,
    ) -> Result<Option<[u8; 16]>, TreeError> {
        let parent = self.parent_fd();
        let created = replace(parent, name, || create_private(parent, name));
        let mut file = created.map_err(|error| fail("create", &head.path, error))?;
        let mut md5 = self.policy.wants_md5(&head.shown()).then(Md5::new);
        let mut left = head.size_bytes;
        while left > 0 {
            let read = match content.read(&mut self.buffer) {
                Ok(0) => return Err(TreeError::Read(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome.map_err(TreeError::Read)?,
            };
            let bytes = &self.buffer[..read];
            file.write_all(bytes).map_err(|error| fail("write", &head.path, error))?;
            if let Some(md5) = &mut md5 {
                md5.update(bytes);
            }
            left = left.saturating_sub(read as u64);
        }
        set_all(file.as_fd(), (head.uid, head.gid), head.mode, &head.xattrs, head.mtime)
            .map_err(|(doing, error)| fail(doing, &head.path, error))?;
        Ok(md5.map(|md5| md5.finalize().into()))
    }

    fn write_hard_link(&self, head: &Head, name: &str) -> Result<(), TreeError> {
        let moved = self.moved.get(&head.link);
        let target = moved.unwrap_or(&head.link);
        if moved.is_none() && self.skipped.contains(target) {
            return Err(TreeError::LinkToExcluded { path: head.path.clone(), target: target.clone() });
        }
        let (target_parent, target_name) = self.root.parent(target, "link to")?;
        self.root
            .link_at((target_parent.as_fd(), target_name), (self.parent_fd(), name))
            .map_err(|error| fail("link", &head.path, error))
    }

    fn write_other(&self, head: &Head, name: &str) -> Result<(), TreeError> {
        let parent = self.parent_fd();
        let doing = |doing: &'static str| move |error: io::Error| fail(doing, &head.path, error);
        match head.kind {
            Kind::Symlink => replace(parent, name, || sys::symlinkat(head.link.as_str(), parent, name)),
            kind => mknod_at(parent, name, kind, head.device),
        }
        .map_err(doing("create"))?;
        chown_at(parent, name, head.uid, head.gid).map_err(doing("set the owner of"))?;
        if head.kind != Kind::Symlink {
            chmod_at(parent, name, head.mode).map_err(doing("set the mode of"))?;
        }
        for (key, value) in &head.xattrs {
            set_xattr_at(parent, name, key, value).map_err(doing("set attributes of"))?;
        }
        set_mtime_at(parent, name, head.mtime).map_err(doing("set the time of"))
    }

    /// Removes a directory that stands where something else is to be.
    fn clear_directory(&self, head: &Head, name: &str) -> Result<(), TreeError> {
        let is_directory = |meta: crate::root::Meta| meta.kind == Kind::Directory;
        if meta_at(self.parent_fd(), name).is_ok_and(is_directory) {
            remove_at(self.parent_fd(), name).map_err(|error| fail("replace", &head.path, error))?;
        }
        Ok(())
    }

    /// Makes way for a directory; an existing one takes the entry's mode and owner.
    fn clear_for_directory(&self, head: &Head, name: &str) -> Result<(), TreeError> {
        let parent = self.parent_fd();
        match meta_at(parent, name) {
            Ok(meta) if meta.kind != Kind::Directory => {
                remove_at(parent, name).map_err(|error| fail("replace", &head.path, error))
            }
            _ => Ok(()),
        }
    }

    /// An existing directory keeps its mode and owner, a link to one stays a link; unless the entry has the
    /// last word.
    fn write_directory(&mut self, head: &Head) -> Result<(), TreeError> {
        if head.path.is_empty() {
            if self.policy.replaces_everything() {
                let ids = (head.uid, head.gid);
                set_all(self.root.as_fd(), ids, head.mode, &head.xattrs, head.mtime)
                    .map_err(|(doing, error)| fail(doing, "", error))?;
            }
            self.times.push((head.path.clone(), head.mtime));
            return Ok(());
        }
        self.enter_parent(&head.path, head.mtime)?;
        let (_, name) = split(&head.path);
        let replaces = self.policy.replaces_everything();
        if replaces {
            self.clear_for_directory(head, name)?;
        }
        match sys::mkdirat(self.parent_fd(), name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) if !replaces && !self.implicit.remove(&head.path) => {
                if self.root.stat(&head.path)?.kind != Kind::Directory {
                    return Err(fail("create", &head.path, Errno::NOTDIR.into()));
                }
                return Ok(());
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fail("create", &head.path, error.into())),
        }
        let directory = open_dir_at(self.parent_fd(), name);
        let directory = directory.map_err(|error| fail("open", &head.path, error))?;
        set_all(directory.as_fd(), (head.uid, head.gid), head.mode, &head.xattrs, head.mtime)
            .map_err(|(doing, error)| fail(doing, &head.path, error))?;
        self.times.push((head.path.clone(), head.mtime));
        Ok(())
    }

    /// Opens the directory that `path` is in. Where an image says nothing of it, it is as old as what is first in it:
    /// the same image is the same tree whenever it is unpacked.
    fn enter_parent(&mut self, path: &str, mtime: i64) -> Result<(), TreeError> {
        let (parent, _) = split(path);
        if self.parent.as_ref().is_some_and(|(known, _)| known == parent) {
            return Ok(());
        }
        let keeps_times = self.policy.replaces_everything();
        let fd = match self.root.resolve_dir(parent) {
            // What comes into a directory that the archive says nothing of leaves its time.
            Ok(fd) if keeps_times && self.touched.insert(parent.to_owned()) => {
                let time = sys::fstat(&fd).map_err(|error| fail("look at", parent, error.into()))?.st_mtime;
                self.old_times.push((parent.to_owned(), time));
                Ok(fd)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = self.root.make_dirs(parent, 0o755)?;
                if keeps_times {
                    self.touched.extend(made.iter().cloned());
                    self.times.extend(made.iter().map(|directory| (directory.clone(), mtime)));
                }
                self.implicit.extend(made);
                self.root.resolve_dir(parent)
            }
            outcome => outcome,
        };
        self.parent = Some((parent.to_owned(), fd.map_err(|error| fail("open", parent, error))?));
        Ok(())
    }

    /// Forgets the parent directory when its path may lead somewhere else now.
    fn leave_replaced(&mut self, path: &str) {
        let below = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if self.parent.as_ref().is_some_and(|(known, _)| known == path || below(known)) {
            self.parent = None;
        }
    }

    fn parent_fd(&self) -> BorrowedFd<'_> {
        // Every writer calls enter_parent first.
        self.parent.as_ref().map_or_else(|| unreachable!("a parent was entered"), |(_, fd)| fd.as_fd())
    }

    fn finish(self) -> Result<Vec<Entry>, TreeError> {
        let mut said = HashSet::new();
        for (path, mtime) in self.times.iter().rev() {
            // The last word counts.
            if !said.insert(path) {
                continue;
            }
            let (parent, name) = self.root.parent(path, "set the time of")?;
            // Another package may have put a link there since: then it is not ours any more.
            if let Ok(directory) = open_dir_at(parent.as_fd(), name) {
                sys::futimens(&directory, &times_of(*mtime))
                    .map_err(|error| fail("set the time of", path, error.into()))?;
            }
        }
        // The first look at a directory, by whatever name, saw its own time.
        for (path, mtime) in self.old_times.iter().rev().filter(|(path, _)| !said.contains(path)) {
            self.root.set_directory_mtime(path, *mtime)?;
        }
        Ok(self.entries)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(crate) fn read_head<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Option<Head>, TreeError> {
    let raw_path = text(&entry.path_bytes())?;
    let Some(kind) = kind_of(entry.header().entry_type(), &raw_path)? else { return Ok(None) };
    let read = TreeError::Read;
    let header = entry.header();
    let mut head = Head {
        path: safe_path(&raw_path)?,
        kind,
        mode: number(&header.as_old().mode, header.mode()).map_err(read)? & 0o7777,
        uid: id(number(&header.as_old().uid, header.uid()).map_err(read)?, &raw_path)?,
        gid: id(number(&header.as_old().gid, header.gid()).map_err(read)?, &raw_path)?,
        size_bytes: if kind == Kind::File { entry.size() } else { 0 },
        mtime: number(&header.as_old().mtime, header.mtime()).map_err(read)?.cast_signed(),
        link: String::new(),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        let number = |part: io::Result<Option<u32>>| part.map(Option::unwrap_or_default).map_err(read);
        head.device = (number(header.device_major())?, number(header.device_minor())?);
    }
    if matches!(kind, Kind::HardLink | Kind::Symlink) {
        head.link = text(&entry.link_name_bytes().unwrap_or_default())?;
        if head.link.is_empty() || head.link.len() > MAX_PATH_BYTES {
            return Err(hostile(&raw_path, "its link leads nowhere"));
        }
    }
    if kind == Kind::HardLink {
        head.link = safe_path(&head.link)?;
    }
    if kind != Kind::Directory && head.path.is_empty() {
        return Err(hostile(&raw_path, "the root can only be a directory"));
    }
    read_pax(entry, &mut head)?;
    Ok(Some(head))
}

fn kind_of(kind: tar::EntryType, path: &str) -> Result<Option<Kind>, TreeError> {
    use tar::EntryType;
    Ok(Some(match kind {
        // So directories were written before they had a type.
        EntryType::Regular if path.ends_with('/') => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        EntryType::XGlobalHeader => return Ok(None),
        other => {
            return Err(TreeError::UnknownKind { path: path.to_owned(), kind: char::from(other.as_byte()) });
        }
    }))
}

fn read_pax<R: Read>(entry: &mut tar::Entry<'_, R>, head: &mut Head) -> Result<(), TreeError> {
    let Some(extensions) = entry.pax_extensions().map_err(TreeError::Read)? else { return Ok(()) };
    for extension in extensions {
        let extension = extension.map_err(TreeError::Read)?;
        let key = extension.key().map_err(|error| TreeError::Read(io::Error::other(error)))?;
        let value = extension.value_bytes();
        let number = || {
            let whole = std::str::from_utf8(value).ok()?.split('.').next()?;
            whole.parse::<i64>().ok()
        };
        let bad = || hostile(&head.path, "a number in its header is none");
        match key {
            "uid" => head.uid = id(number().ok_or_else(bad)?.cast_unsigned(), &head.path)?,
            "gid" => head.gid = id(number().ok_or_else(bad)?.cast_unsigned(), &head.path)?,
            "mtime" => head.mtime = number().ok_or_else(bad)?,
            _ if key.starts_with("GNU.sparse.") => {
                return Err(hostile(
                    &head.path,
                    "it is a sparse file of the pax kind, which is not supported",
                ));
            }
            _ => {
                // What belongs to a machine is not an archive's to set: overlayfs would obey it.
                if let Some(name) = key.strip_prefix("SCHILY.xattr.").filter(|name| is_portable(name)) {
                    head.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// A field of a header; one that nobody filled in is 0, as other tools read it.
fn number<T: Default>(raw: &[u8], parsed: io::Result<T>) -> io::Result<T> {
    let is_empty = raw.iter().all(|byte| matches!(byte, 0 | b' '));
    if is_empty { Ok(T::default()) } else { parsed }
}

/// The largest number means "leave it" to the kernel and nobody to us.
fn id(number: u64, path: &str) -> Result<u32, TreeError> {
    let id = u32::try_from(number).ok().filter(|&id| id != u32::MAX);
    id.ok_or_else(|| hostile(path, "its owner is beyond 32 bits"))
}

const MAX_PATH_BYTES: usize = 4096;

fn hostile(path: &str, reason: &'static str) -> TreeError {
    TreeError::HostilePath { path: path.chars().take(200).collect(), reason }
}

fn text(bytes: &[u8]) -> Result<String, TreeError> {
    let hostile = |reason| hostile(&String::from_utf8_lossy(bytes), reason);
    if bytes.contains(&0) {
        return Err(hostile("it holds a NUL byte"));
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| hostile("it is no UTF-8 text"))
}

pub(crate) fn safe_path(raw: &str) -> Result<String, TreeError> {
    if raw.is_empty() {
        return Err(hostile(raw, "it is empty"));
    }
    if raw.len() > MAX_PATH_BYTES {
        return Err(hostile(raw, "it is longer than 4096 bytes"));
    }
    let mut path = String::with_capacity(raw.len());
    for part in raw.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => return Err(hostile(raw, "it holds \"..\"")),
            part if part.len() > 255 => return Err(hostile(raw, "a name is longer than 255 bytes")),
            part => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(part);
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
