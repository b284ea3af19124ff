//! What is said of a finished image, attached to it as referrers.
//!
//! [`Factory::attest`] attaches the build artifact, two bills of materials and the provenance, unless they are there
//! already. A build of which nothing changed looks up one record, and the store's index.

use std::collections::BTreeMap;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_bootstrap::lock::Lock;
use knarr_mirror::suite::Suite;
use knarr_oci::Descriptor;
use knarr_recipe::Recipe;
use knarr_recipe::TargetName;
use knarr_store::{Artifact, Ingest};
use knarr_tree::compress::Compression;

use crate::build::{Factory, Request};
use crate::cache::{self, Key, KeyMaker, LayerRecord};
use crate::files::{self, Context};
use crate::image_inventory::ImageInventory;
use crate::inventory::Brought;
use crate::origin::{ContextFile, Origin, Parameters, context_paths};
use crate::sbom::{Bill, cyclonedx, spdx};
use crate::{FactoryError, provenance};

/// What the packages of an image or stage came from.
#[derive(Clone, Debug)]
pub struct MadeOf {
    /// What was chosen.
    pub lock: Lock,
    /// The suite.
    pub suite: Suite,
    /// Where what they brought is remembered.
    pub brought: Key,
}

/// A finished image, and what is known of it.
pub(crate) struct Finished<'a> {
    pub request: &'a Request,
    pub recipe: &'a Recipe,
    pub architecture: Architecture,
    pub context: &'a Context,
    /// An image on scratch is made of nothing.
    pub made_of: Option<&'a MadeOf>,
    pub stages: &'a BTreeMap<String, Lock>,
    /// Of all steps.
    pub key: Key,
    pub layers: &'a [LayerRecord],
    /// The layers before they became one.
    pub steps: &'a [LayerRecord],
    pub image: &'a Descriptor,
    pub time: Timestamp,
}

/// Where what the packages of a step brought is remembered.
pub(crate) fn brought_key(packages: Key) -> Key {
    KeyMaker::new("brought").with(packages.as_bytes()).finish()
}

impl Factory<'_> {
    /// Attaches all that is said of an image. Answers with it, when it was not there.
    pub(crate) fn attest(
        &self,
        ingest: &Ingest<'_>,
        finished: &Finished<'_>,
    ) -> Result<Vec<Descriptor>, FactoryError> {
        let cache = self.mirror.cache();
        let key = finished.key()?;
        if !finished.request.fresh
            && let Some(known) = cache::load::<Vec<Digest>>(cache, key)
        {
            let entries = self.store.entries()?;
            let is_there = |digest: &Digest| entries.iter().any(|entry| entry.digest == *digest);
            if !known.is_empty() && known.iter().all(is_there) {
                return Ok(Vec::new());
            }
        }
        self.progress.phase("writing provenance");
        let (origin, texts) = self.origin(finished)?;
        let attached = ingest.attach_all(finished.image, &finished.artifacts(&origin, &texts)?)?;
        let digests: Vec<Digest> = attached.iter().map(|descriptor| descriptor.digest).collect();
        self.replace(finished.image.digest, &digests)?;
        cache::save(cache, key, &digests)?;
        // Only this machine remembers where the context was: images go to others.
        if !origin.parameters.context.is_empty()
            && let Ok(path) = std::path::absolute(&finished.request.context)
        {
            cache::save(cache, context_key(finished.image.digest), &path)?;
        }
        Ok(attached)
    }

    /// An image says one thing of itself: what an earlier build attached to the same bytes goes.
    fn replace(&self, image: Digest, attached: &[Digest]) -> Result<(), FactoryError> {
        let cache = self.mirror.cache();
        let key = KeyMaker::new("attached to").with(image.as_bytes()).finish();
        let old: Vec<Digest> = cache::load(cache, key).unwrap_or_default();
        for digest in old.iter().filter(|digest| !attached.contains(digest)) {
            self.store.forget(*digest)?;
        }
        cache::save(cache, key, &attached)
    }

    fn origin(&self, finished: &Finished<'_>) -> Result<(Origin, BTreeMap<String, String>), FactoryError> {
        let brought =
            finished.made_of.map(|made_of| cache::load::<Brought>(self.mirror.cache(), made_of.brought));
        let brought = match brought {
            Some(None) => {
                let reason = "what its packages brought is no longer in the cache: build it with --fresh";
                return Err(FactoryError::Request(reason.to_owned()));
            }
            Some(Some(brought)) => brought,
            None => Brought::default(),
        };
        let texts = brought.texts.clone();
        let origin = Origin {
            lock: finished.made_of.map(|made_of| made_of.lock.clone()),
            stages: finished.stages.clone(),
            recipe: finished.recipe.clone(),
            parameters: finished.parameters(context_files(finished.recipe, finished.context)?),
            inventory: ImageInventory::of(
                self.store,
                self.mirror.cache(),
                finished.layers,
                finished.steps,
                brought,
            )?,
        };
        Ok((origin, texts))
    }
}

