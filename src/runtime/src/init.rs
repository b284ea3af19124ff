//! The container's first process: it walks the plan's steps, waits, and becomes the program.
//!
//! [`Init::run`] never returns. A step that fails is told to the caller by its name.
//!
//! Spec: OCI runtime-spec, `runtime.md` "Lifecycle", steps 2 to 9.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use knarr_linux::cgroup::{self, Cgroup, Hierarchies};
use knarr_linux::mounts::{self, Attributes, Detached};
use knarr_linux::process::{self, Namespace};
use knarr_linux::terminal::{self, Terminal};
use rustix::fs::{FileType, Mode, OFlags, fstat};

use crate::RuntimeError;
use crate::become_program::{self, Outside, Prepared};
use crate::channel::{Channel, Message};
use crate::hooks::{self, Point};
use crate::plan::mount::{MountPlan, What};
use crate::plan::process::ProcessPlan;
use crate::plan::{Plan, Step};
use crate::rootfs::{Kind, Proc, Rootfs, copy_tree};
use crate::spec::Spec;
use crate::state::State;

/// All that the first process needs, prepared by the caller.
pub(crate) struct Init<'c> {
    pub(crate) plan: &'c Plan,
    pub(crate) spec: &'c Spec,
    /// What hooks are told; its pid comes with [`Message::Known`].
    pub(crate) state: State,
    pub(crate) channel: Channel,
    pub(crate) cgroup: &'c Cgroup,
    /// Through which it goes into the group.
    pub(crate) cgroup_doors: Vec<OwnedFd>,
    pub(crate) hierarchies: Option<&'c Hierarchies>,
    /// Where the caller's terminal is handed over.
    pub(crate) console: Option<UnixStream>,
    /// Where [`crate::lifecycle::start`] knocks.
    pub(crate) door: UnixListener,
    /// Namespaces that are joined, open.
    pub(crate) joined: Vec<(Namespace, OwnedFd)>,
    /// Mounts with mapped owners, which only the caller could make.
    pub(crate) mapped: HashMap<usize, OwnedFd>,
    /// What the program has from outside.
    pub(crate) outside: Outside,
}

/// What grows while steps are walked.
#[derive(Default)]
struct Progress {
    rootfs: Option<Rootfs>,
    slave: Option<OwnedFd>,
    /// Mounts that become read-only when everything is in place.
    read_only_later: Vec<OwnedFd>,
    pid: i32,
    proc: Option<Proc>,
}

