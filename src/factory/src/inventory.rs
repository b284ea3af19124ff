//! The inventory: every file of an image, and how it came there.
//!
//! [`Brought`] is what packages unpacked to, kept with the build cache; [`Inventory::of`] looks at the finished layers
//! and says of each file that is really there which package, record or step it is of. Files that were left out or
//! removed later are in neither the layers nor the inventory.
//!
//! Spec: docs/formats/inventory.md.

use std::collections::{BTreeMap, HashMap};

use knarr_base::Digest;
use knarr_bootstrap::package::Package;
use knarr_mirror::cache::Cache;
use knarr_store::Store;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};

use crate::cache::LayerRecord;
use crate::layers::{is_of_packages, real_path};
use crate::packages::source_name;
use crate::sbom::licence;
use crate::{FactoryError, contents};

/// What is in an image, and how it came there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// Version of this format: 1.
    pub version: u32,
    /// The image's layers, the lowest first.
    pub layers: Vec<LayerNote>,
    /// What else than packages made files, in the order of the build.
    pub steps: Vec<String>,
    /// In the lock's order.
    pub packages: Vec<Record>,
    /// Every file and link, sorted by path.
    pub files: Vec<FileRecord>,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerNote {
    /// Its blob.
    pub digest: Digest,
    /// What made it.
    pub created_by: String,
}

/// What is known of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `all` included.
    pub architecture: String,
    /// The source package.
    pub source: String,
    /// The source package's version.
    pub source_version: String,
    /// Who looks after it.
    pub maintainer: String,
    /// Where it is at home.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
    /// Its licences as an SPDX expression; empty when no machine can read them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub licence: String,
    /// What it needs, by the names of packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<String>,
    /// Names that it stands for beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
}

/// A file or a link of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileRecord {
    /// Without leading `/`.
    pub path: String,
    /// Position of its layer.
    pub layer: usize,
    /// Position of the package that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<usize>,
    /// It is not of the package, but this program's record about it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub record: bool,
    /// Position of the step that made it, or that changed what a package brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// Digest of a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The same with SHA-1, which SPDX asks for: hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Target of a symbolic link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link: String,
}

/// What packages brought into a root, before any step of the recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// In the lock's order.
    pub packages: Vec<Record>,
    /// Path, position of the package, and whether it is a record about it.
    pub files: Vec<(String, usize, bool)>,
    /// Texts of licences that SPDX does not list, by their names.
    pub texts: BTreeMap<String, String>,
}

/// The version that this program writes.
pub const INVENTORY_VERSION: u32 = 1;
/// More links than this on the way to a file lead nowhere.
const MAX_LINKS: usize = 40;

impl Brought {
    /// What is in a root of what packages brought; `records` are the files that this program wrote about each.
    pub fn of(packages: &[Package], root: &Root, records: &[Vec<String>]) -> Result<Self, FactoryError> {
        let mut brought = Self::default();
        let mut files: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        for (position, package) in packages.iter().enumerate() {
            for entry in package.entries.iter().filter(|entry| entry.kind != Kind::Directory && entry.written)
            {
                if !package.lost.contains(&entry.path) {
                    files.insert(real_path(root, &entry.path)?, (position, false));
                }
            }
            for path in records.get(position).into_iter().flatten() {
                files.insert(path.clone(), (position, true));
            }
            let declared = declared(package, root)?;
            brought.packages.push(record(package, declared.expression));
            brought.texts.extend(declared.texts);
        }
        brought.files = files.into_iter().map(|(path, (package, about))| (path, package, about)).collect();
        Ok(brought)
    }
}

/// The licences that a package's copyright file declares, if it is there and machine-readable.
fn declared(package: &Package, root: &Root) -> Result<licence::Declared, FactoryError> {
    let path = format!("usr/share/doc/{}/copyright", package.control.name());
    // The directory may be a link to that of another package, which may have been left out.
    let Ok(meta) = root.stat(&path) else { return Ok(licence::Declared::default()) };
    if meta.kind != Kind::File || meta.size_bytes > knarr_tree::root::MAX_READ_BYTES {
        return Ok(licence::Declared::default());
    }
    Ok(licence::read(&String::from_utf8_lossy(&root.read(&path)?)).unwrap_or_default())
}

