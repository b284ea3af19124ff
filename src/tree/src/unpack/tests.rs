use super::*;

type Draft<'a> = (&'a str, tar::EntryType, u32, &'a str, &'a [u8]);

fn tarball(entries: &[Draft<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, link, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        header.set_size(bytes.len() as u64);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn try_unpack(entries: &[Draft<'_>]) -> (tempfile::TempDir, Root, Result<Vec<Entry>, TreeError>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("root")).unwrap();
    let root = Root::open(&directory.path().join("root")).unwrap();
    let outcome =
        unpack(&root, &mut tarball(entries).as_slice(), &Everything, &Limits { entries: 100, bytes: 1000 });
    (directory, root, outcome)
}

use tar::EntryType as T;

#[test]
fn modes_times_and_links_come_out_as_they_went_in() {
    let (_keep, root, outcome) = try_unpack(&[
        ("./", T::Directory, 0o755, "", b""),
        ("./usr/", T::Directory, 0o750, "", b""),
        ("./usr/su", T::Regular, 0o4755, "", b"su"),
        ("./usr/link", T::Symlink, 0o777, "su", b""),
        ("./usr/hard", T::Link, 0o4755, "./usr/su", b""),
    ]);
    let entries = outcome.unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(),
        ["", "usr", "usr/su", "usr/link", "usr/hard"]
    );
    let su = root.lstat("usr/su").unwrap();
    assert_eq!((su.mode, su.mtime, su.links), (0o4755, 1_000, 2));
    assert_eq!((root.lstat("usr").unwrap().mode, root.lstat("usr").unwrap().mtime), (0o750, 1_000));
    assert_eq!(root.read_link("usr/link").unwrap(), b"su");
}

#[test]
fn a_link_to_a_directory_survives_a_directory_of_its_name() {
    let (_keep, root, outcome) = try_unpack(&[
        ("./usr/bin/", T::Directory, 0o755, "", b""),
        ("./bin", T::Symlink, 0o777, "usr/bin", b""),
        ("./bin/", T::Directory, 0o700, "", b""),
        ("./bin/sh", T::Regular, 0o755, "", b"sh"),
    ]);
    outcome.unwrap();
    assert_eq!(root.lstat("bin").unwrap().kind, Kind::Symlink);
    assert_eq!(root.read("usr/bin/sh").unwrap(), b"sh");
}

#[test]
fn nothing_leaves_the_root_through_a_link() {
    for target in ["/..", "../../..", "/", "../outside"] {
        let (keep, _root, outcome) = try_unpack(&[
            ("./out", T::Symlink, 0o777, target, b""),
            ("./out/outside", T::Regular, 0o644, "", b"evil"),
        ]);
        let _ = outcome;
        assert!(!keep.path().join("outside").exists(), "{target}");
    }
}

#[test]
fn a_file_replaces_a_link_and_is_not_written_through_it() {
    let (keep, root, outcome) = try_unpack(&[
        ("./passwd", T::Symlink, 0o777, "/etc/passwd", b""),
        ("./passwd", T::Regular, 0o644, "", b"mine"),
    ]);
    outcome.unwrap();
    assert_eq!(root.read("passwd").unwrap(), b"mine");
    assert!(!keep.path().join("root/etc").exists());
}

#[test]
fn hostile_archives_are_refused() {
    let refused = |entries: &[Draft<'_>], expected: &str| {
        let (_keep, _root, outcome) = try_unpack(entries);
        let error = outcome.unwrap_err();
        let shown = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(shown.contains(expected), "{shown}");
    };
    refused(&[("../x", T::Regular, 0o644, "", b"")], "..");
    refused(&[("a/../../x", T::Regular, 0o644, "", b"")], "..");
    refused(&[("x", T::Link, 0o644, "../../etc/passwd", b"")], "..");
    refused(&[("x", T::Link, 0o644, "/etc/passwd", b"")], "No such file");
    refused(&[("x", T::Regular, 0o644, "", &[0; 1001])], "1000 bytes");
    refused(&[("x", T::new(b'Z'), 0o644, "", b"")], "unknown type");
    refused(&[("f", T::Regular, 0o644, "", b""), ("f/x", T::Regular, 0o644, "", b"")], "Not a directory");
    let many: Vec<String> = (0..101).map(|n| format!("f{n}")).collect();
    let many: Vec<Draft<'_>> =
        many.iter().map(|name| (name.as_str(), T::Regular, 0o644, "", &b""[..])).collect();
    refused(&many, "100 entries");
}
