//! A root's files while no container has them mounted: seen by one thread only, in a mount namespace of its own.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use knarr_linux::{namespace, overlay};
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use crate::EngineError;

/// Shows an image's layers, the lowest first, as one read-only root to `look`.
pub(crate) fn with_layers<T: Send>(
    layers: &[PathBuf],
    look: impl FnOnce(&Root) -> Result<T, EngineError> + Send,
) -> Result<T, EngineError> {
    let stack: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    in_private_mounts(move || {
        let place =
            tempfile::tempdir().map_err(EngineError::file("make a directory in", std::env::temp_dir()))?;
        overlay::mount_read_only(&stack, place.path())?;
        let looked = Root::open(place.path()).map_err(EngineError::from).and_then(|root| look(&root));
        overlay::unmount(place.path())?;
        looked
    })
}

/// Runs work in a thread whose mounts nobody else sees, and that end with it.
pub(crate) fn in_private_mounts<T: Send>(
    work: impl FnOnce() -> Result<T, EngineError> + Send,
) -> Result<T, EngineError> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            namespace::private_mounts()?;
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Copies what a root has in a directory into another one, with owners, modes, times, extended attributes and links.
pub(crate) fn copy_directory(root: &Root, from: &str, to: &Path) -> Result<(), EngineError> {
    let target = Root::open(to)?;
    if root.stat(from)?.kind != Kind::Directory {
        return Ok(());
    }
    Copy { root, target: &target, names: HashMap::new() }.below(from, "")?;
    // With the dot it is the directory itself, when a link leads to it.
    copy_marks(root, &format!("{from}/."), &target, "")
}

/// So much of a file is in memory at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// A copy of one tree.
struct Copy<'r> {
    root: &'r Root,
    target: &'r Root,
    /// Where files with several names were put first, by inode.
    names: HashMap<(u64, u64), String>,
}

impl Copy<'_> {
    fn below(&mut self, from: &str, to: &str) -> Result<(), EngineError> {
        for name in self.root.list(from)? {
            let in_it = |directory: &str| {
                if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") }
            };
            self.one(&in_it(from), &in_it(to))?;
        }
        Ok(())
    }

    fn one(&mut self, from: &str, to: &str) -> Result<(), EngineError> {
        let meta = self.root.lstat(from)?;
        if meta.kind != Kind::Directory && meta.links > 1 {
            if let Some(first) = self.names.get(&meta.inode) {
                return Ok(self.target.hard_link(first, to)?);
            }
            self.names.insert(meta.inode, to.to_owned());
        }
        match meta.kind {
            Kind::Directory => {
                self.target.create_dir(to, 0o700)?;
                self.below(from, to)?;
            }
            Kind::Symlink => return self.symlink(from, to),
            Kind::File => self.file(from, to)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.target.mknod(to, meta.kind, meta.mode, meta.device)?;
            }
            // A socket is made by the one who listens.
            Kind::Socket | Kind::HardLink => return Ok(()),
        }
        copy_marks(self.root, from, self.target, to)
    }

    fn symlink(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let meta = self.root.lstat(from)?;
        let link = String::from_utf8(self.root.read_link(from)?)
            .map_err(|_| EngineError::failed(format!("copy {from}: the link leads to no UTF-8 text")))?;
        self.target.symlink(&link, to)?;
        self.target.set_owner(to, meta.uid, meta.gid)?;
        Ok(self.target.set_mtime(to, meta.mtime)?)
    }

    fn file(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let file = self.root.open_file(from)?;
        let next = || {
            let mut bytes = Vec::new();
            let read = (&file).take(CHUNK_BYTES).read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(EngineError::file("read", from))
        };
        self.target.write(to, &next()?, 0o600)?;
        loop {
            let bytes = next()?;
            if bytes.is_empty() {
                return Ok(());
            }
            self.target.append(to, &bytes, 0o600)?;
        }
    }
}

fn copy_marks(root: &Root, from: &str, target: &Root, to: &str) -> Result<(), EngineError> {
    let meta = root.lstat(from)?;
    target.set_owner(to, meta.uid, meta.gid)?;
    target.set_mode(to, meta.mode)?;
    for (key, value) in root.xattrs(from)? {
        target.set_xattr(to, &key, &value)?;
    }
    Ok(target.set_mtime(to, meta.mtime)?)
}

#[cfg(test)]
mod tests;
