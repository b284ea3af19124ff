//! `knarr build`: an image from a recipe.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use knarr_base::{Architecture, HumanSize};
use knarr_bootstrap::BootstrapError;
use knarr_factory::{Built, Factory, FactoryError, Request};
use knarr_linux::namespace;
use knarr_mirror::Mirror;
use knarr_oci::{Platform, Reference};
use knarr_recipe::TargetName;
use knarr_store::Store;
use knarr_tree::compress::Compression;

use crate::bootstrap;
use crate::provenance::MirrorArgs;
use crate::settings::Settings;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The recipe: a file, or the name of a ready one (see `knarr recipe ls`)
    recipe: String,
    /// What it is for: dev, production or base; without it what the recipe says
    #[arg(long, value_parser = parse_target)]
    target: Option<TargetName>,
    /// Name of the image, such as registry.example/app:1.2; without one the recipe's
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Machines it is for, such as linux/amd64,linux/arm64; without any the recipe's, else this machine's
    #[arg(long, value_name = "PLATFORMS", value_delimiter = ',')]
    platform: Vec<String>,
    /// Directory that the recipe's files are relative to; without it the recipe's own
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,
    /// Write a lock, or obey the one that is there; without it RECIPE.lock beside the recipe, if there is one
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Refuse when the lock would change
    #[arg(long)]
    locked: bool,
    /// Most layers for packages
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = parse_layers)]
    layers: usize,
    /// Put everything into one layer
    #[arg(long)]
    squash: bool,
    /// How layers are compressed: zstd, gzip or none, with a level such as zstd:19; without it gzip in production, else zstd
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    compression: Option<Compression>,
    /// Make everything anew
    #[arg(long, visible_alias = "no-cache")]
    fresh: bool,
    /// Do not put the recipe's promises to the test
    #[arg(long)]
    no_verify: bool,
    /// Keep what a failing command looks for until the recipe's promises hold, and print what to add to it; with
    /// "write" add it to the recipe's file
    #[arg(long, value_name = "write", num_args = 0..=1, require_equals = true, default_missing_value = "print",
          conflicts_with = "no_verify")]
    fix: Option<Fix>,
    /// Say of every file of a slim image why it is there
    #[arg(long)]
    explain: bool,
    /// Attach no lock, bills of materials and provenance
    #[arg(long)]
    no_attest: bool,
    /// Number of the user who works in a development container; without it yours
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    #[command(flatten)]
    mirrors: MirrorArgs,
    /// Where images lie
    #[arg(long, env = "KNARR_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
}

/// What becomes of the keeps that are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fix {
    /// They are printed
    Print,
    /// They are written into the recipe
    Write,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let start = Instant::now();
    let settings = Settings::load()?;
    // Whose home the settings are in: asked before this process becomes root of a namespace.
    let store_dir = args.store.clone().unwrap_or_else(|| settings.store_dir());
    let dev_uid = args.uid.unwrap_or_else(caller);
    let rootless = namespace::is_unprivileged();
    let entered = if rootless { namespace::become_root() } else { namespace::private_mounts() };
    entered.map_err(BootstrapError::from)?;
    let file = crate::recipe::open(&args.recipe)?;
    let store = Store::open(&store_dir)?;
    let words = args.mirrors.words();
    let mirror = bootstrap::mirror(&words, &settings)?;
    let options = |suite: &str, architecture: Architecture, repositories: &[String]| {
        let made = bootstrap::base_options(&words, suite, architecture, repositories, &settings);
        made.map_err(factory_error)
    };
    let rootless = rootless || namespace::in_user_namespace();
    let factory = Factory { store: &store, mirror: &mirror, options: &options, progress: ui, rootless };
    if args.fix == Some(Fix::Write) && file.path.is_none() {
        bail!(
            "{} is a ready recipe, which cannot be written to: begin with `knarr recipe init --from {0}`",
            args.recipe
        );
    }
    let path = file.path.clone();
    let request = request(args, file, dev_uid)?;
    let built = match args.fix {
        None => factory.build(&request)?,
        Some(how) => {
            let fixed = knarr_factory::fix::fix(&factory, &request)?;
            ui.clear();
            propose(how, &fixed.keeps, request.target, path.as_deref(), ui)?;
            fixed.built
        }
    };
    limit_cache(&mirror, &settings)?;
    ui.clear();
    if args.explain {
        explain(&built, ui)?;
    }
    report(&built, &request, start, ui)
}

