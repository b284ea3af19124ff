//! Layers from a root: those of packages, and those of what a step changed.
//!
//! A package's layer holds what its .deb holds, with the .deb's own times, so that it has the same bytes in every
//! image. What scripts and effects added or changed lies in a layer above.

use std::collections::{BTreeMap, BTreeSet};

use knarr_base::{Digest, Timestamp};
use knarr_bootstrap::package::Package;
use knarr_mirror::cache::Cache;
use knarr_store::Ingest;
use knarr_tree::archive::{Pick, TarOptions, write_picks};
use knarr_tree::changes::{Changes, FsSnapshot, ancestors};
use knarr_tree::compress::Compression;
use knarr_tree::root::{Meta, Root};
use knarr_tree::unpack::{Entry, Kind};

use crate::FactoryError;
use crate::cache::{self, KeyMaker, LayerRecord};
use crate::groups::LayerGroup;
use crate::state::is_of_the_run;

/// What all layers of a build have in common.
#[derive(Clone, Copy)]
pub struct LayerOptions<'a> {
    /// Where they go.
    pub ingest: &'a Ingest<'a>,
    /// Where records are kept.
    pub cache: &'a Cache,
    /// How they are compressed.
    pub compression: Compression,
    /// Later times become this one.
    pub newest: Timestamp,
}

/// A .deb and the files that speak of it in the root.
pub struct PackageFiles<'a> {
    /// What was unpacked.
    pub package: &'a Package,
    /// Digest of the .deb.
    pub digest: Digest,
    /// Files about it that this program wrote, such as `var/lib/dpkg/status.d/x`.
    pub records: Vec<String>,
}

