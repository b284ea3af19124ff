//! Making a container: from a bundle to a process that waits for its start.
//!
//! [`create`] plans, takes the id, makes the control group, clones the first process and talks with it until it is
//! ready. When anything fails, everything that was made is taken away again.
//!
//! Spec: OCI runtime-spec, `runtime.md` "Create".

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use knarr_linux::cgroup::{Cgroup, Hierarchies, device};
use knarr_linux::mounts::Detached;
use knarr_linux::process::{self, Cloned, Namespace, Process};
use knarr_linux::terminal;
use rustix::fs::{Mode, OFlags};

use crate::RuntimeError;
use crate::become_program::Outside;
use crate::channel::{Channel, Message};
use crate::hooks::{self, Point};
use crate::init::{self, Init};
use crate::plan::mount::What;
use crate::plan::process::{Common, ProcessPlan};
use crate::plan::{Facts, Launch, Plan, Step};
use crate::spec::{IdMapping, Spec};
use crate::state::{Container, State, process_start, replace};

/// What is asked for.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// Where containers are kept.
    pub root: PathBuf,
    /// The new one's id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its configuration, where that is not `config.json` of the bundle.
    pub config: Option<PathBuf>,
    /// Where its terminal's other side is handed over.
    pub console: Option<UnixStream>,
    /// Where its first process's number is written.
    pub pid_file: Option<PathBuf>,
    /// Moves the root instead of pivoting into it.
    pub no_pivot: bool,
    /// Keeps the caller's keyring.
    pub no_new_keyring: bool,
    /// So many descriptors after the third are the program's.
    pub preserve_fds: u32,
    /// So many of them are sockets on which it listens, as it is told.
    pub listen_fds: u32,
}

/// A container that waits for its start.
#[derive(Debug)]
pub struct Created {
    /// It.
    pub container: Container,
    /// Its first process, a child of this one.
    pub process: Process,
    /// What its other processes have in common with the first.
    pub common: Option<Common>,
}

/// Makes a container. This process must have one thread.
pub fn create(options: &CreateOptions) -> Result<Created, RuntimeError> {
    let bundle = fs::canonicalize(&options.bundle).map_err(RuntimeError::file("find", &options.bundle))?;
    let (spec, text) = Spec::load(&bundle, options.config.as_deref())?;
    let hierarchies = Hierarchies::detect();
    let rootless = knarr_linux::namespace::is_unprivileged();
    let facts = Facts {
        id: options.id.clone(),
        bundle: bundle.clone(),
        unified: hierarchies.as_ref().is_ok_and(Hierarchies::is_unified),
        rootless: rootless || knarr_linux::namespace::in_user_namespace(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
    };
    let mut plan = Plan::new(&spec, &facts)?;
    if let Some(process) = plan.process.as_mut().filter(|_| options.listen_fds > 0) {
        // Spec: sd_listen_fds(3).
        process.env.extend([format!("LISTEN_FDS={}", options.listen_fds), "LISTEN_PID=1".to_owned()]);
    }
    check_console(&plan, options)?;
    check_root(&plan)?;
    let mut state = State::new(&options.id, &bundle, &spec);
    let cgroup = hierarchies.as_ref().map(|hierarchies| hierarchies.plan(&plan.cgroup)).unwrap_or_default();
    state.set_cgroup(&cgroup);
    let container = Container::reserve(&options.root, state, &text)?;
    let mut making = Making { container, spec: &spec, plan: &plan, cgroup, process: None, hooks_ran: false };
    match making.make(options, &facts, hierarchies.as_ref()) {
        Ok(process) => {
            let common = plan.process.as_ref().map(ProcessPlan::common);
            Ok(Created { container: making.container, process, common })
        }
        Err(error) => {
            making.undo();
            Err(error)
        }
    }
}

fn check_console(plan: &Plan, options: &CreateOptions) -> Result<(), RuntimeError> {
    let terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
    let request = |text: &str| Err(RuntimeError::Request(text.to_owned()));
    match (terminal, options.console.is_some()) {
        (true, false) => {
            request("process.terminal is set, so --console-socket must say who takes the terminal")
        }
        (false, true) => request("--console-socket is given, but process.terminal is not set"),
        _ => Ok(()),
    }
}

/// A root that is not there is the commonest mistake, and is better told before anything is made.
fn check_root(plan: &Plan) -> Result<(), RuntimeError> {
    let root = plan.steps.iter().find_map(|step| match step {
        Step::OpenRoot(path) => Some(path),
        _ => None,
    });
    root.map_or(Ok(()), |root| {
        let meta = fs::metadata(root).map_err(RuntimeError::file("find the root", root))?;
        if meta.is_dir() {
            return Ok(());
        }
        Err(RuntimeError::invalid("root.path", format!("{} is no directory", root.display())))
    })
}

/// A container that is half made.
struct Making<'m> {
    container: Container,
    spec: &'m Spec,
    plan: &'m Plan,
    cgroup: Cgroup,
    process: Option<Process>,
    hooks_ran: bool,
}

