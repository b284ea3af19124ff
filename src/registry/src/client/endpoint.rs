//! One registry as it is spoken to: requests, redirects, challenges, and answers that are errors.
//!
//! [`Endpoint::send`] answers with what the registry said, after all that stands between: credentials go to the
//! registry itself and to the token server that it names, and to nobody else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Body, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use crate::RegistryError;
use crate::client::Options;
use crate::client::auth::{Challenge, Token, challenge};
use crate::client::host::{self, Certificates, HostOptions, Plan, same_origin};
use crate::client::wire::{Moved, Wire, connection};
use crate::credentials::{Credential, Credentials, Secret};

/// A registry, or a mirror of one.
pub(crate) struct Endpoint {
    /// As people write it.
    pub name: String,
    base: Url,
    prefix: String,
    /// Speaks to the registry itself, and proves who we are when it asks for a certificate.
    own: reqwest::Client,
    /// Speaks to whom the registry sends us.
    foreign: OnceLock<reqwest::Client>,
    plan: Plan,
    certificates: Certificates,
    credentials: Credentials,
    auth: Mutex<Auth>,
    stall: Duration,
}

#[derive(Default)]
struct Auth {
    mode: Option<Challenge>,
    /// By scope.
    tokens: HashMap<String, Token>,
    /// Looked up once, when the registry first asks.
    credential: Option<Option<Credential>>,
}

/// What is sent with a request.
#[derive(Clone)]
pub(crate) enum Payload<'a> {
    Nothing,
    Bytes(Bytes),
    /// So many bytes; the second time there may be none, when they came from elsewhere.
    Stream(u64, &'a (dyn Fn() -> Option<Body> + Sync)),
}

/// A request.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    /// What a token must allow, with spaces between.
    pub scopes: &'a str,
    pub headers: Vec<(HeaderName, String)>,
    pub payload: Payload<'a>,
    /// Grows while the payload goes out.
    pub moved: Option<&'a Moved<'a>>,
}

const MAX_REDIRECTS: usize = 8;
const MAX_TOKEN_BYTES: u64 = 1 << 20;
const MAX_ERROR_BYTES: u64 = 64 << 10;
const MAX_REASON_CHARS: usize = 300;
/// Certificates and keys are read up to this size.
const MAX_PEM_BYTES: u64 = 4 << 20;

impl<'a> Call<'a> {
    pub(crate) const fn new(method: Method, url: Url, scopes: &'a str) -> Self {
        Self { method, url, scopes, headers: Vec::new(), payload: Payload::Nothing, moved: None }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }

    fn request(
        &self,
        client: &reqwest::Client,
        url: Url,
        authorization: Option<&str>,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        let mut request = client.request(self.method.clone(), url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let is_question = self.method == Method::GET || self.method == Method::HEAD;
        Ok(match &self.payload {
            Payload::Nothing if is_question => request,
            Payload::Nothing => request.header(CONTENT_LENGTH, 0),
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::Stream(length, make) => {
                let reason = "it has to be sent once more".to_owned();
                let again = || RegistryError::Connection { what: self.what(), reason };
                request.header(CONTENT_LENGTH, *length).body(make().ok_or_else(again)?)
            }
        })
    }

    /// The address without its query, which may hold secrets.
    pub(crate) fn what(&self) -> String {
        shown(&self.url)
    }
}

/// An address for people.
pub(crate) fn shown(url: &Url) -> String {
    let text = url.as_str();
    text.split(['?', '#']).next().unwrap_or(text).to_owned()
}

impl Endpoint {
    /// Finds out how a registry is spoken to. Credentials are looked up by its name.
    pub(crate) async fn connect(
        name: &str,
        host_options: &HostOptions,
        options: &Options,
        wire: &Wire,
    ) -> Result<Self, RegistryError> {
        let host = name.split_once("://").map_or(name, |(_, rest)| rest).split('/').next().unwrap_or(name);
        let certificates = host::certificates(&options.certs_dirs, host);
        let mut host_options = host_options.clone();
        if host_options.ca.is_none() {
            // With a certificate of its own a registry speaks TLS, on this machine, too.
            host_options.ca = certificates.authorities.first().cloned();
        }
        let plan = host::plan(name, &host_options)?;
        let make = |base: &Url| {
            Ok::<_, RegistryError>(Self {
                name: host.to_owned(),
                base: base.clone(),
                prefix: plan.prefix.clone(),
                own: build(&plan, &certificates, base.scheme() == "https", true, options.stall)?,
                foreign: OnceLock::new(),
                plan: plan.clone(),
                certificates: certificates.clone(),
                credentials: options.credentials.clone(),
                auth: Mutex::default(),
                stall: options.stall,
            })
        };
        let mut first = plan.bases.first();
        for base in plan.bases.iter().filter(|_| plan.bases.len() > 1) {
            let endpoint = make(base)?;
            match endpoint.speaks(wire).await {
                Ok(true) => return Ok(endpoint),
                // What is wrong with its TLS tells more than that it does not speak without.
                Ok(false) => first = plan.bases.iter().find(|other| *other != base).or(first),
                Err(RegistryError::Interrupted) => return Err(RegistryError::Interrupted),
                // The first request will say what is wrong.
                _ => {}
            }
        }
        make(first.ok_or_else(|| RegistryError::Request(format!("{name} has no address")))?)
    }

