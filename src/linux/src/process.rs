//! New processes, and what a process may set for itself before it becomes a program.
//!
//! [`clone`] makes a process in new namespaces. A child of a process with one thread may run ordinary Rust;
//! `clone` refuses when there are more.
//!
//! Spec: clone(2), setns(2), pidfd_open(2), prctl(2), keyctl(2), ioprio_set(2), sched_setattr(2), personality(2).

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// Users and capabilities.
    User,
    /// Mounts.
    Mount,
    /// Processes.
    Pid,
    /// Network devices, addresses, rules.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// The root of the cgroups that are seen.
    Cgroup,
    /// Offsets of the monotonic and boot-time clocks.
    Time,
}

impl Namespace {
    /// All kinds, in the order in which they are entered.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Pid, Self::Ipc, Self::Uts, Self::Network, Self::Cgroup, Self::Time, Self::Mount];

    /// The kernel's flag for it.
    #[must_use]
    pub const fn flag(self) -> u64 {
        (match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Network => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => libc::CLONE_NEWTIME,
        }) as u64
    }

    /// Its file in `/proc/PID/ns`.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }
}

/// The flags of several kinds together.
#[must_use]
pub fn flags_of(namespaces: &[Namespace]) -> u64 {
    namespaces.iter().map(|namespace| namespace.flag()).fold(0, |all, flag| all | flag)
}

/// Which side of a [`clone`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one, which knows the new one.
    Parent(Process),
}

/// A process that cannot be mistaken for another one that came later under its number.
#[derive(Debug)]
pub struct Process {
    /// Its number, as this process sees it.
    pub pid: i32,
    fd: OwnedFd,
}

/// Makes a process in new namespaces of the kinds in `flags`, in the v2 cgroup `cgroup` if one is given. A `sibling`
/// becomes a child of this process's own parent.
pub fn clone(flags: u64, sibling: bool, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if !has_one_thread()? {
        return Err(io::Error::other("this process has several threads, so its children cannot run"));
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    arguments.flags = flags | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = if sibling { 0 } else { libc::SIGCHLD as u64 };
    if sibling {
        arguments.flags |= libc::CLONE_PARENT as u64;
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: there is one thread and no CLONE_VM, so the child has a whole copy of this process.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match check(pid)? {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just opened this descriptor for us.
        pid => Ok(Cloned::Parent(Process { pid: pid as i32, fd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) fn has_one_thread() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    // "." and ".." and one directory for each thread.
    Ok(std::fs::metadata("/proc/self/task").map_or(3, |tasks| tasks.nlink()) == 3)
}

impl Process {
    /// The process that has this number now.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: plain numbers go in, a descriptor comes out.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY: the kernel has just opened this descriptor for us.
        Ok(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd as RawFd) } })
    }

    /// Sends a signal; 0 only asks whether the process is there.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: no siginfo is passed, so nothing is read.
        check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0) })?;
        Ok(())
    }

    /// Waits until it has ended; answers whether it has before the time was over. Works for processes of others, too.
    pub fn wait_end(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let timeout = timeout
            .map_or(PollTimeout::NONE, |timeout| PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
        Ok(poll(&mut polled, timeout)? > 0)
    }

    /// Reaps this child: its exit status, or 128 and the signal that ended it.
    pub fn reap(&self) -> io::Result<i32> {
        use nix::sys::wait::{WaitStatus, waitpid};
        loop {
            match waitpid(nix::unistd::Pid::from_raw(self.pid), None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Joins namespaces of that process, of the kinds in `flags`, all in one step.
    pub fn join_namespaces(&self, flags: u64) -> io::Result<()> {
        join_namespace(self.fd.as_fd(), flags)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Joins the namespace behind a descriptor; `flags` says of which kind it must be.
pub fn join_namespace(namespace: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::setns(namespace.as_raw_fd(), flags as i32) }))?;
    Ok(())
}

/// Leaves namespaces of the kinds in `flags` for new ones.
pub fn unshare(flags: u64) -> io::Result<()> {
    // SAFETY: plain numbers; this crate's callers have one thread, or unshare nothing of their threads.
    check(i64::from(unsafe { libc::unshare(flags as i32) }))?;
    Ok(())
}

/// Whether others may look into this process: its memory, its descriptors, its program.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, i32::from(dumpable), 0, 0, 0) }))?;
    Ok(())
}

/// This process and what it becomes never gain rights by running a program.
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))?;
    Ok(())
}

