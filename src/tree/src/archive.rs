//! Writing a root as a tarball whose bytes depend on nothing but the root.
//!
//! [`write_tar`] sorts by name, clamps times, writes numeric owners only, and pax headers only
//! where ustar has no room.
//!
//! Spec: POSIX ustar and pax interchange formats; `SCHILY.xattr` keywords for attributes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use knarr_base::Timestamp;

use crate::TreeError;
use crate::root::{Meta, Root, fail, xattrs_at};
use crate::unpack::Kind;

/// An entry that is not in the root.
#[derive(Clone, Debug)]
pub struct ExtraEntry {
    /// Path without leading `/`.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Target of a symbolic link.
    pub link: String,
}

/// How a tarball is written.
pub struct TarOptions<'a> {
    /// Later times become this one.
    pub newest: Timestamp,
    /// Times after this one are the run's own and become [`Self::newest`] too.
    pub started: Timestamp,
    /// Leaves out what it says yes to, with all below.
    pub skip: &'a dyn Fn(&str) -> bool,
    /// Entries that are added in their place; they win over what the root has.
    pub extra: &'a [ExtraEntry],
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TarStats {
    /// How many entries.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
}

/// Writes `root` as a tarball.
pub fn write_tar(root: &Root, out: impl Write, options: &TarOptions<'_>) -> Result<TarStats, TreeError> {
    let mut extra: HashMap<String, Vec<ExtraEntry>> = HashMap::new();
    for entry in options.extra {
        let (parent, _) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        extra.entry(parent.to_owned()).or_default().push(entry.clone());
    }
    let builder = tar::Builder::new(std::io::BufWriter::with_capacity(256 << 10, out));
    let mut writer = Writer {
        root,
        options,
        builder,
        extra,
        links: HashMap::new(),
        stats: TarStats::default(),
        prefix: "./",
        renamed: None,
    };
    let meta = root.lstat("")?;
    writer.entry("", &meta)?;
    writer.directory("")?;
    writer.builder.finish().map_err(TreeError::Write)?;
    let out = writer.builder.into_inner().map_err(TreeError::Write)?;
    out.into_inner().map_err(|error| TreeError::Write(error.into_error()))?;
    Ok(writer.stats)
}

/// An entry of a layer, in the order of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// What the root has at this path.
    Path(String),
    /// A directory with a mode, owner and time of its own.
    Directory {
        /// Path without leading `/`.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Seconds since the epoch.
        mtime: i64,
    },
    /// Lower layers' path is hidden.
    Whiteout(String),
}

impl Pick {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) | Self::Directory { path, .. } | Self::Whiteout(path) => path,
        }
    }
}

/// Writes the named entries alone, as a layer of an image has them: names without `./`. A directory's own
/// content is not written with it.
pub fn write_picks(
    root: &Root,
    out: impl Write,
    picks: &[Pick],
    options: &TarOptions<'_>,
) -> Result<TarStats, TreeError> {
    let builder = tar::Builder::new(std::io::BufWriter::with_capacity(256 << 10, out));
    let (extra, links) = (HashMap::new(), HashMap::new());
    let (stats, prefix, renamed) = (TarStats::default(), "", None);
    let mut writer = Writer { root, options, builder, extra, links, stats, prefix, renamed };
    for pick in picks {
        match pick {
            Pick::Path(path) => writer.entry(path, &root.lstat(path)?)?,
            Pick::Directory { path, mode, uid, gid, mtime } => {
                let mut fields = Fields::new("", path, Kind::Directory, *mode, *uid, *gid);
                fields.mtime = writer.clamp(*mtime);
                writer.stats.entries += 1;
                append(&mut writer.builder, &fields, 0, std::io::empty())?;
            }
            Pick::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let slash = if parent.is_empty() { "" } else { "/" };
                let path = format!("{parent}{slash}{}{name}", crate::changeset::WHITEOUT);
                let mut fields = Fields::new("", &path, Kind::File, 0, 0, 0);
                fields.mtime = options.newest.0;
                append(&mut writer.builder, &fields, 0, std::io::empty())?;
            }
        }
    }
    writer.builder.finish().map_err(TreeError::Write)?;
    let out = writer.builder.into_inner().map_err(TreeError::Write)?;
    out.into_inner().map_err(|error| TreeError::Write(error.into_error()))?;
    Ok(writer.stats)
}