impl Making<'_> {
    fn make(
        &mut self,
        options: &CreateOptions,
        facts: &Facts,
        hierarchies: Result<&Hierarchies, &knarr_linux::LinuxError>,
    ) -> Result<Process, RuntimeError> {
        self.make_cgroup(hierarchies, facts.rootless)?;
        let door = terminal::listen(&self.container.door())
            .map_err(RuntimeError::file("make", self.container.door()))?;
        let console = options.console.as_ref().map(UnixStream::try_clone).transpose();
        let console = console.map_err(RuntimeError::step("hold the console socket"))?;
        let (ours, theirs) = Channel::pair().map_err(RuntimeError::step("make a channel"))?;
        let init = Init {
            plan: self.plan,
            spec: self.spec,
            state: self.container.state.clone(),
            channel: theirs,
            cgroup: &self.cgroup.clone(),
            cgroup_doors: self.cgroup.open_doors()?,
            hierarchies: hierarchies.ok(),
            console,
            door,
            joined: open_namespaces(&self.plan.launch)?,
            mapped: mapped_mounts(self.plan)?,
            outside: Outside::reach(self.plan.process.as_ref(), options.preserve_fds)?,
        };
        let ours = self.clone_first(init, ours)?;
        self.talk(&ours)?;
        self.finish(options)
    }

    fn make_cgroup(
        &mut self,
        hierarchies: Result<&Hierarchies, &knarr_linux::LinuxError>,
        rootless: bool,
    ) -> Result<(), RuntimeError> {
        match self.try_make_cgroup(hierarchies) {
            // An ordinary user has no groups of his own unless somebody gave him some; without limits none is missed.
            Err(_) if rootless && self.plan.settings.is_empty() => {
                self.cgroup = Cgroup::default();
                self.container.state.set_cgroup(&self.cgroup);
                Ok(())
            }
            other => other,
        }
    }

    fn try_make_cgroup(
        &mut self,
        hierarchies: Result<&Hierarchies, &knarr_linux::LinuxError>,
    ) -> Result<(), RuntimeError> {
        if let Err(error) = hierarchies {
            let reason = crate::chain(error);
            return Err(RuntimeError::Step { step: "make the control group".to_owned(), reason });
        }
        self.cgroup.make()?;
        if !self.cgroup.is_empty()? {
            return Err(RuntimeError::CgroupBusy { path: self.plan.cgroup.clone() });
        }
        apply_settings(&self.cgroup, &self.plan.settings)?;
        apply_devices(&self.cgroup, &self.plan.devices)
    }

    /// Clones the first process; in the child this never returns. The child must not hold this side of the channel, or
    /// it would never hear that the caller is gone.
    fn clone_first(&mut self, init: Init<'_>, ours: Channel) -> Result<Channel, RuntimeError> {
        let launch = &self.plan.launch;
        let score =
            OutOfMemoryScore::set(self.plan.process.as_ref().and_then(|process| process.oom_score_adj))?;
        let pids = BirthPlace::enter(&init.joined, launch)?;
        let group = self.unified_directory()?;
        let flags = if launch.is_staged() {
            if launch.makes(Namespace::User) { Namespace::User.flag() } else { 0 }
        } else {
            birth_flags(launch)
        };
        let cloned = process::clone(flags, false, group.as_ref().map(AsFd::as_fd));
        match cloned.map_err(RuntimeError::step("make the namespaces"))? {
            Cloned::Child => {
                drop(ours);
                self.container.unlock();
                if launch.is_staged() { stage(init, launch) } else { init.run() }
            }
            Cloned::Parent(process) => {
                drop(init);
                pids.leave()?;
                score.reset();
                self.settle(process, &ours)?;
                Ok(ours)
            }
        }
    }

    /// The directory of version 2 into which the process is born; version 1 knows no such birth.
    fn unified_directory(&self) -> Result<Option<OwnedFd>, RuntimeError> {
        let directory = self.cgroup.directories.first().filter(|_| self.cgroup.unified);
        let open = |path: &Path| {
            let opened =
                rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            opened.map_err(io::Error::from).map_err(RuntimeError::file("open", path))
        };
        directory.map(|directory| open(&directory.path)).transpose()
    }

    fn settle(&mut self, process: Process, ours: &Channel) -> Result<(), RuntimeError> {
        let launch = &self.plan.launch;
        let (pid, maps) = (process.pid, launch.makes(Namespace::User));
        if launch.is_staged() {
            let born = self.await_birth(&process, ours);
            // It has done its work, or failed.
            let reaped = process.reap();
            born?;
            reaped.map_err(RuntimeError::step("wait for the stage"))?;
            return self.introduce(ours);
        }
        self.process = Some(process);
        if maps {
            expect(ours, &Message::MapIds)?;
            map_ids(launch, pid)?;
            say(ours, &Message::IdsMapped)?;
        }
        self.introduce(ours)
    }

    fn await_birth(&mut self, stage: &Process, ours: &Channel) -> Result<(), RuntimeError> {
        loop {
            match hear(ours)? {
                Message::MapIds => {
                    map_ids(&self.plan.launch, stage.pid)?;
                    say(ours, &Message::IdsMapped)?;
                }
                Message::Born(pid) => {
                    self.process =
                        Some(Process::open(pid).map_err(RuntimeError::step("find the first process"))?);
                    return Ok(());
                }
                Message::Failed(step, reason) => return Err(RuntimeError::Step { step, reason }),
                _ => return Err(RuntimeError::Vanished),
            }
        }
    }

    fn introduce(&mut self, ours: &Channel) -> Result<(), RuntimeError> {
        let pid = self.process.as_ref().map_or(0, |process| process.pid);
        self.container.state.pid = pid;
        say(ours, &Message::Known(pid))
    }

    fn talk(&mut self, ours: &Channel) -> Result<(), RuntimeError> {
        loop {
            match hear(ours)? {
                Message::RunHooks => {
                    self.hooks_ran = true;
                    self.run_hooks()?;
                    say(ours, &Message::HooksRan)?;
                }
                Message::Ready => return Ok(()),
                Message::Failed(step, reason) => return Err(RuntimeError::Step { step, reason }),
                _ => return Err(RuntimeError::Vanished),
            }
        }
    }

    fn run_hooks(&self) -> Result<(), RuntimeError> {
        // By the specification prestart comes after the start was asked for, of a container that is created; the others
        // are told what is true.
        let state = |status| self.container.state.to_hook_json(status);
        hooks::run(&self.spec.hooks, Point::Prestart, &state("created"))?;
        hooks::run(&self.spec.hooks, Point::CreateRuntime, &state("creating"))
    }

    fn finish(&mut self, options: &CreateOptions) -> Result<Process, RuntimeError> {
        let process = self.process.take().ok_or(RuntimeError::Vanished)?;
        let state = &mut self.container.state;
        state.start_time = process_start(process.pid).ok_or(RuntimeError::Vanished)?;
        let launch = &self.plan.launch;
        let kinds = Namespace::ALL.into_iter().filter(|kind| launch.has(*kind));
        state.namespaces = process::flags_of(&kinds.collect::<Vec<_>>());
        state.user_namespace = launch.has(Namespace::User);
        let finished =
            self.container.save().and_then(|()| write_pid_file(options.pid_file.as_deref(), process.pid));
        if let Err(error) = finished {
            self.process = Some(process);
            return Err(error);
        }
        Ok(process)
    }

    /// Takes away what was made. What cannot be taken away is said after the error that led here.
    fn undo(&mut self) {
        if let Some(process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.signal(nix::libc::SIGKILL);
            let _ = process.wait_end(Some(Duration::from_secs(10)));
            let _ = process.reap();
        }
        // The error that led here is the one that is told; `delete --force` finds what is left.
        let cleaned = self.cgroup.kill().and_then(|()| self.cgroup.remove());
        if self.hooks_ran {
            let state = self.container.state.to_hook_json("stopped");
            let _ = hooks::run_all(&self.spec.hooks, Point::Poststop, &state);
        }
        if cleaned.is_ok() {
            let _ = self.container.remove();
        }
    }
}

