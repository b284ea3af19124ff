//! `knarr image`: what images there are, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use knarr_base::{Architecture, HumanSize};
use knarr_bootstrap::BootstrapError;
use knarr_linux::namespace;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Manifest, Platform, Reference, media_type};
use knarr_store::companions::subject_of_name;
use knarr_store::gc::{self, Which};
use knarr_store::store::familiar;
use knarr_store::{Image, Store};
use knarr_tree::changeset::{Listed, Listing};
use knarr_tree::unpack::Kind;
use serde_json::{Value, json};

use crate::settings::{Settings, now};
use crate::ui::Ui;

/// Where images lie.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Where images lie
    #[arg(long, env = "KNARR_STORE", value_name = "DIR", global = true)]
    pub store: Option<PathBuf>,
}

impl StoreArgs {
    /// Opens the store. Its unpacked layers have many owners, which only root, or root of a namespace, can give.
    pub(crate) fn open(&self) -> anyhow::Result<Store> {
        let settings = Settings::load()?;
        let path = self.store.clone().unwrap_or_else(|| settings.store_dir());
        Ok(Store::open(&path)?)
    }
}

/// Which machine's image of an index is meant.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlatformArg {
    /// Of an image for several machines the one for this, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

impl PlatformArg {
    pub(crate) fn get(&self) -> anyhow::Result<Platform> {
        Ok(self
            .platform
            .as_deref()
            .map(str::parse)
            .transpose()?
            .unwrap_or_else(|| Platform::of(Architecture::native())))
    }
}

/// What `knarr images` and `knarr image ls` take.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Show only images of this name
    name: Option<String>,
    /// Show images without a name, too
    #[arg(short, long)]
    all: bool,
    /// Show digests whole
    #[arg(long)]
    digests: bool,
    /// Show digests whole and nothing cut
    #[arg(long)]
    no_trunc: bool,
    /// Show only what this is true of: reference=PATTERN, label=KEY[=VALUE], dangling=true|false, before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_filter)]
    filter: Vec<Filter>,
    /// Form of the output: json, or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What must be true of an image to be listed.
#[derive(Clone, Debug)]
enum Filter {
    Reference(String),
    Label(String, Option<String>),
    Dangling(bool),
    Before(String),
    Since(String),
}

