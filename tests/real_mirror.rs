//! End to end against the real mirror.

use std::process::Command;

use crate::support::{needs_root, succeed};

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
