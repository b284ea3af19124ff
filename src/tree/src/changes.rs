//! What a step changed in a root.
//!
//! [`FsSnapshot::take`] remembers what there is; [`FsSnapshot::changes`] compares it with what there is later. The
//! kernel stamps every change, so no content is read.

use std::collections::BTreeMap;

use crate::TreeError;
use crate::root::{Meta, Root};
use crate::unpack::Kind;

/// What there was in a root at one time.
#[derive(Clone, Debug, Default)]
pub struct FsSnapshot {
    files: BTreeMap<String, Meta>,
}

/// The difference of two snapshots, paths without leading `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or different, sorted.
    pub changed: Vec<String>,
    /// Gone, sorted; what was below them is not named.
    pub removed: Vec<String>,
}

impl FsSnapshot {
    /// Looks at everything in a root that `skip` does not say yes to.
    pub fn take(root: &Root, skip: &dyn Fn(&str) -> bool) -> Result<Self, TreeError> {
        let mut snapshot = Self::default();
        snapshot.walk(root, "", skip)?;
        Ok(snapshot)
    }

    /// All paths, with what they are.
    #[must_use]
    pub const fn files(&self) -> &BTreeMap<String, Meta> {
        &self.files
    }

    fn walk(&mut self, root: &Root, directory: &str, skip: &dyn Fn(&str) -> bool) -> Result<(), TreeError> {
        for name in root.list(directory)? {
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if skip(&path) {
                continue;
            }
            let meta = root.lstat(&path)?;
            self.files.insert(path.clone(), meta);
            if meta.kind == Kind::Directory {
                self.walk(root, &path, skip)?;
            }
        }
        Ok(())
    }

    /// What `later` has otherwise.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Changes {
        let differs = |path: &String, meta: &Meta| self.files.get(path).is_none_or(|old| !is_same(old, meta));
        let changed = later.files.iter().filter(|(path, meta)| differs(path, meta));
        let mut removed: Vec<String> = Vec::new();
        for path in self.files.keys().filter(|path| !later.files.contains_key(*path)) {
            let covered = removed.last().is_some_and(|above| is_below(path, above));
            // What a file took the place of goes with it.
            let replaced = ancestors(path)
                .any(|above| later.files.get(above).is_some_and(|m| m.kind != Kind::Directory));
            if !covered && !replaced {
                removed.push(path.clone());
            }
        }
        Changes { changed: changed.map(|(path, _)| path.clone()).collect(), removed }
    }
}

fn is_same(old: &Meta, new: &Meta) -> bool {
    let identity = |meta: &Meta| (meta.kind, meta.mode, meta.uid, meta.gid);
    if identity(old) != identity(new) {
        return false;
    }
    // A directory's own stamps change with what is in it, which is looked at by itself.
    new.kind == Kind::Directory
        || (old.inode, old.size_bytes, old.mtime, old.ctime)
            == (new.inode, new.size_bytes, new.mtime, new.ctime)
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// The directories above a path, the nearest first.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/').map(|(parent, _)| parent), |path| {
        path.rsplit_once('/').map(|(parent, _)| parent)
    })
}

#[cfg(test)]
mod tests {
    use super::{Changes, FsSnapshot};
    use crate::root::Root;

    #[test]
    fn changes_are_found_by_what_the_kernel_stamped() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        for path in ["a", "d/e/f", "d/g", "h", "r/x"] {
            if let Some((parent, _)) = path.rsplit_once('/') {
                root.create_dir_all(parent, 0o755).unwrap();
            }
            root.write(path, b"old", 0o644).unwrap();
        }
        let before = FsSnapshot::take(&root, &|_| false).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        root.write("a", b"new", 0o644).unwrap();
        root.set_mode("h", 0o600).unwrap();
        root.remove_dir_all("d").unwrap();
        root.remove_dir_all("r").unwrap();
        root.write("r", b"a file now", 0o644).unwrap();
        root.write("n", b"", 0o644).unwrap();
        let after = FsSnapshot::take(&root, &|path| path == "n").unwrap();
        let expected = Changes {
            changed: vec!["a".to_owned(), "h".to_owned(), "r".to_owned()],
            removed: vec!["d".to_owned()],
        };
        assert_eq!(before.changes(&after), expected);
        assert_eq!(after.changes(&after), Changes::default());
    }
}
