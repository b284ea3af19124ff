//! `knarr image sbom`, `provenance`, `why` and `verify`: where an image comes from, and whether it is still that.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use knarr_bootstrap::lock::LockedRelease;
use knarr_factory::origin::{self, Comparison, Origin, Trace};
use knarr_factory::sbom::{cyclonedx, spdx};
use knarr_factory::{FactoryError, provenance as statement};
use knarr_oci::{Descriptor, MAX_MANIFEST_BYTES, Manifest};
use knarr_recipe::Recipe;
use knarr_store::Store;
use serde_json::{Value, json};

use crate::exit::{Answer, DIFFERS};
use crate::image::{PlatformArg, StoreArgs, find};
use crate::settings::Settings;
use crate::ui::Ui;

/// Where packages come from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    /// Mirrors to use instead of the suite's own
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Keyring that replaces the suite's own
    #[arg(long, value_name = "FILE")]
    keyring: Vec<String>,
    /// Use the mirror as it was at this time: 20261121T091544Z
    #[arg(long, value_name = "TIMESTAMP", conflicts_with = "mirror")]
    snapshot: Option<String>,
    /// Accept Release files that are no longer valid
    #[arg(long)]
    insecure_allow_expired: bool,
    /// Use the cache only
    #[arg(long)]
    offline: bool,
    /// Where the cache lies
    #[arg(long, env = "KNARR_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl MirrorArgs {
    /// Addresses given by hand.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.mirror
    }

    /// The words of `knarr bootstrap` that say the same.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |flag: &str, value: Option<String>| {
            words.push(flag.to_owned());
            words.extend(value);
        };
        self.keyring.iter().for_each(|path| add("--keyring", Some(path.clone())));
        if let Some(time) = &self.snapshot {
            add("--snapshot", Some(time.clone()));
        }
        if let Some(dir) = &self.cache_dir {
            add("--cache-dir", Some(dir.display().to_string()));
        }
        for (given, flag) in
            [(self.offline, "--offline"), (self.insecure_allow_expired, "--insecure-allow-expired")]
        {
            if given {
                add(flag, None);
            }
        }
        // Behind the suite and the target come mirrors, which begin with no dash.
        words.extend(self.mirror.iter().cloned());
        words
    }
}

/// What `knarr image sbom` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct SbomArgs {
    /// Name or digest
    image: String,
    /// Form of the output: spdx, cyclonedx or table
    #[arg(long, default_value = "spdx", value_parser = ["spdx", "cyclonedx", "table"])]
    format: String,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn sbom(args: &SbomArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let image = find(&store, &args.image, &args.platform)?;
    match args.format.as_str() {
        "table" => ui.print(&table(&Origin::load(&store, &image.descriptor)?)?),
        "cyclonedx" => print_attached(&store, &image.descriptor, cyclonedx::MEDIA_TYPE, ui),
        _ => print_attached(&store, &image.descriptor, spdx::MEDIA_TYPE, ui),
    }
}

fn table(origin: &Origin) -> anyhow::Result<String> {
    let packages = &origin.inventory.packages;
    let widest = |of: &dyn Fn(usize) -> usize| (0..packages.len()).map(of).max().unwrap_or(0);
    let name = widest(&|at| packages[at].name.len()).max(7);
    let version = widest(&|at| packages[at].version.len()).max(7);
    let mut text =
        format!("{:<name$}   {:<version$}   {:<8}   {}\n", "PACKAGE", "VERSION", "ARCH", "LICENCE");
    for package in packages {
        let licence = if package.licence.is_empty() { "-" } else { &package.licence };
        writeln!(
            text,
            "{:<name$}   {:<version$}   {:<8}   {licence}",
            package.name, package.version, package.architecture
        )?;
    }
    Ok(text)
}