fn parse_filter(text: &str) -> anyhow::Result<Filter> {
    let known = "expected reference, label, dangling, before or since";
    let (key, value) = text.split_once('=').with_context(|| format!("{text:?} has no value: {known}"))?;
    let value = value.to_owned();
    Ok(match (key, value.as_str()) {
        ("reference", _) => Filter::Reference(value),
        ("label", _) => match value.split_once('=') {
            Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
            None => Filter::Label(value, None),
        },
        ("dangling", "true" | "1") => Filter::Dangling(true),
        ("dangling", "false" | "0") => Filter::Dangling(false),
        ("dangling", _) => bail!("dangling is {value:?}: expected true or false"),
        ("before", _) => Filter::Before(value),
        ("since", _) => Filter::Since(value),
        _ => bail!("there is no filter {key:?}: {known}"),
    })
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List images
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Show everything about images, as JSON
    Inspect {
        /// Names or digests
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        platform: PlatformArg,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Show what made each layer
    History {
        /// Name or digest
        image: String,
        /// Show everything whole
        #[arg(long)]
        no_trunc: bool,
        #[command(flatten)]
        platform: PlatformArg,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give an image another name
    Tag(TagArgs),
    /// Copy an image between registries, layouts, archives and the store
    Copy(Box<crate::copy::Args>),
    /// Remove names, and images that have none left
    Rm(RmArgs),
    /// Remove images without a name, and all that no image needs
    Prune {
        /// Remove images that have names, too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Show which files differ between two images
    Diff {
        /// The older one
        old: String,
        /// The newer one
        new: String,
        #[command(flatten)]
        platform: PlatformArg,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Look whether the store, or images of it, are whole
    Check {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the files of an image
    Files {
        /// Name or digest
        image: String,
        #[command(flatten)]
        platform: PlatformArg,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Put an image into the file system, read-only
    Mount {
        /// Name or digest
        image: String,
        /// An empty directory
        directory: PathBuf,
        #[command(flatten)]
        platform: PlatformArg,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print the bill of materials: packages, licences, files
    Sbom(crate::provenance::SbomArgs),
    /// Print how an image was built: an in-toto statement with SLSA's provenance
    Provenance(crate::provenance::ProvenanceArgs),
    /// Say how a file came into an image: package, .deb, index, signed Release, layer
    Why(crate::provenance::WhyArgs),
    /// Compare every file with the packages it came from, and check signatures
    Verify(Box<crate::provenance::VerifyArgs>),
    /// Sign an image with a key, as cosign does
    Sign(crate::sign::SignArgs),
    /// Make keys that sign images
    #[command(subcommand)]
    Key(crate::sign::KeyCommand),
    /// List packages of which the suite has newer versions
    Updates(Box<crate::update::UpdatesArgs>),
    /// Build an image again from its own recipe, with newer packages
    Rebuild(Box<crate::update::RebuildArgs>),
    /// Take a mounted image away
    #[command(visible_alias = "umount")]
    Unmount {
        /// Where it was put
        directory: PathBuf,
    },
}

/// What `knarr tag` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// Name or digest
    image: String,
    /// The new name
    name: String,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `knarr rmi` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Names or digests
    #[arg(required = true)]
    images: Vec<String>,
    /// Remove by digest although there are names
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Ls(args) => list(args, ui),
        Command::Inspect { images, platform, store } => inspect(images, &platform.get()?, &store.open()?, ui),
        Command::History { image, no_trunc, platform, store } => {
            history(&find(&store.open()?, image, platform)?, *no_trunc, ui)
        }
        Command::Tag(args) => tag(args, ui),
        Command::Copy(args) => crate::copy::run(args, ui),
        Command::Rm(args) => remove(args, ui),
        Command::Prune { all, store } => prune(&store.open()?, *all, ui),
        Command::Diff { old, new, platform, store } => {
            let store = store.open()?;
            let (old, new) = (find(&store, old, platform)?, find(&store, new, platform)?);
            ui.print(&diff(&listing(&store, &old)?, &listing(&store, &new)?)?)
        }
        Command::Check { store } => check(&store.open()?, ui),
        Command::Files { image, platform, store } => {
            let store = store.open()?;
            ui.print(&files(&listing(&store, &find(&store, image, platform)?)?)?)
        }
        Command::Mount { image, directory, platform, store } => {
            let store = store.open()?;
            mount(&store, &find(&store, image, platform)?, directory, ui)
        }
        Command::Sbom(args) => crate::provenance::sbom(args, ui),
        Command::Provenance(args) => crate::provenance::provenance(args, ui),
        Command::Why(args) => crate::provenance::why(args, ui),
        Command::Verify(args) => crate::provenance::verify(args, ui),
        Command::Sign(args) => crate::sign::sign(args, ui),
        Command::Key(command) => crate::sign::key(command, ui),
        Command::Updates(args) => crate::update::updates(args, ui),
        Command::Rebuild(args) => crate::update::rebuild(args, ui),
        Command::Unmount { directory } => {
            Ok(knarr_linux::overlay::unmount(directory).map_err(BootstrapError::from)?)
        }
    }
}

/// An image for the platform that was asked for.
pub(crate) fn find(store: &Store, name: &str, platform: &PlatformArg) -> anyhow::Result<Image> {
    let found = store.find(name)?;
    // Of an image for one machine nobody needs to say for which.
    let wanted = match (&platform.platform, media_type::is_index(&found.descriptor.media_type)) {
        (None, false) => found.descriptor.platform.clone().unwrap_or(platform.get()?),
        _ => platform.get()?,
    };
    Ok(store.image(&found.descriptor, &wanted)?)
}

pub(crate) fn listing(store: &Store, image: &Image) -> anyhow::Result<Listing> {
    Ok(image.listing(store, &mut |_, _, _| Ok(()))?)
}

/// A row of the list.
struct Row {
    repository: String,
    tag: String,
    descriptor: Descriptor,
    platforms: Vec<String>,
    created: String,
    size_bytes: u64,
    labels: BTreeMap<String, String>,
}

impl Row {
    fn passes(&self, filter: &Filter, store: &Store) -> anyhow::Result<bool> {
        let created_of =
            |name: &str| -> anyhow::Result<String> { Ok(row(store, store.find(name)?.descriptor)?.created) };
        Ok(match filter {
            Filter::Reference(pattern) => {
                self.descriptor.ref_name().is_some_and(|name| knarr_engine::images::name_fits(name, pattern))
            }
            Filter::Label(key, value) => {
                self.labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| own == value))
            }
            Filter::Dangling(wanted) => (self.repository == NONE) == *wanted,
            Filter::Before(name) => self.created < created_of(name)?,
            Filter::Since(name) => self.created > created_of(name)?,
        })
    }
}

const NONE: &str = "<none>";

pub(crate) fn list(args: &ListArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let mut rows = Vec::new();
    let dangling = args.filter.iter().any(|filter| matches!(filter, Filter::Dangling(true)));
    for entry in store.entries()? {
        // Signatures are of an image, and no image that anybody runs.
        if !args.all && entry.ref_name().is_some_and(|name| subject_of_name(name).is_some()) {
            continue;
        }
        let is_wanted = match (&args.name, entry.ref_name()) {
            (Some(wanted), Some(name)) => is_name(wanted, name),
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (None, None) => (args.all || dangling) && is_image(&store, &entry),
        };
        if is_wanted {
            rows.push(row(&store, entry)?);
        }
    }
    for filter in &args.filter {
        let passes = rows.iter().map(|row| row.passes(filter, &store)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut passes = passes.into_iter();
        rows.retain(|_| passes.next() == Some(true));
    }
    rows.sort_by(|a, b| {
        b.created.cmp(&a.created).then_with(|| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)))
    });
    match args.format.as_deref() {
        // As docker has it: -q is for other programs to go on with.
        None if ui.is_quiet() => rows.iter().try_for_each(|row| {
            let hex = row.descriptor.digest.hex();
            ui.print(&if args.no_trunc { format!("sha256:{hex}\n") } else { format!("{}\n", &hex[..12]) })
        }),
        Some("json") => rows.iter().try_for_each(|row| ui.print(&format!("{}\n", values(row)))),
        Some(template) => rows
            .iter()
            .try_for_each(|row| ui.print(&format!("{}\n", crate::template::render(template, &values(row))?))),
        None => ui.print(&table(&rows, args.digests || args.no_trunc)?),
    }
}

/// Whether `wanted` is the name, or all of it but the tag.
fn is_name(wanted: &str, name: &str) -> bool {
    let full = Reference::parse(wanted).map(|reference| (reference.name(), reference.to_string()));
    full.is_ok_and(|(repository, full)| {
        full == name
            || (!wanted.contains('@') && name.rsplit_once(':').is_some_and(|(own, _)| own == repository))
    }) || wanted == name
}

fn is_image(store: &Store, entry: &Descriptor) -> bool {
    if media_type::is_index(&entry.media_type) {
        return true;
    }
    let manifest = store.read(entry, MAX_MANIFEST_BYTES).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
    manifest.is_some_and(|manifest| media_type::is_config(&manifest.config.media_type))
}

fn row(store: &Store, entry: Descriptor) -> anyhow::Result<Row> {
    let name = entry.ref_name().map(familiar).unwrap_or_default();
    let (repository, tag) = repository_and_tag(&name);
    let manifests = manifests(store, &entry)?;
    let mut reach = gc::Reach::default();
    reach.add(store, &entry)?;
    let images: Vec<Image> = manifests
        .iter()
        .filter_map(|one| store.image(one, &Platform::of(Architecture::native())).ok())
        .collect();
    let created = images.iter().filter_map(|image| image.config.created.clone()).max().unwrap_or_default();
    Ok(Row {
        repository,
        tag,
        platforms: platforms(&images),
        labels: images.first().map(|image| image.config.config.labels.clone()).unwrap_or_default(),
        created,
        size_bytes: reach.blobs.values().sum(),
        descriptor: entry,
    })
}

/// The machines that images are for; what builders attest is listed for ones that nobody has.
fn platforms(images: &[Image]) -> Vec<String> {
    let known =
        images.iter().map(|image| image.config.platform()).filter(|platform| platform.os != "unknown");
    known.map(|platform| platform.to_string()).collect()
}

/// A name in the two parts that docker shows; one with a digest has no tag.
fn repository_and_tag(name: &str) -> (String, String) {
    let none = NONE;
    let (repository, tag) = match (name.split_once('@'), name.rsplit_once(':')) {
        _ if name.is_empty() => (none, none),
        (Some((repository, _)), _) => (repository, none),
        (None, Some((repository, tag))) if !tag.contains('/') => (repository, tag),
        _ => (name, none),
    };
    (repository.to_owned(), tag.to_owned())
}

/// The manifests that are there of what an entry names.
pub(crate) fn manifests(store: &Store, entry: &Descriptor) -> anyhow::Result<Vec<Descriptor>> {
    if !media_type::is_index(&entry.media_type) {
        return Ok(vec![entry.clone()]);
    }
    let index = ImageIndex::parse(&store.read(entry, MAX_MANIFEST_BYTES)?)?;
    Ok(index.manifests.into_iter().filter(|entry| store.has(entry)).collect())
}

fn values(row: &Row) -> Value {
    json!({
        "Repository": row.repository,
        "Tag": row.tag,
        "ID": row.descriptor.digest.to_string(),
        "Digest": row.descriptor.digest.to_string(),
        "CreatedAt": row.created,
        "CreatedSince": since(&row.created),
        "Size": HumanSize(row.size_bytes).to_string(),
        "SizeBytes": row.size_bytes,
        "Platforms": row.platforms.join(","),
    })
}

fn table(rows: &[Row], whole: bool) -> anyhow::Result<String> {
    let id = |row: &Row| {
        let hex = row.descriptor.digest.hex();
        if whole { row.descriptor.digest.to_string() } else { hex[..12].to_owned() }
    };
    let widest = |text: &dyn Fn(&Row) -> String, least: usize| {
        rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0).max(least)
    };
    let repository = widest(&|row| row.repository.clone(), 10);
    let tag = widest(&|row| row.tag.clone(), 3);
    let platforms = widest(&|row| row.platforms.join(","), 9);
    let digest = widest(&id, 8);
    let mut text = format!(
        "{:<repository$}   {:<tag$}   {:<digest$}   {:<20}   {:<platforms$}   {:>8}\n",
        "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "PLATFORMS", "SIZE"
    );
    for row in rows {
        writeln!(
            text,
            "{:<repository$}   {:<tag$}   {:<digest$}   {:<20}   {:<platforms$}   {:>8}",
            row.repository,
            row.tag,
            id(row),
            to_the_second(&row.created),
            row.platforms.join(","),
            HumanSize(row.size_bytes).to_string()
        )?;
    }
    Ok(text)
}

/// How long ago, in docker's words; nothing where nobody wrote when.
fn since(time: &str) -> String {
    let Ok(moment) = knarr_engine::filters::moment(time) else { return "N/A".to_owned() };
    crate::table::ago(now().0.saturating_sub(moment.as_second()))
}

/// A time without the parts of a second that other builders write.
fn to_the_second(time: &str) -> String {
    let time: String = plain(time).chars().take(40).collect();
    match time.split_once('.') {
        Some((whole, parts)) => format!("{whole}{}", parts.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => time,
    }
}

fn inspect(names: &[String], platform: &Platform, store: &Store, ui: &Ui) -> anyhow::Result<()> {
    let (mut documents, mut failed) = (Vec::new(), None);
    for name in names {
        match document(name, platform, store) {
            Ok(document) => documents.push(document),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    ui.error(&format!("{earlier:#}"));
                }
            }
        }
    }
    ui.print(&format!("{}\n", serde_json::to_string_pretty(&documents)?))?;
    failed.map_or(Ok(()), Err)
}