/// Orphans below this process become its children, not those of process 1.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }))?;
    Ok(())
}

/// This process gets `signal` when the one that made it ends.
pub fn die_with_parent(signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }))?;
    Ok(())
}

/// Gives this process a session keyring of its own, so that it has no key of its maker.
pub fn new_session_keyring(name: &str) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    let name = CString::new(name)?;
    // SAFETY: the name is a live C string.
    let made =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr(), 0, 0, 0) };
    match check(made) {
        // A kernel without keys has none that could leak.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Descriptors from `first` on are closed when a program is started.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    close_range(first, CLOSE_RANGE_CLOEXEC)
}

/// Closes descriptors from `first` on. Whoever calls owns none of them, or never uses them again.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, 0)
}

fn close_range(first: RawFd, flags: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; what becomes of descriptors that Rust owns is the callers' promise.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, flags) }).map(drop)
}

/// Descriptor `fd` stays open when a program is started, or not.
pub fn set_close_on_exec(fd: RawFd, close: bool) -> io::Result<()> {
    // SAFETY: plain numbers; a bad descriptor is an error.
    check(i64::from(unsafe { libc::fcntl(fd, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) }))?;
    Ok(())
}

/// Makes `to` a copy of `from`, whatever it was before.
pub fn duplicate_to(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: callers use it for 0, 1 and 2 only, which nothing in Rust owns.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) }))?;
    Ok(())
}

/// Takes over a descriptor that this process was started with.
pub fn inherited_fd(fd: RawFd) -> io::Result<OwnedFd> {
    set_close_on_exec(fd, true)?;
    // SAFETY: it is open, and callers name each number once, before anything else could own it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A resource that a process may use so much of: one of `RLIMIT_*`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the limit lives during the call.
    check(i64::from(unsafe { libc::setrlimit(resource, &raw const limit) }))?;
    Ok(())
}

/// The number of a limit, as the OCI names it.
#[must_use]
pub fn limit_number(name: &str) -> Option<u32> {
    LIMITS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The name of a limit.
#[must_use]
pub fn limit_name(number: u32) -> &'static str {
    LIMITS.iter().find(|(_, known)| *known == number).map_or("a limit", |(name, _)| name)
}

const LIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

/// How this process's reads and writes stand back behind those of others.
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, (class << 13) | priority) })?;
    Ok(())
}

/// Which kernel this process sees: a persona of personality(2).
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::personality(persona) }))?;
    Ok(())
}

/// How a process is scheduled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// For the deadline policy, in nanoseconds.
    pub runtime: u64,
    /// For the deadline policy, in nanoseconds.
    pub deadline: u64,
    /// For the deadline policy, in nanoseconds.
    pub period: u64,
}

/// Sets how this process is scheduled.
pub fn set_schedule(schedule: &Schedule) -> io::Result<()> {
    let attributes = SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy: schedule.policy,
        flags: schedule.flags,
        nice: schedule.nice,
        priority: schedule.priority,
        runtime: schedule.runtime,
        deadline: schedule.deadline,
        period: schedule.period,
    };
    // SAFETY: the attributes live during the call and carry their size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// This process becomes the program behind an open file. Returns only when that failed.
pub fn become_file(program: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (argv, envp) = (arguments.as_ptr(), environment.as_ptr());
    let empty: &CStr = c"";
    // SAFETY: both lists end with null and outlive the call.
    unsafe {
        libc::execveat(program.as_raw_fd(), empty.as_ptr(), argv.cast(), envp.cast(), libc::AT_EMPTY_PATH)
    };
    io::Error::last_os_error()
}

/// This process becomes the program at `path`. Returns only when that failed.
pub fn become_program(path: &Path, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Ok(path) = CString::new(OsStr::as_bytes(path.as_os_str())) else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with null and outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Signals do what they do in a fresh process, and none is held back.
pub fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of ours. Signals that cannot be set answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Ends this process at once, without running anything that was registered for its end.
pub fn end_now(status: i32) -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(status) }
}

pub(crate) fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
