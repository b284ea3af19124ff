//! One transfer: an address, a bound, and a sink for the bytes.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncReadExt;

use crate::MirrorError;

/// What a transfer needs to know.
pub(crate) struct Transfer<'a> {
    pub client: &'a reqwest::Client,
    pub url: &'a str,
    /// More bytes than this are an error.
    pub limit_bytes: u64,
    pub stall: Duration,
}

impl Transfer<'_> {
    /// Streams the bytes from `start` on into `sink`. When the server cannot resume, `restart` is
    /// called before the first byte.
    pub(crate) async fn run(
        &self,
        start: u64,
        restart: &mut (dyn FnMut() -> Result<(), MirrorError> + Send),
        sink: &mut (dyn FnMut(&[u8]) -> Result<(), MirrorError> + Send),
    ) -> Result<u64, MirrorError> {
        if let Some(path) = self.url.strip_prefix("file://") {
            if start > 0 {
                restart()?;
            }
            return self.run_file(path, sink).await;
        }
        let mut request = self.client.get(self.url);
        if start > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={start}-"));
        }
        let response = self.in_time(request.send()).await?.map_err(|error| self.connection(&error))?;
        let status = response.status().as_u16();
        if status != 200 && status != 206 {
            return Err(MirrorError::Status { url: self.url.to_owned(), status });
        }
        let mut size_bytes = start;
        if start > 0 && status == 200 {
            restart()?;
            size_bytes = 0;
        }
        let mut body = response.bytes_stream();
        while let Some(chunk) = self.in_time(body.next()).await? {
            let chunk = chunk.map_err(|error| self.connection(&error))?;
            size_bytes += chunk.len() as u64;
            self.check_limit(size_bytes)?;
            sink(&chunk)?;
        }
        Ok(size_bytes)
    }

    async fn run_file(
        &self,
        path: &str,
        sink: &mut (dyn FnMut(&[u8]) -> Result<(), MirrorError> + Send),
    ) -> Result<u64, MirrorError> {
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => MirrorError::Status { url: self.url.to_owned(), status: 404 },
            _ => MirrorError::Connection { url: self.url.to_owned(), reason: error.to_string() },
        };
        let mut file = tokio::fs::File::open(path).await.map_err(fail)?;
        let mut buffer = vec![0; 256 << 10];
        let mut size_bytes = 0;
        loop {
            let read = file.read(&mut buffer).await.map_err(fail)?;
            if read == 0 {
                return Ok(size_bytes);
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
        let outcome = tokio::time::timeout(self.stall, future).await;
        outcome.map_err(|_| MirrorError::Stalled { url: self.url.to_owned(), seconds: self.stall.as_secs() })
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
