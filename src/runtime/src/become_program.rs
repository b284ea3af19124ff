//! The last steps before a process is the container's program, the same for the first one and for those that join later.
//!
//! [`Prepared::new`] does what can be done before the start: limits, users, the terminal, finding the program. Nothing
//! of the caller's rights is left after it but what loading a filter needs. [`Prepared::become_it`] does the rest.
//!
//! Spec: OCI runtime-spec, `config.md` "Process"; CVE-2024-21626 for the working directory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use knarr_linux::capability::{self, Capabilities, CapabilitySet};
use knarr_linux::process;
use knarr_linux::{seccomp, terminal};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::RuntimeError;
use crate::plan::process::{ProcessPlan, SeccompPlan};
use crate::rootfs::Proc;
use crate::state::State;

/// The exit status of a process that could not become its program.
pub(crate) const FAILED: i32 = 255;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// A process that only waits to be the program.
#[derive(Debug)]
pub(crate) struct Prepared {
    program: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// What it has in the end.
    capabilities: Capabilities,
    no_new_privileges: bool,
    seccomp: Option<SeccompPlan>,
    listener: Option<UnixStream>,
    init: bool,
}

/// What the one who becomes the program has from outside.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// So many descriptors after the third are the program's.
    pub(crate) preserved: u32,
    /// Who decides on some system calls.
    pub(crate) listener: Option<UnixStream>,
}

impl Outside {
    /// Reaches out while the paths of the host are there.
    pub(crate) fn reach(plan: Option<&ProcessPlan>, preserved: u32) -> Result<Self, RuntimeError> {
        let seccomp = plan.and_then(|plan| plan.seccomp.as_ref());
        let path = seccomp.and_then(|seccomp| seccomp.listener.as_ref()).map(|(path, _)| path);
        let connect =
            |path: &PathBuf| terminal::connect(path).map_err(RuntimeError::file("connect to", path));
        Ok(Self { preserved, listener: path.map(connect).transpose()? })
    }
}

impl Prepared {
    /// Gives away everything that the program must not have.
    pub(crate) fn new(
        plan: &ProcessPlan,
        slave: Option<OwnedFd>,
        proc: Option<&Proc>,
        in_user_namespace: bool,
        outside: Outside,
    ) -> Result<Self, RuntimeError> {
        take_terminal(plan, slave)?;
        set_attributes(plan)?;
        set_labels(plan, proc)?;
        process::reset_signals().map_err(RuntimeError::step("reset the signals"))?;
        keep_descriptors(outside.preserved)?;
        let environment = environment(plan);
        // A directory of the user's own may be closed to root, and the other way round.
        let entered = enter(&plan.cwd).is_ok();
        let capabilities = drop_rights(plan, in_user_namespace)?;
        if !entered {
            enter(&plan.cwd).map_err(RuntimeError::step(format!("chdir to cwd {:?}", plan.cwd)))?;
        }
        check_inside(&plan.cwd)?;
        let program = find_program(&plan.args[0], &plan.env)?;
        let text = |text: &String| CString::new(text.as_bytes()).map_err(RuntimeError::step("read a word"));
        Ok(Self {
            program,
            arguments: plan.args.iter().map(text).collect::<Result<_, _>>()?,
            environment: environment.iter().map(text).collect::<Result<_, _>>()?,
            capabilities,
            no_new_privileges: plan.no_new_privileges,
            seccomp: plan.seccomp.clone(),
            listener: outside.listener,
            init: plan.init,
        })
    }

    /// Becomes the program. Comes back only with what went wrong.
    pub(crate) fn become_it(&mut self, state: &State) -> RuntimeError {
        if let Err(error) = self.close_the_gate(state) {
            return error;
        }
        if self.init
            && let Err(error) = crate::tend::split()
        {
            return error;
        }
        let error = process::become_program(&self.program, &self.arguments, &self.environment);
        RuntimeError::Step { step: format!("exec {}", self.program.display()), reason: words_of(&error) }
    }

    fn close_the_gate(&mut self, state: &State) -> Result<(), RuntimeError> {
        if self.no_new_privileges {
            process::set_no_new_privileges().map_err(RuntimeError::step("set no_new_privs"))?;
        }
        if let Some(plan) = &self.seccomp {
            load_filter(plan, self.listener.as_ref(), state)?;
        }
        self.capabilities.apply().map_err(RuntimeError::step("set the capabilities"))
    }
}

