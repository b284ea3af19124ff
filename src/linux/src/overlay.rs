//! Overlayfs: layers stacked into one directory.
//!
//! Spec: overlayfs in the kernel's documentation, `lowerdir+`; fsopen(2).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::LinuxError;

/// Mounts layers read-only on `target`, the highest first. They are given one by one, so that there may be
/// more of them than one page of options holds.
pub fn mount_read_only(layers: &[PathBuf], target: &Path) -> Result<(), LinuxError> {
    let step = || format!("mount an overlay on {}", target.display());
    if let [only] = layers {
        return bind_read_only(only, target);
    }
    let stacked = (|| {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "knarr")?;
        for layer in layers {
            fsconfig_set_string(&context, "lowerdir+", layer)?;
        }
        fsconfig_create(&context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
        move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    })();
    stacked.map_err(io::Error::from).map_err(LinuxError::step(step()))
}

/// Layers, the highest first, with a directory on top that takes what is changed. It is mounted nowhere, and gone with
/// its descriptor. Nothing of it waits for the disk: who wants to keep `upper` syncs.
pub fn stack_writable(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    rootless: bool,
) -> Result<OwnedFd, LinuxError> {
    let stacked = (|| {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "knarr")?;
        for layer in layers {
            fsconfig_set_string(&context, "lowerdir+", layer)?;
        }
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
        // The upper directory is to stand for itself: no name of a lower one in place of its files.
        for option in ["index", "metacopy", "redirect_dir"] {
            fsconfig_set_string(&context, option, "off")?;
        }
        fsconfig_set_flag(&context, "volatile")?;
        if rootless {
            fsconfig_set_flag(&context, "userxattr")?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    })();
    stacked.map_err(io::Error::from).map_err(LinuxError::step(format!("stack {}", upper.display())))
}

fn bind_read_only(layer: &Path, target: &Path) -> Result<(), LinuxError> {
    let step = format!("mount {} on {}", layer.display(), target.display());
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    let bound = mount(Some(layer), target, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, target, none, flags, none));
    bound.map_err(io::Error::from).map_err(LinuxError::step(step))
}

/// Takes the mount at `path` away.
pub fn unmount(path: &Path) -> Result<(), LinuxError> {
    let gone = nix::mount::umount2(path, nix::mount::MntFlags::empty());
    gone.map_err(io::Error::from).map_err(LinuxError::step(format!("unmount {}", path.display())))
}
