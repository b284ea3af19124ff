//! `knarr image updates` and `rebuild`: what has become newer than an image, and the image that has it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use knarr_base::Architecture;
use knarr_bootstrap::lock::{Lock, diff};
use knarr_bootstrap::options::Options;
use knarr_bootstrap::plan::{self, Survey};
use knarr_bootstrap::run::describe;
use knarr_bootstrap::{BootstrapError, Progress};
use knarr_factory::attest::{context_files, context_key};
use knarr_factory::build::beside;
use knarr_factory::files::Context as RecipeContext;
use knarr_factory::origin::Origin;
use knarr_factory::updates::{self, Update};
use knarr_factory::{Factory, FactoryError, Request, cache, packages};
use knarr_linux::namespace;
use knarr_mirror::Mirror;
use knarr_oci::{Descriptor, Platform, Reference};
use knarr_recipe::{Recipe, TargetName};
use knarr_store::store::familiar;
use knarr_store::{Found, Image, Store};

use crate::exit::{Answer, UPDATES};
use crate::image::{PlatformArg, StoreArgs, find, listing, manifests};
use crate::provenance::MirrorArgs;
use crate::settings::Settings;
use crate::ui::Ui;

/// What `knarr image updates` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdatesArgs {
    /// Name or digest
    image: String,
    /// List security updates only
    #[arg(long)]
    security: bool,
    /// Form of the output: json, or nothing for a table
    #[arg(long, value_parser = ["json"])]
    format: Option<String>,
    #[command(flatten)]
    mirror: MirrorArgs,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `knarr image rebuild` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RebuildArgs {
    /// Name or digest
    image: String,
    /// Take security updates only, and what they need
    #[arg(long)]
    security_only: bool,
    /// Names of the new image; without any it takes over the old one's
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Directory of the files that the recipe takes; without it where it was when this machine built the image
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,
    /// Do not put the recipe's promises to the test
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    mirror: MirrorArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// What asks mirrors on behalf of an image.
struct Asker<'a> {
    mirror: &'a Mirror,
    words: Vec<String>,
    settings: &'a Settings,
    ui: &'a Ui,
}

impl Asker<'_> {
    fn options(
        &self,
        suite: &str,
        architecture: Architecture,
        repositories: &[String],
    ) -> anyhow::Result<Options> {
        crate::bootstrap::base_options(&self.words, suite, architecture, repositories, self.settings)
    }

    /// What an image's recipe would be made of now; an image on scratch is made of nothing.
    fn survey(&self, origin: &Origin) -> anyhow::Result<Option<(Survey, Options)>> {
        let (Some(lock), Some(suite)) = (&origin.lock, &origin.recipe.suite) else { return Ok(None) };
        let base = self.options(suite, lock.architecture, &origin.recipe.repositories)?;
        let options = packages::options(&origin.recipe, base);
        self.ui.phase("asking the mirrors");
        let survey = plan::survey(&options, self.mirror, self.ui)?;
        self.ui.clear();
        Ok(Some((survey, options)))
    }
}

pub(crate) fn updates(args: &UpdatesArgs, ui: &Ui) -> anyhow::Result<()> {
    let (store, settings) = (args.store.open()?, Settings::load()?);
    let image = find(&store, &args.image, &args.platform)?;
    let origin = Origin::load(&store, &image.descriptor)?;
    let words = args.mirror.words();
    let mirror = crate::bootstrap::mirror(&words, &settings)?;
    let asker = Asker { mirror: &mirror, words, settings: &settings, ui };
    let survey = asker.survey(&origin)?;
    let mut list = match (&survey, &origin.lock) {
        (Some((survey, options)), Some(lock)) => updates::compare(lock, survey, &options.suite),
        _ => Vec::new(),
    };
    list.retain(|update| update.security || !args.security);
    match args.format {
        Some(_) => ui.print(&format!("{}\n", serde_json::to_string_pretty(&list)?))?,
        None if list.is_empty() => ui.say(&format!("{}: nothing is newer", args.image)),
        None => ui.print(&table(&list)?)?,
    }
    if list.is_empty() { Ok(()) } else { Err(Answer(UPDATES).into()) }
}

