//! Every ready recipe, built and verified twice: another store, another cache, the same digest.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{knarr, output, report, size};

/// Builds the named recipes, or all, and compares. The first failure does not hide the others.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    let holder = tempfile::tempdir()?;
    let all = size::recipes()?;
    let mut failed = Vec::new();
    for name in all.iter().filter(|name| names.is_empty() || names.contains(&name.as_str())) {
        let built = ["one", "two"].map(|which| build(name, &holder.path().join(which)));
        match built {
            [Ok(one), Ok(two)] if one == two => report(&format!("{name}: {one}, twice")),
            [Ok(one), Ok(two)] => failed.push(format!("{name}: {one} and then {two}")),
            [one, two] => failed
                .extend([one, two].into_iter().filter_map(|built| Some(format!("{name}: {}", built.err()?)))),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

fn build(name: &str, place: &Path) -> Result<String> {
    let mut command = Command::new(knarr()?);
    command.args(["-q", "build", name]);
    command.env("KNARR_CACHE_DIR", place.join("cache")).env("KNARR_STORE", place.join("store"));
    Ok(output(&mut command)?.trim().to_owned())
}