/// Writes a file, or a directory with all below it, under another name: `name` stands for `path`, and an empty one
/// names what is below alone. What goes away meanwhile is left out, for the root may be in use.
pub fn write_subtree(root: &Root, path: &str, name: &str, out: impl Write) -> Result<TarStats, TreeError> {
    let newest = Timestamp(i64::MAX);
    let options = TarOptions { newest, started: newest, skip: &|_| false, extra: &[] };
    let builder = tar::Builder::new(std::io::BufWriter::with_capacity(256 << 10, out));
    let mut writer = Writer {
        root,
        options: &options,
        builder,
        extra: HashMap::new(),
        links: HashMap::new(),
        stats: TarStats::default(),
        prefix: "",
        renamed: Some((path.to_owned(), name.to_owned())),
    };
    let meta = root.lstat(path)?;
    if !name.is_empty() {
        writer.entry(path, &meta)?;
    }
    if meta.kind == Kind::Directory {
        writer.directory(path)?;
    }
    writer.builder.finish().map_err(TreeError::Write)?;
    let out = writer.builder.into_inner().map_err(TreeError::Write)?;
    out.into_inner().map_err(|error| TreeError::Write(error.into_error()))?;
    Ok(writer.stats)
}

struct Writer<'a, W: Write> {
    root: &'a Root,
    options: &'a TarOptions<'a>,
    builder: tar::Builder<W>,
    extra: HashMap<String, Vec<ExtraEntry>>,
    links: HashMap<(u64, u64), String>,
    stats: TarStats,
    /// What names begin with.
    prefix: &'static str,
    /// A path that has another name in the archive.
    renamed: Option<(String, String)>,
}

