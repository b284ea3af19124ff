//! Images of a store alone: no containers, no network.

use std::io::Read;

use knarr_base::Digest;
use knarr_oci::{ImageConfig, Reference, media_type};
use knarr_store::{Store, archive};
use knarr_tree::compress::Compression;

use super::*;
use crate::filters::Filters;

/// A store with an image of one file under each of the names.
fn store_with(names: &[&str]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (age, name) in names.iter().enumerate() {
        put(&store, name, age);
    }
    (dir, store)
}

/// The higher its age, the older it is.
fn put(store: &Store, name: &str, age: usize) -> Descriptor {
    let ingest = store.ingest().unwrap();
    let layer = ingest.layer(Compression::Gzip(1), |out| {
        let mut tar = tar::Builder::new(out);
        let mut header = tar::Header::new_ustar();
        header.set_size(name.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, "f", name.as_bytes()).unwrap();
        tar.finish().map_err(knarr_tree::TreeError::Write)
    });
    let layer = layer.unwrap();
    let platform = Platform::of(knarr_base::Architecture::native());
    let mut config = ImageConfig {
        created: Some(format!("2026-01-0{}T00:00:00Z", 9 - age)),
        architecture: platform.architecture,
        os: platform.os,
        ..ImageConfig::default()
    };
    config.config.labels.insert("age".to_owned(), age.to_string());
    config.push_layer(layer.diff_id, "made");
    let name = Reference::parse(name).unwrap().to_string();
    put_image(&ingest, &config, vec![layer.descriptor], Some(&name)).unwrap()
}

fn chosen(store: &Store, filters: &str) -> Vec<String> {
    let filters = Filters::parse(filters).unwrap();
    choose(store, &filters).unwrap().iter().flat_map(Entry::repo_tags).collect()
}

#[test]
fn images_are_listed_the_newest_first_and_filtered() {
    let (_dir, store) = store_with(&["b:1", "localhost:5000/team/a:2", "c:3"]);
    let all = ["b:1", "localhost:5000/team/a:2", "c:3"];
    assert_eq!(chosen(&store, ""), all);
    assert_eq!(chosen(&store, r#"{"reference":["localhost:5000/*/a"]}"#), [all[1]]);
    assert_eq!(chosen(&store, r#"{"reference":["?:*"]}"#), [all[0], all[2]]);
    assert_eq!(chosen(&store, r#"{"before":["b:1"]}"#), all[1..]);
    assert_eq!(chosen(&store, r#"{"since":["c:3"]}"#), all[..2]);
    assert_eq!(chosen(&store, r#"{"label":["age=1"]}"#), [all[1]]);
    assert_eq!(chosen(&store, r#"{"until":["2026-01-09"]}"#), all[1..]);
    assert!(chosen(&store, r#"{"dangling":["true"]}"#).is_empty());
}

#[test]
fn an_image_without_a_name_is_dangling() {
    let (_dir, store) = store_with(&["a:1"]);
    let first = find(&store, "a:1").unwrap().descriptor;
    put(&store, "a:1", 1);
    store.tag(&find(&store, "a:1").unwrap().descriptor.bare(), "docker.io/library/a:2").unwrap();
    put(&store, "b:1", 2);
    store.tag(&find(&store, "b:1").unwrap().descriptor.bare(), "docker.io/library/a:1").unwrap();
    let dangling = choose(&store, &Filters::parse(r#"{"dangling":["true"]}"#).unwrap()).unwrap();
    assert!(dangling.iter().all(|entry| entry.names.is_empty() && entry.repo_digests().is_empty()));
    // The first image is the same bytes as what was put again, but for its age.
    assert_eq!(dangling.iter().map(|entry| entry.descriptor.digest).collect::<Vec<_>>(), [first.digest]);
}

#[test]
fn an_image_is_found_by_all_its_names() {
    let (_dir, store) = store_with(&["a:1"]);
    let id = find(&store, "a:1").unwrap().descriptor.digest.to_string();
    let hex = id.strip_prefix("sha256:").unwrap();
    for name in ["a:1", "docker.io/library/a:1", &id, &hex[..12], &format!("a@{id}")] {
        assert_eq!(find(&store, name).unwrap().descriptor.digest.to_string(), id, "{name}");
    }
    let gone = find(&store, "nope").unwrap_err();
    assert_eq!((gone.kind(), gone.message().as_str()), (crate::Kind::NotFound, "No such image: nope:latest"));
    assert_eq!(descriptor_of(&store, &id).unwrap().media_type, media_type::MANIFEST);
    assert!(descriptor_of(&store, &Digest::of(b"gone").to_string()).is_err());
}

#[test]
fn an_image_tells_what_it_is_and_how_it_was_made() {
    let (_dir, store) = store_with(&["a:1"]);
    let entry = entries(&store).unwrap().remove(0);
    let shown = inspected(&store, &entry);
    assert_eq!(shown.repo_tags.unwrap(), ["a:1"]);
    assert_eq!(shown.repo_digests.unwrap(), [format!("a@{}", entry.id())]);
    assert_eq!(shown.root_fs.unwrap().layers.unwrap().len(), 1);
    assert!(shown.size.unwrap() > 0);
    let steps = history(&store, &entry);
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].id.as_str(), steps[0].created_by.as_str()), (entry.id().as_str(), "made"));
}

#[test]
fn names_that_are_none_are_refused_in_dockers_words() {
    let message = |repository: &str, tag: &str| new_name(repository, tag).unwrap_err().message();
    assert_eq!(message("a b", ""), "invalid reference format");
    assert_eq!(
        message("Foo", "1"),
        "invalid reference format: repository name (library/Foo) must be lowercase"
    );
    assert_eq!(
        message("localhost/x/Foo", ""),
        "invalid reference format: repository name (x/Foo) must be lowercase"
    );
    let digest = format!("a@{}", Digest::of(b""));
    assert_eq!(message(&digest, ""), "refusing to create a tag with a digest reference");
    assert!(message("sha256", "1").starts_with("refusing to create an ambiguous tag"));
    assert_eq!(new_name("a", "").unwrap(), "docker.io/library/a:latest");
}

#[test]
fn what_was_saved_is_loaded_with_its_names() {
    let (_dir, store) = store_with(&["a:1"]);
    let platform = Platform::of(knarr_base::Architecture::native());
    let mut bytes = Vec::new();
    archive::save(&store, &["a:1".to_owned()], &platform, archive::Format::Oci, &mut bytes).unwrap();
    let (_other_dir, other) = store_with(&[]);
    archive::load(&other, "test", bytes.as_slice()).unwrap();
    assert_eq!(chosen(&other, ""), ["a:1"]);
    let image = find(&other, "a:1").unwrap().descriptor;
    let layer = other.image(&image, &platform).unwrap().manifest.layers[0].clone();
    let mut tar = Vec::new();
    knarr_store::layers::open(&other, &layer).unwrap().read_to_end(&mut tar).unwrap();
    assert!(tar.windows(3).any(|bytes| bytes == b"a:1"));
}
