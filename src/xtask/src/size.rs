//! What the ready recipes weigh, beside the best known peers: `docs/recipes.md`.
//!
//! Every recipe is built, which puts its promises to the test; the peers' figures are cited from `peers.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{knarr, output, report};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Peer {
    peer: Option<String>,
    compressed: Option<u64>,
    on_disk: Option<u64>,
    source: Option<String>,
    date: Option<String>,
    note: Option<String>,
}

#[derive(Debug, Default)]
struct Weight {
    on_disk: u64,
    compressed: u64,
    packages: u64,
    files: u64,
}

const PEERS: &str = include_str!("../peers.toml");
const PAGE: &str = "docs/recipes.md";

/// Builds all recipes and writes the table.
pub(crate) fn run() -> Result<()> {
    let peers: BTreeMap<String, Peer> = toml::from_str(PEERS).context("src/xtask/peers.toml")?;
    let holder = tempfile::tempdir()?;
    let mut rows = String::new();
    let mut notes = String::new();
    for name in recipes()? {
        let weight = weigh(&name, holder.path())?;
        let peer = peers.get(&name);
        report(&format!(
            "{name}: {} unpacked, {} compressed",
            megabytes(weight.on_disk),
            megabytes(weight.compressed)
        ));
        rows.push_str(&row(&name, &weight, peer)?);
        notes.push_str(&note(&name, &weight, peer)?);
    }
    std::fs::write(PAGE, format!("{HEAD}{rows}{BETWEEN}{notes}{TAIL}"))?;
    Ok(())
}

/// The names of the ready recipes.
pub(crate) fn recipes() -> Result<Vec<String>> {
    let listed = output(Command::new(knarr()?).args(["recipe", "ls"]))?;
    let names = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

fn weigh(name: &str, holder: &Path) -> Result<Weight> {
    let run = |words: &[&str]| {
        let mut command = Command::new(knarr()?);
        // A cache and a store that are there are used: what is made of them is the same.
        for (variable, place) in [("KNARR_CACHE_DIR", "cache"), ("KNARR_STORE", "store")] {
            if std::env::var_os(variable).is_none() {
                command.env(variable, holder.join(place));
            }
        }
        command.args(words);
        let output = command.output()?;
        if !output.status.success() {
            bail!("{words:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok((
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    let (_, said) = run(&["build", name])?;
    let packages =
        said.lines().find_map(|line| line.split(": ").nth(1)?.split(" packages").next()?.parse().ok());
    let (listing, _) = run(&["image", "files", name])?;
    let (inspected, _) = run(&["image", "inspect", name])?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    let mut weight = Weight {
        packages: packages.unwrap_or(0),
        compressed: inspected[0]["Size"].as_u64().context("the image has no size")?,
        ..Weight::default()
    };
    for line in listing.lines().filter(|line| !line.starts_with('d')) {
        weight.files += 1;
        weight.on_disk += line.split_whitespace().nth(2).and_then(|size| size.parse().ok()).unwrap_or(0);
    }
    Ok(weight)
}

fn row(name: &str, weight: &Weight, peer: Option<&Peer>) -> Result<String> {
    let of_peer = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), megabytes);
    let mut row = String::new();
    writeln!(
        row,
        "| `{name}` | {} | {} | {} | {} | {} | {} | {} |",
        megabytes(weight.on_disk),
        megabytes(weight.compressed),
        weight.packages,
        weight.files,
        peer.and_then(|peer| peer.peer.as_deref()).unwrap_or("–"),
        of_peer(peer.and_then(|peer| peer.on_disk)),
        of_peer(peer.and_then(|peer| peer.compressed)),
    )?;
    Ok(row)
}

/// Where the peer's figures are from, what is to be known, and whether ours are larger.
fn note(name: &str, weight: &Weight, peer: Option<&Peer>) -> Result<String> {
    let Some(peer) = peer else { return Ok(String::new()) };
    let mut parts = Vec::new();
    if let (Some(source), Some(date)) = (&peer.source, &peer.date) {
        parts.push(format!("{source} ({date})."));
    }
    for (what, own, other) in
        [("unpacked", weight.on_disk, peer.on_disk), ("compressed", weight.compressed, peer.compressed)]
    {
        if other.is_some_and(|other| own > other) {
            parts.push(format!("**Larger than the peer, {what}.**"));
        }
    }
    parts.extend(peer.note.clone());
    let mut note = String::new();
    writeln!(note, "* `{name}`: {}", parts.join(" "))?;
    Ok(note)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

const HEAD: &str = "# The ready recipes\n\n\
Written by `cargo xtask bench size`, which builds all of them for amd64 from trixie and puts their promises to the test. MB are 10^6 bytes;\n\
\"unpacked\" is the sum of all files, \"compressed\" that of all layers: gzip -9 in production, zstd -3 in the others. Peers' figures are cited, not\n\
measured here: public registries were out of reach.\n\n\
| recipe | unpacked | compressed | packages | files | best known peer | its unpacked | its compressed |\n\
| --- | --- | --- | --- | --- | --- | --- | --- |\n";
const BETWEEN: &str = "\n## Where the peers' figures are from\n\n";
const TAIL: &str = "\nThe `dev-*` images have no peer of their own kind to be measured against: those that editors offer are made of other packages.\n\
What is in each is said by `knarr recipe show NAME`; how recipes are written by [guide/recipes.md](guide/recipes.md).\n";