impl<W: Write> Writer<'_, W> {
    fn directory(&mut self, path: &str) -> Result<(), TreeError> {
        let mut names: Vec<(String, Option<ExtraEntry>)> =
            self.root.list(path)?.into_iter().map(|name| (name, None)).collect();
        for entry in self.extra.remove(path).unwrap_or_default() {
            let name = entry.path.rsplit('/').next().unwrap_or_default().to_owned();
            names.retain(|(known, _)| *known != name);
            names.push((name, Some(entry)));
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, extra) in names {
            let inside = if path.is_empty() { name } else { format!("{path}/{name}") };
            if (self.options.skip)(&inside) {
                continue;
            }
            match extra {
                Some(extra) => self.extra(&extra)?,
                None => match self.inside(&inside) {
                    Err(error) if self.renamed.is_some() && is_gone(&error) => {}
                    outcome => outcome?,
                },
            }
        }
        Ok(())
    }

    fn inside(&mut self, path: &str) -> Result<(), TreeError> {
        let meta = self.root.lstat(path)?;
        if meta.kind == Kind::Socket {
            return Ok(());
        }
        self.entry(path, &meta)?;
        if meta.kind == Kind::Directory { self.directory(path) } else { Ok(()) }
    }

    fn entry(&mut self, path: &str, meta: &Meta) -> Result<(), TreeError> {
        let shown = self.shown(path);
        let mut fields = Fields::new(self.prefix, &shown, meta.kind, meta.mode, meta.uid, meta.gid);
        fields.mtime = self.clamp(meta.mtime);
        fields.device = meta.device;
        if meta.kind == Kind::Symlink {
            fields.link = String::from_utf8_lossy(&self.root.read_link(path)?).into_owned();
        }
        if meta.links > 1 && meta.kind != Kind::Directory {
            match self.links.get(&meta.inode) {
                Some(first) => {
                    fields.kind = Kind::HardLink;
                    fields.link = format!("{}{first}", self.prefix);
                }
                None => {
                    self.links.insert(meta.inode, shown);
                }
            }
        }
        if fields.kind != Kind::HardLink && fields.kind != Kind::Symlink {
            let (parent, name) = self.root.parent(path, "read attributes of")?;
            fields.xattrs =
                xattrs_at(parent.as_fd(), name).map_err(|error| fail("read attributes of", path, error))?;
        }
        self.stats.entries += 1;
        if fields.kind != Kind::File {
            return append(&mut self.builder, &fields, 0, std::io::empty());
        }
        self.stats.content_bytes += meta.size_bytes;
        let file = self.root.open_file(path)?;
        if self.renamed.is_some() {
            // A file that is in use may have become shorter: the archive promised its size.
            let content = file.chain(std::io::repeat(0)).take(meta.size_bytes);
            return append(&mut self.builder, &fields, meta.size_bytes, content);
        }
        append(&mut self.builder, &fields, meta.size_bytes, file.take(meta.size_bytes))
    }

    /// The name that a path has in the archive, without the prefix.
    fn shown(&self, path: &str) -> String {
        let Some((from, to)) = &self.renamed else { return path.to_owned() };
        let below = path.strip_prefix(from.as_str()).unwrap_or(path).trim_start_matches('/');
        match (to.as_str(), below) {
            (to, "") => to.to_owned(),
            ("", below) => below.to_owned(),
            (to, below) => format!("{}/{below}", to.trim_end_matches('/')),
        }
    }

    fn extra(&mut self, extra: &ExtraEntry) -> Result<(), TreeError> {
        let mut fields = Fields::new(self.prefix, &extra.path, extra.kind, extra.mode, 0, 0);
        fields.device = extra.device;
        fields.link.clone_from(&extra.link);
        fields.mtime = self.options.newest.0;
        self.stats.entries += 1;
        append(&mut self.builder, &fields, 0, std::io::empty())?;
        let below = self.extra.remove(&extra.path).unwrap_or_default();
        let mut below: Vec<_> = below.into_iter().collect();
        below.sort_by(|a, b| a.path.cmp(&b.path));
        below.iter().try_for_each(|entry| self.extra(entry))
    }

    fn clamp(&self, mtime: i64) -> i64 {
        if mtime > self.options.newest.0 || mtime >= self.options.started.0 {
            self.options.newest.0
        } else {
            mtime
        }
    }
}

