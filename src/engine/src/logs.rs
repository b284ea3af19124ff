//! Logs, as `logs` shows them: what was written, filtered, followed.
//!
//! [`read`] is the core, over a container's directory. The shim writes the files (`runtime::shim::log`); a last entry that is not
//! whole is not there yet.
//!
//! Spec: docs/formats/log.md; Docker Engine API, "Get container logs".

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use knarr_runtime::shim::log::{JSON_FILE, LOCAL_FILE, old};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::filters::moment;
use crate::stream::{DEPTH, Frame, FrameStream, Stdio};
use crate::{Engine, EngineError, Kind};

/// A file is looked at again after so many milliseconds although nobody told of a change.
const LOOK_EVERY_MS: u16 = 500;
/// No entry is longer than a line with its escapes.
const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Backwards a file is read in pieces of this.
const PIECE_BYTES: u64 = 64 << 10;

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogsRequest {
    /// Go on with what comes.
    pub follow: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
    /// Not before: RFC 3339, Unix seconds with fraction.
    pub since: Option<String>,
    /// Not after.
    pub until: Option<String>,
    /// Each line with its time.
    pub timestamps: bool,
    /// Each line with its attributes.
    pub details: bool,
    /// The last so many lines only.
    pub tail: Option<u64>,
}

impl Engine {
    /// `GET /containers/{id}/logs`: frames, and whether the container has a terminal.
    ///
    /// # Errors
    /// There is no such container, its driver keeps nothing to read, or a time is wrong.
    pub async fn logs_container(
        &self,
        name: &str,
        request: LogsRequest,
    ) -> Result<(bool, FrameStream), EngineError> {
        let container = self.shared().containers.find(name)?;
        let (tty, driver) = {
            let record = container.record();
            let driver = record.host.log_config.as_ref().and_then(|log| log.typ.clone());
            (record.config.tty == Some(true), driver.unwrap_or_default())
        };
        let format = Format::of(&driver)?;
        let wanted = Wanted::new(&request)?;
        let directory = self.container_dir(&container.id);
        let (sender, receiver) = mpsc::channel(DEPTH);
        let follow = request.follow;
        tokio::task::spawn_blocking(move || {
            let over = || {
                !follow
                    || sender.is_closed()
                    || !container.live.phase().running && !container.record().state.restarting
            };
            let mut send = |frame: Frame| sender.blocking_send(Ok(frame)).is_ok();
            if let Err(error) = read(&directory, format, &wanted, &over, &mut send) {
                // A client that is gone does not hear it.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok((tty, receiver))
    }
}

/// How entries lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Local,
}

impl Format {
    fn of(driver: &str) -> Result<Self, EngineError> {
        match driver {
            "" | "json-file" => Ok(Self::Json),
            "local" => Ok(Self::Local),
            _ => Err(EngineError::said(
                Kind::Unsupported,
                "configured logging driver does not support reading",
            )),
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Json => JSON_FILE,
            Self::Local => LOCAL_FILE,
        }
    }
}

/// A request, understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    stdout: bool,
    stderr: bool,
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    timestamps: bool,
    details: bool,
    tail: Option<u64>,
}

impl Wanted {
    fn new(request: &LogsRequest) -> Result<Self, EngineError> {
        Ok(Self {
            stdout: request.stdout,
            stderr: request.stderr,
            since: request.since.as_deref().map(moment).transpose()?,
            until: request.until.as_deref().map(moment).transpose()?,
            timestamps: request.timestamps,
            details: request.details,
            tail: request.tail,
        })
    }

