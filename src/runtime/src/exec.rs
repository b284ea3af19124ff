//! Another program in a container that runs.
//!
//! [`exec`] clones a process into the container's namespaces and control group, where it gets no more than the
//! container's first one may. It is never visible inside with anything of the host's open.
//!
//! Spec: setns(2); the command line is runc's, as the OCI has none for this.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use knarr_linux::cgroup::{self, Cgroup};
use knarr_linux::process::{self, Cloned, Namespace, Process};
use knarr_linux::terminal::{self, Terminal};
use rustix::fs::{Mode, OFlags};

use crate::RuntimeError;
use crate::become_program::{self, Outside, Prepared};
use crate::channel::{Channel, Message};
use crate::create::{OutOfMemoryScore, write_pid_file};
use crate::init::become_root_inside;
use crate::plan::process::{Common, ProcessPlan};
use crate::rootfs::Proc;
use crate::spec::ProcessSpec;
use crate::state::{Container, State, Status};

/// What is asked for.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// What runs.
    pub process: ProcessSpec,
    /// Where its terminal's other side is handed over.
    pub console: Option<UnixStream>,
    /// Where its number is written.
    pub pid_file: Option<PathBuf>,
    /// So many descriptors after the third are the program's.
    pub preserve_fds: u32,
    /// What it has in common with the container's first process, for who knows it: else the configuration is read.
    pub common: Option<Common>,
}

/// Runs another program. Comes back when it runs; it is a child of this process.
pub fn exec(container: &Container, options: &ExecOptions) -> Result<Process, RuntimeError> {
    // Opened before it is looked at: so nobody who gets its number later is taken for it.
    let first = Process::open(container.state.pid);
    let status = container.status()?;
    if !matches!(status, Status::Running | Status::Created) {
        let id = container.state.id.clone();
        return Err(RuntimeError::WrongStatus { verb: "exec in", id, status: status.to_string() });
    }
    if options.process.terminal != options.console.is_some() {
        let text = "a terminal and --console-socket (or a caller in the foreground) need each other";
        return Err(RuntimeError::Request(text.to_owned()));
    }
    let common = match &options.common {
        Some(common) => common.clone(),
        None => Common::of(&container.spec()?.linux)?,
    };
    let plan = ProcessPlan::with(&options.process, common)?;
    process::set_dumpable(false).map_err(RuntimeError::step("close this process to others"))?;
    let joining = Joining {
        first: first.map_err(|_| RuntimeError::Vanished)?,
        state: &container.state,
        doors: container.state.cgroup().open_doors()?,
        cgroup: container.state.cgroup(),
        plan: &plan,
        options,
    };
    let process = joining.run()?;
    write_pid_file(options.pid_file.as_deref(), process.pid)?;
    Ok(process)
}

struct Joining<'j> {
    first: Process,
    state: &'j State,
    cgroup: Cgroup,
    doors: Vec<OwnedFd>,
    plan: &'j ProcessPlan,
    options: &'j ExecOptions,
}

