use std::fs;
use std::io::Cursor;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, ImageIndex, Manifest, Platform, media_type};
use knarr_tree::compress::Compression;

use crate::archive::{Format, Loaded, load, save};
use crate::gc::{Pruned, Which, check, prune};
use crate::{Artifact, Store, StoreError, companions};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn platform() -> Platform {
    Platform::of(Architecture::native())
}

fn tarball(path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

/// An image of one layer with one file.
fn image(store: &Store, name: Option<&str>, content: &str) -> Descriptor {
    let ingest = store.ingest().unwrap();
    let tar = tarball("file", content.as_bytes());
    let layer = ingest
        .layer(Compression::Zstd(3), |out| {
            out.write_all(&tar).unwrap();
            Ok(())
        })
        .unwrap();
    let mut config = ImageConfig::new(Architecture::native(), Timestamp(0));
    config.push_layer(layer.diff_id, "test");
    let blob = ingest.put(media_type::CONFIG, &config.to_bytes()).unwrap();
    let manifest = Manifest::of_image(blob, vec![layer.descriptor]);
    let descriptor = ingest.put(media_type::MANIFEST, &manifest.to_bytes()).unwrap();
    ingest.add(name, &descriptor).unwrap();
    descriptor
}

const NAME: &str = "docker.io/library/app:latest";

#[test]
fn images_are_found_by_name_and_digest() {
    let (_directory, store) = store();
    let descriptor = image(&store, Some(NAME), "one");
    let found = |asked: &str| store.find(asked).map(|found| found.descriptor.digest);
    for asked in ["app", "app:latest", NAME, &descriptor.digest.to_string(), &descriptor.digest.hex()[..6]] {
        assert_eq!(found(asked).unwrap(), descriptor.digest, "{asked}");
    }
    let error = found("apq").unwrap_err().to_string();
    assert!(error.contains("did you mean app?"), "{error}");
}

#[test]
fn a_name_moves_and_the_old_image_stays_until_pruned() {
    let (_directory, store) = store();
    let (old, new) = (image(&store, Some(NAME), "one"), image(&store, Some(NAME), "two"));
    assert_eq!(store.find("app").unwrap().descriptor.digest, new.digest);
    assert_eq!(store.find(&old.digest.hex()).unwrap().name, None);
    let kept = prune(&store, Which::None, true).unwrap().unwrap();
    assert_eq!(kept, Pruned::default());
    let pruned = prune(&store, Which::Unnamed, true).unwrap().unwrap();
    assert_eq!((pruned.images, pruned.blobs), (1, 3));
    assert!(store.image(&new, &platform()).is_ok());
    assert_eq!(check(&store).unwrap(), []);
}

#[test]
fn nothing_is_removed_while_something_comes_in() {
    let (_directory, store) = store();
    let ingest = store.ingest().unwrap();
    let blob = ingest.put(media_type::CONFIG, b"{}").unwrap();
    assert_eq!(prune(&store, Which::All, false).unwrap(), None);
    drop(ingest);
    assert!(prune(&store, Which::All, false).unwrap().is_some());
    assert!(!store.has(&blob));
}

#[test]
fn what_a_killed_process_leaves_is_named_and_removed() {
    let (_directory, store) = store();
    image(&store, Some(NAME), "one");
    fs::write(store.path().join("tmp/blob-dead"), b"half").unwrap();
    fs::create_dir(store.path().join("tmp/layer-dead")).unwrap();
    store.ingest().unwrap().put(media_type::LAYER, b"never named").unwrap();
    let findings = check(&store).unwrap();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings.iter().all(|finding| !finding.broken));
    prune(&store, Which::None, true).unwrap();
    assert_eq!(check(&store).unwrap(), []);
}

