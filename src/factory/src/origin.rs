//! Where an image comes from: lock, recipe and inventory, kept beside it.
//!
//! [`Origin::load`] reads them; [`Origin::why`] follows one file to a signed Release, [`verify`] compares every file
//! with the packages' own bytes, and [`Origin::lock`] is what updates are looked for with.
//!
//! Spec: OCI image-spec, "Guidelines for Artifact Usage"; docs/formats/inventory.md.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use knarr_base::Digest;
use knarr_bootstrap::lock::{Lock, LockedPackage};
use knarr_deb::package_file::with_package;
use knarr_mirror::{Mirror, PoolFile};
use knarr_oci::{Descriptor, MAX_MANIFEST_BYTES, Manifest};
use knarr_recipe::{Recipe, TargetName};
use knarr_store::{Image, Ingest, Store};
use knarr_tree::changeset::{Listed, Listing};
use knarr_tree::unpack::{Kind, Limits};

use crate::FactoryError;
use crate::inventory::{Inventory, Record};

/// What the artifact is called.
pub const ARTIFACT: &str = "application/vnd.knarr.build.v1";
const LOCK: &str = "application/vnd.knarr.lock.v1+toml";
const RECIPE: &str = "application/vnd.knarr.recipe.v1+toml";
const INVENTORY: &str = "application/vnd.knarr.inventory.v1+json";
const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// Where an image comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it was made of; an image on scratch has none.
    pub lock: Option<Lock>,
    /// What it was made by, of one target, with all that it extends.
    pub recipe: Recipe,
    /// What its packages brought.
    pub inventory: Inventory,
}

impl Origin {
    /// Keeps it beside an image.
    pub fn attach(&self, ingest: &Ingest<'_>, image: &Descriptor) -> Result<Descriptor, FactoryError> {
        let mut documents = vec![(RECIPE, self.recipe.to_text()?.into_bytes())];
        if let Some(lock) = &self.lock {
            documents.push((LOCK, lock.to_text()?.into_bytes()));
        }
        let inventory =
            serde_json::to_vec(&self.inventory).map_err(|error| FactoryError::Request(error.to_string()))?;
        documents.push((INVENTORY, inventory));
        Ok(ingest.attach(image, ARTIFACT, &documents)?)
    }

    /// What is kept beside an image of this program's making.
    pub fn load(store: &Store, image: &Descriptor) -> Result<Self, FactoryError> {
        let none = || {
            FactoryError::Request(format!(
                "image {} was not made by `knarr build`: nothing is known of its origin",
                image.digest
            ))
        };
        let mut referrers = store.referrers(image.digest)?;
        referrers.retain(|referrer| referrer.artifact_type.as_deref() == Some(ARTIFACT));
        let artifact = referrers.last().ok_or_else(none)?;
        let manifest = Manifest::parse(&store.read(artifact, MAX_MANIFEST_BYTES)?)
            .map_err(knarr_store::StoreError::from)?;
        let document = |kind: &str| -> Result<Option<String>, FactoryError> {
            let Some(layer) = manifest.layers.iter().find(|layer| layer.media_type == kind) else {
                return Ok(None);
            };
            Ok(Some(String::from_utf8_lossy(&store.read(layer, MAX_DOCUMENT_BYTES)?).into_owned()))
        };
        let lock =
            document(LOCK)?.map(|text| Lock::parse(Path::new("the image's lock"), &text)).transpose()?;
        let recipe = Recipe::parse("the image's recipe", &document(RECIPE)?.ok_or_else(none)?)?;
        let inventory = serde_json::from_str(&document(INVENTORY)?.ok_or_else(none)?).map_err(|error| {
            FactoryError::Request(format!("the image's inventory cannot be read: {error}"))
        })?;
        Ok(Self { lock, recipe, inventory })
    }

    /// What the image was made for.
    #[must_use]
    pub fn target(&self) -> TargetName {
        self.recipe.default_target()
    }