    /// What is shown of an entry; nothing when it is not wanted.
    fn show(&self, entry: &Entry) -> Option<Frame> {
        let stream = if entry.stream == "stderr" { Stdio::Err } else { Stdio::Out };
        if !(if stream == Stdio::Err { self.stderr } else { self.stdout }) {
            return None;
        }
        if self.since.is_some() || self.until.is_some() {
            let at: jiff::Timestamp = entry.time.parse().ok()?;
            if self.since.is_some_and(|since| at < since) || self.until.is_some_and(|until| at > until) {
                return None;
            }
        }
        let mut text = Vec::with_capacity(entry.log.len() + 64);
        if self.timestamps {
            text.extend_from_slice(fixed(&entry.time).as_bytes());
            text.push(b' ');
        }
        if self.details {
            let details = entry.attrs.iter().map(|(key, value)| format!("{key}={value}"));
            text.extend_from_slice(details.collect::<Vec<_>>().join(",").as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&entry.log);
        Some(Frame { stream, bytes: Bytes::from(text) })
    }
}

/// A time with all nine digits, so that columns are straight.
fn fixed(time: &str) -> String {
    let plain = time.strip_suffix('Z').unwrap_or(time);
    let (seconds, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

/// A line that was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    log: Vec<u8>,
    stream: String,
    time: String,
    attrs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct JsonEntry {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads a log: what there is, then what comes until `over`. `send` says whether anybody still listens.
pub(crate) fn read(
    directory: &Path,
    format: Format,
    wanted: &Wanted,
    over: &dyn Fn() -> bool,
    send: &mut dyn FnMut(Frame) -> bool,
) -> Result<(), EngineError> {
    let path = directory.join(format.file());
    // The kernel takes its time to give a watch back: who does not wait has none.
    let watch = if over() { Watch(None) } else { Watch::new(directory) };
    let mut current = Current::open(&path)?;
    let mut skip = 0;
    if let Some(tail) = wanted.tail {
        let here = current.as_mut().map_or(Ok(0), |current| current.seek_last(format, tail))?;
        skip = tail.saturating_sub(here);
    }
    // Older files are needed when the newest has not enough.
    if wanted.tail.is_none() || skip > 0 {
        let mut older = Older::new(&path, format);
        if !older.send(wanted, wanted.tail.map(|_| skip), send)? {
            return Ok(());
        }
    }
    loop {
        // Asked before the last look: what was written until then is seen.
        let last = over();
        if current.is_none() {
            current = Current::open(&path)?;
        }
        if let Some(open) = &mut current {
            if !open.send(format, wanted, send)? {
                return Ok(());
            }
            if open.is_old(&path) {
                // What came between the last look and the renaming.
                if !open.send(format, wanted, send)? {
                    return Ok(());
                }
                current = Current::open(&path)?;
                continue;
            }
        }
        if last {
            return Ok(());
        }
        watch.wait();
    }
}

/// Reads the log of a directory to its end: how many entries it shows. For fuzzing.
///
/// # Errors
/// It is damaged.
#[doc(hidden)]
pub fn try_read(directory: &Path, local: bool, tail: Option<u64>) -> Result<usize, EngineError> {
    let format = if local { Format::Local } else { Format::Json };
    let request = LogsRequest {
        stdout: true,
        stderr: true,
        timestamps: true,
        details: true,
        tail,
        ..LogsRequest::default()
    };
    let mut count = 0;
    read(directory, format, &Wanted::new(&request)?, &|| true, &mut |_| {
        count += 1;
        true
    })?;
    Ok(count)
}

/// Tells when something in a directory changes.
struct Watch(Option<rustix::fd::OwnedFd>);

impl Watch {
    fn new(directory: &Path) -> Self {
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).and_then(|fd| {
                let flags =
                    inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
                inotify::add_watch(&fd, directory, flags)?;
                Ok(fd)
            });
        // A machine may have no watches left: then it is looked at again and again.
        Self(watch.ok())
    }

    fn wait(&self) {
        let Some(fd) = &self.0 else {
            return std::thread::sleep(std::time::Duration::from_millis(u64::from(LOOK_EVERY_MS)));
        };
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        // An interruption only looks earlier.
        let _ = poll(&mut polled, PollTimeout::from(LOOK_EVERY_MS));
        let mut buffer = [0; 4096];
        while rustix::io::read(fd, &mut buffer).is_ok_and(|count| count > 0) {}
    }
}

/// The file that is written to.
struct Current {
    file: File,
    inode: u64,
    /// What of an entry has come.
    rest: Vec<u8>,
}

impl Current {
    fn open(path: &Path) -> Result<Option<Self>, EngineError> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata().map_err(EngineError::file("look at", path))?.ino();
                Ok(Some(Self { file, inode, rest: Vec::new() }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EngineError::File { doing: "open", path: path.to_owned(), source }),
        }
    }

    /// Whether the name leads to another file by now.
    fn is_old(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() != self.inode)
    }

    /// Goes to where the last `tail` entries begin, and answers with how many there are.
    fn seek_last(&mut self, format: Format, tail: u64) -> Result<u64, EngineError> {
        let found = match format {
            Format::Json => last_lines(&mut self.file, tail),
            Format::Local => last_local(&mut self.file, tail),
        };
        found.map_err(|error| EngineError::failed(format!("the log cannot be read: {error}")))
    }

    /// Sends what is there.
    fn send(
        &mut self,
        format: Format,
        wanted: &Wanted,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, EngineError> {
        let mut buffer = vec![0; PIECE_BYTES as usize];
        loop {
            let count = self
                .file
                .read(&mut buffer)
                .map_err(|error| EngineError::failed(format!("the log cannot be read: {error}")))?;
            if count == 0 {
                return Ok(true);
            }
            self.rest.extend_from_slice(&buffer[..count]);
            let mut from = 0;
            while let Some((entry, length)) = parse(format, &self.rest[from..])? {
                from += length;
                if let Some(frame) = entry.and_then(|entry| wanted.show(&entry))
                    && !send(frame)
                {
                    return Ok(false);
                }
            }
            self.rest.drain(..from);
        }
    }
}

/// The first entry of some bytes, with its length: `None` when it is not whole, no entry when it cannot be read.
fn parse(format: Format, bytes: &[u8]) -> Result<Option<(Option<Entry>, usize)>, EngineError> {
    match format {
        Format::Json => {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                return if bytes.len() > MAX_ENTRY_BYTES { Err(damaged()) } else { Ok(None) };
            };
            // A line that was torn by a power cut is passed over.
            let entry = serde_json::from_slice::<JsonEntry>(&bytes[..end]).ok();
            let entry = entry.map(|entry| Entry {
                log: entry.log.into_bytes(),
                stream: entry.stream,
                time: entry.time,
                attrs: entry.attrs,
            });
            Ok(Some((entry, end + 1)))
        }
        Format::Local => {
            let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
            let length = u32::from_be_bytes(*head) as usize;
            if !(2..=MAX_ENTRY_BYTES).contains(&length) {
                return Err(damaged());
            }
            if bytes.len() < length + 8 {
                return Ok(None);
            }
            Ok(Some((local_entry(&bytes[4..4 + length]), length + 8)))
        }
    }
}

fn damaged() -> EngineError {
    EngineError::failed("the log is damaged: an entry has a length that cannot be")
}

fn local_entry(bytes: &[u8]) -> Option<Entry> {
    let (stream, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (time, line) = rest.split_at_checked(usize::from(*length))?;
    Some(Entry {
        log: line.to_vec(),
        stream: if *stream == b'e' { "stderr" } else { "stdout" }.to_owned(),
        time: String::from_utf8_lossy(time).into_owned(),
        attrs: BTreeMap::new(),
    })
}

/// Goes to where the last lines begin; answers with how many there are.
fn last_lines(file: &mut File, tail: u64) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut found = 0;
    let mut buffer = Vec::new();
    // The line end of the last line ends no line before it.
    let mut passed_last = false;
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        buffer.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer)?;
        for (at, byte) in buffer.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if !passed_last {
                passed_last = true;
                if tail == 0 {
                    file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                    return Ok(0);
                }
                continue;
            }
            found += 1;
            if found == tail {
                file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                return Ok(found);
            }
        }
        end = start;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(found + u64::from(passed_last))
}

