//! What registries ask for before they answer: challenges and tokens as values.
//!
//! Spec: RFC 9110 section 11 (challenges); docker's "Token Authentication Specification".

use std::time::{Duration, Instant};

use serde::Deserialize;

/// How a registry wants to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from somewhere else.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The best of the challenges in `WWW-Authenticate` headers.
pub(crate) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.flat_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or_else(|| all.first()).cloned()
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while let Some((scheme, after)) = word(rest) {
        let (parameters, after) = parameters(after);
        let get = |name: &str| {
            let of = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            of.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => found.push(Challenge::Basic),
            "bearer" => found.extend(get("realm").map(|realm| Challenge::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            })),
            _ => {}
        }
        rest = after.trim_start_matches([' ', ',']);
    }
    found
}

fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find([' ', ',', '=']).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `key="value", key=value`, up to what is no parameter any more.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches([' ', ',']);
        let Some((key, after)) = word(start) else { return (found, start) };
        let Some(after) = after.trim_start().strip_prefix('=') else { return (found, start) };
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = after.split_at(after.find([' ', ',']).unwrap_or(after.len()));
                (value.to_owned(), after)
            }
        };
        found.push((key.to_owned(), value));
        rest = after;
    }
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// A token, ready for the header.
#[derive(Clone)]
pub(crate) struct Token {
    pub header: String,
    expires: Instant,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What the specification says for answers without a time.
const DEFAULT_LIFE: u64 = 60;

impl Token {
    /// Reads a token server's answer.
    pub(crate) fn parse(bytes: &[u8], now: Instant) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or("it holds no token")?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("its token cannot be put into a header".to_owned());
        }
        let life = answer.expires_in.unwrap_or(DEFAULT_LIFE).min(86_400);
        // Too old a moment before the registry thinks so: a request is on its way for a while.
        let life = Duration::from_secs(life).mul_f64(0.9);
        Ok(Self { header: format!("Bearer {token}"), expires: now + life })
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        now < self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn challenges_of_many_registries_are_understood() {
        let check = |headers: &[&str], expected: Option<Challenge>| {
            assert_eq!(challenge(headers.iter().copied()), expected, "{headers:?}");
        };
        check(&[], None);
        check(&["Basic realm=\"Registry Realm\""], Some(Challenge::Basic));
        check(
            &["Bearer realm=\"https://a/token\",service=\"reg, one\",scope=\"repository:a/b:pull,push\""],
            Some(bearer("https://a/token", Some("reg, one"), Some("repository:a/b:pull,push"))),
        );
        check(&["BEARER realm=https://a , service=x"], Some(bearer("https://a", Some("x"), None)));
        check(&["Basic realm=\"a\", Bearer realm=\"r\""], Some(bearer("r", None, None)));
        check(&["Basic realm=\"a\"", "Bearer realm=\"q\\\"r\""], Some(bearer("q\"r", None, None)));
        check(&["Negotiate", "Digest realm=\"x\""], None);
        check(&["Bearer service=\"no realm\""], None);
        check(&["=,=\"", "\u{fc} , \"\"", "Bearer realm=\""], None);
    }

    #[test]
    fn a_token_is_too_old_before_the_registry_thinks_so() {
        let now = Instant::now();
        let token = Token::parse(br#"{"access_token":"T","expires_in":100}"#, now).unwrap();
        assert_eq!(token.header, "Bearer T");
        assert!(token.is_fresh(now + Duration::from_secs(89)));
        assert!(!token.is_fresh(now + Duration::from_secs(91)));
        assert!(Token::parse(br#"{"token":"a\nb"}"#, now).is_err());
        assert!(Token::parse(br#"{"token":""}"#, now).is_err());
        assert!(Token::parse(b"<html>", now).is_err());
    }
}
