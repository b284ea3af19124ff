//! Uploads: a blob goes to a registry, whole or in pieces that are gone on with.
//!
//! [`Repository::send_blob`] asks first whether the blob is there, then whether another repository of the same
//! registry may lend it, and only then sends bytes.
//!
//! Spec: OCI distribution-spec 1.1, "Pushing blobs".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use knarr_oci::Descriptor;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use reqwest::{Body, Method, Response};
use url::Url;

use crate::RegistryError;
use crate::client::endpoint::{Call, Payload, location};
use crate::client::repository::{Repository, continues, header, told_digest};
use crate::client::wire::{Moved, Wire};

/// Where a blob's bytes are.
pub(crate) enum Content<'a> {
    /// On this machine.
    Here(Bytes),
    /// At another registry; they pass through.
    There(&'a Repository),
}

/// How a blob came to be at the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Known,
    Mounted,
    Uploaded,
}

/// Where an upload goes on.
struct Session {
    location: Url,
    /// The smallest piece that the registry takes.
    min_bytes: u64,
}

/// A blob on its way.
pub(crate) struct Upload<'a> {
    pub to: &'a Repository,
    pub wire: &'a Wire,
    pub blob: &'a Descriptor,
    pub content: Content<'a>,
    /// Larger ones go in pieces, which can be gone on with.
    pub whole_bytes: u64,
    /// The size of pieces, until one breaks.
    pub chunk_bytes: u64,
    /// Is told how many bytes are out.
    pub tell: &'a (dyn Fn(u64) + Sync),
}

const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// A refused mount costs one request.
const MAX_MOUNTS: usize = 3;
/// Pieces do not become smaller than this; some registries take no smaller ones.
const MIN_PIECE_BYTES: u64 = 8 << 20;
/// How much a connection is given at once.
const SLICE_BYTES: usize = 1 << 20;

