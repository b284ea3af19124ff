//! The inventory of packages: which files each of them brought.
//!
//! It is kept with the build cache, so that a file's origin is known without the packages at hand; what is told of a
//! finished image is [`crate::image_inventory`]'s.
//!
//! Spec: docs/formats/inventory.md.

use std::collections::BTreeMap;

use knarr_bootstrap::package::Package;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};

use crate::FactoryError;
use crate::layers::real_path;
use crate::packages::source_name;
use crate::sbom::licence;

/// What an image's packages brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// Version of this format: 1.
    pub version: u32,
    /// In the lock's order.
    pub packages: Vec<Record>,
}

/// What one package brought.
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
    /// Its files and links that are in the image, without leading `/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// What an image's packages brought, what of it was left out, and what this program wrote about them: kept beside the
/// layers' record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// What is in the image.
    pub inventory: Inventory,
    /// Files of its packages that are not in it, and whose they are.
    pub left_out: BTreeMap<String, String>,
    /// Of each package the files that this program wrote about it.
    pub records: Vec<Vec<String>>,
    /// Texts of licences that SPDX does not list, by their names in the inventory's expressions.
    pub texts: BTreeMap<String, String>,
}

impl Brought {
    /// Adds to an inventory what else is known: licences are read from the root.
    pub fn of(
        mut inventory: Inventory,
        packages: &[Package],
        records: Vec<Vec<String>>,
        root: &Root,
    ) -> Result<Self, FactoryError> {
        let mut texts = BTreeMap::new();
        for record in &mut inventory.packages {
            let declared = declared(&record.name, root)?;
            record.licence = declared.expression;
            texts.extend(declared.texts);
        }
        Ok(Self { inventory, left_out: left_out(packages, root)?, records, texts })
    }
}

/// What packages have that is not in a root, and whose it is.
fn left_out(packages: &[Package], root: &Root) -> Result<BTreeMap<String, String>, FactoryError> {
    let mut left_out = BTreeMap::new();
    for package in packages {
        for entry in package.entries.iter().filter(|entry| entry.kind != Kind::Directory) {
            if !root.exists(&entry.path)? {
                left_out.insert(entry.path.clone(), package.control.name().to_owned());
            }
        }
    }
    Ok(left_out)
}

/// The licences that a package's copyright file declares, if it is there and machine-readable.
fn declared(package: &str, root: &Root) -> Result<licence::Declared, FactoryError> {
    let path = format!("usr/share/doc/{package}/copyright");
    // The directory may be a link to that of another package, which may have been left out.
    let Ok(meta) = root.stat(&path) else { return Ok(licence::Declared::default()) };
    if meta.kind != Kind::File || meta.size_bytes > knarr_tree::root::MAX_READ_BYTES {
        return Ok(licence::Declared::default());
    }
    Ok(licence::read(&String::from_utf8_lossy(&root.read(&path)?)).unwrap_or_default())
}

/// The version that this program writes.
pub const INVENTORY_VERSION: u32 = 1;

impl Inventory {
    /// What is in a root of what packages brought.
    pub fn of(packages: &[Package], root: &Root) -> Result<Self, FactoryError> {
        let records = packages.iter().map(|package| record(package, root)).collect::<Result<_, _>>()?;
        Ok(Self { version: INVENTORY_VERSION, packages: records })
    }

    /// The package that a path belongs to.
    #[must_use]
    pub fn owner(&self, path: &str) -> Option<&Record> {
        self.packages
            .iter()
            .find(|record| record.files.binary_search_by(|file| file.as_str().cmp(path)).is_ok())
    }
}

fn record(package: &Package, root: &Root) -> Result<Record, FactoryError> {
    let control = &package.control;
    let mut files = Vec::new();
    for entry in package.entries.iter().filter(|entry| entry.kind != Kind::Directory && entry.written) {
        let path = real_path(root, &entry.path)?;
        if !package.lost.contains(&entry.path) && root.exists(&path)? {
            files.push(path);
        }
    }
    files.sort();
    files.dedup();
    Ok(Record {
        name: control.name().to_owned(),
        version: control.version().to_owned(),
        architecture: control.architecture().to_owned(),
        source: source_name(package),
        source_version: source_version(package),
        maintainer: control.field("Maintainer").to_owned(),
        homepage: control.field("Homepage").to_owned(),
        licence: String::new(),
        depends: names(package, &["Pre-Depends", "Depends"]),
        provides: names(package, &["Provides"]),
        files,
    })
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
