//! Plain files, directories and links, as `cp -p`, `touch`, `mkdir` and `ln -s` make them.

use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::accounts::group_id;
use crate::BootstrapError;

/// Copies content, mode, owner and time, unless `to` is there.
pub(super) fn copy(root: &Root, from: &str, to: &str) -> Result<(), BootstrapError> {
    if root.exists(to)? {
        return Ok(());
    }
    let meta = root.stat(from)?;
    root.write(to, &root.read(from)?, meta.mode)?;
    root.set_owner(to, meta.uid, meta.gid)?;
    root.set_mode(to, meta.mode)?;
    Ok(root.set_mtime(to, meta.mtime)?)
}

/// Makes an empty file, unless it is there; mode and group are set in any case.
pub(super) fn touch(root: &Root, path: &str, mode: u32, group: &str) -> Result<(), BootstrapError> {
    if !root.exists(path)? {
        root.write(path, b"", mode)?;
    }
    root.set_owner(path, 0, group_id(root, group)?.unwrap_or(0))?;
    Ok(root.set_mode(path, mode)?)
}

/// Makes a directory and those above it, unless it is there.
pub(super) fn make_directory(root: &Root, path: &str, mode: u32, group: &str) -> Result<(), BootstrapError> {
    if root.exists(path)? {
        return Ok(());
    }
    root.create_dir_all(path, 0o755)?;
    root.set_owner(path, 0, group_id(root, group)?.unwrap_or(0))?;
    Ok(root.set_mode(path, mode)?)
}

/// Makes a link, unless something is there.
pub(super) fn link(root: &Root, target: &str, path: &str) -> Result<(), BootstrapError> {
    if root.exists(path)? {
        return Ok(());
    }
    Ok(root.symlink(target, path)?)
}

/// Makes an empty directory a link; a link stays what it is.
pub(super) fn become_link(root: &Root, path: &str, target: &str) -> Result<(), BootstrapError> {
    if root.lstat(path)?.kind == Kind::Directory {
        root.remove_dir_all(path)?;
        root.symlink(target, path)?;
    }
    Ok(())
}
