//! Bills of materials: what an image is made of, in the forms that others read.
//!
//! [`Bill`] is all that is told, [`spdx::write`] and [`cyclonedx::write`] make documents of it. All of it is pure, and
//! the same bill gives the same bytes: times are the image's, and identifiers follow from its digest.
//!
//! Spec: SPDX 2.3; CycloneDX 1.6; the package URL specification; docs/formats/provenance.md.

pub mod cyclonedx;
pub mod licence;
pub mod spdx;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_bootstrap::lock::{Lock, LockedPackage, LockedRelease};
use knarr_mirror::suite::{Role, Suite};
use knarr_oci::Platform;

use crate::image_inventory::{FileRecord, ImageInventory};
use crate::inventory::Record;

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Bill<'a> {
    /// What the image is called without a registry, for people.
    pub name: &'a str,
    /// Its manifest.
    pub image: Digest,
    /// For which machine it is.
    pub architecture: Architecture,
    /// Its time.
    pub created: Timestamp,
    /// Its packages and files.
    pub inventory: &'a ImageInventory,
    /// Texts of licences that SPDX does not list.
    pub texts: &'a BTreeMap<String, String>,
    /// What its packages were pinned to, and the suite that they are of.
    pub packages: Option<(&'a Lock, &'a Suite)>,
}

/// A package with all that is told of it.
pub(crate) struct Part<'a> {
    pub record: &'a Record,
    pub position: usize,
    pub purl: String,
    pub locked: Option<&'a LockedPackage>,
    /// Where everybody finds its .deb.
    pub url: Option<String>,
}

impl<'a> Bill<'a> {
    pub(crate) fn parts(&self) -> Vec<Part<'a>> {
        let locked: HashMap<(&str, &str), &LockedPackage> = self
            .packages
            .iter()
            .flat_map(|(lock, _)| &lock.packages)
            .map(|package| ((package.name.as_str(), package.architecture.as_str()), package))
            .collect();
        let part = |(position, record): (usize, &'a Record)| {
            let locked = locked.get(&(record.name.as_str(), record.architecture.as_str())).copied();
            let suite = self.packages.map(|(_, suite)| suite);
            let url = self.packages.zip(locked).map(|((lock, suite), package)| {
                pool_url(suite, self.architecture, &lock.releases[package.release], &package.path)
            });
            Part { record, position, purl: deb_purl(record, suite), locked, url }
        };
        self.inventory.packages.iter().enumerate().map(part).collect()
    }

    /// Positions of the packages that each package needs and that are in the image.
    pub(crate) fn needs(&self) -> Vec<BTreeSet<usize>> {
        let packages = &self.inventory.packages;
        let mut names: HashMap<&str, Vec<usize>> = HashMap::new();
        for (position, record) in packages.iter().enumerate() {
            for name in std::iter::once(&record.name).chain(&record.provides) {
                names.entry(name).or_default().push(position);
            }
        }
        let needs = |(own, record): (usize, &Record)| {
            let found = record.depends.iter().filter_map(|name| names.get(name.as_str())).flatten().copied();
            found.filter(|position| *position != own).collect()
        };
        packages.iter().enumerate().map(needs).collect()
    }

    /// Files that are of no package, or that a step changed; links are none.
    pub(crate) fn own_files(&self) -> impl Iterator<Item = &'a FileRecord> {
        let own = |file: &&FileRecord| file.package.is_none() || file.record || file.step.is_some();
        self.inventory.files.iter().filter(|file| file.sha256.is_some()).filter(own)
    }

    /// How a file that is of no package came there.
    pub(crate) fn made_by(&self, file: &FileRecord) -> String {
        let record = file.package.and_then(|position| self.inventory.packages.get(position));
        match (file.step.and_then(|step| self.inventory.steps.get(step)), record) {
            (Some(step), Some(package)) => format!("{step}, in place of a file of {}", package.name),
            (Some(step), None) => step.clone(),
            (None, Some(package)) => format!("knarr: what is known of {}", package.name),
            (None, None) => "knarr".to_owned(),
        }
    }

    /// The image itself as a package URL.
    pub(crate) fn purl(&self) -> String {
        let name = encode(&self.name.to_lowercase());
        let digest = encode(&self.image.to_string());
        format!("pkg:oci/{name}@{digest}?arch={}", Platform::of(self.architecture).architecture)
    }

    /// A UUID that follows from the image and a word (RFC 9562, version 8).
    pub(crate) fn uuid(&self, word: &str) -> String {
        let mut raw = [0; 16];
        raw.copy_from_slice(&Digest::of(format!("{word} {}", self.image).as_bytes()).as_bytes()[..16]);
        raw[6] = raw[6] & 0x0f | 0x80;
        raw[8] = raw[8] & 0x3f | 0x80;
        let hex = crate::contents::hex(&raw);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// `pkg:deb/debian/NAME@VERSION?arch=…&distro=debian-13`.
fn deb_purl(record: &Record, suite: Option<&Suite>) -> String {
    let distribution = suite.map_or("debian", |suite| &suite.distribution);
    let version =
        suite.map_or("", |suite| if suite.version.is_empty() { &suite.name } else { &suite.version });
    let distro = if version.is_empty() {
        String::new()
    } else {
        format!("&distro={}-{}", encode(distribution), encode(version))
    };
    let (name, of, arch) = (encode(&record.name), encode(&record.version), encode(&record.architecture));
    format!("pkg:deb/{}/{name}@{of}?arch={arch}{distro}", encode(distribution))
}

/// Percent-encoding of everything that is not unreserved.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Where everybody finds a file of a release: on the suite's public mirror, or for a repository where it was found.
#[must_use]
pub fn public_mirror<'a>(
    suite: &'a Suite,
    architecture: Architecture,
    release: &'a LockedRelease,
) -> &'a str {
    if !release.repository.is_empty() {
        return release.mirrors.first().map_or("", String::as_str);
    }
    let pocket = suite.pockets.iter().find(|pocket| pocket.suite == release.suite);
    suite.default_mirror(pocket.map_or(Role::Main, |pocket| pocket.mirror), architecture)
}

/// The address of a pool file.
#[must_use]
pub fn pool_url(suite: &Suite, architecture: Architecture, release: &LockedRelease, path: &str) -> String {
    let mirror = public_mirror(suite, architecture, release);
    let path: Vec<String> =
        path.split('/').map(|part| encode(part).replace("%2B", "+").replace("%3A", ":")).collect();
    format!("{}/{}", mirror.trim_end_matches('/'), path.join("/"))
}

/// Name and address of a maintainer.
pub(crate) fn person(maintainer: &str) -> (&str, Option<&str>) {
    match maintainer.split_once('<') {
        Some((name, rest)) => {
            let address = rest.trim_end().trim_end_matches('>').trim();
            (name.trim().trim_matches('"'), Some(address).filter(|address| address.contains('@')))
        }
        None => (maintainer.trim(), None),
    }
}

/// An address that may stand in a document: homepages are typed by people.
pub(crate) fn web_address(text: &str) -> Option<&str> {
    let text = text.trim();
    let fits =
        |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}');
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    (is_web && text.chars().all(fits) && !text.contains(['[', ']'])).then_some(text)
}

/// What the distribution calls itself, with its version.
pub(crate) fn system(suite: &Suite) -> (String, &str) {
    let mut name = suite.distribution.clone();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    (name, if suite.version.is_empty() { &suite.name } else { &suite.version })
}

pub(crate) const TOOL: &str = "knarr";
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests;
