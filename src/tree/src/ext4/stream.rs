//! The entries of a tarball that [`crate::archive`] wrote: ustar and pax, nothing else.
//!
//! The general reader cuts attributes at a newline, and a capability may hold one.
//!
//! Spec: POSIX, pax Interchange Format.

use std::io::{self, Read};

use crate::TreeError;
use crate::unpack::Kind;

const RECORD_BYTES: usize = 512;
const MAX_PAX_BYTES: u64 = 4 << 20;

/// An entry, with the numbers and names that count.
#[derive(Debug)]
pub(super) struct StreamEntry {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub size_bytes: u64,
    pub link: String,
    pub device: (u32, u32),
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Reads entries; between two of them, what is left of the first one's content.
pub(super) struct Stream<R> {
    inner: io::BufReader<R>,
    /// Bytes of content, then of padding, that nobody has read yet.
    content: u64,
    padding: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner: io::BufReader::with_capacity(256 << 10, inner), content: 0, padding: 0 }
    }

    /// The next entry, or `None` at the end, after everything was read.
    pub(super) fn next_entry(&mut self) -> Result<Option<StreamEntry>, TreeError> {
        self.read_entry().map_err(TreeError::Read)
    }

    fn read_entry(&mut self) -> io::Result<Option<StreamEntry>> {
        let mut pax = Vec::new();
        loop {
            let left = self.content + self.padding;
            io::copy(&mut self.inner.by_ref().take(left), &mut io::sink())?;
            (self.content, self.padding) = (0, 0);
            let mut record = [0; RECORD_BYTES];
            self.inner.read_exact(&mut record)?;
            if record == [0; RECORD_BYTES] {
                io::copy(&mut self.inner, &mut io::sink())?;
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&record);
            self.expect(header.entry_size()?);
            if header.entry_type() == tar::EntryType::XHeader {
                let size_bytes = self.content;
                if size_bytes > MAX_PAX_BYTES {
                    return Err(damaged("a pax header is too large"));
                }
                self.take(size_bytes).read_to_end(&mut pax)?;
                continue;
            }
            let mut entry = basic(header)?;
            for (key, value) in pax_fields(&pax)? {
                apply(&mut entry, key, value)?;
            }
            entry.path = inside(&entry.path);
            if entry.kind == Kind::HardLink {
                entry.link = inside(&entry.link);
            }
            self.expect(if entry.kind == Kind::File { entry.size_bytes } else { 0 });
            return Ok(Some(entry));
        }
    }

    const fn expect(&mut self, size_bytes: u64) {
        self.content = size_bytes;
        self.padding = size_bytes.next_multiple_of(RECORD_BYTES as u64) - size_bytes;
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..room])?;
        self.content -= read as u64;
        Ok(read)
    }
}

fn basic(header: &tar::Header) -> io::Result<StreamEntry> {
    use tar::EntryType as T;
    let kind = match header.entry_type() {
        T::Regular => Kind::File,
        T::Link => Kind::HardLink,
        T::Directory => Kind::Directory,
        T::Symlink => Kind::Symlink,
        T::Char => Kind::CharDevice,
        T::Block => Kind::BlockDevice,
        T::Fifo => Kind::Fifo,
        _ => return Err(damaged("an entry is of an unknown kind")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(StreamEntry {
        path: text(&header.path_bytes()),
        kind,
        mode: header.mode()?,
        uid: header.uid()? as u32,
        gid: header.gid()? as u32,
        mtime: header.mtime()?.cast_signed(),
        size_bytes: header.entry_size()?,
        link: header.link_name_bytes().map(|bytes| text(&bytes)).unwrap_or_default(),
        device: (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
        xattrs: Vec::new(),
    })
}

/// `LENGTH KEY=VALUE\n`, where the length counts all of it.
fn pax_fields(mut bytes: &[u8]) -> io::Result<Vec<(&str, &[u8])>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let field = (|| {
            let space = bytes.iter().position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let (field, rest) = bytes.split_at_checked(length)?;
            let body = field.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = body.iter().position(|&byte| byte == b'=')?;
            Some((std::str::from_utf8(&body[..equals]).ok()?, &body[equals + 1..], rest))
        })();
        let (key, value, rest) = field.ok_or_else(|| damaged("a pax header breaks its format"))?;
        fields.push((key, value));
        bytes = rest;
    }
    Ok(fields)
}

fn apply(entry: &mut StreamEntry, key: &str, value: &[u8]) -> io::Result<()> {
    let text = || std::str::from_utf8(value).map_err(|_| damaged("a name is no UTF-8 text"));
    let number = || text()?.parse::<u64>().map_err(|_| damaged("a number in a pax header is none"));
    match key {
        "path" => text()?.clone_into(&mut entry.path),
        "linkpath" => text()?.clone_into(&mut entry.link),
        "size" => entry.size_bytes = number()?,
        "uid" => entry.uid = number()? as u32,
        "gid" => entry.gid = number()? as u32,
        "mtime" => entry.mtime = number()?.cast_signed(),
        _ => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                entry.xattrs.push((name.to_owned(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// `./usr/bin/` as `usr/bin`.
fn inside(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
