//! Release files that were checked, and what the checks are.
//!
//! A [`VerifiedRelease`] is made by [`crate::client::Mirror::release`] only. What it promises can
//! be believed as far as its keys can.

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_deb::release::Release;
use knarr_pgp::Keyring;

use crate::MirrorError;

/// Where a suite comes from and who may sign it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Base addresses, tried in this order.
    pub mirrors: Vec<String>,
    /// The suite's name in the mirror.
    pub suite: String,
    /// Components to use.
    pub components: Vec<String>,
    /// The keys that may sign.
    pub keyring: Keyring,
}

/// A Release file whose signature, date and names were checked.
#[derive(Clone, Debug)]
pub struct VerifiedRelease {
    pub(crate) source: Source,
    pub(crate) release: Release,
    pub(crate) digest: Digest,
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

    /// What a person should know and what is no error.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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
const OLD_DAYS: i64 = 150;
/// Clocks differ; mirrors are made by other machines.
const FUTURE_SECONDS: i64 = 600;

pub(crate) fn check(
    url: &str,
    release: &Release,
    source: &Source,
    architecture: Architecture,
    now: Timestamp,
    seen: Option<Timestamp>,
    lenient: Leniency,
) -> Result<Vec<String>, MirrorError> {
    check_names(url, release, source, architecture)?;
    let mut warnings = Vec::new();
    if release.date.0 > now.0 + FUTURE_SECONDS {
        return Err(MirrorError::FromTheFuture { url: url.to_owned(), date: release.date, now });
    }
    match release.valid_until {
        Some(valid_until) if valid_until < now && !lenient.expired => {
            return Err(MirrorError::Expired { url: url.to_owned(), valid_until, now });
        }
        Some(valid_until) if valid_until < now => {
            warnings.push(format!("{url} expired at {valid_until}; accepted as asked"));
        }
        None if now.0 - release.date.0 > OLD_DAYS * 86_400 => {
            warnings.push(format!(
                "{url} is of {} and does not say how long it is valid: the mirror may be frozen",
                release.date
            ));
        }
        _ => {}
    }
    match seen {
        Some(seen) if release.date < seen && !lenient.rollback => {
            Err(MirrorError::Rollback { url: url.to_owned(), found: release.date, seen })
        }
        _ => Ok(warnings),
    }
}

fn check_names(
    url: &str,
    release: &Release,
    source: &Source,
    architecture: Architecture,
) -> Result<(), MirrorError> {
    let expected = source.suite.trim_end_matches('/');
    if release.suite != expected && release.codename != expected {
        let (suite, codename) = (release.suite.clone(), release.codename.clone());
        return Err(MirrorError::WrongSuite {
            url: url.to_owned(),
            suite,
            codename,
            expected: expected.to_owned(),
        });
    }
    // Security suites write components as `updates/main`.
    let bare = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(component) = source
        .components
        .iter()
        .find(|wanted| !release.components.iter().any(|has| bare(has) == bare(wanted)))
    {
        let found = release.components.clone();
        return Err(MirrorError::MissingComponent {
            url: url.to_owned(),
            component: component.clone(),
            found,
        });
    }
    if !release.architectures.iter().any(|has| has == architecture.name()) {
        let found = release.architectures.clone();
        return Err(MirrorError::MissingArchitecture {
            url: url.to_owned(),
            architecture: architecture.name().to_owned(),
            found,
        });
    }
    Ok(())
}
