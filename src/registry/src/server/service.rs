//! Requests: from the head to the answer.
//!
//! [`Service::handle`] finds out what is asked and by whom, and lets [`super::blobs`] or [`super::manifests`]
//! do it. What touches the disk runs on threads that may block.
//!
//! Spec: OCI distribution-spec 1.1, "API".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::auth::{Action, Caller, Gate, Origin};
use super::body::{Content, Reply, Watched};
use super::log::{Access, Line, Sink};
use super::refusal::Refusal;
use super::route::{Query, Route};
use super::uploads::Uploads;
use super::view::Shelves;

/// The digest of what is answered, in the protocol's own header.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// All that requests need.
pub(crate) struct Service {
    pub shelves: Shelves,
    pub uploads: Uploads,
    pub gate: Gate,
    pub read_only: bool,
    pub is_tls: bool,
    pub stall: Duration,
    pub sink: Sink,
}

/// A request under way.
pub(crate) struct Call<'a> {
    pub head: &'a Parts,
    pub query: Query,
    pub body: &'a mut Incoming,
    pub received: &'a mut u64,
    pub caller: Caller,
}

/// Who names what it has already is only told that it is so still.
fn unchanged(head: &Parts, mut reply: Reply) -> Reply {
    let question = matches!(head.method, Method::GET | Method::HEAD) && reply.status() == StatusCode::OK;
    let (asked, own) = (text(head, header::IF_NONE_MATCH), reply.headers().get(header::ETAG));
    let names = |asked: &str, own: &str| {
        asked.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == own || one == "*")
    };
    let own = own.and_then(|own| own.to_str().ok());
    if question && asked.zip(own).is_some_and(|(asked, own)| names(asked, own)) {
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        *reply.body_mut() = Content::Empty;
        reply.headers_mut().remove(header::CONTENT_LENGTH);
        reply.headers_mut().remove(header::CONTENT_TYPE);
    }
    reply
}

