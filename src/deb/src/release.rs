//! Release files: what a suite promises of itself and of its indices.
//!
//! [`Release::parse`] reads the signed text; only SHA-256 sums count. Checking the signature is
//! `pgp`'s work, checking dates and names `mirror`'s.
//!
//! Spec: Debian Repository Format, "Release" files.

use std::collections::HashMap;

use knarr_base::{Digest, Timestamp};

use crate::DebError;
use crate::stanza::{Stanza, stanzas};

/// A parsed Release file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Who publishes it.
    pub origin: String,
    /// A second name of the publisher's.
    pub label: String,
    /// The suite: `stable`.
    pub suite: String,
    /// The suite's version: `13.8`.
    pub version: String,
    /// The code name: `trixie`.
    pub codename: String,
    /// When it was made.
    pub date: Timestamp,
    /// Until when it may be believed.
    pub valid_until: Option<Timestamp>,
    /// Debian names of architectures, `all` perhaps among them.
    pub architectures: Vec<String>,
    /// Components, perhaps with a directory before them (`updates/main`).
    pub components: Vec<String>,
    /// Indices can be fetched under their digest.
    pub acquire_by_hash: bool,
    /// Packages for all architectures stand in each architecture's own index.
    pub no_support_for_architecture_all: bool,
    /// Its packages are only taken when asked for.
    pub not_automatic: bool,
    /// What was taken from it is updated from it.
    pub but_automatic_upgrades: bool,
    /// Sizes and digests of indices by path below the suite's directory.
    pub files: HashMap<String, FileSum>,
}

/// What a Release file promises of one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSum {
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256.
    pub digest: Digest,
}

impl Release {
    /// Parses the text of a Release file.
    pub fn parse(text: &[u8]) -> Result<Self, DebError> {
        let stanza =
            stanzas(text).next().transpose()?.ok_or(DebError::MissingField { line: 1, field: "Date" })?;
        let get = |name| stanza.get(name).unwrap_or_default().to_owned();
        let words =
            |name| stanza.get(name).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
        let yes = |name| stanza.get(name).is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let date = stanza
            .get("Date")
            .ok_or_else(|| DebError::MissingField { line: stanza.line(), field: "Date" })?;
        Ok(Self {
            origin: get("Origin"),
            label: get("Label"),
            suite: get("Suite"),
            version: get("Version"),
            codename: get("Codename"),
            date: Timestamp::parse_release(date)?,
            valid_until: stanza.get("Valid-Until").map(Timestamp::parse_release).transpose()?,
            architectures: words("Architectures"),
            components: words("Components"),
            acquire_by_hash: yes("Acquire-By-Hash"),
            no_support_for_architecture_all: get("No-Support-for-Architecture-all") == "Packages",
            not_automatic: yes("NotAutomatic"),
            but_automatic_upgrades: yes("ButAutomaticUpgrades"),
            files: parse_files(&stanza)?,
        })
    }
}

fn parse_files(stanza: &Stanza<'_>) -> Result<HashMap<String, FileSum>, DebError> {
    let sums = stanza.get("SHA256").ok_or(DebError::WeakDigests)?;
    sums.lines().filter(|line| !line.trim().is_empty()).map(|line| parse_sum(stanza.line(), line)).collect()
}

fn parse_sum(line: usize, text: &str) -> Result<(String, FileSum), DebError> {
    let bad = |reason| DebError::BadField {
        line,
        field: "SHA256",
        found: text.chars().take(200).collect(),
        reason,
    };
    let mut words = text.split_ascii_whitespace();
    let (Some(digest), Some(size), Some(name), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("expected digest, size and name"));
    };
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(bad("the name leaves the suite's directory"));
    }
    let size_bytes = size.parse().map_err(|_| bad("the size is no number"))?;
    Ok((name.to_owned(), FileSum { size_bytes, digest: digest.parse()? }))
}

#[cfg(test)]
mod tests;
