//! Containers from bundles against crun and runc, in turn, by medians.
//!
//! The bundle is a busybox with the configuration that `knarr oci spec` writes. A peer that is not installed, or that
//! cannot run it on this machine, is left out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::median;
use crate::{knarr, output, report};

/// A runtime and its times.
struct Runtime {
    name: &'static str,
    command: Vec<String>,
    life: Vec<f64>,
    run: Vec<f64>,
    exec: Vec<f64>,
}

/// What is timed, and where its time is kept.
type Part = (&'static str, fn(&Runtime, &Path) -> Result<f64>, fn(&mut Runtime) -> &mut Vec<f64>);

const PARTS: [Part; 3] = [
    ("create + start + delete", life, |runtime| &mut runtime.life),
    ("run", run_once, |runtime| &mut runtime.run),
    ("exec", exec, |runtime| &mut runtime.exec),
];

/// Runs every part of every runtime `rounds` times and prints medians and ratios.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let holder = tempfile::tempdir()?;
    let (waiting, ending) = (holder.path().join("waiting"), holder.path().join("ending"));
    bundle(&waiting, &["sleep", "1000"])?;
    bundle(&ending, &["true"])?;
    let mut runtimes = installed(&ending)?;
    for runtime in &runtimes {
        runtime.call(&waiting, &["create", &runtime.id("exec")])?;
        runtime.call(&waiting, &["start", &runtime.id("exec")])?;
    }
    let measured = measure(&mut runtimes, rounds, &waiting, &ending);
    for runtime in &runtimes {
        runtime.call(&waiting, &["delete", "--force", &runtime.id("exec")])?;
    }
    measured?;
    PARTS.iter().for_each(|part| print(part, &mut runtimes));
    Ok(())
}

fn measure(runtimes: &mut [Runtime], rounds: usize, waiting: &Path, ending: &Path) -> Result<()> {
    for (name, time, times) in PARTS {
        for _ in 0..rounds {
            for runtime in runtimes.iter_mut() {
                let bundle = if name == "run" { ending } else { waiting };
                let taken = time(runtime, bundle)?;
                times(runtime).push(taken);
            }
        }
    }
    Ok(())
}

/// A root with busybox, and the configuration of a container that runs `words`.
fn bundle(path: &Path, words: &[&str]) -> Result<()> {
    let bin = path.join("rootfs/bin");
    std::fs::create_dir_all(&bin)?;
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    let busybox = busybox.iter().find(|path| path.exists()).context("busybox-static is not installed")?;
    std::fs::copy(busybox, bin.join("busybox"))?;
    for applet in ["sh", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    output(Command::new(knarr()?).args(["oci", "spec"]).current_dir(path))?;
    let file = path.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    // What older peers know.
    config["ociVersion"] = "1.0.2".into();
    config["process"]["args"] = words.into();
    config["process"]["terminal"] = false.into();
    Ok(std::fs::write(&file, config.to_string())?)
}

fn installed(ending: &Path) -> Result<Vec<Runtime>> {
    let ours = knarr()?.display().to_string();
    let mut runtimes = Vec::new();
    for (name, words) in [("knarr", vec![ours, "oci".to_owned()]), ("crun", vec![]), ("runc", vec![])] {
        let command = if words.is_empty() { vec![name.to_owned()] } else { words };
        let runtime = Runtime { name, command, life: Vec::new(), run: Vec::new(), exec: Vec::new() };
        match run_once(&runtime, ending) {
            Ok(_) => runtimes.push(runtime),
            Err(error) if name == "knarr" => return Err(error),
            Err(error) => report(&format!("{name} is left out: {error}")),
        }
    }
    Ok(runtimes)
}

impl Runtime {
    fn id(&self, what: &str) -> String {
        format!("knarr-bench-{}-{}-{what}", std::process::id(), self.name)
    }

    /// Runs the runtime with these words in a bundle; answers with the milliseconds that it took.
    fn call(&self, bundle: &Path, words: &[&str]) -> Result<f64> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(words).current_dir(bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let status = command.status()?;
        let taken = start.elapsed().as_secs_f64() * 1000.0;
        if status.success() { Ok(taken) } else { bail!("{command:?} ended with {status}") }
    }

    fn has_stopped(&self, id: &str) -> Result<bool> {
        let mut command = Command::new(&self.command[0]);
        let state = output(command.args(&self.command[1..]).args(["state", id]))?;
        let state: serde_json::Value = serde_json::from_str(&state)?;
        Ok(state["status"] == "stopped")
    }
}

/// Making, starting and removing; ending it in between does not count.
fn life(runtime: &Runtime, bundle: &Path) -> Result<f64> {
    let id = runtime.id("life");
    let taken = runtime.call(bundle, &["create", &id])? + runtime.call(bundle, &["start", &id])?;
    runtime.call(bundle, &["kill", &id, "KILL"])?;
    while !runtime.has_stopped(&id)? {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(taken + runtime.call(bundle, &["delete", &id])?)
}

fn run_once(runtime: &Runtime, bundle: &Path) -> Result<f64> {
    runtime.call(bundle, &["run", &runtime.id("run")])
}

fn exec(runtime: &Runtime, bundle: &Path) -> Result<f64> {
    runtime.call(bundle, &["exec", &runtime.id("exec"), "/bin/true"])
}

fn print((name, _, times): &Part, runtimes: &mut [Runtime]) {
    report(name);
    let ours = runtimes.first_mut().map_or(0.0, |runtime| median(times(runtime)));
    for runtime in runtimes {
        let time = median(times(runtime));
        let ratio = if runtime.name == "knarr" {
            String::new()
        } else {
            format!("{:>6.1} times as long as ours", time / ours)
        };
        report(&format!("  {:<6} {time:>7.1} ms   {ratio}", runtime.name));
    }
}
