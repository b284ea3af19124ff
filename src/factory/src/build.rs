//! A build from first to last.
//!
//! [`Factory::build`] is the order of things: stages that are needed, packages, files, commands, and at the end the
//! image's documents and its name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use knarr_base::{Architecture, Timestamp};
use knarr_bootstrap::lock::Lock;
use knarr_bootstrap::options::Options;
use knarr_bootstrap::{Progress, run};
use knarr_mirror::Mirror;
use knarr_oci::{Descriptor, ImageIndex, Manifest, Platform, media_type};
use knarr_recipe::recipe::{Mode, Recipe, Run, TargetName, User};
use knarr_store::{Ingest, Store};
use knarr_tree::changes::Changes;
use knarr_tree::changeset::{Listing, limits_of};
use knarr_tree::compress::Compression;
use knarr_tree::root::Root;

use crate::attest::{self, Finished, MadeOf};
use crate::cache::{self, Key, KeyMaker};
use crate::files::{self, Context};
use crate::inventory::Brought;
use crate::layers::{LayerOptions, changes_layer};
use crate::packages::{self, Scene};
use crate::slim::{self, Slimmed};
use crate::state::{Live, State};
use crate::steps::{self, Surroundings};
use crate::tools::{self, Tools};
use crate::{FactoryError, config, locales, verify};

/// What `bootstrap` is asked for when a recipe says nothing more than suite, architecture and repositories.
pub type BaseOptions<'a> = &'a dyn Fn(&str, Architecture, &[String]) -> Result<Options, FactoryError>;

/// Makes images.
pub struct Factory<'a> {
    /// Where images go.
    pub store: &'a Store,
    /// Where packages come from; its cache keeps records, too.
    pub mirror: &'a Mirror,
    /// Mirrors and trust of a suite.
    pub options: BaseOptions<'a>,
    /// Who hears of it.
    pub progress: &'a dyn Progress,
    /// The process is root in a user namespace only.
    pub rootless: bool,
}

/// What is built.
#[derive(Clone, Debug)]
pub struct Request {
    /// The recipe with all that it extends.
    pub recipe: Recipe,
    /// The directory that its files are relative to.
    pub context: PathBuf,
    /// For what it is built.
    pub target: TargetName,
    /// For which machines.
    pub platforms: Vec<Architecture>,
    /// Names that the image gets.
    pub names: Vec<String>,
    /// The lock to obey or to write.
    pub lock: Option<PathBuf>,
    /// The lock must not change.
    pub locked: bool,
    /// Most layers for packages.
    pub max_layers: usize,
    /// Everything in one layer.
    pub squash: bool,
    /// How layers are compressed, unless the target decides.
    pub compression: Option<Compression>,
    /// Nothing that was done before is used again.
    pub fresh: bool,
    /// Whether the recipe's promises are put to the test.
    pub verify: bool,
    /// Whether its origin, bills of materials and provenance are attached.
    pub attest: bool,
    /// The number of the user who works in a development container.
    pub dev_uid: u32,
    /// Newest time of any file; `SOURCE_DATE_EPOCH`.
    pub time: Option<Timestamp>,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The manifest, or the index of several.
    pub descriptor: Descriptor,
    /// One for each platform.
    pub images: Vec<BuiltImage>,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// For which machine.
    pub architecture: Architecture,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Compressed bytes of its layers.
    pub layers_bytes: u64,
    /// How many layers.
    pub layers: usize,
    /// How many packages.
    pub packages: usize,
    /// How many layers were there before.
    pub known_layers: usize,
    /// What slimming came to, when the image is slim.
    pub slimmed: Option<Slimmed>,
}

/// One image or stage on its way.
struct Job<'a> {
    recipe: Recipe,
    architecture: Architecture,
    context: &'a Context,
    lock_path: Option<PathBuf>,
    request: &'a Request,
    compression: Compression,
    locked: bool,
}

