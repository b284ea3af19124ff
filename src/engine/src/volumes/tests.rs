//! Tests of volumes. Those that mount do so in a thread whose mounts nobody else sees.

use std::collections::HashMap;
use std::fs;

use super::{FORMAT, VolumeRecord, Volumes, check_name, check_options, is_name, mounting, tree_bytes};
use crate::EngineError;

fn record(name: &str) -> VolumeRecord {
    VolumeRecord { format: FORMAT, name: name.to_owned(), ..VolumeRecord::default() }
}

fn options(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Volumes in a directory of their own.
fn volumes() -> (tempfile::TempDir, Volumes) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("volumes")).unwrap();
    let volumes = Volumes::open(root.path()).unwrap();
    (root, volumes)
}

#[test]
fn a_volume_is_found_again() {
    let (root, volumes) = volumes();
    assert!(volumes.create("one", record("one")).unwrap().1);
    assert!(!volumes.create("one", record("one")).unwrap().1);
    let again = Volumes::open(root.path()).unwrap();
    assert!(again.has("one") && again.data("one").is_dir());
    again.remove("one").unwrap();
    assert!(!Volumes::open(root.path()).unwrap().has("one"));
    assert_eq!(again.remove("one").unwrap_err().message(), "get one: no such volume");
}

#[test]
fn a_volume_that_is_there_is_the_answer_whatever_is_asked() {
    let (_root, volumes) = volumes();
    volumes.create("one", record("one")).unwrap();
    let other = VolumeRecord { options: options(&[("type", "tmpfs"), ("device", "tmpfs")]), ..record("one") };
    let (found, made) = volumes.create("one", other).unwrap();
    assert!(!made && found.options.is_empty());
}

#[test]
fn a_removal_that_was_cut_off_is_finished() {
    let (root, volumes) = volumes();
    volumes.create("one", record("one")).unwrap();
    let gone = root.path().join("volumes/.removed-one");
    fs::rename(root.path().join("volumes/one"), &gone).unwrap();
    assert!(!Volumes::open(root.path()).unwrap().has("one"));
    assert!(!gone.exists());
}

#[test]
fn a_volume_whose_making_was_cut_off_is_gone_unless_something_is_in_it() {
    let (dir, volumes) = volumes();
    drop(volumes);
    let place = dir.path().join("volumes");
    for name in ["empty/_data", "full/_data"] {
        fs::create_dir_all(place.join(name)).unwrap();
    }
    fs::write(place.join("empty/.tmpX"), "{").unwrap();
    fs::write(place.join("full/_data/precious"), "").unwrap();
    let volumes = Volumes::open(dir.path()).unwrap();
    assert!(!place.join("empty").exists() && place.join("full/_data/precious").exists());
    assert!(volumes.all().is_empty());
}

#[test]
fn a_record_of_the_future_is_left_alone() {
    let (root, volumes) = volumes();
    volumes.create("one", VolumeRecord { format: FORMAT + 1, ..record("one") }).unwrap();
    assert!(!Volumes::open(root.path()).unwrap().has("one"));
    assert!(volumes.data("one").is_dir());
}

#[test]
fn who_runs_with_a_volume_keeps_it() {
    let (_root, volumes) = volumes();
    volumes.create("one", record("one")).unwrap();
    assert_eq!(volumes.acquire("one", "c1").unwrap(), volumes.data("one"));
    let error = volumes.remove("one").unwrap_err();
    assert_eq!(error.message(), "remove one: volume is in use - [c1]");
    assert!(volumes.release("one", "c1").unwrap() && !volumes.release("one", "c1").unwrap());
    volumes.remove("one").unwrap();
}

#[test]
fn names_are_checked_with_dockers_words() {
    assert!(is_name("a_b.c-1") && !is_name("a") && !is_name("-ab") && !is_name("a/b"));
    let said = |name: &str| check_name(name.to_owned()).unwrap_err().message();
    assert!(said("a").starts_with("create a: volume name is too short"));
    assert!(
        said("a/b").starts_with("create a/b: \"a/b\" includes invalid characters for a local volume name")
    );
}

#[test]
fn options_are_checked_with_dockers_words() {
    let said = |pairs: &[(&str, &str)]| {
        check_options("v", &options(pairs)).err().map(|error| error.message()).unwrap_or_default()
    };
    assert_eq!(said(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]), "");
    assert_eq!(said(&[("speed", "x")]), "create v: invalid option: \"speed\"");
    assert_eq!(said(&[("type", "tmpfs")]), "create v: missing required option: \"device\"");
    assert_eq!(said(&[("device", "/a")]), "create v: missing required option: \"type\"");
    assert_eq!(said(&[("size", "10m")]), "create v: quota size requested but no quota support");
    assert_eq!(said(&[("size", "0")]), "");
}

#[test]
fn a_file_with_two_names_counts_once() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a"), [0; 1000]).unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    let once = tree_bytes(root.path());
    fs::hard_link(root.path().join("a"), root.path().join("b")).unwrap();
    assert_eq!((once, tree_bytes(root.path())), (1000, 1000));
}

/// Runs a test that mounts, where it may.
fn privileged(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let run = || {
        test();
        Ok::<(), EngineError>(())
    };
    crate::view::in_private_mounts(run).unwrap();
}

#[test]
fn a_mount_lives_from_the_first_container_to_the_last() {
    privileged(|| {
        let (_root, volumes) = volumes();
        let tmpfs = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,ro,rw")]);
        volumes.create("one", VolumeRecord { options: tmpfs, ..record("one") }).unwrap();
        let data = volumes.acquire("one", "c1").unwrap();
        assert!(mounting::is_mounted(&data));
        fs::write(data.join("file"), "x").unwrap();
        volumes.acquire("one", "c2").unwrap();
        volumes.release("one", "c1").unwrap();
        assert!(data.join("file").exists());
        volumes.release("one", "c2").unwrap();
        assert!(!mounting::is_mounted(&data) && !data.join("file").exists());
    });
}

#[test]
fn a_mount_of_before_stays_for_those_who_have_it() {
    privileged(|| {
        let (root, volumes) = volumes();
        let tmpfs = options(&[("type", "tmpfs"), ("device", "tmpfs")]);
        for name in ["used", "left"] {
            volumes.create(name, VolumeRecord { options: tmpfs.clone(), ..record(name) }).unwrap();
            fs::write(volumes.acquire(name, "c1").unwrap().join("file"), "x").unwrap();
        }
        let again = Volumes::open(root.path()).unwrap();
        again.acquire("used", "c1").unwrap();
        again.settle();
        assert!(again.data("used").join("file").exists());
        assert!(!mounting::is_mounted(&again.data("left")));
        again.release("used", "c1").unwrap();
        assert!(!mounting::is_mounted(&again.data("used")));
    });
}

#[test]
fn what_is_mounted_outlives_the_volume() {
    privileged(|| {
        let (root, volumes) = volumes();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "x").unwrap();
        let place = outside.path().to_str().unwrap();
        let bind = options(&[("type", "none"), ("device", place), ("o", "bind")]);
        volumes.create("one", VolumeRecord { options: bind, ..record("one") }).unwrap();
        // The same file system: only the table of mounts tells.
        let data = volumes.acquire("one", "c1").unwrap();
        assert!(data.join("file").exists() && mounting::is_mounted(&data));
        // An engine that never heard of the container.
        let again = Volumes::open(root.path()).unwrap();
        again.remove("one").unwrap();
        assert!(!again.data("one").exists() && outside.path().join("file").exists());
    });
}
