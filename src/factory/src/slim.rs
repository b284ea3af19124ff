//! Slim images: only the files that the image's programs reach.
//!
//! [`plan`] starts with what the recipe names and follows it from file to file; [`prune`] takes everything else out
//! of a root, and [`layers`] writes what is left. What each kind of file asks for is the modules' matter: [`elf`],
//! [`libraries`], [`words`], [`python`], [`perl`].
//!
//! Spec: docs/decisions/007-slim.md, docs/guide/recipes.md.

use std::collections::{BTreeMap, BTreeSet};

use knarr_base::Architecture;
use knarr_bootstrap::filter::PathFilter;
use knarr_bootstrap::replay::loader_cache;
use knarr_oci::RunConfig;
use knarr_recipe::recipe::{Command, Recipe};
use knarr_tree::archive::Pick;
use knarr_tree::changes::ancestors;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};

use crate::FactoryError;
use crate::cache::LayerRecord;
use crate::effects::BUNDLE;
use crate::groups::{self, Member};
use crate::inventory::{Inventory, Record};
use crate::layers::{LayerOptions, write};
use crate::packages::tier;

pub mod elf;
pub mod libraries;
pub mod perl;
pub mod python;
pub mod tree;
pub mod walk;
pub mod words;

pub use walk::{Plan, Why};

use tree::{Tree, name, parent};
use walk::Walk;

/// What an image is made slim by.
pub struct Scene<'a> {
    /// The recipe of one target.
    pub recipe: &'a Recipe,
    /// How containers start.
    pub config: &'a RunConfig,
    /// What packages brought.
    pub inventory: &'a Inventory,
    /// Paths that the recipe's files, copies and commands made.
    pub added: &'a [String],
    /// For which machine.
    pub architecture: Architecture,
}

/// What slimming came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slimmed {
    /// Which files were kept, and why.
    pub plan: Plan,
    /// What is left of the packages.
    pub inventory: Inventory,
    /// How many files there were.
    pub files_before: usize,
    /// Bytes of all files before.
    pub bytes_before: u64,
    /// How many are left.
    pub files: usize,
    /// Bytes of the files that are left.
    pub bytes: u64,
}

/// What programs that look for users, names and the system's kind read; scanners, too.
const ALWAYS: [&str; 9] = [
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
    "etc/nsswitch.conf",
    "etc/os-release",
    "usr/lib/os-release",
    "etc/debian_version",
    "etc/localtime",
];

/// Directories that are there although nothing is in them.
const DIRECTORIES: [&str; 14] = [
    "dev",
    "etc",
    "home",
    "home/nonroot",
    "proc",
    "root",
    "run",
    "run/lock",
    "sys",
    "tmp",
    "usr",
    "var",
    "var/lib",
    "var/tmp",
];

/// Takes out of a root what nothing in it reaches.
pub fn apply(scene: &Scene<'_>, root: &Root) -> Result<Slimmed, FactoryError> {
    if !has_start(scene) {
        let reason = "slim keeps what the image's programs reach, and the recipe names none: add an entrypoint to \
                      [image], or keep = [\"…\"]";
        return Err(FactoryError::Request(reason.to_owned()));
    }
    let (files_before, bytes_before) = measure(root)?;
    let plan = plan(scene, root)?;
    prune(scene, root, &plan)?;
    let inventory = left(scene.inventory, &plan);
    let (files, bytes) = measure(root)?;
    Ok(Slimmed { plan, inventory, files_before, bytes_before, files, bytes })
}

/// Decides which files of a root are kept.
pub fn plan(scene: &Scene<'_>, root: &Root) -> Result<Plan, FactoryError> {
    let tree = Tree::of(root)?;
    let mut walk = Walk::new(&tree, &scene.config.env)?;
    ALWAYS.iter().try_for_each(|path| walk.keep(path, &Why::said("every image has it")).map(drop))?;
    aliases(&tree, &mut walk)?;
    wishes(scene, &mut walk)?;
    for path in scene.added {
        walk.keep(path, &Why::said("the recipe adds it"))?;
        walk.keep_named_in(path)?;
    }
    commands(scene, &mut walk)?;
    for pattern in &scene.recipe.keep {
        walk.keep_pattern(pattern, &Why::said(&format!("keep = {pattern:?}")))?;
    }
    named_data(scene, &mut walk)?;
    let mut plan = walk.finish()?;
    dropped(scene.recipe, &mut plan);
    documents(scene, &tree, &mut plan)?;
    directories(&tree, &mut plan);
    Ok(plan)
}