fn hear(channel: &Channel) -> Result<Message, RuntimeError> {
    channel.hear().map_err(RuntimeError::step("hear from the first process"))?.ok_or(RuntimeError::Vanished)
}

fn expect(channel: &Channel, message: &Message) -> Result<(), RuntimeError> {
    match hear(channel)? {
        heard if heard == *message => Ok(()),
        Message::Failed(step, reason) => Err(RuntimeError::Step { step, reason }),
        _ => Err(RuntimeError::Vanished),
    }
}

/// A process that has ended in the meantime is found out by the next [`hear`], which knows why.
fn say(channel: &Channel, message: &Message) -> Result<(), RuntimeError> {
    match channel.say(message) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(RuntimeError::step("talk to the first process")),
    }
}

/// Writes values into the group's files.
pub(crate) fn apply_settings(
    cgroup: &Cgroup,
    settings: &[crate::plan::resources::Setting],
) -> Result<(), RuntimeError> {
    let mut later = Vec::new();
    for setting in settings {
        let written = cgroup.write(&setting.controller, &setting.file, &setting.value);
        match written {
            // Memory cannot be above memory with swap: where one is raised, the other goes first.
            Err(_) if setting.file == "memory.limit_in_bytes" => later.push(setting),
            other => other?,
        }
    }
    later.into_iter().try_for_each(|one| Ok(cgroup.write(&one.controller, &one.file, &one.value)?))
}

