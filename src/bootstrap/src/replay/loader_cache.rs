//! `/etc/ld.so.cache`: what `ldconfig` writes, for any architecture.
//!
//! The cache is a header, one entry for each library, their strings, and an extension that names
//! the generator. Entries are sorted by name, largest first, with numbers compared as numbers;
//! strings are sorted backwards, so that a name is the tail of its own path.
//!
//! Spec: glibc's dl-cache.h, format "glibc-ld.so.cache1.1"; ELF gABI for `DT_SONAME`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use knarr_base::Architecture;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::text_of;
use crate::BootstrapError;

const PATH: &str = "etc/ld.so.cache";
const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
const LITTLE_ENDIAN: u8 = 2;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;

struct Library {
    soname: String,
    path: String,
}

/// Whether all libraries are of this architecture and have their links, as packages ship them.
pub(super) fn can_be_made(root: &Root, architecture: Architecture) -> Result<bool, BootstrapError> {
    Ok(flags_of(architecture).is_some()
        && generator(root)?.is_some()
        && libraries(root, architecture)?.is_some())
}

pub(super) fn write(root: &Root, architecture: Architecture) -> Result<(), BootstrapError> {
    let all = (flags_of(architecture), generator(root)?, libraries(root, architecture)?);
    let (Some(flags), Some(generator), Some(libraries)) = all else { return Ok(()) };
    Ok(root.write(PATH, &cache(&libraries, flags, &generator), 0o644)?)
}

/// Writes the cache of a root that may lack `ldconfig` itself; says whether it could. Without a cache programs find
/// their libraries in the standard directories only.
pub fn write_without_tool(root: &Root, architecture: Architecture) -> Result<bool, BootstrapError> {
    let all = (flags_of(architecture), libraries(root, architecture)?);
    let (Some(flags), Some(libraries)) = all else { return Ok(false) };
    root.write(PATH, &cache(&libraries, flags, "ldconfig (knarr)"), 0o644)?;
    Ok(true)
}

/// The type of an entry: the C library's ABI, in glibc's numbers.
fn flags_of(architecture: Architecture) -> Option<u32> {
    match architecture.name() {
        "amd64" => Some(0x0303),
        "arm64" => Some(0x0a03),
        "armhf" => Some(0x0903),
        "i386" => Some(0x0003),
        "riscv64" => Some(0x1003),
        "ppc64el" => Some(0x0503),
        _ => None,
    }
}

/// `ldconfig` writes its own name and version into the cache; the program holds it as a text.
fn generator(root: &Root) -> Result<Option<String>, BootstrapError> {
    const START: &[u8] = b"ldconfig (";
    if !root.exists("usr/sbin/ldconfig")? {
        return Ok(None);
    }
    let program = root.read("usr/sbin/ldconfig")?;
    let starts = program.windows(START.len()).enumerate().filter(|(_, window)| *window == START);
    let texts = starts.filter_map(|(start, _)| program[start..].split(|&byte| byte == 0).next());
    let mut texts = texts.filter_map(|text| std::str::from_utf8(text).ok());
    Ok(texts.find(|text| text.contains("release version")).map(str::to_owned))
}

fn cache(libraries: &[Library], flags: u32, generator: &str) -> Vec<u8> {
    let start = HEADER_BYTES + ENTRY_BYTES * libraries.len();
    let (strings, offsets) = string_table(libraries, start);
    let extension = (start + strings.len()).next_multiple_of(4);
    let mut out = Vec::with_capacity(extension + 128);
    let put = |out: &mut Vec<u8>, number: u32| out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(MAGIC);
    put(&mut out, libraries.len() as u32);
    put(&mut out, strings.len() as u32);
    out.extend_from_slice(&[LITTLE_ENDIAN, 0, 0, 0]);
    put(&mut out, extension as u32);
    out.resize(HEADER_BYTES, 0);
    for library in libraries {
        put(&mut out, flags);
        put(&mut out, offsets.get(library.soname.as_str()).copied().unwrap_or(0));
        put(&mut out, offsets.get(library.path.as_str()).copied().unwrap_or(0));
        out.extend_from_slice(&[0; 12]);
    }
    out.extend_from_slice(&strings);
    out.resize(extension, 0);
    for number in [EXTENSION_MAGIC, 1, 0, 0, extension as u32 + 24, generator.len() as u32] {
        put(&mut out, number);
    }
    out.extend_from_slice(generator.as_bytes());
    out
}

/// The strings, each ended by NUL, and where each of them begins in the file.
fn string_table(libraries: &[Library], start: usize) -> (Vec<u8>, BTreeMap<&str, u32>) {
    let both = libraries.iter().flat_map(|library| [library.soname.as_str(), library.path.as_str()]);
    let mut sorted: Vec<&str> = both.collect::<BTreeSet<_>>().into_iter().collect();
    sorted.sort_by(|a, b| b.bytes().rev().cmp(a.bytes().rev()));
    let (mut strings, mut offsets, mut last) = (Vec::new(), BTreeMap::new(), ("", 0));
    for text in sorted {
        if last.0.ends_with(text) && !last.0.is_empty() {
            offsets.insert(text, (last.1 + last.0.len() - text.len()) as u32);
            continue;
        }
        last = (text, start + strings.len());
        offsets.insert(text, last.1 as u32);
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
    }
    (strings, offsets)
}

