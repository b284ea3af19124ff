//! Suites: what a name such as `trixie` stands for.
//!
//! [`Suite::find`] answers for the suites that come with Knarr (`suites/*.toml`); [`Suite::parse`]
//! reads a file of the user's own, of the same form. Nothing here asks the network.
//!
//! Spec: docs/formats/suite.md.

use knarr_base::Architecture;
use serde::Deserialize;

use crate::MirrorError;
use crate::repository::Repository;

/// A suite, its pockets and the keys that sign them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Suite {
    /// Its code name.
    pub name: String,
    /// Other names that it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `debian` or `ubuntu`.
    pub distribution: String,
    /// Version of the distribution, empty when it has none.
    #[serde(default)]
    pub version: String,
    /// The distribution's own public mirror.
    pub mirror: String,
    /// The same for security updates.
    #[serde(default)]
    pub security_mirror: Option<String>,
    /// The mirror for architectures that the main one does not carry.
    #[serde(default)]
    pub ports_mirror: Option<String>,
    /// Address of a snapshot of the mirror, with `{timestamp}` in it.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The same for security updates.
    #[serde(default)]
    pub security_snapshot: Option<String>,
    /// Components used unless others are named.
    pub components: Vec<String>,
    /// Components that exist.
    #[serde(default)]
    pub all_components: Vec<String>,
    /// Debian names of the architectures that exist.
    pub architectures: Vec<Architecture>,
    /// Names of files in `keyrings/`, or paths.
    pub keyrings: Vec<String>,
    /// Where the keyring lies in a finished root, for apt.
    #[serde(default)]
    pub signed_by: String,
    /// Whether `/bin`, `/sbin` and `/lib` are links into `/usr`.
    #[serde(default)]
    pub usr_merge: bool,
    /// Suites beside it that belong to it.
    #[serde(default, rename = "pocket")]
    pub pockets: Vec<Pocket>,
}

/// A suite that belongs to another: updates, security.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pocket {
    /// `updates`, `security`, …
    pub name: String,
    /// Its name in the mirror.
    pub suite: String,
    /// Which mirror carries it: `main` or `security`.
    #[serde(default)]
    pub mirror: Role,
}

/// Which of a distribution's mirrors is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The main one.
    #[default]
    Main,
    /// The one with security updates.
    Security,
}

impl Suite {
    /// The suite of this name or alias.
    pub fn find(name: &str) -> Result<Self, MirrorError> {
        let all = Self::all()?;
        let known = all.iter().map(|suite| suite.name.clone()).collect();
        let found = all
            .into_iter()
            .find(|suite| suite.name == name || suite.aliases.iter().any(|alias| alias == name));
        found.ok_or_else(|| MirrorError::UnknownSuite { name: name.to_owned(), known })
    }

    /// What a sources file is of: the known suite that it names first, or else one that is described by
    /// the file alone.
    #[must_use]
    pub fn of_repository(first: &Repository) -> Self {
        let name = first.suites.first().map_or(first.name.as_str(), String::as_str);
        if let Ok(known) = Self::find(name) {
            return known;
        }
        let name = if name.ends_with('/') { first.name.clone() } else { name.to_owned() };
        let all = Architecture::names().into_iter().filter_map(|name| name.parse().ok());
        Self {
            name,
            aliases: Vec::new(),
            distribution: first.name.clone(),
            version: String::new(),
            mirror: first.uris.first().cloned().unwrap_or_default(),
            security_mirror: None,
            ports_mirror: None,
            snapshot: None,
            security_snapshot: None,
            components: first.components.clone(),
            all_components: first.components.clone(),
            architectures: all.collect(),
            keyrings: Vec::new(),
            signed_by: String::new(),
            // Everything that is released today is.
            usr_merge: true,
            pockets: Vec::new(),
        }
    }

    /// The suites that come with Knarr.
    pub fn all() -> Result<Vec<Self>, MirrorError> {
        SUITES.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    /// Reads the text of a suite file named `path`.
    pub fn parse(path: &str, text: &str) -> Result<Self, MirrorError> {
        toml::from_str(text)
            .map_err(|error| MirrorError::BadSuite { path: path.to_owned(), reason: error.to_string() })
    }

    /// The public mirror for an architecture.
    #[must_use]
    pub fn default_mirror(&self, role: Role, architecture: Architecture) -> &str {
        let main = matches!(architecture.name(), "amd64" | "i386");
        match (&self.ports_mirror, &self.security_mirror, role) {
            (Some(ports), ..) if !main => ports,
            (_, Some(security), Role::Security) => security,
            _ => &self.mirror,
        }
    }
}

/// Bytes of a keyring that comes with Knarr.
#[must_use]
pub fn builtin_keyring(name: &str) -> Option<&'static [u8]> {
    KEYRINGS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// Every keyring that comes with Knarr: name and bytes.
pub(crate) fn builtin_keyrings() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    KEYRINGS.iter().copied()
}

macro_rules! suite_files {
    ($($name:literal)*) => { &[$((concat!("suites/", $name, ".toml"), include_str!(concat!("../../../suites/", $name, ".toml")))),*] };
}

const SUITES: &[(&str, &str)] =
    suite_files!("trixie" "bookworm" "bullseye" "forky" "sid" "noble" "jammy" "resolute");

const KEYRINGS: &[(&str, &[u8])] = &[
    ("debian-archive-keyring.gpg", include_bytes!("../../../keyrings/debian-archive-keyring.gpg")),
    ("ubuntu-archive-keyring.gpg", include_bytes!("../../../keyrings/ubuntu-archive-keyring.gpg")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_file_parses_and_names_known_keyrings() {
        for suite in Suite::all().unwrap() {
            assert!(suite.keyrings.iter().all(|name| builtin_keyring(name).is_some()), "{}", suite.name);
            assert!(suite.components.iter().all(|component| suite.all_components.contains(component)));
            assert_eq!(Suite::find(&suite.name).unwrap(), suite);
        }
        assert_eq!(Suite::find("stable").unwrap().name, "trixie");
        assert!(Suite::find("trixy").unwrap_err().to_string().contains("trixie"));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let text = include_str!("../../../suites/sid.toml").replace("usr-merge", "usr-marge");
        let error = Suite::parse("mine.toml", &text).unwrap_err().to_string();
        assert!(
            error.contains("mine.toml") && error.contains("usr-marge") && error.contains("line"),
            "{error}"
        );
    }
}
