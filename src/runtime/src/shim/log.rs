//! Logs, as they are written: lines become entries of files, and files become old.
//!
//! [`Log::open`] makes the writer of a driver. Reading them is the engine's work.
//!
//! Spec: docs/formats/log.md.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::ShimConfig;

/// The file of json-file's entries, in the container's directory.
pub const JSON_FILE: &str = "json.log";
/// The file of local's entries.
pub const LOCAL_FILE: &str = "local.log";
/// A line that is longer is cut into entries of so many bytes.
pub const LINE_BYTES: usize = 16 << 10;
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// docker's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// What a program writes becomes entries.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
    /// What came after the last whole line, by stream.
    rest: [Vec<u8>; 2],
    /// An error was told; only the first one is.
    pub failed: Option<String>,
}

#[derive(Debug)]
enum Sink {
    None,
    Json { file: Rotating, attributes: Option<String> },
    Local(Rotating),
    Journal { socket: UnixDatagram, fields: Vec<(String, String)> },
}

impl Log {
    /// The writer that a container asks for.
    ///
    /// # Errors
    /// The file cannot be opened, or an option is wrong.
    pub fn open(config: &ShimConfig) -> io::Result<Self> {
        let log = &config.log;
        let sink = match log.driver.as_str() {
            "none" => Sink::None,
            "local" => {
                let limits = Limits::of(&log.options, 20 << 20, 5, true)?;
                Sink::Local(Rotating::open(config.directory.join(LOCAL_FILE), limits)?)
            }
            "journald" => Sink::Journal { socket: UnixDatagram::unbound()?, fields: journal_fields(config) },
            _ => {
                let limits = Limits::of(&log.options, u64::MAX, 1, false)?;
                let attributes = (!log.attributes.is_empty())
                    .then(|| serde_json::to_string(&log.attributes))
                    .transpose()?;
                Sink::Json { file: Rotating::open(config.directory.join(JSON_FILE), limits)?, attributes }
            }
        };
        Ok(Self { sink, rest: Default::default(), failed: None })
    }

    /// Takes what came on a stream. A log that cannot be written keeps no program from running: the first failure is
    /// kept in [`Self::failed`].
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if matches!(self.sink, Sink::None) {
            return;
        }
        let mut rest = std::mem::take(&mut self.rest[stream as usize]);
        let mut entries = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 128);
        let time = crate::state::now();
        let mut left = bytes;
        while let Some(at) = left.iter().position(|byte| *byte == b'\n') {
            let (line, after) = left.split_at(at + 1);
            left = after;
            if rest.is_empty() {
                self.lines(stream, line, &time, &mut entries);
            } else {
                rest.extend_from_slice(line);
                self.lines(stream, &rest, &time, &mut entries);
                rest.clear();
            }
        }
        rest.extend_from_slice(left);
        while rest.len() >= LINE_BYTES {
            let cut: Vec<u8> = rest.drain(..LINE_BYTES).collect();
            self.entry(stream, &cut, &time, &mut entries);
        }
        self.rest[stream as usize] = rest;
        self.put(&entries);
    }

    /// The program has ended: what is left of its last lines is written.
    pub fn finish(&mut self) {
        let time = crate::state::now();
        for stream in [Stream::Out, Stream::Err] {
            let rest = std::mem::take(&mut self.rest[stream as usize]);
            if !rest.is_empty() {
                let mut entries = Vec::new();
                self.entry(stream, &rest, &time, &mut entries);
                self.put(&entries);
            }
        }
    }

    fn lines(&mut self, stream: Stream, line: &[u8], time: &str, entries: &mut Vec<u8>) {
        for part in line.chunks(LINE_BYTES) {
            self.entry(stream, part, time, entries);
        }
    }

    fn entry(&mut self, stream: Stream, line: &[u8], time: &str, entries: &mut Vec<u8>) {
        match &mut self.sink {
            Sink::None => {}
            Sink::Json { attributes, .. } => json_entry(stream, line, time, attributes.as_deref(), entries),
            Sink::Local(_) => local_entry(stream, line, time, entries),
            Sink::Journal { socket, fields } => {
                if let Err(error) = to_journal(socket, fields, stream, line) {
                    self.failed.get_or_insert_with(|| format!("the journal does not take a line: {error}"));
                }
            }
        }
    }

    fn put(&mut self, entries: &[u8]) {
        let (Sink::Json { file, .. } | Sink::Local(file)) = &mut self.sink else { return };
        if entries.is_empty() {
            return;
        }
        if let Err(error) = file.write(entries) {
            let path = file.path.display();
            self.failed.get_or_insert_with(|| format!("cannot write {path}: {error}"));
        }
    }
}