/// `bin`, `lib64` and their like, where something lies behind them.
fn aliases(tree: &Tree<'_>, walk: &mut Walk<'_>) -> Result<(), FactoryError> {
    let is_alias = |path: &&str| {
        (matches!(*path, "bin" | "sbin" | "var/run" | "var/lock") || path.starts_with("lib"))
            && tree.kind(path) == Some(Kind::Symlink)
    };
    let all: Vec<&str> = tree.files().map(|(path, _)| path).filter(is_alias).collect();
    all.iter().try_for_each(|path| walk.keep(path, &Why::said("every image has it")).map(drop))
}

/// Certificates, time zones and the shell for a look around.
fn wishes(scene: &Scene<'_>, walk: &mut Walk<'_>) -> Result<(), FactoryError> {
    let recipe = scene.recipe;
    if recipe.certificates == Some(true) || !recipe.extra_certificates.is_empty() {
        walk.keep_tree("etc/ssl/certs", &Why::said("the recipe asks for certificates"))?;
    }
    if recipe.timezone.is_some() {
        let why = Why::said("the recipe names a time zone");
        ["etc/timezone", "usr/share/zoneinfo"]
            .iter()
            .try_for_each(|path| walk.keep_tree(path, &why).map(drop))?;
    }
    if recipe.production.as_ref().and_then(|table| table.debug) == Some(true) {
        walk.keep_tree("busybox", &Why::said("debug = true"))?;
    }
    for user in &recipe.users {
        let home = user.home.clone().unwrap_or_else(|| format!("/home/{}", user.name));
        walk.keep(&home, &Why::said("a user's home"))?;
    }
    Ok(())
}

/// What containers run.
fn commands(scene: &Scene<'_>, walk: &mut Walk<'_>) -> Result<(), FactoryError> {
    let config = scene.config;
    let command: Vec<String> = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
    walk.keep_command(&command, &Why::said("the image runs it"))?;
    let health = scene.recipe.image.as_ref().and_then(|image| image.healthcheck.as_ref());
    if let Some(health) = health {
        walk.keep_command(&health.command.argv(), &Why::said("the image's health is asked for with it"))?;
    }
    for pair in config.env.iter().filter(|pair| !pair.starts_with("PATH=")) {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        for path in value.split(':').filter(|path| path.starts_with('/') && path.len() > 1) {
            walk.keep(path, &Why::said("the environment names it"))?;
        }
    }
    for path in config.volumes.keys().chain(std::iter::once(&config.working_dir)) {
        walk.keep(path, &Why::said("containers work in it"))?;
    }
    Ok(())
}

/// A package that the recipe names and that has neither programs nor libraries was named for its data.
fn named_data(scene: &Scene<'_>, walk: &mut Walk<'_>) -> Result<(), FactoryError> {
    for record in &scene.inventory.packages {
        if scene.recipe.packages.contains(&record.name) && !record.files.iter().any(|path| is_code(path)) {
            let why = Why::said(&format!("the recipe names the package {}", record.name));
            record.files.iter().try_for_each(|path| walk.keep(path, &why).map(drop))?;
        }
    }
    Ok(())
}

fn is_code(path: &str) -> bool {
    let directory = parent(path);
    matches!(directory, "usr/bin" | "usr/sbin" | "bin" | "sbin" | "usr/games")
        || name(path).split('.').any(|part| part == "so")
}

/// What the recipe leaves out stays out, unless it keeps it.
fn dropped(recipe: &Recipe, plan: &mut Plan) {
    let mut filter = PathFilter::default();
    recipe.drop.iter().for_each(|pattern| filter.exclude(pattern));
    recipe.keep.iter().for_each(|pattern| filter.include(pattern));
    plan.kept.retain(|path, _| !filter.excludes(path, false));
}

/// What says which packages these files are of, and under which licence.
fn documents(scene: &Scene<'_>, tree: &Tree<'_>, plan: &mut Plan) -> Result<(), FactoryError> {
    let mut wanted: Vec<(String, Why)> = Vec::new();
    for record in &scene.inventory.packages {
        let Some(file) = left_of(record, &plan.kept) else { continue };
        let why =
            Why { reason: format!("it speaks of the package {}", record.name), from: Some(file.to_owned()) };
        for path in [
            format!("var/lib/dpkg/status.d/{}", record.name),
            format!("var/lib/dpkg/status.d/{}.md5sums", record.name),
        ] {
            wanted.push((path, why.clone()));
        }
        if let Some(found) = tree.resolve(&format!("usr/share/doc/{}/copyright", record.name))? {
            for licence in licences(tree, &found.path)? {
                wanted.push((
                    licence,
                    Why { reason: "a copyright file names it".to_owned(), from: Some(found.path.clone()) },
                ));
            }
            wanted.extend(found.paths().map(|path| (path, why.clone())));
        }
    }
    for (path, why) in wanted {
        if tree.kind(&path).is_some() {
            plan.kept.entry(path).or_insert(why);
        }
    }
    Ok(())
}

