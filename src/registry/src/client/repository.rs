//! One repository at one registry: its manifests, blobs, referrers and tags.
//!
//! [`Repository`] has a method per request of the specification; what is done with the answers is decided by
//! pulls and pushes.
//!
//! Spec: OCI distribution-spec 1.1, "Endpoints".

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, manifest, media_type};
use knarr_store::Partial;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, LINK, RANGE};
use reqwest::{Method, Response};
use tokio::sync::mpsc::Sender;
use url::Url;

use crate::RegistryError;
use crate::client::endpoint::{Call, Endpoint, Payload, read, shown};
use crate::client::host::same_origin;
use crate::client::wire::{Wire, connection};

/// A repository of a registry or of its mirror.
pub(crate) struct Repository {
    pub endpoint: Arc<Endpoint>,
    pub name: String,
    /// What a token must allow.
    pub scope: String,
    /// It could not be reached: others are asked first and only.
    pub is_gone: AtomicBool,
}

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Answers in pages end after so many.
const MAX_PAGES: usize = 1000;
/// Referrers of one manifest that are listened to.
const MAX_REFERRERS: usize = 1000;

/// Is given each page with its address.
type TakePage<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<(), RegistryError>;

impl Repository {
    pub(crate) fn new(endpoint: Arc<Endpoint>, name: &str, actions: &str) -> Self {
        let scope = endpoint.scope(name, actions);
        Self { endpoint, name: name.to_owned(), scope, is_gone: AtomicBool::new(false) }
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Result<Call<'_>, RegistryError> {
        Ok(Call::new(method, self.endpoint.repository_url(&self.name, path)?, &self.scope))
    }