/// Says which devices the group may use.
pub(crate) fn apply_devices(cgroup: &Cgroup, rules: &[device::DeviceRule]) -> Result<(), RuntimeError> {
    let Some(directory) = cgroup.directory("devices").filter(|_| !rules.is_empty()) else { return Ok(()) };
    if !cgroup.unified {
        return write_devices(cgroup, rules);
    }
    let open = || -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let attached = open().and_then(|directory| device::attach(directory.as_fd(), rules));
    attached.map_err(RuntimeError::step("say which devices may be used"))
}

/// Each rule is a write of its own, in their order; a file is opened once.
fn write_devices(cgroup: &Cgroup, rules: &[device::DeviceRule]) -> Result<(), RuntimeError> {
    let mut open: HashMap<&str, fs::File> = HashMap::new();
    for rule in rules {
        let (name, value) = rule.to_file();
        let file = match open.entry(name) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => place.insert(cgroup.open("devices", name)?),
        };
        let step = || RuntimeError::step(format!("write {value} to {name}"));
        io::Write::write_all(file, value.as_bytes()).map_err(step())?;
    }
    Ok(())
}

fn birth_flags(launch: &Launch) -> u64 {
    if launch.joins(Namespace::User) {
        return 0;
    }
    let born = |kind: &Namespace| !matches!(kind, Namespace::Cgroup | Namespace::Time);
    process::flags_of(&launch.made.iter().copied().filter(born).collect::<Vec<_>>())
}

/// Opens the namespaces that are joined, before anything can cover their paths.
fn open_namespaces(launch: &Launch) -> Result<Vec<(Namespace, OwnedFd)>, RuntimeError> {
    let open = |(kind, path): &(Namespace, PathBuf)| {
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let fd = opened.map_err(io::Error::from).map_err(RuntimeError::file("open the namespace", path))?;
        Ok((*kind, fd))
    };
    launch.joined.iter().map(open).collect()
}