/// A file of a package that is kept, and that is more than its paperwork.
fn left_of<'a>(record: &'a Record, kept: &BTreeMap<String, Why>) -> Option<&'a str> {
    let is_file = |path: &&String| !path.starts_with("usr/share/doc/") && kept.contains_key(*path);
    let found = record.files.iter().find(is_file).map(String::as_str);
    // Of its certificates the bundle was made, and they are gone.
    let bundled = record.name == "ca-certificates" && kept.contains_key(BUNDLE);
    found.or_else(|| bundled.then_some(BUNDLE))
}

/// The texts of common licences that a copyright file refers to.
fn licences(tree: &Tree<'_>, copyright: &str) -> Result<BTreeSet<String>, FactoryError> {
    const TOP: &str = "/usr/share/common-licenses/";
    let text = tree.root.read(copyright)?;
    let text = String::from_utf8_lossy(&text);
    let mut found = BTreeSet::new();
    for rest in text.split(TOP).skip(1) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        let word = rest.split(|c| !is_part(c)).next().unwrap_or_default().trim_end_matches('.');
        if let Some(licence) = tree.resolve(&format!("{TOP}{word}"))?.filter(|_| !word.is_empty()) {
            found.extend(licence.paths());
        }
    }
    Ok(found)
}

/// Directories above what is kept, those that everybody expects, and those that packages left empty to be written to.
fn directories(tree: &Tree<'_>, plan: &mut Plan) {
    let mut wanted: BTreeMap<String, Why> = BTreeMap::new();
    for path in plan.kept.keys() {
        for above in ancestors(path) {
            wanted
                .entry(above.to_owned())
                .or_insert_with(|| Why { reason: "it holds it".to_owned(), from: Some(path.clone()) });
        }
    }
    for path in DIRECTORIES {
        wanted.entry(path.to_owned()).or_insert_with(|| Why::said("every image has it"));
    }
    let hollow = |path: &str| tree.below(path).all(|below| tree.kind(below) == Some(Kind::Directory));
    let to_write = tree.files().filter(|(path, meta)| {
        meta.kind == Kind::Directory
            && path.starts_with("var/")
            && !path.starts_with("var/lib/dpkg")
            && hollow(path)
    });
    for (path, _) in to_write {
        for path in std::iter::once(path).chain(ancestors(path)) {
            wanted
                .entry(path.to_owned())
                .or_insert_with(|| Why::said("a package left it empty to be written to"));
        }
    }
    for (path, why) in wanted {
        if tree.kind(&path) == Some(Kind::Directory) {
            plan.kept.entry(path).or_insert(why);
        }
    }
}