impl Service {
    /// Answers a request, whatever it is.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Watched> {
        let started = Instant::now();
        let (head, mut body) = request.into_parts();
        let (mut received, mut user) = (0, None);
        let outcome = Arc::clone(&self).answer(&head, &mut body, &mut received, &mut user).await;
        let (mut reply, trouble) = match outcome {
            Ok(reply) => (unchanged(&head, reply), None),
            Err(refusal) => {
                self.drain(&head, &mut body).await;
                (refusal.reply(), refusal.trouble())
            }
        };
        reply
            .headers_mut()
            .insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
        let access = Access {
            peer,
            user,
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            status: reply.status().as_u16(),
            received_bytes: received,
            sent_bytes: 0,
            duration: Duration::ZERO,
            trouble,
        };
        let line = Line { access, started, sink: Arc::clone(&self.sink) };
        reply.map(|content| Watched { content, line })
    }

    /// A client that is still sending does not hear an answer; a little patience helps most of them.
    async fn drain(&self, head: &Parts, body: &mut Incoming) {
        if body.is_end_stream() || head.headers.contains_key(header::EXPECT) {
            return;
        }
        let read = async {
            let mut left = MAX_DRAINED_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, bytes::Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whether it came to its end makes no difference.
        let _ = tokio::time::timeout(self.stall.min(MAX_DRAINING), read).await;
    }

    async fn answer(
        self: Arc<Self>,
        head: &Parts,
        body: &mut Incoming,
        received: &mut u64,
        user: &mut Option<String>,
    ) -> Result<Reply, Refusal> {
        let route = Route::parse(head.uri.path())?;
        let host = host(head);
        let origin = Origin { is_tls: self.is_tls, host: &host };
        let query = Query::parse(head.uri.query());
        let action = action(&route, &head.method)?;
        if route == Route::Token {
            return self.token(head, &query, user).await;
        }
        let caller = self.gate.admit(&head.headers, &origin).await?;
        *user = caller.name().map(str::to_owned);
        match route.repository() {
            Some(repository) => self.gate.allow(&caller, repository, action, &origin)?,
            None => self.gate.allow_registry(&caller, route == Route::Catalog, &origin)?,
        }
        if self.read_only && action != Action::Pull {
            return Err(Refusal::Unsupported { reason: "this registry is read-only".to_owned() });
        }
        let call = Call { head, query, body, received, caller };
        self.dispatch(route, call).await
    }

    async fn dispatch(self: Arc<Self>, route: Route, call: Call<'_>) -> Result<Reply, Refusal> {
        let is_head = call.head.method == Method::HEAD;
        let method = call.head.method.clone();
        let query = call.query.clone();
        match route {
            Route::Ping | Route::Token => Ok(json("{}".to_owned())),
            Route::Catalog => self.blocking(move |own| own.catalog(&query)).await,
            Route::Tags(name) => self.blocking(move |own| own.list_tags(&name, &query)).await,
            Route::Referrers(name, digest) => {
                self.blocking(move |own| own.list_referrers(&name, &digest, &query)).await
            }
            Route::Manifest(name, version) if method == Method::PUT => {
                self.receive_manifest(name, version, call).await
            }
            Route::Manifest(name, version) if method == Method::DELETE => {
                self.blocking(move |own| own.delete_manifest(&name, &version)).await
            }
            Route::Manifest(name, version) => {
                self.blocking(move |own| own.get_manifest(&name, &version, is_head)).await
            }
            Route::Blob(name, digest) if method == Method::DELETE => {
                self.blocking(move |own| own.delete_blob(&name, &digest)).await
            }
            Route::Blob(name, digest) => {
                let range = text(call.head, header::RANGE).map(str::to_owned);
                self.blocking(move |own| own.get_blob(&name, &digest, range.as_deref(), is_head)).await
            }
            Route::Uploads(name) => self.begin_upload(name, call).await,
            Route::Upload(name, id) => match method {
                Method::PATCH => self.receive_chunk(&name, &id, call).await,
                Method::PUT => self.finish_upload(&name, &id, call).await,
                Method::DELETE => self.blocking(move |own| own.cancel_upload(&name, &id)).await,
                _ => self.show_upload(&name, &id),
            },
        }
    }

    /// Runs what touches the disk.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        tokio::task::spawn_blocking(move || work(&self)).await?
    }

    async fn token(&self, head: &Parts, query: &Query, user: &mut Option<String>) -> Result<Reply, Refusal> {
        if self.gate.tokens.is_none() {
            return Err(Refusal::NoRoute);
        }
        // Names and passwords are what tokens are given for, whatever the rest of the server wants.
        let wants_basic = || Refusal::Unauthorized { challenge: "Basic realm=\"knarr\"".to_owned() };
        let origin = Origin { is_tls: self.is_tls, host: "" };
        let caller = match self.gate.admit(&head.headers, &origin).await {
            Err(Refusal::Unauthorized { .. }) | Ok(Caller::Holder(_)) => return Err(wants_basic()),
            outcome => outcome?,
        };
        if caller == Caller::Anonymous && !self.gate.anonymous_pull {
            return Err(wants_basic());
        }
        *user = caller.name().map(str::to_owned);
        self.gate.grant(&caller, query).map(json)
    }
}

const MAX_DRAINED_BYTES: usize = 16 << 20;
const MAX_DRAINING: Duration = Duration::from_secs(2);

/// What a method does to a route; methods that a route does not have are refused.
fn action(route: &Route, method: &Method) -> Result<Action, Refusal> {
    let allow = match route {
        Route::Ping | Route::Token | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, PATCH, PUT, DELETE",
    };
    if !allow.split(", ").any(|known| known == method.as_str()) {
        return Err(Refusal::Method { method: method.to_string(), allow });
    }
    Ok(match (route, method) {
        (Route::Uploads(_) | Route::Upload(..), _) => Action::Push,
        (_, &Method::DELETE) => Action::Delete,
        (_, &Method::PUT) => Action::Push,
        _ => Action::Pull,
    })
}

/// The host that the client asked for, as far as it is one.
fn host(head: &Parts) -> String {
    let given = text(head, header::HOST).or_else(|| head.uri.authority().map(http::uri::Authority::as_str));
    let is_plain = |host: &&str| {
        !host.is_empty()
            && host.len() < 300
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    };
    given.filter(is_plain).unwrap_or("localhost").to_owned()
}

/// A header's text.
pub(crate) fn text(head: &Parts, name: HeaderName) -> Option<&str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// An answer with a document.
pub(crate) fn json(text: String) -> Reply {
    let mut reply = Response::new(Content::from(text));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode, headers: &[(HeaderName, String)]) -> Result<Reply, Refusal> {
    let mut reply = Response::new(Content::Empty);
    *reply.status_mut() = status;
    set(&mut reply, headers)?;
    Ok(reply)
}

/// Adds headers whose values were checked, or made here.
pub(crate) fn set(reply: &mut Reply, headers: &[(HeaderName, String)]) -> Result<(), Refusal> {
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|_| Refusal::Died)?;
        reply.headers_mut().append(name, value);
    }
    Ok(())
}