impl Upload<'_> {
    /// Sees to it that the registry has the blob. `mounts` are repositories of the same registry that may have it.
    pub(crate) async fn run(&self, mounts: &[String]) -> Result<Sent, RegistryError> {
        if self.to.has_blob(self.wire, self.blob).await? {
            return Ok(Sent::Known);
        }
        let mut session = None;
        for from in mounts.iter().take(MAX_MOUNTS) {
            if let Some(unused) = session.take() {
                self.forget(unused).await;
            }
            session = match self.mount(from).await {
                Ok(None) => return Ok(Sent::Mounted),
                Ok(session) => session,
                Err(RegistryError::Interrupted) => return Err(RegistryError::Interrupted),
                // Who must not read there can still send.
                Err(_) => None,
            };
        }
        self.send(session).await.map(|()| Sent::Uploaded)
    }

    async fn send(&self, mut session: Option<Session>) -> Result<(), RegistryError> {
        let (mut attempt, mut pieces) = (0, self.blob.size > self.whole_bytes);
        loop {
            let start = match session.take() {
                Some(session) => session,
                None => self.begin().await?,
            };
            let outcome = if pieces { self.in_pieces(start).await } else { self.whole(start).await };
            let error = match outcome {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let is_lost = matches!(error, RegistryError::NotFound { .. });
            let is_refused = pieces && matches!(error, RegistryError::Status { status: 400..=499, .. });
            if !(error.is_passing() || is_lost || is_refused) || attempt >= self.wire.retries {
                return Err(error);
            }
            // Registries that know no pieces, or lost count of them, take the whole.
            pieces &= !is_refused;
            self.wire.pause(attempt, error).await?;
            attempt += 1;
            if self.to.has_blob(self.wire, self.blob).await? {
                return Ok(());
            }
        }
    }

    /// Borrows the blob from another repository. Answers with a session when the registry does not lend it.
    async fn mount(&self, from: &str) -> Result<Option<Session>, RegistryError> {
        let mut call = self.to.call(Method::POST, "blobs/uploads/")?;
        let scopes = format!("{} {}", self.to.scope, self.to.endpoint.scope(from, "pull"));
        call.url
            .query_pairs_mut()
            .append_pair("mount", &self.blob.digest.to_string())
            .append_pair("from", from);
        call.scopes = &scopes;
        let response = self.to.endpoint.ask(self.wire, &call, &[201, 202]).await?;
        match response.status().as_u16() {
            201 => Ok(None),
            _ => session(&call.what(), &response).map(Some),
        }
    }

    async fn begin(&self) -> Result<Session, RegistryError> {
        let call = self.to.call(Method::POST, "blobs/uploads/")?;
        self.wire
            .retrying(async || {
                let response = self.to.endpoint.ask(self.wire, &call, &[202]).await?;
                session(&call.what(), &response)
            })
            .await
    }

    /// Tells the registry that an upload is not gone on with; it will find out by itself otherwise.
    async fn forget(&self, session: Session) {
        let call = Call::new(Method::DELETE, session.location, &self.to.scope);
        let _ = self.to.endpoint.send(self.wire, &call).await;
    }

    async fn whole(&self, session: Session) -> Result<(), RegistryError> {
        let url = self.final_url(session.location);
        self.put(url, Method::PUT, 0, self.blob.size, &[], &[201, 204])
            .await
            .and_then(|done| self.check(&done))
    }

    async fn in_pieces(&self, session: Session) -> Result<(), RegistryError> {
        let mut chunk = self.chunk_bytes.max(session.min_bytes).max(1);
        let (mut location, mut at, mut attempt) = (session.location, 0, 0);
        while at < self.blob.size {
            let end = self.blob.size.min(at.saturating_add(chunk));
            match self.piece(location.clone(), at, end).await {
                Ok((next, reached)) => (location, at, attempt) = (next, reached, 0),
                Err(error) if may_shrink(&error) && attempt < self.wire.retries => {
                    let error = self.wire.pause(attempt, error).await?;
                    attempt += 1;
                    // Some keep nothing of a piece that broke, and some take no large ones.
                    chunk = (chunk / 4).max(session.min_bytes).max(MIN_PIECE_BYTES.min(self.chunk_bytes));
                    (location, at) = match self.reached(location, at).await {
                        // A registry that threw the upload away said why before, such as a full disk.
                        Err(RegistryError::NotFound { .. }) if error.is_passing() => return Err(error),
                        outcome => outcome?,
                    };
                }
                Err(error) => return Err(error),
            }
        }
        let url = self.final_url(location);
        let call = Call::new(Method::PUT, url, &self.to.scope);
        let moved = Moved { bytes: Arc::default(), total_bytes: 0, tell: &|_| {} };
        let call = Call { moved: Some(&moved), ..call };
        let done =
            self.wire.retrying(async || self.to.endpoint.ask(self.wire, &call, &[201, 204]).await).await?;
        self.check(&done)
    }

    /// One piece. Answers where the next one goes, and where it begins.
    async fn piece(&self, location: Url, from: u64, to: u64) -> Result<(Url, u64), RegistryError> {
        let headers = [(CONTENT_RANGE, format!("{from}-{}", to - 1))];
        let response = self.put(location, Method::PATCH, from, to, &headers, &[202, 201, 204]).await?;
        let next = next(&response)?;
        // A registry that took a part of it says so.
        match range_end(&response) {
            Some(end) if end < to && end > from => Ok((next, end)),
            _ => Ok((next, to)),
        }
    }

    /// Asks how far a broken upload got.
    async fn reached(&self, location: Url, at: u64) -> Result<(Url, u64), RegistryError> {
        let call = Call::new(Method::GET, location, &self.to.scope);
        let response = self
            .wire
            .retrying(async || self.to.endpoint.ask(self.wire, &call, &[204, 200, 202]).await)
            .await?;
        let reached = range_end(&response).unwrap_or(at);
        if reached > self.blob.size {
            let reason = format!("the registry has {reached} bytes of a blob of {}", self.blob.size);
            return Err(RegistryError::Answer { what: call.what(), reason });
        }
        Ok((next(&response).unwrap_or(call.url), reached))
    }

    async fn put(
        &self,
        url: Url,
        method: Method,
        from: u64,
        to: u64,
        headers: &[(HeaderName, String)],
        expected: &[u16],
    ) -> Result<Response, RegistryError> {
        let count = Arc::new(AtomicU64::new(0));
        let tell = |sent: u64| (self.tell)(from + sent);
        let moved = Moved { bytes: Arc::clone(&count), total_bytes: to - from, tell: &tell };
        let passing = match &self.content {
            Content::Here(_) => None,
            Content::There(source) => Some(Mutex::new(Some(self.pass(source, from, to, &count).await?))),
        };
        let make = || match (&self.content, &passing) {
            (Content::Here(bytes), _) => {
                // A second try counts from the beginning.
                count.store(0, Ordering::Relaxed);
                Some(slices(bytes.slice(from as usize..to as usize), Arc::clone(&count)))
            }
            (_, Some(once)) => once.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        let mut call =
            Call::new(method, url, &self.to.scope).header(CONTENT_TYPE, "application/octet-stream");
        call.headers.extend_from_slice(headers);
        let call = Call { moved: Some(&moved), ..call.payload(Payload::Stream(to - from, &make)) };
        let response = self.to.endpoint.ask(self.wire, &call, expected).await?;
        (self.tell)(to);
        Ok(response)
    }

    /// Bytes from another registry, as they come.
    async fn pass(
        &self,
        source: &Repository,
        from: u64,
        to: u64,
        count: &Arc<AtomicU64>,
    ) -> Result<Body, RegistryError> {
        let end = (from > 0 || to < self.blob.size).then_some(to);
        let response = source.blob(self.wire, self.blob, from, end).await?;
        let is_range = response.status() == 206;
        if is_range && !continues(response.headers(), from) {
            let what = format!("blob {} of {}/{}", self.blob.digest, source.endpoint.name, source.name);
            let reason = format!("asked for bytes from {from} on, the registry sent others");
            return Err(RegistryError::Answer { what, reason });
        }
        // One that knows no ranges sends all of it each time.
        let skip = if is_range { 0 } else { from };
        Ok(counted(window(response.bytes_stream(), skip, to - from), Arc::clone(count)))
    }

    fn final_url(&self, mut location: Url) -> Url {
        location.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        location
    }

    fn check(&self, done: &Response) -> Result<(), RegistryError> {
        let what = format!("blob {} at {}/{}", self.blob.digest, self.to.endpoint.name, self.to.name);
        match told_digest(&what, done.headers())? {
            Some(told) if told != self.blob.digest => Err(RegistryError::WrongBytes {
                what,
                promised: self.blob.digest.to_string(),
                found: format!("{told} to the registry"),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a smaller piece may do what this one could not.
const fn may_shrink(error: &RegistryError) -> bool {
    error.is_passing() || matches!(error, RegistryError::Status { status: 413, .. })
}

fn session(what: &str, response: &Response) -> Result<Session, RegistryError> {
    let min = header(response.headers(), &MIN_CHUNK).and_then(|text| text.parse().ok());
    let bad =
        |reason| RegistryError::Answer { what: what.to_owned(), reason: format!("the answer {reason}") };
    Ok(Session { location: location(response).map_err(bad)?, min_bytes: min.unwrap_or(0) })
}

fn next(response: &Response) -> Result<Url, RegistryError> {
    session(crate::client::endpoint::shown(response.url()).as_str(), response).map(|session| session.location)
}

/// The number of bytes that `Range: 0-N` says are there. `0-0` is what some say for none: one byte is sent again.
fn range_end(response: &Response) -> Option<u64> {
    let text = header(response.headers(), &RANGE)?;
    let (start, end) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let end: u64 = end.trim().parse().ok().filter(|_| start.trim() == "0")?;
    Some(if end == 0 { 0 } else { end + 1 })
}

fn slices(bytes: Bytes, count: Arc<AtomicU64>) -> Body {
    let parts = stream::unfold(bytes, |mut rest| async move {
        let next = rest.split_to(rest.len().min(SLICE_BYTES));
        (!next.is_empty()).then_some((Ok::<_, reqwest::Error>(next), rest))
    });
    counted(parts, count)
}

fn counted(
    bytes: impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + 'static,
    count: Arc<AtomicU64>,
) -> Body {
    Body::wrap_stream(bytes.inspect_ok(move |chunk| {
        count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }))
}

/// A part of a stream.
fn window<E>(
    bytes: impl Stream<Item = Result<Bytes, E>>,
    skip: u64,
    take: u64,
) -> impl Stream<Item = Result<Bytes, E>> {
    bytes.scan((skip, take), |(skip, take), chunk| {
        let cut = chunk.map(|mut chunk| {
            let skipped = (chunk.len() as u64).min(*skip);
            chunk.advance(skipped as usize);
            *skip -= skipped;
            chunk.truncate((*take).min(chunk.len() as u64) as usize);
            *take -= chunk.len() as u64;
            chunk
        });
        let is_over = *take == 0 && cut.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready((!is_over).then_some(cut))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_window_is_cut_across_chunks() {
        let chunks = ["abc", "def", "ghi"].map(|text| Ok::<_, ()>(Bytes::from(text)));
        let cut = async |skip, take| {
            let parts: Vec<Bytes> =
                window(stream::iter(chunks.clone()), skip, take).try_collect().await.unwrap();
            String::from_utf8(parts.concat()).unwrap()
        };
        assert_eq!(cut(0, 9).await, "abcdefghi");
        assert_eq!(cut(2, 3).await, "cde");
        assert_eq!(cut(3, 3).await, "def");
        assert_eq!(cut(8, 5).await, "i");
    }
}