/// Prints the newest document of a kind that is attached to an image.
fn print_attached(store: &Store, image: &Descriptor, kind: &str, ui: &Ui) -> anyhow::Result<()> {
    const MAX_BYTES: u64 = 1 << 30;
    let mut referrers = store.referrers(image.digest)?;
    referrers.retain(|referrer| referrer.artifact_type.as_deref() == Some(kind));
    let Some(artifact) = referrers.last() else {
        return Err(FactoryError::NoOrigin { image: image.digest }.into());
    };
    let manifest = Manifest::parse(&store.read(artifact, MAX_MANIFEST_BYTES)?)?;
    let layer = manifest.layers.iter().find(|layer| layer.media_type == kind);
    let layer = layer.with_context(|| format!("the artifact {} holds no {kind}", artifact.digest))?;
    ui.print(&format!("{}\n", String::from_utf8_lossy(&store.read(layer, MAX_BYTES)?)))
}

/// What `knarr image provenance` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ProvenanceArgs {
    /// Name or digest
    image: String,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn provenance(args: &ProvenanceArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let image = find(&store, &args.image, &args.platform)?;
    print_attached(&store, &image.descriptor, statement::MEDIA_TYPE, ui)
}

/// What `knarr image why` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// Name or digest
    image: String,
    /// A path in the image
    path: String,
    /// Form of the output: json, or nothing for text
    #[arg(long, value_parser = ["json"])]
    format: Option<String>,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn why(args: &WhyArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let image = find(&store, &args.image, &args.platform)?;
    let origin = Origin::load(&store, &image.descriptor)?;
    let path = args.path.trim_start_matches('/');
    let answers = traces(&origin, path);
    if answers.is_empty() {
        let real = origin.inventory.resolve(path, true);
        if real.is_some_and(|real| origin.inventory.is_directory(&real)) {
            bail!("/{path} is a directory: name a file in it");
        }
        return Err(FactoryError::NoFile { path: path.to_owned(), image: args.image.clone() }.into());
    }
    match args.format {
        Some(_) => {
            let values: Vec<Value> = answers.iter().map(|trace| value(trace, &origin.recipe)).collect();
            ui.print(&format!("{}\n", serde_json::to_string_pretty(&values)?))
        }
        None => answers.iter().try_for_each(|trace| ui.print(&text(trace, &origin.recipe)?)),
    }
}

/// How what is at a path came there, and of a link also what it leads to.
fn traces<'a>(origin: &'a Origin, path: &str) -> Vec<Trace<'a>> {
    let mut found: Vec<Trace<'a>> = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(trace) = next.take().and_then(|path| origin.why(&path)) {
        // A link that leads back to itself is told once.
        if found.iter().any(|known| known.file.path == trace.file.path) {
            break;
        }
        let link = &trace.file.link;
        let parent = trace.file.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        next = (!link.is_empty())
            .then(|| if link.starts_with('/') { link.clone() } else { format!("{parent}/{link}") });
        found.push(trace);
    }
    found
}

fn text(trace: &Trace<'_>, recipe: &Recipe) -> anyhow::Result<String> {
    let file = trace.file;
    let arrow = if file.link.is_empty() { String::new() } else { format!(" -> {}", file.link) };
    let mut text = format!("/{}{arrow}\n", file.path);
    let mut line = |name: &str, value: &str| writeln!(text, "  {name:<11}{value}");
    if let Some(digest) = file.sha256 {
        line("content", &digest.to_string())?;
    }
    if let Some(step) = trace.step {
        line(if trace.package.is_some() { "changed by" } else { "made by" }, step)?;
        if let Some(entry) = entry_of(recipe, &file.path) {
            line("recipe", &entry)?;
        }
    }
    if let Some(package) = trace.package {
        let what = format!(
            "{} {} {} (source {} {})",
            package.name, package.version, package.architecture, package.source, package.source_version
        );
        line(if file.record { "record of" } else { "package" }, &what)?;
    }
    if let Some(locked) = trace.locked {
        line("pool", &format!("{} {}", locked.path, locked.sha256))?;
    }
    if let Some(index) = trace.index {
        line("index", &format!("{} {}", index.path, index.sha256))?;
    }
    if let Some(release) = trace.release {
        line("release", &format!("{} of {} {}", release.suite, release.date, release.digest))?;
        line("mirror", &release.mirrors.join(" "))?;
        line("signed by", &signers(release))?;
    }
    if let Some(layer) = trace.layer {
        line("layer", &format!("{} ({})", layer.digest, layer.created_by))?;
    }
    Ok(text)
}