fn is_gone(error: &TreeError) -> bool {
    matches!(error, TreeError::Path { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

struct Fields {
    path: String,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    device: (u32, u32),
    link: String,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Fields {
    fn new(prefix: &str, path: &str, kind: Kind, mode: u32, uid: u32, gid: u32) -> Self {
        let end = if kind == Kind::Directory && !path.is_empty() && !path.ends_with('/') { "/" } else { "" };
        let path = format!("{prefix}{path}{end}");
        Self { path, kind, mode, uid, gid, mtime: 0, device: (0, 0), link: String::new(), xattrs: Vec::new() }
    }
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    fields: &Fields,
    size_bytes: u64,
    content: impl Read,
) -> Result<(), TreeError> {
    let mut header = tar::Header::new_ustar();
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    set_text(&mut pax, "path", &fields.path, &mut |path| header.set_path_literal(path));
    if !fields.link.is_empty() {
        set_text(&mut pax, "linkpath", &fields.link, &mut |link| header.set_link_literal(link));
    }
    header.set_entry_type(entry_type(fields.kind));
    header.set_mode(fields.mode);
    set_number(&mut pax, "uid", u64::from(fields.uid), 0o7_777_777, &mut |n| header.set_uid(n));
    set_number(&mut pax, "gid", u64::from(fields.gid), 0o7_777_777, &mut |n| header.set_gid(n));
    set_number(&mut pax, "size", size_bytes, 0o77_777_777_777, &mut |n| header.set_size(n));
    set_number(&mut pax, "mtime", fields.mtime.max(0) as u64, 0o77_777_777_777, &mut |n| header.set_mtime(n));
    let device =
        if matches!(fields.kind, Kind::CharDevice | Kind::BlockDevice) { fields.device } else { (0, 0) };
    header
        .set_device_major(device.0)
        .and_then(|()| header.set_device_minor(device.1))
        .map_err(TreeError::Write)?;
    pax.extend(fields.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
    header.set_cksum();
    if !pax.is_empty() {
        let pairs = pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        builder.append_pax_extensions(pairs).map_err(TreeError::Write)?;
    }
    builder.append(&header, content).map_err(TreeError::Write)
}

/// Puts a text where ustar has room for it, else into a pax header.
fn set_text(pax: &mut Vec<(String, Vec<u8>)>, key: &str, text: &str, set: &mut dyn FnMut(&str) -> bool) {
    if !set(text) {
        let cut: String =
            text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 100).map(|(_, c)| c).collect();
        set(&cut);
        pax.push((key.to_owned(), text.as_bytes().to_vec()));
    }
}

fn set_number(pax: &mut Vec<(String, Vec<u8>)>, key: &str, number: u64, most: u64, set: &mut dyn FnMut(u64)) {
    set(number.min(most));
    if number > most {
        pax.push((key.to_owned(), number.to_string().into_bytes()));
    }
}

/// Sets a header's names byte for byte: the crate's own setters rewrite `./`.
trait LiteralNames {
    fn set_path_literal(&mut self, path: &str) -> bool;
    fn set_link_literal(&mut self, link: &str) -> bool;
}

impl LiteralNames for tar::Header {
    fn set_path_literal(&mut self, path: &str) -> bool {
        self.as_ustar_mut().is_some_and(|ustar| fill(&mut ustar.name, path))
    }

    fn set_link_literal(&mut self, link: &str) -> bool {
        self.as_ustar_mut().is_some_and(|ustar| fill(&mut ustar.linkname, link))
    }
}

fn fill(field: &mut [u8], text: &str) -> bool {
    if text.len() > field.len() {
        return false;
    }
    field.fill(0);
    field[..text.len()].copy_from_slice(text.as_bytes());
    true
}

const fn entry_type(kind: Kind) -> tar::EntryType {
    match kind {
        Kind::File | Kind::Socket => tar::EntryType::Regular,
        Kind::HardLink => tar::EntryType::Link,
        Kind::Directory => tar::EntryType::Directory,
        Kind::Symlink => tar::EntryType::Symlink,
        Kind::CharDevice => tar::EntryType::Char,
        Kind::BlockDevice => tar::EntryType::Block,
        Kind::Fifo => tar::EntryType::Fifo,
    }
}

/// The device nodes and links that every Linux root has in `/dev`.
#[must_use]
pub fn dev_entries() -> Vec<ExtraEntry> {
    let entry = |name: &str, kind, mode, device, link: &str| ExtraEntry {
        path: format!("dev/{name}"),
        kind,
        mode,
        device,
        link: link.to_owned(),
    };
    let node = |name, mode, device| entry(name, Kind::CharDevice, mode, device, "");
    let link = |name, target| entry(name, Kind::Symlink, 0o777, (0, 0), target);
    vec![
        node("console", 0o666, (5, 1)),
        link("fd", "/proc/self/fd"),
        node("full", 0o666, (1, 7)),
        node("null", 0o666, (1, 3)),
        node("ptmx", 0o666, (5, 2)),
        entry("pts", Kind::Directory, 0o755, (0, 0), ""),
        node("random", 0o666, (1, 8)),
        entry("shm", Kind::Directory, 0o755, (0, 0), ""),
        link("stderr", "/proc/self/fd/2"),
        link("stdin", "/proc/self/fd/0"),
        link("stdout", "/proc/self/fd/1"),
        node("tty", 0o666, (5, 0)),
        node("urandom", 0o666, (1, 9)),
        node("zero", 0o666, (1, 5)),
    ]
}

#[cfg(test)]
mod tests;