    /// Whether the address is of a server that speaks this scheme. A TLS server answers plain HTTP with 400, or not at all.
    async fn speaks(&self, wire: &Wire) -> Result<bool, RegistryError> {
        let call = Call::new(Method::GET, self.url("v2/")?, "");
        let response = self.exchange(wire, &call, None).await?;
        Ok(response.status() != StatusCode::BAD_REQUEST)
    }

    /// An address below the registry's own.
    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base.join(path).map_err(|error| RegistryError::Request(format!("{}{path}: {error}", self.base)))
    }

    /// An address of a repository.
    pub(crate) fn repository_url(&self, repository: &str, path: &str) -> Result<Url, RegistryError> {
        self.url(&format!("v2/{}{repository}/{path}", self.prefix))
    }

    /// What a token must allow for a repository.
    pub(crate) fn scope(&self, repository: &str, actions: &str) -> String {
        format!("repository:{}{repository}:{actions}", self.prefix)
    }

    /// Sends a request with whatever the registry wants to know, and answers with what it said.
    pub(crate) async fn send(&self, wire: &Wire, call: &Call<'_>) -> Result<Response, RegistryError> {
        let mut used = self.authorization(wire, call.scopes).await?;
        // A token may have become too old on the way; a new one that is refused, too, is the answer.
        for _ in 0..2 {
            let response = self.exchange(wire, call, used.as_deref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
                return Ok(response);
            }
            match self.challenged(wire, response.headers(), call.scopes, used.as_deref()).await? {
                Some(header) => used = Some(header),
                None => return Ok(response),
            }
        }
        self.exchange(wire, call, used.as_deref()).await
    }

    /// The same, and answers that are errors become such.
    pub(crate) async fn ask(
        &self,
        wire: &Wire,
        call: &Call<'_>,
        expected: &[u16],
    ) -> Result<Response, RegistryError> {
        let response = self.send(wire, call).await?;
        if expected.contains(&response.status().as_u16()) {
            return Ok(response);
        }
        Err(self.refusal(wire, &call.what(), response).await)
    }

    fn is_own(&self, url: &Url) -> bool {
        same_origin(url, &self.base)
    }

    fn foreign(&self) -> Result<&reqwest::Client, RegistryError> {
        if let Some(client) = self.foreign.get() {
            return Ok(client);
        }
        let client = build(&self.plan, &self.certificates, true, false, self.stall)?;
        Ok(self.foreign.get_or_init(|| client))
    }

