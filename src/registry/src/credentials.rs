//! Credentials: who one is at which registry, as docker keeps it.
//!
//! [`Credentials`] reads and changes docker's `config.json`, so that whoever logged in with docker is
//! logged in here, and the other way round. Helpers that keep secrets elsewhere are asked as docker asks them.
//!
//! Spec: docker's config.json (`auths`, `credsStore`, `credHelpers`); the docker-credential-helpers protocol.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::RegistryError;

/// Who one is at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name.
    pub username: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves a name.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password.
    Password(String),
    /// A token that gets other tokens.
    Identity(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, …)", self.username)
    }
}

/// Where a credential was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the file, readable for whoever can read it.
    File(PathBuf),
    /// With a helper.
    Helper(String),
}

/// Docker's configuration of one user.
#[derive(Clone, Debug)]
pub struct Credentials {
    path: PathBuf,
    /// The only one that counts, with its registry, when somebody else has read it already.
    given: Option<Option<(String, Credential)>>,
}

const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_HELPER_BYTES: u64 = 1 << 20;
/// The name that helpers have for a token instead of a password.
const TOKEN_USER: &str = "<token>";
/// What docker calls its own registry there.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

impl Credentials {
    /// Those in a directory, which need not be there.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        Self { path: directory.join("config.json"), given: None }
    }

    /// This one for its registry, or none: no file is looked at.
    #[must_use]
    pub const fn given(credential: Option<(String, Credential)>) -> Self {
        Self { path: PathBuf::new(), given: Some(credential) }
    }

    /// Those of the caller: `$DOCKER_CONFIG`, else `~/.docker`.
    #[must_use]
    pub fn of_caller() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || set("HOME").unwrap_or_else(|| "/".into()).join(".docker");
        Self::open(&set("DOCKER_CONFIG").unwrap_or_else(home))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who one is at `registry`.
    pub fn get(&self, registry: &str) -> Result<Option<Credential>, RegistryError> {
        if let Some(given) = &self.given {
            let own = given.as_ref().filter(|(of, _)| host_of(server(of)) == host_of(server(registry)));
            return Ok(own.map(|(_, credential)| credential.clone()));
        }
        let config = self.read()?;
        if let Some(helper) = helper(&config, registry) {
            return ask_helper(&helper, registry);
        }
        let Some(auths) = config.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let entry = auths.iter().find(|(key, _)| host_of(key) == host_of(server(registry)));
        entry.map_or(Ok(None), |(key, entry)| self.parse(key, entry))
    }

    fn parse(&self, key: &str, entry: &Value) -> Result<Option<Credential>, RegistryError> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let decoded = text("auth").map(|auth| self.decode(key, auth)).transpose()?;
        let (username, password) = match decoded {
            Some((username, password)) => (username, Some(password)),
            None => (text("username").unwrap_or_default().to_owned(), text("password").map(str::to_owned)),
        };
        let secret = match (text("identitytoken"), password) {
            (Some(token), _) => Secret::Identity(token.to_owned()),
            (None, Some(password)) if !username.is_empty() => Secret::Password(password),
            _ => return Ok(None),
        };
        Ok(Some(Credential { username, secret }))
    }

    fn decode(&self, key: &str, auth: &str) -> Result<(String, String), RegistryError> {
        let bytes = STANDARD.decode(auth.trim()).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|text| text.split_once(':'));
        let bad = || self.bad(format!("auths.{key:?}.auth is no user:password in base64"));
        // Docker's own files end some passwords with a zero byte.
        pair.map(|(name, word)| (name.to_owned(), word.trim_end_matches('\0').to_owned())).ok_or_else(bad)
    }

    /// Remembers who one is.
    pub fn set(&self, registry: &str, credential: &Credential) -> Result<Kept, RegistryError> {
        let mut config = self.read()?;
        let key = server(registry).to_owned();
        if let Some(helper) = helper(&config, registry) {
            let (name, word) = match &credential.secret {
                Secret::Password(word) => (credential.username.as_str(), word),
                Secret::Identity(token) => (TOKEN_USER, token),
            };
            let text = json!({ "ServerURL": key, "Username": name, "Secret": word }).to_string();
            run_helper(&helper, "store", &text)?;
            // Docker leaves an empty entry, by which `docker info` knows that there is one.
            edit_auths(&mut config, |auths| drop(auths.insert(key, json!({}))));
            self.write(&config)?;
            return Ok(Kept::Helper(helper));
        }
        let auth = |word: &str| STANDARD.encode(format!("{}:{word}", credential.username));
        let entry = match &credential.secret {
            Secret::Password(word) => json!({ "auth": auth(word) }),
            Secret::Identity(token) => json!({ "auth": auth(""), "identitytoken": token }),
        };
        edit_auths(&mut config, |auths| {
            auths.retain(|known, _| host_of(known) != host_of(&key));
            auths.insert(key, entry);
        });
        self.write(&config)?;
        Ok(Kept::File(self.path.clone()))
    }

    /// Forgets who one is. Answers whether anything was known.
    pub fn remove(&self, registry: &str) -> Result<bool, RegistryError> {
        let mut config = self.read()?;
        let key = server(registry);
        let mut known = false;
        if let Some(helper) = helper(&config, registry) {
            known = ask_helper(&helper, registry)?.is_some();
            if known {
                run_helper(&helper, "erase", key)?;
            }
        }
        let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(known) };
        let before = auths.len();
        auths.retain(|known, _| host_of(known) != host_of(key));
        if auths.len() == before {
            return Ok(known);
        }
        self.write(&config)?;
        Ok(true)
    }

    fn read(&self) -> Result<Map<String, Value>, RegistryError> {
        let fail = |source| RegistryError::File { doing: "read", path: self.path.clone(), source };
        let file = match fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            file => file.map_err(fail)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| self.bad(error.to_string()))?;
        match value {
            Value::Object(map) => Ok(map),
            _ => Err(self.bad("it is no JSON object".to_owned())),
        }
    }

    /// Replaces the file, or what it links to, so that nobody sees half of it.
    fn write(&self, config: &Map<String, Value>) -> Result<(), RegistryError> {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let fail = |source| RegistryError::File { doing: "write", path: path.clone(), source };
        fs::create_dir_all(directory).map_err(fail)?;
        // Such files can be read and written by their owner only.
        let mut file =
            tempfile::Builder::new().prefix(".config.json-").tempfile_in(directory).map_err(fail)?;
        let text = serde_json::to_vec_pretty(config).map_err(|error| fail(error.into()))?;
        file.write_all(&text).and_then(|()| file.write_all(b"\n")).map_err(fail)?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&path).map_err(|persist| fail(persist.error)).map(drop)
    }

    fn bad(&self, reason: String) -> RegistryError {
        RegistryError::BadFile { path: self.path.clone(), reason }
    }
}

