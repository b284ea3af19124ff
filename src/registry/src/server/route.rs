//! Routes: what a path means.
//!
//! [`Route::parse`] reads a path from its end, since repositories may be called anything, `blobs` and
//! `manifests` included. [`Query`] has the parameters.
//!
//! Spec: OCI distribution-spec 1.1, "Endpoints".

use knarr_base::Digest;
use knarr_oci::{Reference, reference};

use super::refusal::Refusal;

/// The name of a repository as people type it: `library/app` of Docker Hub is `app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Repository(String);

impl Repository {
    pub(crate) fn parse(name: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::NameInvalid { name: name.chars().take(300).collect() };
        if !reference::is_repository(name) {
            return Err(invalid());
        }
        let known = Reference::parse(name).map_err(|_| invalid())?;
        Self::of(&known).ok_or_else(invalid)
    }

    /// The repository in which an image of the store is shown; a host with a port has none.
    pub(crate) fn of(name: &Reference) -> Option<Self> {
        let name = name.familiar_name();
        reference::is_repository(&name).then_some(Self(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What the store calls an image of it.
    pub(crate) fn store_name(&self, tag: &str) -> Result<String, Refusal> {
        let name = Reference::parse(&format!("{}:{tag}", self.0));
        name.map(|name| name.to_string()).map_err(|_| Refusal::NameInvalid { name: self.0.clone() })
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands behind `manifests/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
    /// Neither.
    Bad(String),
}

impl Version {
    fn parse(text: &str) -> Self {
        if text.contains(':') {
            return parse_digest(text).map_or_else(|_| Self::Bad(text.to_owned()), Self::Digest);
        }
        if reference::is_tag(text) { Self::Tag(text.to_owned()) } else { Self::Bad(text.to_owned()) }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(text) | Self::Bad(text) => f.write_str(text),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// A digest of the one kind that the store keeps.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    let invalid = || Refusal::DigestInvalid { found: text.chars().take(200).collect() };
    let hex = text.strip_prefix("sha256:").ok_or_else(invalid)?;
    if hex.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(invalid());
    }
    hex.parse().map_err(|_| invalid())
}

/// Whether it is a digest of another kind, of which there can be nothing here.
pub(crate) fn is_other_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, hex)| {
        kind == "sha512"
            && hex.len() == 128
            && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Ping,
    Token,
    Catalog,
    Tags(Repository),
    Manifest(Repository, Version),
    /// The digest is parsed later: what a bad one means depends on the method.
    Blob(Repository, String),
    Uploads(Repository),
    Upload(Repository, String),
    Referrers(Repository, String),
}

impl Route {
    pub(crate) fn parse(path: &str) -> Result<Self, Refusal> {
        let path = percent_decoded(path).ok_or(Refusal::NoRoute)?;
        if path == "/token" {
            return Ok(Self::Token);
        }
        let rest = path.strip_prefix("/v2").ok_or(Refusal::NoRoute)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Ping);
        }
        let rest = rest.strip_prefix('/').ok_or(Refusal::NoRoute)?;
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let repository = |behind: usize| Repository::parse(&parts[..parts.len() - behind].join("/"));
        match parts[..] {
            [_, .., "blobs", "uploads"] => Ok(Self::Uploads(repository(2)?)),
            [_, .., "blobs", "uploads", ""] => Ok(Self::Uploads(repository(3)?)),
            [_, .., "blobs", "uploads", id] => Ok(Self::Upload(repository(3)?, id.to_owned())),
            [_, .., "tags", "list"] => Ok(Self::Tags(repository(2)?)),
            [_, .., "manifests", version] => Ok(Self::Manifest(repository(2)?, Version::parse(version))),
            [_, .., "blobs", digest] => Ok(Self::Blob(repository(2)?, digest.to_owned())),
            [_, .., "referrers", digest] => Ok(Self::Referrers(repository(2)?, digest.to_owned())),
            _ => Err(Refusal::NoRoute),
        }
    }

    /// Whose rights are asked for.
    pub(crate) const fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Ping | Self::Token | Self::Catalog => None,
            Self::Tags(repository)
            | Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Uploads(repository)
            | Self::Upload(repository, _)
            | Self::Referrers(repository, _) => Some(repository),
        }
    }
}

/// `None` for what is no UTF-8, or percent signs without two digits.
fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

/// The parameters behind the question mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