impl Joining<'_> {
    fn run(&self) -> Result<Process, RuntimeError> {
        let (ours, theirs) = Channel::pair().map_err(RuntimeError::step("make a channel"))?;
        let score = OutOfMemoryScore::set(self.plan.oom_score_adj)?;
        let own = self.turn_to_processes()?;
        let group = self.unified_directory()?;
        let cloned = process::clone(0, false, group.as_ref().map(AsFd::as_fd));
        let first = match cloned.map_err(RuntimeError::step("make a process"))? {
            Cloned::Child => {
                drop(ours);
                self.enter(&theirs)
            }
            Cloned::Parent(process) => process,
        };
        drop(theirs);
        if let Some(own) = own {
            let back = process::join_namespace(own.as_fd(), Namespace::Pid.flag());
            back.map_err(RuntimeError::step("return to the own pid namespace"))?;
        }
        score.reset();
        self.accompany(first, &ours)
    }

    fn is_staged(&self) -> bool {
        self.state.user_namespace && knarr_linux::namespace::is_unprivileged()
    }

    /// Those who are born next are born among the container's processes.
    fn turn_to_processes(&self) -> Result<Option<OwnedFd>, RuntimeError> {
        if self.state.namespaces & Namespace::Pid.flag() == 0 || self.is_staged() {
            return Ok(None);
        }
        let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let own = own.map_err(io::Error::from).map_err(RuntimeError::step("open the own pid namespace"))?;
        self.first
            .join_namespaces(Namespace::Pid.flag())
            .map_err(RuntimeError::step("join the pid namespace"))?;
        Ok(Some(own))
    }

    fn unified_directory(&self) -> Result<Option<OwnedFd>, RuntimeError> {
        let directory = self.cgroup.directories.first().filter(|_| self.cgroup.unified);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &std::path::Path| {
            let opened = rustix::fs::open(path, flags, Mode::empty());
            opened.map_err(io::Error::from).map_err(RuntimeError::file("open", path))
        };
        directory.map(|directory| open(&directory.path)).transpose()
    }

    fn accompany(&self, first: Process, ours: &Channel) -> Result<Process, RuntimeError> {
        let outcome = self.talk(ours);
        match outcome {
            Ok(None) => Ok(first),
            Ok(Some(born)) => {
                first.reap().map_err(RuntimeError::step("wait for the stage"))?;
                Ok(born)
            }
            Err(error) => {
                // It may have ended by itself.
                let _ = first.signal(nix::libc::SIGKILL);
                let _ = first.reap();
                Err(error)
            }
        }
    }

    /// Hears until the other side is closed by running the program.
    fn talk(&self, ours: &Channel) -> Result<Option<Process>, RuntimeError> {
        let mut ready = false;
        let mut born = None;
        loop {
            match ours.hear().map_err(RuntimeError::step("hear from the process"))? {
                Some(Message::Born(pid)) => {
                    born = Some(Process::open(pid).map_err(RuntimeError::step("find the process"))?);
                }
                Some(Message::Ready) => ready = true,
                Some(Message::Failed(step, reason)) => return Err(RuntimeError::Step { step, reason }),
                None if ready => return Ok(born),
                _ => return Err(RuntimeError::Vanished),
            }
        }
    }

    /// In the new process. Never returns.
    fn enter(&self, channel: &Channel) -> ! {
        let error = match self.become_it(channel) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        channel.say_failed(&error);
        process::end_now(become_program::FAILED)
    }

    fn become_it(&self, channel: &Channel) -> Result<std::convert::Infallible, RuntimeError> {
        let outside = Outside::reach(Some(self.plan), self.options.preserve_fds)?;
        cgroup::enter(&self.doors).map_err(RuntimeError::step("join the control group"))?;
        // What the stage was born into it joins no more.
        let born = if self.is_staged() { 0 } else { Namespace::Pid.flag() };
        let joined = self.first.join_namespaces(self.state.namespaces & !born);
        joined.map_err(RuntimeError::step("join the namespaces"))?;
        if self.state.user_namespace {
            become_root_inside()?;
        }
        if self.is_staged() {
            be_born(channel)?;
        }
        process::set_dumpable(false).map_err(RuntimeError::step("close this process to others"))?;
        // A session leader already: it was the terminal's that led here.
        let _ = rustix::process::setsid();
        let proc = (!self.plan.labels.is_empty()).then(Proc::open).transpose();
        let proc = proc.map_err(RuntimeError::step("open the kernel's tables"))?;
        let slave = self.open_terminal()?;
        let user = self.state.user_namespace;
        let mut prepared = Prepared::new(self.plan, slave, proc.as_ref(), user, outside)?;
        channel.say(&Message::Ready).map_err(RuntimeError::step("talk to the caller"))?;
        Err(prepared.become_it(self.state))
    }

    fn open_terminal(&self) -> Result<Option<OwnedFd>, RuntimeError> {
        let Some(socket) = &self.options.console else { return Ok(None) };
        let open = || -> io::Result<OwnedFd> {
            let root =
                rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let terminal = Terminal::open(Some(root.as_fd()))?;
            if let Some(size) = &self.options.process.console_size {
                terminal.resize(size.width, size.height)?;
            }
            terminal::send_descriptor(socket.as_fd(), terminal.name.as_bytes(), terminal.master.as_fd())?;
            Ok(terminal.slave)
        };
        open().map(Some).map_err(RuntimeError::step("open the console"))
    }
}

/// Goes on as a child that is born in the namespaces that were joined; the parent tells its number and ends.
fn be_born(channel: &Channel) -> Result<(), RuntimeError> {
    match process::clone(0, true, None).map_err(RuntimeError::step("make a process"))? {
        Cloned::Child => Ok(()),
        Cloned::Parent(process) => {
            let said = channel.say(&Message::Born(process.pid));
            process::end_now(i32::from(said.is_err()))
        }
    }
}
