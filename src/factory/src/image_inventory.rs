//! The inventory of an image: every file of it, and how it came there.
//!
//! [`ImageInventory::of`] looks at the finished layers and says of each file that is really there which package, record
//! or step it is of. Files that were left out or removed later are in neither the layers nor the inventory. What
//! packages brought is [`crate::inventory`]'s.
//!
//! Spec: docs/formats/inventory.md.

use std::collections::{BTreeSet, HashMap};

use knarr_base::Digest;
use knarr_mirror::cache::Cache;
use knarr_store::Store;
use knarr_tree::links::follow;
use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};

use crate::cache::LayerRecord;
use crate::inventory::{Brought, Record};
use crate::layers::is_of_packages;
use crate::{FactoryError, contents};

/// What is in an image, and how it came there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInventory {
    /// Version of this format: 1.
    pub version: u32,
    /// The image's layers, the lowest first.
    pub layers: Vec<LayerNote>,
    /// What else than packages made files, in the order of the build.
    pub steps: Vec<String>,
    /// In the lock's order, without their files.
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

/// The version that this program writes.
pub const INVENTORY_VERSION: u32 = 1;

impl ImageInventory {
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
        let owners = owners(&brought);
        let files = listing.files.iter().filter(|(_, listed)| listed.kind != Kind::Directory);
        let mut files: Vec<FileRecord> = files
            .map(|(path, listed)| {
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
            })
            .collect();
        let packages = keep_present(brought.inventory.packages, &mut files);
        let note = |layer: &LayerRecord| LayerNote {
            digest: layer.descriptor.digest,
            created_by: layer.created_by.clone(),
        };
        Ok(Self {
            version: INVENTORY_VERSION,
            layers: layers.iter().map(note).collect(),
            steps: made.iter().map(|step| step.created_by.clone()).collect(),
            files,
            packages,
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
        let link_of =
            |path: &str| self.file(path).map(|file| file.link.as_str()).filter(|link| !link.is_empty());
        follow(path, whole, link_of)
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

/// The package that each path is of, and whether it is a record about it.
fn owners(brought: &Brought) -> HashMap<&str, (usize, bool)> {
    let mut owners = HashMap::new();
    for (position, record) in brought.inventory.packages.iter().enumerate() {
        owners.extend(record.files.iter().map(|path| (path.as_str(), (position, false))));
    }
    for (position, records) in brought.records.iter().enumerate() {
        owners.extend(records.iter().map(|path| (path.as_str(), (position, true))));
    }
    owners
}

/// Packages of which nothing is in the image, not even a record, are not in it either.
fn keep_present(packages: Vec<Record>, files: &mut [FileRecord]) -> Vec<Record> {
    let present: BTreeSet<usize> = files.iter().filter_map(|file| file.package).collect();
    let moved: HashMap<usize, usize> = present.iter().enumerate().map(|(to, from)| (*from, to)).collect();
    for file in files {
        file.package = file.package.and_then(|from| moved.get(&from).copied());
    }
    let kept = packages.into_iter().enumerate().filter(|(position, _)| present.contains(position));
    kept.map(|(_, record)| Record { files: Vec::new(), ..record }).collect()
}

#[cfg(test)]
mod tests {
    use super::{FileRecord, ImageInventory, keep_present};
    use crate::inventory::Record;

    fn inventory(files: &[(&str, &str)]) -> ImageInventory {
        let file = |(path, link): &(&str, &str)| FileRecord {
            path: (*path).to_owned(),
            link: (*link).to_owned(),
            ..FileRecord::default()
        };
        let mut files: Vec<FileRecord> = files.iter().map(file).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        ImageInventory { files, ..ImageInventory::default() }
    }

    #[test]
    fn links_on_the_way_are_followed_and_never_out_of_the_root() {
        let inventory = inventory(&[
            ("bin", "usr/bin"),
            ("usr/bin/sh", "dash"),
            ("usr/bin/dash", ""),
            ("etc/os-release", "../usr/lib/os-release"),
            ("var/run", "/run"),
            ("a", "b"),
            ("b", "a"),
            ("up", "../../../bin"),
        ]);
        let check = |path: &str, whole: bool, expected: Option<&str>| {
            assert_eq!(inventory.resolve(path, whole).as_deref(), expected, "{path}");
        };
        check("bin/sh", false, Some("usr/bin/sh"));
        check("bin/sh", true, Some("usr/bin/dash"));
        check("/bin", false, Some("bin"));
        check("etc/os-release", true, Some("usr/lib/os-release"));
        check("var/run/x", false, Some("run/x"));
        check("up/./sh", false, Some("usr/bin/sh"));
        check("../../bin/../bin/sh", false, Some("usr/bin/sh"));
        check("a/x", false, None);
    }

    #[test]
    fn a_package_of_which_nothing_is_left_is_not_in_the_image() {
        let record =
            |name: &str| Record { name: name.to_owned(), files: vec!["x".to_owned()], ..Record::default() };
        let mut files = vec![FileRecord { package: Some(2), ..FileRecord::default() }, FileRecord::default()];
        let kept = keep_present(vec![record("a"), record("b"), record("c")], &mut files);
        assert_eq!(kept, [Record { name: "c".to_owned(), ..Record::default() }]);
        assert_eq!((files[0].package, files[1].package), (Some(0), None));
    }
}
