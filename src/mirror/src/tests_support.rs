//! A server on the loopback that can be broken, and a signed suite for it to serve.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_pgp::Keyring;

use crate::release::{Leniency, Source};
use crate::{Mirror, Options};

/// What the server does instead of serving a file as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Status(u16),
    /// So many bytes, and then nothing on an open connection.
    StallAfter(usize),
    /// So many bytes, and then the end of the connection.
    CutAfter(usize),
    /// The same, but only the first time.
    CutOnceAfter(usize),
    /// A whole answer that is that short.
    ShortBy(usize),
    Endless,
    /// Answers to a range with the whole file.
    IgnoreRange,
    /// Answers to a range with another one.
    WrongRange,
    /// Answers to a range that there is no such range.
    RefuseRange,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    faults: HashMap<String, Fault>,
    asked: Vec<(String, u64)>,
}

pub(crate) struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(&stream, &state));
            }
        });
        Self { url, state }
    }

    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), bytes.into());
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().files.remove(path);
    }

    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(path.to_owned(), fault);
    }

    /// What was asked for since the last time, with the start of its range.
    pub(crate) fn asked(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut start = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            start = range.split('-').next().unwrap().parse().unwrap();
        }
    }
    let (body, fault) = {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), start));
        let fault = state.faults.get(&path).copied();
        if matches!(fault, Some(Fault::CutOnceAfter(_))) {
            state.faults.remove(&path);
        }
        (state.files.get(&path).cloned(), fault)
    };
    reply(stream, body, fault, usize::try_from(start).unwrap())
}

fn reply(
    mut stream: &TcpStream,
    body: Option<Vec<u8>>,
    fault: Option<Fault>,
    start: usize,
) -> io::Result<()> {
    let mut head = |status: &str, length: usize, more: &str| {
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
    };
    match (&body, fault) {
        (_, Some(Fault::Status(status))) => return head(&format!("{status} Fault"), 0, ""),
        (None, _) => return head("404 Not Found", 0, ""),
        (_, Some(Fault::RefuseRange)) if start > 0 => return head("416 Range Not Satisfiable", 0, ""),
        (_, Some(Fault::Endless)) => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 65536])?;
            }
        }
        _ => {}
    }
    let body = body.unwrap_or_default();
    let body = match fault {
        Some(Fault::ShortBy(bytes)) => &body[..body.len() - bytes],
        _ => &body[..],
    };
    let begin = match fault {
        Some(Fault::IgnoreRange) => 0,
        Some(Fault::WrongRange) if start > 0 => start - 1,
        _ => start.min(body.len()),
    };
    let part = &body[begin..];
    if begin > 0 {
        let range = format!("Content-Range: bytes {begin}-{}/{}\r\n", body.len() - 1, body.len());
        head("206 Partial Content", part.len(), &range)?;
    } else {
        head("200 OK", part.len(), "")?;
    }
    match fault {
        Some(Fault::CutAfter(bytes) | Fault::CutOnceAfter(bytes)) => {
            stream.write_all(&part[..bytes.min(part.len())])
        }
        Some(Fault::StallAfter(bytes)) => {
            stream.write_all(&part[..bytes.min(part.len())])?;
            std::thread::sleep(Duration::from_secs(30));
            Ok(())
        }
        _ => stream.write_all(part),
    }
}

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000);

/// A mirror whose transfers give up soon.
pub(crate) fn mirror(cache: &Path) -> Mirror {
    Mirror::new(options(cache)).unwrap()
}

pub(crate) fn options(cache: &Path) -> Options {
    Options {
        cache: cache.to_owned(),
        offline: false,
        jobs: 4,
        retries: 1,
        stall: Duration::from_millis(300),
        lenient: Leniency::default(),
    }
}

/// A key that signs, in a home of its own.
pub(crate) struct Signer {
    home: tempfile::TempDir,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let signer = Self { home: tempfile::tempdir().unwrap() };
        signer.gpg(&["--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never"], "");
        signer
    }

    pub(crate) fn gpg(&self, arguments: &[&str], input: &str) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path());
        command.args(["--batch", "--quiet", "--passphrase", ""]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub(crate) fn keyring(&self) -> Keyring {
        Keyring::from_bytes("test.gpg", &self.gpg(&["--export"], "")).unwrap()
    }

    pub(crate) fn sign(&self, text: &str) -> Vec<u8> {
        self.gpg(&["--clearsign"], text)
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // Only the agent of this home.
        let _ =
            Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).output();
    }
}

/// The text of a Release file that offers these files.
pub(crate) fn release_text(date: &str, fields: &str, files: &[(&str, &[u8])]) -> String {
    let mut text = format!(
        "Origin: Test\nLabel: Test\nSuite: test\nCodename: test\nDate: {date}\nArchitectures: amd64\nComponents: main\n{fields}SHA256:\n"
    );
    for (name, bytes) in files {
        text.push_str(&format!(" {} {} {name}\n", Digest::of(bytes).hex(), bytes.len()));
    }
    text
}

pub(crate) fn source(mirrors: &[&str], keyring: Keyring) -> Source {
    Source {
        mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
        suite: "test".to_owned(),
        components: vec!["main".to_owned()],
        keyring,
        ..Source::default()
    }
}

pub(crate) fn amd64() -> Architecture {
    "amd64".parse().unwrap()
}
