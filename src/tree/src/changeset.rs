//! Layers of images: what a tarball changes in the tree below it.
//!
//! [`apply`] brings a layer onto a root, [`unpack_for_overlay`] unpacks it alone in the form that overlayfs
//! stacks, and [`Listing`] tells what several layers come to without writing anything.
//!
//! Spec: OCI image-spec, "Image Layer Filesystem Changeset" (whiteouts); kernel overlayfs documentation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};

use knarr_base::{Digest, DigestWriter};

use crate::TreeError;
use crate::links::follow;
use crate::root::Root;
use crate::unpack::{Decision, Entry, EntryHead, Kind, Limits, Policy, read_head, unpack};

/// What the name of a whiteout begins with.
pub const WHITEOUT: &str = ".wh.";
/// The name of the whiteout that hides everything in its directory.
pub const OPAQUE: &str = ".wh..wh..opq";

/// A layer may unpack to this many bytes at least, whatever its size.
const MIN_LAYER_BYTES: u64 = 256 << 20;
/// A layer may unpack to this many times its size; gzip's own limit is 1,032.
const MAX_EXPANSION: u64 = 400;
const MAX_ENTRIES: u64 = 2_000_000;

/// What a layer of so many compressed bytes may unpack to.
#[must_use]
pub fn limits_of(compressed_bytes: u64) -> Limits {
    let bytes = MIN_LAYER_BYTES.saturating_add(compressed_bytes.saturating_mul(MAX_EXPANSION));
    Limits { entries: MAX_ENTRIES, bytes }
}

/// What a layer's entry hides.
enum Hidden<'a> {
    /// One path.
    Path(String),
    /// All that lower layers have in a directory.
    Below(&'a str),
}

fn hidden(path: &str) -> Option<Hidden<'_>> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name == OPAQUE {
        return Some(Hidden::Below(parent));
    }
    let name = name.strip_prefix(WHITEOUT)?;
    // `.wh..wh.` begins names that aufs keeps for itself.
    if name.is_empty() || name.starts_with(WHITEOUT) || name == "." || name == ".." {
        return None;
    }
    Some(Hidden::Path(if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }))
}

fn is_marker(path: &str) -> bool {
    path.rsplit('/').next().unwrap_or_default().starts_with(WHITEOUT)
}

/// Whether a path is below a directory in the root that aufs keeps for itself, such as `.wh..wh.plnk`.
fn is_of_aufs(path: &str) -> bool {
    path.strip_prefix(WHITEOUT).is_some_and(|rest| rest.starts_with(WHITEOUT) && rest.contains('/'))
}

struct Layer {
    without_devices: bool,
}

impl Policy for Layer {
    fn decide(&self, head: &EntryHead<'_>) -> Decision {
        let device = matches!(head.kind, Kind::CharDevice | Kind::BlockDevice);
        if is_marker(head.path) || (device && self.without_devices) {
            return Decision::Skip;
        }
        Decision::Write
    }

    fn replaces_everything(&self) -> bool {
        true
    }
}

/// Unpacks a layer onto `root`; what it hides is removed. `without_devices` leaves device nodes out,
/// which nobody but the real root may make.
pub fn apply(
    root: &Root,
    tar: &mut dyn Read,
    without_devices: bool,
    limits: &Limits,
) -> Result<Vec<Entry>, TreeError> {
    let entries = unpack(root, tar, &Layer { without_devices }, limits)?;
    let written = written_paths(&entries);
    let times = times_of_parents(root, &entries)?;
    for entry in &entries {
        match hidden(&entry.path) {
            // A whiteout speaks of lower layers only: what this one has at that path stays.
            Some(Hidden::Path(path)) if written.contains(&path) => remove_below(root, &path, &written)?,
            Some(Hidden::Path(path)) => root.remove_dir_all(&path)?,
            Some(Hidden::Below(directory)) => remove_below(root, directory, &written)?,
            None => {}
        }
    }
    restore(root, &times)?;
    settle(root, &entries)?;
    Ok(entries)
}

/// The times of directories in which something is hidden.
fn times_of_parents(root: &Root, entries: &[Entry]) -> Result<BTreeMap<String, i64>, TreeError> {
    let mut times = BTreeMap::new();
    for entry in entries.iter().filter(|entry| hidden(&entry.path).is_some()) {
        let parent = entry.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !times.contains_key(parent) && root.exists(parent)? {
            times.insert(parent.to_owned(), root.stat(parent)?.mtime);
        }
    }
    Ok(times)
}

fn restore(root: &Root, times: &BTreeMap<String, i64>) -> Result<(), TreeError> {
    times.iter().try_for_each(|(path, time)| root.set_directory_mtime(path, *time))
}

