//! Binary packages: the members of a .deb.
//!
//! [`with_package`] streams through one once: the control member is read whole, the data member
//! is handed on as a decompressed tar stream. Unpacking that stream is `tree`'s work.
//!
//! Spec: deb(5).

use std::io::{self, BufReader, Read};

use crate::DebError;

/// What the control member holds.
#[derive(Clone, Debug, Default)]
pub struct ControlMember {
    /// The text of `control`.
    pub control: String,
    /// The other files, in the archive's order.
    pub files: Vec<ControlFile>,
}

/// A file beside `control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Its name: `postinst`, `md5sums`, …
    pub name: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A control member that unpacks to more than this is an attack.
pub const MAX_CONTROL_BYTES: u64 = 64 << 20;
/// A data member that unpacks to more than this is an attack.
pub const MAX_DATA_BYTES: u64 = 64 << 30;
const XZ_MEMORY_BYTES: u64 = 512 << 20;

/// Reads a .deb once, front to back: `then` gets the control member and the data member's tar.
/// Members whose names start with `_` are for others and skipped.
pub fn with_package<R: Read, T, E: From<DebError>>(
    reader: R,
    then: impl FnOnce(ControlMember, &mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    let mut archive = ar::Archive::new(reader);
    let mut expected = Expected::Format;
    while let Some(entry) = archive.next_entry() {
        let entry = entry.map_err(|source| DebError::NotAPackage { reason: source.to_string() })?;
        let name = String::from_utf8_lossy(entry.header().identifier()).trim_end_matches('/').to_owned();
        if name.starts_with('_') {
            continue;
        }
        expected = match expected {
            Expected::Format => check_format(&name, entry)?,
            Expected::Control => {
                let suffix =
                    name.strip_prefix("control.tar").ok_or_else(|| unexpected("control.tar", &name))?;
                Expected::Data(read_control(decoder("control", suffix, entry)?)?)
            }
            Expected::Data(control) => {
                let suffix = name.strip_prefix("data.tar").ok_or_else(|| unexpected("data.tar", &name))?;
                let mut data = Bounded { inner: decoder("data", suffix, entry)?, left: MAX_DATA_BYTES };
                return then(control, &mut data);
            }
        };
    }
    Err(DebError::NotAPackage { reason: format!("it ends before its {} member", expected.name()) }.into())
}

enum Expected {
    Format,
    Control,
    Data(ControlMember),
}

impl Expected {
    const fn name(&self) -> &'static str {
        match self {
            Self::Format => "debian-binary",
            Self::Control => "control.tar",
            Self::Data(_) => "data.tar",
        }
    }
}

fn unexpected(expected: &str, found: &str) -> DebError {
    DebError::NotAPackage { reason: format!("expected the member {expected}, found {found:?}") }
}

fn check_format(name: &str, member: impl Read) -> Result<Expected, DebError> {
    if name != "debian-binary" {
        return Err(unexpected("debian-binary", name));
    }
    let mut text = String::new();
    let read = member.take(64).read_to_string(&mut text);
    read.map_err(|source| DebError::Read { member: "debian-binary", source })?;
    if text.starts_with("2.") {
        return Ok(Expected::Control);
    }
    Err(DebError::NotAPackage { reason: format!("its format is {:?}, known is 2.x", text.trim_end()) })
}

fn decoder<'a, R: Read + 'a>(
    member: &'static str,
    suffix: &str,
    reader: R,
) -> Result<Box<dyn Read + 'a>, DebError> {
    let read = |source| DebError::Read { member, source };
    let xz =
        |stream: Result<xz2::stream::Stream, xz2::stream::Error>| stream.map_err(|error| read(error.into()));
    let reader = BufReader::with_capacity(128 << 10, reader);
    let decoder: Box<dyn Read + 'a> = match suffix {
        "" => Box::new(reader),
        ".gz" => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        ".xz" => {
            let stream =
                xz(xz2::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, xz2::stream::CONCATENATED))?;
            Box::new(xz2::bufread::XzDecoder::new_stream(reader, stream))
        }
        ".lzma" => {
            let stream = xz(xz2::stream::Stream::new_lzma_decoder(XZ_MEMORY_BYTES))?;
            Box::new(xz2::bufread::XzDecoder::new_stream(reader, stream))
        }
        ".zst" => Box::new(zstd::Decoder::with_buffer(reader).map_err(read)?),
        other => {
            let reason = format!("{member}.tar is compressed as {other:?}; known are .gz .xz .lzma .zst");
            return Err(DebError::NotAPackage { reason });
        }
    };
    Ok(decoder)
}

fn read_control(reader: impl Read) -> Result<ControlMember, DebError> {
    let read = |source| DebError::Read { member: "control", source };
    let mut member = ControlMember::default();
    let mut archive = tar::Archive::new(Bounded { inner: reader, left: MAX_CONTROL_BYTES });
    for entry in archive.entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        if name.is_empty() || name == "." || entry.header().entry_type().is_dir() {
            continue;
        }
        if name.contains('/') || name == ".." || !entry.header().entry_type().is_file() {
            return Err(DebError::NotAPackage {
                reason: format!("its control member holds {path:?}: expected plain files only"),
            });
        }
        let mut bytes = Vec::with_capacity(entry.size().min(1 << 20) as usize);
        entry.read_to_end(&mut bytes).map_err(read)?;
        if name == "control" {
            member.control = String::from_utf8(bytes).map_err(|_| DebError::NotText { line: 1 })?;
        } else {
            let mode = entry.header().mode().map_err(read)? & 0o7777;
            member.files.push(ControlFile { name, mode, bytes });
        }
    }
    if member.control.is_empty() {
        return Err(DebError::NotAPackage { reason: "its control member has no control file".to_owned() });
    }
    Ok(member)
}

/// Ends with an error instead of reading on for ever.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it unpacks to more than any real package"))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
