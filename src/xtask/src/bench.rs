//! Bootstraps against mmdebstrap's and debootstrap's, in turn, by medians.
//!
//! All fetch from a mirror on the loopback that was asked for everything before the first round.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::{MIRROR, knarr, nearby, report};

struct Case {
    name: &'static str,
    program: String,
    arguments: Vec<String>,
    /// What of our cache is removed before.
    forget: Forget,
    times: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Forget {
    Everything,
    Products,
    Nothing,
}

/// Runs every case once a round and prints medians and ratios.
pub(crate) fn bootstrap(rounds: usize) -> Result<()> {
    let holder = tempfile::tempdir()?;
    let path = |name: &str| holder.path().join(name).display().to_string();
    std::fs::create_dir(path("nearby"))?;
    let mirror = nearby::serve(MIRROR, Path::new(&path("nearby")))?;
    let mut cases = cases(&path, &mirror)?;
    // The first round fills the mirror and the page cache, and does not count.
    for round in 0..=rounds {
        for case in &mut cases {
            if case.forget == Forget::Products {
                // A package that is used again is kept in a faster form from then on: that is the case that counts.
                crate::output(Command::new(&case.program).args(&case.arguments))?;
                let _ = std::fs::remove_dir_all(path("image"));
            }
            forget(case.forget, &path("cache"))?;
            let start = Instant::now();
            crate::output(Command::new(&case.program).args(&case.arguments))?;
            if round > 0 {
                case.times.push(start.elapsed().as_secs_f64());
            }
            for name in ["m", "m.tar", "d", "out", "out.tar", "image"] {
                let _ = std::fs::remove_dir_all(path(name));
                let _ = std::fs::remove_file(path(name));
            }
        }
    }
    print(&mut cases);
    Ok(())
}

fn cases(path: &dyn Fn(&str) -> String, mirror: &str) -> Result<Vec<Case>> {
    let binary = knarr()?.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let peer = |name, program: &str, arguments: &[&str]| Case {
        name,
        program: program.to_owned(),
        arguments: words(arguments),
        forget: Forget::Nothing,
        times: Vec::new(),
    };
    let cache = path("cache");
    let ours = |name, target: &str, extra: &[&str], forget| {
        let mut arguments = words(&["-q", "bootstrap", "trixie", target, mirror, "--cache-dir", &cache]);
        arguments.extend(words(extra));
        Case { name, program: binary.clone(), arguments, forget, times: Vec::new() }
    };
    let image = format!("oci:{}", path("image"));
    let lock = path("lock");
    let inside = ["--scripts", "inside"];
    let mm = |variant, target| ["--quiet", variant, "trixie", target, mirror];
    Ok(vec![
        peer("mmdebstrap minbase dir", "mmdebstrap", &mm("--variant=minbase", &path("m"))),
        peer("mmdebstrap minbase tar", "mmdebstrap", &mm("--variant=minbase", &path("m.tar"))),
        peer("debootstrap minbase dir", "debootstrap", &["--variant=minbase", "trixie", &path("d"), mirror]),
        ours("minbase dir, cold", &path("out"), &[], Forget::Everything),
        ours("minbase tar, cold", &path("out.tar"), &[], Forget::Everything),
        ours("minbase OCI, cold", &image, &[], Forget::Everything),
        ours("minbase OCI, cold, scripts really run", &image, &inside, Forget::Everything),
        ours("minbase OCI, lock and decoded packages cached", &image, &["--lock", &lock], Forget::Products),
        ours("minbase OCI, nothing changed", &image, &["--lock", &lock], Forget::Nothing),
        ours("arm64 minbase OCI, cold", &image, &["--arch", "arm64"], Forget::Everything),
        ours("resolve, cold", "/nonexistent", &["--dry-run"], Forget::Everything),
        ours("resolve, index cached", "/nonexistent", &["--dry-run"], Forget::Nothing),
        ours("important dir, cold", &path("out"), &["--variant", "important"], Forget::Everything),
    ])
}

fn forget(what: Forget, cache: &str) -> Result<()> {
    let path = match what {
        Forget::Nothing => return Ok(()),
        Forget::Everything => cache.to_owned(),
        Forget::Products => format!("{cache}/products"),
    };
    if Path::new(&path).exists() {
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

fn print(cases: &mut [Case]) {
    let mut reference = [0.0; 3];
    for (position, case) in cases.iter_mut().enumerate() {
        let time = median(&mut case.times);
        if let Some(place) = reference.get_mut(position) {
            *place = time;
            report(&format!("{:<42} {time:>7.2} s", case.name));
            continue;
        }
        let [dir, tar, debootstrap] = reference.map(|reference| reference / time);
        report(&format!(
            "{:<42} {time:>7.2} s   mmdebstrap dir {dir:>5.1}, tar {tar:>5.1}, debootstrap {debootstrap:>5.1} times as long",
            case.name
        ));
    }
}

/// The middle of several times.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