impl Init<'_> {
    /// Does everything. Ends the process when something fails.
    pub(crate) fn run(mut self) -> ! {
        let error = match self.make() {
            Ok((prepared, progress)) => {
                if self.channel.say(&Message::Ready).is_err() {
                    // The caller is gone, so nobody knows of this container.
                    process::end_now(1);
                }
                return_never(self.wait_and_become(prepared, &progress))
            }
            Err(error) => error,
        };
        self.channel.say_failed(&error);
        process::end_now(1)
    }

    fn make(&mut self) -> Result<(Option<Prepared>, Progress), RuntimeError> {
        self.enter()?;
        let mut progress = Progress::default();
        for step in &self.plan.steps {
            self.apply(step, &mut progress)?;
        }
        let prepared =
            self.plan.process.as_ref().map(|plan| self.prepare(plan, &mut progress)).transpose()?;
        Ok((prepared, progress))
    }

    /// Joins namespaces that exist; those that are new this process was born into.
    fn enter(&self) -> Result<(), RuntimeError> {
        cgroup::enter(&self.cgroup_doors).map_err(RuntimeError::step("join the control group"))?;
        let launch = &self.plan.launch;
        if launch.makes(Namespace::User) && !launch.is_staged() {
            map_ids(&self.channel)?;
        }
        for (kind, fd) in &self.joined {
            let step = format!("join the {} namespace", kind.file());
            process::join_namespace(fd.as_fd(), kind.flag()).map_err(RuntimeError::step(step))?;
        }
        if launch.has(Namespace::User) {
            become_root_inside()?;
        }
        let late = late_namespaces(self.plan);
        if late != 0 {
            process::unshare(late).map_err(RuntimeError::step("make the namespaces"))?;
        }
        process::set_dumpable(false).map_err(RuntimeError::step("close this process to others"))?;
        // A session leader already: it was the terminal's that led here.
        let _ = rustix::process::setsid();
        Ok(())
    }

    fn apply(&self, step: &Step, progress: &mut Progress) -> Result<(), RuntimeError> {
        let outcome = match step {
            Step::NewKeyring(name) => process::new_session_keyring(name),
            Step::RaiseLoopback => knarr_linux::sandbox::raise_loopback(),
            Step::SetHostName(name) => nix::unistd::sethostname(name).map_err(io::Error::from),
            Step::SetDomainName(name) => {
                rustix::system::setdomainname(name.as_bytes()).map_err(io::Error::from)
            }
            Step::SetPropagation { propagation, recursive } => set_host_propagation(*propagation, *recursive),
            Step::MakePrivateAbove(path) => make_private_above(path),
            Step::OpenRoot(path) => Rootfs::open(path).map(|rootfs| progress.rootfs = Some(rootfs)),
            Step::Mount(mount) => self.mount(mount, progress),
            Step::AwaitNumber => self.await_number(progress),
            Step::MakeCgroupNamespace => process::unshare(Namespace::Cgroup.flag()),
            Step::MakeDevice(device) => root(progress).and_then(|rootfs| rootfs.make_device(device)),
            Step::Link { path, target } => root(progress).and_then(|rootfs| rootfs.link(path, target)),
            Step::OpenConsole { size } => self.open_console(*size, progress),
            Step::RuntimeHooks => return self.let_hooks_run(progress),
            Step::ContainerHooks => return self.run_container_hooks(progress),
            Step::SetSysctl { key, value } => set_sysctl(progress, key, value),
            Step::MakeReadOnly(path) => root(progress).and_then(|rootfs| rootfs.make_read_only(path)),
            Step::Mask(path) => root_mut(progress).and_then(|rootfs| rootfs.mask(path)),
            Step::EnterRoot { pivot, reaches_host } => self.enter_root(*pivot, *reaches_host, progress),
            Step::SetRootPropagation { propagation, recursive } => {
                set_host_propagation(*propagation, *recursive)
            }
            Step::MakeRootReadOnly => root(progress).and_then(Rootfs::make_root_read_only),
        };
        outcome.map_err(RuntimeError::step(step.to_string()))
    }

    /// Waits until the caller has told which number this process has outside.
    fn await_number(&self, progress: &mut Progress) -> io::Result<()> {
        while progress.pid == 0 {
            match self.channel.hear()? {
                Some(Message::Known(pid)) => progress.pid = pid,
                _ => return Err(io::Error::other("the caller is gone")),
            }
        }
        Ok(())
    }

    fn let_hooks_run(&self, progress: &mut Progress) -> Result<(), RuntimeError> {
        let step = || Step::RuntimeHooks.to_string();
        self.await_number(progress).map_err(RuntimeError::step(step()))?;
        self.channel.say(&Message::RunHooks).map_err(RuntimeError::step(step()))?;
        match self.channel.hear().map_err(RuntimeError::step(step()))? {
            Some(Message::HooksRan) => Ok(()),
            _ => Err(RuntimeError::Step {
                step: step(),
                reason: "a hook failed, or the caller is gone".to_owned(),
            }),
        }
    }

    fn run_container_hooks(&self, progress: &mut Progress) -> Result<(), RuntimeError> {
        // Hooks are told the number, which comes with it.
        self.await_number(progress).map_err(RuntimeError::step(Step::ContainerHooks.to_string()))?;
        self.run_hooks(Point::CreateContainer, "creating", progress.pid)
    }

    fn run_hooks(&self, point: Point, status: &str, pid: i32) -> Result<(), RuntimeError> {
        let mut state = self.state.clone();
        state.pid = pid;
        hooks::run(&self.spec.hooks, point, &state.to_hook_json(status))
    }

    fn mount(&self, mount: &MountPlan, progress: &mut Progress) -> io::Result<()> {
        let rootfs = root(progress)?;
        let attached = match &mount.what {
            What::Bind { source, recursive } => self.bind(rootfs, mount, source, *recursive)?,
            What::FileSystem { kind, source, options } => {
                mount_file_system(rootfs, mount, kind, source, options)?
            }
            What::Cgroup => self.show_cgroups(rootfs, mount)?,
        };
        for (propagation, recursive) in &mount.propagation {
            mounts::set_propagation(attached.as_fd(), *propagation, *recursive)?;
        }
        if is_read_only_later(mount) {
            progress.read_only_later.push(attached);
        }
        Ok(())
    }

    fn bind(
        &self,
        rootfs: &Rootfs,
        mount: &MountPlan,
        source: &Path,
        recursive: bool,
    ) -> io::Result<OwnedFd> {
        let from = || {
            let opened = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            opened
                .map_err(io::Error::from)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", source.display())))
        };
        let copy = match self.mapped.get(&mount.index) {
            Some(prepared) => Detached::from(prepared.try_clone()?),
            None => Detached::copy_of(from()?.as_fd(), recursive)?,
        };
        let is_directory = FileType::from_raw_mode(fstat(&copy)?.st_mode).is_dir();
        let kind = if is_directory { Kind::Directory } else { Kind::File };
        let place = rootfs.find_or_make(&mount.destination, kind)?;
        set_flags(&copy, mount)?;
        copy.attach(place.as_fd())
    }

    /// Control groups as the container may see them: its own as the root with a namespace of its own, else those of the
    /// host, in which it cannot write.
    fn show_cgroups(&self, rootfs: &Rootfs, mount: &MountPlan) -> io::Result<OwnedFd> {
        let own_namespace = self.plan.launch.has(Namespace::Cgroup);
        match self.hierarchies {
            Some(Hierarchies::V1(_)) => self.show_first_cgroups(rootfs, mount, own_namespace),
            _ => {
                let place = rootfs.find_or_make(&mount.destination, Kind::Directory)?;
                let copy = Detached::file_system("cgroup2", "cgroup", &[], mount.attributes.set).or_else(
                    |error| {
                        let directory = self.cgroup.directories.first().ok_or(error)?;
                        copy_of_path(&directory.path)
                    },
                )?;
                set_flags(&copy, mount)?;
                copy.attach(place.as_fd())
            }
        }
    }

    fn show_first_cgroups(
        &self,
        rootfs: &Rootfs,
        mount: &MountPlan,
        own_namespace: bool,
    ) -> io::Result<OwnedFd> {
        let options = [("mode".to_owned(), Some("755".to_owned()))];
        let place = rootfs.find_or_make(&mount.destination, Kind::Directory)?;
        let base = Detached::file_system("tmpfs", "tmpfs", &options, 0)?.attach(place.as_fd())?;
        // Only groups that were made for it: in the others it is where the caller is.
        for directory in &self.cgroup.directories {
            let name = directory.controllers.join(",");
            let shown = show_hierarchy(directory, own_namespace)?;
            set_flags(&shown, mount)?;
            if !own_namespace {
                shown.set(&Attributes { set: READ_ONLY, clear: 0 }, false)?;
            }
            shown.attach(make_in(base.as_fd(), &name)?.as_fd())?;
            for controller in directory.controllers.iter().filter(|controller| **controller != name) {
                rustix::fs::symlinkat(&name, &base, controller)?;
            }
        }
        mounts::set_attributes(base.as_fd(), &mount.attributes, false)?;
        Ok(base)
    }

    fn open_console(&self, size: Option<(u16, u16)>, progress: &mut Progress) -> io::Result<()> {
        let rootfs = root(progress)?;
        let terminal = Terminal::open(Some(rootfs.as_fd()))?;
        if let Some((columns, lines)) = size {
            terminal.resize(columns, lines)?;
        }
        rootfs.show(terminal.slave.as_fd(), Path::new("/dev/console"))?;
        let socket = self.console.as_ref().ok_or_else(|| io::Error::other("nobody takes its other side"))?;
        terminal::send_descriptor(socket.as_fd(), terminal.name.as_bytes(), terminal.master.as_fd())?;
        progress.slave = Some(terminal.slave);
        Ok(())
    }

    fn enter_root(&self, pivot: bool, reaches_host: bool, progress: &mut Progress) -> io::Result<()> {
        for mount in progress.read_only_later.drain(..) {
            mounts::set_attributes(mount.as_fd(), &Attributes { set: READ_ONLY, clear: 0 }, false)?;
        }
        if let Some(process) = &self.plan.process {
            root(progress)?.find_or_make(Path::new(&process.cwd), Kind::Directory)?;
        }
        if needs_proc(self.plan) && progress.proc.is_none() {
            progress.proc = Some(Proc::open()?);
        }
        let rootfs = root(progress)?;
        if pivot {
            mounts::pivot_root(rootfs.as_fd(), reaches_host)
        } else {
            mounts::move_root(rootfs.as_fd())
        }
    }

    fn prepare(&mut self, plan: &ProcessPlan, progress: &mut Progress) -> Result<Prepared, RuntimeError> {
        let user = self.plan.launch.has(Namespace::User);
        let slave = progress.slave.take();
        let outside = std::mem::take(&mut self.outside);
        Prepared::new(plan, slave, progress.proc.as_ref(), user, outside)
    }

    /// Waits for the knock, then becomes the program. Comes back only with what went wrong.
    fn wait_and_become(&self, prepared: Option<Prepared>, progress: &Progress) -> (UnixStream, RuntimeError) {
        let (knock, _) = loop {
            match self.door.accept() {
                Ok(knock) => break knock,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The door is ours alone; without it nothing can ever start this container.
                Err(_) => process::end_now(1),
            }
        };
        let become_it = || {
            let mut prepared = prepared.ok_or_else(|| RuntimeError::invalid("process", "is missing"))?;
            self.run_hooks(Point::StartContainer, "created", progress.pid)?;
            Err(prepared.become_it(&self.state))
        };
        let outcome: Result<std::convert::Infallible, RuntimeError> = become_it();
        match outcome {
            Ok(never) => match never {},
            Err(error) => (knock, error),
        }
    }
}

