//! Package indices: what a suite offers, one stanza per package.
//!
//! [`IndexBuilder`] is fed the text of a `Packages` file as it streams and keeps only what
//! choosing and fetching need, in a compact form that is also the cache file. [`PackagesIndex`]
//! opens that form without parsing it and answers "which versions of this package are here?".
//!
//! Spec: Debian Repository Format, "Packages" indices; docs/formats/packages-index.md.

use std::collections::HashMap;
use std::sync::Arc;

use knarr_base::Digest;
use memchr::memmem;

use crate::DebError;
use crate::relation::parse_relations;

/// Bytes that an index can live in: memory or a mapped file.
pub type IndexBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

const MAGIC: &[u8; 8] = b"KNRPKG\x00\x02";
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = TEXT_FIELDS * 8 + 56;
const PROVIDE_BYTES: usize = 12;
const TEXT_FIELDS: usize = 15;
const MAX_STANZA_BYTES: usize = 1 << 20;

const NAME: usize = 0;
const FIELDS: [&[u8]; TEXT_FIELDS] = [
    b"Package",
    b"Version",
    b"Architecture",
    b"Multi-Arch",
    b"Priority",
    b"Section",
    b"Source",
    b"Pre-Depends",
    b"Depends",
    b"Recommends",
    b"Conflicts",
    b"Breaks",
    b"Replaces",
    b"Provides",
    b"Filename",
];
const PROVIDES: usize = 13;
/// Fields with few values, each kept once.
const SHARED: [usize; 4] = [2, 3, 4, 5];

const ESSENTIAL: u32 = 1;
const PROTECTED: u32 = 2;
const IMPORTANT: u32 = 4;

type Span = (u32, u32);

#[derive(Clone, Default)]
struct Draft {
    texts: [Span; TEXT_FIELDS],
    size_bytes: u64,
    installed_size_kib: u64,
    digest: [u8; 32],
    flags: u32,
}

/// Builds the compact form from the text of a `Packages` file.
#[derive(Default)]
pub struct IndexBuilder {
    pending: Vec<u8>,
    arena: Vec<u8>,
    shared: HashMap<Vec<u8>, Span>,
    drafts: Vec<Draft>,
    line: usize,
}

