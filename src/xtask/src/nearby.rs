//! A mirror on the loopback that answers from a cache, so that a benchmark does not measure the network.
//!
//! What it does not have it fetches from the real mirror by `curl`, once, and keeps as long as it lives.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Serves `upstream` on the loopback, keeping files in `directory`; answers with the address.
pub(crate) fn serve(upstream: &str, directory: &Path) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let mirror = Arc::new(Nearby {
        upstream: upstream.to_owned(),
        directory: directory.to_owned(),
        known: Mutex::new(HashMap::new()),
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mirror = Arc::clone(&mirror);
            // A client that goes away in the middle is no concern of the benchmark.
            std::thread::spawn(move || mirror.talk(stream).ok());
        }
    });
    Ok(address)
}

struct Nearby {
    upstream: String,
    directory: PathBuf,
    /// Where each path lies; `None` where the mirror has none.
    known: Mutex<HashMap<String, Option<PathBuf>>>,
}

impl Nearby {
    fn talk(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
            let mut header = String::new();
            while reader.read_line(&mut header)? > 2 {
                header.clear();
            }
            let mut words = request.split_ascii_whitespace();
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            self.answer(&mut stream, method, path)?;
        }
    }

    fn answer(&self, stream: &mut TcpStream, method: &str, path: &str) -> io::Result<()> {
        let Some(file) = self.find(path) else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
        if method == "GET" {
            io::copy(&mut file, stream)?;
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return known.clone();
        }
        let file = self.directory.join(path.replace('/', "%"));
        let mut curl = Command::new("curl");
        let fetched = curl.args(["-fsS", "-o"]).arg(&file).arg(format!("{}{path}", self.upstream));
        let found = fetched.output().is_ok_and(|output| output.status.success()).then_some(file);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), found.clone());
        found
    }
}
