//! Where a build stands: layers that are made, and perhaps the root that they come to.

use std::collections::BTreeMap;

use knarr_bootstrap::lock::Lock;
use knarr_bootstrap::package::Package;
use knarr_bootstrap::stage::Stage;
use knarr_bootstrap::target::{Format, Target};
use knarr_mirror::cache::Cache;
use knarr_store::{Store, layers};
use knarr_tree::changes::FsSnapshot;
use knarr_tree::root::Root;

use crate::FactoryError;
use crate::attest::MadeOf;
use crate::cache::{Key, LayerRecord};

/// A root that is there to be worked on.
#[derive(Debug)]
pub struct Live {
    /// Holds the root; it is gone with this value.
    pub stage: Stage,
    /// The root.
    pub root: Root,
}

/// Where a build stands.
#[derive(Debug)]
pub struct State {
    /// Of all that was done so far.
    pub key: Key,
    /// The layers so far, the lowest first.
    pub layers: Vec<LayerRecord>,
    /// The root, if a step made it or needed it.
    pub live: Option<Live>,
    /// How many of the layers are those of packages; what lies above is of the recipe.
    pub package_layers: usize,
    /// What its packages came from.
    pub made_of: Option<MadeOf>,
    /// What the stages that it took from were made of.
    pub stages: BTreeMap<String, Lock>,
}

/// What lies in a root and never in an image.
#[must_use]
pub fn is_of_the_run(path: &str) -> bool {
    let inside = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
    inside("dev") || inside("proc") || inside("sys") || path == "etc/.pwd.lock"
}

impl Live {
    /// An empty root in memory, for what unpacks to about so many bytes.
    pub fn empty(unpacked_bytes: u64) -> Result<Self, FactoryError> {
        let target = Target { format: Format::Tar, path: None };
        // A stage reckons with .debs, which unpack to some four times their size.
        let stage = Stage::create(&target, unpacked_bytes / 4)?;
        let root = Root::open(stage.root())?;
        Ok(Self { stage, root })
    }

    /// All that a step could change.
    pub fn snapshot(&self) -> Result<FsSnapshot, FactoryError> {
        Ok(FsSnapshot::take(&self.root, &is_of_the_run)?)
    }
}

impl State {
    /// Nothing yet.
    #[must_use]
    pub const fn empty(key: Key) -> Self {
        Self {
            key,
            layers: Vec::new(),
            live: None,
            package_layers: 0,
            made_of: None,
            stages: BTreeMap::new(),
        }
    }

    /// The root; it is unpacked from the layers when no step left it.
    pub fn live(&mut self, store: &Store, rootless: bool) -> Result<&Live, FactoryError> {
        if self.live.is_none() {
            let bytes: u64 = self.layers.iter().map(|layer| layer.descriptor.size * 6).sum();
            let live = Live::empty(bytes)?;
            for layer in &self.layers {
                layers::unpack_layer(store, &layer.descriptor, layer.diff_id, &live.root, rootless)?;
            }
            self.live = Some(live);
        }
        self.live.as_ref().ok_or_else(|| FactoryError::Request("the root is gone".to_owned()))
    }

    /// Moves on by a step: what is known of it, or else `work`, which is given the root.
    pub fn step(
        &mut self,
        key: Key,
        cache: &Cache,
        store: &Store,
        rootless: bool,
        work: impl FnOnce(&Live) -> Result<Vec<LayerRecord>, FactoryError>,
    ) -> Result<bool, FactoryError> {
        self.key = key;
        if let Some(mut known) = crate::cache::layers(cache, store, key) {
            self.layers.append(&mut known);
            // A root from before this step is of no more use.
            self.live = None;
            return Ok(true);
        }
        let mut made = work(self.live(store, rootless)?)?;
        crate::cache::save(cache, key, &made)?;
        self.layers.append(&mut made);
        Ok(false)
    }
}

/// Which package a path belongs to.
#[must_use]
pub fn owners(packages: &[Package]) -> BTreeMap<&str, usize> {
    let mut owners = BTreeMap::new();
    for (position, package) in packages.iter().enumerate() {
        for entry in &package.entries {
            owners.insert(entry.path.as_str(), position);
        }
    }
    owners
}