/// Of what was open the program gets the first three and those that were asked for.
fn keep_descriptors(preserved: u32) -> Result<(), RuntimeError> {
    let first_free = 3 + preserved as i32;
    process::close_on_exec_from(first_free).map_err(RuntimeError::step("close what was open"))?;
    (3..first_free).try_for_each(|fd| {
        process::set_close_on_exec(fd, false)
            .map_err(RuntimeError::step(format!("keep descriptor {fd} open")))
    })
}

/// Must come before anything is opened: marks what was open to be closed, and
/// refuses when a descriptor that the program is to get is not open: else it would get one of ours.
pub fn check_preserved(preserved: u32) -> Result<(), RuntimeError> {
    process::close_on_exec_from(3).map_err(RuntimeError::step("close what was open"))?;
    let wanted = 3..3 + i32::try_from(preserved).unwrap_or(i32::MAX - 3);
    wanted.into_iter().try_for_each(|fd| {
        let open = process::set_close_on_exec(fd, true);
        open.map_err(|_| {
            RuntimeError::Request(format!("--preserve-fds {preserved}: descriptor {fd} is not open"))
        })
    })
}

fn take_terminal(plan: &ProcessPlan, slave: Option<OwnedFd>) -> Result<(), RuntimeError> {
    let take = |slave: OwnedFd| -> io::Result<()> {
        terminal::take_control(slave.as_fd())?;
        (0..3).try_for_each(|fd| process::duplicate_to(slave.as_fd(), fd))
    };
    if let Some(slave) = slave {
        take(slave).map_err(RuntimeError::step("take the terminal"))?;
    }
    own_streams(plan);
    Ok(())
}

/// What it reads and writes must be its own to open again, as `/dev/stdout`. Files and devices of the host keep their
/// owners: they were not made for it.
fn own_streams(plan: &ProcessPlan) {
    let streams = (io::stdin(), io::stdout(), io::stderr());
    for fd in [streams.0.as_fd(), streams.1.as_fd(), streams.2.as_fd()] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        if stat.st_uid != plan.uid && was_made_for_it(&stat) {
            // The one of a user who is not mapped keeps its owner.
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(plan.uid)), None);
        }
    }
}

fn was_made_for_it(stat: &rustix::fs::Stat) -> bool {
    use rustix::fs::FileType;
    const TERMINALS: std::ops::Range<u32> = 136..144;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => true,
        FileType::CharacterDevice => TERMINALS.contains(&rustix::fs::major(stat.st_rdev)),
        _ => false,
    }
}

fn set_attributes(plan: &ProcessPlan) -> Result<(), RuntimeError> {
    for (resource, soft, hard) in &plan.limits {
        let name = process::limit_name(*resource);
        process::set_limit(*resource, *soft, *hard)
            .map_err(RuntimeError::step(format!("set {name} to {soft}, at most {hard}")))?;
    }
    if let Some(schedule) = &plan.schedule {
        process::set_schedule(schedule).map_err(RuntimeError::step("set the scheduler"))?;
    }
    if let Some((class, priority)) = plan.io_priority {
        process::set_io_priority(class, priority).map_err(RuntimeError::step("set the place at the disk"))?;
    }
    if let Some(persona) = plan.personality {
        process::set_personality(persona).map_err(RuntimeError::step("set the personality"))?;
    }
    if let Some(mask) = plan.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask & 0o777));
    }
    Ok(())
}

fn set_labels(plan: &ProcessPlan, proc: Option<&Proc>) -> Result<(), RuntimeError> {
    for (file, label) in &plan.labels {
        let step = || format!("set the label {label:?}");
        let proc =
            proc.ok_or_else(|| RuntimeError::Step { step: step(), reason: "there is no /proc".to_owned() })?;
        proc.write(&format!("self/attr/{file}"), label).map_err(RuntimeError::step(step()))?;
    }
    Ok(())
}

/// The environment, with the home of the user where it says none.
fn environment(plan: &ProcessPlan) -> Vec<String> {
    let mut environment = plan.env.clone();
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        let home = home_of(plan.uid).unwrap_or_else(|| "/".to_owned());
        environment.push(format!("HOME={home}"));
    }
    environment
}

fn home_of(uid: u32) -> Option<String> {
    const MOST_BYTES: u64 = 1 << 20;
    let mut text = Vec::new();
    let file = std::fs::File::open("/etc/passwd").ok()?;
    io::Read::read_to_end(&mut io::Read::take(file, MOST_BYTES), &mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    })
}