/// All libraries, in the cache's order; `None` where something is not as packages ship it.
fn libraries(root: &Root, architecture: Architecture) -> Result<Option<Vec<Library>>, BootstrapError> {
    let mut libraries: Vec<Library> = Vec::new();
    let mut seen = BTreeSet::new();
    for directory in directories(root)? {
        if !root.exists(&directory)? || root.stat(&directory)?.kind != Kind::Directory {
            continue;
        }
        if !seen.insert(root.stat(&directory)?.inode) {
            continue;
        }
        let Some(sonames) = sonames_in(root, &directory, architecture)? else { return Ok(None) };
        for soname in sonames {
            let path = format!("/{directory}/{soname}");
            if !root.exists(&path)? {
                return Ok(None);
            }
            libraries.push(Library { soname, path });
        }
    }
    // Of equal names the directory that is searched first stays first.
    libraries.sort_by(|a, b| compare(b.soname.as_bytes(), a.soname.as_bytes()));
    Ok(Some(libraries))
}

/// The directories of `/etc/ld.so.conf`, then those that are always searched.
fn directories(root: &Root) -> Result<Vec<String>, BootstrapError> {
    let mut directories = Vec::new();
    read_configuration(root, "etc/ld.so.conf", &mut directories)?;
    directories.extend(["lib".to_owned(), "usr/lib".to_owned()]);
    Ok(directories)
}

fn read_configuration(root: &Root, path: &str, directories: &mut Vec<String>) -> Result<(), BootstrapError> {
    for line in text_of(root, path)?.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("include").map(str::trim) {
            Some("/etc/ld.so.conf.d/*.conf" | "ld.so.conf.d/*.conf")
                if root.exists("etc/ld.so.conf.d")? =>
            {
                for name in root.list("etc/ld.so.conf.d")?.iter().filter(|name| name.ends_with(".conf")) {
                    read_configuration(root, &format!("etc/ld.so.conf.d/{name}"), directories)?;
                }
            }
            Some(_) => {}
            None if line.is_empty() => {}
            None => directories.push(line.trim_matches('/').to_owned()),
        }
    }
    Ok(())
}

fn sonames_in(
    root: &Root,
    directory: &str,
    architecture: Architecture,
) -> Result<Option<BTreeSet<String>>, BootstrapError> {
    let mut sonames = BTreeSet::new();
    for name in root.list(directory)? {
        if name == "glibc-hwcaps" {
            return Ok(None);
        }
        let path = format!("{directory}/{name}");
        let is_library = (name.starts_with("lib") || name.starts_with("ld-")) && name.contains(".so");
        if !is_library || !root.exists(&path)? {
            continue;
        }
        // A link counts as what it leads to; one that leads nowhere is skipped.
        if !root.stat(&path).is_ok_and(|meta| meta.kind == Kind::File) {
            continue;
        }
        match soname(&root.open_file(&path)?, architecture) {
            Ok(Some(Soname::Named(soname))) => sonames.insert(soname),
            Ok(Some(Soname::Unnamed)) => sonames.insert(name),
            // Linker scripts and the like.
            Ok(Some(Soname::NotElf)) => false,
            Ok(None) | Err(_) => return Ok(None),
        };
    }
    Ok(Some(sonames))
}

enum Soname {
    Named(String),
    Unnamed,
    NotElf,
}

const MAX_HEADERS: u64 = 1 << 10;
const MAX_DYNAMIC_BYTES: u64 = 1 << 20;
const MAX_NAME_BYTES: usize = 256;

/// The name that a shared object gives itself; `None` where it is of another architecture.
fn soname(file: &File, architecture: Architecture) -> io::Result<Option<Soname>> {
    let mut ident = [0; 64];
    if file.read_exact_at(&mut ident, 0).is_err() || &ident[..4] != b"\x7fELF" {
        return Ok(Some(Soname::NotElf));
    }
    let elf = Elf { file, is_64: ident[4] == 2 };
    if ident[5] != 1 || machine_of(architecture) != Some(u16::from_le_bytes([ident[18], ident[19]])) {
        return Ok(None);
    }
    let number = |at: usize, bytes: usize| number_at(&ident, at, bytes);
    let (offset, size, count) = if elf.is_64 {
        (number(0x20, 8), number(0x36, 2), number(0x38, 2))
    } else {
        (number(0x1c, 4), number(0x2a, 2), number(0x2c, 2))
    };
    let mut headers = vec![0; (size * count.min(MAX_HEADERS)) as usize];
    file.read_exact_at(&mut headers, offset)?;
    let segments: Vec<Segment> =
        headers.chunks_exact((size as usize).max(1)).map(|head| elf.segment(head)).collect();
    elf.soname(&segments).map(Some)
}

