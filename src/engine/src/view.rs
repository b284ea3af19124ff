//! A root's files while no container has them mounted: seen by one thread only, in a mount namespace of its own.

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

/// Copies what a root has in a directory into another one, with owners, modes, times and extended attributes.
pub(crate) fn copy_directory(root: &Root, from: &str, to: &Path) -> Result<(), EngineError> {
    let target = Root::open(to)?;
    if root.stat(from)?.kind != Kind::Directory {
        return Ok(());
    }
    copy_below(root, from, &target, "")?;
    copy_marks(root, from, &target, "")
}

fn copy_below(root: &Root, from: &str, target: &Root, to: &str) -> Result<(), EngineError> {
    for name in root.list(from)? {
        let below =
            |directory: &str| if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        copy_one(root, &below(from), target, &below(to))?;
    }
    Ok(())
}

fn copy_one(root: &Root, from: &str, target: &Root, to: &str) -> Result<(), EngineError> {
    let meta = root.lstat(from)?;
    match meta.kind {
        Kind::Directory => {
            target.create_dir(to, 0o700)?;
            copy_below(root, from, target, to)?;
        }
        Kind::Symlink => {
            let link = root.read_link(from)?;
            target.symlink(&String::from_utf8_lossy(&link), to)?;
            target.set_owner(to, meta.uid, meta.gid)?;
            return Ok(());
        }
        Kind::File => {
            let mut bytes = Vec::new();
            root.open_file(from)?.read_to_end(&mut bytes).map_err(EngineError::file("read", from))?;
            target.write(to, &bytes, 0o600)?;
        }
        // Sockets, pipes and devices are made by those who use them.
        _ => return Ok(()),
    }
    copy_marks(root, from, target, to)
}

fn copy_marks(root: &Root, from: &str, target: &Root, to: &str) -> Result<(), EngineError> {
    let meta = root.stat(from)?;
    target.set_owner(to, meta.uid, meta.gid)?;
    target.set_mode(to, meta.mode)?;
    for (key, value) in root.xattrs(from)? {
        target.set_xattr(to, &key, &value)?;
    }
    Ok(target.set_mtime(to, meta.mtime)?)
}
