//! Interrupts: Ctrl-C and its kin, as a flag that long work looks at.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP set [`interrupted`]; the second one ends the process at once.
pub fn watch() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only touches an atomic and calls _exit, both async-signal-safe.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// The flag itself.
#[must_use]
pub fn interrupted() -> &'static AtomicBool {
    &INTERRUPTED
}

extern "C" fn handle(_: i32) {
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(130) };
    }
}
