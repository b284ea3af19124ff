//! Programs of a root, run where they see nothing but that root.
//!
//! [`Session::start`] makes the namespaces and mounts once; [`Session::run`] runs one program
//! after another in them. When the session ends, or this process dies in whatever way, the kernel
//! takes the namespaces away with everything in them.
//!
//! The session's supervisor is this same program, started again under [`SUPERVISOR_NAME`]: so it
//! has one thread, and may fork and prepare itself in ordinary Rust.
//!
//! Spec: pid_namespaces(7) for process 1's duties; Policy 6.3 for what scripts may expect.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, fork, sethostname, setsid};

use crate::emulator::Emulator;
use crate::{LinuxError, namespace};

/// The name under which this program supervises a session.
pub const SUPERVISOR_NAME: &str = "knarr-sandbox";
/// The last of a program's output is kept, up to this many bytes.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;
const MAX_MESSAGE_BYTES: u32 = 16 << 20;

/// What a session's programs see.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The directory that is `/` to them.
    pub root: PathBuf,
    /// What becomes of what they write.
    pub writes: Writes,
    /// Whether they share the host's network; else they have none.
    pub network: bool,
    /// The machine's name.
    pub hostname: String,
    /// What runs programs of another architecture, where this machine does not do so by itself.
    pub emulator: Option<Emulator>,
    /// Directories of the host that appear in the root: where they lie, and which directory of the
    /// root (without leading `/`) they cover.
    pub binds: Vec<(PathBuf, String)>,
}

/// What becomes of what programs write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// It is in the root.
    #[default]
    Kept,
    /// It is gone when the session ends, and the root stays as it is.
    Discarded,
    /// They can write to `/tmp`, `/run`, `/var/tmp` and `/dev/shm` only, and that is gone when the session ends.
    Refused,
}

impl Writes {
    const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Discarded => "discarded",
            Self::Refused => "refused",
        }
    }
}

/// A program to run.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The program, as a path in the root, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// It is ended when it runs longer.
    pub timeout: Option<Duration>,
    /// Who runs it: user, group and further groups. Without it root.
    pub user: Option<Identity>,
    /// Where it starts; without it `/`.
    pub directory: Option<String>,
    /// Whether files that it looks for in vain are noted. It runs slower then.
    pub trace: bool,
}

/// Who runs a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Standard output and error, mixed, the last [`MAX_OUTPUT_BYTES`] of them.
    pub output: Vec<u8>,
    /// Absolute paths that it looked for in vain, in the order in which it did, when that was asked for.
    pub missing: Vec<String>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It ran too long and was ended.
    TimedOut,
}

/// A running sandbox.
#[derive(Debug)]
pub struct Session {
    supervisor: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Session {
    /// Makes the namespaces and mounts.
    pub fn start(sandbox: &Sandbox) -> Result<Self, LinuxError> {
        let mut supervisor = Command::new("/proc/self/exe")
            .arg0(SUPERVISOR_NAME)
            .arg(&sandbox.root)
            .args([if sandbox.network { "network" } else { "" }, sandbox.writes.word(), &sandbox.hostname])
            .args(sandbox.emulator.as_ref().map(Emulator::to_arguments).unwrap_or_default())
            .args(sandbox.binds.iter().flat_map(|(from, to)| [from.as_os_str(), OsStr::new(to)]))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(LinuxError::step("start the sandbox's supervisor"))?;
        let pipes = (supervisor.stdin.take(), supervisor.stdout.take());
        let (Some(requests), Some(answers)) = pipes else { return Err(gone()) };
        let mut session = Self { supervisor, requests, answers };
        let ready = session.read_answer()?;
        match ready.status {
            Status::Exited(0) => Ok(session),
            _ => Err(LinuxError::Sandbox {
                reason: format!("cannot be prepared: {}", String::from_utf8_lossy(&ready.output)),
            }),
        }
    }

    /// Runs one program to its end. What it leaves running is ended with it.
    pub fn run(&mut self, program: &Program) -> Result<Outcome, LinuxError> {
        let message = encode(program);
        self.requests.write_all(&message).map_err(|_| gone())?;
        self.read_answer()
    }

    fn read_answer(&mut self) -> Result<Outcome, LinuxError> {
        self.wait_for_answer()?;
        let mut head = [0; 9];
        self.answers.read_exact(&mut head).map_err(|_| gone())?;
        let code = i32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let mut output = vec![0; length.min(MAX_MESSAGE_BYTES) as usize];
        self.answers.read_exact(&mut output).map_err(|_| gone())?;
        let missing = self.read_missing()?;
        match head[0] {
            0 => Ok(Outcome { status: Status::Exited(code), output, missing }),
            1 => Ok(Outcome { status: Status::Signaled(code), output, missing }),
            2 => Ok(Outcome { status: Status::TimedOut, output, missing }),
            _ => Err(LinuxError::Sandbox { reason: String::from_utf8_lossy(&output).into_owned() }),
        }
    }
}

impl Session {
    fn read_missing(&mut self) -> Result<Vec<String>, LinuxError> {
        let mut length = [0; 4];
        self.answers.read_exact(&mut length).map_err(|_| gone())?;
        let mut bytes = vec![0; u32::from_le_bytes(length).min(MAX_MESSAGE_BYTES) as usize];
        self.answers.read_exact(&mut bytes).map_err(|_| gone())?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }

