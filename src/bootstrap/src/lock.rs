//! The lock: every package of a root filesystem, pinned to its bytes.
//!
//! [`Lock`] is written as sorted TOML, so that a version-control diff of it reads well;
//! [`diff`] tells what changed between two. Choosing packages is `resolve`'s work.
//!
//! Spec: docs/formats/lock.md.

use std::collections::BTreeMap;
use std::path::Path;

use knarr_base::{Architecture, Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::BootstrapError;

/// What a root filesystem is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// Version of this format: 1.
    pub version: u32,
    /// The suite's name.
    pub suite: String,
    /// Debian's name of the architecture.
    pub architecture: Architecture,
    /// The variant that was resolved.
    pub variant: String,
    /// Packages asked for beyond the variant, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Packages refused, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Packages that were taken to be there although they are not, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assume: Vec<String>,
    /// Whether recommended packages came along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recommends: bool,
    /// Seconds since the epoch: the newest date of the releases below.
    pub time: Timestamp,
    /// The signed releases that the packages come from.
    #[serde(rename = "release", default)]
    pub releases: Vec<LockedRelease>,
    /// The packages, sorted by name and architecture.
    #[serde(rename = "package", default)]
    pub packages: Vec<LockedPackage>,
}

/// A signed release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedRelease {
    /// The suite's name in the mirror: `trixie-security`.
    pub suite: String,
    /// Base addresses of the mirrors, first to last.
    pub mirrors: Vec<String>,
    /// Its components.
    pub components: Vec<String>,
    /// Its date.
    pub date: Timestamp,
    /// Digest of the signed text.
    pub digest: Digest,
    /// The repository that it was added by; empty for the suite's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// Digest of the keys that could sign it, for a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<Digest>,
    /// Fingerprints of the keys that signed it, sorted; older locks do not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// The indices that it vouches for and packages were chosen from; older locks do not say.
    #[serde(rename = "index", default, skip_serializing_if = "Vec::is_empty")]
    pub indices: Vec<LockedIndex>,
}

/// An index of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedIndex {
    /// Its path below the Release file: `main/binary-amd64/Packages`.
    pub path: String,
    /// Digest of its text.
    pub sha256: Digest,
}

/// A package, pinned to its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `all` included.
    pub architecture: String,
    /// Position of its release in [`Lock::releases`].
    pub release: usize,
    /// Position of its index in that release's [`LockedRelease::indices`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: usize,
    /// Path below the mirror's address.
    pub path: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Digest,
    /// Part of the closure of the essential packages, configured before the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base: bool,
    /// Came along as a dependency: apt may remove it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

/// The format version that this program writes.
pub const LOCK_VERSION: u32 = 1;
const MAX_LOCK_BYTES: u64 = 64 << 20;

impl Lock {
    /// Reads a lock from a file.
    pub fn load(path: &Path) -> Result<Self, BootstrapError> {
        let io = |source| BootstrapError::File { path: path.to_owned(), doing: "read", source };
        let size_bytes = std::fs::metadata(path).map_err(io)?.len();
        if size_bytes > MAX_LOCK_BYTES {
            return Err(BootstrapError::LockTooLarge { path: path.to_owned(), size_bytes });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(io)?)
    }

    /// Parses the text of the lock named `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BootstrapError> {
        let bad = |reason: String| BootstrapError::BadLock { path: path.to_owned(), reason };
        let lock: Self = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        if lock.version != LOCK_VERSION {
            return Err(bad(format!("its version is {}, this program knows {LOCK_VERSION}", lock.version)));
        }
        for package in &lock.packages {
            if package.release >= lock.releases.len() {
                return Err(bad(format!(
                    "{} names release {}, which is not there",
                    package.name, package.release
                )));
            }
            let unsafe_path =
                package.path.starts_with('/') || package.path.split('/').any(|part| part == "..");
            if unsafe_path {
                return Err(bad(format!(
                    "{} has path {:?}, which leaves the mirror",
                    package.name, package.path
                )));
            }
        }
        Ok(lock)
    }

    /// The text of the file.
    pub fn to_text(&self) -> Result<String, BootstrapError> {
        let body = toml::to_string(self).map_err(|error| BootstrapError::BadLock {
            path: "(new lock)".into(),
            reason: error.to_string(),
        })?;
        Ok(format!("# Written by knarr: the exact bytes that a root filesystem is made of.\n{body}"))
    }

    /// `name/suite` of every repository beside the suite's own.
    #[must_use]
    pub fn repositories(&self) -> Vec<String> {
        let extra = self.releases.iter().filter(|release| !release.repository.is_empty());
        let mut names: Vec<String> = Vec::new();
        // After a rebuild with some updates only, one suite is there with two of its releases.
        for name in extra.map(|release| format!("{}/{}", release.repository, release.suite)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Sum of the sizes of the .debs in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.packages.iter().map(|package| package.size).sum()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// One line of what changed between two locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only in the second: name, version.
    Added(String, String),
    /// Only in the first: name, version.
    Removed(String, String),
    /// In both, with another version: name, old, new.
    Changed(String, String, String),
    /// In both, with one version and other bytes: name, version.
    Rebuilt(String, String),
}

/// What changed from `old` to `new`, by package name.
#[must_use]
pub fn diff(old: &Lock, new: &Lock) -> Vec<Change> {
    let (before, after) = (by_name(old), by_name(new));
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| change(name, before.get(name), after.get(name))).collect()
}

fn by_name(lock: &Lock) -> BTreeMap<(String, String), &LockedPackage> {
    let native = lock.architecture.name();
    let key = |package: &LockedPackage| {
        let foreign = package.architecture != native && package.architecture != "all";
        (package.name.clone(), if foreign { format!(":{}", package.architecture) } else { String::new() })
    };
    lock.packages.iter().map(|package| (key(package), package)).collect()
}

fn change(
    name: &(String, String),
    old: Option<&&LockedPackage>,
    new: Option<&&LockedPackage>,
) -> Option<Change> {
    let name = format!("{}{}", name.0, name.1);
    match (old, new) {
        (None, Some(new)) => Some(Change::Added(name, new.version.clone())),
        (Some(old), None) => Some(Change::Removed(name, old.version.clone())),
        (Some(old), Some(new)) if old.version != new.version => {
            Some(Change::Changed(name, old.version.clone(), new.version.clone()))
        }
        (Some(old), Some(new)) if old.sha256 != new.sha256 => {
            Some(Change::Rebuilt(name, new.version.clone()))
        }
        _ => None,
    }
}
