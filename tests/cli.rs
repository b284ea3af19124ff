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
    let (cache, store) = (dir.path().join("cache"), dir.path().join("store"));
    let places = ["--cache-dir", cache.to_str().unwrap(), "--store", store.to_str().unwrap()];
    let said = |words: &[&str]| output(&[words, &places].concat());
    assert!(said(&["system", "df"]).contains("pool"));
    std::fs::write(cache.join("pool/.new-x"), "left").unwrap();
    std::fs::write(store.join("tmp/blob-x"), "left").unwrap();
    let found = said(&["system", "check"]);
    assert!(found.contains("pool/.new-x") && found.contains("tmp/blob-x"), "{found}");
    let removed = said(&["system", "prune", "--all"]);
    assert!(removed.contains("Removed 1 files") && removed.contains("1 leftovers"), "{removed}");
    assert_eq!(said(&["system", "check"]), "");
    fail(&mut knarr(&["system", "prune", "--max-size", "12x"]), 2);
}

#[test]
fn the_configuration_says_where_the_cache_lies_and_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    let df = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.args(["system", "df"]).env("KNARR_CONFIG", &config).env_remove("KNARR_CACHE_DIR");
        command.env("KNARR_STORE", dir.path().join("store"));
        command.output().unwrap()
    };
    let cache = dir.path().join("cache");
    assert!(df(&format!("[cache]\ndir = {cache:?}\nmax_size = \"1GB\"\n")).status.success());
    assert!(cache.join("pool").is_dir());
    let refused = df("[cache]\nmaxsize = \"1GB\"\n");
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(text.contains("config.toml") && text.contains("line 2") && text.contains("maxsize"), "{text}");
}