fn document(name: &str, platform: &Platform, store: &Store) -> anyhow::Result<Value> {
    let found = store.find(name)?;
    let tags: Vec<String> = store
        .entries()?
        .iter()
        .filter(|entry| entry.digest == found.descriptor.digest)
        .filter_map(|entry| entry.ref_name().map(familiar))
        .collect();
    let single = !media_type::is_index(&found.descriptor.media_type);
    let own = found.descriptor.platform.clone().filter(|_| single);
    let image = store.image(&found.descriptor, &own.unwrap_or_else(|| platform.clone()))?;
    let layers: Vec<Value> = image
            .layers()
            .map(|(layer, diff_id)| json!({"Digest": layer.digest, "DiffID": diff_id, "Size": layer.size, "MediaType": layer.media_type}))
            .collect();
    Ok(json!({
        "Id": found.descriptor.digest,
        "RepoTags": tags,
        "RepoDigests": tags.iter().filter_map(|tag| Reference::parse(tag).ok()).map(|reference| format!("{}@{}", reference.familiar_name(), found.descriptor.digest)).collect::<BTreeSet<_>>(),
        "Descriptor": found.descriptor,
        "Manifest": image.descriptor,
        "Created": image.config.created,
        "Author": image.config.author.clone().unwrap_or_default(),
        "Architecture": image.config.architecture,
        "Variant": image.config.variant,
        "Os": image.config.os,
        "Size": image.manifest.size_bytes(),
        "Config": image.config.config,
        "RootFS": {"Type": "layers", "Layers": image.config.rootfs.diff_ids},
        "Layers": layers,
    }))
}

