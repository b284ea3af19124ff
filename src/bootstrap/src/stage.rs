//! The stage: where a root grows before anybody may see it.
//!
//! For a directory it lies beside the target and becomes it by one rename; a mount point, or a directory of which
//! only itself may be written to, has it inside, and its parts move up in the end. For everything else it is a tmpfs
//! that only this process sees, so that its end, however it comes, leaves nothing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use knarr_linux::{namespace, space};

use crate::BootstrapError;
use crate::target::{Format, Target};

/// A directory in which a root grows.
#[derive(Debug)]
pub struct Stage {
    holder: PathBuf,
    root: PathBuf,
    mounted: bool,
    /// It lies in the target itself.
    inside: bool,
    kept: bool,
}

/// Memory that must be free for each byte of .debs before a stage is put into it.
const MEMORY_PER_DEB_BYTE: u64 = 8;

impl Stage {
    /// Makes a stage for `target`, to which .debs of so many bytes will be unpacked.
    pub fn create(target: &Target, deb_bytes: u64) -> Result<Self, BootstrapError> {
        match (&target.path, target.format) {
            (Some(path), Format::Directory) => Self::beside(path),
            _ => Self::in_memory(deb_bytes),
        }
    }

    /// The growing root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the stage the target, in one step.
    pub fn become_target(mut self, target: &Path) -> Result<(), BootstrapError> {
        let moved = if self.inside { self.move_up(target) } else { fs::rename(&self.root, target) };
        moved.map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                BootstrapError::TargetExists { path: target.to_owned() }
            }
            _ => BootstrapError::File { path: target.to_owned(), doing: "create", source },
        })?;
        self.kept = true;
        fs::remove_dir(&self.holder).map_err(|source| BootstrapError::File {
            path: self.holder.clone(),
            doing: "remove",
            source,
        })
    }

    /// Keeps the stage under a name that says what it is, for a look at what went wrong.
    pub fn keep_incomplete(mut self, target: &Path, reason: &str) -> Option<PathBuf> {
        if self.mounted {
            return None;
        }
        let name = format!("{}.incomplete", target.file_name()?.to_string_lossy());
        let path = target.with_file_name(name);
        if path.exists() {
            fs::remove_dir_all(&path).ok()?;
        }
        fs::write(self.root.join("INCOMPLETE"), format!("This root is not finished: {reason}\n")).ok()?;
        fs::rename(&self.root, &path).ok()?;
        self.kept = true;
        let _ = fs::remove_dir(&self.holder);
        Some(path)
    }

    fn beside(target: &Path) -> Result<Self, BootstrapError> {
        let inside = must_stay(target);
        let place = if inside { target } else { parent(target) };
        let name = file_name(target);
        remove_leftovers(place, &name);
        let holder = tempfile::Builder::new()
            .prefix(&format!("{}{}-", prefix(&name), std::process::id()))
            .tempdir_in(place)
            .map_err(|source| BootstrapError::File { path: target.to_owned(), doing: "create", source })?;
        let mut stage = Self::in_directory(holder.keep(), false)?;
        stage.inside = inside;
        Ok(stage)
    }

    /// The last step where the target cannot be replaced: `etc` and the others arrive one after another.
    fn move_up(&self, target: &Path) -> io::Result<()> {
        let meta = fs::metadata(&self.root)?;
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            fs::rename(entry.path(), target.join(entry.file_name()))?;
        }
        fs::remove_dir(&self.root)?;
        chown(target, Some(meta.uid()), Some(meta.gid()))?;
        fs::set_permissions(target, meta.permissions())
    }

    fn in_memory(deb_bytes: u64) -> Result<Self, BootstrapError> {
        let base = std::env::temp_dir();
        let fail =
            |source: io::Error| BootstrapError::File { path: base.clone(), doing: "make a stage in", source };
        let holder = tempfile::Builder::new().prefix("knarr-stage-").tempdir_in(&base).map_err(fail)?.keep();
        let available = space::available_memory_bytes().map_err(fail)?;
        let wanted = deb_bytes.saturating_mul(MEMORY_PER_DEB_BYTE).max(256 << 20);
        let mounted = wanted < available / 2 && namespace::mount_tmpfs(&holder, available / 4 * 3).is_ok();
        Self::in_directory(holder, mounted)
    }

    fn in_directory(holder: PathBuf, mounted: bool) -> Result<Self, BootstrapError> {
        let root = holder.join("root");
        let made = fs::create_dir(&root)
            .and_then(|()| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)));
        let stage = Self { holder, root, mounted, inside: false, kept: false };
        made.map_err(|source| BootstrapError::File { path: stage.root.clone(), doing: "create", source })?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Dropping comes after an error or at the end: there is nobody left to tell.
        if self.mounted {
            let _ = namespace::unmount(&self.holder);
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
        let _ = fs::remove_dir_all(&self.holder);
    }
}

/// The directory that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn prefix(name: &str) -> String {
    format!(".{name}.knarr-")
}

/// Whether a directory cannot be replaced by another: something is mounted there, or its parent is not ours.
fn must_stay(target: &Path) -> bool {
    let Ok(meta) = fs::metadata(target) else { return false };
    let mounted = fs::metadata(target.join("..")).is_ok_and(|above| above.dev() != meta.dev());
    mounted || rustix::fs::access(parent(target), rustix::fs::Access::WRITE_OK).is_err()
}

/// Whether an entry of a target is no reason to leave the target alone: what every new ext4 has, and what a killed
/// run of ours left.
pub(crate) fn is_nothing(target: &Path, entry: &OsStr) -> bool {
    entry == "lost+found" || entry.to_string_lossy().starts_with(&prefix(&file_name(target)))
}

/// Removes stages whose process is gone: a kill -9 leaves them.
fn remove_leftovers(parent: &Path, name: &str) {
    let prefix = prefix(name);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let pid =
            file_name.strip_prefix(&prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