    /// One request and its redirects; `authorization` goes to the registry itself only.
    async fn exchange(
        &self,
        wire: &Wire,
        call: &Call<'_>,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        let what = call.what();
        for _ in 0..=MAX_REDIRECTS {
            let is_own = self.is_own(&url);
            let client = if is_own { &self.own } else { self.foreign()? };
            let authorization = authorization.filter(|_| is_own);
            let request = call.request(client, url.clone(), authorization)?;
            let sent = wire.while_moving(&what, call.moved, request.send()).await?;
            let response = sent.map_err(|error| connection(&what, &error))?;
            let may_follow = call.method == Method::GET || call.method == Method::HEAD;
            if !response.status().is_redirection() || !may_follow {
                return Ok(response);
            }
            url = self.next(&what, &response)?;
        }
        Err(RegistryError::Answer {
            what,
            reason: format!("it is redirected more than {MAX_REDIRECTS} times"),
        })
    }

    fn next(&self, what: &str, response: &Response) -> Result<Url, RegistryError> {
        let bad = |reason: String| RegistryError::Answer { what: what.to_owned(), reason };
        let url = location(response).map_err(|reason| bad(format!("the redirect {reason}")))?;
        let is_downgrade = response.url().scheme() == "https" && url.scheme() != "https";
        if is_downgrade && !self.plan.unverified {
            return Err(bad(format!("it is redirected to {}, which anybody can read", shown(&url))));
        }
        Ok(url)
    }

    /// What is known to be wanted, so that no request is sent in vain.
    async fn authorization(&self, wire: &Wire, scopes: &str) -> Result<Option<String>, RegistryError> {
        let mut auth = wire.in_time(&self.name, self.auth.lock()).await?;
        match auth.mode.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credential(&mut auth)?.as_ref().and_then(basic)),
            Some(Challenge::Bearer { .. }) => {
                if let Some(token) = auth.tokens.get(scopes).filter(|token| token.is_fresh(Instant::now())) {
                    return Ok(Some(token.header.clone()));
                }
                self.fetch_token(wire, &mut auth, scopes).await.map(Some)
            }
        }
    }

    /// What a challenge asks for; `None` when all that is known was tried already.
    async fn challenged(
        &self,
        wire: &Wire,
        headers: &HeaderMap,
        scopes: &str,
        used: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let mut auth = wire.in_time(&self.name, self.auth.lock()).await?;
        let values = headers.get_all(WWW_AUTHENTICATE);
        let Some(mode) = challenge(values.iter().filter_map(|value| value.to_str().ok())) else {
            return Ok(None);
        };
        auth.mode = Some(mode.clone());
        if mode == Challenge::Basic {
            let header = self.credential(&mut auth)?.as_ref().and_then(basic);
            return Ok(header.filter(|header| used != Some(header)));
        }
        // Another request may have got a new one in the meantime.
        if let Some(token) = auth.tokens.get(scopes).filter(|token| used != Some(token.header.as_str())) {
            return Ok(Some(token.header.clone()));
        }
        self.fetch_token(wire, &mut auth, scopes).await.map(Some)
    }

    fn credential<'a>(&self, auth: &'a mut Auth) -> Result<&'a Option<Credential>, RegistryError> {
        if auth.credential.is_none() {
            auth.credential = Some(self.credentials.get(&self.name)?);
        }
        Ok(auth.credential.get_or_insert(None))
    }

    /// Uses this credential, whatever else is known.
    pub(crate) async fn set_credential(&self, credential: Credential) {
        self.auth.lock().await.credential = Some(Some(credential));
    }

    /// Whether the registry wanted to know who asks.
    pub(crate) async fn has_asked(&self) -> bool {
        self.auth.lock().await.mode.is_some()
    }

    async fn fetch_token(&self, wire: &Wire, auth: &mut Auth, scopes: &str) -> Result<String, RegistryError> {
        let Some(Challenge::Bearer { realm, service, scope }) = auth.mode.clone() else {
            return Err(RegistryError::Request(format!("{} asks for no token", self.name)));
        };
        let bad = |reason: String| RegistryError::Answer { what: realm.clone(), reason };
        let url = Url::parse(&realm).map_err(|error| bad(format!("the realm of a challenge: {error}")))?;
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http");
        if !is_safe {
            return Err(bad(format!("{} wants the token from there, which is not safe", self.name)));
        }
        let credential = self.credential(auth)?.as_ref();
        let wanted =
            Wanted { service: service.unwrap_or_default(), scopes: all_scopes(scopes, scope.as_deref()) };
        let call = wanted.call(url, credential);
        let authorization = credential.and_then(basic);
        let response = self.ask_token_server(wire, &call, authorization).await?;
        let bytes = read(wire, response, &realm, MAX_TOKEN_BYTES).await?;
        let token = Token::parse(&bytes, Instant::now());
        let token = token.map_err(|reason| bad(format!("the token server's answer: {reason}")))?;
        auth.tokens.insert(scopes.to_owned(), token.clone());
        Ok(token.header)
    }

    /// No redirects: name and password are for the realm's own server.
    async fn ask_token_server(
        &self,
        wire: &Wire,
        call: &Call<'_>,
        authorization: Option<String>,
    ) -> Result<Response, RegistryError> {
        let client = if self.is_own(&call.url) { &self.own } else { self.foreign()? };
        let what = call.what();
        wire.retrying(async || {
            let request = call.request(client, call.url.clone(), authorization.as_deref())?;
            let sent = wire.in_time(&what, request.send()).await?;
            let response = sent.map_err(|error| connection(&what, &error))?;
            match response.status().as_u16() {
                200 => Ok(response),
                status => Err(refusal(wire, &what, response, status, "the credentials at hand").await),
            }
        })
        .await
    }

    /// What an answer says that is none of those expected.
    pub(crate) async fn refusal(&self, wire: &Wire, what: &str, response: Response) -> RegistryError {
        let who = match &self.auth.lock().await.credential {
            Some(Some(credential)) if !credential.username.is_empty() => credential.username.clone(),
            Some(Some(_)) => "the token at hand".to_owned(),
            _ => "whoever is not logged in".to_owned(),
        };
        let status = response.status().as_u16();
        refusal(wire, what, response, status, &who).await
    }
}