/// `{"log":"text\n","stream":"stdout","attrs":{…},"time":"…"}` and a line end.
fn json_entry(stream: Stream, line: &[u8], time: &str, attributes: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(&String::from_utf8_lossy(line), out);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    if let Some(attributes) = attributes {
        out.extend_from_slice(b"\",\"attrs\":");
        out.extend_from_slice(attributes.as_bytes());
        out.extend_from_slice(b",\"time\":\"");
    } else {
        out.extend_from_slice(b"\",\"time\":\"");
    }
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn escape(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        if short.is_empty() {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digits[0], digits[1]]);
        } else {
            out.extend_from_slice(short);
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

/// Length of what follows (4 bytes, big-endian), stream (`o` or `e`), length of the time (1 byte), time, line, and the
/// length again: so files can be read from their end.
fn local_entry(stream: Stream, line: &[u8], time: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(2 + time.len() + line.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.push(match stream {
        Stream::Out => b'o',
        Stream::Err => b'e',
    });
    out.push(u8::try_from(time.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(line);
    out.extend_from_slice(&length);
}

fn journal_fields(config: &ShimConfig) -> Vec<(String, String)> {
    let short = config.id.get(..12).unwrap_or(&config.id);
    let tag = config.log.options.get("tag").map_or(short, String::as_str);
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut fields = vec![
        field("CONTAINER_ID", short),
        field("CONTAINER_ID_FULL", &config.id),
        field("CONTAINER_NAME", &config.name),
        field("CONTAINER_TAG", tag),
        field("SYSLOG_IDENTIFIER", tag),
    ];
    fields
        .extend(config.log.attributes.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())));
    fields
}

fn to_journal(
    socket: &UnixDatagram,
    fields: &[(String, String)],
    stream: Stream,
    line: &[u8],
) -> io::Result<()> {
    let mut message = Vec::new();
    let priority = if stream == Stream::Err { "3" } else { "6" };
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let own = [("PRIORITY", priority)];
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.into_iter().chain(fields) {
        binary_field(name, value.as_bytes(), &mut message);
    }
    binary_field("MESSAGE", line, &mut message);
    socket.send_to(&message, JOURNAL)?;
    Ok(())
}

/// The form of the journal's protocol in which a value may hold anything.
fn binary_field(name: &str, value: &[u8], message: &mut Vec<u8>) {
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    message.extend_from_slice(value);
    message.push(b'\n');
}

/// When a file is old, and how many old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    bytes: u64,
    files: u32,
    compress: bool,
}

impl Limits {
    /// Reads `max-size`, `max-file` and `compress`.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn of(
        options: &BTreeMap<String, String>,
        bytes: u64,
        files: u32,
        compress: bool,
    ) -> io::Result<Self> {
        let bad = |name: &str, value: &str| {
            io::Error::other(format!("log option {name}: {value:?} cannot be read"))
        };
        let mut limits = Self { bytes, files, compress };
        if let Some(text) = options.get("max-size") {
            limits.bytes = parse_size(text).ok_or_else(|| bad("max-size", text))?;
        }
        if let Some(text) = options.get("max-file") {
            limits.files =
                text.parse().ok().filter(|files| *files > 0).ok_or_else(|| bad("max-file", text))?;
        }
        if let Some(text) = options.get("compress") {
            limits.compress = text.parse().map_err(|_| bad("compress", text))?;
        }
        Ok(limits)
    }
}