impl IndexBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self { line: 1, ..Self::default() }
    }

    /// Takes the next piece of the text, cut anywhere.
    pub fn push_text(&mut self, text: &[u8]) -> Result<(), DebError> {
        let mut text = text;
        if !self.pending.is_empty() {
            // Finish the stanza that the last piece began: up to the first blank line from here.
            let mut pending = std::mem::take(&mut self.pending);
            let before = pending.len().saturating_sub(1);
            pending.extend_from_slice(text);
            if pending.len() > MAX_STANZA_BYTES + text.len() {
                return Err(DebError::StanzaTooLong { limit_bytes: MAX_STANZA_BYTES });
            }
            let Some(end) = memmem::find(&pending[before..], b"\n\n") else {
                self.pending = pending;
                return Ok(());
            };
            let end = before + end + 2;
            self.stanza(&pending[..end - 1])?;
            text = &text[text.len() - (pending.len() - end)..];
        }
        while let Some(end) = memmem::find(text, b"\n\n") {
            self.stanza(&text[..=end])?;
            text = &text[end + 2..];
        }
        self.pending.extend_from_slice(text);
        Ok(())
    }

    /// Ends the text and gives the compact form. `source` names the text by its digest.
    pub fn finish(mut self, source: Digest) -> Result<Vec<u8>, DebError> {
        let rest = std::mem::take(&mut self.pending);
        self.stanza(&rest)?;
        let arena = std::mem::take(&mut self.arena);
        let text = |span: Span| &arena[span.0 as usize..span.0 as usize + span.1 as usize];
        self.drafts.sort_by(|a, b| text(a.texts[NAME]).cmp(text(b.texts[NAME])));
        let provides = self.provides(&arena)?;
        let size =
            HEADER_BYTES + self.drafts.len() * RECORD_BYTES + provides.len() * PROVIDE_BYTES + arena.len();
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(source.as_bytes());
        for count in [self.drafts.len(), provides.len(), arena.len()] {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        self.drafts.iter().for_each(|draft| write_record(&mut out, draft));
        for ((offset, length), record) in provides {
            [offset, length, record].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        }
        out.extend_from_slice(&arena);
        Ok(out)
    }

    fn stanza(&mut self, text: &[u8]) -> Result<(), DebError> {
        if text.len() > MAX_STANZA_BYTES {
            return Err(DebError::StanzaTooLong { limit_bytes: MAX_STANZA_BYTES });
        }
        let start = self.line;
        let mut draft = Draft::default();
        let mut seen = false;
        let mut lines = Lines { text, at: 0 };
        while let Some(line) = lines.next() {
            self.line += 1;
            match line.first() {
                None | Some(b' ' | b'\t' | b'#') => continue,
                Some(_) => seen = true,
            }
            let colon = memchr::memchr(b':', line).ok_or_else(|| self.no_colon(line))?;
            let value = lines.with_continuation(line, colon + 1);
            self.field(&mut draft, &line[..colon], value, start)?;
        }
        self.line += 1;
        if seen { self.keep(draft, start) } else { Ok(()) }
    }

    fn no_colon(&self, line: &[u8]) -> DebError {
        DebError::NoColon {
            line: self.line - 1,
            found: String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned(),
        }
    }

    fn field(&mut self, draft: &mut Draft, name: &[u8], value: &[u8], line: usize) -> Result<(), DebError> {
        let bad = |field, reason| DebError::BadField { line, field, found: lossy(value), reason };
        match name {
            b"Size" => draft.size_bytes = number(value).ok_or_else(|| bad("Size", "expected a number"))?,
            b"Installed-Size" => draft.installed_size_kib = number(value).unwrap_or(0),
            b"SHA256" => draft.digest = *lossy(value).parse::<Digest>()?.as_bytes(),
            b"Essential" if value == b"yes" => draft.flags |= ESSENTIAL,
            b"Protected" if value == b"yes" => draft.flags |= PROTECTED,
            b"Important" if value == b"yes" => draft.flags |= IMPORTANT,
            _ => {
                if let Some(position) = FIELDS.iter().position(|field| *field == name) {
                    draft.texts[position] = self.store(value, SHARED.contains(&position), line)?;
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, value: &[u8], shared: bool, line: usize) -> Result<Span, DebError> {
        if shared && let Some(span) = self.shared.get(value) {
            return Ok(*span);
        }
        if std::str::from_utf8(value).is_err() {
            return Err(DebError::NotText { line });
        }
        let offset = u32::try_from(self.arena.len()).map_err(|_| DebError::TooMany { what: "bytes" })?;
        self.arena.extend_from_slice(value);
        let span = (offset, value.len() as u32);
        if shared {
            self.shared.insert(value.to_owned(), span);
        }
        Ok(span)
    }

    fn keep(&mut self, draft: Draft, line: usize) -> Result<(), DebError> {
        for (position, field) in [(0, "Package"), (1, "Version"), (2, "Architecture"), (14, "Filename")] {
            if draft.texts[position].1 == 0 {
                return Err(DebError::MissingField { line, field });
            }
        }
        if draft.digest == [0; 32] {
            return Err(DebError::MissingField { line, field: "SHA256" });
        }
        let (offset, length) = draft.texts[14];
        let filename = &self.arena[offset as usize..(offset + length) as usize];
        if filename.starts_with(b"/") || filename.split(|&byte| byte == b'/').any(|part| part == b"..") {
            let reason = "the name leaves the mirror";
            return Err(DebError::BadField { line, field: "Filename", found: lossy(filename), reason });
        }
        self.drafts.push(draft);
        u32::try_from(self.drafts.len()).map(drop).map_err(|_| DebError::TooMany { what: "packages" })
    }

    /// `(name, record)` for everything that is provided, sorted by name.
    fn provides(&self, arena: &[u8]) -> Result<Vec<(Span, u32)>, DebError> {
        let mut provides = Vec::new();
        for (record, draft) in self.drafts.iter().enumerate() {
            let (offset, length) = draft.texts[PROVIDES];
            let text =
                std::str::from_utf8(&arena[offset as usize..(offset + length) as usize]).unwrap_or_default();
            for relation in parse_relations(text)?.into_iter().flatten() {
                let inside = relation.name.as_ptr() as usize - text.as_ptr() as usize;
                provides.push(((offset + inside as u32, relation.name.len() as u32), record as u32));
            }
        }
        let name = |span: Span| &arena[span.0 as usize..span.0 as usize + span.1 as usize];
        provides.sort_by(|a, b| name(a.0).cmp(name(b.0)).then(a.1.cmp(&b.1)));
        provides.dedup_by(|a, b| a.1 == b.1 && name(a.0) == name(b.0));
        Ok(provides)
    }
}

struct Lines<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.at += end + 1;
        Some(&rest[..end])
    }

    /// The value after the colon of `line`, with the lines that continue it.
    fn with_continuation(&self, line: &'a [u8], from: usize) -> &'a [u8] {
        let start = line.as_ptr() as usize - self.text.as_ptr() as usize + from;
        let mut end = self.at.saturating_sub(1).min(self.text.len());
        while matches!(self.text.get(end + 1), Some(b' ' | b'\t')) {
            let rest = &self.text[end + 1..];
            end += 1 + memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        }
        self.text[start.min(end)..end].trim_ascii()
    }
}

fn write_record(out: &mut Vec<u8>, draft: &Draft) {
    for (offset, length) in draft.texts {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(&draft.size_bytes.to_le_bytes());
    out.extend_from_slice(&draft.installed_size_kib.to_le_bytes());
    out.extend_from_slice(&draft.digest);
    out.extend_from_slice(&u64::from(draft.flags).to_le_bytes());
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

/// A package index in its compact form.
#[derive(Clone)]
pub struct PackagesIndex {
    bytes: IndexBytes,
    source: Digest,
    records: u32,
    provides: u32,
}

impl PackagesIndex {
    /// Opens the compact form. Looks at its header only: a damaged record yields empty fields.
    pub fn open(bytes: IndexBytes) -> Result<Self, DebError> {
        let bad = |reason| DebError::BadIndex { reason };
        let all = (*bytes).as_ref();
        let header = all.get(..HEADER_BYTES).ok_or_else(|| bad("it is shorter than its header"))?;
        if &header[..8] != MAGIC {
            return Err(bad("it does not start with the mark of this version"));
        }
        let source = Digest::from_bytes(header[8..40].try_into().map_err(|_| bad("no digest"))?);
        let [records, provides, arena] = [40, 48, 56].map(|at| read_u64(header, at));
        let size = [(records, RECORD_BYTES as u64), (provides, PROVIDE_BYTES as u64), (arena, 1)]
            .iter()
            .try_fold(HEADER_BYTES as u64, |sum, (count, size)| sum.checked_add(count.checked_mul(*size)?));
        if size != Some(all.len() as u64) {
            return Err(bad("its length is not what its header says"));
        }
        let [records, provides] = [records, provides].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Ok(Self { source, records, provides, bytes })
    }

    /// How many packages it has.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.records
    }

    /// Whether it has no package.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Digest of the text that it was made from.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// The package with this number, which must be below [`Self::len`].
    #[must_use]
    pub fn record(&self, number: u32) -> Record<'_> {
        let start = HEADER_BYTES + number as usize * RECORD_BYTES;
        Record { fixed: &self.all()[start..start + RECORD_BYTES], arena: self.arena() }
    }

    /// Numbers of the packages of this name, all versions and architectures.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let first = partition(self.records, |number| self.record(number).name() < name);
        (first..self.records).take_while(move |&number| self.record(number).name() == name)
    }

    /// Numbers of the packages whose `Provides` names `name`.
    pub fn providers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let first = partition(self.provides, |number| self.provided(number).0 < name);
        (first..self.provides)
            .map(|number| self.provided(number))
            .take_while(move |(found, _)| *found == name)
            .map(|(_, n)| n)
    }

    /// All numbers, by name.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.records
    }

    fn all(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    fn arena(&self) -> &[u8] {
        let before =
            HEADER_BYTES + self.records as usize * RECORD_BYTES + self.provides as usize * PROVIDE_BYTES;
        &self.all()[before..]
    }

    fn provided(&self, number: u32) -> (&str, u32) {
        let start = HEADER_BYTES + self.records as usize * RECORD_BYTES + number as usize * PROVIDE_BYTES;
        let fixed = &self.all()[start..start + PROVIDE_BYTES];
        let record = read_u32(fixed, 8).min(self.records.saturating_sub(1));
        (text_at(fixed, 0, self.arena()), record)
    }
}

