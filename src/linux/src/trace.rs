//! Watching a program look for files in vain.
//!
//! [`watch`] follows a program and all that it starts from system call to system call. Of each that fails because
//! a path is not there, the path is noted.
//!
//! Spec: ptrace(2), `PTRACE_GET_SYSCALL_INFO`.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sandbox::{MAX_OUTPUT_BYTES, Outcome, Status};

/// So many paths are noted; a program that looks for more goes on unobserved.
const MAX_PATHS: usize = 20_000;

/// Follows a program that is about to start, until it has ended.
pub(crate) fn watch(child: Pid, reader: io::PipeReader, timeout: Option<Duration>) -> io::Result<Outcome> {
    let output = std::thread::spawn(move || read_tail(reader));
    let timer = Timer::start(timeout);
    let followed = Tracer::default().follow(child);
    let timed_out = timer.stop();
    // What else holds the pipe ends with it.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let output = output.join().map_err(|_| io::Error::other("the reading thread panicked"))??;
    let (status, missing) = followed?;
    Ok(Outcome { status: if timed_out { Status::TimedOut } else { status }, output, missing })
}

fn read_tail(mut reader: io::PipeReader) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(output),
            read => output.extend_from_slice(&buffer[..read]),
        }
        let excess = output.len().saturating_sub(MAX_OUTPUT_BYTES);
        output.drain(..excess);
    }
}

/// Ends everything in the sandbox when it takes too long.
struct Timer {
    ended: Arc<(Mutex<bool>, Condvar)>,
    fired: Arc<AtomicBool>,
}

impl Timer {
    fn start(timeout: Option<Duration>) -> Self {
        let timer = Self { ended: Arc::default(), fired: Arc::default() };
        let Some(timeout) = timeout else { return timer };
        let (ended, fired) = (Arc::clone(&timer.ended), Arc::clone(&timer.fired));
        std::thread::spawn(move || {
            let guard = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = ended.1.wait_timeout_while(guard, timeout, |ended| !*ended);
            let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if !*ended {
                fired.store(true, Ordering::SeqCst);
                // Nothing left to end is no error.
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
        });
        timer
    }

    fn stop(&self) -> bool {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        self.fired.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Tracer {
    /// The call that each process is in.
    calls: HashMap<Pid, Call>,
    missing: Vec<String>,
    seen: BTreeSet<String>,
}

#[derive(Clone, Copy)]
struct Call {
    number: i64,
    arguments: [u64; 6],
}

impl Tracer {
    fn follow(mut self, child: Pid) -> io::Result<(Status, Vec<String>)> {
        waitpid(child, None)?;
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(child, options)?;
        go_on(child, None);
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                    return Ok((Status::Exited(code), self.missing));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return Ok((Status::Signaled(signal as i32), self.missing));
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.at_call(pid);
                    go_on(pid, None);
                }
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    // A new process begins with a stop of its own, which is not for it to see.
                    let own = matches!(signal, Signal::SIGSTOP | Signal::SIGTRAP);
                    go_on(pid, (!own).then_some(signal));
                }
                Ok(status) => status.pid().into_iter().for_each(|pid| go_on(pid, None)),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn at_call(&mut self, pid: Pid) {
        match Info::of(pid) {
            Some(Info::Entry(call)) => {
                self.calls.insert(pid, call);
            }
            Some(Info::Exit(result)) => {
                let call = self.calls.remove(&pid);
                let absent = result == -i64::from(libc::ENOENT) || result == -i64::from(libc::ENOTDIR);
                if let Some(call) = call.filter(|_| absent && self.missing.len() < MAX_PATHS) {
                    self.note(pid, call);
                }
            }
            None => {}
        }
    }

    fn note(&mut self, pid: Pid, call: Call) {
        let Some((directory, at)) = path_of(call) else { return };
        let Some(path) = read_text(pid, at).filter(|path| !path.is_empty()) else { return };
        let path = if path.starts_with('/') {
            path
        } else {
            let link = match directory {
                Some(fd) if fd != libc::AT_FDCWD => format!("/proc/{pid}/fd/{fd}"),
                _ => format!("/proc/{pid}/cwd"),
            };
            let Ok(base) = std::fs::read_link(link) else { return };
            format!("{}/{path}", base.to_string_lossy().trim_end_matches('/'))
        };
        if self.seen.insert(path.clone()) {
            self.missing.push(path);
        }
    }
}

/// A process that is gone in the meantime needs nothing more.
fn go_on(pid: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(pid, signal);
}

/// What the kernel says of the stop.
enum Info {
    Entry(Call),
    Exit(i64),
}

/// The kernel's `struct ptrace_syscall_info` as far as it is of use here.
#[repr(C)]
struct Raw {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    /// Of an entry the number and six arguments, of an exit the result.
    words: [u64; 8],
}

const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

impl Info {
    fn of(pid: Pid) -> Option<Self> {
        let mut raw = MaybeUninit::<Raw>::zeroed();
        // SAFETY: the kernel writes at most as many bytes as it is told, into memory that is all of that size; every
        // pattern of bits is a value of `Raw`.
        let raw = unsafe {
            let written = libc::ptrace(GET_SYSCALL_INFO, pid.as_raw(), size_of::<Raw>(), raw.as_mut_ptr());
            if written <= 0 {
                return None;
            }
            raw.assume_init()
        };
        let [number, arguments @ .., _] = raw.words;
        match raw.op {
            ENTRY => Some(Self::Entry(Call { number: number.cast_signed(), arguments })),
            EXIT => Some(Self::Exit(number.cast_signed())),
            _ => None,
        }
    }
}

/// The directory and the address of the path that a call is given.
fn path_of(call: Call) -> Option<(Option<i32>, u64)> {
    let [first, second, ..] = call.arguments;
    #[cfg(target_arch = "x86_64")]
    if matches!(
        call.number,
        libc::SYS_open | libc::SYS_stat | libc::SYS_lstat | libc::SYS_access | libc::SYS_readlink
    ) {
        return Some((None, first));
    }
    match call.number {
        libc::SYS_execve => Some((None, first)),
        libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_newfstatat
        | libc::SYS_readlinkat
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_statx
        | libc::SYS_execveat => Some((Some(first as i32), second)),
        _ => None,
    }
}

/// A text that ends with NUL in the memory of a process.
fn read_text(pid: Pid, at: u64) -> Option<String> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut text = Vec::new();
    // A text may end just before memory that is not there: page by page.
    let mut at = at;
    while text.len() < 4096 {
        let room = 4096 - (at % 4096) as usize;
        let mut page = vec![0; room];
        let read = std::os::unix::fs::FileExt::read_at(&memory, &mut page, at).ok()?;
        match page[..read].iter().position(|&byte| byte == 0) {
            Some(end) => {
                text.extend_from_slice(&page[..end]);
                return String::from_utf8(text).ok();
            }
            None if read == 0 => return None,
            None => text.extend_from_slice(&page[..read]),
        }
        at += read as u64;
    }
    None
}
