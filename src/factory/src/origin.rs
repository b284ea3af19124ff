//! Where an image comes from: lock, recipe, parameters and inventory, kept beside it.
//!
//! [`Origin::load`] reads them; [`Origin::why`] follows one file to a signed Release, [`verify`] compares every file
//! with the packages' own bytes, and [`Origin::lock`] is what updates are looked for with.
//!
//! Spec: OCI image-spec, "Guidelines for Artifact Usage"; docs/formats/inventory.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use knarr_base::{Digest, Timestamp};
use knarr_bootstrap::lock::{Lock, LockedIndex, LockedPackage, LockedRelease};
use knarr_deb::package_file::with_package;
use knarr_mirror::{Mirror, PoolFile};
use knarr_oci::{Descriptor, MAX_MANIFEST_BYTES, Manifest};
use knarr_recipe::{Recipe, TargetName};
use knarr_store::{Artifact, Image, Store};
use knarr_tree::changeset::{Listed, Listing};
use knarr_tree::unpack::{Kind, Limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::FactoryError;
use crate::image_inventory::{FileRecord, INVENTORY_VERSION, ImageInventory, LayerNote};
use crate::inventory::Record;

/// What the artifact is called.
pub const ARTIFACT: &str = "application/vnd.knarr.build.v1";
/// The media type of locks.
pub const LOCK: &str = "application/vnd.knarr.lock.v1+toml";
/// The media type of recipes.
pub const RECIPE: &str = "application/vnd.knarr.recipe.v1+toml";
const STAGES: &str = "application/vnd.knarr.stage-locks.v1+json";
const PARAMETERS: &str = "application/vnd.knarr.parameters.v1+json";
const INVENTORY: &str = "application/vnd.knarr.inventory.v1+json";
const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// Where an image comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What it was made of; an image on scratch has none.
    pub lock: Option<Lock>,
    /// What its stages were made of, by their names.
    pub stages: BTreeMap<String, Lock>,
    /// What it was made by, of one target, with all that it extends.
    pub recipe: Recipe,
    /// What else the build was told.
    pub parameters: Parameters,
    /// What is in it.
    pub inventory: ImageInventory,
}

/// What a build was told beside its recipe and its lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// Most layers for packages.
    pub layers: usize,
    /// Everything in one layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub squash: bool,
    /// How layers are compressed, when it was said: `zstd:3`, `gzip:9`, `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `SOURCE_DATE_EPOCH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The number of the user who works in a development container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What the recipe took of its context.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<ContextFile>,
}

/// A file or directory of the context, as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContextFile {
    /// Its path in the context.
    pub from: String,
    /// Whether the digest is one over all that is in a directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub directory: bool,
    /// Of a file's content.
    pub sha256: Digest,
}

/// How a file came into an image.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// The file, where it really lies.
    pub file: &'a FileRecord,
    /// Its layer.
    pub layer: Option<&'a LayerNote>,
    /// The step that made or changed it.
    pub step: Option<&'a str>,
    /// The package that it is of.
    pub package: Option<&'a Record>,
    /// What that package was pinned to.
    pub locked: Option<&'a LockedPackage>,
    /// The signed Release that vouches for it.
    pub release: Option<&'a LockedRelease>,
    /// The index in between.
    pub index: Option<&'a LockedIndex>,
}