    /// Waits for the first byte of an answer; gives up, and ends the sandbox, on an interrupt.
    fn wait_for_answer(&mut self) -> Result<(), LinuxError> {
        while !crate::signals::interrupted().load(std::sync::atomic::Ordering::SeqCst) {
            let mut polled = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::from(100_u16)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                _ => return Ok(()),
            }
        }
        let _ = self.supervisor.kill();
        Err(LinuxError::Interrupted)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The supervisor is the namespaces' first process: with it everything in them ends.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

fn gone() -> LinuxError {
    LinuxError::Sandbox { reason: "ended unexpectedly".to_owned() }
}

fn encode(program: &Program) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |bytes: &[u8]| {
        body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(bytes);
    };
    let timeout_ms = program.timeout.map_or(0, |timeout| timeout.as_millis().max(1));
    put(timeout_ms.to_string().as_bytes());
    put(if program.trace { b"trace" } else { b"" });
    put(program.directory.as_deref().unwrap_or("/").as_bytes());
    let ids =
        program.user.as_ref().map(|user| [user.uid, user.gid].into_iter().chain(user.groups.iter().copied()));
    let ids = ids.into_iter().flatten().map(|id| id.to_string()).collect::<Vec<_>>();
    put(ids.join(",").as_bytes());
    put(program.argv.len().to_string().as_bytes());
    program.argv.iter().for_each(|argument| put(argument.as_bytes()));
    for (key, value) in &program.env {
        put(key.as_bytes());
        put(value.as_bytes());
    }
    let mut message = (body.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(&body);
    message
}

fn decode(mut body: &[u8]) -> Option<Program> {
    let mut next = || {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        body = rest;
        String::from_utf8(bytes.to_vec()).ok()
    };
    let timeout_ms: u64 = next()?.parse().ok()?;
    let trace = next()? == "trace";
    let directory = Some(next()?);
    let ids: Vec<u32> = next()?.split(',').filter_map(|id| id.parse().ok()).collect();
    let user = match ids.as_slice() {
        [uid, gid, groups @ ..] => Some(Identity { uid: *uid, gid: *gid, groups: groups.to_vec() }),
        _ => None,
    };
    let count: usize = next()?.parse().ok()?;
    let argv = (0..count).map(|_| next()).collect::<Option<Vec<_>>>()?;
    let mut env = Vec::new();
    while let Some(key) = next() {
        env.push((key, next()?));
    }
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    Some(Program { argv, env, timeout, user, directory, trace })
}

/// What runs under [`SUPERVISOR_NAME`].
pub(crate) fn supervise() -> i32 {
    let mut arguments = std::env::args_os().skip(1);
    let root = PathBuf::from(arguments.next().unwrap_or_default());
    let network = arguments.next().is_some_and(|word| word == "network");
    let writes = match arguments.next().unwrap_or_default().to_str() {
        Some("discarded") => Writes::Discarded,
        Some("refused") => Writes::Refused,
        _ => Writes::Kept,
    };
    let hostname = arguments.next().unwrap_or_default();
    let emulator = Emulator::from_arguments(&mut arguments);
    let mut binds = Vec::new();
    while let (Some(from), Some(to)) = (arguments.next(), arguments.next()) {
        binds.push((PathBuf::from(from), to.to_string_lossy().into_owned()));
    }
    let hostname = hostname.to_string_lossy().into_owned();
    match prepare(&Sandbox { root, writes, network, hostname, emulator, binds }) {
        Ok(None) => serve(),
        Ok(Some(init)) => wait_for(init),
        Err(error) => {
            let reason = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            answer(1, 0, reason.as_bytes(), &[]);
            1
        }
    }
}

/// `Some(pid)` in the outer process, `None` in the first process of the new pid namespace.
fn prepare(sandbox: &Sandbox) -> Result<Option<Pid>, LinuxError> {
    let Sandbox { root, writes, network, hostname, emulator, binds } = sandbox;
    let step = |name: &str, outcome: nix::Result<()>| {
        outcome.map_err(io::Error::from).map_err(LinuxError::step(name))
    };
    let die = || rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    die().map_err(io::Error::from).map_err(LinuxError::step("tie the sandbox to its parent"))?;
    step("start a session", setsid().map(drop))?;
    if emulator.is_some() && !namespace::in_user_namespace() {
        namespace::enter_own_user_namespace()?;
    }
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID;
    flags.set(CloneFlags::CLONE_NEWNET, !*network);
    step("make namespaces", unshare(flags))?;
    if !*network {
        raise_loopback().map_err(LinuxError::step("raise the loopback"))?;
    }
    step(
        "make mounts private",
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>),
    )?;
    emulator.as_ref().map_or(Ok(()), Emulator::register)?;
    if *writes != Writes::Kept {
        cover(root)?;
        for (_, to) in binds {
            std::fs::create_dir_all(root.join(to)).map_err(LinuxError::step("make a mount point"))?;
        }
    }
    mount_dev(root)?;
    for (from, to) in binds {
        let to = directory(root, to)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        step("show a directory", mount(Some(from), &to, None::<&str>, flags, None::<&str>))?;
    }
    // SAFETY: this process has one thread, so the child may do anything.
    let forked = unsafe { fork() };
    match forked.map_err(io::Error::from).map_err(LinuxError::step("fork"))? {
        ForkResult::Parent { child } => return Ok(Some(child)),
        ForkResult::Child => {}
    }
    die().map_err(io::Error::from).map_err(LinuxError::step("tie the sandbox to its parent"))?;
    let proc = directory(root, "proc")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step("mount /proc", mount(Some("proc"), &proc, Some("proc"), flags, None::<&str>))?;
    let sys = directory(root, "sys")?;
    step(
        "mount /sys",
        mount(Some("/sys"), &sys, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>),
    )?;
    if *writes == Writes::Refused {
        refuse_writes(root)?;
    }
    step("set the host name", sethostname(hostname))?;
    step("enter the root", chroot(root.as_path()).and_then(|()| chdir("/")))?;
    Ok(None)
}

/// A new network has a loopback that is down: programs expect to reach themselves.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives for the call, and is of the type that this call reads.
    let raised = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    if raised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Covers the root with an overlay of its own, so that what is written, mount points included, is nowhere else.
fn cover(root: &Path) -> Result<(), LinuxError> {
    let at = |outcome: io::Result<()>| outcome.map_err(LinuxError::step("cover the root"));
    // The temporary directory is covered first: whatever the root is, it is not below /tmp/.knarr-cover.
    let work = root.with_file_name(".knarr-cover");
    let lower = std::fs::File::open(root).map_err(LinuxError::step("open the root"))?;
    at(std::fs::create_dir_all(&work))?;
    at(mount(Some("knarr"), &work, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(io::Error::from))?;
    for name in ["upper", "work"] {
        at(std::fs::create_dir(work.join(name)))?;
    }
    let lower = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&lower));
    let options = format!("lowerdir={lower},upperdir={0}/upper,workdir={0}/work", work.display());
    // Attributes of layers' marks are a user's in a user namespace, and trusted elsewhere.
    let plain = mount(Some("knarr"), root, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    let user = || {
        let options = format!("{options},userxattr");
        mount(Some("knarr"), root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
    };
    at(plain.or_else(|_| user()).map_err(io::Error::from))?;
    for name in ["dev", "proc", "sys", "tmp", "run", "var/tmp"] {
        let path = root.join(name);
        if std::fs::symlink_metadata(&path).is_err() {
            at(std::fs::create_dir_all(&path))?;
        }
    }
    Ok(())
}

/// Makes the root read-only, but for the places where programs may leave something for a while.
fn refuse_writes(root: &Path) -> Result<(), LinuxError> {
    let at = |outcome: nix::Result<()>| {
        outcome.map_err(io::Error::from).map_err(LinuxError::step("make the root read-only"))
    };
    for name in ["tmp", "run", "var/tmp"] {
        let path = root.join(name);
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            let options = Some("mode=1777");
            at(mount(Some("knarr"), &path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options))?;
        }
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    at(mount(None::<&str>, root, None::<&str>, flags, None::<&str>))
}

/// A directory of the root that is really one: a link could lead the mount elsewhere.
fn directory(root: &Path, name: &str) -> Result<PathBuf, LinuxError> {
    let path = root.join(name);
    let real = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
    if real {
        Ok(path)
    } else {
        Err(LinuxError::Sandbox { reason: format!("needs /{name} to be a directory in the root") })
    }
}

fn mount_dev(root: &Path) -> Result<(), LinuxError> {
    let dev = directory(root, "dev")?;
    let at = |name: &str, outcome: io::Result<()>| {
        outcome.map_err(LinuxError::step(format!("prepare /dev/{name}")))
    };
    let mounted = mount(Some("dev"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755,size=16m"));
    at("", mounted.map_err(io::Error::from))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let to = dev.join(name);
        at(name, std::fs::write(&to, b""))?;
        let from = Path::new("/dev").join(name);
        at(
            name,
            mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from),
        )?;
    }
    for name in ["pts", "shm"] {
        at(name, std::fs::create_dir(dev.join(name)))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let pts = mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    );
    at("pts", pts.map_err(io::Error::from))?;
    let shm = mount(
        Some("shm"),
        &dev.join("shm"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    );
    at("shm", shm.map_err(io::Error::from))?;
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    links.iter().try_for_each(|(name, target)| at(name, std::os::unix::fs::symlink(target, dev.join(name))))
}

fn wait_for(init: Pid) -> i32 {
    match waitpid(init, None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        _ => 1,
    }
}

/// Process 1 of the sandbox: runs what it is asked to until nobody asks any more.
fn serve() -> i32 {
    answer(0, 0, b"", &[]);
    let mut stdin = io::stdin().lock();
    loop {
        let mut length = [0; 4];
        if stdin.read_exact(&mut length).is_err() {
            return 0;
        }
        let mut body = vec![0; u32::from_le_bytes(length).min(MAX_MESSAGE_BYTES) as usize];
        if stdin.read_exact(&mut body).is_err() {
            return 0;
        }
        match decode(&body)
            .ok_or_else(|| io::Error::other("the request is damaged"))
            .and_then(|program| run(&program))
        {
            Ok(Outcome { status: Status::Exited(code), output, missing }) => {
                answer(0, code, &output, &missing);
            }
            Ok(Outcome { status: Status::Signaled(signal), output, missing }) => {
                answer(1, signal, &output, &missing);
            }
            Ok(Outcome { status: Status::TimedOut, output, missing }) => answer(2, 0, &output, &missing),
            Err(error) => answer(3, 0, error.to_string().as_bytes(), &[]),
        }
    }
}

fn answer(kind: u8, code: i32, output: &[u8], missing: &[String]) {
    let mut message = vec![kind];
    message.extend_from_slice(&code.to_le_bytes());
    message.extend_from_slice(&(output.len() as u32).to_le_bytes());
    message.extend_from_slice(output);
    let missing = missing.join("\0");
    message.extend_from_slice(&(missing.len() as u32).to_le_bytes());
    message.extend_from_slice(missing.as_bytes());
    // When nobody listens any more, the parent is gone and the kernel is about to end us.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(&message).and_then(|()| stdout.flush());
}

fn run(program: &Program) -> io::Result<Outcome> {
    let (name, arguments) =
        program.argv.split_first().ok_or_else(|| io::Error::other("the request names no program"))?;
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env_clear()
        .envs(program.env.iter().cloned())
        .current_dir(program.directory.as_deref().unwrap_or("/"))
        .stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    become_user(&mut command, program.user.clone(), program.trace);
    let spawned = command.spawn();
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let output = format!("cannot run {name}: {error}\n").into_bytes();
            // Who cannot be started, because it or its interpreter is not there, was looked for in vain.
            let missing = if name.starts_with('/') { vec![name.clone()] } else { Vec::new() };
            return Ok(Outcome { status: Status::Exited(127), output, missing });
        }
    };
    let outcome = if program.trace {
        crate::trace::watch(Pid::from_raw(child.id().cast_signed()), reader, program.timeout)
    } else {
        let watched = watch(&mut child, &mut reader, program.timeout);
        watched.map(|(status, output)| Outcome { status, output, missing: Vec::new() })
    };
    end_leftovers();
    outcome
}

/// What the child does before it becomes the program.
fn become_user(command: &mut Command, user: Option<Identity>, trace: bool) {
    let prepare = move || {
        if let Some(user) = &user {
            let groups: Vec<nix::unistd::Gid> =
                user.groups.iter().map(|id| nix::unistd::Gid::from_raw(*id)).collect();
            nix::unistd::setgroups(&groups)?;
            // Programs open /dev/stdout and /dev/stderr anew: what is behind them must be theirs.
            for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
                let owner = (nix::unistd::Uid::from_raw(user.uid), nix::unistd::Gid::from_raw(user.gid));
                nix::unistd::fchown(stream, Some(owner.0), Some(owner.1))?;
            }
            nix::unistd::setgid(nix::unistd::Gid::from_raw(user.gid))?;
            nix::unistd::setuid(nix::unistd::Uid::from_raw(user.uid))?;
        }
        if trace {
            nix::sys::ptrace::traceme()?;
        }
        Ok(())
    };
    // SAFETY: the supervisor has one thread when it forks, so the child may allocate and call what it likes.
    unsafe { command.pre_exec(prepare) };
}