/// What docker's files call a registry.
fn server(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB } else { registry }
}

/// A key's host: docker's files have keys with and without `https://` and `/v1/`.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

/// Changes what is known by registry, and leaves it where it stands in the file.
fn edit_auths(config: &mut Map<String, Value>, edit: impl FnOnce(&mut Map<String, Value>)) {
    let slot = config.entry("auths").or_insert(Value::Null);
    let mut auths = match slot.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    edit(&mut auths);
    *slot = Value::Object(auths);
}

/// Who keeps the secrets of a registry.
fn helper(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = config.get("credHelpers").and_then(|helpers| {
        let helpers = helpers.as_object()?;
        let of = helpers.iter().find(|(key, _)| host_of(key) == host_of(server(registry)));
        of.and_then(|(_, name)| name.as_str())
    });
    let name = own.or_else(|| config.get("credsStore").and_then(Value::as_str));
    name.filter(|name| !name.is_empty()).map(str::to_owned)
}

fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credential>, RegistryError> {
    let answer = match run_helper(helper, "get", server(registry)) {
        // The one error that means "nobody": helpers have no other way to say it.
        Err(RegistryError::Helper { reason, .. }) if reason.contains("credentials not found") => {
            return Ok(None);
        }
        answer => answer?,
    };
    let bad = |reason: &str| RegistryError::Helper {
        helper: helper.to_owned(),
        verb: "get",
        reason: reason.to_owned(),
    };
    let value: Value = serde_json::from_str(&answer).map_err(|_| bad("its answer is no JSON"))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    Ok(match (username.as_str(), secret.is_empty()) {
        (_, true) => None,
        (TOKEN_USER, false) => Some(Credential { username: String::new(), secret: Secret::Identity(secret) }),
        _ => Some(Credential { username, secret: Secret::Password(secret) }),
    })
}

fn run_helper(helper: &str, verb: &'static str, input: &str) -> Result<String, RegistryError> {
    let failed = |reason: String| RegistryError::Helper { helper: helper.to_owned(), verb, reason };
    if helper.contains('/') {
        return Err(failed("a helper's name has no slash".to_owned()));
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says in its status what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_HELPER_BYTES).read_to_end(&mut answer).map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer).trim().to_owned();
    if status.success() { Ok(answer) } else { Err(failed(format!("{status}, {answer:?}"))) }
}

#[cfg(test)]
mod tests;