/// Whiteouts have changed the times of the directories that they are in, and hard links have been made from
/// what aufs kept for itself.
fn settle(root: &Root, entries: &[Entry]) -> Result<(), TreeError> {
    for entry in entries.iter().filter(|entry| is_of_aufs(&entry.path)) {
        root.remove_dir_all(entry.path.split('/').next().unwrap_or_default())?;
    }
    if entries.iter().all(|entry| entry.written && !is_of_aufs(&entry.path)) {
        return Ok(());
    }
    for entry in entries.iter().rev().filter(|entry| entry.written && entry.kind == Kind::Directory) {
        if root.exists(&entry.path)? && root.lstat(&entry.path)?.kind == Kind::Directory {
            root.set_mtime(&entry.path, entry.mtime)?;
        }
    }
    Ok(())
}

/// All written paths and the directories above them.
fn written_paths(entries: &[Entry]) -> HashSet<String> {
    let mut paths = HashSet::new();
    for entry in entries.iter().filter(|entry| entry.written) {
        let mut path = entry.path.as_str();
        while !path.is_empty() && paths.insert(path.to_owned()) {
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    paths
}

fn remove_below(root: &Root, directory: &str, written: &HashSet<String>) -> Result<(), TreeError> {
    if !root.exists(directory)? || root.lstat(directory)?.kind != Kind::Directory {
        return Ok(());
    }
    for name in root.list(directory)? {
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        if written.contains(&path) {
            remove_below(root, &path, written)?;
        } else {
            root.remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Unpacks a layer alone, with the marks that overlayfs knows: a device 0:0 hides a path, an attribute
/// makes a directory hide what is below it. In a user namespace that attribute is a user's.
pub fn unpack_for_overlay(
    root: &Root,
    tar: &mut dyn Read,
    rootless: bool,
    limits: &Limits,
) -> Result<Vec<Entry>, TreeError> {
    let entries = unpack(root, tar, &Layer { without_devices: rootless }, limits)?;
    let attribute = if rootless { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    let written = written_paths(&entries);
    for entry in &entries {
        match hidden(&entry.path) {
            Some(Hidden::Path(path)) if !written.contains(&path) => {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    root.create_dir_all(parent, 0o755)?;
                }
                root.mknod(&path, Kind::CharDevice, 0, (0, 0))?;
            }
            Some(Hidden::Path(path)) if root.lstat(&path)?.kind == Kind::Directory => {
                root.set_xattr(&path, attribute, b"y")?;
            }
            Some(Hidden::Below(directory)) => {
                root.create_dir_all(directory, 0o755)?;
                root.set_xattr(directory, attribute, b"y")?;
            }
            _ => {}
        }
    }
    settle(root, &entries)?;
    Ok(entries)
}

/// The single paths that a layer hides and has nothing at itself.
#[must_use]
pub fn hidden_paths(entries: &[Entry]) -> Vec<String> {
    let written = written_paths(entries);
    let single = entries.iter().filter_map(|entry| match hidden(&entry.path) {
        Some(Hidden::Path(path)) if !written.contains(&path) => Some(path),
        _ => None,
    });
    single.collect()
}

/// Whether a layer speaks of what only lower layers have, so that unpacked alone it would be something else: it has
/// something in a directory that it has no entry for, another name of a file that it does not have, or a path that is
/// now a directory and now none.
#[must_use]
pub fn leans(entries: &[Entry]) -> bool {
    let mut kinds: HashMap<&str, Kind> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.written) {
        let old = kinds.insert(&entry.path, entry.kind);
        if old.is_some_and(|old| (old == Kind::Directory) != (entry.kind == Kind::Directory)) {
            return true;
        }
    }
    let mine = entries.iter().filter(|entry| !is_of_aufs(&entry.path) && entry.path != OPAQUE);
    mine.into_iter().any(|entry| {
        let parent = entry.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let strange = !parent.is_empty() && kinds.get(parent) != Some(&Kind::Directory);
        strange || (entry.kind == Kind::HardLink && entry.written && !kinds.contains_key(entry.link.as_str()))
    })
}

/// A path of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it is; hard links are listed as the files that they are.
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
    /// Target of a symbolic link.
    pub link: String,
    /// Digest of a file's content.
    pub digest: Option<Digest>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Which layer it comes from, the lowest is 0.
    pub layer: usize,
}

/// What layers come to, path by path.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Paths without leading `/`.
    pub files: BTreeMap<String, Listed>,
    layers: usize,
}

/// What one layer alone says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerEntries {
    /// Paths in the tarball's order; hard links name their target.
    pub entries: Vec<(String, Listed)>,
    /// Whiteouts, as they stand.
    pub hides: Vec<String>,
}

impl LayerEntries {
    /// Reads a layer. `see` is given the content of each file; what it does not read is read past.
    pub fn read(
        tar: &mut dyn Read,
        limits: &Limits,
        see: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
    ) -> Result<Self, TreeError> {
        let mut layer = Self::default();
        let mut archive = tar::Archive::new(tar);
        let (mut bytes, mut count) = (0_u64, 0_u64);
        for entry in archive.entries().map_err(TreeError::Read)? {
            let mut entry = entry.map_err(TreeError::Read)?;
            bytes = bytes.saturating_add(entry.size());
            count += 1;
            if bytes > limits.bytes {
                return Err(TreeError::TooMuch { limit: limits.bytes, what: "bytes" });
            }
            if count > limits.entries {
                return Err(TreeError::TooMuch { limit: limits.entries, what: "entries" });
            }
            let Some(head) = read_head(&mut entry)? else { continue };
            // The root itself is in every image, said or not.
            if head.path.is_empty() {
                continue;
            }
            if is_marker(&head.path) {
                layer.hides.push(head.path);
                continue;
            }
            let mut listed = Listed {
                kind: head.kind,
                mode: head.mode,
                uid: head.uid,
                gid: head.gid,
                size_bytes: head.size_bytes,
                mtime: head.mtime,
                link: head.link,
                digest: None,
                xattrs: head.xattrs,
                device: head.device,
                layer: 0,
            };
            if head.kind == Kind::File {
                listed.digest = Some(hash(&head.path, &mut entry, see)?);
            }
            layer.entries.push((head.path, listed));
        }
        io::copy(&mut archive.into_inner().take(limits.bytes), &mut io::sink()).map_err(TreeError::Read)?;
        Ok(layer)
    }
}

impl Listing {
    /// Adds the next higher layer. `see` is given the content of each file; what it does not read is read past.
    pub fn add_layer(
        &mut self,
        tar: &mut dyn Read,
        limits: &Limits,
        see: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        self.stack(LayerEntries::read(tar, limits, see)?)
    }

    /// Adds the next higher layer, which was read before.
    pub fn stack(&mut self, read: LayerEntries) -> Result<(), TreeError> {
        let layer = self.layers;
        self.layers += 1;
        for (path, listed) in read.entries {
            self.put(&path, Listed { layer, ..listed })?;
        }
        for path in read.hides {
            match hidden(&path) {
                Some(Hidden::Path(path)) => self.hide(&self.real(&path), layer, true),
                Some(Hidden::Below(directory)) => self.hide(&self.real(directory), layer, false),
                None => {}
            }
        }
        self.files.retain(|path, _| !is_of_aufs(path));
        Ok(())
    }

    fn put(&mut self, path: &str, mut listed: Listed) -> Result<(), TreeError> {
        let path = self.real(path);
        self.imply_parents(&path, &listed);
        if listed.kind == Kind::HardLink {
            let target = self.files.get(&self.real(&listed.link)).cloned();
            listed = target.ok_or_else(|| TreeError::LinkToExcluded {
                path: path.clone(),
                target: listed.link.clone(),
            })?;
        }
        if listed.kind != Kind::Directory
            && self.files.get(&path).is_some_and(|old| old.kind == Kind::Directory)
        {
            self.remove(&path);
        }
        self.files.insert(path, listed);
        Ok(())
    }

    /// The path as it is where there are links for directories above it. Below a known directory there are none.
    fn real(&self, path: &str) -> String {
        let kind = |path: &str| self.files.get(path).map(|listed| listed.kind);
        if path.rsplit_once('/').is_none_or(|(parent, _)| kind(parent) == Some(Kind::Directory)) {
            return path.to_owned();
        }
        let link_of = |path: &str| {
            self.files.get(path).filter(|listed| listed.kind == Kind::Symlink).map(|link| link.link.as_str())
        };
        follow(path, false, link_of).unwrap_or_else(|| path.to_owned())
    }

    /// Directories that no layer has an entry for are there all the same.
    fn imply_parents(&mut self, path: &str, listed: &Listed) {
        if is_of_aufs(path) {
            return;
        }
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            parent = above;
            if self.files.get(parent).is_some_and(|known| known.kind == Kind::Directory) {
                return;
            }
            let directory = Listed {
                kind: Kind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                size_bytes: 0,
                link: String::new(),
                digest: None,
                xattrs: Vec::new(),
                device: (0, 0),
                ..listed.clone()
            };
            self.files.insert(parent.to_owned(), directory);
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.files.retain(|known, _| known != path && !known.starts_with(&below));
    }

    /// Forgets what lower layers have at a path and below it.
    fn hide(&mut self, path: &str, layer: usize, itself: bool) {
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.files.retain(|known, listed| {
            let concerned = (itself && known == path) || (known != path && known.starts_with(&below));
            !concerned || listed.layer == layer
        });
    }
}

fn hash<R: Read>(
    path: &str,
    entry: &mut tar::Entry<'_, R>,
    see: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> Result<Digest, TreeError> {
    let mut tee = Tee { inner: entry, digest: DigestWriter::new(io::sink()) };
    see(path, &mut tee).map_err(TreeError::Read)?;
    io::copy(&mut tee, &mut io::sink()).map_err(TreeError::Read)?;
    Ok(tee.digest.finish().1)
}

struct Tee<R> {
    inner: R,
    digest: DigestWriter<io::Sink>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.write_all(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