/// `10m`, `512k`, `1g`, `-1` for no limit.
fn parse_size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(u64::MAX);
    }
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, unit) = match lower.char_indices().last()? {
        (at, 'k') => (&lower[..at], 1 << 10),
        (at, 'm') => (&lower[..at], 1 << 20),
        (at, 'g') => (&lower[..at], 1 << 30),
        _ => (lower, 1),
    };
    let number: f64 = number.parse().ok()?;
    (number > 0.0).then_some((number * unit as f64) as u64)
}

/// A file that makes room for a new one when it is full.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    limits: Limits,
}

impl Rotating {
    fn open(path: PathBuf, limits: Limits) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, limits })
    }

    fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size.saturating_add(entries.len() as u64) > self.limits.bytes {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(entries) {
            // A disk that is full takes a part: half an entry would spoil the next one.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += entries.len() as u64;
        Ok(())
    }

    /// `log` becomes `log.1`, that one `log.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.limits.files <= 1 {
            fs::remove_file(&self.path)?;
        } else {
            let suffix = if self.limits.compress { ".gz" } else { "" };
            for number in (1..self.limits.files - 1).rev() {
                move_if_there(&old(&self.path, number, suffix), &old(&self.path, number + 1, suffix))?;
            }
            let first = old(&self.path, 1, suffix);
            if self.limits.compress {
                compress(&self.path, &first)?;
                fs::remove_file(&self.path)?;
            } else {
                fs::rename(&self.path, &first)?;
            }
        }
        *self = Self::open(self.path.clone(), self.limits)?;
        Ok(())
    }
}

/// The path of an old file: `log.2.gz`.
#[must_use]
pub fn old(path: &Path, number: u32, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{suffix}"));
    PathBuf::from(name)
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let half = to.with_extension("tmp");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&half)?, flate2::Compression::fast());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(half, to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{LINE_BYTES, Log, Stream, json_entry, parse_size};
    use crate::shim::{LogConfig, ShimConfig};

    fn config(directory: &std::path::Path, driver: &str, options: &[(&str, &str)]) -> ShimConfig {
        let options: BTreeMap<_, _> =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let log = LogConfig { driver: driver.to_owned(), options, ..LogConfig::default() };
        ShimConfig { directory: directory.to_owned(), log, ..ShimConfig::default() }
    }

    #[test]
    fn an_entry_is_json_whatever_was_written() {
        let mut out = Vec::new();
        json_entry(Stream::Err, b"a\"\\\x01\xff\n", "2026-01-01T00:00:00Z", Some("{\"a\":\"b\"}"), &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["log"], "a\"\\\u{1}\u{fffd}\n");
        assert_eq!((&value["stream"], &value["attrs"]["a"]), (&"stderr".into(), &"b".into()));
    }

    #[test]
    fn lines_are_whole_and_long_ones_are_cut() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&config(directory.path(), "json-file", &[])).unwrap();
        log.write(Stream::Out, b"on");
        log.write(Stream::Out, b"e\ntw");
        log.write(Stream::Out, &vec![b'x'; LINE_BYTES + 1]);
        log.finish();
        let text = std::fs::read_to_string(directory.path().join("json.log")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["log"], "one\n");
        assert_eq!(lines[1]["log"].as_str().unwrap().len(), LINE_BYTES);
        assert_eq!(lines[2]["log"].as_str().unwrap().len(), 3);
    }

    #[test]
    fn full_files_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let options = [("max-size", "1k"), ("max-file", "3")];
        let mut log = Log::open(&config(directory.path(), "json-file", &options)).unwrap();
        for _ in 0..100 {
            log.write(Stream::Out, b"a line of some length\n");
        }
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["json.log", "json.log.1", "json.log.2"]);
        assert!(log.failed.is_none());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("10m"), Some(10 << 20));
        assert_eq!(parse_size("1kb"), Some(1 << 10));
        assert_eq!(parse_size("-1"), Some(u64::MAX));
        assert_eq!((parse_size("x"), parse_size("0")), (None, None));
    }
}
