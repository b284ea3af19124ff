//! One transfer: an address, a bound, and a sink for the bytes.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use reqwest::header::{CONTENT_RANGE, RANGE};
use tokio::io::AsyncReadExt;

use crate::MirrorError;

/// What a transfer needs to know.
pub(crate) struct Transfer<'a> {
    pub client: &'a reqwest::Client,
    pub url: &'a str,
    /// More bytes than this are an error.
    pub limit_bytes: u64,
    pub stall: Duration,
    pub cancel: &'a AtomicBool,
}

/// What a transfer came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transferred {
    pub size_bytes: u64,
    /// From the answer's head to its last byte: what the line can do, without the way to the server.
    pub body: Duration,
}

type Restart<'a> = &'a mut (dyn FnMut() -> Result<(), MirrorError> + Send);
type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), MirrorError> + Send);

/// How long an interrupt may go unnoticed while nothing comes.
const NOTICE: Duration = Duration::from_millis(100);

impl Transfer<'_> {
    /// Streams the bytes from `start` on into `sink`. When the server cannot resume, `restart` is
    /// called before the first byte.
    pub(crate) async fn run(
        &self,
        mut start: u64,
        restart: Restart<'_>,
        sink: Sink<'_>,
    ) -> Result<Transferred, MirrorError> {
        if let Some(path) = file_path(self.url) {
            if start > 0 {
                restart()?;
            }
            return self.run_file(&path, sink).await;
        }
        let mut response = self.ask(start).await?;
        if start > 0 && !continues(&response, start) {
            restart()?;
            start = 0;
            // Anything but the whole file from its beginning is of no use now.
            if response.status().as_u16() != 200 {
                response = self.ask(0).await?;
            }
        }
        let status = response.status().as_u16();
        if status != 200 && !(status == 206 && start > 0) {
            return Err(MirrorError::Status { url: self.url.to_owned(), status });
        }
        let mut size_bytes = start;
        self.check_limit(start + response.content_length().unwrap_or(0))?;
        let begin = Instant::now();
        let mut body = response.bytes_stream();
        while let Some(chunk) = self.in_time(body.next()).await? {
            let chunk = chunk.map_err(|error| self.connection(&error))?;
            size_bytes += chunk.len() as u64;
            self.check_limit(size_bytes)?;
            sink(&chunk)?;
        }
        Ok(Transferred { size_bytes, body: begin.elapsed() })
    }

    async fn ask(&self, start: u64) -> Result<reqwest::Response, MirrorError> {
        let mut request = self.client.get(self.url);
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        self.in_time(request.send()).await?.map_err(|error| self.connection(&error))
    }

    async fn run_file(&self, path: &str, sink: Sink<'_>) -> Result<Transferred, MirrorError> {
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => MirrorError::Status { url: self.url.to_owned(), status: 404 },
            _ => MirrorError::Connection { url: self.url.to_owned(), reason: error.to_string() },
        };
        let begin = Instant::now();
        let mut file = tokio::fs::File::open(path).await.map_err(fail)?;
        let mut buffer = vec![0; 256 << 10];
        let mut size_bytes = 0;
        loop {
            let read = self.in_time(file.read(&mut buffer)).await?.map_err(fail)?;
            if read == 0 {
                return Ok(Transferred { size_bytes, body: begin.elapsed() });
            }
            size_bytes += read as u64;
            self.check_limit(size_bytes)?;
            sink(&buffer[..read])?;
        }
    }

    fn check_limit(&self, size_bytes: u64) -> Result<(), MirrorError> {
        if size_bytes > self.limit_bytes {
            return Err(MirrorError::TooLarge { url: self.url.to_owned(), limit_bytes: self.limit_bytes });
        }
        Ok(())
    }

    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, MirrorError> {
        let mut future = pin!(future);
        let end = Instant::now() + self.stall;
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(MirrorError::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left.min(NOTICE), &mut future).await {
                Ok(outcome) => return Ok(outcome),
                Err(_) if left <= NOTICE => {
                    let seconds = self.stall.as_secs();
                    return Err(MirrorError::Stalled { url: self.url.to_owned(), seconds });
                }
                Err(_) => {}
            }
        }
    }

    fn connection(&self, error: &reqwest::Error) -> MirrorError {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        MirrorError::Connection { url: self.url.to_owned(), reason }
    }
}

/// Whether the answer goes on exactly where we stopped.
fn continues(response: &reqwest::Response, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let from = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    response.status().as_u16() == 206 && from == Some(start)
}

/// `file:/path`, `file:///path` or `file://localhost/path`, as apt writes them.
pub(crate) fn file_path(url: &str) -> Option<String> {
    let rest = url.strip_prefix("file:")?;
    let path = rest.strip_prefix("//").map_or(rest, |rest| rest.strip_prefix("localhost").unwrap_or(rest));
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