impl Factory<'_> {
    /// Builds an image and names it.
    pub fn build(&self, request: &Request) -> Result<Built, FactoryError> {
        let ingest = self.store.ingest()?;
        let context = Context::open(&request.context)?;
        let mut images = Vec::new();
        for architecture in &request.platforms {
            images.push(self.image(request, *architecture, &context, &ingest)?);
        }
        let descriptor = match images.as_slice() {
            [one] => one.manifest.clone(),
            several => {
                let manifests = several.iter().map(|image| image.manifest.clone()).collect();
                ingest.put(media_type::INDEX, &ImageIndex::of(manifests).to_bytes())?
            }
        };
        if request.names.is_empty() {
            ingest.add(None, &descriptor)?;
        }
        request.names.iter().try_for_each(|name| ingest.add(Some(name), &descriptor))?;
        Ok(Built { descriptor, images })
    }

    fn image(
        &self,
        request: &Request,
        architecture: Architecture,
        context: &Context,
        ingest: &Ingest<'_>,
    ) -> Result<BuiltImage, FactoryError> {
        let recipe = prepared(request.recipe.clone().for_target(request.target), request.dev_uid);
        let compression = request.compression.unwrap_or_else(|| default_compression(recipe.default_target()));
        let is_slim = recipe.default_target() == TargetName::Production && recipe.mode() == Mode::Slim;
        let job = Job {
            // What slimming begins with goes nowhere.
            compression: if is_slim { Compression::Zstd(1) } else { compression },
            locked: request.locked,
            lock_path: lock_path(request, architecture),
            recipe,
            architecture,
            context,
            request,
        };
        let known = self.store_blobs();
        let (mut state, time, mut packages) = self.run(&job, ingest, &mut Vec::new())?;
        // What comes after the steps changes layers, not what made them.
        let (steps, made_of, stages) = (state.layers.clone(), state.made_of.clone(), state.stages.clone());
        let job = Job { compression, ..job };
        let slimmed = if is_slim { Some(self.slim(&job, &mut state, ingest, time)?) } else { None };
        if let Some(slimmed) = &slimmed {
            packages = slimmed.inventory.packages.len();
        }
        if request.squash {
            self.squash(&job, &mut state, ingest, time)?;
        }
        let document = config::image(&job.recipe, architecture, time, &state.layers)?;
        if request.verify {
            self.verify(&job, &mut state, &document.config, ingest)?;
        }
        let blob = ingest.put(media_type::CONFIG, &document.to_bytes())?;
        let layers: Vec<Descriptor> = state.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let known_layers = layers.iter().filter(|layer| known.contains(&layer.digest)).count();
        let manifest = Manifest::of_image(blob, layers);
        let mut descriptor = ingest.put(media_type::MANIFEST, &manifest.to_bytes())?;
        descriptor.platform = Some(Platform::of(architecture));
        if request.attest {
            self.attest(
                ingest,
                &Finished {
                    request,
                    recipe: &job.recipe,
                    architecture,
                    context,
                    made_of: made_of.as_ref(),
                    stages: &stages,
                    key: state.key,
                    layers: &state.layers,
                    steps: &steps,
                    image: &descriptor,
                    time,
                },
            )?;
        }
        Ok(BuiltImage {
            architecture,
            manifest: descriptor,
            layers_bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
            layers: manifest.layers.len(),
            packages,
            known_layers,
            slimmed,
        })
    }

    /// Digests of the blobs that are there now.
    fn store_blobs(&self) -> std::collections::BTreeSet<knarr_base::Digest> {
        let entries = std::fs::read_dir(self.store.path().join("blobs/sha256"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_string_lossy().parse().ok()).collect()
    }

    /// All steps of an image or stage; answers with the state, its time and the number of packages.
    fn run(
        &self,
        job: &Job<'_>,
        ingest: &Ingest<'_>,
        above: &mut Vec<String>,
    ) -> Result<(State, Timestamp, usize), FactoryError> {
        let mut stages = self.stages(job, ingest, above)?;
        let (mut state, time, packages) = self.packages(job, ingest)?;
        for (name, stage) in &stages {
            state.stages.extend(stage.stages.clone());
            state.stages.extend(stage.made_of.iter().map(|made_of| (name.clone(), made_of.lock.clone())));
        }
        let options =
            LayerOptions { ingest, cache: self.mirror.cache(), compression: job.compression, newest: time };
        self.files(job, &mut state, &mut stages, &options)?;
        for run in &job.recipe.runs {
            self.command(job, run, &mut state, &options)?;
        }
        Ok((state, time, packages))
    }

    /// Builds the stages that copies name. A stage that needs itself is refused.
    fn stages(
        &self,
        job: &Job<'_>,
        ingest: &Ingest<'_>,
        above: &mut Vec<String>,
    ) -> Result<BTreeMap<String, State>, FactoryError> {
        let mut built = BTreeMap::new();
        for name in job.recipe.copies.iter().map(|copy| &copy.stage) {
            if built.contains_key(name) {
                continue;
            }
            let stage = |reason: String| FactoryError::Stage { name: name.clone(), reason };
            if above.contains(name) {
                return Err(stage(format!("it needs itself: {} -> {name}", above.join(" -> "))));
            }
            let Some(recipe) = job.recipe.stages.get(name) else {
                let known: Vec<&str> = job.recipe.stages.keys().map(String::as_str).collect();
                let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(stage(format!(
                    "a copy names it, and the recipe has no such [stage.NAME]: it has {has}"
                )));
            };
            above.push(name.clone());
            let stage = self.stage_job(job, name, recipe);
            let (state, ..) = self.run(&stage, ingest, above)?;
            above.pop();
            built.insert(name.clone(), state);
        }
        Ok(built)
    }

    /// A stage has the image's suite when it names none, and sees the image's other stages.
    fn stage_job<'a>(&self, job: &Job<'a>, name: &str, recipe: &Recipe) -> Job<'a> {
        let mut recipe = recipe.clone();
        let target = recipe.default_target();
        recipe.suite = recipe.suite.or_else(|| job.recipe.suite.clone());
        if recipe.repositories.is_empty() {
            recipe.repositories.clone_from(&job.recipe.repositories);
        }
        recipe = recipe.for_target(target);
        recipe.stages.clone_from(&job.recipe.stages);
        recipe = prepared(recipe, job.request.dev_uid);
        let lock_path = job.lock_path.as_ref().map(|path| beside(path, name));
        Job {
            recipe,
            lock_path,
            // Nobody carries a stage anywhere.
            compression: Compression::Zstd(1),
            locked: job.locked,
            architecture: job.architecture,
            context: job.context,
            request: job.request,
        }
    }

    fn packages(
        &self,
        job: &Job<'_>,
        ingest: &Ingest<'_>,
    ) -> Result<(State, Timestamp, usize), FactoryError> {
        let recipe = &job.recipe;
        if !packages::has_packages(recipe) {
            let time = job.request.time.unwrap_or(Timestamp(0));
            return Ok((State::empty(KeyMaker::new("scratch").finish()), time, 0));
        }
        let Some(suite) = &recipe.suite else {
            return Err(FactoryError::Request(
                "the recipe names no suite: add suite = \"trixie\"".to_owned(),
            ));
        };
        let mut options =
            packages::options(recipe, (self.options)(suite, job.architecture, &recipe.repositories)?);
        options.lock.clone_from(&job.lock_path);
        options.locked = job.locked;
        options.time = job.request.time;
        options.rootless = self.rootless;
        let lock = run::lock(&options, self.mirror, self.progress)?;
        let time = packages::newest(&options, &lock);
        let certificates = self.certificates(job)?;
        let key = packages_key(job, &options, &lock, &certificates)?;
        let count = lock.packages.len();
        let cache = self.mirror.cache();
        let brought = attest::brought_key(key);
        let made_of = Some(MadeOf { lock: lock.clone(), suite: options.suite.clone(), brought });
        let is_known = !job.request.fresh && cache::has(cache, brought);
        if let Some(layers) = cache::layers(cache, self.store, key).filter(|_| is_known) {
            let package_layers = layers.len();
            return Ok((State { layers, package_layers, made_of, ..State::empty(key) }, time, count));
        }
        let layer_options = LayerOptions { ingest, cache, compression: job.compression, newest: time };
        let made = packages::make(&Scene {
            recipe,
            options: &options,
            lock: &lock,
            mirror: self.mirror,
            progress: self.progress,
            layers: &layer_options,
            max_layers: job.request.max_layers,
            certificates: &certificates,
        })?;
        cache::save(cache, brought, &made.brought)?;
        cache::save(cache, key, &made.layers)?;
        let (package_layers, layers, live) = (made.layers.len(), made.layers, Some(made.live));
        Ok((State { layers, live, package_layers, made_of, ..State::empty(key) }, time, count))
    }

    fn certificates(&self, job: &Job<'_>) -> Result<Vec<(String, Vec<u8>)>, FactoryError> {
        let read = |from: &String| {
            let pem = job.context.read(from)?;
            if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
                let reason = "it holds no PEM certificate".to_owned();
                return Err(FactoryError::Context { from: from.clone(), reason });
            }
            let name = from.rsplit('/').next().unwrap_or(from);
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            Ok((format!("{stem}.crt"), pem))
        };
        job.recipe.extra_certificates.iter().map(read).collect()
    }

    fn files(
        &self,
        job: &Job<'_>,
        state: &mut State,
        stages: &mut BTreeMap<String, State>,
        options: &LayerOptions<'_>,
    ) -> Result<(), FactoryError> {
        let recipe = &job.recipe;
        if recipe.files.is_empty() && recipe.copies.is_empty() {
            return Ok(());
        }
        let key = KeyMaker::new("files").with(state.key.as_bytes()).with(&options.newest.0.to_le_bytes());
        let mut key = files::key(key, &recipe.files, job.context)?.with_json(&recipe.copies);
        for stage in stages.values() {
            key = key.with(stage.key.as_bytes());
        }
        // Roots of stages are unpacked before, for the work that may need them.
        let key = key.finish();
        let is_known = cache::layers(options.cache, self.store, key).is_some();
        if !is_known {
            stages.values_mut().try_for_each(|stage| stage.live(self.store, self.rootless).map(drop))?;
        }
        state.step(key, options.cache, self.store, self.rootless, |live| {
            let before = live.snapshot()?;
            files::add(&live.root, &recipe.files, job.context, self.mirror, options.newest)?;
            for copy in &recipe.copies {
                let stage = stages.get(&copy.stage).and_then(|stage| stage.live.as_ref());
                let stage = stage.ok_or_else(|| FactoryError::Stage {
                    name: copy.stage.clone(),
                    reason: "it was not built".to_owned(),
                })?;
                files::copy(&live.root, copy, &stage.root, options.newest)?;
            }
            let changes = before.changes(&live.snapshot()?);
            Ok(changes_layer(&live.root, &changes, options, "knarr: files of the recipe")?
                .into_iter()
                .collect())
        })?;
        Ok(())
    }

    fn command(
        &self,
        job: &Job<'_>,
        run: &Run,
        state: &mut State,
        options: &LayerOptions<'_>,
    ) -> Result<(), FactoryError> {
        let config = config::run_config(&job.recipe)?;
        let key = KeyMaker::new("run").with(state.key.as_bytes()).with_json(run).with_json(&config.env);
        let key = key.with(config.working_dir.as_bytes()).finish();
        let text = run.command.text();
        let created_by = format!("RUN {}", text.lines().next().unwrap_or_default());
        state.step(key, options.cache, self.store, self.rootless, |live| {
            self.progress.phase(&format!("running {}", created_by.trim_start_matches("RUN ")));
            let around = Surroundings {
                architecture: job.architecture,
                env: &config.env,
                workdir: &config.working_dir,
            };
            let changes = steps::run(live, run, &around)?;
            Ok(changes_layer(&live.root, &changes, options, &created_by)?.into_iter().collect())
        })?;
        Ok(())
    }

    fn squash(
        &self,
        job: &Job<'_>,
        state: &mut State,
        ingest: &Ingest<'_>,
        time: Timestamp,
    ) -> Result<(), FactoryError> {
        let key = KeyMaker::new("squash").with(state.key.as_bytes()).finish();
        let cache = self.mirror.cache();
        let options = LayerOptions { ingest, cache, compression: job.compression, newest: time };
        let known = cache::layers(cache, self.store, key);
        let layers = match known {
            Some(layers) => layers,
            None => {
                let live = state.live(self.store, self.rootless)?;
                let changed = live.snapshot()?.files().keys().cloned().collect();
                let all = Changes { changed, removed: Vec::new() };
                let made: Vec<_> =
                    changes_layer(&live.root, &all, &options, "knarr: everything")?.into_iter().collect();
                cache::save(cache, key, &made)?;
                made
            }
        };
        state.layers = layers;
        state.key = key;
        Ok(())
    }

    /// Takes out of the image what nothing in it reaches.
    fn slim(
        &self,
        job: &Job<'_>,
        state: &mut State,
        ingest: &Ingest<'_>,
        time: Timestamp,
    ) -> Result<Slimmed, FactoryError> {
        let (cache, config) = (self.mirror.cache(), config::run_config(&job.recipe)?);
        let key = slim_key(job, state.key, time);
        let of_report = KeyMaker::new("what slimming came to").with(key.as_bytes()).finish();
        let known = cache::layers(cache, self.store, key).filter(|_| !job.request.fresh);
        if let (Some(layers), Some(slimmed)) = (known, cache::load(cache, of_report)) {
            (state.key, state.layers, state.package_layers, state.live) = (key, layers, 0, None);
            return Ok(slimmed);
        }
        self.progress.phase("slimming");
        let (added, brought) = (self.added(state)?, self.brought(state));
        let root = &state.live(self.store, self.rootless)?.root;
        let scene = slim::Scene {
            recipe: &job.recipe,
            config: &config,
            inventory: &brought.inventory,
            added: &added,
            architecture: job.architecture,
        };
        let slimmed = slim::apply(&scene, root)?;
        let options = LayerOptions { ingest, cache, compression: job.compression, newest: time };
        let layers = slim::layers(&scene, root, &slimmed.inventory, job.request.max_layers, &options)?;
        cache::save(cache, key, &layers)?;
        cache::save(cache, of_report, &slimmed)?;
        (state.key, state.layers, state.package_layers) = (key, layers, 0);
        Ok(slimmed)
    }

    /// Paths that the recipe's own steps made, by their layers.
    fn added(&self, state: &State) -> Result<Vec<String>, FactoryError> {
        let mut listing = Listing::default();
        for layer in &state.layers[state.package_layers..] {
            let descriptor = &layer.descriptor;
            let mut tar = knarr_store::layers::open(self.store, descriptor)?;
            listing.add_layer(&mut tar, &limits_of(descriptor.size), &mut |_, _| Ok(()))?;
        }
        Ok(listing.files.into_keys().collect())
    }

    /// What the packages brought; nothing where there are none.
    fn brought(&self, state: &State) -> Brought {
        let key = state.made_of.as_ref().map(|made_of| made_of.brought);
        key.and_then(|key| cache::load(self.mirror.cache(), key)).unwrap_or_default()
    }

    /// Tools that are lent to commands which ask for them.
    fn tools(&self, job: &Job<'_>, ingest: &Ingest<'_>) -> Result<Option<Tools>, FactoryError> {
        if !job.recipe.verifies.iter().any(|verify| verify.tools) {
            return Ok(None);
        }
        let lent = Job {
            recipe: tools::recipe(&job.recipe),
            lock_path: None,
            locked: false,
            compression: Compression::Zstd(1),
            ..*job
        };
        let (mut state, ..) = self.run(&lent, ingest, &mut Vec::new())?;
        Tools::of(&state.live(self.store, self.rootless)?.root).map(Some)
    }

    /// Puts the recipe's promises to the test; what held before for the same layers and configuration holds.
    fn verify(
        &self,
        job: &Job<'_>,
        state: &mut State,
        config: &knarr_oci::RunConfig,
        ingest: &Ingest<'_>,
    ) -> Result<(), FactoryError> {
        if job.recipe.verifies.is_empty() {
            return Ok(());
        }
        let key = KeyMaker::new("verify")
            .with(state.key.as_bytes())
            .with_json(config)
            .with_json(&job.recipe.verifies);
        let key = key.finish();
        let cache = self.mirror.cache();
        if !job.request.fresh && cache::load::<bool>(cache, key) == Some(true) {
            return Ok(());
        }
        self.progress.phase("verifying");
        let (brought, tools) = (self.brought(state), self.tools(job, ingest)?);
        let live: &Live = state.live(self.store, self.rootless)?;
        let (root, architecture) = (&live.root, job.architecture);
        let left_out = left_out(brought, root)?;
        let (left_out, tools) = (&left_out, tools.as_ref());
        let scene = verify::Scene { root, config, architecture, left_out, tools };
        job.recipe.verifies.iter().try_for_each(|one| scene.verify(one))?;
        cache::save(cache, key, &true)
    }
}

