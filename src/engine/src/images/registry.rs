//! Registries: who asks them, what they have, and what their refusals are called.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bollard_stubs::models::DistributionInspect;
use knarr_oci::Reference;
use knarr_registry::RegistryError;
use knarr_registry::client::{Client, Options, docker_certs_dirs};
use knarr_registry::credentials::{Credential, Credentials, Secret};
use knarr_store::store::familiar;
use serde::Deserialize;

use super::{parse_reference, shown, shown_platform};
use crate::containers::blocking;
use crate::{Engine, EngineError, Kind};

/// The name that stands for "the password is a token that gets other tokens".
const TOKEN_USER: &str = "<token>";

/// Who a client is at a registry: `X-Registry-Auth`, and the body of `POST /auth`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct RegistryAuth {
    /// Its name.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Of an earlier login, instead of a password.
    pub identitytoken: String,
    /// The registry's address.
    pub serveraddress: String,
}

impl RegistryAuth {
    /// Whether it says anything of the client.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        !self.username.is_empty() || !self.password.is_empty() || !self.identitytoken.is_empty()
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryAuth({}, …)", self.username)
    }
}

impl Engine {
    /// `GET /distribution/{name}/json`.
    ///
    /// # Errors
    /// The registry does not have it, or does not tell.
    pub async fn inspect_distribution(
        &self,
        name: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<DistributionInspect, EngineError> {
        let reference = parse_reference(name)?;
        let options = self.client_options(reference.registry(), auth, &Arc::default());
        blocking(move || {
            let client = Client::new(options)?;
            let (descriptor, platforms) =
                client.inspect(&reference).map_err(|error| refused(error, &reference))?;
            let platforms = platforms.iter().map(shown_platform).collect();
            Ok(DistributionInspect { descriptor: shown(&descriptor), platforms })
        })
        .await
    }

    /// `POST /auth`: the status line.
    ///
    /// # Errors
    /// The registry does not know this user, or cannot be reached.
    pub async fn login(&self, auth: RegistryAuth) -> Result<String, EngineError> {
        let registry = registry_of(&auth.serveraddress);
        let Some(credential) = credential(auth) else {
            return Err(EngineError::invalid("username and password must be given"));
        };
        let options = self.client_options(&registry, None, &Arc::default());
        blocking(move || {
            let client = Client::new(options)?;
            match client.login(&registry, &credential) {
                Ok(_) => Ok("Login Succeeded".to_owned()),
                Err(RegistryError::Refused { status, .. }) => Err(EngineError::said(
                    Kind::Unauthorized,
                    format!("login attempt to {registry} failed with status: {status} Unauthorized"),
                )),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// How registries are asked for one client.
    pub(super) fn client_options(
        &self,
        registry: &str,
        auth: Option<RegistryAuth>,
        leave: &Arc<AtomicBool>,
    ) -> Options {
        let current = self.current();
        let given = auth.and_then(credential).map(|credential| (registry.to_owned(), credential));
        let usual = Options::new(Credentials::given(given));
        Options {
            hosts: current.registries.clone(),
            certs_dirs: docker_certs_dirs(),
            leave: leave.clone(),
            jobs: current.max_downloads.unwrap_or(usual.jobs),
            ..usual
        }
    }
}

fn credential(auth: RegistryAuth) -> Option<Credential> {
    let RegistryAuth { username, password, identitytoken, .. } = auth;
    if !identitytoken.is_empty() {
        return Some(Credential { username, secret: Secret::Identity(identitytoken) });
    }
    if username == TOKEN_USER {
        return Some(Credential { username: String::new(), secret: Secret::Identity(password) });
    }
    (!username.is_empty()).then_some(Credential { username, secret: Secret::Password(password) })
}

/// A registry's host, from the address that clients have for it.
fn registry_of(address: &str) -> String {
    let plain = address.split_once("://").map_or(address, |(_, rest)| rest);
    match plain.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// What a registry's refusal of an image is called: clients look for these words.
pub(super) fn refused(error: RegistryError, reference: &Reference) -> EngineError {
    let (name, full) = (reference.familiar_name(), familiar(&reference.to_string()));
    match error {
        RegistryError::Refused { reason, .. } => EngineError::not_found(format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login'{}",
            told(&reason, "denied")
        )),
        RegistryError::NotFound { reason, .. } if reason.contains("NAME_UNKNOWN") => {
            EngineError::not_found(format!("repository {name} not found{}", told(&reason, "name unknown")))
        }
        RegistryError::NotFound { .. } => EngineError::not_found(format!(
            "manifest for {full} not found: manifest unknown: manifest unknown"
        )),
        error => error.into(),
    }
}

fn told(reason: &str, otherwise: &str) -> String {
    format!(": {}", if reason.is_empty() { otherwise } else { reason })
}

#[cfg(test)]
mod tests {
    use knarr_oci::Reference;
    use knarr_registry::RegistryError;
    use knarr_registry::credentials::Secret;

    use super::{RegistryAuth, credential, refused, registry_of};
    use crate::Kind;

    #[test]
    fn a_token_of_an_earlier_login_goes_before_a_password() {
        let auth = |text: &str| credential(serde_json::from_str::<RegistryAuth>(text).unwrap());
        let token = auth(r#"{"username":"u","password":"p","identitytoken":"t","email":"x"}"#).unwrap();
        assert!(token.username == "u" && token.secret == Secret::Identity("t".to_owned()));
        let old = auth(r#"{"username":"<token>","password":"t"}"#).unwrap();
        assert!(old.username.is_empty() && old.secret == Secret::Identity("t".to_owned()));
        let plain = auth(r#"{"username":"u","password":"p"}"#).unwrap();
        assert!(plain.secret == Secret::Password("p".to_owned()));
        assert!(auth("{}").is_none());
    }

    #[test]
    fn registries_are_found_in_addresses() {
        for (address, host) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(registry_of(address), host, "{address}");
        }
    }

    #[test]
    fn what_is_not_there_and_what_is_refused_are_404() {
        let reference = Reference::parse("app").unwrap();
        let what = "GET /v2/library/app/manifests/latest".to_owned();
        let gone = RegistryError::NotFound { what: what.clone(), reason: String::new() };
        let gone = refused(gone, &reference);
        assert_eq!(gone.kind(), Kind::NotFound);
        assert!(gone.message().starts_with("manifest for app:latest not found: manifest unknown"));
        let denied = RegistryError::Refused { what, who: "x".to_owned(), status: 401, reason: String::new() };
        let denied = refused(denied, &reference);
        assert_eq!(denied.kind(), Kind::NotFound);
        assert!(denied.message().starts_with(
            "pull access denied for app, repository does not exist or may require 'docker login'"
        ));
    }
}