/// The layers of packages, and of all else that is in the root.
pub fn package_layers(
    root: &Root,
    packages: &[PackageFiles<'_>],
    groups: &[LayerGroup],
    options: &LayerOptions<'_>,
    rest_created_by: &str,
) -> Result<Vec<LayerRecord>, FactoryError> {
    let snapshot = FsSnapshot::take(root, &is_of_the_run)?;
    let mut claimed: BTreeSet<String> = BTreeSet::new();
    let mut directories: BTreeMap<String, (u32, u32, u32)> = BTreeMap::new();
    let mut layers = Vec::new();
    for group in groups {
        let picks = group_picks(root, packages, group, &snapshot, &mut claimed)?;
        for pick in &picks {
            if let Pick::Directory { path, mode, uid, gid, .. } = pick {
                directories.insert(path.clone(), (*mode, *uid, *gid));
            }
        }
        if picks.iter().any(|pick| matches!(pick, Pick::Path(_))) || !picks.is_empty() {
            layers.push(group_layer(root, packages, group, &picks, &snapshot, options)?);
        }
    }
    let is_provided = |path: &str, meta: &Meta| {
        claimed.contains(path)
            || (meta.kind == Kind::Directory
                && directories.get(path) == Some(&(meta.mode, meta.uid, meta.gid)))
    };
    let changed: Vec<String> = snapshot
        .files()
        .iter()
        .filter(|(path, meta)| !is_provided(path, meta) && meta.kind != Kind::Socket)
        .map(|(path, _)| path.clone())
        .collect();
    let rest = Changes { changed, removed: Vec::new() };
    layers.extend(changes_layer(root, &rest, options, rest_created_by)?);
    Ok(layers)
}

/// What a group's layer holds, sorted: each file once, in the layer of the package that it is of.
fn group_picks(
    root: &Root,
    packages: &[PackageFiles<'_>],
    group: &LayerGroup,
    snapshot: &FsSnapshot,
    claimed: &mut BTreeSet<String>,
) -> Result<Vec<Pick>, FactoryError> {
    let mut picks: BTreeMap<String, Pick> = BTreeMap::new();
    for position in &group.members {
        let files = &packages[*position];
        for entry in &files.package.entries {
            let path = real_path(root, &entry.path)?;
            if path.is_empty() || files.package.lost.contains(&entry.path) {
                continue;
            }
            let Some(meta) = snapshot.files().get(&path) else { continue };
            match (entry.kind, meta.kind) {
                (Kind::Directory, Kind::Directory) => {
                    picks.insert(path.clone(), directory(path, entry));
                }
                _ if is_untouched(entry, meta) && !claimed.contains(&path) => {
                    claimed.insert(path.clone());
                    picks.insert(path.clone(), Pick::Path(path));
                }
                _ => {}
            }
        }
        for path in &files.records {
            if claimed.insert(path.clone()) {
                picks.insert(path.clone(), Pick::Path(path.clone()));
            }
        }
    }
    drop_empty(&mut picks);
    add_missing_parents(&mut picks);
    Ok(picks.into_values().collect())
}

/// A directory of which nothing but directories is left, because all in it was left out, would only be in the way;
/// one that its package ships empty is wanted. They look alike here, so the snapshot decided: it is in the root.
fn drop_empty(picks: &mut BTreeMap<String, Pick>) {
    picks.retain(|path, _| !is_of_the_run(path));
}

/// Directories above a file that its package does not ship have the mode that everybody gives them.
fn add_missing_parents(picks: &mut BTreeMap<String, Pick>) {
    let missing: BTreeSet<String> = picks
        .keys()
        .flat_map(|path| ancestors(path))
        .filter(|path| !picks.contains_key(*path))
        .map(str::to_owned)
        .collect();
    for path in missing {
        picks.insert(path.clone(), Pick::Directory { path, mode: 0o755, uid: 0, gid: 0, mtime: 0 });
    }
}

fn directory(path: String, entry: &Entry) -> Pick {
    Pick::Directory { path, mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime }
}

/// Where an entry's path really lies: `bin/x` is `usr/bin/x` on a merged system.
pub(crate) fn real_path(root: &Root, path: &str) -> Result<String, FactoryError> {
    let Some((top, rest)) = path.split_once('/') else {
        // The aliases themselves are links, made before the first package.
        let is_link = !path.is_empty() && root.exists(path)? && root.lstat(path)?.kind == Kind::Symlink;
        return Ok(if is_link { format!("usr/{path}") } else { path.to_owned() });
    };
    let aliased = matches!(top, "bin" | "sbin") || top.starts_with("lib");
    if aliased && root.exists(top)? && root.lstat(top)?.kind == Kind::Symlink {
        return Ok(format!("usr/{top}/{rest}"));
    }
    Ok(path.to_owned())
}

/// Whether a file is still what its package brought.
fn is_untouched(entry: &Entry, meta: &Meta) -> bool {
    let owner = (meta.uid, meta.gid) == (entry.uid, entry.gid);
    match entry.kind {
        Kind::File => {
            meta.kind == Kind::File
                && owner
                && (meta.mode, meta.size_bytes, meta.mtime) == (entry.mode, entry.size_bytes, entry.mtime)
        }
        Kind::Symlink => meta.kind == Kind::Symlink && owner && meta.mtime == entry.mtime,
        Kind::HardLink => meta.kind == Kind::File,
        kind => meta.kind == kind && owner && meta.mode == entry.mode,
    }
}

fn group_layer(
    root: &Root,
    packages: &[PackageFiles<'_>],
    group: &LayerGroup,
    picks: &[Pick],
    snapshot: &FsSnapshot,
    options: &LayerOptions<'_>,
) -> Result<LayerRecord, FactoryError> {
    let mut key = KeyMaker::new("packages").with(format!("{:?}", options.compression).as_bytes());
    for position in &group.members {
        key = key.with(packages[*position].digest.as_bytes());
    }
    for pick in picks {
        let meta = snapshot.files().get(pick.path());
        let facts = meta.map(|meta| (meta.mode, meta.uid, meta.gid, meta.size_bytes, meta.mtime));
        key = key.with(pick.path().as_bytes()).with(format!("{pick:?} {facts:?}").as_bytes());
    }
    let newest_of_group = snapshot_newest(picks, snapshot).min(options.newest.0);
    let key = key.with(&newest_of_group.to_le_bytes()).finish();
    let created_by = format!("{OF_PACKAGES}{}", group.title);
    if let Some(known) = cache::layers(options.cache, options.ingest.store(), key)
        && let [known] = known.as_slice()
    {
        return Ok(known.clone());
    }
    let layer = write(root, picks, options, &created_by)?;
    cache::save(options.cache, key, &[&layer])?;
    Ok(layer)
}

const OF_PACKAGES: &str = "knarr: packages of ";

/// Whether a layer of this origin holds what packages brought, and nothing else.
#[must_use]
pub fn is_of_packages(created_by: &str) -> bool {
    created_by.starts_with(OF_PACKAGES)
}

fn snapshot_newest(picks: &[Pick], snapshot: &FsSnapshot) -> i64 {
    let times = picks.iter().filter_map(|pick| snapshot.files().get(pick.path()).map(|meta| meta.mtime));
    times.max().unwrap_or(0)
}

/// The layer of what changed, with the directories above it; none when nothing did.
pub fn changes_layer(
    root: &Root,
    changes: &Changes,
    options: &LayerOptions<'_>,
    created_by: &str,
) -> Result<Option<LayerRecord>, FactoryError> {
    if changes.changed.is_empty() && changes.removed.is_empty() {
        return Ok(None);
    }
    let mut picks: BTreeMap<&str, Pick> = BTreeMap::new();
    for path in &changes.changed {
        picks.insert(path, Pick::Path(path.clone()));
    }
    for path in &changes.removed {
        picks.insert(path, Pick::Whiteout(path.clone()));
    }
    for path in changes.changed.iter().chain(&changes.removed).flat_map(|path| ancestors(path)) {
        picks.entry(path).or_insert_with(|| Pick::Path(path.to_owned()));
    }
    let picks: Vec<Pick> = picks.into_values().collect();
    write(root, &picks, options, created_by).map(Some)
}

/// A layer of these entries.
pub(crate) fn write(
    root: &Root,
    picks: &[Pick],
    options: &LayerOptions<'_>,
    created_by: &str,
) -> Result<LayerRecord, FactoryError> {
    let tar =
        TarOptions { newest: options.newest, started: Timestamp(i64::MAX), skip: &|_| false, extra: &[] };
    let layer =
        options.ingest.layer(options.compression, |out| write_picks(root, out, picks, &tar).map(drop))?;
    Ok(LayerRecord {
        descriptor: layer.descriptor,
        diff_id: layer.diff_id,
        created_by: created_by.to_owned(),
    })
}