    /// The package and the pinned .deb that a path came with.
    #[must_use]
    pub fn why(&self, path: &str) -> Option<(&Record, Option<&LockedPackage>)> {
        let path = path.trim_start_matches('/');
        let owner = self.inventory.owner(path).or_else(|| self.inventory.owner(&format!("usr/{path}")))?;
        let locked = self.lock.as_ref().and_then(|lock| {
            let same = |package: &&LockedPackage| {
                (&package.name, &package.architecture) == (&owner.name, &owner.architecture)
            };
            lock.packages.iter().find(same)
        });
        Some((owner, locked))
    }
}

/// What the comparison of an image with its packages came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Files with the very bytes of their package.
    pub same: usize,
    /// Files of packages with other bytes: path and package.
    pub changed: Vec<(String, String)>,
    /// Files that no package has.
    pub own: Vec<String>,
}

/// Compares every file of an image with the .debs of its lock, which are fetched and checked where they are not at
/// hand.
pub fn verify(
    store: &Store,
    image: &Image,
    origin: &Origin,
    mirror: &Mirror,
) -> Result<Comparison, FactoryError> {
    let listing = image.listing(store, &mut |_, _, _| Ok(()))?;
    let Some(lock) = &origin.lock else {
        return Ok(Comparison {
            own: files_of(&listing).map(|(path, _)| path.clone()).collect(),
            ..Comparison::default()
        });
    };
    let promised = promised(lock, mirror)?;
    let mut comparison = Comparison::default();
    for (path, listed) in files_of(&listing) {
        let old_name = path.strip_prefix("usr/").unwrap_or(path);
        let claims = promised.get(path.as_str()).into_iter().chain(promised.get(old_name)).flatten();
        let claims: Vec<&(Option<Digest>, String)> = claims.collect();
        match claims.as_slice() {
            [] => comparison.own.push(path.clone()),
            claims if claims.iter().any(|(digest, _)| *digest == listed.digest) => comparison.same += 1,
            [(_, package), ..] => comparison.changed.push((path.clone(), package.clone())),
        }
    }
    Ok(comparison)
}

fn files_of(listing: &Listing) -> impl Iterator<Item = (&String, &Listed)> {
    listing.files.iter().filter(|(_, listed)| listed.kind == Kind::File)
}

/// What packages promise of a path; several may ship one that one of them replaces.
type Promised = BTreeMap<String, Vec<(Option<Digest>, String)>>;

fn promised(lock: &Lock, mirror: &Mirror) -> Result<Promised, FactoryError> {
    let files: Vec<PoolFile> = lock
        .packages
        .iter()
        .map(|package| PoolFile {
            mirrors: lock.releases[package.release].mirrors.clone(),
            path: package.path.clone(),
            size_bytes: package.size,
            digest: package.sha256,
        })
        .collect();
    let ready = Mutex::new(vec![PathBuf::new(); files.len()]);
    let keep = |position: usize, path: PathBuf| {
        ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[position] = path;
    };
    mirror.pool(&files, &keep, &|_| {}, knarr_linux::signals::interrupted())?;
    let ready = ready.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut promised = Promised::new();
    for (package, path) in lock.packages.iter().zip(ready) {
        for (file, listed) in contents(&path)?.files {
            if listed.kind == Kind::File {
                promised.entry(file).or_default().push((listed.digest, package.name.clone()));
            }
        }
    }
    Ok(promised)
}

/// What a .deb unpacks to.
fn contents(path: &Path) -> Result<Listing, FactoryError> {
    let fail = |source: io::Error| FactoryError::File { doing: "open", path: path.to_owned(), source };
    let file = BufReader::with_capacity(256 << 10, File::open(path).map_err(fail)?);
    with_package(file, |_, data| {
        let mut listing = Listing::default();
        listing.add_layer(data, &Limits::default(), &mut |_, _| Ok(()))?;
        Ok::<_, FactoryError>(listing)
    })
}