/// A little-endian number; what lies beyond the end counts as zero.
fn number_at(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut buffer = [0; 8];
    if let Some(found) = bytes.get(at..at + length) {
        buffer[..length].copy_from_slice(found);
    }
    u64::from_le_bytes(buffer)
}

const fn machine_of(architecture: Architecture) -> Option<u16> {
    match architecture.name().as_bytes() {
        b"amd64" => Some(62),
        b"arm64" => Some(183),
        b"armhf" => Some(40),
        b"i386" => Some(3),
        b"riscv64" => Some(243),
        b"ppc64el" => Some(21),
        _ => None,
    }
}

struct Elf<'a> {
    file: &'a File,
    is_64: bool,
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    bytes: u64,
}

const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
const STRING_TABLE: u64 = 5;
const NAME: u64 = 14;

impl Elf<'_> {
    fn segment(&self, head: &[u8]) -> Segment {
        let word = if self.is_64 { 8 } else { 4 };
        let (offset, address, bytes) = if self.is_64 { (0x08, 0x10, 0x20) } else { (0x04, 0x08, 0x10) };
        let number = |at: usize| number_at(head, at, word);
        let kind = number_at(head, 0, 4);
        Segment { kind, offset: number(offset), address: number(address), bytes: number(bytes) }
    }

    fn soname(&self, segments: &[Segment]) -> io::Result<Soname> {
        let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) else {
            return Ok(Soname::NotElf);
        };
        let word = if self.is_64 { 8 } else { 4 };
        let mut entries = vec![0; dynamic.bytes.min(MAX_DYNAMIC_BYTES) as usize];
        self.file.read_exact_at(&mut entries, dynamic.offset)?;
        let entries = entries.chunks_exact(2 * word);
        let entries = entries.map(|entry| (number_at(entry, 0, word), number_at(entry, word, word)));
        let (mut table, mut name) = (None, None);
        for (tag, value) in entries.take_while(|(tag, _)| *tag != 0) {
            match tag {
                STRING_TABLE => table = Some(value),
                NAME => name = Some(value),
                _ => {}
            }
        }
        let (Some(table), Some(name)) = (table, name) else { return Ok(Soname::Unnamed) };
        let holds = |segment: &&Segment| {
            segment.kind == LOAD
                && (segment.address..segment.address.saturating_add(segment.bytes)).contains(&table)
        };
        let segment = segments.iter().find(holds).ok_or(io::ErrorKind::InvalidData)?;
        self.text(table - segment.address + segment.offset + name).map(Soname::Named)
    }

    fn text(&self, at: u64) -> io::Result<String> {
        let mut buffer = [0; MAX_NAME_BYTES];
        let read = self.file.read_at(&mut buffer, at)?;
        let name = buffer[..read].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(io::Error::other)?;
        if name.is_empty() || name.contains('/') {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(name.to_owned())
    }
}

/// glibc's order of library names: bytes, but runs of digits by their value, and digits last.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while let (Some(&x), Some(&y)) = (a.first(), b.first()) {
        match (x.is_ascii_digit(), y.is_ascii_digit()) {
            (true, true) => {
                let (first, rest_a) = number(a);
                let (second, rest_b) = number(b);
                if first != second {
                    return first.cmp(&second);
                }
                (a, b) = (rest_a, rest_b);
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if x != y => return x.cmp(&y),
            (false, false) => (a, b) = (&a[1..], &b[1..]),
        }
    }
    a.len().cmp(&b.len())
}

fn number(text: &[u8]) -> (u64, &[u8]) {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = text[..length]
        .iter()
        .fold(0_u64, |value, byte| value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')));
    (value, &text[length..])
}

#[cfg(test)]
mod tests {
    use super::{Library, cache, compare};
    use std::cmp::Ordering;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        assert_eq!(compare(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
        assert_eq!(compare(b"libx.so.1", b"libx.so.1"), Ordering::Equal);
        assert_eq!(compare(b"libBroken", b"libacl"), Ordering::Less);
        assert_eq!(compare(b"libdb-5.3", b"libdb.so"), Ordering::Less);
    }

    #[test]
    fn a_name_is_the_tail_of_its_path() {
        let library = |name: &str| Library { soname: name.to_owned(), path: format!("/lib/x/{name}") };
        let bytes = cache(&[library("libz.so.1"), library("liba.so")], 0x0303, "ldconfig (test)");
        let number =
            |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let text = |at: usize| bytes[at..].split(|&byte| byte == 0).next().unwrap();
        assert_eq!(&bytes[..20], b"glibc-ld.so.cache1.1");
        assert_eq!((number(20), number(24)), (2, 32));
        assert_eq!(text(number(52)), b"libz.so.1");
        assert_eq!(text(number(56)), b"/lib/x/libz.so.1");
        assert_eq!(number(52), number(56) + 7);
        assert!(bytes.ends_with(b"ldconfig (test)") && number(32) % 4 == 0);
    }
}