/// The process in between: joins and makes namespaces whose members must be born in them. Never returns.
fn stage(mut init: Init<'_>, launch: &Launch) -> ! {
    let prepared = prepare_stage(&mut init, launch);
    let cloned = prepared
        .and_then(|()| process::clone(0, true, None).map_err(RuntimeError::step("make the first process")));
    match cloned {
        Ok(Cloned::Child) => init.run(),
        Ok(Cloned::Parent(process)) => {
            let said = init.channel.say(&Message::Born(process.pid));
            process::end_now(i32::from(said.is_err()))
        }
        Err(error) => {
            init.channel.say_failed(&error);
            process::end_now(1)
        }
    }
}

fn prepare_stage(init: &mut Init<'_>, launch: &Launch) -> Result<(), RuntimeError> {
    if launch.makes(Namespace::User) {
        init::map_ids(&init.channel)?;
    }
    for (kind, fd) in init.joined.drain(..) {
        let step = format!("join the {} namespace", kind.file());
        process::join_namespace(fd.as_fd(), kind.flag()).map_err(RuntimeError::step(step))?;
    }
    let made =
        launch.made.iter().copied().filter(|kind| !matches!(kind, Namespace::User | Namespace::Cgroup));
    let flags = process::flags_of(&made.collect::<Vec<_>>());
    process::unshare(flags).map_err(RuntimeError::step("make the namespaces"))?;
    if launch.time_offsets.is_empty() {
        return Ok(());
    }
    let offsets = launch.time_offsets.join("\n");
    fs::write("/proc/self/timens_offsets", offsets)
        .map_err(RuntimeError::step("set the offsets of the clocks"))
}

/// A process namespace takes in only those who are born into it: the caller turns to it for a moment.
struct BirthPlace(Option<OwnedFd>);

impl BirthPlace {
    fn enter(joined: &[(Namespace, OwnedFd)], launch: &Launch) -> Result<Self, RuntimeError> {
        let place = joined.iter().find(|(kind, _)| *kind == Namespace::Pid);
        let Some((kind, place)) = place.filter(|_| !launch.is_staged()) else { return Ok(Self(None)) };
        let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let own = own.map_err(io::Error::from).map_err(RuntimeError::step("open the own pid namespace"))?;
        process::join_namespace(place.as_fd(), kind.flag())
            .map_err(RuntimeError::step("join the pid namespace"))?;
        Ok(Self(Some(own)))
    }

    fn leave(self) -> Result<(), RuntimeError> {
        let Some(own) = self.0 else { return Ok(()) };
        process::join_namespace(own.as_fd(), Namespace::Pid.flag())
            .map_err(RuntimeError::step("return to the own pid namespace"))
    }
}

/// The score is handed down by birth: so no path has to be trusted inside.
pub(crate) struct OutOfMemoryScore(Option<String>);

const SCORE: &str = "/proc/self/oom_score_adj";

impl OutOfMemoryScore {
    pub(crate) fn set(score: Option<i32>) -> Result<Self, RuntimeError> {
        let Some(score) = score else { return Ok(Self(None)) };
        let before = fs::read_to_string(SCORE).map_err(RuntimeError::file("read", SCORE))?;
        if before.trim() == score.to_string() {
            return Ok(Self(None));
        }
        let step =
            format!("set oom_score_adj to {score} (below {} it needs CAP_SYS_RESOURCE)", before.trim());
        fs::write(SCORE, score.to_string()).map_err(RuntimeError::step(step))?;
        Ok(Self(Some(before)))
    }

    pub(crate) fn reset(self) {
        if let Some(before) = self.0 {
            // This process ends soon; a worse score for its last moments harms nobody.
            let _ = fs::write(SCORE, before);
        }
    }
}

/// Gives a new user namespace its ids.
pub(crate) fn map_ids(launch: &Launch, pid: i32) -> Result<(), RuntimeError> {
    write_map(pid, "uid_map", "newuidmap", &launch.uid_mappings)?;
    write_map(pid, "gid_map", "newgidmap", &launch.gid_mappings)
}