impl Origin {
    /// The artifact that carries it.
    pub fn artifact(&self) -> Result<Artifact<'static>, FactoryError> {
        let mut documents = vec![(RECIPE, self.recipe.to_text()?.into_bytes())];
        if let Some(lock) = &self.lock {
            documents.push((LOCK, lock.to_text()?.into_bytes()));
        }
        if !self.stages.is_empty() {
            let texts = self.stages.iter().map(|(name, lock)| Ok((name, lock.to_text()?)));
            let texts = texts.collect::<Result<BTreeMap<_, _>, FactoryError>>()?;
            documents.push((STAGES, json(&texts)?));
        }
        documents.push((PARAMETERS, json(&self.parameters)?));
        documents.push((INVENTORY, json(&self.inventory)?));
        Ok(Artifact { kind: ARTIFACT, documents, annotations: BTreeMap::new() })
    }

    /// What is kept beside an image of this program's making.
    pub fn load(store: &Store, image: &Descriptor) -> Result<Self, FactoryError> {
        let none = || FactoryError::NoOrigin { image: image.digest };
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
        let lock = |text: &str| Lock::parse(Path::new("the image's lock"), text);
        let stages: BTreeMap<String, String> =
            document(STAGES)?.map(|text| parse("stage locks", &text)).transpose()?.unwrap_or_default();
        let stages = stages.into_iter().map(|(name, text)| Ok((name, lock(&text)?)));
        let inventory: ImageInventory = parse("inventory", &document(INVENTORY)?.ok_or_else(none)?)?;
        if inventory.version != INVENTORY_VERSION {
            let version = inventory.version;
            return Err(FactoryError::Request(format!(
                "the image's inventory has version {version}, this program knows {INVENTORY_VERSION}"
            )));
        }
        Ok(Self {
            lock: document(LOCK)?.map(|text| lock(&text)).transpose()?,
            stages: stages.collect::<Result<_, FactoryError>>()?,
            recipe: Recipe::parse("the image's recipe", &document(RECIPE)?.ok_or_else(none)?)?,
            parameters: document(PARAMETERS)?
                .map(|text| parse("parameters", &text))
                .transpose()?
                .unwrap_or_default(),
            inventory,
        })
    }

    /// What the image was made for.
    #[must_use]
    pub fn target(&self) -> TargetName {
        self.recipe.default_target()
    }

    /// How the file at a path came into the image; links in the directories above it are followed.
    #[must_use]
    pub fn why(&self, path: &str) -> Option<Trace<'_>> {
        let inventory = &self.inventory;
        let file = inventory.file(&inventory.resolve(path, false)?)?;
        let package = file.package.and_then(|position| inventory.packages.get(position));
        let lock = self.lock.as_ref();
        let locked = lock.zip(package).and_then(|(lock, package)| locked(lock, package));
        let release = lock.zip(locked).map(|(lock, locked)| &lock.releases[locked.release]);
        Some(Trace {
            file,
            layer: inventory.layers.get(file.layer),
            step: file.step.and_then(|step| inventory.steps.get(step)).map(String::as_str),
            package,
            locked,
            release,
            index: release.zip(locked).and_then(|(release, locked)| release.indices.get(locked.index)),
        })
    }
}

fn locked<'a>(lock: &'a Lock, package: &Record) -> Option<&'a LockedPackage> {
    let same = |locked: &&LockedPackage| {
        (&locked.name, &locked.architecture) == (&package.name, &package.architecture)
    };
    lock.packages.iter().find(same)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, FactoryError> {
    serde_json::to_vec(value).map_err(|error| FactoryError::Request(error.to_string()))
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, FactoryError> {
    serde_json::from_str(text)
        .map_err(|error| FactoryError::Request(format!("the image's {what} cannot be read: {error}")))
}

/// What the comparison of an image with its packages came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Files with the very bytes of their package.
    pub same: usize,
    /// Files of packages that a step gave other bytes.
    pub changed: Vec<Changed>,
    /// Files of packages with other bytes that no step accounts for, and files of no package that are not as they
    /// were made.
    pub foreign: Vec<Changed>,
    /// How many files are of no package.
    pub own: usize,
}

/// A file that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Without leading `/`.
    pub path: String,
    /// The package whose it was.
    pub package: Option<String>,
    /// The step that changed it.
    pub step: Option<String>,
}