fn return_never((mut knock, error): (UnixStream, RuntimeError)) -> ! {
    // The one who knocked may be gone; then the exit status tells.
    let _ = io::Write::write_all(&mut knock, crate::chain(&error).as_bytes());
    process::end_now(become_program::FAILED)
}

const READ_ONLY: u64 = 1;

fn root(progress: &Progress) -> io::Result<&Rootfs> {
    progress.rootfs.as_ref().ok_or_else(|| io::Error::other("the root is not open"))
}

fn root_mut(progress: &mut Progress) -> io::Result<&mut Rootfs> {
    progress.rootfs.as_mut().ok_or_else(|| io::Error::other("the root is not open"))
}

/// Asks the caller to map ids, and waits until it has.
pub(crate) fn map_ids(channel: &Channel) -> Result<(), RuntimeError> {
    let step = || "map the ids";
    channel.say(&Message::MapIds).map_err(RuntimeError::step(step()))?;
    match channel.hear().map_err(RuntimeError::step(step()))? {
        Some(Message::IdsMapped) => Ok(()),
        _ => Err(RuntimeError::Step { step: step().to_owned(), reason: "the caller is gone".to_owned() }),
    }
}

/// In a user namespace this process has all capabilities but owns nothing: files that it makes need an owner that is
/// mapped. A namespace without a root keeps it as it is.
pub(crate) fn become_root_inside() -> Result<(), RuntimeError> {
    use nix::unistd::{Gid, Uid, setresgid, setresuid};
    let zero = (Uid::from_raw(0), Gid::from_raw(0));
    let has = |file: &str| {
        let map = std::fs::read_to_string(file).unwrap_or_default();
        map.lines().any(|line| line.split_ascii_whitespace().next() == Some("0"))
    };
    if has("/proc/self/gid_map") {
        setresgid(zero.1, zero.1, zero.1)
            .map_err(RuntimeError::step("become group 0 of the user namespace"))?;
    }
    if has("/proc/self/uid_map") {
        setresuid(zero.0, zero.0, zero.0)
            .map_err(RuntimeError::step("become user 0 of the user namespace"))?;
    }
    Ok(())
}

