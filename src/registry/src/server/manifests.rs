//! Manifests: sent, received, forgotten, and listed by tag, repository and subject.
//!
//! A manifest is taken only when all that it needs is in its repository: what has a tag is whole. The store's
//! index is changed in one step, so that nobody sees a tag between two images.
//!
//! Spec: OCI distribution-spec 1.1, "Pulling manifests", "Pushing Manifests", "Content Discovery",
//! "Content Management"; docs/formats/registry.md.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, annotation, manifest, media_type, reference};
use knarr_store::StoreError;
use knarr_store::gc::Reach;
use serde_json::json;

use super::body::{Content, Reply};
use super::refusal::Refusal;
use super::route::{Query, Repository, Version, parse_digest};
use super::service::{CONTENT_DIGEST, Call, Service, empty, json, set, text};
use super::view::{Links, Place};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// So many names are listed at once; a link leads to the next.
const MAX_LISTED: usize = 10_000;
const MAX_TAGS: usize = 100;

impl Service {
    pub(crate) fn get_manifest(
        &self,
        repository: &Repository,
        version: &Version,
        is_head: bool,
    ) -> Result<Reply, Refusal> {
        let found = self.find(repository, version)?;
        let mut bytes = Vec::new();
        let mut file = self.shelves.store.open_blob(found.digest)?;
        let path = self.shelves.store.blob_path(found.digest);
        file.by_ref()
            .take(MAX_MANIFEST_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::File { doing: "read", path, source })?;
        let length = bytes.len() as u64;
        let mut reply = Response::new(if is_head { Content::Length(length) } else { Content::from(bytes) });
        let headers = [
            (header::CONTENT_TYPE, found.media_type),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ETAG, format!("\"{}\"", found.digest)),
            (CONTENT_DIGEST, found.digest.to_string()),
        ];
        set(&mut reply, &headers)?;
        Ok(reply)
    }

    fn find(&self, repository: &Repository, version: &Version) -> Result<Descriptor, Refusal> {
        let view = self.shelves.view()?;
        if !view.has(repository) && !self.uploads.knows(repository) {
            return Err(Refusal::NameUnknown { name: repository.to_string() });
        }
        let found = match version {
            Version::Tag(tag) => view.tags(repository).and_then(|tags| tags.get(tag)).cloned(),
            Version::Digest(digest) => {
                self.shelves.contents(&view, repository)?.manifests.get(digest).cloned()
            }
            Version::Bad(_) => None,
        };
        let is_there = found.filter(|found| self.shelves.store.blob_size(found.digest).is_some());
        is_there.ok_or_else(|| unknown(repository, version))
    }

    /// PUT.
    pub(crate) async fn receive_manifest(
        self: Arc<Self>,
        repository: Repository,
        version: Version,
        call: Call<'_>,
    ) -> Result<Reply, Refusal> {
        let kind = text(call.head, header::CONTENT_TYPE)
            .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let promised = text(call.head, header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let too_large = || Refusal::ManifestTooLarge { limit_bytes: MAX_MANIFEST_BYTES };
        if promised.is_some_and(|length| length > MAX_MANIFEST_BYTES) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        loop {
            let frame = tokio::time::timeout(self.stall, call.body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::Stalled)? else { break };
            if let Ok(data) = frame.map_err(|_| Refusal::BrokenOff)?.into_data() {
                *call.received += data.len() as u64;
                bytes.extend_from_slice(&data);
            }
            if bytes.len() as u64 > MAX_MANIFEST_BYTES {
                return Err(too_large());
            }
        }
        let tags = asked_tags(&version, &call.query)?;
        self.blocking(move |own| own.put_manifest(&repository, &version, &tags, kind.as_deref(), &bytes))
            .await
    }

    fn put_manifest(
        &self,
        repository: &Repository,
        version: &Version,
        tags: &[String],
        kind: Option<&str>,
        bytes: &[u8],
    ) -> Result<Reply, Refusal> {
        let mut descriptor = Descriptor::of(&kind_of(kind, bytes)?, bytes);
        if let Version::Digest(promised) = version
            && *promised != descriptor.digest
        {
            return Err(Refusal::DigestMismatch { promised: *promised, found: descriptor.digest });
        }
        let links = Links::parse(&descriptor, bytes).map_err(|error| invalid(&error))?;
        // From here until it has its place nothing is removed.
        let ingest = self.shelves.store.ingest()?;
        self.check(repository, &links)?;
        ingest.put(&descriptor.media_type, bytes)?;
        self.check_readable(&descriptor)?;
        descriptor.artifact_type = artifact_type(bytes);
        self.place(repository, tags, &descriptor)?;
        self.uploads.touch();
        let mut headers = vec![
            (header::LOCATION, format!("/v2/{repository}/manifests/{}", descriptor.digest)),
            (CONTENT_DIGEST, descriptor.digest.to_string()),
        ];
        if let Some((subject, _)) = &links.subject {
            headers.push((SUBJECT, subject.to_string()));
        }
        if matches!(version, Version::Digest(_)) {
            headers.extend(tags.iter().map(|tag| (TAG, tag.clone())));
        }
        empty(StatusCode::CREATED, &headers)
    }

    /// Whether all that a manifest needs is in its repository, with the sizes that it says.
    fn check(&self, repository: &Repository, links: &Links) -> Result<(), Refusal> {
        let view = self.shelves.view()?;
        let contents = self.shelves.contents(&view, repository)?;
        let mut missing = Vec::new();
        for blob in &links.blobs {
            let is_ours =
                contents.blobs.contains(&blob.digest) || self.uploads.holds(repository, blob.digest);
            if is_ours {
                self.uploads.restore(blob.digest)?;
            }
            match self.shelves.store.blob_size(blob.digest).filter(|_| is_ours) {
                None if is_foreign(blob) => {}
                None => missing.push(blob.digest),
                Some(size) => check_size(blob, size)?,
            }
        }
        for child in &links.children {
            let is_ours = contents.manifests.contains_key(&child.digest)
                || (self.uploads.holds(repository, child.digest) && !is_manifest(&child.media_type));
            match self.shelves.store.blob_size(child.digest).filter(|_| is_ours) {
                None => missing.push(child.digest),
                Some(size) => check_size(child, size)?,
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Refusal::ManifestBlobUnknown { repository: repository.to_string(), missing })
    }

    /// Whoever collects garbage must be able to read every manifest that has a place.
    fn check_readable(&self, descriptor: &Descriptor) -> Result<(), Refusal> {
        match Reach::default().add(&self.shelves.store, descriptor) {
            Err(error @ StoreError::File { .. }) => Err(error.into()),
            Err(error) => Err(invalid(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// Gives a manifest its tags; without any it is known by its digest.
    fn place(
        &self,
        repository: &Repository,
        tags: &[String],
        descriptor: &Descriptor,
    ) -> Result<(), Refusal> {
        let names = tags
            .iter()
            .map(|tag| repository.store_name(tag).map(|name| (tag, name)))
            .collect::<Result<Vec<_>, _>>()?;
        self.shelves.store.edit(|index| {
            let manifests = &mut index.manifests;
            for (tag, name) in &names {
                put_tag(manifests, repository, tag, name, descriptor);
            }
            if names.is_empty() && !has(manifests, repository, descriptor.digest) {
                manifests.push(untagged(descriptor, repository));
            }
            Ok(())
        })?;
        Ok(())
    }

    pub(crate) fn delete_manifest(
        &self,
        repository: &Repository,
        version: &Version,
    ) -> Result<Reply, Refusal> {
        let found = self.find(repository, version)?;
        if let Version::Digest(digest) = version {
            let view = self.shelves.view()?;
            if self.shelves.contents(&view, repository)?.listed.contains(digest) {
                return Err(Refusal::Unsupported {
                    reason: format!("an index of repository {repository} lists {digest}: delete it first"),
                });
            }
        }
        self.shelves.store.edit(|index| {
            let manifests = &mut index.manifests;
            match version {
                Version::Tag(tag) => drop_tag(manifests, repository, tag),
                _ => manifests.retain(|entry| {
                    let place = Place::of(entry);
                    entry.digest != found.digest || !(place.is_in(repository) || place == Place::Loose)
                }),
            }
            Ok(())
        })?;
        self.uploads.touch();
        empty(StatusCode::ACCEPTED, &[(header::CONTENT_LENGTH, "0".to_owned())])
    }

    pub(crate) fn list_tags(&self, repository: &Repository, query: &Query) -> Result<Reply, Refusal> {
        let view = self.shelves.view()?;
        if !view.has(repository) && !self.uploads.knows(repository) {
            return Err(Refusal::NameUnknown { name: repository.to_string() });
        }
        let tags = view.tags(repository).into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        let (tags, more) = page(tags, query)?;
        let mut reply = json(json!({ "name": repository.as_str(), "tags": tags }).to_string());
        link(&mut reply, &format!("/v2/{repository}/tags/list"), &tags, more)?;
        Ok(reply)
    }

    pub(crate) fn catalog(&self, query: &Query) -> Result<Reply, Refusal> {
        let view = self.shelves.view()?;
        let names = view.repositories();
        let (names, more) = page(names.iter().map(|name| name.as_str()), query)?;
        let mut reply = json(json!({ "repositories": names }).to_string());
        link(&mut reply, "/v2/_catalog", &names, more)?;
        Ok(reply)
    }

    pub(crate) fn list_referrers(
        &self,
        repository: &Repository,
        digest: &str,
        query: &Query,
    ) -> Result<Reply, Refusal> {
        let subject = parse_digest(digest)?;
        let view = self.shelves.view()?;
        let contents = self.shelves.contents(&view, repository)?;
        let mut found = contents.referrers.get(&subject).cloned().unwrap_or_default();
        found.sort_by_key(|referrer| referrer.digest);
        // A plus sign that was not encoded reads as a space, which media types do not have.
        let filter = query.get("artifactType").map(|kind| kind.replace(' ', "+"));
        if let Some(filter) = &filter {
            found.retain(|referrer| referrer.artifact_type.as_ref() == Some(filter));
        }
        let mut reply = Response::new(Content::from(ImageIndex::of(found).to_bytes()));
        set(&mut reply, &[(header::CONTENT_TYPE, media_type::INDEX.to_owned())])?;
        if filter.is_some() {
            set(&mut reply, &[(FILTERS, "artifactType".to_owned())])?;
        }
        Ok(reply)
    }
}

fn unknown(repository: &Repository, version: &Version) -> Refusal {
    let reference = version.to_string().chars().take(300).collect();
    Refusal::ManifestUnknown { repository: repository.to_string(), reference }
}

fn invalid(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::ManifestInvalid { reason: error.to_string() }
}

/// The tags that a manifest is to have.
fn asked_tags(version: &Version, query: &Query) -> Result<Vec<String>, Refusal> {
    match version {
        Version::Tag(tag) => Ok(vec![tag.clone()]),
        Version::Bad(text) if text.contains(':') => Err(Refusal::DigestInvalid { found: text.clone() }),
        Version::Bad(text) => Err(Refusal::ManifestInvalid { reason: format!("{text:?} is no tag") }),
        Version::Digest(_) => {
            let tags: Vec<String> = query.all("tag").take(MAX_TAGS).map(str::to_owned).collect();
            match tags.iter().find(|tag| !reference::is_tag(tag)) {
                Some(bad) => Err(Refusal::ManifestInvalid { reason: format!("{bad:?} is no tag") }),
                None => Ok(tags),
            }
        }
    }
}

/// What a document is: what the client says, if the document says nothing else.
fn kind_of(given: Option<&str>, bytes: &[u8]) -> Result<String, Refusal> {
    let sniffed = manifest::sniff(bytes);
    let kind = match given {
        Some(given) if is_manifest(given) => given,
        Some(given) if given != "application/json" && given != "application/octet-stream" => {
            return Err(Refusal::ManifestInvalid {
                reason: format!("{given:?} is no type of manifest that this registry keeps"),
            });
        }
        _ => sniffed.ok_or_else(|| Refusal::ManifestInvalid {
            reason: "the document is no manifest, and no Content-Type says otherwise".to_owned(),
        })?,
    };
    match declared(bytes) {
        Some(declared) if declared != kind => Err(Refusal::ManifestInvalid {
            reason: format!("the document says it is {declared:?}, its Content-Type {kind:?}"),
        }),
        _ => Ok(kind.to_owned()),
    }
}

fn is_manifest(kind: &str) -> bool {
    media_type::is_index(kind) || media_type::is_manifest(kind)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    media_type: Option<String>,
    artifact_type: Option<String>,
}

fn declared(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<Head>(bytes).ok()?.media_type.filter(|kind| !kind.is_empty())
}

fn artifact_type(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<Head>(bytes).ok()?.artifact_type.filter(|kind| !kind.is_empty())
}

/// Layers that registries do not pass on.
fn is_foreign(layer: &Descriptor) -> bool {
    layer.media_type.contains(".nondistributable.") || layer.media_type.contains(".foreign.")
}

fn check_size(blob: &Descriptor, size: u64) -> Result<(), Refusal> {
    if blob.size == size {
        return Ok(());
    }
    Err(Refusal::ManifestInvalid {
        reason: format!("it says {} has {} bytes, it has {size}", blob.digest, blob.size),
    })
}

fn has(manifests: &[Descriptor], repository: &Repository, digest: Digest) -> bool {
    manifests.iter().any(|entry| entry.digest == digest && Place::of(entry).is_in(repository))
}

fn untagged(descriptor: &Descriptor, repository: &Repository) -> Descriptor {
    let mut entry = descriptor.clone();
    entry.annotations.remove(annotation::REF_NAME);
    entry.annotations.insert(annotation::REPOSITORY.to_owned(), repository.to_string());
    entry
}

/// Whoever had the tag stays in the repository, without it.
fn drop_tag(manifests: &mut Vec<Descriptor>, repository: &Repository, tag: &str) {
    let wanted = Place::Tag(repository.clone(), tag.to_owned());
    let Some(at) = manifests.iter().position(|entry| Place::of(entry) == wanted) else { return };
    let old = manifests.remove(at);
    if !has(manifests, repository, old.digest) {
        manifests.push(untagged(&old, repository));
    }
}

fn put_tag(
    manifests: &mut Vec<Descriptor>,
    repository: &Repository,
    tag: &str,
    name: &str,
    descriptor: &Descriptor,
) {
    drop_tag(manifests, repository, tag);
    // An entry without a tag is one of a manifest that has lost its tag, or never had one.
    manifests.retain(|entry| {
        let place = Place::of(entry);
        let is_tagless = place == Place::Loose || (place.is_in(repository) && entry.ref_name().is_none());
        entry.digest != descriptor.digest || !is_tagless
    });
    let mut entry = descriptor.clone();
    entry.annotations.insert(annotation::REF_NAME.to_owned(), name.to_owned());
    manifests.push(entry);
}

/// The names behind `last`, `n` of them, and whether there are more.
fn page<'a>(names: impl Iterator<Item = &'a str>, query: &Query) -> Result<(Vec<&'a str>, bool), Refusal> {
    let count = match query.get("n") {
        None => MAX_LISTED,
        Some(n) => n.parse::<usize>().map_err(|_| Refusal::SizeInvalid {
            reason: format!("n is {:?}, expected a number", n.chars().take(50).collect::<String>()),
        })?,
    };
    let last = query.get("last").unwrap_or_default();
    let mut names = names.skip_while(|name| !last.is_empty() && *name <= last);
    let listed: Vec<&str> = names.by_ref().take(count.min(MAX_LISTED)).collect();
    let more = count > 0 && names.next().is_some();
    Ok((listed, more))
}

/// Names are made of characters that need no encoding.
fn link(reply: &mut Reply, path: &str, listed: &[&str], more: bool) -> Result<(), Refusal> {
    match listed.last() {
        Some(last) if more => {
            let last = last.replace('/', "%2F");
            let target = format!("<{path}?n={}&last={last}>; rel=\"next\"", listed.len());
            set(reply, &[(header::LINK, target)])
        }
        _ => Ok(()),
    }
}