/// Compares every file of an image with the .debs of its lock, which are fetched and checked where they are not at
/// hand: from `mirrors`, or without any from those that the lock names.
pub fn verify(
    store: &Store,
    image: &Image,
    origin: &Origin,
    mirror: &Mirror,
    mirrors: &[String],
) -> Result<Comparison, FactoryError> {
    let listing = image.listing(store, &mut |_, _, _| Ok(()))?;
    let lock = origin.lock.as_ref();
    let promised = lock.map(|lock| promised(lock, mirror, mirrors)).transpose()?.unwrap_or_default();
    // Directories that are links: `bin/x` of a package is `usr/bin/x` here.
    let real = |path: &str| origin.inventory.resolve(path, false);
    let mut claims: HashMap<String, Vec<&Claim>> = HashMap::new();
    for (path, of_path) in &promised {
        claims.entry(real(path).unwrap_or_else(|| path.clone())).or_default().extend(of_path);
    }
    let mut comparison = Comparison::default();
    for (path, listed) in files_of(&listing) {
        compare(path, listed, claims.get(path).map_or(&[], Vec::as_slice), origin, &mut comparison);
    }
    let gone = |file: &&FileRecord| !listing.files.contains_key(&file.path);
    for file in origin.inventory.files.iter().filter(gone) {
        comparison.foreign.push(changed(&file.path, origin, None));
    }
    Ok(comparison)
}

fn compare(path: &str, listed: &Listed, claims: &[&Claim], origin: &Origin, to: &mut Comparison) {
    let known = origin.inventory.file(path);
    let as_made = known.is_some_and(|file| file.sha256 == listed.digest);
    if claims.is_empty() {
        to.own += 1;
        if !as_made {
            to.foreign.push(changed(path, origin, None));
        }
        return;
    }
    if claims.iter().any(|claim| claim.digest == listed.digest) {
        to.same += 1;
        return;
    }
    let package = claims.first().map(|claim| claim.package.clone());
    let by_step = known.is_some_and(|file| file.step.is_some()) && as_made;
    let list = if by_step { &mut to.changed } else { &mut to.foreign };
    list.push(changed(path, origin, package));
}

fn changed(path: &str, origin: &Origin, package: Option<String>) -> Changed {
    let trace = origin.inventory.file(path);
    let step = trace.and_then(|file| file.step).and_then(|step| origin.inventory.steps.get(step));
    Changed { path: path.to_owned(), package, step: step.cloned() }
}

fn files_of(listing: &Listing) -> impl Iterator<Item = (&String, &Listed)> {
    listing.files.iter().filter(|(_, listed)| listed.kind == Kind::File)
}

/// What a package promises of a path; several may ship one that one of them replaces.
struct Claim {
    digest: Option<Digest>,
    package: String,
}

type Promised = BTreeMap<String, Vec<Claim>>;

fn promised(lock: &Lock, mirror: &Mirror, mirrors: &[String]) -> Result<Promised, FactoryError> {
    let files: Vec<PoolFile> = lock
        .packages
        .iter()
        .map(|package| {
            let release = &lock.releases[package.release];
            let by_hand = !mirrors.is_empty() && release.repository.is_empty();
            PoolFile {
                mirrors: if by_hand { mirrors.to_vec() } else { release.mirrors.clone() },
                path: package.path.clone(),
                size_bytes: package.size,
                digest: package.sha256,
            }
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
                let claim = Claim { digest: listed.digest, package: package.name.clone() };
                promised.entry(file).or_default().push(claim);
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

/// All that a recipe takes of its context, with its stages.
#[must_use]
pub fn context_paths(recipe: &Recipe) -> BTreeSet<String> {
    let stages = reached_stages(recipe);
    let all = std::iter::once(recipe).chain(&stages);
    all.flat_map(|one| {
        let files = one.files.iter().filter_map(|file| file.from.clone());
        files.chain(one.extra_certificates.iter().cloned()).collect::<Vec<_>>()
    })
    .collect()
}

/// The stages that a recipe's copies reach, each as it is built.
pub(crate) fn reached_stages(recipe: &Recipe) -> Vec<Recipe> {
    let mut waiting: Vec<String> = recipe.copies.iter().map(|copy| copy.stage.clone()).collect();
    let mut seen = BTreeSet::new();
    let mut stages = Vec::new();
    while let Some(name) = waiting.pop() {
        if let Some(stage) = recipe.stages.get(&name).filter(|_| seen.insert(name)) {
            waiting.extend(stage.copies.iter().map(|copy| copy.stage.clone()));
            stages.push(stage.clone().for_target(stage.default_target()));
        }
    }
    stages
}