#[test]
fn damage_is_found() {
    let (_directory, store) = store();
    let descriptor = image(&store, Some(NAME), "one");
    let layer = store.image(&descriptor, &platform()).unwrap().manifest.layers[0].clone();
    let path = store.blob_path(layer.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(check(&store).unwrap().iter().any(|finding| finding.broken));
    fs::remove_file(&path).unwrap();
    assert!(check(&store).unwrap().iter().any(|finding| finding.text.contains("is missing")));
}

#[test]
fn an_image_that_is_not_whole_gets_no_name() {
    let (_directory, store) = store();
    let ingest = store.ingest().unwrap();
    let missing = Descriptor::new(media_type::LAYER, Digest::of(b"nowhere"), 7);
    let config = ingest.put(media_type::CONFIG, b"{}").unwrap();
    let manifest = Manifest::of_image(config, vec![missing]).to_bytes();
    let manifest = ingest.put(media_type::MANIFEST, &manifest).unwrap();
    assert!(matches!(ingest.add(Some(NAME), &manifest), Err(StoreError::MissingBlob { .. })));
    assert!(store.find("app").is_err());
}

#[test]
fn a_blob_with_other_bytes_is_not_kept() {
    let (_directory, store) = store();
    let ingest = store.ingest().unwrap();
    let promised = Descriptor::new(media_type::LAYER, Digest::of(b"right"), 5);
    for wrong in [&b"wrong"[..], b"rig", b"right and more"] {
        assert!(matches!(ingest.copy(&promised, &mut &*wrong), Err(StoreError::WrongBytes { .. })));
    }
    assert!(!store.has(&promised));
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn archives_bring_images_from_store_to_store() {
    let (_one, from) = store();
    let descriptor = image(&from, Some(NAME), "content");
    for format in [Format::Oci, Format::Docker] {
        let mut bytes = Vec::new();
        save(&from, &["app".to_owned()], &platform(), format, &mut bytes).unwrap();
        let compressed = zstd::encode_all(bytes.as_slice(), 1).unwrap();
        for bytes in [bytes, compressed] {
            let (_two, to) = store();
            let loaded = load(&to, "archive", Cursor::new(bytes)).unwrap();
            assert_eq!(loaded.len(), 1);
            assert_eq!(loaded[0].name.as_deref(), Some(NAME));
            if format == Format::Oci {
                assert_eq!(loaded[0].descriptor.digest, descriptor.digest);
            }
            let image = to.image(&loaded[0].descriptor, &platform()).unwrap();
            let listing = image.listing(&to, &mut |_, _, _| Ok(())).unwrap();
            assert_eq!(listing.files["file"].digest, Some(Digest::of(b"content")));
        }
    }
}

fn load_error(entries: &[(&str, &[u8])]) -> String {
    let (_directory, store) = store();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    let loaded: Result<Vec<Loaded>, _> = load(&store, "x.tar", Cursor::new(builder.into_inner().unwrap()));
    assert!(store.entries().unwrap().is_empty());
    loaded.unwrap_err().to_string()
}

#[test]
fn archives_that_lie_are_refused() {
    assert!(load_error(&[("a", b"b")]).contains("neither index.json"));
    assert!(load_error(&[("index.json", b"{")]).contains("index.json"));
    assert!(load_error(&[("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)]).contains("no image"));
    let wrong = format!("blobs/sha256/{}", "0".repeat(64));
    assert!(load_error(&[(&wrong, b"x")]).contains("other bytes"));
    assert!(load_error(&[("blobs/sha256/x", b"x")]).contains("no name of a blob"));
    let manifest = br#"[{"Config":"c.json","RepoTags":["a"],"Layers":["l.tar"]}]"#;
    assert!(load_error(&[("manifest.json", manifest)]).contains("does not hold c.json"));
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    assert!(load_error(&[("manifest.json", manifest), ("c.json", config)]).contains("names 0 layers"));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        "0".repeat(64)
    );
    let text = load_error(&[("manifest.json", manifest), ("c.json", config.as_bytes()), ("l.tar", b"layer")]);
    assert!(text.contains("unpacks to"), "{text}");
}

/// A configuration as docker's archives have it.
fn docker_config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let diff_ids = diff_ids.join(",");
    format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#)
}

#[test]
fn an_archive_with_one_bad_image_names_none() {
    let layer = tarball("file", b"content");
    let config = docker_config(&[&layer]);
    for second in [r#""gone.json","RepoTags":["b"]"#, r#""c.json","RepoTags":["B"]"#] {
        let manifest = format!(
            r#"[{{"Config":"c.json","RepoTags":["a"],"Layers":["l.tar"]}},{{"Config":{second},"Layers":["l.tar"]}}]"#
        );
        load_error(&[
            ("c.json", config.as_bytes()),
            ("l.tar", &layer),
            ("manifest.json", manifest.as_bytes()),
        ]);
    }
}

#[test]
fn an_archive_that_nobody_can_unpack_is_told_by_its_compression() {
    let (_directory, store) = store();
    let error = load(&store, "x.tar.bz2", Cursor::new(b"BZh91AY&SY")).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("bzip2"), "{error:?}");
}

#[test]
fn a_layer_that_an_image_has_twice_is_stacked_once() {
    let (directory, store) = store();
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(directory.path()).unwrap()) != 0 {
        return;
    }
    let (low, high) = (tarball("file", b"1"), tarball("other", b"2"));
    let config = docker_config(&[&low, &high, &low]);
    // As crane and kaniko name files.
    let name = Digest::of(config.as_bytes()).to_string();
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":["app"],"Layers":["l.tar","h.tar","l.tar"]}}]"#);
    let mut builder = tar::Builder::new(Vec::new());
    let files = [(&*name, config.as_bytes()), ("l.tar", &low), ("h.tar", &high)];
    for (path, content) in files.into_iter().chain([("manifest.json", manifest.as_bytes())]) {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    }
    let loaded = load(&store, "x.tar", Cursor::new(builder.into_inner().unwrap())).unwrap();
    let amd64 = "linux/amd64".parse().unwrap();
    let image = store.image(&loaded[0].descriptor, &amd64).unwrap();
    let stacked = crate::layers::for_overlay(&store, &image, false).unwrap();
    let path = |layer: &[u8]| crate::layers::overlay_path(&store, Digest::of(layer));
    assert_eq!(stacked, [path(&high), path(&low)]);
}

#[test]
fn a_directory_of_something_else_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), b"").unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("precious"), "{error}");
}

