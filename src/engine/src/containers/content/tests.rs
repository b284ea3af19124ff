//! A container's files without a container: layers and an upper directory in a temporary place.

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;

use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::changes::{Change, ChangeKind, find};
use super::*;
use crate::containers::record::MountRecord;

fn tarball(entries: &[(&str, tar::EntryType, &str)]) -> fs::File {
    let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        header.set_mtime(7);
        let size = if kind.is_file() { content.len() as u64 } else { 0 };
        header.set_size(size);
        if !kind.is_file() && !content.is_empty() {
            header.set_link_name(content).unwrap();
        }
        header.set_cksum();
        builder.append(&header, &content.as_bytes()[..usize::try_from(size).unwrap()]).unwrap();
    }
    let mut file = builder.into_inner().unwrap();
    file.flush().unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn nothing_is_written_outside_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    let root = Root::open(&inside).unwrap();
    root.create_dir_all("tmp", 0o755).unwrap();
    root.symlink(&outside.to_string_lossy(), "tmp/there").unwrap();
    root.symlink("../../../../../../..", "tmp/up").unwrap();
    for entries in [
        vec![
            ("l", tar::EntryType::Symlink, outside.to_str().unwrap()),
            ("l/f", tar::EntryType::Regular, "x"),
        ],
        vec![("there/f", tar::EntryType::Regular, "x")],
        vec![("../../outside/f", tar::EntryType::Regular, "x")],
        vec![("h", tar::EntryType::Link, "../../outside/secret")],
    ] {
        fs::write(outside.join("secret"), "secret").unwrap();
        // Whether it is refused or written inside, it is not written there.
        let _ = extract(&root, "tmp", false, &mut tarball(&entries));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{entries:?}");
    }
    extract(&root, "tmp", false, &mut tarball(&[("up/f", tar::EntryType::Regular, "x")])).unwrap();
    assert_eq!(root.read("f").unwrap(), b"x");
}

#[test]
fn directories_and_files_take_each_others_place_only_when_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    root.create_dir_all("to/d", 0o755).unwrap();
    root.write("to/f", b"old", 0o644).unwrap();
    for (path, kind) in [("d", tar::EntryType::Regular), ("f", tar::EntryType::Directory)] {
        let error = extract(&root, "to", true, &mut tarball(&[(path, kind, "")])).unwrap_err();
        assert!(error.message().starts_with("cannot overwrite "), "{error}");
    }
    assert_eq!(root.read("to/f").unwrap(), b"old");
    let both = [("d", tar::EntryType::Regular, "file"), ("f", tar::EntryType::Directory, "")];
    extract(&root, "to", false, &mut tarball(&both)).unwrap();
    assert_eq!(root.read("to/d").unwrap(), b"file");
    assert_eq!(root.lstat("to/f").unwrap().kind, Kind::Directory);
}

#[test]
fn a_part_of_a_root_is_archived_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    root.create_dir_all("a/b", 0o755).unwrap();
    root.write("a/b/f", b"x", 0o644).unwrap();
    root.hard_link("a/b/f", "a/b/g").unwrap();
    let names = |path: &str, name: &str| {
        let mut bytes = Vec::new();
        write_subtree(&root, path, name, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), link.unwrap_or_default())
        });
        entries.collect::<Vec<_>>()
    };
    let pair = |name: &str, link: &str| (name.to_owned(), link.to_owned());
    assert_eq!(names("a/b", "b"), [pair("b/", ""), pair("b/f", ""), pair("b/g", "b/f")]);
    assert_eq!(names("a/b", "."), [pair("./", ""), pair("./f", ""), pair("./g", "./f")]);
    assert_eq!(names("a/b/f", "f"), [pair("f", "")]);
    assert_eq!(names("", "")[0], pair("a/", ""));
    assert_eq!(names("", "/")[..2], [pair("/", ""), pair("/a/", "")]);
}

/// A record of one layer, and its upper directory.
fn container(dir: &Path) -> (Record, Root, Root) {
    let (layer, upper) = (dir.join("layer"), dir.join("upper"));
    let (lower, own) = (Root::create(&layer).unwrap(), Root::create(&upper).unwrap());
    let mounts = vec![MountRecord {
        target: "/data/in".to_owned(),
        kind: "volume".to_owned(),
        ..MountRecord::default()
    }];
    (Record { layers: vec![layer], mounts, ..Record::default() }, lower, own)
}

fn is_root() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root {
        // Whiteouts and mounts are root's.
        tracing::warn!("skipped: this needs root");
    }
    root
}

#[test]
fn changes_name_what_differs_and_nothing_else() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (record, lower, upper) = container(dir.path());
    for path in ["keep", "gone", "etc/old", "same/f", "opaque/a", "opaque/b"] {
        if let Some((parent, _)) = path.rsplit_once('/') {
            lower.create_dir_all(parent, 0o755).unwrap();
        }
        lower.write(path, b"1", 0o644).unwrap();
    }
    for directory in ["etc", "same", "opaque", "data/in", "new"] {
        upper.create_dir_all(directory, 0o755).unwrap();
    }
    upper.write("etc/old", b"2", 0o644).unwrap();
    upper.write("etc/hosts", b"", 0o644).unwrap();
    upper.write("new/f", b"3", 0o644).unwrap();
    upper.write("opaque/b", b"4", 0o644).unwrap();
    upper.mknod("gone", Kind::CharDevice, 0, (0, 0)).unwrap();
    upper.set_xattr("opaque", "trusted.overlay.opaque", b"y").unwrap();
    upper.set_mtime("same", lower.lstat("same").unwrap().mtime).unwrap();
    let found = find(&record, &dir.path().join("upper")).unwrap();
    let change = |path: &str, kind: ChangeKind| Change { path: path.to_owned(), kind };
    assert_eq!(
        found,
        [
            change("etc", ChangeKind::Modified),
            change("etc/old", ChangeKind::Modified),
            change("gone", ChangeKind::Deleted),
            change("new", ChangeKind::Added),
            change("new/f", ChangeKind::Added),
            change("opaque", ChangeKind::Modified),
            change("opaque/b", ChangeKind::Modified),
            change("opaque/a", ChangeKind::Deleted),
        ]
    );
}

#[test]
fn a_container_that_only_ran_has_changed_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (record, lower, upper) = container(dir.path());
    lower.create_dir_all("etc", 0o755).unwrap();
    for place in ["dev", "proc", "sys", "data/in", "etc"] {
        upper.create_dir_all(place, 0o755).unwrap();
    }
    for place in ["etc/hosts", "etc/resolv.conf", "etc/hostname"] {
        upper.write(place, b"", 0o644).unwrap();
    }
    assert_eq!(find(&record, &dir.path().join("upper")).unwrap(), []);
}
