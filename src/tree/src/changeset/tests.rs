use std::fs;

use super::{Listing, apply, limits_of, unpack_for_overlay};
use crate::root::Root;
use crate::unpack::Kind;

/// A tarball of `(path, content)`: `/` at the end makes a directory, `->` in the content a link.
fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        if let Some(target) = content.strip_prefix("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target).unwrap();
            continue;
        }
        header.set_entry_type(if path.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn names(root: &Root, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in root.list(path).unwrap() {
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        if root.lstat(&path).unwrap().kind == Kind::Directory {
            found.extend(names(root, &path));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// What the layers come to, both by writing and by listing.
fn check(layers: &[&[(&str, &str)]], expected: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let mut listing = Listing::default();
    for entries in layers {
        let tar = layer(entries);
        apply(&root, &mut tar.as_slice(), false, &limits_of(0)).unwrap();
        listing.add_layer(&mut tar.as_slice(), &limits_of(0), &mut |_, _| Ok(())).unwrap();
    }
    assert_eq!(names(&root, ""), expected);
    assert_eq!(listing.files.keys().collect::<Vec<_>>(), expected);
    for (path, listed) in &listing.files {
        let meta = root.lstat(path).unwrap();
        assert_eq!((listed.kind, listed.mtime), (meta.kind, meta.mtime), "{path}");
        assert!(listed.kind == Kind::Symlink || listed.mode == meta.mode, "{path}");
    }
}

#[test]
fn directories_without_an_entry_are_there_and_as_old_as_what_is_in_them() {
    check(&[&[("a/b/file", "x")], &[("c/d/", "")]], &["a", "a/b", "a/b/file", "c", "c/d"]);
}

#[test]
fn a_path_through_a_link_is_where_the_link_leads() {
    let lower: &[(&str, &str)] =
        &[("real/", ""), ("real/old", "x"), ("link", "->/real"), ("deep", "->link/../real")];
    check(
        &[lower, &[("link/new", "y"), ("deep/other", "z")]],
        &["deep", "link", "real", "real/new", "real/old", "real/other"],
    );
    check(&[lower, &[("link/.wh.old", "")]], &["deep", "link", "real"]);
}

#[test]
fn whiteouts_hide_what_lower_layers_have() {
    let below: &[_] = &[("d/", ""), ("d/a", "1"), ("d/b", "2"), ("e/", ""), ("e/x", "3")];
    check(&[below, &[("d/.wh.a", "")]], &["d", "d/b", "e", "e/x"]);
    check(&[below, &[(".wh.e", "")]], &["d", "d/a", "d/b"]);
    check(&[below, &[("d/.wh..wh..opq", ""), ("d/new", "")]], &["d", "d/new", "e", "e/x"]);
    check(&[below, &[("d/new", ""), ("d/.wh..wh..opq", "")]], &["d", "d/new", "e", "e/x"]);
    check(&[below, &[("d/a", "new"), ("d/.wh.a", "")]], &["d", "d/a", "d/b", "e", "e/x"]);
    check(&[below, &[("d/.wh.missing", "")]], &["d", "d/a", "d/b", "e", "e/x"]);
    check(&[below, &[("d/.wh..wh.aufs", "")]], &["d", "d/a", "d/b", "e", "e/x"]);
}

#[test]
fn entries_take_the_place_of_whatever_is_there() {
    check(&[&[("d/", ""), ("d/a", "1")], &[("d", "file")]], &["d"]);
    check(&[&[("d", "file")], &[("d/", ""), ("d/a", "1")]], &["d", "d/a"]);
    check(&[&[("t/", ""), ("l", "->t")], &[("l/", ""), ("l/a", "1")]], &["l", "l/a", "t"]);
}

#[test]
fn what_aufs_kept_for_itself_is_no_file_of_an_image() {
    check(&[&[("a", "1"), (".wh..wh.aufs", ""), (".wh..wh.plnk/", ""), (".wh..wh.plnk/7.1", "x")]], &["a"]);
    check(&[&[(".wh..wh.plnk/7.1", "x")], &[("a", "1")]], &["a"]);
}

#[test]
fn whiteouts_leave_the_times_of_directories() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    for entries in [&[("d/", ""), ("d/a", "1"), ("d/b", "2")][..], &[("d/", ""), ("d/.wh.a", "")]] {
        apply(&root, &mut layer(entries).as_slice(), false, &limits_of(0)).unwrap();
        assert_eq!(root.lstat("d").unwrap().mtime, 1);
    }
}

#[test]
fn layers_for_overlayfs_have_its_marks() {
    if !nix_is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let tar = layer(&[("d/", ""), ("d/.wh.a", ""), ("e/", ""), ("e/.wh..wh..opq", "")]);
    unpack_for_overlay(&root, &mut tar.as_slice(), false, &limits_of(0)).unwrap();
    assert_eq!(root.lstat("d").unwrap().mtime, 1);
    let mark = root.lstat("d/a").unwrap();
    assert_eq!((mark.kind, mark.device), (Kind::CharDevice, (0, 0)));
    let mut value = [0_u8; 8];
    let read = rustix::fs::getxattr(directory.path().join("e"), "trusted.overlay.opaque", &mut value);
    assert_eq!(&value[..read.unwrap()], b"y");
}

fn nix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

#[test]
fn a_layer_beyond_its_bounds_is_refused() {
    let tar = layer(&[("a", "0123456789")]);
    let limits = crate::unpack::Limits { entries: 10, bytes: 5 };
    let error = Listing::default().add_layer(&mut tar.as_slice(), &limits, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("more than 5 bytes"), "{error}");
}