#[test]
fn the_beginning_of_a_blob_waits_for_the_next_try() {
    let (_dir, store) = store();
    let blob = Descriptor::of("", b"all of it");
    let push = |bytes: &[u8]| {
        let ingest = store.ingest().unwrap();
        let mut partial = ingest.partial(&blob).unwrap();
        let before = partial.size_bytes();
        partial.push(bytes).unwrap();
        (before, partial.finish())
    };
    {
        let ingest = store.ingest().unwrap();
        let mut first = ingest.partial(&blob).unwrap();
        first.push(b"all ").unwrap();
        // Who comes while it is in work gets a file of its own, which leaves nothing.
        let mut second = ingest.partial(&blob).unwrap();
        assert_eq!(second.size_bytes(), 0);
        second.push(b"x").unwrap();
    }
    assert_eq!(check(&store).unwrap().len(), 1);
    let (before, outcome) = push(b"of it");
    outcome.unwrap();
    assert_eq!((before, store.has(&blob)), (4, true));
    // Wrong bytes are not kept.
    let other = Descriptor::new("", Digest::of(b"other"), 5);
    let ingest = store.ingest().unwrap();
    let mut partial = ingest.partial(&other).unwrap();
    partial.push(b"wrong").unwrap();
    assert!(matches!(partial.finish(), Err(StoreError::WrongBytes { .. })));
    assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn sweeping_takes_what_the_dead_left_and_no_beginning_that_is_gone_on_with() {
    let (_directory, store) = store();
    let tmp = store.path().join("tmp");
    fs::create_dir_all(tmp.join("layer-dead/root")).unwrap();
    fs::write(tmp.join("layer-dead/lock"), "").unwrap();
    fs::write(tmp.join("blob-dead"), "").unwrap();
    fs::write(tmp.join("pull-0.partial"), "").unwrap();
    let ingest = store.ingest().unwrap();
    assert_eq!(crate::gc::sweep(&store).unwrap(), 0, "somebody is at work");
    drop(ingest);
    assert_eq!(crate::gc::sweep(&store).unwrap(), 2);
    let left: Vec<_> = fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["pull-0.partial"]);
}