/// One package of an index.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    fixed: &'a [u8],
    arena: &'a [u8],
}

macro_rules! text_fields {
    ($($name:ident = $position:literal, $doc:literal;)*) => {
        impl<'a> Record<'a> {
            $(#[doc = $doc] #[must_use] pub fn $name(&self) -> &'a str { text_at(self.fixed, $position * 8, self.arena) })*
        }
    };
}

text_fields! {
    name = 0, "`Package`.";
    version = 1, "`Version`.";
    architecture = 2, "`Architecture`.";
    multi_arch = 3, "`Multi-Arch`, empty when absent.";
    priority = 4, "`Priority`.";
    section = 5, "`Section`.";
    source = 6, "`Source` as it stands, perhaps with a version in parentheses; empty when it is the package's name.";
    pre_depends = 7, "`Pre-Depends`.";
    depends = 8, "`Depends`.";
    recommends = 9, "`Recommends`.";
    conflicts = 10, "`Conflicts`.";
    breaks = 11, "`Breaks`.";
    replaces = 12, "`Replaces`.";
    provides = 13, "`Provides`.";
    filename = 14, "`Filename`: the path below the mirror's address.";
}

impl Record<'_> {
    /// Size of the .deb in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        read_u64(self.fixed, TEXT_FIELDS * 8)
    }

    /// `Installed-Size` in KiB.
    #[must_use]
    pub fn installed_size_kib(&self) -> u64 {
        read_u64(self.fixed, TEXT_FIELDS * 8 + 8)
    }

    /// SHA-256 of the .deb.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut raw = [0; 32];
        raw.copy_from_slice(&self.fixed[TEXT_FIELDS * 8 + 16..TEXT_FIELDS * 8 + 48]);
        Digest::from_bytes(raw)
    }

    /// `Essential: yes`.
    #[must_use]
    pub fn essential(&self) -> bool {
        self.flags() & ESSENTIAL != 0
    }

    /// `Protected: yes`.
    #[must_use]
    pub fn protected(&self) -> bool {
        self.flags() & PROTECTED != 0
    }

    /// `Important: yes`.
    #[must_use]
    pub fn important(&self) -> bool {
        self.flags() & IMPORTANT != 0
    }

    fn flags(&self) -> u32 {
        read_u32(self.fixed, TEXT_FIELDS * 8 + 48)
    }
}

fn partition(count: u32, before: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn text_at<'a>(fixed: &[u8], at: usize, arena: &'a [u8]) -> &'a str {
    let (offset, length) = (read_u32(fixed, at) as usize, read_u32(fixed, at + 4) as usize);
    let bytes = arena.get(offset..offset.saturating_add(length)).unwrap_or_default();
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(read_u32(bytes, at)) | u64::from(read_u32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
