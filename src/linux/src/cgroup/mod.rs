//! Control groups, both versions: how much of the machine processes may use.
//!
//! [`Hierarchies::detect`] says what this machine mounts; [`Hierarchies::plan`] names the directories of one group, a
//! [`Cgroup`], and [`Cgroup::make`] makes them. Which file takes which value is for others to know. Only directories that were made here are removed.
//!
//! Spec: cgroups(7); cgroup-v1 and cgroup-v2 in the kernel's documentation.

pub mod device;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::LinuxError;

/// How this machine's control groups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// One directory for each controller, or for a few.
    V1(Vec<Mounted>),
    /// One directory for all.
    V2(PathBuf),
}

/// A hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// What it controls.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub path: PathBuf,
}

/// One group: its directory in each hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Whether it is of version 2.
    pub unified: bool,
    /// Its directories.
    pub directories: Vec<Directory>,
}

/// A group's directory in one hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// What it controls; empty in version 2, where it controls all.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub root: PathBuf,
    /// Where it is.
    pub path: PathBuf,
    /// The topmost directory that is made for it, if any is.
    pub made: Option<PathBuf>,
}

impl Hierarchies {
    /// What this process sees mounted.
    pub fn detect() -> Result<Self, LinuxError> {
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(LinuxError::step("read the mounts"))?;
        Self::parse(&text).ok_or_else(|| LinuxError::Step {
            step: "find control groups".to_owned(),
            source: io::Error::other(
                "no cgroup file system is mounted; `mount -t cgroup2 cgroup2 /sys/fs/cgroup` mounts it",
            ),
        })
    }

    /// Reads `/proc/PID/mountinfo`. Where version 1 has controllers, it counts: version 2 beside it has none.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut first = Vec::new();
        let mut second = None;
        for line in mountinfo.lines() {
            let (left, right) = line.split_once(" - ")?;
            let path = || left.split(' ').nth(4).map(PathBuf::from);
            let mut right = right.split(' ');
            match right.next()? {
                "cgroup" => {
                    let controllers = controllers_of(right.nth(1)?);
                    let is_new = !first.iter().any(|mounted: &Mounted| mounted.controllers == controllers);
                    if !controllers.is_empty() && is_new {
                        first.push(Mounted { controllers, path: path()? });
                    }
                }
                "cgroup2" if second.is_none() => second = path(),
                _ => {}
            }
        }
        if first.is_empty() { second.map(Self::V2) } else { Some(Self::V1(first)) }
    }

    /// Whether all is in one directory.
    #[must_use]
    pub const fn is_unified(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// The group at `path`, an absolute path in each hierarchy. Nothing is made yet: so it can be noted down before, and
    /// found again whatever happens. It is in all hierarchies: in one that it left out its processes would be where
    /// their maker is.
    #[must_use]
    pub fn plan(&self, path: &str) -> Cgroup {
        match self {
            Self::V1(mounts) => {
                Cgroup { unified: false, directories: mounts.iter().map(|one| plan_one(one, path)).collect() }
            }
            Self::V2(root) => {
                let root = Mounted { controllers: Vec::new(), path: root.clone() };
                Cgroup { unified: true, directories: vec![plan_one(&root, path)] }
            }
        }
    }
}

fn plan_one(mounted: &Mounted, path: &str) -> Directory {
    let full = mounted.path.join(path.trim_start_matches('/'));
    let made = full.ancestors().take_while(|above| !above.exists()).last().map(Path::to_owned);
    Directory { controllers: mounted.controllers.clone(), root: mounted.path.clone(), path: full, made }
}

fn controllers_of(options: &str) -> Vec<String> {
    const KNOWN: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "rdma",
    ];
    options.split(',').filter(|option| KNOWN.contains(option)).map(str::to_owned).collect()
}

