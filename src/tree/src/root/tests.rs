use super::*;

fn root() -> (tempfile::TempDir, Root) {
    let keep = tempfile::tempdir().unwrap();
    let root = Root::create(&keep.path().join("root")).unwrap();
    (keep, root)
}

#[test]
fn removing_a_link_to_a_directory_leaves_the_directory() {
    let (keep, root) = root();
    std::fs::create_dir(keep.path().join("outside")).unwrap();
    root.create_dir_all("kept/deep", 0o755).unwrap();
    root.symlink("kept", "inside").unwrap();
    root.symlink("../outside", "out").unwrap();
    root.create_dir("gone", 0o755).unwrap();
    root.symlink("../kept", "gone/link").unwrap();
    for path in ["inside", "out", "gone", "missing", "missing/deeper"] {
        root.remove_dir_all(path).unwrap();
        assert!(!root.exists(path).unwrap(), "{path}");
    }
    assert!(root.exists("kept/deep").unwrap());
    assert!(keep.path().join("outside").exists());
}

#[test]
fn what_changes_a_file_never_follows_a_link() {
    let (keep, root) = root();
    let outside = keep.path().join("outside");
    std::fs::write(&outside, b"theirs").unwrap();
    root.write("file", b"mine", 0o600).unwrap();
    for target in [outside.to_str().unwrap(), "file"] {
        root.symlink(target, "link").unwrap();
        assert!(root.set_mode("link", 0o777).is_err());
        assert!(root.append("link", b"!", 0o644).is_err());
        root.set_mtime("link", 7).unwrap();
        root.write("link", b"new", 0o644).unwrap();
        assert_eq!(root.lstat("link").unwrap().kind, Kind::File);
    }
    assert_eq!(root.read("file").unwrap(), b"mine");
    assert_eq!(root.lstat("file").unwrap().mode, 0o600);
    assert_eq!(std::fs::read(outside).unwrap(), b"theirs");
}

#[test]
fn links_are_followed_as_if_the_root_were_the_top() {
    let (_keep, root) = root();
    root.create_dir_all("usr/bin", 0o755).unwrap();
    root.symlink("/usr/bin", "bin").unwrap();
    root.symlink("../../../../usr", "up").unwrap();
    root.write("bin/sh", b"sh", 0o755).unwrap();
    for path in ["usr/bin/sh", "/usr/bin/sh", "./bin/sh", "up/bin/sh", "../../bin/sh"] {
        assert_eq!(root.read(path).unwrap(), b"sh", "{path}");
    }
    assert_eq!(root.list("bin").unwrap(), ["sh"]);
}

#[test]
fn a_file_is_no_directory() {
    let (_keep, root) = root();
    root.write("file", b"", 0o644).unwrap();
    assert!(root.create_dir("file", 0o755).is_err());
    assert!(root.create_dir_all("file/below", 0o755).is_err());
    assert!(!root.exists("file/below").unwrap());
}

#[test]
fn appending_makes_the_file_and_keeps_what_is_there() {
    let (_keep, root) = root();
    root.append("log", b"one\n", 0o640).unwrap();
    root.append("log", b"two\n", 0o600).unwrap();
    assert_eq!(root.read("log").unwrap(), b"one\ntwo\n");
    assert_eq!(root.lstat("log").unwrap().mode, 0o640);
}

#[test]
fn two_names_of_one_file_survive_being_linked_again() {
    let (_keep, root) = root();
    root.write("a", b"x", 0o644).unwrap();
    root.hard_link("a", "b").unwrap();
    root.hard_link("a", "b").unwrap();
    root.hard_link("a", "a").unwrap();
    assert_eq!(root.lstat("a").unwrap().links, 2);
}

#[test]
fn capabilities_of_the_own_root_name_no_namespace() {
    let revision_3 = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let revision_2 = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(own_capability("security.capability", revision_3.to_vec()), revision_2);
    let mut foreign = revision_3;
    foreign[20] = 1;
    assert_eq!(own_capability("security.capability", foreign.to_vec()), foreign);
}
