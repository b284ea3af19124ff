use std::collections::BTreeMap;

use super::*;
use crate::unpack::{Everything, Limits, unpack};

fn options<'a>(extra: &'a [ExtraEntry]) -> TarOptions<'a> {
    TarOptions {
        newest: Timestamp(1_000_000),
        started: Timestamp(2_000_000),
        skip: &|path| path == "skipped",
        extra,
    }
}

fn listing(bytes: &[u8]) -> Vec<(String, u64, u64)> {
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            (path, entry.header().mtime().unwrap(), u64::from(entry.header().mode().unwrap()))
        })
        .collect()
}

#[test]
fn entries_are_sorted_clamped_and_complete() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    root.create_dir_all("usr/bin", 0o755).unwrap();
    root.write("usr/bin/b", b"two", 0o4755).unwrap();
    root.hard_link("usr/bin/b", "usr/bin/a").unwrap();
    root.write("skipped", b"", 0o600).unwrap();
    root.write("usr.conf", b"x", 0o600).unwrap();
    root.set_mtime("usr.conf", 5).unwrap();
    root.symlink("usr/bin", "bin").unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
    root.create_dir_all(&"d".repeat(120), 0o700).unwrap();
    root.write(&long, b"long", 0o644).unwrap();
    let mut bytes = Vec::new();
    let extra = dev_entries();
    write_tar(&root, &mut bytes, &options(&extra)).unwrap();
    let listed = listing(&bytes);
    let names: Vec<&str> =
        listed.iter().map(|(name, ..)| name.as_str()).filter(|name| !name.starts_with("./dev/")).collect();
    let d = format!("./{}/", "d".repeat(120));
    let f = format!("./{long}");
    assert_eq!(
        names,
        ["./", "./bin", &d, &f, "./usr/", "./usr/bin/", "./usr/bin/a", "./usr/bin/b", "./usr.conf"]
    );
    let by_name: BTreeMap<_, _> =
        listed.iter().map(|(name, mtime, mode)| (name.as_str(), (*mtime, *mode))).collect();
    assert_eq!(by_name["./usr.conf"], (5, 0o600));
    assert_eq!(by_name["./usr/bin/a"], (1_000_000, 0o4755));

    let copy = tempfile::tempdir().unwrap();
    let copy_root = Root::open(copy.path()).unwrap();
    unpack(&copy_root, &mut bytes.as_slice(), &Everything, &Limits::default()).unwrap();
    assert_eq!(copy_root.read(&long).unwrap(), b"long");
    assert_eq!(copy_root.lstat("usr/bin/b").unwrap().links, 2);
    let mut again = Vec::new();
    write_tar(&copy_root, &mut again, &options(&extra)).unwrap();
    assert_eq!(bytes, again, "a copy of the tree gives the same bytes");
}