fn enter(cwd: &str) -> io::Result<()> {
    Ok(rustix::process::chdir(cwd)?)
}

/// A working directory that the kernel cannot name lies outside of the root.
fn check_inside(cwd: &str) -> Result<(), RuntimeError> {
    let path = std::env::current_dir();
    let is_inside = path.as_ref().is_ok_and(|path| path.is_absolute() && path.metadata().is_ok());
    if is_inside {
        return Ok(());
    }
    let reason = "it leads out of the container's root".to_owned();
    Err(RuntimeError::Step { step: format!("chdir to cwd {cwd:?}"), reason })
}

/// Becomes the user. What comes back is what [`Capabilities::apply`] must still be called with.
fn drop_rights(plan: &ProcessPlan, in_user_namespace: bool) -> Result<Capabilities, RuntimeError> {
    let (permitted, bounding) = capability::current().map_err(RuntimeError::step("read the capabilities"))?;
    let wanted = possible(&plan.capabilities, permitted, bounding);
    wanted.limit().map_err(RuntimeError::step("limit the capabilities"))?;
    Capabilities::keep().map_err(RuntimeError::step("keep the capabilities"))?;
    become_user(plan, in_user_namespace)?;
    // A filter without no_new_privs needs this one capability up to the moment in which it is loaded.
    let needs = plan.seccomp.is_some() && !plan.no_new_privileges;
    let extra = if needs { CapabilitySet(CAP_SYS_ADMIN).and(permitted) } else { CapabilitySet::default() };
    let meanwhile = Capabilities {
        permitted: wanted.permitted.or(extra),
        effective: wanted.effective.or(extra),
        ..wanted
    };
    meanwhile.apply().map_err(RuntimeError::step("set the capabilities"))?;
    Ok(wanted)
}

/// What this process lacks it cannot give.
fn possible(wanted: &Capabilities, permitted: CapabilitySet, bounding: CapabilitySet) -> Capabilities {
    let permitted = wanted.permitted.and(permitted);
    let inheritable = wanted.inheritable.and(bounding);
    Capabilities {
        bounding: wanted.bounding.and(bounding),
        effective: wanted.effective.and(permitted),
        inheritable,
        permitted,
        ambient: wanted.ambient.and(permitted).and(inheritable),
    }
}

fn become_user(plan: &ProcessPlan, in_user_namespace: bool) -> Result<(), RuntimeError> {
    let groups: Vec<Gid> = plan.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    match setgroups(&groups) {
        // An ordinary user's namespace keeps the groups that he has, lest he escape what they forbid him.
        Err(nix::errno::Errno::EPERM) if in_user_namespace && groups.is_empty() => {}
        other => other.map_err(RuntimeError::step("set the groups"))?,
    }
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    setresgid(gid, gid, gid).map_err(RuntimeError::step(format!("become group {gid}")))?;
    setresuid(uid, uid, uid).map_err(RuntimeError::step(format!("become user {uid}")))
}

/// Where the program is, by its name or on the path of its environment.
fn find_program(name: &str, environment: &[String]) -> Result<PathBuf, RuntimeError> {
    let fail =
        |reason: &str| RuntimeError::Step { step: format!("exec {name:?}"), reason: reason.to_owned() };
    if name.contains('/') {
        return match check_program(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) => Err(fail(&format!("stat {name}: {}", words_of(&error)))),
        };
    }
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut denied = false;
    for directory in path.split(':') {
        let place = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check_program(&place) {
            Ok(()) => return Ok(place),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(fail(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

fn check_program(path: &Path) -> io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let flags = rustix::fs::AtFlags::EACCESS;
    Ok(rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, flags)?)
}

/// The system's words, in small letters and without its number: those who drive runtimes look for them.
fn words_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ if error.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32) => {
            "exec format error".to_owned()
        }
        _ => error.to_string(),
    }
}

fn load_filter(plan: &SeccompPlan, listener: Option<&UnixStream>, state: &State) -> Result<(), RuntimeError> {
    let loaded = seccomp::load(&plan.filter, plan.flags, listener.is_some());
    let fd = loaded.map_err(RuntimeError::step("load the seccomp filter"))?;
    if let (Some(socket), Some((_, metadata)), Some(fd)) = (listener, &plan.listener, fd) {
        let message = state.to_seccomp_json(metadata);
        let sent = terminal::send_descriptor(socket.as_fd(), message.as_bytes(), fd.as_fd());
        sent.map_err(RuntimeError::step("hand the seccomp listener over"))?;
    }
    Ok(())
}
