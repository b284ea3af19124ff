//! Containers through an engine, as people type them: our command line, and podman where it is installed, in turn.
//!
//! Our engine has a root, a socket and a network namespace of its own; what it made goes with it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::median;
use crate::{knarr, output, report};

const IMAGE: &str = "localhost/knarr-bench:1";

/// What is typed; `#` stands for a new name, and what comes after `;` is not timed.
const CASES: [(&str, &[&str]); 12] = [
    ("run --rm, bridge", &["run --rm IMAGE true"]),
    ("run --rm, no network", &["run --rm --network none IMAGE true"]),
    ("run --rm, host's network", &["run --rm --network host IMAGE true"]),
    ("exec", &["exec waits true"]),
    ("run -d", &["run -d --name # IMAGE sleep 1000", ";rm -f #"]),
    ("run -d -p", &["run -d --name # -p 80 IMAGE sleep 1000", ";rm -f #"]),
    ("stop -t 0", &[";run -d --name # IMAGE sleep 1000", "stop -t 0 #", ";rm -f #"]),
    ("rm -f", &[";run -d --name # IMAGE sleep 1000", "rm -f #"]),
    ("network create + rm", &["network create #", "network rm #"]),
    ("volume create + rm", &["volume create #", "volume rm #"]),
    ("ps", &["ps"]),
    ("inspect", &["inspect waits"]),
];

/// A command line and its times, by case.
struct Tool {
    name: &'static str,
    command: Vec<String>,
    times: Vec<Vec<f64>>,
}

/// Runs every case `rounds` times and prints medians, the slowest of a hundred, and the engine's memory.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let engine = Engine::start()?;
    let mut tools =
        vec![Tool::new("knarr", vec![knarr()?.display().to_string(), "-H".to_owned(), engine.host()])];
    tools.push(Tool::new("podman", vec!["podman".to_owned()]));
    tools.retain_mut(|tool| match tool.prepare(&engine.tarball) {
        Ok(()) => true,
        Err(error) => {
            report(&format!("{} is left out: {error:#}", tool.name));
            false
        }
    });
    let measured = measure(&mut tools, rounds);
    let memory = engine.memory();
    for tool in &tools {
        // What is left of it would be in the next bench's way.
        let _ = tool.call("rm -f waits");
    }
    measured?;
    print(&mut tools);
    report(&memory?);
    Ok(())
}

fn measure(tools: &mut [Tool], rounds: usize) -> Result<()> {
    for (number, (_, steps)) in CASES.iter().enumerate() {
        for round in 0..rounds {
            for tool in tools.iter_mut() {
                let taken = tool.time(steps, &format!("bench-{number}-{round}"))?;
                tool.times[number].push(taken);
            }
        }
    }
    Ok(())
}

impl Tool {
    fn new(name: &'static str, command: Vec<String>) -> Self {
        Self { name, command, times: vec![Vec::new(); CASES.len()] }
    }

    fn prepare(&mut self, tarball: &Path) -> Result<()> {
        if self.name == "podman" {
            self.call(&format!("import {} {IMAGE}", tarball.display()))?;
        }
        self.call("run --rm IMAGE true")?;
        self.call("run -d --name waits IMAGE sleep 1000").map(drop)
    }

    /// The milliseconds that one line takes.
    fn call(&self, line: &str) -> Result<f64> {
        let mut command = Command::new(&self.command[0]);
        let words = line.split(' ').map(|word| if word == "IMAGE" { IMAGE } else { word });
        command.args(&self.command[1..]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let status = command.status().with_context(|| self.name)?;
        let taken = begun.elapsed().as_secs_f64() * 1000.0;
        if status.success() { Ok(taken) } else { bail!("{} {line} ended with {status}", self.name) }
    }

    fn time(&self, steps: &[&str], name: &str) -> Result<f64> {
        let mut taken = 0.0;
        for step in steps {
            let line = step.trim_start_matches(';').replace('#', name);
            let one = self.call(&line)?;
            taken += if step.starts_with(';') { 0.0 } else { one };
        }
        Ok(taken)
    }
}

fn print(tools: &mut [Tool]) {
    for (number, (case, _)) in CASES.iter().enumerate() {
        let mut line = format!("{case:<26}");
        for tool in tools.iter_mut() {
            let times = &mut tool.times[number];
            let middle = median(times);
            times.sort_by(f64::total_cmp);
            let slowest = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(line, "  {} {middle:.1} ms (p99 {slowest:.1})", tool.name);
        }
        report(&line);
    }
}

/// Our engine.
struct Engine {
    dir: tempfile::TempDir,
    child: Child,
    tarball: PathBuf,
}

impl Engine {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let program = knarr()?;
        let tarball = tarball(dir.path())?;
        let store = dir.path().join("root/store");
        output(
            Command::new(&program)
                .env_remove("DOCKER_HOST")
                .args(["import", "--store"])
                .arg(&store)
                .arg(&tarball)
                .arg(IMAGE),
        )?;
        let mut command = Command::new("unshare");
        command.args(["-n", "busybox", "sh", "-c", "ip link set lo up; exec \"$0\" \"$@\""]).arg(&program);
        command.args(["daemon", "--log-level", "error", "--root"]).arg(dir.path().join("root"));
        let child = command.arg("--run-dir").arg(dir.path().join("run")).stdin(Stdio::null()).spawn()?;
        let engine = Self { dir, child, tarball };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(engine.dir.path().join("run/knarr.sock")).is_err() {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("the engine does not answer");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(engine)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("run/knarr.sock").display())
    }

    /// The memory of the daemon, of its launcher, and of the shim of one container.
    fn memory(&self) -> Result<String> {
        let daemon = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
        let mut text = format!("memory: daemon {}", memory_of(daemon)?);
        for launcher in children.split_whitespace() {
            write!(text, ", launcher {}", memory_of(launcher.parse()?)?)?;
            let shims = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
            if let Some(shim) = shims.split_whitespace().next() {
                write!(text, ", a shim {}", memory_of(shim.parse()?)?)?;
            }
        }
        Ok(text)
    }
}

/// Resident and proportional memory of a process, in MB.
fn memory_of(pid: u32) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let kilobytes: f64 =
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
        kilobytes / 1024.0
    };
    Ok(format!("RSS {:.1} MiB, PSS {:.1} MiB", of("Rss:"), of("Pss:")))
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Its containers were removed; a daemon that has ended cannot be told to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn tarball(dir: &Path) -> Result<PathBuf> {
    let bin = dir.join("image/bin");
    std::fs::create_dir_all(&bin)?;
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    let busybox = busybox.iter().find(|path| path.exists()).context("busybox-static is not installed")?;
    std::fs::copy(busybox, bin.join("busybox"))?;
    for applet in ["sh", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    let path = dir.join("image.tar");
    output(Command::new("tar").arg("-C").arg(dir.join("image")).arg("-cf").arg(&path).arg("."))?;
    Ok(path)
}