fn history(image: &Image, whole: bool, ui: &Ui) -> anyhow::Result<()> {
    let mut layers = image.manifest.layers.iter();
    let mut rows = Vec::new();
    for step in &image.config.history {
        let layer = if step.empty_layer { None } else { layers.next() };
        rows.push((
            layer,
            step.created.clone().unwrap_or_default(),
            step.created_by.clone().unwrap_or_default(),
        ));
    }
    // Layers that nothing is said of are there all the same.
    rows.extend(layers.map(|layer| (Some(layer), String::new(), String::new())));
    let mut text = format!("{:<12}   {:<20}   {:>8}   {}\n", "LAYER", "CREATED", "SIZE", "CREATED BY");
    for (layer, created, by) in rows.iter().rev() {
        let id = layer.map_or_else(|| "<none>".to_owned(), |layer| layer.digest.hex()[..12].to_owned());
        let size = HumanSize(layer.map_or(0, |layer| layer.size)).to_string();
        let by = plain(by);
        let by: String = if whole { by } else { by.chars().take(60).collect() };
        writeln!(text, "{id:<12}   {:<20}   {size:>8}   {by}", to_the_second(created))?;
    }
    ui.print(&text)
}

pub(crate) fn tag(args: &TagArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let found = store.find(&args.image)?;
    let name = Reference::parse(&args.name)?;
    if name.digest().is_some() {
        bail!("{:?} has a digest: a name that is given has a tag only", args.name);
    }
    store.tag(&found.descriptor, &name.to_string())?;
    ui.say(&format!("{} is {}", familiar(&name.to_string()), found.descriptor.digest));
    Ok(())
}