/// What a token is wanted for.
struct Wanted {
    service: String,
    scopes: Vec<String>,
}

impl Wanted {
    /// The request for a token: a token for tokens goes in a form, all else in the address.
    fn call(&self, mut url: Url, credential: Option<&Credential>) -> Call<'static> {
        if let Some(Credential { secret: Secret::Identity(token), .. }) = credential {
            let form = form(&[
                ("grant_type", "refresh_token"),
                ("client_id", "knarr"),
                ("service", &self.service),
                ("scope", &self.scopes.join(" ")),
                ("refresh_token", token),
            ]);
            return Call::new(Method::POST, url, "")
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .payload(Payload::Bytes(form.into()));
        }
        let service = Some(("service", &self.service)).filter(|(_, service)| !service.is_empty());
        let account = credential.map(|credential| ("account", &credential.username));
        let scopes = self.scopes.iter().map(|scope| ("scope", scope));
        url.query_pairs_mut().extend_pairs(service.into_iter().chain(scopes).chain(account));
        Call::new(Method::GET, url, "").header(ACCEPT, "application/json")
    }
}

/// What we know to need, and what the registry says we do.
fn all_scopes(known: &str, told: Option<&str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for scope in known.split(' ').chain(told.unwrap_or_default().split(' ')) {
        if !scope.is_empty() && !all.iter().any(|other| other == scope) {
            all.push(scope.to_owned());
        }
    }
    all
}

