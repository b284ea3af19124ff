//! The command line itself.

use std::process::Command;

use crate::support::{fail, succeed};

fn knarr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> String {
    String::from_utf8(succeed(&mut knarr(arguments)).stdout).unwrap()
}

#[test]
fn help_and_version_answer() {
    assert!(output(&["--version"]).starts_with("knarr 0."));
    assert!(output(&["bootstrap", "--help"]).contains("--variant"));
    assert!(output(&["completion", "bash"]).contains("_knarr"));
}

#[test]
fn suites_are_listed_and_shown_by_alias() {
    let list = output(&["suite", "ls"]);
    for suite in ["trixie", "bookworm", "bullseye", "forky", "sid", "noble", "jammy", "resolute"] {
        assert!(list.contains(suite), "{list}");
    }
    assert!(output(&["suite", "show", "stable"]).contains("trixie-security"));
}

#[test]
fn an_unknown_suite_is_answered_with_those_that_exist() {
    let text = fail(&mut knarr(&["bootstrap", "trixy", "/nonexistent/target"]), 30);
    assert!(text.contains("trixie") && text.contains("hint"), "{text}");
}

#[test]
fn the_cache_can_be_measured_and_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert!(output(&["system", "df", "--cache-dir", path]).contains("pool"));
    assert!(output(&["system", "prune", "--all", "--cache-dir", path]).contains("Removed 0 files"));
    fail(&mut knarr(&["system", "prune", "--max-size", "12x"]), 2);
}
