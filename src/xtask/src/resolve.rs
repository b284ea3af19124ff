//! Our choices against apt's simulation, for packages chosen by chance.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::{MIRROR, knarr, output, report};

/// Compares `count` packages of trixie's main, chosen by `seed`.
pub(crate) fn run(count: usize, seed: u64) -> Result<()> {
    let root = Path::new("/var/tmp/knarr-xtask-apt");
    if !root.exists() {
        output(Command::new(knarr()?).args(["-q", "bootstrap", "trixie"]).arg(root).arg(MIRROR))?;
        output(Command::new("chroot").arg(root).args(["apt-get", "update"]))?;
    }
    let minbase = ours(&[])?;
    let mut same = 0;
    let (mut our_time, mut apt_time) = (0.0, 0.0);
    for package in sample(root, count, seed)? {
        let start = Instant::now();
        let ours = ours(&[&package]);
        our_time += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let apt = apt(root, &package);
        apt_time += start.elapsed().as_secs_f64();
        match (ours, apt) {
            (Ok(ours), Ok(apt)) => {
                let ours: BTreeSet<String> = ours.difference(&minbase).cloned().collect();
                if ours == apt {
                    same += 1;
                } else {
                    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
                        a.difference(b).cloned().collect::<Vec<_>>().join(" ")
                    };
                    report(&format!(
                        "{package}: only ours [{}], only apt's [{}]",
                        only(&ours, &apt),
                        only(&apt, &ours)
                    ));
                }
            }
            (Err(_), Err(_)) => same += 1,
            (Err(error), Ok(_)) => report(&format!("{package}: only apt finds a way; {error}")),
            (Ok(_), Err(error)) => report(&format!("{package}: only we find a way; {error}")),
        }
    }
    report(&format!(
        "{same} of {count} equal ({:.1} %); ours {our_time:.1} s, apt {apt_time:.1} s, whole processes",
        same as f64 * 100.0 / count as f64
    ));
    Ok(())
}

fn ours(include: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new(knarr()?);
    command.args(["-q", "bootstrap", "trixie", "/nonexistent", MIRROR, "--dry-run", "--offline"]);
    command.args(include.iter().map(|package| format!("--include={package}")));
    Ok(output(&mut command)?.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect())
}

fn apt(root: &Path, package: &str) -> Result<BTreeSet<String>> {
    let mut command = Command::new("chroot");
    command.arg(root).args(["apt-get", "install", "--no-install-recommends", "--simulate", "-qy", package]);
    let text = output(&mut command)?;
    Ok(text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("Inst ")?.split(' ').next()?.to_owned()))
        .collect())
}

/// Names drawn from apt's own list, by a small generator that is the same everywhere.
fn sample(root: &Path, count: usize, seed: u64) -> Result<Vec<String>> {
    let names = output(Command::new("chroot").arg(root).args(["apt-cache", "pkgnames"]))?;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chosen = Vec::new();
    while chosen.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let name = names[(state % names.len() as u64) as usize];
        if real(root, name)? {
            chosen.push(name.to_owned());
        }
    }
    Ok(chosen)
}

/// `pkgnames` lists virtual packages too.
fn real(root: &Path, name: &str) -> Result<bool> {
    Ok(output(Command::new("chroot").arg(root).args(["apt-cache", "show", "--no-all-versions", name]))
        .is_ok_and(|text| text.contains("\nFilename:")))
}
