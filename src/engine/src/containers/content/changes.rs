//! What a container has changed: its upper directory, compared with the layers below.
//!
//! [`find`] names each path once, directories that were only passed through left out. What is there because something
//! is mounted on it is no change of the container's.
//!
//! Spec: overlayfs in the kernel's documentation, whiteouts and opaque directories; docker's `diff`.

use std::path::Path;

use knarr_tree::root::{Meta, Root};
use knarr_tree::unpack::Kind;

use super::path::{clean, join};
use crate::EngineError;
use crate::containers::record::Record;
use crate::view::with_layers;

/// What became of a path; the numbers are docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// A path that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Without leading `/`.
    pub(crate) path: String,
    pub(crate) kind: ChangeKind,
}

/// What every container has because it runs.
const PLACES: [&str; 9] = [
    "dev",
    "dev/console",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
    ".dockerenv",
];

/// Compares a container's upper directory with its layers, sorted by path.
pub(crate) fn find(record: &Record, upper: &Path) -> Result<Vec<Change>, EngineError> {
    let own = Root::open(upper)?;
    let mut places: Vec<String> = PLACES.iter().map(|place| (*place).to_owned()).collect();
    places.extend(record.mounts.iter().map(|mount| clean(&mount.target)));
    places.extend(record.host.tmpfs.iter().flatten().map(|(target, _)| clean(target)));
    let compare = |lower: &Root| {
        let mut finder = Finder { upper: &own, lower, places: &places, found: Vec::new() };
        finder.directory("", false)?;
        Ok(finder.found)
    };
    if record.layers.is_empty() {
        let nothing =
            tempfile::tempdir().map_err(EngineError::file("make a directory in", std::env::temp_dir()))?;
        return compare(&Root::open(nothing.path())?);
    }
    with_layers(&record.layers, compare)
}

struct Finder<'a> {
    upper: &'a Root,
    lower: &'a Root,
    places: &'a [String],
    found: Vec<Change>,
}

impl Finder<'_> {
    /// Compares what is in a directory. `alone` says that nothing of it comes from below. Answers whether only places
    /// were found in it.
    fn directory(&mut self, path: &str, alone: bool) -> Result<bool, EngineError> {
        let (mut places, before) = (false, self.found.len());
        let names = self.upper.list(path)?;
        for name in &names {
            let inside = join(path, name);
            let meta = self.upper.lstat(&inside)?;
            let below = if alone { None } else { meta_of(self.lower, &inside)? };
            places |= self.entry(&inside, &meta, below)?;
        }
        if !alone
            && self.is_opaque(path)?
            && meta_of(self.lower, path)?.is_some_and(|meta| meta.kind == Kind::Directory)
        {
            for name in self.lower.list(path)?.into_iter().filter(|name| names.binary_search(name).is_err()) {
                self.found.push(Change { path: join(path, &name), kind: ChangeKind::Deleted });
            }
        }
        Ok(places && self.found.len() == before)
    }

    /// Answers whether it is a place where something is mounted.
    fn entry(&mut self, path: &str, meta: &Meta, below: Option<Meta>) -> Result<bool, EngineError> {
        let place = self.places.iter().any(|place| place == path);
        if meta.kind == Kind::CharDevice && meta.device == (0, 0) {
            if below.is_some() {
                self.found.push(Change { path: path.to_owned(), kind: ChangeKind::Deleted });
            }
            return Ok(false);
        }
        if meta.kind != Kind::Directory {
            if place && meta.size_bytes == 0 {
                return Ok(true);
            }
            let kind = if below.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            self.found.push(Change { path: path.to_owned(), kind });
            return Ok(false);
        }
        let was_directory = below.filter(|below| below.kind == Kind::Directory);
        let at = self.found.len();
        let only_places = self.directory(path, was_directory.is_none())?;
        let unchanged = self.found.len() == at;
        let is_for_places =
            unchanged && (place || only_places || self.places.iter().any(|known| is_below(known, path)));
        match was_directory {
            None if is_for_places && below.is_none() => return Ok(true),
            Some(below) if unchanged && is_same(&below, meta, is_for_places) => {
                return Ok(place || only_places);
            }
            _ => {}
        }
        let kind = if below.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.found.insert(at, Change { path: path.to_owned(), kind });
        Ok(false)
    }

    fn is_opaque(&self, path: &str) -> Result<bool, EngineError> {
        Ok(self.upper.is_opaque(path)?)
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a directory is what it was; its time changes with what is in it.
fn is_same(below: &Meta, meta: &Meta, places: bool) -> bool {
    let identity = |meta: &Meta| (meta.mode, meta.uid, meta.gid);
    identity(below) == identity(meta) && (places || below.mtime == meta.mtime)
}

fn meta_of(root: &Root, path: &str) -> Result<Option<Meta>, EngineError> {
    match root.lstat(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(knarr_tree::TreeError::Path { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