impl Finished<'_> {
    /// All that the documents depend on: what the steps' key has of files and packages, and the rest as it is.
    fn key(&self) -> Result<Key, FactoryError> {
        let mut key = KeyMaker::new("attested")
            .with(self.image.digest.as_bytes())
            .with(self.key.as_bytes())
            .with(self.recipe.to_text()?.as_bytes())
            .with_json(&self.parameters(Vec::new()));
        if let Some(made_of) = self.made_of {
            key = key.with(made_of.brought.as_bytes()).with(format!("{:?}", made_of.suite).as_bytes());
        }
        for lock in self.stages.values() {
            key = key.with(lock.to_text()?.as_bytes());
        }
        Ok(key.finish())
    }

    fn parameters(&self, context: Vec<ContextFile>) -> Parameters {
        let request = self.request;
        let is_dev = self.recipe.default_target() == TargetName::Dev;
        Parameters {
            layers: request.max_layers,
            squash: request.squash,
            compression: request.compression.map(compression_text),
            time: request.time,
            uid: is_dev.then_some(request.dev_uid),
            context,
        }
    }

    fn artifacts(
        &self,
        origin: &Origin,
        texts: &BTreeMap<String, String>,
    ) -> Result<Vec<Artifact<'static>>, FactoryError> {
        let name = self.recipe.name.as_deref().unwrap_or("image");
        let suite = self.made_of.map(|made_of| &made_of.suite);
        let (image, architecture, created) = (self.image.digest, self.architecture, self.time);
        let packages = self.made_of.map(|made_of| (&made_of.lock, &made_of.suite));
        let bill = Bill { name, image, architecture, created, inventory: &origin.inventory, texts, packages };
        let subject = provenance::Subject { name, image, architecture, created, suite };
        let statement = provenance::statement(&subject, origin)?;
        let about = (provenance::PREDICATE_ANNOTATION.to_owned(), provenance::PREDICATE.to_owned());
        let bills = [
            (spdx::MEDIA_TYPE, spdx::write(&bill), BTreeMap::new()),
            (cyclonedx::MEDIA_TYPE, cyclonedx::write(&bill), BTreeMap::new()),
            (provenance::MEDIA_TYPE, statement, BTreeMap::from([about])),
        ];
        let mut artifacts = vec![origin.artifact()?];
        artifacts.extend(bills.into_iter().map(|(kind, bytes, annotations)| Artifact {
            kind,
            documents: vec![(kind, bytes)],
            annotations,
        }));
        Ok(artifacts)
    }
}

/// What a recipe takes of a context, as it is now.
pub fn context_files(recipe: &Recipe, context: &Context) -> Result<Vec<ContextFile>, FactoryError> {
    let file = |from: String| {
        let (directory, sha256) = files::digest(context, &from)?;
        Ok(ContextFile { from, directory, sha256 })
    };
    context_paths(recipe).into_iter().map(file).collect()
}

/// Where this machine remembers the context of an image.
#[must_use]
pub fn context_key(image: Digest) -> Key {
    KeyMaker::new("context of").with(image.as_bytes()).finish()
}

fn compression_text(compression: Compression) -> String {
    match compression {
        Compression::Zstd(level) => format!("zstd:{level}"),
        Compression::Gzip(level) => format!("gzip:{level}"),
        Compression::Xz(level) => format!("xz:{level}"),
        Compression::None => "none".to_owned(),
    }
}
