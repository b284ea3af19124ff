//! References: the names of images.
//!
//! [`Reference::parse`] understands what people type, docker's short names included, and
//! [`Reference`] displays as the full name.
//!
//! Spec: OCI distribution-spec, "Pulling manifests" (names and tags); docker's reference grammar.

use std::fmt;
use std::str::FromStr;

use knarr_base::Digest;

use crate::OciError;

/// The name of an image: where it is, and which one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;

impl Reference {
    /// Parses a name as docker does: without a host it is Docker Hub's, without tag and digest `latest`.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let bad = |reason: &str| OciError::BadReference { found: clip(text), reason: reason.to_owned() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .strip_prefix("sha256:")
                    .ok_or_else(|| bad("after @ comes sha256: and 64 hexadecimal digits"))?;
                if digest.chars().any(|c| c.is_ascii_uppercase()) {
                    return Err(bad("digests are written in lower case"));
                }
                (rest, Some(digest.parse::<Digest>().map_err(|error| bad(&error.to_string()))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad("a tag is a letter, digit or _, then up to 127 of these and . -"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        if repository.len() > MAX_NAME_BYTES {
            return Err(bad("it is longer than 255 characters"));
        }
        if name.is_empty() {
            return Err(bad("it is empty"));
        }
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(bad("repositories are written in lower case"));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad(
                "parts of a repository are lower-case letters and digits, with single . _ __ or - between them",
            ));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The registry's host, with its port when it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, without the host.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the image must have.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry's addresses have behind the repository: the digest, else the tag.
    #[must_use]
    pub fn version(&self) -> String {
        let digest = self.digest.map(|digest| digest.to_string());
        digest.or_else(|| self.tag.clone()).unwrap_or_else(|| DEFAULT_TAG.to_owned())
    }

    /// Host and repository.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name as docker shows it: without what is understood.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            (DEFAULT_REGISTRY, Some(short)) => short.to_owned(),
            (DEFAULT_REGISTRY, None) => self.repository.clone(),
            _ => self.name(),
        }
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, OciError> {
        Self::parse(&format!("{}:{tag}", self.name()))
    }

    /// The same repository with a digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        Self::parse(text)
    }
}

/// A first component with a dot, a port or the name `localhost` is a host: docker's rule.
fn is_host(text: &str) -> bool {
    let looks = text.contains('.') || text.contains(':') || text == "localhost" || text.starts_with('[');
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let v6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let good_name = match v6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                })
        }
    };
    looks && good_port && good_name
}

/// Whether a text may be a tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    let mut characters = text.chars();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && characters.next().is_some_and(word)
        && characters.all(|c| word(c) || c == '.' || c == '-')
}

/// Whether a text may be the name of a repository, without its host.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.split('/').all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = text.starts_with(word) && text.ends_with(word);
    let separators = text.split(word).filter(|separator| !separator.is_empty());
    let known =
        |separator: &str| matches!(separator, "." | "_" | "__") || separator.chars().all(|c| c == '-');
    ends && separators.into_iter().all(known)
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}