/// One that cannot be removed does not keep the others.
pub(crate) fn remove(args: &RmArgs, ui: &Ui) -> anyhow::Result<()> {
    become_owner()?;
    let store = args.store.open()?;
    let mut failed = None;
    for asked in &args.images {
        if let Err(error) = remove_one(&store, asked, args.force, ui)
            && let Some(earlier) = failed.replace(error)
        {
            ui.error(&format!("{earlier:#}"));
        }
    }
    // While somebody brings something in, what became free stays until the next prune.
    gc::prune(&store, Which::None, false)?;
    failed.map_or(Ok(()), Err)
}

fn remove_one(store: &Store, asked: &str, force: bool, ui: &Ui) -> anyhow::Result<()> {
    let found = store.find(asked)?;
    let names: Vec<String> = store
        .entries()?
        .iter()
        .filter(|entry| entry.digest == found.descriptor.digest)
        .filter_map(|entry| entry.ref_name().map(str::to_owned))
        .collect();
    match &found.name {
        Some(name) => {
            store.untag(name)?;
            ui.print(&format!("Untagged: {}\n", familiar(name)))?;
        }
        None if names.len() > 1 && !force => {
            bail!("{asked} has several names: {}; --force removes them all", names.join(", "));
        }
        None => {
            store.forget(found.descriptor.digest)?;
            names.iter().try_for_each(|name| ui.print(&format!("Untagged: {}\n", familiar(name))))?;
        }
    }
    if store.entries()?.iter().all(|entry| entry.digest != found.descriptor.digest) {
        ui.print(&format!("Deleted: {}\n", found.descriptor.digest))?;
    }
    Ok(())
}

