//! Release files that were checked, and what the checks are.
//!
//! A [`VerifiedRelease`] is made by [`crate::client::Mirror::release`] only. What it promises can
//! be believed as far as its keys can.

use std::time::Duration;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_deb::release::Release;
use knarr_pgp::Keyring;

use crate::MirrorError;
use crate::client::encode_path;

/// Where a suite comes from and who may sign it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Base addresses, tried in this order.
    pub mirrors: Vec<String>,
    /// The suite's name in the mirror; one that ends in `/` is a directory without components.
    pub suite: String,
    /// Components to use.
    pub components: Vec<String>,
    /// The keys that may sign.
    pub keyring: Keyring,
    /// The repository that it belongs to; empty for the suite's own.
    pub repository: String,
    /// How indices are asked for.
    pub by_hash: ByHash,
    /// It may be past its `Valid-Until`.
    pub ignore_valid_until: bool,
}

/// Whether indices are fetched under their digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByHash {
    /// Where the Release file says that they can be.
    #[default]
    Promised,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Source {
    /// Whether it is a directory of packages, without components.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.suite.ends_with('/')
    }

    /// The address of its Release file's directory at one of its mirrors.
    pub(crate) fn url(&self, mirror: &str) -> String {
        let mirror = mirror.trim_end_matches('/');
        let directory = if self.is_flat() { String::new() } else { "/dists".to_owned() };
        let suite = self.suite.trim_start_matches("./").trim_matches('/');
        let suite = if suite.is_empty() { String::new() } else { format!("/{}", encode_path(suite)) };
        format!("{mirror}{directory}{suite}")
    }

    /// What a person calls it: the suite, or for a directory the repository.
    #[must_use]
    pub fn label(&self) -> &str {
        if self.is_flat() { &self.repository } else { &self.suite }
    }
}

/// A Release file whose signature, date and names were checked.
#[derive(Clone, Debug)]
pub struct VerifiedRelease {
    pub(crate) source: Source,
    pub(crate) release: Release,
    pub(crate) digest: Digest,
    pub(crate) keys: Vec<String>,
    pub(crate) url: String,
    /// Bytes a second at which it came.
    pub(crate) rate: f64,
    pub(crate) warnings: Vec<String>,
}

impl VerifiedRelease {
    /// Where it came from.
    #[must_use]
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// What it says.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.release
    }

    /// Digest of the signed text.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Fingerprints of the keys that signed it and are trusted, sorted.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// What a person should know and what is no error.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) const fn by_hash(&self) -> bool {
        match self.source.by_hash {
            ByHash::Promised => self.release.acquire_by_hash,
            ByHash::Always => true,
            ByHash::Never => false,
        }
    }

    /// The priority that apt would give its packages.
    #[must_use]
    pub const fn pin(&self) -> i32 {
        match (self.release.not_automatic, self.release.but_automatic_upgrades) {
            (true, false) => 1,
            (true, true) => 100,
            _ => 500,
        }
    }
}

/// What is given up on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    /// A Release file past its `Valid-Until` is accepted.
    pub expired: bool,
    /// A Release file older than one seen before is accepted.
    pub rollback: bool,
}

/// A stable Release without `Valid-Until` that is older than this deserves a warning.
const OLD_DAYS: u64 = 150;
/// Clocks differ; mirrors are made by other machines.
const FUTURE_SECONDS: i64 = 600;

/// What a Release file is held against.
#[derive(Clone, Copy)]
pub(crate) struct Expect<'a> {
    pub source: &'a Source,
    pub architecture: Architecture,
    pub now: Timestamp,
    pub max_age: Option<Duration>,
    pub lenient: Leniency,
}

impl Expect<'_> {
    /// All checks but the signature's; `seen` is the newest date known. Answers with warnings.
    pub(crate) fn check(
        &self,
        url: &str,
        release: &Release,
        seen: Option<Timestamp>,
    ) -> Result<Vec<String>, MirrorError> {
        self.check_suite(url, release)?;
        self.check_offer(url, release)?;
        let warnings = self.check_dates(url, release)?;
        match seen {
            Some(seen) if release.date < seen && !self.lenient.rollback => {
                Err(MirrorError::Rollback { url: url.to_owned(), found: release.date, seen })
            }
            _ => Ok(warnings),
        }
    }

    /// Ubuntu's `noble-updates` and `noble-proposed` have the code name `noble` and are signed by the
    /// same key: whoever can change what we fetch must not be able to give one for the other.
    fn check_suite(&self, url: &str, release: &Release) -> Result<(), MirrorError> {
        // A directory is what its address says: its Release file need not name it.
        if self.source.is_flat() {
            return Ok(());
        }
        let expected = self.source.suite.trim_matches('/');
        let pocket_of =
            |name: &str| release.suite.strip_prefix(name).is_some_and(|rest| rest.starts_with(['-', '/']));
        if release.suite == expected || (release.codename == expected && !pocket_of(expected)) {
            return Ok(());
        }
        Err(MirrorError::WrongSuite {
            url: url.to_owned(),
            suite: release.suite.clone(),
            codename: release.codename.clone(),
            expected: expected.to_owned(),
        })
    }

    fn check_offer(&self, url: &str, release: &Release) -> Result<(), MirrorError> {
        // Security suites write components as `updates/main`.
        let bare = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let has = |wanted: &String| release.components.iter().any(|has| bare(has) == bare(wanted));
        if let Some(component) = self.source.components.iter().find(|wanted| !has(wanted)) {
            return Err(MirrorError::MissingComponent {
                url: url.to_owned(),
                component: component.clone(),
                found: release.components.clone(),
            });
        }
        let serves = |has: &String| has == self.architecture.name() || has == "all";
        // `all` alone is enough for a repository of scripts; a directory's Release file may name none.
        let enough = if self.source.repository.is_empty() {
            release.architectures.iter().any(|has| has == self.architecture.name())
        } else {
            release.architectures.iter().any(serves) || self.source.is_flat()
        };
        if !enough {
            return Err(MirrorError::MissingArchitecture {
                url: url.to_owned(),
                architecture: self.architecture.name().to_owned(),
                found: release.architectures.clone(),
            });
        }
        Ok(())
    }

    fn check_dates(&self, url: &str, release: &Release) -> Result<Vec<String>, MirrorError> {
        let (url, date, now) = (url.to_owned(), release.date, self.now);
        if date.0 > now.0 + FUTURE_SECONDS {
            return Err(MirrorError::FromTheFuture { url, date, now });
        }
        let age = u64::try_from(now.0 - date.0).unwrap_or(0);
        let mut warnings = Vec::new();
        let lenient = self.lenient.expired || self.source.ignore_valid_until;
        match release.valid_until {
            Some(valid_until) if valid_until < now && !lenient => {
                return Err(MirrorError::Expired { url, valid_until, now });
            }
            Some(valid_until) if valid_until < now => {
                warnings.push(format!("{url} expired at {valid_until}; accepted as asked"));
            }
            None if age > OLD_DAYS * 86_400 => warnings.push(format!(
                "{url} is of {date} and does not say how long it is valid: the mirror may be frozen"
            )),
            _ => {}
        }
        match self.max_age {
            Some(max_age) if age > max_age.as_secs() => {
                Err(MirrorError::TooOld { url, date, max_age_days: max_age.as_secs() / 86_400 })
            }
            _ => Ok(warnings),
        }
    }
}

#[cfg(test)]
mod tests;
