//! What the first process of a process namespace needs that is not the program itself: a child that is, signals to pass on,
//! and nothing of what was open.
//!
//! [`fork`] makes the child with the one system call that filters of containers let through.

use std::io;
use std::mem::MaybeUninit;

use nix::libc;

use crate::process::{check, has_one_thread};

/// Makes a copy of this process: `None` in the copy, its number in this one.
pub fn fork() -> io::Result<Option<i32>> {
    if !has_one_thread()? {
        return Err(io::Error::other("this process has several threads, so its children cannot run"));
    }
    // SAFETY: there is one thread, so the child may do what this process may.
    match check(i64::from(unsafe { libc::fork() }))? {
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// Keeps all signals for [`next_signal`].
pub fn hold_signals() -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?)
}

/// Waits for a signal that was held, and answers with its number.
pub fn next_signal() -> io::Result<i32> {
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset writes all of the set; sigwaitinfo reads it, and writes nothing when it is given no place.
    let signal = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut())
    };
    check(i64::from(signal)).map(|signal| signal as i32)
}

/// Sends a signal to a process.
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill reads and writes no memory of ours.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// Has the lists of processes show `title` instead of what this one was called with; it is cut where there is no room.
/// Whoever calls never asks for its own arguments again.
pub fn set_title(title: &str) -> io::Result<()> {
    let (begin, end) = own_arguments(&std::fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| io::Error::other("the kernel does not tell where the arguments are"))?;
    let room = end.saturating_sub(begin);
    let length = title.len().min(room.saturating_sub(1));
    // SAFETY: the kernel put the arguments there, on this process's own stack, and there is one thread.
    unsafe {
        let place = begin as *mut u8;
        place.write_bytes(0, room);
        place.copy_from_nonoverlapping(title.as_ptr(), length);
    }
    Ok(())
}

/// Where the arguments begin and end: fields 48 and 49. The name in the second may have anything in it.
fn own_arguments(stat: &str) -> Option<(usize, usize)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(45);
    let (begin, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (begin > 0 && begin < end).then_some((begin, end))
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::{hold_signals, next_signal, own_arguments};

    #[test]
    fn arguments_lie_where_the_kernel_says() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (begin, end) = own_arguments(&stat).unwrap();
        let shown = std::fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(end - begin, shown.len());
        assert_eq!(own_arguments("1 (a) b) S 0"), None);
    }

    #[test]
    fn a_signal_that_is_held_is_the_next() {
        let held = std::thread::spawn(|| {
            hold_signals().unwrap();
            raise(Signal::SIGUSR1).unwrap();
            next_signal().unwrap()
        });
        assert_eq!(held.join().unwrap(), Signal::SIGUSR1 as i32);
    }
}