/// Files of packages that are not in the root, and whose they are.
fn left_out(brought: Brought, root: &Root) -> Result<BTreeMap<String, String>, FactoryError> {
    let mut files = brought.left_out;
    for record in brought.inventory.packages {
        for path in record.files {
            if !root.exists(&path)? {
                files.insert(path, record.name.clone());
            }
        }
    }
    Ok(files)
}

/// All that slimming depends on: not what the recipe says of itself or promises.
fn slim_key(job: &Job<'_>, before: Key, time: Timestamp) -> Key {
    let mut recipe = job.recipe.clone();
    (recipe.description, recipe.verifies) = (None, Vec::new());
    KeyMaker::new("slim")
        .with(before.as_bytes())
        .with(&time.0.to_le_bytes())
        .with_json(&recipe)
        .with(format!("{:?} {}", job.compression, job.request.max_layers).as_bytes())
        .finish()
}

/// All that the packages' step depends on. What it does not depend on may change without it being done again.
fn packages_key(
    job: &Job<'_>,
    options: &Options,
    lock: &Lock,
    certificates: &[(String, Vec<u8>)],
) -> Result<Key, FactoryError> {
    let recipe = &job.recipe;
    let owners: Vec<_> = recipe.files.iter().filter_map(|file| file.owner.as_ref()).collect();
    let copies: Vec<_> = recipe.copies.iter().filter_map(|copy| copy.owner.as_ref()).collect();
    let user = recipe.image.as_ref().and_then(|image| image.user.as_ref());
    let debug = recipe.production.as_ref().map(|table| (table.debug, table.copyright));
    let mut key = KeyMaker::new("packages of an image")
        .with(lock.to_text()?.as_bytes())
        .with_json(&(recipe.default_target(), &recipe.users, &recipe.groups, owners, copies, user))
        .with_json(&(&recipe.locales, &recipe.timezone, recipe.certificates, debug))
        .with(format!("{:?} {:?} {:?}", options.scripts, options.time, options.suite).as_bytes())
        .with(format!("{:?} {}", job.compression, job.request.max_layers).as_bytes());
    for line in options.filter.lines() {
        key = key.with(line.as_bytes());
    }
    for (name, pem) in certificates {
        key = key.with(name.as_bytes()).with(pem);
    }
    Ok(key.finish())
}