    /// The digest of what has a tag or digest, without fetching it. `None` where there is nothing, or no digest is told.
    pub(crate) async fn head(&self, wire: &Wire, version: &str) -> Result<Option<Digest>, RegistryError> {
        let call = self.call(Method::HEAD, &format!("manifests/{version}"))?.header(ACCEPT, accepted());
        wire.retrying(async || match self.endpoint.ask(wire, &call, &[200]).await {
            Ok(response) => told_digest(&call.what(), response.headers()),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// A manifest or index, which must have this digest if one is given.
    pub(crate) async fn manifest(
        &self,
        wire: &Wire,
        version: &str,
        promised: Option<Digest>,
    ) -> Result<(Descriptor, Bytes), RegistryError> {
        let call = self.call(Method::GET, &format!("manifests/{version}"))?.header(ACCEPT, accepted());
        let what = call.what();
        wire.retrying(async || {
            let response = self.endpoint.ask(wire, &call, &[200]).await?;
            let told = told_digest(&what, response.headers())?;
            let kind = header(response.headers(), &CONTENT_TYPE).unwrap_or_default().to_owned();
            let bytes = read(wire, response, &what, MAX_MANIFEST_BYTES).await?;
            let found = Digest::of(&bytes);
            if let Some(promised) = promised.or(told).filter(|promised| *promised != found) {
                return Err(RegistryError::WrongBytes {
                    what: what.clone(),
                    promised: promised.to_string(),
                    found: format!("{found}, {} bytes", bytes.len()),
                });
            }
            Ok((Descriptor::new(media_type_of(&what, &kind, &bytes)?, found, bytes.len() as u64), bytes))
        })
        .await
    }

    /// What a descriptor of an index points to; all that it promises is checked.
    pub(crate) async fn listed(&self, wire: &Wire, entry: &Descriptor) -> Result<Bytes, RegistryError> {
        let (found, bytes) = self.manifest(wire, &entry.digest.to_string(), Some(entry.digest)).await?;
        if (found.size, &found.media_type) != (entry.size, &entry.media_type) {
            return Err(RegistryError::WrongBytes {
                what: format!("manifest {} of {}", entry.digest, self.name),
                promised: format!("{}, {} bytes", entry.media_type, entry.size),
                found: format!("{}, {} bytes", found.media_type, found.size),
            });
        }
        Ok(bytes)
    }

    /// Whether a blob is there.
    pub(crate) async fn has_blob(&self, wire: &Wire, blob: &Descriptor) -> Result<bool, RegistryError> {
        let call = self.call(Method::HEAD, &format!("blobs/{}", blob.digest))?;
        wire.retrying(async || match self.endpoint.ask(wire, &call, &[200]).await {
            Ok(response) => {
                let length = header(response.headers(), &reqwest::header::CONTENT_LENGTH);
                // One of another size is broken there: sending it again may mend it.
                Ok(length
                    .and_then(|length| length.parse().ok())
                    .is_none_or(|length: u64| length == blob.size))
            }
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    /// Asks for a blob from `start` on.
    pub(crate) async fn blob(
        &self,
        wire: &Wire,
        blob: &Descriptor,
        start: u64,
        end: Option<u64>,
    ) -> Result<Response, RegistryError> {
        let mut call = self.call(Method::GET, &format!("blobs/{}", blob.digest))?;
        if start > 0 || end.is_some() {
            let last = end.map_or_else(String::new, |end| (end - 1).to_string());
            call = call.header(RANGE, format!("bytes={start}-{last}"));
        }
        self.endpoint.ask(wire, &call, if start > 0 || end.is_some() { &[200, 206] } else { &[200] }).await
    }

    /// Asks for what is missing of a blob; `None` when nothing is.
    pub(crate) async fn open(
        &self,
        wire: &Wire,
        partial: &mut Partial<'_>,
    ) -> Result<Option<Coming>, RegistryError> {
        let blob = partial.promised().clone();
        let what = shown(&self.endpoint.repository_url(&self.name, &format!("blobs/{}", blob.digest))?);
        let start = partial.size_bytes();
        if start == blob.size {
            return Ok(None);
        }
        let response = match self.blob(wire, &blob, start, None).await {
            // There is no such range: then nothing of what is here can be trusted.
            Err(RegistryError::Status { status: 416, .. }) if start > 0 => {
                partial.restart()?;
                self.blob(wire, &blob, 0, None).await?
            }
            response => response?,
        };
        if response.status() == 206 && !continues(response.headers(), partial.size_bytes()) {
            let reason = format!("asked for bytes from {start} on, the registry sent others");
            return Err(RegistryError::Answer { what, reason });
        }
        if response.status() == 200 {
            partial.restart()?;
        }
        let coming = Coming { what, response, at: partial.size_bytes(), size: blob.size };
        let told = coming.response.content_length().map(|length| coming.at.saturating_add(length));
        match told.filter(|told| *told != blob.size) {
            Some(told) => Err(coming.wrong(format!("{told} bytes"))),
            None => Ok(Some(coming)),
        }
    }

    /// Puts a manifest. Answers whether the registry lists by itself what speaks of another one.
    pub(crate) async fn put_manifest(
        &self,
        wire: &Wire,
        version: &str,
        kind: &str,
        bytes: &Bytes,
    ) -> Result<bool, RegistryError> {
        let call = self.call(Method::PUT, &format!("manifests/{version}"))?;
        let call = call.header(CONTENT_TYPE, kind).payload(Payload::Bytes(bytes.clone()));
        let what = call.what();
        wire.retrying(async || {
            let response = self.endpoint.ask(wire, &call, &[201, 200, 202, 204]).await?;
            let (found, told) = (Digest::of(bytes), told_digest(&what, response.headers())?);
            match told.filter(|told| *told != found) {
                Some(told) => Err(RegistryError::WrongBytes {
                    what: what.clone(),
                    promised: found.to_string(),
                    found: format!("{told} to the registry"),
                }),
                None => Ok(response.headers().contains_key(SUBJECT)),
            }
        })
        .await
    }

    /// What speaks of a manifest, by the registry's own list, or by that of the tag that stands for it.
    pub(crate) async fn referrers(&self, wire: &Wire, of: Digest) -> Result<Vec<Descriptor>, RegistryError> {
        match self.listed_referrers(wire, of).await {
            Err(RegistryError::NotFound { .. } | RegistryError::Status { status: 400 | 405, .. }) => {
                Ok(self.tagged_referrers(wire, of).await?.map_or_else(Vec::new, |index| index.manifests))
            }
            found => found,
        }
    }

    async fn listed_referrers(&self, wire: &Wire, of: Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = Vec::new();
        let first = self.endpoint.repository_url(&self.name, &format!("referrers/{of}"))?;
        self.pages(wire, first, &self.scope, &mut |what, bytes| {
            let index = ImageIndex::parse(bytes)?;
            found.extend(index.manifests);
            too_many(what, found.len(), MAX_REFERRERS, "referrers")
        })
        .await?;
        Ok(found)
    }

    /// The index of a manifest's tag, such as `sha256-…`, where the registry has no list.
    pub(crate) async fn tagged_referrers(
        &self,
        wire: &Wire,
        of: Digest,
    ) -> Result<Option<ImageIndex>, RegistryError> {
        let (descriptor, bytes) = match self.manifest(wire, &referrers_tag(of), None).await {
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            found => found?,
        };
        if !media_type::is_index(&descriptor.media_type) {
            return Ok(None);
        }
        let index = ImageIndex::parse(&bytes)?;
        too_many(&referrers_tag(of), index.manifests.len(), MAX_REFERRERS, "referrers")?;
        Ok(Some(index))
    }

    /// Reads an answer that comes in pages.
    pub(crate) async fn pages(
        &self,
        wire: &Wire,
        first: Url,
        scopes: &str,
        take: TakePage<'_>,
    ) -> Result<(), RegistryError> {
        let mut url = first;
        for _ in 0..MAX_PAGES {
            let call = Call::new(Method::GET, url.clone(), scopes);
            let what = call.what();
            let (next, bytes) = wire
                .retrying(async || {
                    let response = self.endpoint.ask(wire, &call, &[200]).await?;
                    let next = header(response.headers(), &LINK).and_then(|link| next_page(&url, link));
                    Ok((next, read(wire, response, &what, MAX_MANIFEST_BYTES).await?))
                })
                .await?;
            take(&what, &bytes)?;
            match next {
                Some(next) if next != url && same_origin(&next, &url) => url = next,
                Some(next) => {
                    let reason = format!("its next page is {}, which is no page of it", shown(&next));
                    return Err(RegistryError::Answer { what, reason });
                }
                None => return Ok(()),
            }
        }
        Err(RegistryError::Answer {
            what: shown(&url),
            reason: format!("it has more than {MAX_PAGES} pages"),
        })
    }
}

/// A blob that begins to come.
pub(crate) struct Coming {
    what: String,
    response: Response,
    at: u64,
    size: u64,
}

impl Coming {
    fn wrong(&self, found: String) -> RegistryError {
        let promised = format!("{} bytes", self.size);
        RegistryError::WrongBytes { what: self.what.clone(), promised, found }
    }

    /// Hands on the bytes as they come, as many as were promised. Who does not take them any more has its own reasons.
    pub(crate) async fn drain(mut self, wire: &Wire, out: Sender<Bytes>) -> Result<(), RegistryError> {
        while let Some(chunk) = wire.in_time(&self.what, self.response.chunk()).await?.transpose() {
            let chunk = chunk.map_err(|error| connection(&self.what, &error))?;
            self.at += chunk.len() as u64;
            if self.at > self.size {
                return Err(self.wrong(format!("more than {} bytes", self.size)));
            }
            if out.send(chunk).await.is_err() {
                return Ok(());
            }
        }
        if self.at < self.size { Err(self.wrong(format!("{} bytes", self.at))) } else { Ok(()) }
    }
}

/// The tag under which what speaks of a manifest is listed where the registry has no list.
pub(crate) fn referrers_tag(of: Digest) -> String {
    format!("sha256-{}", of.hex())
}

pub(crate) fn too_many(what: &str, found: usize, limit: usize, of: &str) -> Result<(), RegistryError> {
    if found <= limit {
        return Ok(());
    }
    let reason = format!("it lists more than {limit} {of}");
    Err(RegistryError::Answer { what: what.to_owned(), reason })
}

fn accepted() -> String {
    [media_type::MANIFEST, media_type::INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_INDEX]
        .join(", ")
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
}

/// The digest that the registry says it is.
pub(crate) fn told_digest(what: &str, headers: &HeaderMap) -> Result<Option<Digest>, RegistryError> {
    let Some(text) = header(headers, &DIGEST) else { return Ok(None) };
    // Others than SHA-256 say nothing to us.
    if !text.starts_with("sha256:") {
        return Ok(None);
    }
    let bad = |_| RegistryError::Answer { what: what.to_owned(), reason: format!("its digest is {text:?}") };
    text.parse().map(Some).map_err(bad)
}

/// What a document is: its own word and the registry's must be one.
fn media_type_of(what: &str, told: &str, bytes: &[u8]) -> Result<&'static str, RegistryError> {
    let told = told.split(';').next().unwrap_or_default().trim();
    let own = manifest::sniff(bytes);
    let known = |kind: &str| media_type::is_index(kind) || media_type::is_manifest(kind);
    let answer = |reason: String| RegistryError::Answer { what: what.to_owned(), reason };
    match own {
        None => Err(answer(format!("expected a manifest or an index, found {told:?}"))),
        Some(own) if known(told) && media_type::is_index(told) != media_type::is_index(own) => {
            Err(answer(format!("the registry calls it {told}, it calls itself {own}")))
        }
        Some(own) => Ok(own),
    }
}

/// Whether an answer goes on exactly where we stopped.
pub(crate) fn continues(headers: &HeaderMap, start: u64) -> bool {
    let range = header(headers, &CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
    let from = range.and_then(|range| range.split_once('-')?.0.trim().parse().ok());
    from == Some(start)
}

/// The address of `Link: <…>; rel="next"`.
fn next_page(base: &Url, link: &str) -> Option<Url> {
    link.split(',').find_map(|one| {
        let (address, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
            name.eq_ignore_ascii_case("rel") && value.trim_matches('"') == "next"
        });
        is_next.then(|| base.join(address).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let base = Url::parse("http://a/v2/x/tags/list?n=2").unwrap();
        let next = |link: &str| next_page(&base, link).map(|url| url.to_string());
        assert_eq!(
            next("</v2/x/tags/list?n=2&last=b>; rel=\"next\"").as_deref(),
            Some("http://a/v2/x/tags/list?n=2&last=b")
        );
        assert_eq!(
            next("<y>; rel=prev, <?last=c>; rel=next").as_deref(),
            Some("http://a/v2/x/tags/list?last=c")
        );
        assert_eq!(next("<y>; rel=\"prev\""), None);
        assert_eq!(next("nonsense"), None);
    }

    #[test]
    fn a_document_that_is_called_something_else_is_refused() {
        let index = ImageIndex::of(Vec::new()).to_bytes();
        assert_eq!(media_type_of("x", "", &index).unwrap(), media_type::INDEX);
        assert_eq!(media_type_of("x", "application/json; charset=utf-8", &index).unwrap(), media_type::INDEX);
        assert!(media_type_of("x", media_type::MANIFEST, &index).is_err());
        assert!(media_type_of("x", "text/html", b"<html>").is_err());
    }
}