/// Namespaces that are made only after one was joined that must own them.
fn late_namespaces(plan: &Plan) -> u64 {
    let launch = &plan.launch;
    if launch.is_staged() || !launch.joins(Namespace::User) {
        return 0;
    }
    let made = launch.made.iter().filter(|kind| **kind != Namespace::Cgroup);
    process::flags_of(&made.copied().collect::<Vec<_>>())
}

fn set_host_propagation(propagation: mounts::Propagation, recursive: bool) -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mounts::set_propagation(root.as_fd(), propagation, recursive)
}

/// The kernel changes a mount by its own root only, so that is looked for first.
fn make_private_above(path: &Path) -> io::Result<()> {
    let path = std::fs::canonicalize(path)?;
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let places =
        text.lines().filter_map(|line| line.split(' ').nth(4)).map(|place| place.replace("\\040", " "));
    let above = places.filter(|place| path.starts_with(place)).max_by_key(String::len);
    let above = above.ok_or_else(|| io::Error::other("no mount has it"))?;
    let root = rustix::fs::open(above, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mounts::set_propagation(root.as_fd(), mounts::Propagation::PRIVATE, false)
}

fn set_flags(mount: &Detached, plan: &MountPlan) -> io::Result<()> {
    let nothing = Attributes::default();
    if plan.all_attributes != nothing {
        mount.set(&plan.all_attributes, true)?;
    }
    if plan.attributes != nothing {
        mount.set(&plan.attributes, false)?;
    }
    Ok(())
}

/// A group's directory in one hierarchy as the root of a mount. In a namespace of control groups of its own the mount of
/// the host's and a new one look the same; the first is made without the kernel's lock on all groups.
fn show_hierarchy(directory: &cgroup::Directory, own_namespace: bool) -> io::Result<Detached> {
    let options: Vec<_> = directory.controllers.iter().map(|name| (name.clone(), None)).collect();
    match copy_of_path(&directory.path) {
        Err(_) if own_namespace => Detached::file_system("cgroup", "cgroup", &options, 0),
        other => other,
    }
}

/// A new directory in a file system that was just made, and that nobody else knows.
fn make_in(base: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(base, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(base, name, flags, Mode::empty())?)
}

fn copy_of_path(path: &Path) -> io::Result<Detached> {
    let directory = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Detached::copy_of(directory.as_fd(), true)
}

/// A file system in memory, and what devices are made in, must be written to before it is read-only.
fn is_read_only_later(mount: &MountPlan) -> bool {
    let in_memory = matches!(&mount.what, What::FileSystem { kind, .. } if kind == "tmpfs");
    in_memory && mount.attributes.set & READ_ONLY != 0
}

fn mount_file_system(
    rootfs: &Rootfs,
    mount: &MountPlan,
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
) -> io::Result<OwnedFd> {
    let before = rootfs.find(&mount.destination).ok();
    let place = rootfs.find_or_make(&mount.destination, Kind::Directory)?;
    if mount.is_kernel() && !rootfs.is_direct(&mount.destination) {
        let reason = "a symbolic link leads elsewhere than the guards over it would be";
        return Err(io::Error::other(reason));
    }
    let mut options = options.to_vec();
    if let Some(before) = before.filter(|_| kind == "tmpfs" && !options.iter().any(|(key, _)| key == "mode"))
    {
        options.push(("mode".to_owned(), Some(format!("{:o}", fstat(&before)?.st_mode & 0o7777))));
    }
    let attributes =
        if is_read_only_later(mount) { mount.attributes.set & !READ_ONLY } else { mount.attributes.set };
    let made = Detached::file_system(kind, source, &options, attributes)?;
    if mount.copy_up {
        let target = made.as_fd();
        let root = rustix::fs::openat(
            target,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        copy_tree(place.as_fd(), root.as_fd())?;
    }
    made.attach(place.as_fd())
}

fn set_sysctl(progress: &mut Progress, key: &str, value: &str) -> io::Result<()> {
    if progress.proc.is_none() {
        progress.proc = Some(Proc::open()?);
    }
    let proc = progress.proc.as_ref().ok_or_else(|| io::Error::other("no tables of the kernel's"))?;
    proc.write(&format!("sys/{}", sysctl_path(key)), value)
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are the same; with slashes, dots are part of a name.
fn sysctl_path(key: &str) -> String {
    if key.contains('/') { key.to_owned() } else { key.replace('.', "/") }
}

fn needs_proc(plan: &Plan) -> bool {
    plan.process.as_ref().is_some_and(|process| !process.labels.is_empty())
}
