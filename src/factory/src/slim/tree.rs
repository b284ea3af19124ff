//! The root as slimming sees it: what there is, where links lead, and which paths a pattern names.
//!
//! [`Tree::resolve`] walks a path link by link, because each link of a chain has to stay for the end to be found.

use std::collections::VecDeque;

use knarr_bootstrap::filter::PathFilter;
use knarr_tree::changes::FsSnapshot;
use knarr_tree::root::{Meta, Root};
use knarr_tree::unpack::Kind;

use crate::FactoryError;
use crate::state::is_of_the_run;

/// A root and all that is in it.
pub struct Tree<'a> {
    /// The root.
    pub root: &'a Root,
    snapshot: FsSnapshot,
}

/// Where a path leads to, paths without leading `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Links on the way, in their order, and whether each stands for the file itself or for a directory above it.
    pub links: Vec<(String, bool)>,
    /// What stands at the end; it is no link.
    pub path: String,
}

impl Found {
    /// Every link, and the end.
    pub fn paths(self) -> impl Iterator<Item = String> {
        self.links.into_iter().map(|(link, _)| link).chain([self.path])
    }
}

/// The kernel follows no more links, either.
const MAX_LINKS: usize = 40;

impl<'a> Tree<'a> {
    /// Looks at a root.
    pub fn of(root: &'a Root) -> Result<Self, FactoryError> {
        Ok(Self { root, snapshot: FsSnapshot::take(root, &is_of_the_run)? })
    }

    /// Every path, sorted, with what it is.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Meta)> {
        self.snapshot.files().iter().map(|(path, meta)| (path.as_str(), meta))
    }

    /// What stands at a path, links not followed.
    #[must_use]
    pub fn kind(&self, path: &str) -> Option<Kind> {
        self.meta(path).map(|meta| meta.kind)
    }

    /// What is known of a path, links not followed.
    #[must_use]
    pub fn meta(&self, path: &str) -> Option<&Meta> {
        self.snapshot.files().get(path)
    }

    /// All that lies below a directory.
    pub fn below<'b>(&'b self, directory: &str) -> impl Iterator<Item = &'b str> + use<'b> {
        let start = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let range = self.snapshot.files().range(start.clone()..);
        range.map(|(path, _)| path.as_str()).take_while(move |path| path.starts_with(&start))
    }

    /// Paths that a pattern of a recipe matches; `*` and `?` match `/`, too.
    #[must_use]
    pub fn matching(&self, pattern: &str) -> Vec<String> {
        let mut filter = PathFilter::default();
        filter.exclude(pattern);
        let paths = self.files().map(|(path, _)| path);
        paths.filter(|path| filter.excludes(path, false)).map(str::to_owned).collect()
    }

    /// Follows a path with all links inside the root; nothing where it leads nowhere.
    pub fn resolve(&self, path: &str) -> Result<Option<Found>, FactoryError> {
        let mut rest: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut found = Found::default();
        while let Some(part) = rest.pop_front() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found.path = parent(&found.path).to_owned();
                    continue;
                }
                _ => {}
            }
            let here = join(&found.path, &part);
            match self.kind(&here) {
                None => return Ok(None),
                Some(Kind::Symlink) => {
                    let is_last = rest.iter().all(String::is_empty);
                    let target = String::from_utf8_lossy(&self.root.read_link(&here)?).into_owned();
                    if target.starts_with('/') {
                        found.path.clear();
                    }
                    target.split('/').rev().for_each(|part| rest.push_front(part.to_owned()));
                    found.links.push((here, is_last));
                    if found.links.len() > MAX_LINKS {
                        return Ok(None);
                    }
                }
                Some(_) => found.path = here,
            }
        }
        Ok(self.kind(&found.path).is_some().then_some(found))
    }
}

/// The directory that a path lies in.
#[must_use]
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The last part of a path.
#[must_use]
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// A path in a directory.
#[must_use]
pub fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}
