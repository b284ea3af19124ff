//! Interrupts: Ctrl-C and its kin, as a flag that long work looks at.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP set [`interrupted`]; the second one ends the process at once.
pub fn watch() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESTART, SigSet::empty());
    for signal in WATCHED {
        // SAFETY: the handler only touches an atomic and calls _exit, both async-signal-safe.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// They mean again what they mean to a program that says nothing of them: for one that hears them in its own way, and is told
/// more than once.
pub fn forget() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in WATCHED {
        // SAFETY: no handler of ours runs any more.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

const WATCHED: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The flag itself.
#[must_use]
pub fn interrupted() -> &'static AtomicBool {
    &INTERRUPTED
}

/// The number of a signal: by number, or by name with or without `SIG`, `RTMIN+3` and `RTMAX-1` among them.
#[must_use]
pub fn by_name(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        Some(libc::SIGRTMIN() + offset(rest)?)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        Some(libc::SIGRTMAX() + offset(rest)?)
    } else {
        None
    };
    let in_range = |number: &i32| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number);
    real_time.map_or_else(
        || format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32),
        |number| Some(number).filter(in_range),
    )
}

extern "C" fn handle(_: i32) {
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(130) };
    }
}

#[cfg(test)]
mod tests {
    use super::by_name;

    #[test]
    fn a_signal_has_a_number_and_names() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("0", 0)]
        {
            assert_eq!(by_name(text), Some(number), "{text}");
        }
        for bad in ["", "SIG", "NOPE", "65", "-1", "RTMIN+99"] {
            assert_eq!(by_name(bad), None, "{bad}");
        }
    }
}
