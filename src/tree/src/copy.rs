//! Copying between the host and a root.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::TreeError;
use crate::root::Root;
use crate::unpack::Kind;

/// Copies a file, link or directory of the host to `to` in the root. Owners become root.
pub fn copy_in(from: &Path, root: &Root, to: &str) -> Result<(), TreeError> {
    let io = |source| TreeError::File { doing: "read", path: from.to_owned(), source };
    let meta = std::fs::symlink_metadata(from).map_err(io)?;
    if meta.is_symlink() {
        let target = std::fs::read_link(from).map_err(io)?;
        return root.symlink(&target.to_string_lossy(), to);
    }
    if !meta.is_dir() {
        let bytes = std::fs::read(from).map_err(io)?;
        root.write(to, &bytes, meta.mode() & 0o7777)?;
        return root.set_mtime(to, meta.mtime());
    }
    root.create_dir_all(to, meta.mode() & 0o7777)?;
    let mut entries: Vec<_> = std::fs::read_dir(from).map_err(io)?.collect::<Result<_, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        copy_in(&entry.path(), root, &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
    }
    Ok(())
}

/// Copies a file, link or directory of the root to `to` on the host.
pub fn copy_out(root: &Root, from: &str, to: &Path) -> Result<(), TreeError> {
    let io = |source| TreeError::File { doing: "write", path: to.to_owned(), source };
    let meta = root.lstat(from)?;
    match meta.kind {
        Kind::Directory => {
            std::fs::create_dir_all(to).map_err(io)?;
            root.list(from)?
                .iter()
                .try_for_each(|name| copy_out(root, &format!("{from}/{name}"), &to.join(name)))
        }
        Kind::Symlink => {
            let target = String::from_utf8_lossy(&root.read_link(from)?).into_owned();
            std::os::unix::fs::symlink(target, to).map_err(io)
        }
        Kind::File => {
            let mut file = root.open_file(from)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|source| TreeError::Path {
                doing: "read",
                path: from.to_owned(),
                source,
            })?;
            std::fs::write(to, bytes).map_err(io)?;
            std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode & 0o777)).map_err(io)
        }
        _ => Err(io(std::io::Error::other("it is neither a file, a link nor a directory"))),
    }
}
