//! The judges are e2fsprogs: `e2fsck` for the structure, `debugfs` for the content.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::archive::{ExtraEntry, TarOptions, dev_entries};
use crate::image::write_ext4;
use crate::root::Root;

fn image_of(root: &Root, name: &str, extra: &[ExtraEntry]) -> (tempfile::TempDir, std::path::PathBuf) {
    let holder = tempfile::tempdir().unwrap();
    let path = holder.path().join(name);
    let options = TarOptions {
        newest: Timestamp(1_700_000_000),
        started: Timestamp(1_800_000_000),
        skip: &|_| false,
        extra,
    };
    write_ext4(root, &path, &options).unwrap();
    (holder, path)
}

fn check(image: &Path) {
    let output = Command::new("e2fsck").arg("-fn").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn debugfs(image: &Path, request: &str) -> Vec<u8> {
    Command::new("debugfs").args(["-R", request]).arg(image).output().unwrap().stdout
}

fn shown(image: &Path, request: &str) -> String {
    String::from_utf8(debugfs(image, request)).unwrap()
}

fn new_root() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    (directory, root)
}

#[test]
fn an_empty_root_is_a_clean_image() {
    let (_directory, root) = new_root();
    check(&image_of(&root, "image", &[]).1);
}

#[test]
fn every_kind_of_entry_arrives() {
    let (_directory, root) = new_root();
    root.create_dir_all("usr/bin", 0o755).unwrap();
    root.write("usr/bin/tool", b"a tool", 0o4755).unwrap();
    root.hard_link("usr/bin/tool", "usr/bin/same").unwrap();
    root.symlink("usr/bin", "bin").unwrap();
    let far = "far/".repeat(50);
    root.symlink(&far, "far").unwrap();
    root.set_mtime("usr/bin/tool", 1_234_567_890).unwrap();
    let extra: Vec<_> = dev_entries()
        .into_iter()
        .chain([ExtraEntry { path: "dev".to_owned(), ..dev_entries()[5].clone() }])
        .collect();
    let (_holder, image) = image_of(&root, "image", &extra);
    check(&image);
    assert_eq!(debugfs(&image, "cat /usr/bin/same"), b"a tool");
    let tool = shown(&image, "stat /usr/bin/tool");
    assert!(tool.contains("Mode:  04755") && tool.contains("Links: 2"), "{tool}");
    assert!(tool.contains("mtime: 0x499602d2") && tool.contains("crtime: 0x6553f100"), "{tool}");
    assert!(shown(&image, "stat /bin").contains("Fast link dest: \"usr/bin\""));
    let link = shown(&image, "stat /far");
    assert!(link.contains("Type: symlink") && link.contains("Size: 200"), "{link}");
    let null = shown(&image, "stat /dev/null");
    assert!(null.contains("Type: character special") && null.contains("01:03"), "{null}");
}

#[test]
fn content_holes_and_large_directories_survive() {
    let (_directory, root) = new_root();
    // Far more separate pieces than an inode has room for, and an end within a block.
    let mut sparse = vec![0; 4096 * 4001 + 5];
    sparse.chunks_mut(8192).enumerate().for_each(|(number, part)| part[7] = number as u8 | 1);
    root.write("sparse", &sparse, 0o644).unwrap();
    root.write("zeros", &vec![0; 3 << 20], 0o644).unwrap();
    let large: Vec<u8> =
        (0..(5 << 20) + 123_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    root.write("large", &large, 0o644).unwrap();
    root.create_dir_all("many", 0o755).unwrap();
    for number in 0..3000 {
        root.write(&format!("many/a-file-with-a-longer-name-{number}"), number.to_string().as_bytes(), 0o644)
            .unwrap();
    }
    let (_holder, image) = image_of(&root, "image", &[]);
    check(&image);
    assert!(debugfs(&image, "cat /sparse") == sparse);
    assert!(debugfs(&image, "cat /large") == large);
    assert!(debugfs(&image, "cat /zeros") == vec![0; 3 << 20]);
    assert!(shown(&image, "stat /zeros").contains("Blockcount: 0"));
    assert_eq!(debugfs(&image, "cat /many/a-file-with-a-longer-name-2999"), b"2999");
}

#[test]
fn an_image_of_several_groups_is_clean_and_its_copies_serve() {
    let (_directory, root) = new_root();
    let piece: Vec<u8> = (0..4 << 20).map(|number: u32| (number >> 5) as u8 | 1).collect();
    for number in 0..45 {
        root.write(&format!("piece-{number}"), &piece, 0o644).unwrap();
    }
    let (_holder, image) = image_of(&root, "image", &[]);
    check(&image);
    assert!(debugfs(&image, "cat /piece-44") == piece);
    let output =
        Command::new("e2fsck").args(["-fn", "-b", "32768", "-B", "4096"]).arg(&image).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Pass 5") && !text.contains("Bad magic"), "{text}");
}

#[test]
fn attributes_lie_in_the_inode_or_in_a_block() {
    let (_directory, root) = new_root();
    root.write("few", b"", 0o644).unwrap();
    root.write("many", b"", 0o644).unwrap();
    // A newline is a byte like any other.
    root.set_xattr("few", "user.one", b"va\nlue").unwrap();
    for number in 0..5 {
        root.set_xattr("many", &format!("user.number{number}"), &[b'x'; 100]).unwrap();
    }
    let (_holder, image) = image_of(&root, "image", &[]);
    check(&image);
    // debugfs ends what it shows with a newline of its own.
    let value = |path: &str, name: &str| debugfs(&image, &format!("ea_get -V {path} {name}"));
    assert_eq!(value("/few", "user.one").strip_suffix(b"\n"), Some(&b"va\nlue"[..]));
    assert_eq!(value("/many", "user.number4").strip_suffix(b"\n"), Some(&[b'x'; 100][..]));
}

#[test]
fn two_trees_with_one_content_give_the_same_bytes() {
    let make = |names: &[&str]| {
        let (directory, root) = new_root();
        for name in names {
            root.write(name, name.as_bytes(), 0o644).unwrap();
            root.set_mtime(name, 5).unwrap();
        }
        root.set_mtime("", 6).unwrap();
        let (holder, image) = image_of(&root, "image", &[]);
        let bytes = std::fs::read(image).unwrap();
        drop((holder, directory));
        bytes
    };
    let names = ["one", "two", "three", "four"];
    let reversed: Vec<&str> = names.iter().rev().copied().collect();
    assert!(make(&names) == make(&reversed));
    assert!(make(&names) != make(&names[..3]));
}

#[test]
fn a_cut_tarball_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    let error = write(&[0_u8; 100][..], &file, Timestamp(0)).unwrap_err();
    assert!(matches!(error, TreeError::Read(_)), "{error}");
}
