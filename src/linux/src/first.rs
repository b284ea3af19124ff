//! What the first process of a process namespace needs that is not the program itself: a child that is, signals to pass on,
//! and nothing of what was open.
//!
//! [`fork`] makes the child with the one system call that filters of containers let through.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

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

/// Closes everything from `first` on. Whoever calls owns none of it any more, and never comes back.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: close_range reads and writes no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) }).map(drop)
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

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::{hold_signals, next_signal};

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
