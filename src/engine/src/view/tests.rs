//! Tests of layers seen as one root, and of copies from them. They mount where only their thread sees it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{copy_directory, with_layers};

/// Two layers: the lower one with a link to where the higher one has its files.
fn layers() -> (tempfile::TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let (low, high) = (root.path().join("low"), root.path().join("high"));
    fs::create_dir_all(low.join("var")).unwrap();
    symlink("/run", low.join("var/run")).unwrap();
    let data = high.join("run/data");
    fs::create_dir_all(data.join("inner")).unwrap();
    fs::write(data.join("inner/file"), vec![7; (1 << 20) + 5]).unwrap();
    fs::hard_link(data.join("inner/file"), data.join("twin")).unwrap();
    fs::set_permissions(data.join("inner/file"), PermissionsExt::from_mode(0o4750)).unwrap();
    fs::set_permissions(&data, PermissionsExt::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(data.join("inner"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::chown(&data, Some(56), Some(78)).unwrap();
    rustix::fs::setxattr(data.join("twin"), "user.test", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    nix::unistd::mkfifo(&data.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    (root, vec![low, high])
}

fn copied(layers: &[PathBuf], from: &str, to: &Path) {
    with_layers(layers, |root| copy_directory(root, from, to)).unwrap();
}

#[test]
fn a_copy_is_what_the_image_has() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (_root, layers) = layers();
    let volume = tempfile::tempdir().unwrap();
    copied(&layers, "var/run/data", volume.path());
    let meta = |name: &str| fs::symlink_metadata(volume.path().join(name)).unwrap();
    assert_eq!((meta("").mode() & 0o7777, meta("").uid(), meta("").gid()), (0o1777, 56, 78));
    assert_eq!((meta("inner").uid(), meta("inner").gid()), (12, 34));
    assert_eq!((meta("inner/file").mode() & 0o7777, meta("inner/file").len()), (0o4750, (1 << 20) + 5));
    assert_eq!(meta("inner/file").ino(), meta("twin").ino());
    assert_eq!(fs::read_link(volume.path().join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(meta("pipe").mode() & 0o170_777, 0o010_600);
    let mut value = [0; 4];
    let size = rustix::fs::getxattr(volume.path().join("twin"), "user.test", &mut value[..]).unwrap();
    assert_eq!(&value[..size], b"x");
    assert_eq!(meta("twin").mtime(), fs::metadata(layers[1].join("run/data/twin")).unwrap().mtime());
}

#[test]
fn a_file_is_not_copied_as_a_directory() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (_root, layers) = layers();
    let volume = tempfile::tempdir().unwrap();
    copied(&layers, "run/data/twin", volume.path());
    assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
}

#[test]
fn one_layer_is_enough() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (_root, layers) = layers();
    let volume = tempfile::tempdir().unwrap();
    copied(&layers[1..], "run/data", volume.path());
    assert!(volume.path().join("inner/file").exists());
}