fn table(list: &[Update]) -> anyhow::Result<String> {
    let origin = |update: &Update| {
        format!("{}{}", update.origin.join(","), if update.security { " (security)" } else { "" })
    };
    let widest =
        |of: &dyn Fn(&Update) -> usize, least: usize| list.iter().map(of).max().unwrap_or(0).max(least);
    let name = widest(&|update| update.package.len(), 7);
    let installed = widest(&|update| update.installed.len(), 9);
    let candidate = widest(&|update| update.candidate.len(), 9);
    let mut text = format!(
        "{:<name$}   {:<installed$}   {:<candidate$}   {}\n",
        "PACKAGE", "INSTALLED", "CANDIDATE", "ORIGIN"
    );
    for update in list {
        writeln!(
            text,
            "{:<name$}   {:<installed$}   {:<candidate$}   {}",
            update.package,
            update.installed,
            update.candidate,
            origin(update)
        )?;
    }
    Ok(text)
}

pub(crate) fn rebuild(args: &RebuildArgs, ui: &Ui) -> anyhow::Result<()> {
    let settings = Settings::load()?;
    let store_dir = args.store.store.clone().unwrap_or_else(|| settings.store_dir());
    let rootless = namespace::is_unprivileged();
    let entered = if rootless { namespace::become_root() } else { namespace::private_mounts() };
    entered.map_err(BootstrapError::from)?;
    let store = Store::open(&store_dir)?;
    let found = store.find(&args.image)?;
    let old = olds(&store, &found)?;
    let words = args.mirror.words();
    let mirror = crate::bootstrap::mirror(&words, &settings)?;
    let asker = Asker { mirror: &mirror, words, settings: &settings, ui };
    let locks = tempfile::tempdir().context("cannot make a directory for locks")?;
    let path = locks.path().join("image.lock");
    let changes = write_locks(&old, &path, args.security_only, &asker)?;
    if changes.is_empty() {
        ui.say(&format!("{}: nothing is newer", args.image));
        return ui.print(&format!("{}\n", found.descriptor.digest));
    }
    let context = context(args, &old, &mirror)?;
    let request = request(args, &found, &old, context, path)?;
    let options = |suite: &str, architecture: Architecture, repositories: &[String]| {
        asker.options(suite, architecture, repositories).map_err(crate::build::factory_error)
    };
    let rootless = rootless || namespace::in_user_namespace();
    let factory = Factory { store: &store, mirror: &mirror, options: &options, progress: ui, rootless };
    let built = factory.build(&request)?;
    crate::build::limit_cache(&mirror, &settings)?;
    ui.clear();
    let mut text: String = changes.iter().map(|change| format!("{change}\n")).collect();
    for (old, new) in old.iter().zip(&built.images) {
        let new = store.image(&new.manifest, &old.image.config.platform())?;
        text += &crate::image::diff(&listing(&store, &old.image)?, &listing(&store, &new)?)?;
    }
    request.names.iter().for_each(|name| ui.say(&format!("{} is new", familiar(name))));
    ui.print(&format!("{text}{}\n", built.descriptor.digest))
}

/// An image for one platform as it was.
struct Old {
    image: Image,
    origin: Origin,
    architecture: Architecture,
}

fn olds(store: &Store, found: &Found) -> anyhow::Result<Vec<Old>> {
    let old = |manifest: Descriptor| {
        let any = Platform::of(Architecture::native());
        let image = store.image(&manifest, &any)?;
        let platform = image.config.platform();
        let architecture = platform.debian().with_context(|| format!("Debian is not made for {platform}"))?;
        Ok(Old { origin: Origin::load(store, &image.descriptor)?, image, architecture })
    };
    let olds =
        manifests(store, &found.descriptor)?.into_iter().map(old).collect::<anyhow::Result<Vec<_>>>()?;
    if olds.is_empty() {
        bail!("none of the images of {} is here", found.descriptor.digest)
    } else {
        Ok(olds)
    }
}

