//! What a program or library asks for: its interpreter, libraries, search paths and notes.
//!
//! [`parse`] reads an ELF file from anything that hands out bytes by position, so a large one is not read whole.
//! Where libraries lie is [`super::libraries`]' matter.
//!
//! Spec: ELF gABI, "Program Header" and "Dynamic Section"; UAPI group, "ELF Notes for dlopen'd Dependencies".

use object::elf::{self, DynamicTag, FileHeader32, FileHeader64};
use object::read::ReadRef;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use serde::Deserialize;

/// What an ELF file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// For which machine it is: `e_machine`, and whether it has 64 bits.
    pub machine: (u16, bool),
    /// The program that starts it.
    pub interpreter: Option<String>,
    /// Its own name, if it is a library.
    pub soname: Option<String>,
    /// Libraries that must be there.
    pub needed: Vec<String>,
    /// Where they are looked for first, when it has no `runpath`.
    pub rpath: Vec<String>,
    /// Where they are looked for first.
    pub runpath: Vec<String>,
    /// Libraries that it opens by itself, by its own notes.
    pub dlopens: Vec<Dlopen>,
    /// It ends threads or walks stacks, for which the C library opens `libgcc_s.so.1`.
    pub unwinds: bool,
}

/// What a file says in a note about a library that it opens by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dlopen {
    /// Names, of which the first that is there will do.
    pub soname: Vec<String>,
    /// `required`, `recommended` or `suggested`.
    #[serde(default = "recommended")]
    pub priority: String,
    /// For what it is opened.
    #[serde(default)]
    pub feature: String,
}

impl Dlopen {
    /// Whether the file does what it is for without it.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.priority == "suggested"
    }
}

/// Why a file that begins as ELF files do cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it is no sound ELF file: {0}")]
pub struct Malformed(String);

impl From<object::read::Error> for Malformed {
    fn from(error: object::read::Error) -> Self {
        Self(error.to_string())
    }
}

/// No sound file has more of any of these.
const MAX_SEGMENTS: usize = 1 << 12;
const MAX_DYNAMIC: usize = 1 << 14;
const MAX_NOTES: usize = 1 << 10;
const MAX_NAME_BYTES: usize = 4096;
const MAX_STRINGS_BYTES: u64 = 64 << 20;
const MAX_NOTE_BYTES: usize = 1 << 16;
const DLOPEN_NOTE: u32 = 0x407c_0c0a;

/// Reads a file; nothing where it is no ELF file.
pub fn parse<'a, R: ReadRef<'a>>(data: R) -> Result<Option<Elf>, Malformed> {
    match FileKind::parse(data) {
        Ok(FileKind::Elf32) => read::<FileHeader32<Endianness>, R>(data).map(Some),
        Ok(FileKind::Elf64) => read::<FileHeader64<Endianness>, R>(data).map(Some),
        _ => Ok(None),
    }
}

fn read<'a, H: FileHeader<Endian = Endianness>, R: ReadRef<'a>>(data: R) -> Result<Elf, Malformed> {
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut found = Elf { machine: (header.e_machine(endian).0, header.is_class_64()), ..Elf::default() };
    for segment in segments.iter().take(MAX_SEGMENTS) {
        if let Some(path) = segment.interpreter(endian, data)? {
            found.interpreter = Some(name(path)?);
        }
        if let Some(mut notes) = segment.notes(endian, data)? {
            for _ in 0..MAX_NOTES {
                let Some(note) = notes.next()? else { break };
                if note.n_type(endian).0 == DLOPEN_NOTE && note.name() == b"FDO" {
                    found.dlopens.extend(dlopens(note.desc()));
                }
            }
        }
    }
    for segment in segments.iter().take(MAX_SEGMENTS) {
        if let Some(entries) = segment.dynamic(endian, data)? {
            dynamic::<H, R>(entries, segments, endian, data, &mut found)?;
        }
    }
    Ok(found)
}

fn dynamic<'a, H: FileHeader<Endian = Endianness>, R: ReadRef<'a>>(
    entries: &[H::Dyn],
    segments: &[H::ProgramHeader],
    endian: Endianness,
    data: R,
    found: &mut Elf,
) -> Result<(), Malformed> {
    let entries: Vec<(DynamicTag, u64)> = entries
        .iter()
        .take(MAX_DYNAMIC)
        .map(|entry| (entry.d_tag(endian), entry.d_val(endian).into()))
        .take_while(|(tag, _)| *tag != elf::DT_NULL)
        .collect();
    let value = |wanted: DynamicTag| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else { return Ok(()) };
    let mut strings: &[u8] = &[];
    for segment in segments.iter().take(MAX_SEGMENTS) {
        if let Some(bytes) = segment
            .data_range(endian, data, address, size.min(MAX_STRINGS_BYTES))
            .map_err(|()| Malformed("its strings lie outside it".to_owned()))?
        {
            strings = bytes;
            break;
        }
    }
    let text = |at: u64| -> Result<String, Malformed> {
        let rest = usize::try_from(at).ok().and_then(|at| strings.get(at..));
        name(rest.ok_or_else(|| Malformed("a name lies outside its strings".to_owned()))?)
    };
    for (tag, at) in &entries {
        match *tag {
            elf::DT_NEEDED => found.needed.push(text(*at)?),
            elf::DT_SONAME => found.soname = Some(text(*at)?),
            elf::DT_RPATH => found.rpath = paths(&text(*at)?),
            elf::DT_RUNPATH => found.runpath = paths(&text(*at)?),
            _ => {}
        }
    }
    found.unwinds = strings.split(|&byte| byte == 0).any(|name| UNWINDERS.contains(&name));
    Ok(())
}

/// Functions for which the C library opens `libgcc_s.so.1` by itself.
const UNWINDERS: [&[u8]; 3] = [b"pthread_exit", b"pthread_cancel", b"backtrace"];

/// The text up to its NUL.
fn name(bytes: &[u8]) -> Result<String, Malformed> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    if bytes.len() > MAX_NAME_BYTES {
        return Err(Malformed(format!("a name has {} bytes", bytes.len())));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a name is no UTF-8".to_owned()))
}

fn paths(text: &str) -> Vec<String> {
    text.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// What a note says; one that says nothing sensible says nothing.
fn dlopens(note: &[u8]) -> Vec<Dlopen> {
    let text = note.split(|&byte| byte == 0).next().unwrap_or_default();
    if text.len() > MAX_NOTE_BYTES {
        return Vec::new();
    }
    serde_json::from_slice(text).unwrap_or_default()
}

fn recommended() -> String {
    "recommended".to_owned()
}

#[cfg(test)]
mod tests;