fn signers(release: &LockedRelease) -> String {
    match release.keys.as_slice() {
        [] => "keys that the image's lock does not name".to_owned(),
        keys => keys.join(", "),
    }
}

fn value(trace: &Trace<'_>, recipe: &Recipe) -> Value {
    json!({
        "path": format!("/{}", trace.file.path),
        "link": trace.file.link,
        "sha256": trace.file.sha256,
        "step": trace.step,
        "recipe": trace.step.and_then(|_| entry_of(recipe, &trace.file.path)),
        "record": trace.file.record,
        "package": trace.package,
        "pool": trace.locked.map(|locked| json!({"path": locked.path, "sha256": locked.sha256})),
        "index": trace.index,
        "release": trace.release,
        "layer": trace.layer,
    })
}

/// The entry of the recipe that puts something at a path.
fn entry_of(recipe: &Recipe, path: &str) -> Option<String> {
    let covers = |of: &str| {
        let of = of.trim_matches('/');
        path == of || path.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'))
    };
    let file = recipe.files.iter().filter(|file| covers(&file.path)).max_by_key(|file| file.path.len());
    if let Some(file) = file {
        let from = [("from", &file.from), ("url", &file.url), ("link", &file.link)];
        let from =
            from.iter().find_map(|(key, value)| value.as_ref().map(|value| format!("{key} = {value:?}")));
        let from = from.unwrap_or_else(|| if file.directory { "directory" } else { "text" }.to_owned());
        return Some(format!("[[file]] path = {:?}, {from}", file.path));
    }
    let copy = recipe.copies.iter().find(|copy| covers(copy.path.as_deref().unwrap_or(&copy.from)))?;
    Some(format!("[[copy]] stage = {:?}, from = {:?}", copy.stage, copy.from))
}

/// What `knarr image verify` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Name or digest
    image: String,
    /// Check that this key signed it: a PEM file such as cosign.pub
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Check the signature only
    #[arg(long, requires = "key")]
    signature_only: bool,
    #[command(flatten)]
    mirror: MirrorArgs,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn verify(args: &VerifyArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    if let Some(key) = &args.key {
        crate::sign::check(&store, &args.image, key, ui)?;
    }
    if args.signature_only {
        return Ok(());
    }
    let image = find(&store, &args.image, &args.platform)?;
    let origin = Origin::load(&store, &image.descriptor)?;
    let mirror = crate::bootstrap::mirror(&args.mirror.words(), &Settings::load()?)?;
    let comparison = origin::verify(&store, &image, &origin, &mirror, args.mirror.addresses())?;
    ui.clear();
    ui.print(&comparison_text(&comparison)?)?;
    if comparison.foreign.is_empty() { Ok(()) } else { Err(Answer(DIFFERS).into()) }
}

fn comparison_text(comparison: &Comparison) -> anyhow::Result<String> {
    let mut text = String::new();
    for (word, list) in [("changed", &comparison.changed), ("foreign", &comparison.foreign)] {
        for one in list {
            let package = one.package.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
            let step = one.step.as_ref().map(|step| format!(" by {step}")).unwrap_or_default();
            writeln!(text, "{word}: /{}{package}{step}", one.path)?;
        }
    }
    let (changed, foreign) = (comparison.changed.len(), comparison.foreign.len());
    writeln!(
        text,
        "{} files are their packages' own, {changed} were changed by steps, {} are of no package, {foreign} are not \
         accounted for",
        comparison.same, comparison.own
    )?;
    Ok(text)
}
