//! The first process of a container that is to have an init: it passes signals on to the program, reaps what others leave
//! behind, and ends as the program does.
//!
//! [`split`] makes two of one: it comes back in the process that becomes the program only.
//!
//! Spec: pid_namespaces(7), "The namespace init process"; docker's `--init`.

use std::io;

use knarr_linux::{first, process};
use nix::libc;
use rustix::process::{WaitOptions, WaitStatus};

use crate::RuntimeError;

/// Asks for an init, when it is `true`.
pub const ANNOTATION: &str = "io.knarr.init";
/// As others see it.
const NAME: &std::ffi::CStr = c"docker-init";
const TITLE: &str = "/sbin/docker-init";
/// The exit status of who was ended by a signal is this and its number.
const BY_SIGNAL: i32 = 128;

/// From here on the program is a child of this process.
pub(crate) fn split() -> Result<(), RuntimeError> {
    first::hold_signals().map_err(RuntimeError::step("hold signals for the init"))?;
    match first::fork().map_err(RuntimeError::step("make the program a child of the init"))? {
        Some(program) => tend(program),
        None => lead().map_err(RuntimeError::step("part the program from the init")),
    }
}

/// The program gets a group of its own, and the terminal with it; then signals reach it as any other.
fn lead() -> io::Result<()> {
    rustix::process::setpgid(None, None)?;
    match rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid()) {
        // There is no terminal, or it is another one's.
        Ok(()) | Err(rustix::io::Errno::NOTTY | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    process::reset_signals()
}

fn tend(program: i32) -> ! {
    // Nothing can be told any more when this fails; the program has what it needs.
    let _ = process::close_from(3);
    let _ = rustix::thread::set_name(NAME);
    let _ = first::set_title(TITLE);
    loop {
        match first::next_signal() {
            Ok(libc::SIGCHLD) => {
                if let Some(status) = reap(program) {
                    process::end_now(status);
                }
            }
            // Those are of the terminal for whoever asks it from behind.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            // It may have ended just now.
            Ok(signal) => drop(first::send(program, signal)),
            // It was stopped and goes on.
            Err(_) => {}
        }
    }
}

/// Reaps all that have ended: the program's exit status, when it is among them.
fn reap(program: i32) -> Option<i32> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == program {
            ended = Some(status_of(status));
        }
    }
    ended
}

fn status_of(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| BY_SIGNAL + status.terminating_signal().unwrap_or_default())
}