/// The same for entries that end with their length.
fn last_local(file: &mut File, tail: u64) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut found = 0;
    while found < tail && end >= 8 {
        let mut length = [0; 4];
        file.seek(SeekFrom::Start(end - 4))?;
        file.read_exact(&mut length)?;
        let whole = u64::from(u32::from_be_bytes(length)) + 8;
        // An end that was torn off: from the start on, what is whole is found.
        if whole > end || whole > MAX_ENTRY_BYTES as u64 {
            file.seek(SeekFrom::Start(0))?;
            return Ok(found);
        }
        end -= whole;
        found += 1;
    }
    file.seek(SeekFrom::Start(end))?;
    Ok(found)
}

/// Files that were full.
struct Older {
    paths: Vec<PathBuf>,
    format: Format,
}

impl Older {
    /// The oldest first.
    fn new(path: &Path, format: Format) -> Self {
        let mut paths = Vec::new();
        for number in 1..10_000 {
            let found = ["", ".gz"].iter().map(|suffix| old(path, number, suffix)).find(|path| path.exists());
            match found {
                Some(path) => paths.push(path),
                None => break,
            }
        }
        paths.reverse();
        Self { paths, format }
    }

    /// Sends what is in them, with `last` only so many.
    fn send(
        &mut self,
        wanted: &Wanted,
        last: Option<u64>,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, EngineError> {
        let mut kept = std::collections::VecDeque::new();
        for path in &self.paths {
            let mut reader = match open_old(path) {
                // It was thrown away just now.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(EngineError::file("open", path))?,
            };
            let mut rest = Vec::new();
            loop {
                let piece = reader.fill_buf().map_err(EngineError::file("read", path))?;
                if piece.is_empty() {
                    break;
                }
                rest.extend_from_slice(piece);
                let count = piece.len();
                reader.consume(count);
                let mut from = 0;
                while let Some((entry, length)) = parse(self.format, &rest[from..])? {
                    from += length;
                    let Some(frame) = entry.and_then(|entry| wanted.show(&entry)) else { continue };
                    match last {
                        None if !send(frame.clone()) => return Ok(false),
                        None => {}
                        Some(last) => {
                            kept.push_back(frame);
                            if kept.len() as u64 > last {
                                kept.pop_front();
                            }
                        }
                    }
                }
                rest.drain(..from);
            }
        }
        Ok(kept.into_iter().all(send))
    }
}

fn open_old(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::new(file)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use knarr_runtime::shim::log::{Log, Stream};
    use knarr_runtime::shim::{LogConfig, ShimConfig};

    use super::{Format, Wanted, fixed, read};

    fn writer(directory: &Path, driver: &str, options: &[(&str, &str)]) -> Log {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let log = LogConfig { driver: driver.to_owned(), options, ..LogConfig::default() };
        Log::open(&ShimConfig { directory: directory.to_owned(), log, ..ShimConfig::default() }).unwrap()
    }

    fn shown(directory: &Path, format: Format, wanted: &Wanted) -> String {
        let mut text = Vec::new();
        read(directory, format, wanted, &|| true, &mut |frame| {
            text.extend_from_slice(&frame.bytes);
            true
        })
        .unwrap();
        String::from_utf8(text).unwrap()
    }

    fn all() -> Wanted {
        Wanted { stdout: true, stderr: true, ..Wanted::default() }
    }

    #[test]
    fn both_formats_give_back_what_was_written() {
        for (driver, format) in [("json-file", Format::Json), ("local", Format::Local)] {
            let directory = tempfile::tempdir().unwrap();
            let mut log = writer(directory.path(), driver, &[]);
            log.write(Stream::Out, b"one\ntwo\n");
            log.write(Stream::Err, b"three\n");
            log.write(Stream::Out, b"four");
            log.finish();
            assert_eq!(shown(directory.path(), format, &all()), "one\ntwo\nthree\nfour");
            let errors = Wanted { stderr: true, ..Wanted::default() };
            assert_eq!(shown(directory.path(), format, &errors), "three\n");
            for (tail, text) in [(0, ""), (1, "four"), (2, "three\nfour"), (9, "one\ntwo\nthree\nfour")] {
                assert_eq!(
                    shown(directory.path(), format, &Wanted { tail: Some(tail), ..all() }),
                    text,
                    "{driver} {tail}"
                );
            }
        }
    }

    #[test]
    fn files_that_were_full_are_read_too() {
        for compress in ["false", "true"] {
            let directory = tempfile::tempdir().unwrap();
            let options = [("max-size", "2k"), ("max-file", "100"), ("compress", compress)];
            let mut log = writer(directory.path(), "json-file", &options);
            for number in 0..200 {
                log.write(Stream::Out, format!("{number}\n").as_bytes());
            }
            let lines: Vec<String> = (0..200).map(|number| format!("{number}\n")).collect();
            assert_eq!(shown(directory.path(), Format::Json, &all()), lines.concat());
            let last = Wanted { tail: Some(100), ..all() };
            assert_eq!(shown(directory.path(), Format::Json, &last), lines[100..].concat());
        }
    }

    #[test]
    fn a_torn_entry_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let text = "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"t\"}\n{\"log\":\"to\n{\"log\":\"b\\n\",\"stream\":\"stdout\"}\n{\"lo";
        std::fs::write(directory.path().join("json.log"), text).unwrap();
        assert_eq!(shown(directory.path(), Format::Json, &all()), "a\nb\n");
    }

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(fixed("2026-01-01T00:00:00.5Z"), "2026-01-01T00:00:00.500000000Z");
        assert_eq!(fixed("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00.000000000Z");
    }
}
