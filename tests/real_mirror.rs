//! End to end against the real mirror.

use std::process::Command;

use crate::support::{needs_root, skipped, succeed};

fn knarr() -> Command {
    Command::new(env!("CARGO_BIN_EXE_knarr"))
}

/// A root of the real suite that apt and dpkg accept.
fn check_suite(suite: &str) {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    succeed(knarr().arg("bootstrap").arg(suite).arg(&root));
    let inside = |arguments: &[&str]| {
        let output = succeed(
            Command::new("chroot")
                .arg(&root)
                .args(arguments)
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("DEBIAN_FRONTEND", "noninteractive"),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(inside(&["dpkg", "--audit"]), "");
    assert_eq!(inside(&["dpkg", "--verify"]), "");
    inside(&["apt-get", "update"]);
    inside(&["apt-get", "check"]);
    inside(&["apt-get", "install", "-y", "hello"]);
    assert_eq!(inside(&["hello"]), "Hello, world!\n");
}

#[test]
fn trixie_is_accepted_by_apt_and_dpkg() {
    check_suite("trixie");
}

#[test]
fn bookworm_is_accepted_by_apt_and_dpkg() {
    check_suite("bookworm");
}

/// One lock, every way to run its scripts: the bytes are the same. Answers how each script ran.
fn check_ways(suite: &str, architecture: &str, ways: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut tarballs = Vec::new();
    let mut explanations = Vec::new();
    for way in ways {
        let tarball = dir.path().join(way).with_extension("tar");
        let mut command = knarr();
        command.args(["bootstrap", suite, "--arch", architecture, "--explain", "--scripts", way, "--lock"]);
        let output = succeed(
            command.arg(dir.path().join("lock")).arg(&tarball).env("SOURCE_DATE_EPOCH", "1795000000"),
        );
        explanations.push(String::from_utf8(output.stdout).unwrap());
        tarballs.push(std::fs::read(&tarball).unwrap());
    }
    for (way, tarball) in ways.iter().zip(&tarballs) {
        assert!(*tarball == tarballs[0], "{suite} {architecture}: {way} differs from {}", ways[0]);
    }
    explanations
}

fn count(explanation: &str, way: &str) -> usize {
    explanation.lines().filter(|line| line.split_ascii_whitespace().nth(3) == Some(way)).count()
}

#[test]
fn scripts_that_are_replayed_or_run_from_outside_do_what_they_do_inside() {
    needs_root!();
    let explained = check_ways("trixie", "amd64", &["replay", "outside", "inside"]);
    // Rules are pinned to scripts: after an update a few may really run until they are proven anew.
    assert!(count(&explained[0], "replayed") >= 20, "{}", explained[0]);
    assert!(count(&explained[1], "outside") >= 20, "{}", explained[1]);
    assert_eq!(count(&explained[2], "inside"), explained[2].lines().count() - 1, "{}", explained[2]);
}

#[test]
fn scripts_of_bookworm_that_are_replayed_do_what_they_do_inside() {
    needs_root!();
    let explained = check_ways("bookworm", "amd64", &["replay", "outside", "inside"]);
    assert!(count(&explained[0], "replayed") >= 20, "{}", explained[0]);
}

#[test]
fn a_foreign_root_has_the_same_bytes_with_and_without_an_emulator() {
    needs_root!();
    if !std::path::Path::new("/usr/bin/qemu-aarch64-static").exists() {
        return skipped("qemu-user-static is not installed");
    }
    let explained = check_ways("trixie", "arm64", &["replay", "outside", "inside"]);
    assert_eq!(count(&explained[0], "inside"), 0, "{}", explained[0]);
    assert!(count(&explained[2], "inside") >= 20, "{}", explained[2]);
}