fn watch(
    child: &mut Child,
    reader: &mut io::PipeReader,
    timeout: Option<Duration>,
) -> io::Result<(Status, Vec<u8>)> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut output = VecDeque::new();
    let mut open = true;
    loop {
        // Something in the background may hold the pipe open: so look at the child as well.
        if open && readable(reader, 20)? {
            open = drain(reader, &mut output)?;
        }
        let ended = if open { child.try_wait()? } else { wait_until(child, deadline)? };
        if let Some(status) = ended {
            while open && readable(reader, 0)? {
                open = drain(reader, &mut output)?;
            }
            let status =
                status.code().map_or_else(|| Status::Signaled(status.signal().unwrap_or(0)), Status::Exited);
            return Ok((status, output.into()));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let _ = child.kill();
            child.wait()?;
            return Ok((Status::TimedOut, output.into()));
        }
    }
}

fn wait_until(child: &mut Child, deadline: Option<Instant>) -> io::Result<Option<std::process::ExitStatus>> {
    let Some(deadline) = deadline else { return child.wait().map(Some) };
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(None)
}

fn readable(reader: &io::PipeReader, timeout_ms: u16) -> io::Result<bool> {
    let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::from(timeout_ms)) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn drain(reader: &mut io::PipeReader, output: &mut VecDeque<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let read = reader.read(&mut buffer)?;
    output.extend(&buffer[..read]);
    let excess = output.len().saturating_sub(MAX_OUTPUT_BYTES);
    output.drain(..excess);
    Ok(read > 0)
}

/// Ends every other process of the namespace and collects what is left of it.
fn end_leftovers() {
    // Refused when nothing else runs: that is what was wanted.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while !matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::empty())), Err(nix::errno::Errno::ECHILD)) {}
}