pub(crate) fn prune(store: &Store, all: bool, ui: &Ui) -> anyhow::Result<()> {
    become_owner()?;
    let pruned = gc::prune(store, if all { Which::All } else { Which::Unnamed }, true)?.unwrap_or_default();
    ui.print(&format!(
        "Removed {} images, {} blobs, {} unpacked layers and {} leftovers, {}\n",
        pruned.images,
        pruned.blobs,
        pruned.layers,
        pruned.leftovers,
        HumanSize(pruned.bytes)
    ))
}

/// Unpacked layers have many owners: an ordinary user removes them as root of a namespace.
pub(crate) fn become_owner() -> anyhow::Result<()> {
    if namespace::is_unprivileged() {
        namespace::become_root().map_err(BootstrapError::from)?;
    }
    Ok(())
}

/// Tells what is not as it should be; what breaks an image is an error.
pub(crate) fn check(store: &Store, ui: &Ui) -> anyhow::Result<()> {
    let findings = gc::check(store)?;
    for finding in &findings {
        let kind = if finding.broken { "broken" } else { "garbage" };
        ui.print(&format!("{kind}: {}\n", finding.text))?;
    }
    let broken = findings.iter().filter(|finding| finding.broken).count();
    if broken > 0 {
        bail!("{broken} things in {} are broken", store.path().display());
    }
    let images = store.entries()?.len();
    ui.say(&format!("{}: {images} images, all whole", store.path().display()));
    Ok(())
}

/// A line for each path that differs: A added, D deleted, C changed, as docker has them.
pub(crate) fn diff(old: &Listing, new: &Listing) -> anyhow::Result<String> {
    let paths: BTreeSet<&String> = old.files.keys().chain(new.files.keys()).collect();
    let mut text = String::new();
    for path in paths {
        match (old.files.get(path), new.files.get(path)) {
            (None, Some(_)) => writeln!(text, "A /{}", plain(path))?,
            (Some(_), None) => writeln!(text, "D /{}", plain(path))?,
            (Some(before), Some(after)) => {
                let what = differences(before, after);
                if !what.is_empty() {
                    writeln!(text, "C /{} ({})", plain(path), what.join(", "))?;
                }
            }
            (None, None) => {}
        }
    }
    Ok(text)
}