/// Writes the lock of each platform; answers with what differs from the old ones.
fn write_locks(old: &[Old], path: &Path, security: bool, asker: &Asker<'_>) -> anyhow::Result<Vec<String>> {
    let mut changes = Vec::new();
    for one in old {
        let (Some((survey, options)), Some(lock)) = (asker.survey(&one.origin)?, &one.origin.lock) else {
            continue;
        };
        let new = match security {
            true => updates::only_security(lock, &survey, &options.suite)?,
            false => survey.lock,
        };
        let path = if old.len() == 1 { path.to_owned() } else { beside(path, one.architecture.name()) };
        changes.extend(diff(lock, &new).iter().map(describe));
        write_lock(&path, &new)?;
        if security {
            // What only helps to build takes no part in what runs: it stays as it was.
            let stages: &BTreeMap<String, Lock> = &one.origin.stages;
            stages.iter().try_for_each(|(name, lock)| write_lock(&beside(&path, name), lock))?;
        }
    }
    changes.dedup();
    Ok(changes)
}

fn write_lock(path: &Path, lock: &Lock) -> anyhow::Result<()> {
    std::fs::write(path, lock.to_text()?).with_context(|| format!("cannot write {}", path.display()))
}

/// The directory of the files that the recipe takes, after a look whether they are what they were.
fn context(args: &RebuildArgs, old: &[Old], mirror: &Mirror) -> anyhow::Result<PathBuf> {
    let Some(first) = old.iter().find(|old| !old.origin.parameters.context.is_empty()) else {
        return Ok(PathBuf::from("."));
    };
    let known = || cache::load::<PathBuf>(mirror.cache(), context_key(first.image.descriptor.digest));
    let Some(path) = args.context.clone().or_else(known) else {
        let files: Vec<&str> =
            first.origin.parameters.context.iter().map(|file| file.from.as_str()).collect();
        return Err(FactoryError::Request(format!(
            "the recipe takes {} of its directory, and this machine does not know where that is: --context names it",
            files.join(", ")
        ))
        .into());
    };
    let now = context_files(&first.origin.recipe, &RecipeContext::open(&path)?)?;
    let changed = now.iter().filter(|file| !first.origin.parameters.context.contains(file));
    let paths: Vec<String> = changed.map(|file| path.join(&file.from).display().to_string()).collect();
    if paths.is_empty() { Ok(path) } else { Err(FactoryError::ContextChanged { paths }.into()) }
}

fn request(
    args: &RebuildArgs,
    found: &Found,
    old: &[Old],
    context: PathBuf,
    lock: PathBuf,
) -> anyhow::Result<Request> {
    let origin = &old[0].origin;
    let parameters = &origin.parameters;
    let tags = match (args.tags.is_empty(), &found.name) {
        (true, Some(name)) => vec![name.clone()],
        (true, None) => Vec::new(),
        (false, _) => args.tags.clone(),
    };
    let names = tags.iter().map(|tag| Ok(Reference::parse(tag)?.to_string()));
    let compression = parameters.compression.as_deref().map(crate::build::parse_compression);
    Ok(Request {
        recipe: again(origin.recipe.clone()),
        context,
        target: origin.target(),
        platforms: old.iter().map(|old| old.architecture).collect(),
        names: names.collect::<Result<_, knarr_oci::OciError>>().context("--tag")?,
        lock: Some(lock),
        locked: false,
        max_layers: parameters.layers.max(1),
        squash: parameters.squash,
        compression: compression.transpose()?,
        fresh: false,
        verify: !args.no_verify,
        attest: true,
        dev_uid: parameters.uid.unwrap_or(1000),
        time: parameters.time,
    })
}

/// The recipe as it must be written to become the same recipe of one target once more.
fn again(mut recipe: Recipe) -> Recipe {
    if recipe.default_target() == TargetName::Dev {
        let promises = recipe.verifies.clone();
        recipe.dev.get_or_insert_default().verifies = promises;
    }
    recipe
}
