//! Ready recipes from the real mirror; `make recipes` builds all of them.

use std::path::Path;
use std::process::Command;

use crate::support::{needs_root, succeed};

fn build(recipe: &str, place: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command.args(["build", recipe]).env("KNARR_CACHE_DIR", place.join("cache"));
    let output = succeed(command.env("KNARR_STORE", place.join("store")));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Built and verified twice, with nothing in common: the digest is the same.
fn check(recipe: &str) {
    needs_root!();
    let directory = tempfile::tempdir().unwrap();
    let places = ["one", "two"].map(|name| directory.path().join(name));
    places.iter().for_each(|place| std::fs::create_dir(place).unwrap());
    assert_eq!(build(recipe, &places[0]), build(recipe, &places[1]), "{recipe}");
}

#[test]
fn static_is_the_same_image_twice() {
    check("prod-static");
}

#[test]
fn nginx_serves_a_page_and_is_the_same_image_twice() {
    check("prod-nginx");
}

#[test]
fn busybox_serves_a_page_and_is_the_same_image_twice() {
    check("prod-busybox");
}

#[test]
fn redis_keeps_what_it_is_told_and_is_the_same_image_twice() {
    check("prod-redis");
}