/// `Authorization` of a name and password.
fn basic(credential: &Credential) -> Option<String> {
    match &credential.secret {
        Secret::Password(word) => {
            Some(format!("Basic {}", STANDARD.encode(format!("{}:{word}", credential.username))))
        }
        Secret::Identity(_) => None,
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    pairs.iter().filter(|(_, value)| !value.is_empty()).for_each(|(name, value)| {
        form.append_pair(name, value);
    });
    form.finish()
}

/// Where an answer sends us: an address of the web without a name and password in it.
pub(crate) fn location(response: &Response) -> Result<Url, String> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let text = text.ok_or("has no Location")?;
    let mut url = response.url().join(text).map_err(|error| format!("goes to {text:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("goes to {text:?}, which is not of the web"));
    }
    // Whoever puts them there wants them sent: they are not ours to send.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    Ok(url)
}

/// Reads a small answer whole.
pub(crate) async fn read(
    wire: &Wire,
    response: Response,
    what: &str,
    limit_bytes: u64,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge { what: what.to_owned(), limit_bytes };
    if response.content_length().is_some_and(|length| length > limit_bytes) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    let mut body = response.bytes_stream();
    while let Some(chunk) = wire.in_time(what, body.next()).await? {
        let chunk = chunk.map_err(|error| connection(what, &error))?;
        if (bytes.len() + chunk.len()) as u64 > limit_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn refusal(wire: &Wire, what: &str, response: Response, status: u16, who: &str) -> RegistryError {
    let what = what.to_owned();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = header.and_then(|text| text.trim().parse().ok());
    let body = read(wire, response, &what, MAX_ERROR_BYTES).await;
    let reason = match body {
        Err(RegistryError::Interrupted) => return RegistryError::Interrupted,
        // The status says enough when the text cannot be had.
        Err(_) => String::new(),
        Ok(bytes) => reason(&bytes),
    };
    match status {
        401 | 403 => RegistryError::Refused { what, who: who.to_owned(), status, reason },
        404 => RegistryError::NotFound { what, reason },
        429 => RegistryError::Busy { what, status, reason, seconds },
        503 if seconds.is_some() => RegistryError::Busy { what, status, reason, seconds },
        _ => RegistryError::Status { what, status, reason },
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says went wrong; nothing of it may move a terminal's cursor.
fn reason(bytes: &[u8]) -> String {
    let text = match serde_json::from_slice::<Errors>(bytes) {
        Ok(parsed) => {
            let texts = parsed.errors.iter().take(5).map(|error| match error.message.as_str() {
                "" => error.code.clone(),
                message => format!("{} ({message})", error.code),
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    let plain: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON_CHARS).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn build(
    plan: &Plan,
    certificates: &Certificates,
    is_tls: bool,
    is_own: bool,
    stall: Duration,
) -> Result<reqwest::Client, RegistryError> {
    // Another part of the program may have installed it: one is as good as the other.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("knarr/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(stall);
    if plan.is_local && is_own {
        builder = builder.no_proxy();
    }
    if plan.unverified {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if is_tls {
        let mut authorities = certificates.authorities.clone();
        authorities.extend(plan.ca.iter().filter(|ca| !certificates.authorities.contains(ca)).cloned());
        for path in &authorities {
            let parsed =
                reqwest::Certificate::from_pem_bundle(&pem(path)?).map_err(|error| bad(path, &error))?;
            if parsed.is_empty() {
                return Err(bad(path, &"it holds no certificate in PEM"));
            }
            builder = builder.tls_certs_merge(parsed);
        }
        if let Some((certificate, key)) = certificates.identity.as_ref().filter(|_| is_own) {
            let both = [pem(certificate)?, vec![b'\n'], pem(key)?].concat();
            let identity = reqwest::Identity::from_pem(&both).map_err(|error| bad(certificate, &error))?;
            builder = builder.identity(identity);
        }
    } else {
        // Looking for this machine's certificates takes longer than a small pull.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| connection("TLS", &error))
}

fn pem(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let fail = |source| RegistryError::File { doing: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_PEM_BYTES), &mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn bad(path: &Path, reason: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::BadFile { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn what_a_registry_says_is_shown_and_cannot_move_the_cursor() {
        let text = br#"{"errors":[{"code":"DENIED","message":"no \u001b[2Jway"},{"code":"UNAUTHORIZED"}]}"#;
        assert_eq!(reason(text), "DENIED (no [2Jway), UNAUTHORIZED");
        assert_eq!(reason(b"<html>\n  no\r\n</html>"), "<html> no </html>");
        assert_eq!(reason(&[b'x'; 1000]).len(), 300);
    }
}