/// A new group of processors has none, and no process can join it, until it gets those of the one above.
fn fill_cpuset(root: &Path, directory: &Path) -> Result<(), LinuxError> {
    let mut chain: Vec<&Path> =
        directory.ancestors().take_while(|above| *above != root && above.starts_with(root)).collect();
    chain.reverse();
    for path in chain {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = read(&path.join(file))?;
            if own.trim().is_empty() {
                let above = path.parent().unwrap_or(root);
                write(&path.join(file), read(&above.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn enable_controllers(directory: &Path) -> Result<(), LinuxError> {
    let available = read(&directory.join("cgroup.controllers"))?;
    let enabled = read(&directory.join("cgroup.subtree_control"))?;
    let enabled: Vec<&str> = enabled.split_ascii_whitespace().collect();
    for controller in available.split_ascii_whitespace().filter(|name| !enabled.contains(name)) {
        // One that is not to be had, say for a group with processes, is missed only where a limit needs it.
        let _ = write(&directory.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
    Ok(())
}

impl Cgroup {
    /// Makes the directories. What was made is removed again when something fails.
    pub fn make(&self) -> Result<(), LinuxError> {
        let made = self.directories.iter().try_for_each(|directory| directory.make(self.unified));
        made.inspect_err(|_| {
            // The first error is the one that matters.
            let _ = self.remove();
        })
    }

    /// The directory that has a controller.
    #[must_use]
    pub fn directory(&self, controller: &str) -> Option<&Path> {
        let has = |directory: &&Directory| {
            self.unified || directory.controllers.iter().any(|name| name == controller)
        };
        self.directories.iter().find(has).map(|directory| directory.path.as_path())
    }

    /// Writes a value into a controller's file.
    pub fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), LinuxError> {
        let path = self.file(controller, file)?;
        if let Some((file, value)) = without_bfq(file, value)
            && !path.exists()
            && let other = path.with_file_name(file)
            && other.exists()
        {
            return write(&other, &value);
        }
        write(&path, value)
    }

    /// Opens a controller's file that takes one value after the other.
    pub fn open(&self, controller: &str, file: &str) -> Result<fs::File, LinuxError> {
        let path = self.file(controller, file)?;
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened.map_err(LinuxError::step(format!("open {}", path.display())))
    }

    /// Reads a controller's file.
    pub fn read(&self, controller: &str, file: &str) -> Result<String, LinuxError> {
        read(&self.file(controller, file)?)
    }

    fn file(&self, controller: &str, file: &str) -> Result<PathBuf, LinuxError> {
        let directory = self.directory(controller).ok_or_else(|| LinuxError::Step {
            step: format!("set {file}"),
            source: io::Error::other(format!("this machine has no {controller} controller")),
        })?;
        Ok(directory.join(file))
    }

    /// Opens what a process of one thread goes into the group through, by [`enter`]. Version 2 needs none: there
    /// processes are born in their group.
    pub fn open_doors(&self) -> Result<Vec<OwnedFd>, LinuxError> {
        let open = |directory: &Directory| {
            let path = directory.path.join("tasks");
            let opened = fs::OpenOptions::new().write(true).open(&path);
            opened.map(OwnedFd::from).map_err(LinuxError::step(format!("open {}", path.display())))
        };
        if self.unified { Ok(Vec::new()) } else { self.directories.iter().map(open).collect() }
    }

    /// Whether no process was in it before.
    pub fn is_empty(&self) -> Result<bool, LinuxError> {
        Ok(self.processes()?.is_empty())
    }

    /// The processes in the group and in those below it.
    pub fn processes(&self) -> Result<Vec<i32>, LinuxError> {
        let Some(directory) = self.directories.first() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        collect_processes(&directory.path, &mut pids)?;
        Ok(pids)
    }

    /// Stops all processes where they are.
    pub fn freeze(&self) -> Result<(), LinuxError> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), LinuxError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), LinuxError> {
        const TRIES: u32 = 1000;
        let (file, value) = match (self.unified, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        for _ in 0..TRIES {
            self.write("freezer", file, value)?;
            if self.is_frozen()? == frozen {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(LinuxError::Step {
            step: format!("write {value} to {file}"),
            source: io::Error::new(io::ErrorKind::TimedOut, "the processes did not follow"),
        })
    }

    /// Whether the processes are stopped.
    pub fn is_frozen(&self) -> Result<bool, LinuxError> {
        if self.unified {
            return Ok(self.read("freezer", "cgroup.events")?.contains("frozen 1"));
        }
        match self.directory("freezer") {
            Some(directory) => Ok(read(&directory.join("freezer.state"))?.trim() == "FROZEN"),
            None => Ok(false),
        }
    }

    /// Sends a signal to every process.
    pub fn signal(&self, signal: i32) -> Result<(), LinuxError> {
        for pid in self.processes()? {
            // SAFETY: plain numbers. One that has just ended needs no signal.
            unsafe { libc::kill(pid, signal) };
        }
        Ok(())
    }

    /// Ends every process, those that are being made, too.
    pub fn kill(&self) -> Result<(), LinuxError> {
        const TRIES: u32 = 2000;
        if self.unified && self.write("", "cgroup.kill", "1").is_ok() {
            return Ok(());
        }
        for _ in 0..TRIES {
            if self.processes()?.is_empty() {
                return Ok(());
            }
            // Frozen, nobody can have children while signals go round. Without a freezer the next round finds them.
            let frozen = self.directory("freezer").is_some() && self.freeze().is_ok();
            self.signal(libc::SIGKILL)?;
            if frozen {
                self.thaw()?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes the directories that were made for it, with all below. Waits a little for processes that are ending.
    pub fn remove(&self) -> Result<(), LinuxError> {
        self.directories.iter().try_for_each(remove_directory)
    }
}

/// Goes into a group through its doors. A thread that moves itself, and nothing but itself, is spared the kernel's lock
/// on all forks of the machine, for which it would wait some ten milliseconds.
pub fn enter(doors: &[OwnedFd]) -> io::Result<()> {
    for door in doors {
        rustix::io::write(door, b"0")?;
    }
    Ok(())
}

impl Directory {
    fn make(&self, unified: bool) -> Result<(), LinuxError> {
        let made = fs::create_dir_all(&self.path);
        made.map_err(LinuxError::step(format!("make the control group {}", self.path.display())))?;
        if self.controllers.iter().any(|name| name == "cpuset") {
            fill_cpuset(&self.root, &self.path)?;
        }
        if !unified {
            return Ok(());
        }
        let above = self.path.ancestors().skip(1).take_while(|above| above.starts_with(&self.root));
        let mut above: Vec<&Path> = above.collect();
        above.reverse();
        above.into_iter().try_for_each(enable_controllers)
    }
}

fn collect_processes(directory: &Path, pids: &mut Vec<i32>) -> Result<(), LinuxError> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other.map_err(LinuxError::step(format!("read {}/cgroup.procs", directory.display())))?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in directories_in(directory) {
        collect_processes(&below, pids)?;
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP))
}

fn directories_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_directory(directory: &Directory) -> Result<(), LinuxError> {
    let Some(made) = &directory.made else { return Ok(()) };
    remove_tree(&directory.path)?;
    let above = directory.path.ancestors().skip(1).take_while(|above| above.starts_with(made));
    for above in above {
        // Somebody else's group may be in it by now; the last one out removes it.
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> Result<(), LinuxError> {
    const TRIES: u32 = 2000;
    for attempt in 0.. {
        match fs::remove_dir(directory) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempt < TRIES => {
                for below in directories_in(directory) {
                    remove_tree(&below)?;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                return Err(LinuxError::Step {
                    step: format!("remove the control group {}", directory.display()),
                    source: error,
                });
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, LinuxError> {
    fs::read_to_string(path).map_err(LinuxError::step(format!("read {}", path.display())))
}

/// What a weight of block devices is called, and counts, where the BFQ scheduler is not there: version 2 goes from 1 to
/// 10000 instead of 1 to 1000.
fn without_bfq(file: &str, value: &str) -> Option<(&'static str, String)> {
    match file {
        "blkio.bfq.weight" => Some(("blkio.weight", value.to_owned())),
        "blkio.bfq.weight_device" => Some(("blkio.weight_device", value.to_owned())),
        "io.bfq.weight" => {
            let (device, weight) = value.rsplit_once(' ').unwrap_or(("default", value));
            let weight = weight.parse::<u64>().ok()?.clamp(10, 1000);
            Some(("io.weight", format!("{device} {}", 1 + (weight - 10) * 9999 / 990)))
        }
        _ => None,
    }
}

fn write(path: &Path, value: &str) -> Result<(), LinuxError> {
    use std::io::Write;
    let written =
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(LinuxError::step(format!("write {value} to {}", path.display())))
}

#[cfg(test)]
mod tests;