fn write_map(pid: i32, file: &str, program: &str, mappings: &[IdMapping]) -> Result<(), RuntimeError> {
    let line = |map: &IdMapping| format!("{} {} {}\n", map.container_id, map.host_id, map.size);
    let text: String = mappings.iter().map(line).collect();
    let path = format!("/proc/{pid}/{file}");
    let unprivileged = knarr_linux::namespace::is_unprivileged();
    let own = |map: &IdMapping| {
        let id = if file == "uid_map" {
            rustix::process::geteuid().as_raw()
        } else {
            rustix::process::getegid().as_raw()
        };
        map.size == 1 && map.host_id == id
    };
    if unprivileged && !matches!(mappings, [map] if own(map)) {
        return run_mapper(program, pid, mappings);
    }
    if unprivileged && file == "gid_map" {
        let setgroups = format!("/proc/{pid}/setgroups");
        fs::write(&setgroups, "deny").map_err(RuntimeError::file("write", &setgroups))?;
    }
    fs::write(&path, &text).map_err(RuntimeError::step(format!("write {text:?} to {path}")))
}

fn run_mapper(program: &str, pid: i32, mappings: &[IdMapping]) -> Result<(), RuntimeError> {
    let numbers = mappings.iter().flat_map(|map| [map.container_id, map.host_id, map.size]);
    let output =
        Command::new(program).arg(pid.to_string()).args(numbers.map(|number| number.to_string())).output();
    let output =
        output.map_err(RuntimeError::step(format!("run {program}, which the package uidmap brings")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RuntimeError::Step { step: format!("map ids with {program}"), reason })
}

/// Mounts whose owners are mapped: only who has rights over the file system may make them, so they are made here.
fn mapped_mounts(plan: &Plan) -> Result<HashMap<usize, OwnedFd>, RuntimeError> {
    let mut mapped = HashMap::new();
    for step in &plan.steps {
        let Step::Mount(mount) = step else { continue };
        let Some(map) = &mount.id_map else { continue };
        let What::Bind { source, recursive } = &mount.what else {
            return Err(RuntimeError::invalid(
                format!("mounts[{}]", mount.index),
                "only bind mounts map ids",
            ));
        };
        let launch = Launch {
            uid_mappings: if map.uids.is_empty() {
                plan.launch.uid_mappings.clone()
            } else {
                map.uids.clone()
            },
            gid_mappings: if map.gids.is_empty() {
                plan.launch.gid_mappings.clone()
            } else {
                map.gids.clone()
            },
            ..Launch::default()
        };
        let namespace = lasting_user_namespace(&launch)?;
        let make = || -> io::Result<OwnedFd> {
            let from = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let copy = Detached::copy_of(from.as_fd(), *recursive)?;
            copy.map_ids(namespace.as_fd(), map.recursive)?;
            Ok(copy.into_fd())
        };
        mapped.insert(mount.index, make().map_err(RuntimeError::step(mount.to_string()))?);
    }
    Ok(mapped)
}

/// A user namespace that only its descriptor keeps.
fn lasting_user_namespace(launch: &Launch) -> Result<OwnedFd, RuntimeError> {
    let step = || "make a user namespace for mapped owners";
    if launch.uid_mappings.is_empty() || launch.gid_mappings.is_empty() {
        return Err(RuntimeError::invalid(
            "mounts",
            "idmap needs mappings, of the mount or of the container",
        ));
    }
    match process::clone(Namespace::User.flag(), false, None).map_err(RuntimeError::step(step()))? {
        Cloned::Child => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        Cloned::Parent(process) => {
            let mapped = map_ids(launch, process.pid);
            let path = format!("/proc/{}/ns/user", process.pid);
            let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            process.signal(nix::libc::SIGKILL).map_err(RuntimeError::step(step()))?;
            process.reap().map_err(RuntimeError::step(step()))?;
            mapped?;
            fd.map_err(io::Error::from).map_err(RuntimeError::file("open", path))
        }
    }
}

pub(crate) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), RuntimeError> {
    path.map_or(Ok(()), |path| replace(path, pid.to_string().as_bytes(), 0o644))
}
