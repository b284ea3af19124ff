//! Blobs: sent, received in one piece or in chunks, mounted, let go.
//!
//! Spec: OCI distribution-spec 1.1, "Pulling blobs", "Pushing blobs", "Deleting Blobs".

use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{Response, StatusCode};
use knarr_base::Digest;
use knarr_store::StoreError;

use super::auth::Action;
use super::body::{Content, FileContent, Reply};
use super::range::{Chunk, Wanted};
use super::refusal::Refusal;
use super::route::{Repository, is_other_digest, parse_digest};
use super::service::{CONTENT_DIGEST, Call, Service, empty, set, text};
use super::uploads::Session;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Service {
    /// Whether a repository has a blob: one of its manifests needs it, or it came in lately.
    pub(crate) fn has_blob(&self, repository: &Repository, digest: Digest) -> Result<bool, StoreError> {
        if self.uploads.holds(repository, digest) {
            return Ok(true);
        }
        let view = self.shelves.view()?;
        Ok(view.has(repository) && self.shelves.contents(&view, repository)?.blobs.contains(&digest))
    }

    pub(crate) fn get_blob(
        &self,
        repository: &Repository,
        digest: &str,
        range: Option<&str>,
        is_head: bool,
    ) -> Result<Reply, Refusal> {
        let unknown =
            || Refusal::BlobUnknown { repository: repository.to_string(), digest: digest.to_owned() };
        if is_other_digest(digest) {
            return Err(unknown());
        }
        let digest = parse_digest(digest)?;
        if !self.has_blob(repository, digest)? {
            return Err(unknown());
        }
        let mut file = match self.uploads.open_blob(digest) {
            Err(StoreError::MissingBlob { .. }) => return Err(unknown()),
            outcome => outcome?,
        };
        let path = || self.shelves.store.blob_path(digest);
        let failed = |source| StoreError::File { doing: "read", path: path(), source };
        let size = file.metadata().map_err(failed)?.len();
        let wanted = range.filter(|_| !is_head).map_or(Wanted::All, |range| Wanted::parse(range, size));
        let (start, length) = match wanted {
            Wanted::All => (0, size),
            Wanted::Part { start, length } => (start, length),
            Wanted::Outside => return Err(Refusal::RangeOutside { size }),
        };
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let content =
            if is_head { Content::Length(length) } else { Content::File(FileContent::new(file, length)) };
        let mut reply = Response::new(content);
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, format!("\"{digest}\"")),
            (CONTENT_DIGEST, digest.to_string()),
        ];
        set(&mut reply, &headers)?;
        if wanted != Wanted::All {
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            let part = format!("bytes {start}-{}/{size}", start + length - 1);
            set(&mut reply, &[(header::CONTENT_RANGE, part)])?;
        }
        Ok(reply)
    }

    pub(crate) fn delete_blob(&self, repository: &Repository, digest: &str) -> Result<Reply, Refusal> {
        let unknown =
            || Refusal::BlobUnknown { repository: repository.to_string(), digest: digest.to_owned() };
        if is_other_digest(digest) {
            return Err(unknown());
        }
        let parsed = parse_digest(digest)?;
        let view = self.shelves.view()?;
        if self.shelves.contents(&view, repository)?.blobs.contains(&parsed) {
            return Err(Refusal::Unsupported {
                reason: format!("a manifest of repository {repository} needs {parsed}: delete it first"),
            });
        }
        if !self.uploads.release(repository, parsed) {
            return Err(unknown());
        }
        empty(StatusCode::ACCEPTED, &[(header::CONTENT_LENGTH, "0".to_owned())])
    }

    /// POST: a mount, a whole blob, or the beginning of one.
    pub(crate) async fn begin_upload(
        self: Arc<Self>,
        repository: Repository,
        call: Call<'_>,
    ) -> Result<Reply, Refusal> {
        if let Some(kind) = call.query.get("digest-algorithm")
            && kind != "sha256"
        {
            return Err(Refusal::DigestInvalid { found: kind.chars().take(100).collect() });
        }
        if let Some(mount) = call.query.get("mount") {
            let digest = parse_digest(mount)?;
            let from = call.query.get("from").map(Repository::parse).transpose()?;
            let is_allowed = from.as_ref().map_or_else(
                || call.caller.sees_everything(),
                |from| self.gate.may(&call.caller, from, Action::Pull),
            );
            let name = repository.clone();
            if is_allowed && Arc::clone(&self).blocking(move |own| own.mount(&name, from, digest)).await? {
                return created(&repository, digest);
            }
        }
        let promised = call.query.get("digest").map(parse_digest).transpose()?;
        let name = repository.clone();
        let session = Arc::clone(&self).blocking(move |own| own.uploads.begin(&name)).await?;
        match promised {
            None => accepted(&session, StatusCode::ACCEPTED),
            Some(digest) => self.receive_whole(&session, digest, call).await,
        }
    }

    /// A blob in one request leaves nothing when it fails.
    async fn receive_whole(
        self: Arc<Self>,
        session: &Arc<Session>,
        digest: Digest,
        call: Call<'_>,
    ) -> Result<Reply, Refusal> {
        let _cleaner = Cleaner { service: &self, session };
        let turn = self.uploads.append(session, None, call.body, call.received).await?;
        let own = Arc::clone(session);
        Arc::clone(&self).blocking(move |service| service.uploads.finish(&own, turn, digest)).await?;
        created(&session.repository, digest)
    }

    /// Makes a blob of another repository one of this, too. Answers whether it could be done.
    fn mount(
        &self,
        repository: &Repository,
        from: Option<Repository>,
        digest: Digest,
    ) -> Result<bool, Refusal> {
        let is_there = match from {
            Some(from) => self.has_blob(&from, digest)?,
            None => true,
        };
        if !is_there {
            return Ok(false);
        }
        self.uploads.restore(digest)?;
        let path = self.shelves.store.blob_path(digest);
        Ok(path.exists() && self.uploads.hold(repository, digest, &path).is_ok())
    }

    /// PATCH.
    pub(crate) async fn receive_chunk(
        &self,
        repository: &Repository,
        id: &str,
        call: Call<'_>,
    ) -> Result<Reply, Refusal> {
        let session = self.uploads.session(repository, id)?;
        let chunk = chunk(&call)?;
        drop(self.uploads.append(&session, chunk, call.body, call.received).await?);
        accepted(&session, StatusCode::ACCEPTED)
    }

    /// PUT.
    pub(crate) async fn finish_upload(
        self: Arc<Self>,
        repository: &Repository,
        id: &str,
        call: Call<'_>,
    ) -> Result<Reply, Refusal> {
        let session = self.uploads.session(repository, id)?;
        let digest = parse_digest(call.query.get("digest").unwrap_or_default())?;
        let chunk = chunk(&call)?;
        let turn = self.uploads.append(&session, chunk, call.body, call.received).await?;
        self.blocking(move |own| own.uploads.finish(&session, turn, digest)).await?;
        created(repository, digest)
    }

    pub(crate) fn show_upload(&self, repository: &Repository, id: &str) -> Result<Reply, Refusal> {
        accepted(&*self.uploads.session(repository, id)?, StatusCode::NO_CONTENT)
    }

    pub(crate) fn cancel_upload(&self, repository: &Repository, id: &str) -> Result<Reply, Refusal> {
        self.uploads.cancel(&*self.uploads.session(repository, id)?);
        empty(StatusCode::NO_CONTENT, &[])
    }
}

/// Takes an upload away when its only request is over, one way or the other.
struct Cleaner<'a> {
    service: &'a Service,
    session: &'a Session,
}

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        self.service.uploads.cancel(self.session);
    }
}

fn chunk(call: &Call<'_>) -> Result<Option<Chunk>, Refusal> {
    let Some(range) = text(call.head, header::CONTENT_RANGE) else { return Ok(None) };
    let chunk = Chunk::parse(range).ok_or_else(|| Refusal::UploadInvalid {
        reason: format!("{range:?} is no range of a chunk: expected FIRST-LAST"),
    });
    chunk.map(Some)
}

fn accepted(session: &Session, status: StatusCode) -> Result<Reply, Refusal> {
    let headers = [
        (header::LOCATION, session.location()),
        (header::RANGE, format!("0-{}", session.offset().saturating_sub(1))),
        (UPLOAD_ID, session.id.clone()),
    ];
    empty(status, &headers)
}

fn created(repository: &Repository, digest: Digest) -> Result<Reply, Refusal> {
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
        (CONTENT_DIGEST, digest.to_string()),
    ];
    empty(StatusCode::CREATED, &headers)
}