#[test]
fn prune_removes_the_beginning_of_a_blob_that_nobody_goes_on_with() {
    let (_dir, store) = store();
    store.ingest().unwrap().partial(&Descriptor::of("", b"abcd")).unwrap().push(b"ab").unwrap();
    let pruned = prune(&store, Which::None, true).unwrap().unwrap();
    assert_eq!((pruned.leftovers, pruned.bytes), (1, 2));
}

#[test]
fn what_is_said_of_an_image_belongs_to_it_and_to_the_index_above() {
    let (_directory, store) = store();
    let manifest = image(&store, None, "one");
    let ingest = store.ingest().unwrap();
    let index = ingest.put(media_type::INDEX, &ImageIndex::of(vec![manifest.clone()]).to_bytes()).unwrap();
    ingest.add(Some(NAME), &index).unwrap();
    let artifact = |kind: &'static str| Artifact {
        kind,
        documents: vec![(kind, kind.as_bytes().to_vec())],
        ..Artifact::default()
    };
    let attached = ingest.attach_all(&manifest, &[artifact("a/b"), artifact("c/d")]).unwrap();
    let above = ingest.attach(&attached[0], "e/f", &[("e/f", b"of the first".to_vec())]).unwrap();
    drop(ingest);
    let found = |of: &Descriptor| -> Vec<Digest> {
        companions(&store, of).unwrap().iter().map(|companion| companion.descriptor.digest).collect()
    };
    let all = vec![attached[0].digest, attached[1].digest, above.digest];
    assert_eq!(
        (found(&manifest), found(&index), found(&attached[0])),
        (all.clone(), all, vec![above.digest])
    );
    store.untag(NAME).unwrap();
    store.forget(manifest.digest).unwrap();
    prune(&store, Which::Unnamed, true).unwrap();
    assert_eq!(store.entries().unwrap(), []);
}

#[test]
fn an_image_that_is_here_for_another_machine_only_is_told_so() {
    let (_directory, store) = store();
    let mut here = image(&store, None, "one");
    here.platform = Some("linux/s390x".parse().unwrap());
    let mut elsewhere = Descriptor::of(media_type::MANIFEST, b"elsewhere");
    elsewhere.platform = Some(platform());
    let mut attested = Descriptor::of(media_type::MANIFEST, b"attested");
    attested.platform = Some("unknown/unknown".parse().unwrap());
    let put = |entries: Vec<Descriptor>| {
        store.ingest().unwrap().put(media_type::INDEX, &ImageIndex::of(entries).to_bytes()).unwrap()
    };
    let offered = |index: &Descriptor, wanted: &str| match store.image(index, &wanted.parse().unwrap()) {
        Err(StoreError::NoPlatform { offered, .. }) => offered,
        other => panic!("{other:?}"),
    };
    let index = put(vec![elsewhere.clone(), here, attested]);
    assert_eq!(offered(&index, &platform().to_string()), ["linux/s390x"]);
    let mut both = vec!["linux/s390x".to_owned(), platform().to_string()];
    let mut told = offered(&index, "linux/riscv64");
    both.sort();
    told.sort();
    assert_eq!(told, both);
    let damaged = store.image(&put(vec![elsewhere]), &platform());
    assert!(matches!(damaged, Err(StoreError::MissingBlob { .. })));
}

mod overlay;
