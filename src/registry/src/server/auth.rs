//! Who asks, and what they may do.
//!
//! [`Gate::admit`] looks at a request's credentials and answers with a [`Caller`], or with the challenge that
//! tells a client what is needed. Passwords are read by [`super::htpasswd`], tokens by [`super::token`].
//!
//! Spec: RFC 7617 (Basic), RFC 6750 (Bearer); docker's token authentication specification.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

use super::htpasswd::Passwords;
use super::refusal::Refusal;
use super::route::{Query, Repository};
use super::token::{Grant, Tokens};

/// How names and passwords become rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// With every request.
    #[default]
    Basic,
    /// Once, for a token that is good for a few minutes and for what it was asked for.
    Token,
}

/// What is asked of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Anybody, where anybody may do all.
    Anybody,
    /// Nobody that is known: may pull where that is allowed.
    Anonymous,
    /// Somebody whose password was right.
    User(String),
    /// Somebody with a token.
    Holder(Grant),
}

impl Caller {
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody | Self::Anonymous => None,
            Self::User(name) => Some(name),
            Self::Holder(grant) => Some(grant.subject.as_str()).filter(|name| !name.is_empty()),
        }
    }

    /// Whether blobs that nobody named a repository for may be looked for everywhere.
    pub(crate) const fn sees_everything(&self) -> bool {
        matches!(self, Self::Anybody | Self::User(_))
    }
}

/// Looks at credentials.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Without it anybody may do all.
    pub passwords: Option<Arc<Passwords>>,
    pub tokens: Option<Tokens>,
    pub anonymous_pull: bool,
}

/// Where a client reached the server, as it says itself: challenges lead back there.
pub(crate) struct Origin<'a> {
    pub is_tls: bool,
    pub host: &'a str,
}

impl Gate {
    /// Who asks. Credentials that are wrong are refused even where none are needed.
    pub(crate) async fn admit(&self, headers: &HeaderMap, origin: &Origin<'_>) -> Result<Caller, Refusal> {
        let Some(passwords) = &self.passwords else { return Ok(Caller::Anybody) };
        let Some(given) = headers.get(header::AUTHORIZATION) else { return Ok(Caller::Anonymous) };
        let refused = || self.challenge(origin, None, Some("invalid_token"));
        let given = given.to_str().map_err(|_| refused())?;
        let (scheme, value) = given.split_once(' ').ok_or_else(refused)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            let grant = self.tokens.as_ref().and_then(|tokens| tokens.check(value.trim()));
            return grant.map(Caller::Holder).ok_or_else(refused);
        }
        let (name, password) = basic(scheme, value).ok_or_else(refused)?;
        // Clients without a name answer a challenge with an empty one.
        if name.is_empty() && password.is_empty() {
            return Ok(Caller::Anonymous);
        }
        if Passwords::check(passwords, &name, &password).await? {
            return Ok(Caller::User(name));
        }
        Err(refused())
    }

    /// Whether the caller may do something with a repository; what is not allowed is challenged.
    pub(crate) fn allow(
        &self,
        caller: &Caller,
        repository: &Repository,
        action: Action,
        origin: &Origin<'_>,
    ) -> Result<(), Refusal> {
        if self.may(caller, repository, action) {
            return Ok(());
        }
        let actions = if action == Action::Push { "pull,push" } else { action.as_str() };
        let error = matches!(caller, Caller::Holder(_)).then_some("insufficient_scope");
        Err(self.challenge(origin, Some(&format!("repository:{repository}:{actions}")), error))
    }

    /// Whether the caller may do something with a repository.
    pub(crate) fn may(&self, caller: &Caller, repository: &Repository, action: Action) -> bool {
        match caller {
            Caller::Anybody | Caller::User(_) => true,
            Caller::Anonymous => self.anonymous_pull && action == Action::Pull,
            Caller::Holder(grant) => grant.allows("repository", repository.as_str(), action.as_str()),
        }
    }

    /// Whether the caller may see which repositories there are, or is known at all.
    pub(crate) fn allow_registry(
        &self,
        caller: &Caller,
        is_catalog: bool,
        origin: &Origin<'_>,
    ) -> Result<(), Refusal> {
        let scope = is_catalog.then_some("registry:catalog:*");
        match caller {
            Caller::Anybody | Caller::User(_) => Ok(()),
            // Clients learn here what is needed later, so nobody unknown is told that all is well.
            Caller::Anonymous => Err(self.challenge(origin, scope, None)),
            Caller::Holder(grant) if !is_catalog || grant.allows("registry", "catalog", "*") => Ok(()),
            Caller::Holder(_) => Err(self.challenge(origin, scope, Some("insufficient_scope"))),
        }
    }

    /// Answers the request for a token: of somebody for what was asked for, of nobody for what nobody may do.
    pub(crate) fn grant(&self, caller: &Caller, query: &Query) -> Result<String, Refusal> {
        let tokens = self.tokens.as_ref().ok_or(Refusal::NoRoute)?;
        let mut access = Vec::new();
        for scope in query.all("scope").flat_map(|scope| scope.split(' ')).take(MAX_SCOPES) {
            let parts: Option<(&str, &str, &str)> = scope
                .split_once(':')
                .and_then(|(kind, rest)| rest.rsplit_once(':').map(|(name, actions)| (kind, name, actions)));
            let Some((kind, name, actions)) = parts else { continue };
            let actions = actions.split(',').filter(|action| self.grants(caller, kind, action));
            let actions: Vec<String> = actions.map(str::to_owned).collect();
            // The name that rights are looked up by later.
            let name = Repository::parse(name).map_or_else(|_| name.to_owned(), |name| name.to_string());
            if !actions.is_empty() {
                access.push((kind.to_owned(), name, actions));
            }
        }
        tokens.issue(caller.name().unwrap_or_default(), access)
    }

    fn grants(&self, caller: &Caller, kind: &str, action: &str) -> bool {
        match (kind, action) {
            ("repository", "pull") => self.anonymous_pull || matches!(caller, Caller::User(_)),
            ("repository", "push" | "delete" | "*") | ("registry", "*") => matches!(caller, Caller::User(_)),
            _ => false,
        }
    }

    /// What a client needs.
    pub(crate) fn challenge(&self, origin: &Origin<'_>, scope: Option<&str>, error: Option<&str>) -> Refusal {
        if self.tokens.is_none() {
            return Refusal::Unauthorized {
                challenge: "Basic realm=\"knarr\", charset=\"UTF-8\"".to_owned(),
            };
        }
        let protocol = if origin.is_tls { "https" } else { "http" };
        let mut challenge = format!(
            "Bearer realm=\"{protocol}://{}/token\",service=\"{}\"",
            origin.host,
            super::token::SERVICE
        );
        for (key, value) in [("scope", scope), ("error", error)] {
            if let Some(value) = value {
                challenge.push_str(&format!(",{key}=\"{value}\""));
            }
        }
        Refusal::Unauthorized { challenge }
    }
}

const MAX_SCOPES: usize = 64;

fn basic(scheme: &str, value: &str) -> Option<(String, String)> {
    let value = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(value.trim()).ok())??;
    let text = String::from_utf8(value).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}