pub(crate) fn factory_error(error: anyhow::Error) -> FactoryError {
    match error.downcast::<BootstrapError>() {
        Ok(error) => FactoryError::Bootstrap(error),
        Err(error) => match error.downcast::<knarr_mirror::MirrorError>() {
            Ok(error) => FactoryError::Mirror(error),
            Err(error) => FactoryError::Request(format!("{error:#}")),
        },
    }
}

/// The number of whoever asked for it, by sudo or not; of root's own only the usual first user's.
fn caller() -> u32 {
    let sudo = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
    let own = std::fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    match sudo.or_else(|| own.ok()) {
        Some(uid) if uid > 0 => uid,
        _ => 1000,
    }
}

fn request(args: &Args, mut file: crate::recipe::Opened, dev_uid: u32) -> anyhow::Result<Request> {
    let target = args.target.unwrap_or_else(|| file.recipe.default_target());
    let name = file.recipe.name.get_or_insert_with(|| file.stem.clone()).clone();
    let suffix = match target {
        TargetName::Dev if file.recipe.default_target() != TargetName::Dev => "-dev",
        _ => "",
    };
    let tags = if args.tags.is_empty() { vec![format!("{name}{suffix}")] } else { args.tags.clone() };
    let names = tags.iter().map(|tag| Ok(Reference::parse(tag)?.to_string()));
    let names = names.collect::<Result<Vec<_>, knarr_oci::OciError>>().context("--tag")?;
    let wanted = if args.platform.is_empty() { &file.recipe.platforms } else { &args.platform };
    let mut platforms = wanted.iter().map(|text| architecture(text)).collect::<anyhow::Result<Vec<_>>>()?;
    if platforms.is_empty() {
        platforms.push(Architecture::native());
    }
    let beside = file.path.as_ref().map(|path| path.with_extension("lock")).filter(|path| path.exists());
    Ok(Request {
        context: args.context.clone().unwrap_or_else(|| file.context()),
        recipe: file.recipe,
        target,
        platforms,
        names,
        lock: args.lock.clone().or(beside),
        locked: args.locked,
        max_layers: args.layers,
        squash: args.squash,
        compression: args.compression,
        fresh: args.fresh,
        verify: !args.no_verify,
        attest: !args.no_attest,
        dev_uid,
        time: bootstrap::source_date_epoch()?,
    })
}

fn architecture(text: &str) -> anyhow::Result<Architecture> {
    let bad = |reason: String| BootstrapError::Request(format!("--platform: {reason}"));
    let platform: Platform = text.parse().map_err(|error: knarr_oci::OciError| bad(error.to_string()))?;
    let known = || Architecture::names().join(", ");
    let none =
        || bad(format!("{text:?} is no platform that Debian is made for: expected one of {}", known()));
    Ok(platform.debian().ok_or_else(none)?)
}

pub(crate) fn limit_cache(mirror: &Mirror, settings: &Settings) -> anyhow::Result<()> {
    if let Some((bytes, age)) = settings.cache_limits() {
        mirror.cache().prune(bytes, age)?;
    }
    Ok(())
}

const MAX_NOTES: usize = 10;