/// Takes everything that is not kept out of a root, and brings what speaks of the rest up to date.
pub fn prune(scene: &Scene<'_>, root: &Root, plan: &Plan) -> Result<(), FactoryError> {
    let tree = Tree::of(root)?;
    let mut gone: Option<String> = None;
    for (path, _) in tree.files().filter(|(path, _)| !plan.kept.contains_key(*path)) {
        let covered = gone
            .as_ref()
            .is_some_and(|above| path.strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/')));
        if !covered {
            root.remove_dir_all(path)?;
            gone = Some(path.to_owned());
        }
    }
    if plan.kept.contains_key("etc/ld.so.conf") {
        loader_cache::write_without_tool(root, scene.architecture)?;
    }
    scene.inventory.packages.iter().try_for_each(|record| shorten_sums(root, record, plan))
}

/// A package's sums are those of its files that are left.
fn shorten_sums(root: &Root, record: &Record, plan: &Plan) -> Result<(), FactoryError> {
    let path = format!("var/lib/dpkg/status.d/{}.md5sums", record.name);
    if !plan.kept.contains_key(&path) {
        return Ok(());
    }
    let meta = root.lstat(&path)?;
    let text = String::from_utf8_lossy(&root.read(&path)?).into_owned();
    let is_left = |line: &&str| {
        let file = line.split_once("  ").map_or("", |(_, file)| file);
        plan.kept.contains_key(file) || plan.kept.contains_key(&format!("usr/{file}"))
    };
    let left: String = text.lines().filter(is_left).map(|line| format!("{line}\n")).collect();
    root.write(&path, left.as_bytes(), 0o644)?;
    Ok(root.set_mtime(&path, meta.mtime)?)
}

/// What is left of the packages.
#[must_use]
pub fn left(inventory: &Inventory, plan: &Plan) -> Inventory {
    let mut left = inventory.clone();
    left.packages.retain(|record| left_of(record, &plan.kept).is_some());
    for record in &mut left.packages {
        record.files.retain(|path| plan.kept.contains_key(path));
    }
    left
}

/// The layers of a root that was pruned: packages by groups, then all else.
pub fn layers(
    scene: &Scene<'_>,
    root: &Root,
    left: &Inventory,
    max_layers: usize,
    options: &LayerOptions<'_>,
) -> Result<Vec<LayerRecord>, FactoryError> {
    let tree = Tree::of(root)?;
    let target = scene.recipe.default_target();
    let bytes = |path: &String| tree.meta(path).map_or(0, |meta| meta.size_bytes);
    let member = |(position, record): (usize, &Record)| Member {
        position,
        source: record.source.clone(),
        tier: tier(&record.name, false, target),
        size_bytes: record.files.iter().map(bytes).sum(),
    };
    let members: Vec<Member> = left.packages.iter().enumerate().map(member).collect();
    let mut claimed = BTreeSet::new();
    let mut layers = Vec::new();
    for group in groups::plan(&members, max_layers.max(2) - 1) {
        let records = group.members.iter().map(|position| &left.packages[*position]);
        let paths: BTreeSet<String> =
            records.flat_map(files_of).filter(|path| is_file(&tree, path)).collect();
        let paths: Vec<&str> =
            paths.iter().filter(|path| claimed.insert((*path).clone())).map(String::as_str).collect();
        if !paths.is_empty() {
            layers.push(layer(root, &tree, &paths, options, &format!("knarr: reached of {}", group.title))?);
        }
    }
    let rest: Vec<&str> =
        tree.files().map(|(path, _)| path).filter(|path| !claimed.contains(*path)).collect();
    layers.push(layer(root, &tree, &rest, options, "knarr: configuration and files of the recipe")?);
    Ok(layers)
}

fn files_of(record: &Record) -> impl Iterator<Item = String> + '_ {
    let status = format!("var/lib/dpkg/status.d/{}", record.name);
    let sums = format!("{status}.md5sums");
    record.files.iter().cloned().chain([status, sums])
}

fn is_file(tree: &Tree<'_>, path: &str) -> bool {
    tree.kind(path).is_some_and(|kind| kind != Kind::Directory)
}

/// A layer of files with the directories above them, which are as old as the newest of the files.
fn layer(
    root: &Root,
    tree: &Tree<'_>,
    paths: &[&str],
    options: &LayerOptions<'_>,
    created_by: &str,
) -> Result<LayerRecord, FactoryError> {
    let times = paths.iter().filter(|path| is_file(tree, path)).filter_map(|path| tree.meta(path));
    let newest = times.map(|meta| meta.mtime).max().unwrap_or(0).min(options.newest.0);
    let mut picks: BTreeMap<&str, Pick> = BTreeMap::new();
    for path in paths.iter().copied().chain(paths.iter().flat_map(|path| ancestors(path))) {
        let Some(meta) = tree.meta(path) else { continue };
        let pick = match meta.kind {
            Kind::Directory => Pick::Directory {
                path: path.to_owned(),
                mode: meta.mode,
                uid: meta.uid,
                gid: meta.gid,
                mtime: newest,
            },
            _ => Pick::Path(path.to_owned()),
        };
        picks.insert(path, pick);
    }
    let picks: Vec<Pick> = picks.into_values().collect();
    write(root, &picks, options, created_by)
}

/// Files and their bytes in a root.
pub fn measure(root: &Root) -> Result<(usize, u64), FactoryError> {
    let tree = Tree::of(root)?;
    let sizes =
        tree.files().filter(|(_, meta)| meta.kind != Kind::Directory).map(|(_, meta)| meta.size_bytes);
    Ok(sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size)))
}

/// Whether slimming has anything to begin with.
#[must_use]
pub fn has_start(scene: &Scene<'_>) -> bool {
    let runs = !scene.config.entrypoint.is_empty() || !scene.config.cmd.is_empty();
    runs || !scene.recipe.keep.is_empty() || !scene.added.is_empty() || is_health(scene.recipe)
}

fn is_health(recipe: &Recipe) -> bool {
    let health = recipe.image.as_ref().and_then(|image| image.healthcheck.as_ref());
    health.is_some_and(|health| health.command != Command::default())
}

#[cfg(test)]
mod tests;