fn record(package: &Package, licence: String) -> Record {
    let control = &package.control;
    Record {
        name: control.name().to_owned(),
        version: control.version().to_owned(),
        architecture: control.architecture().to_owned(),
        source: source_name(package),
        source_version: source_version(package),
        maintainer: control.field("Maintainer").to_owned(),
        homepage: control.field("Homepage").to_owned(),
        licence,
        depends: names(package, &["Pre-Depends", "Depends"]),
        provides: names(package, &["Provides"]),
    }
}

/// `Source: name (version)`, or the package's own.
fn source_version(package: &Package) -> String {
    let source = package.control.field("Source");
    let version =
        source.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(version, _)| version.trim());
    version.unwrap_or_else(|| package.control.version()).to_owned()
}

fn names(package: &Package, fields: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for field in fields {
        // What is not understood here was refused before anything was unpacked.
        let relations =
            knarr_deb::relation::parse_relations(package.control.field(field)).unwrap_or_default();
        names.extend(relations.iter().flatten().map(|relation| relation.name.to_owned()));
    }
    names.sort();
    names.dedup();
    names
}

impl Inventory {
    /// What is in an image of these layers. `steps` are the layers that the build made, which may have become one.
    pub fn of(
        store: &Store,
        cache: &Cache,
        layers: &[LayerRecord],
        steps: &[LayerRecord],
        brought: Brought,
    ) -> Result<Self, FactoryError> {
        let (listing, sums) = contents::listing(store, cache, layers)?;
        let apart = (steps != layers).then(|| contents::listing(store, cache, steps)).transpose()?;
        let made: Vec<&LayerRecord> =
            steps.iter().filter(|layer| !is_of_packages(&layer.created_by)).collect();
        let step_of = |path: &str| {
            let layer = apart.as_ref().map_or(&listing, |(apart, _)| apart).files.get(path)?.layer;
            made.iter().position(|step| step.diff_id == steps[layer].diff_id)
        };
        let owners: HashMap<&str, (usize, bool)> =
            brought.files.iter().map(|(path, package, about)| (path.as_str(), (*package, *about))).collect();
        let files = listing.files.iter().filter(|(_, listed)| listed.kind != Kind::Directory);
        let files = files.map(|(path, listed)| {
            let owner = owners.get(path.as_str());
            FileRecord {
                path: path.clone(),
                layer: listed.layer,
                package: owner.map(|(package, _)| *package),
                record: owner.is_some_and(|(_, about)| *about),
                step: step_of(path),
                sha256: listed.digest,
                sha1: listed.digest.and_then(|digest| sums.get(&digest).cloned()).unwrap_or_default(),
                link: listed.link.clone(),
            }
        });
        let note = |layer: &LayerRecord| LayerNote {
            digest: layer.descriptor.digest,
            created_by: layer.created_by.clone(),
        };
        Ok(Self {
            version: INVENTORY_VERSION,
            layers: layers.iter().map(note).collect(),
            steps: made.iter().map(|step| step.created_by.clone()).collect(),
            files: files.collect(),
            packages: brought.packages,
        })
    }

    /// A file by its path, without leading `/`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileRecord> {
        let at = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        self.files.get(at)
    }

    /// Where a path really lies: every link on the way is followed, the last one only with `whole`.
    #[must_use]
    pub fn resolve(&self, path: &str, whole: bool) -> Option<String> {
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            let link = self.file(&done.join("/")).map(|file| file.link.as_str()).unwrap_or_default();
            let is_last = rest.iter().all(String::is_empty);
            if link.is_empty() || (is_last && !whole) {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            done.pop();
            if link.starts_with('/') {
                done.clear();
            }
            rest.extend(link.split('/').rev().map(str::to_owned));
        }
        Some(done.join("/"))
    }

    /// Whether there is a directory at a path.
    #[must_use]
    pub fn is_directory(&self, path: &str) -> bool {
        let below = format!("{path}/");
        path.is_empty() || self.files.iter().any(|file| file.path.starts_with(&below))
    }

    /// Files that a package brought and that are as it brought them, without links.
    pub fn files_of(&self, package: usize) -> impl Iterator<Item = &FileRecord> {
        let is_of = move |file: &&FileRecord| {
            file.package == Some(package) && !file.record && file.step.is_none() && file.sha256.is_some()
        };
        self.files.iter().filter(is_of)
    }
}
