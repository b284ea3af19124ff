//! Bootstraps against mmdebstrap's and debootstrap's, in turn, by medians.
//!
//! The network is what it is: all three fetch from the same mirror in the same minute.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::{MIRROR, knarr, report};

struct Case {
    name: &'static str,
    program: String,
    arguments: Vec<String>,
    /// Our cache is emptied first.
    cold: bool,
    times: Vec<f64>,
}

/// Runs every case once a round and prints medians and ratios.
pub(crate) fn bootstrap(rounds: usize) -> Result<()> {
    let holder = tempfile::tempdir()?;
    let path = |name: &str| holder.path().join(name).display().to_string();
    let cache = path("cache");
    let binary = knarr()?.display().to_string();
    let ours = |name, target: String, extra: &[&str], cold| {
        let mut arguments = vec![
            "-q".to_owned(),
            "bootstrap".to_owned(),
            "trixie".to_owned(),
            target,
            MIRROR.to_owned(),
            "--cache-dir".to_owned(),
            cache.clone(),
        ];
        arguments.extend(extra.iter().map(|word| (*word).to_owned()));
        Case { name, program: binary.clone(), arguments, cold, times: Vec::new() }
    };
    let peer = |name, program: &str, arguments: &[String]| Case {
        name,
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        cold: false,
        times: Vec::new(),
    };
    let lock = path("lock");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut cases = vec![
        peer(
            "mmdebstrap minbase dir",
            "mmdebstrap",
            &words(&["--quiet", "--variant=minbase", "trixie", &path("m"), MIRROR]),
        ),
        ours("knarr minbase dir, cold", path("out"), &[], true),
        ours("knarr minbase tar, cold", path("out.tar"), &[], true),
        ours("knarr minbase OCI, cold", format!("oci:{}", path("image")), &[], true),
        ours(
            "knarr minbase OCI, lock and .debs cached",
            format!("oci:{}", path("image")),
            &["--lock", &lock],
            false,
        ),
        ours("knarr resolve, cold", "/nonexistent".to_owned(), &["--dry-run"], true),
        ours("knarr resolve, index cached", "/nonexistent".to_owned(), &["--dry-run"], false),
        ours("knarr important dir, cold", path("out"), &["--variant", "important"], true),
    ];
    for _ in 0..rounds {
        for case in &mut cases {
            if case.cold && Path::new(&cache).exists() {
                std::fs::remove_dir_all(&cache)?;
            }
            let start = Instant::now();
            crate::output(Command::new(&case.program).args(&case.arguments))?;
            case.times.push(start.elapsed().as_secs_f64());
            for name in ["m", "out", "out.tar", "image"] {
                let _ = std::fs::remove_dir_all(path(name));
                let _ = std::fs::remove_file(path(name));
            }
        }
    }
    let reference = median(&mut cases[0].times);
    for case in &mut cases {
        let time = median(&mut case.times);
        report(&format!("{:<42} {time:>7.2} s   mmdebstrap/this {:>6.1}", case.name, reference / time));
    }
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