fn report(built: &Built, request: &Request, start: Instant, ui: &Ui) -> anyhow::Result<()> {
    for image in &built.images {
        ui.say(&format!(
            "{} {}: {} packages, {} layers ({} known), {} compressed",
            request.target.name(),
            image.architecture,
            image.packages,
            image.layers,
            image.known_layers,
            HumanSize(image.layers_bytes)
        ));
    }
    for slimmed in built.images.iter().filter_map(|image| image.slimmed.as_ref()) {
        ui.say(&format!(
            "slim: {} of {} files, {} of {}",
            slimmed.files,
            slimmed.files_before,
            HumanSize(slimmed.bytes),
            HumanSize(slimmed.bytes_before)
        ));
        // What is told at length is told once.
        slimmed.plan.notes.iter().take(MAX_NOTES).for_each(|note| ui.say(&format!("note: {note}")));
    }
    for name in &request.names {
        ui.say(&format!("{} in {:.1} s", knarr_store::store::familiar(name), start.elapsed().as_secs_f64()));
    }
    ui.print(&format!("{}\n", built.descriptor.digest))
}

/// Tells what a recipe must keep, or writes it there.
fn propose(
    how: Fix,
    keeps: &[String],
    target: TargetName,
    path: Option<&Path>,
    ui: &Ui,
) -> anyhow::Result<()> {
    if keeps.is_empty() {
        ui.say("nothing is missing");
        return Ok(());
    }
    let table = if target == TargetName::Production { "production" } else { "" };
    match (how, path) {
        (Fix::Write, Some(path)) => {
            crate::recipe::add_keeps(path, table, keeps)?;
            ui.say(&format!("{}: {} keeps added", path.display(), keeps.len()));
        }
        _ => {
            let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            let lines: String = keeps.iter().map(|keep| format!("    {keep:?},\n")).collect();
            ui.say(&format!("add to the recipe:\n\n{header}keep = [\n{lines}]\n"));
        }
    }
    Ok(())
}

/// Every file of a slim image, with the chain of files that led to it.
fn explain(built: &Built, ui: &Ui) -> anyhow::Result<()> {
    let mut text = String::new();
    for slimmed in built.images.iter().filter_map(|image| image.slimmed.as_ref()) {
        for path in slimmed.plan.kept.keys() {
            let chain = slimmed.plan.chain(path);
            let links = chain.iter().map(|why| match &why.from {
                Some(from) => format!("{}: /{}", why.reason, from.trim_start_matches('/')),
                None => why.reason.clone(),
            });
            text.push_str(&format!("/{path} <- {}\n", links.collect::<Vec<_>>().join(" <- ")));
        }
        slimmed.plan.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    }
    ui.print(&text)
}

fn parse_layers(text: &str) -> anyhow::Result<usize> {
    match text.parse() {
        Ok(layers) if (1..=MAX_LAYERS).contains(&layers) => Ok(layers),
        _ => bail!("expected a number from 1 to {MAX_LAYERS}"),
    }
}

/// What overlay file systems and engines take.
const MAX_LAYERS: usize = 125;

fn parse_target(text: &str) -> anyhow::Result<TargetName> {
    Ok(match text {
        "dev" | "development" => TargetName::Dev,
        "production" | "prod" => TargetName::Production,
        "base" => TargetName::Base,
        _ => bail!("{text:?} is no target: expected dev, production or base"),
    })
}

pub(crate) fn parse_compression(text: &str) -> anyhow::Result<Compression> {
    let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
    let level: Option<i32> =
        level.map(str::parse).transpose().with_context(|| format!("{text:?}: the level"))?;
    let within = |level: i32, most: i32| {
        if (1..=most).contains(&level) {
            Ok(level)
        } else {
            bail!("{text:?}: the level goes from 1 to {most}")
        }
    };
    Ok(match name {
        "zstd" => Compression::Zstd(within(level.unwrap_or(3), 22)?),
        "gzip" => Compression::Gzip(within(level.unwrap_or(6), 9)?.cast_unsigned()),
        "none" if level.is_none() => Compression::None,
        _ => bail!("{text:?} is no compression: expected zstd, gzip or none, perhaps with :LEVEL"),
    })
}

/// The words of `knarr bootstrap`, as a program would be given them.
#[derive(Debug, Parser)]
pub(crate) struct BootstrapWords {
    #[command(flatten)]
    pub args: bootstrap::Args,
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new(".")).to_owned()
}
