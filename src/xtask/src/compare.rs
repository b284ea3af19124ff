//! Our tree against mmdebstrap's, path by path.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{MIRROR, knarr, output, report};

/// Paths that may differ, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("etc/apt/sources.list", "mmdebstrap writes one-line sources"),
    ("etc/apt/sources.list.d/debian.sources", "we write deb822"),
    ("etc/fstab", "an empty template of mmdebstrap's"),
    ("etc/hostname", "copied from the host by mmdebstrap"),
    ("etc/resolv.conf", "copied from the host with the host's mode by mmdebstrap"),
    ("var/cache/apt/archives/lock", "left by apt, which we do not run"),
    ("var/lib/apt/lists/lock", "left by apt, which we do not run"),
    ("var/cache/debconf/config.dat-old", "a backup"),
    ("var/cache/debconf/templates.dat-old", "a backup"),
    ("var/lib/dpkg/diversions-old", "a backup"),
    ("var/lib/dpkg/status-old", "a backup"),
    ("etc/apt/preferences.d", "essential: made by the apt that mmdebstrap runs from outside"),
    ("var/cache/apt", "the same"),
    ("var/cache/apt/archives", "the same"),
    ("var/cache/apt/archives/partial", "the same"),
    ("var/lib/apt", "the same"),
    ("var/lib/apt/lists", "the same"),
    ("var/lib/apt/lists/partial", "the same"),
    ("var/log/apt", "the same"),
];

/// Compares minbase and essential of `suite`; fails when anything else differs.
pub(crate) fn run(suite: &str) -> Result<()> {
    let holder = tempfile::tempdir()?;
    for variant in ["essential", "minbase"] {
        let (ours, theirs) =
            (holder.path().join(format!("ours-{variant}")), holder.path().join(format!("theirs-{variant}")));
        output(Command::new(knarr()?).args(["-q", "bootstrap", suite]).arg(&ours).args([
            MIRROR,
            "--variant",
            variant,
        ]))?;
        output(
            Command::new("mmdebstrap")
                .args(["--quiet", &format!("--variant={variant}"), suite])
                .arg(&theirs)
                .arg(MIRROR),
        )?;
        let differences = compare(&ours, &theirs)?;
        differences.iter().for_each(|line| report(&format!("{suite} {variant}: {line}")));
        if !differences.is_empty() {
            bail!("{} differences", differences.len());
        }
        report(&format!("{suite} {variant}: equal but for {} named paths", ALLOWED.len()));
    }
    Ok(())
}

fn compare(ours: &Path, theirs: &Path) -> Result<Vec<String>> {
    let (ours, theirs) = (describe(ours)?, describe(theirs)?);
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    let allowed = |name: &str| ALLOWED.iter().any(|(path, _)| *path == name);
    let differing = names.into_iter().filter(|name| !allowed(name) && ours.get(*name) != theirs.get(*name));
    Ok(differing
        .map(|name| format!("{name}: ours {:?}, theirs {:?}", ours.get(name), theirs.get(name)))
        .collect())
}

/// Kind, mode, owner and link of every path; packages with their states.
fn describe(root: &Path) -> Result<BTreeMap<String, String>> {
    let text =
        output(Command::new("find").arg(root).args(["-mindepth", "1", "-printf", "%P\\t%y %m %U:%G %l\\n"]))?;
    let mut all: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(path, rest)| (path.to_owned(), rest.to_owned()))
        .collect();
    let states =
        output(
            Command::new("dpkg-query")
                .arg(format!("--admindir={}", root.join("var/lib/dpkg").display()))
                .args(["-W", "-f", "${binary:Package}\\t${Version} ${Status}\\n"]),
        )?;
    all.extend(
        states
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, state)| (format!("package {name}"), state.to_owned())),
    );
    Ok(all)
}