fn differences(old: &Listed, new: &Listed) -> Vec<&'static str> {
    let facts: BTreeMap<&'static str, bool> = BTreeMap::from([
        ("content", old.digest != new.digest || old.kind != new.kind || old.device != new.device),
        ("link", old.link != new.link),
        ("mode", old.mode != new.mode && old.kind != Kind::Symlink),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("attributes", sorted(&old.xattrs) != sorted(&new.xattrs)),
    ]);
    facts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// Attributes, in whatever order an archive has them.
fn sorted(xattrs: &[(String, Vec<u8>)]) -> BTreeSet<&(String, Vec<u8>)> {
    xattrs.iter().collect()
}

/// Text of an image, of which nothing moves a terminal's cursor or looks like a line of ours.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => plain.extend(char.escape_default()),
            false => plain.push(char),
        }
    }
    plain
}

fn files(listing: &Listing) -> anyhow::Result<String> {
    let mut text = String::new();
    for (path, file) in &listing.files {
        let kind = match file.kind {
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
            Kind::Fifo => 'p',
            _ => '-',
        };
        let arrow =
            if file.kind == Kind::Symlink { format!(" -> {}", plain(&file.link)) } else { String::new() };
        writeln!(
            text,
            "{kind}{:04o} {:>5}:{:<5} {:>10} /{}{arrow}",
            file.mode,
            file.uid,
            file.gid,
            file.size_bytes,
            plain(path)
        )?;
    }
    Ok(text)
}

fn mount(store: &Store, image: &Image, directory: &std::path::Path, ui: &Ui) -> anyhow::Result<()> {
    if namespace::is_unprivileged() {
        bail!("only root can mount an image where everybody sees it: run as root, or use `knarr export`");
    }
    let mut lower = knarr_store::layers::for_overlay(store, image, false)?;
    if lower.is_empty() {
        bail!("the image has no layers: there is nothing to mount");
    }
    lower.reverse();
    knarr_linux::overlay::mount_read_only(&lower, directory)
        .map_err(BootstrapError::from)
        .with_context(|| format!("cannot mount the image on {}", directory.display()))?;
    ui.print(&format!("{}\n", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::{plain, repository_and_tag, sorted, to_the_second};

    #[test]
    fn a_name_with_a_digest_has_no_tag() {
        let check = |name: &str, repository: &str, tag: &str| {
            assert_eq!(repository_and_tag(name), (repository.to_owned(), tag.to_owned()));
        };
        check("app:1", "app", "1");
        check("localhost:5000/app", "localhost:5000/app", "<none>");
        check("localhost:5000/app@sha256:abc", "localhost:5000/app", "<none>");
        check("", "<none>", "<none>");
    }

    #[test]
    fn the_order_of_attributes_is_no_difference() {
        let attribute = |name: &str| (name.to_owned(), vec![1]);
        let (one, other) =
            ([attribute("user.a"), attribute("user.b")], [attribute("user.b"), attribute("user.a")]);
        assert_eq!(sorted(&one), sorted(&other));
        assert_ne!(sorted(&one), sorted(&other[..1]));
    }

    #[test]
    fn names_in_images_do_not_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc ü"), "a\\u{1b}[2Jb\\nc ü");
    }

    #[test]
    fn times_are_told_to_the_second() {
        assert_eq!(to_the_second("2024-01-02T03:04:05.123456789Z"), "2024-01-02T03:04:05Z");
        assert_eq!(to_the_second("2024-01-02T03:04:05.1+01:00"), "2024-01-02T03:04:05+01:00");
        assert_eq!(to_the_second("2024-01-02T03:04:05Z"), "2024-01-02T03:04:05Z");
        assert_eq!(to_the_second(""), "");
    }
}
