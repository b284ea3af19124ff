//! Tokens: what somebody may do for the next few minutes, signed.
//!
//! [`Tokens::issue`] makes one, [`Tokens::check`] reads one back as a [`Grant`]. The key lives as long as the
//! server: a restart makes clients ask again, which they do by themselves.
//!
//! Spec: RFC 7519 (JWT) with HS256; docker's token authentication specification.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_base::Timestamp;
use ring::hmac;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::error::ServerError;
use super::refusal::Refusal;

/// Whom tokens are for.
pub(crate) const SERVICE: &str = "knarr";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const MAX_TOKEN_BYTES: usize = 32 << 10;

/// Makes and reads tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    key: hmac::Key,
    age: Duration,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
    access: Vec<Access>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub subject: String,
    access: Vec<Access>,
}

impl Grant {
    pub(crate) fn allows(&self, kind: &str, name: &str, action: &str) -> bool {
        self.access
            .iter()
            .filter(|access| access.kind == kind && access.name == name)
            .any(|access| access.actions.iter().any(|allowed| allowed == action || allowed == "*"))
    }
}

impl Tokens {
    pub(crate) fn new(age: Duration) -> Result<Self, ServerError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| ServerError::System {
            doing: "get random numbers",
            source: std::io::ErrorKind::Other.into(),
        })?;
        Ok(Self { key, age })
    }

    /// The document that a client gets: the token, and for how long it is good.
    pub(crate) fn issue(
        &self,
        subject: &str,
        access: Vec<(String, String, Vec<String>)>,
    ) -> Result<String, Refusal> {
        let now = now();
        let access = access.into_iter().map(|(kind, name, actions)| Access { kind, name, actions }).collect();
        let claims = Claims {
            aud: SERVICE.to_owned(),
            sub: subject.to_owned(),
            iat: now,
            exp: now.saturating_add(self.age.as_secs()),
            access,
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| Refusal::Died)?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        let token = format!("{signed}.{signature}");
        let issued = Timestamp(i64::try_from(now).unwrap_or(i64::MAX)).to_string();
        Ok(json!({
            "token": token,
            "access_token": token,
            "expires_in": self.age.as_secs(),
            "issued_at": issued,
        })
        .to_string())
    }

    /// What a token allows, if it is ours and still good.
    pub(crate) fn check(&self, token: &str) -> Option<Grant> {
        let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN_BYTES)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let is_good = claims.aud == SERVICE && now() < claims.exp;
        is_good.then_some(Grant { subject: claims.sub, access: claims.access })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
