//! What overlayfs shows of layers is what unpacking them one after the other gives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_linux::namespace::private_mounts;
use knarr_linux::overlay;
use knarr_oci::{Descriptor, ImageConfig, Manifest, media_type};
use knarr_tree::compress::Compression;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::{platform, store};
use crate::gc::{Which, check, prune, usage};
use crate::layers::{for_overlay, overlay_path, unpack_image, unpacked_path};
use crate::{Image, Store};

/// One entry of a layer.
#[derive(Clone, Copy)]
enum Is<'a> {
    Dir(u32, u64),
    File(&'a str),
    Link(&'a str),
    Hard(&'a str),
    /// A file with an attribute of a user.
    Marked(&'a str),
}

type Layer<'a> = &'a [(&'a str, Is<'a>)];

fn tar_of(entries: Layer<'_>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, is) in entries {
        let mut header = tar::Header::new_ustar();
        let (kind, mode, owner, content) = match *is {
            Is::Dir(mode, owner) => (tar::EntryType::Directory, mode, owner, ""),
            Is::File(content) => (tar::EntryType::Regular, 0o640, 7, content),
            Is::Marked(content) => (tar::EntryType::Regular, 0o4755, 0, content),
            Is::Link(_) => (tar::EntryType::Symlink, 0o777, 0, ""),
            Is::Hard(_) => (tar::EntryType::Link, 0o644, 0, ""),
        };
        if matches!(is, Is::Marked(_)) {
            builder.append_pax_extensions([("SCHILY.xattr.user.mark", &b"m"[..])]).unwrap();
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        match *is {
            Is::Link(target) | Is::Hard(target) => builder.append_link(&mut header, path, target).unwrap(),
            _ => builder.append_data(&mut header, path, content.as_bytes()).unwrap(),
        }
    }
    builder.into_inner().unwrap()
}

fn image_of(store: &Store, name: &str, layers: &[Layer<'_>]) -> (Descriptor, Image) {
    let ingest = store.ingest().unwrap();
    let mut config = ImageConfig::new(Architecture::native(), Timestamp(0));
    let mut blobs = Vec::new();
    for entries in layers {
        let tar = tar_of(entries);
        let written = ingest
            .layer(Compression::Zstd(1), |out| out.write_all(&tar).map_err(knarr_tree::TreeError::Write))
            .unwrap();
        config.push_layer(written.diff_id, "test");
        blobs.push(written.descriptor);
    }
    let config = ingest.put(media_type::CONFIG, &config.to_bytes()).unwrap();
    let manifest = ingest.put(media_type::MANIFEST, &Manifest::of_image(config, blobs).to_bytes()).unwrap();
    ingest.add(Some(&format!("docker.io/library/{name}:latest")), &manifest).unwrap();
    let image = store.image(&manifest, &platform()).unwrap();
    (manifest, image)
}

/// Every path, with all that is said of it but times of directories, which change with what is in them.
fn tree(root: &Root) -> BTreeMap<String, String> {
    let (mut seen, mut directories) = (BTreeMap::new(), vec![String::new()]);
    while let Some(directory) = directories.pop() {
        for name in root.list(&directory).unwrap() {
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let meta = root.lstat(&path).unwrap();
            let what = match meta.kind {
                Kind::Directory => {
                    directories.push(path.clone());
                    String::new()
                }
                Kind::Symlink => String::from_utf8(root.read_link(&path).unwrap()).unwrap(),
                Kind::File => {
                    format!("{} {}", meta.mtime, String::from_utf8(root.read(&path).unwrap()).unwrap())
                }
                _ => format!("{:?}", meta.device),
            };
            let attributes = root.xattrs(&path).unwrap();
            let text =
                format!("{:?} {:o} {}:{} {what} {attributes:?}", meta.kind, meta.mode, meta.uid, meta.gid);
            seen.insert(path, text);
        }
    }
    seen
}

/// The image as a mount in a namespace of its own shows it.
fn mounted(store: &Store, image: &Image) -> BTreeMap<String, String> {
    let mut layers = for_overlay(store, image, false).unwrap();
    layers.reverse();
    std::thread::scope(|scope| {
        let look = || {
            private_mounts().unwrap();
            let place = tempfile::tempdir().unwrap();
            overlay::mount_read_only(&layers, place.path()).unwrap();
            let seen = tree(&Root::open(place.path()).unwrap());
            overlay::unmount(place.path()).unwrap();
            seen
        };
        scope.spawn(look).join().unwrap()
    })
}

fn unpacked(store: &Store, image: &Image) -> BTreeMap<String, String> {
    let place = tempfile::tempdir().unwrap();
    let root = Root::open(place.path()).unwrap();
    unpack_image(store, image, &root, false).unwrap();
    tree(&root)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

const BASE: Layer<'static> = &[
    ("tmp/", Is::Dir(0o1777, 0)),
    ("srv/", Is::Dir(0o700, 33)),
    ("srv/old", Is::Marked("old")),
    ("usr/", Is::Dir(0o755, 0)),
    ("usr/bin/", Is::Dir(0o2755, 5)),
    ("usr/bin/tool", Is::Marked("tool")),
    ("bin", Is::Link("usr/bin")),
    ("absolute", Is::Link("/usr/bin")),
    ("escape", Is::Link("../../../../../../tmp")),
    ("dangling", Is::Link("nowhere")),
    ("var/", Is::Dir(0o755, 0)),
    ("var/a", Is::File("a")),
    ("var/b", Is::Hard("var/a")),
    ("var/deep/", Is::Dir(0o750, 9)),
    ("var/deep/er/", Is::Dir(0o711, 9)),
    ("var/deep/er/x", Is::File("x")),
];

const WH: Is<'static> = Is::File("");

#[test]
fn an_overlay_shows_what_unpacking_gives() {
    if !is_root() {
        return;
    }
    let cases: &[(&str, &[Layer<'_>])] = &[
        ("lost-parents", &[BASE, &[("tmp/new", Is::File("n")), ("srv/new", Is::File("n"))]]),
        ("deep", &[BASE, &[("var/deep/er/y", Is::File("y"))], &[("var/deep/er/z", Is::File("z"))]]),
        ("hard-link", &[BASE, &[("usr/", Is::Dir(0o755, 0)), ("usr/again", Is::Hard("usr/bin/tool"))]]),
        ("hard-link-of-two", &[BASE, &[("again", Is::Hard("var/b"))]]),
        ("hard-link-then-gone", &[BASE, &[("again", Is::Hard("srv/old")), ("srv/.wh.old", WH)]]),
        ("through-link", &[BASE, &[("bin/more", Is::File("more"))]]),
        ("through-absolute", &[BASE, &[("absolute/more", Is::File("more"))]]),
        ("through-escape", &[BASE, &[("escape/more", Is::File("more"))]]),
        ("link-through-link", &[BASE, &[("again", Is::Hard("bin/tool"))]]),
        ("hide-through-link", &[BASE, &[("bin/.wh.tool", WH)]]),
        ("hide", &[BASE, &[("var/.wh.deep", WH), ("var/.wh.a", WH)]]),
        ("hide-and-make", &[BASE, &[("var/.wh.deep", WH)], &[("var/deep/er/new", Is::File("n"))]]),
        ("hide-and-make-at-once", &[BASE, &[("var/.wh.deep", WH), ("var/deep/new", Is::File("n"))]]),
        ("opaque", &[BASE, &[("var/.wh..wh..opq", WH), ("var/new", Is::File("n"))]]),
        (
            "opaque-later-link",
            &[
                BASE,
                &[("usr/", Is::Dir(0o755, 0)), ("usr/.wh..wh..opq", WH)],
                &[("usr/bin/x", Is::File("x"))],
            ],
        ),
        ("opaque-root", &[BASE, &[(".wh..wh..opq", WH), ("new", Is::File("n"))]]),
        ("directory-for-link", &[BASE, &[("bin/", Is::Dir(0o700, 1)), ("bin/x", Is::File("x"))]]),
        ("link-for-directory", &[BASE, &[("var", Is::Link("srv")), ("var/x", Is::File("x"))]]),
        ("file-for-directory", &[BASE, &[("var", Is::File("now"))]]),
        (
            "opaque-root-below",
            &[BASE, &[(".wh..wh..opq", WH), ("srv/x", Is::File("n"))], &[("srv/y", Is::File("y"))]],
        ),
        (
            "opaque-root-and-whiteout",
            &[
                BASE,
                &[(".wh..wh..opq", WH), ("n/", Is::Dir(0o700, 1))],
                &[("n/", Is::Dir(0o700, 1)), ("n/.wh.x", WH)],
            ],
        ),
        (
            "changes-its-mind",
            &[BASE, &[("var", Is::File("now")), ("var/", Is::Dir(0o755, 0)), ("var/x", Is::File("x"))]],
        ),
        ("own-link", &[BASE, &[("l", Is::Link("var/deep")), ("l/x", Is::File("x"))]]),
        (
            "own-link-down",
            &[BASE, &[("var/", Is::Dir(0o755, 0)), ("l", Is::Link("var/deep")), ("l/er/n", Is::File("x"))]],
        ),
        ("nothing-below", &[&[("a/b/c", Is::File("c")), ("a/.wh.x", WH)], &[("a/b/d", Is::File("d"))]]),
        ("alone-with-marks", &[&[("a/", Is::Dir(0o755, 0)), ("a/.wh.x", WH), ("a/.wh..wh..opq", WH)]]),
        ("new-directory-with-marks", &[BASE, &[("n/", Is::Dir(0o755, 0)), ("n/.wh.x", WH)]]),
        (
            "twice",
            &[BASE, &[("tmp/new", Is::File("n"))], &[("tmp/.wh.new", WH)], &[("tmp/new", Is::File("n"))]],
        ),
        ("base-twice", &[BASE, &[("var/deep/er/y", Is::File("y"))], BASE]),
    ];
    let (_directory, store) = store();
    for (name, layers) in cases {
        let (_, image) = image_of(&store, name, layers);
        let expected = unpacked(&store, &image);
        assert_eq!(mounted(&store, &image), expected, "{name}");
        // Once more, from what lies there now.
        assert_eq!(mounted(&store, &image), expected, "{name}");
    }
    assert_eq!(check(&store).unwrap(), []);
    assert!(fs::read_dir(store.path().join("tmp")).unwrap().next().is_none());
}

#[test]
fn a_layer_that_leans_is_kept_for_each_chain_and_goes_with_it() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let leaning: Layer<'_> = &[("tmp/new", Is::File("n"))];
    let other: Layer<'_> = &[("tmp/", Is::Dir(0o711, 4))];
    let (_, one) = image_of(&store, "one", &[BASE, leaning]);
    let (_, two) = image_of(&store, "two", &[other, leaning]);
    let paths = |image: &Image| -> Vec<PathBuf> { for_overlay(&store, image, false).unwrap() };
    let (first, second) = (paths(&one), paths(&two));
    assert_eq!(first[0], overlay_path(&store, Digest::of(&tar_of(BASE))));
    assert_ne!(first[1], second[1]);
    assert_eq!(unpacked_path(&store, &one.config.rootfs.diff_ids).as_ref(), Some(&first[1]));
    assert_eq!(usage(&store).unwrap().layers, 4);
    store.untag("docker.io/library/one:latest").unwrap();
    assert_eq!(prune(&store, Which::Unnamed, true).unwrap().unwrap().layers, 2);
    assert!(!first[1].exists() && second.iter().all(|path| path.exists()));
    assert_eq!(check(&store).unwrap(), []);
}

#[test]
fn a_layer_that_nothing_below_can_hold_is_an_error() {
    if !is_root() {
        return;
    }
    let (_directory, store) = store();
    let (_, image) = image_of(&store, "app", &[BASE, &[("again", Is::Hard("no/such/file"))]]);
    let error = for_overlay(&store, &image, false).unwrap_err();
    assert!(format!("{error:?}").contains("no/such/file"), "{error:?}");
    assert!(fs::read_dir(store.path().join("tmp")).unwrap().next().is_none());
    assert!(fs::read_dir(store.path().join("layers")).unwrap().next().is_none());
}