/// A recipe of one target with what the target itself brings.
fn prepared(recipe: Recipe, dev_uid: u32) -> Recipe {
    let mut recipe = locales::with_stage(recipe);
    if recipe.default_target() != TargetName::Dev {
        return recipe;
    }
    let name = config::dev_user(&recipe);
    if recipe.users.iter().all(|user| user.name != name) {
        recipe.users.push(User {
            name,
            uid: Some(dev_uid),
            groups: vec!["sudo".to_owned()],
            shell: Some("/bin/bash".to_owned()),
            sudo: true,
            ..User::default()
        });
    }
    recipe
}

/// Production images go wherever somebody runs them, and every tool reads gzip; what people work with here is large,
/// and zstd is ten times faster.
const fn default_compression(target: TargetName) -> Compression {
    match target {
        TargetName::Production => Compression::Gzip(9),
        TargetName::Dev | TargetName::Base => Compression::Zstd(3),
    }
}

/// One lock for each platform: with several the architecture is in the name.
fn lock_path(request: &Request, architecture: Architecture) -> Option<PathBuf> {
    let path = request.lock.as_ref()?;
    if request.platforms.len() == 1 { Some(path.clone()) } else { Some(beside(path, architecture.name())) }
}

/// Where the lock of a stage, or of one of several platforms, lies beside an image's.
#[must_use]
pub fn beside(path: &Path, word: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, "lock"));
    path.with_file_name(format!("{stem}.{word}.{extension}"))
}

/// A root of a store's image, for somebody to look into.
pub fn unpacked(store: &Store, image: &knarr_store::Image, rootless: bool) -> Result<Live, FactoryError> {
    let bytes: u64 = image.manifest.layers.iter().map(|layer| layer.size * 6).sum();
    let live = Live::empty(bytes)?;
    let root: &Root = &live.root;
    knarr_store::layers::unpack_image(store, image, root, rootless)?;
    Ok(live)
}
