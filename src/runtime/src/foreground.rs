//! Staying with a process: its terminal here, its signals passed on, its exit status in the end.
//!
//! [`Signals::block`] comes before the process is made, [`Signals::follow`] after.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use knarr_linux::process::Process;
use knarr_linux::terminal::{RawMode, copy_size};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::isatty;

use crate::RuntimeError;

/// The signals of this process, which arrive as messages from now on.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Holds all signals back that can be.
    pub fn block() -> Result<Self, RuntimeError> {
        let all = SigSet::all();
        all.thread_block().map_err(RuntimeError::step("hold signals back"))?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        fd.map(Self).map_err(RuntimeError::step("watch signals"))
    }

    /// Stays with a child until it ends; its exit status.
    pub fn follow(&self, process: &Process, terminal: Option<OwnedFd>) -> Result<i32, RuntimeError> {
        let followed = || -> io::Result<i32> {
            let stdin = io::stdin();
            let raw = terminal.is_some() && isatty(&stdin);
            let _raw = raw.then(|| RawMode::enter(stdin.as_fd())).transpose()?;
            let mut relay = terminal.map(Relay::new);
            self.resize(relay.as_ref());
            while !self.wait(process, &mut relay)? {}
            relay.into_iter().for_each(|mut relay| relay.drain());
            process.reap()
        };
        followed().map_err(RuntimeError::step("stay with the process"))
    }

    /// One round; true when the process has ended.
    fn wait(&self, process: &Process, relay: &mut Option<Relay>) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut polled = vec![
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = relay {
            polled.push(PollFd::new(relay.terminal.as_fd(), PollFlags::POLLIN));
            if relay.typing {
                polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        poll(&mut polled, PollTimeout::NONE)?;
        let ready: Vec<bool> =
            polled.iter().map(|one| one.revents().is_some_and(|events| !events.is_empty())).collect();
        drop(polled);
        if ready[1] {
            self.pass_on(process, relay.as_ref());
        }
        if let Some(open) = relay {
            let is_ready = |index: usize| ready.get(index) == Some(&true);
            if is_ready(3) {
                open.type_in();
            }
            if is_ready(2) && !open.show() {
                *relay = None;
            }
        }
        Ok(ready[0])
    }

    fn pass_on(&self, process: &Process, relay: Option<&Relay>) {
        while let Ok(Some(info)) = self.0.read_signal() {
            match info.ssi_signo as i32 {
                nix::libc::SIGWINCH => self.resize(relay),
                nix::libc::SIGCHLD | nix::libc::SIGPIPE | nix::libc::SIGURG => {}
                // One that ends just now needs no signal.
                signal => _ = process.signal(signal),
            }
        }
    }

    fn resize(&self, relay: Option<&Relay>) {
        if let Some(relay) = relay {
            // Not on a terminal ourselves: there is no size to copy.
            let _ = copy_size(io::stdin().as_fd(), relay.terminal.as_fd());
        }
    }
}

struct Relay {
    terminal: File,
    typing: bool,
}

impl Relay {
    fn new(terminal: OwnedFd) -> Self {
        Self { terminal: File::from(terminal), typing: true }
    }

    fn type_in(&mut self) {
        let mut bytes = [0; 4096];
        match io::stdin().lock().read(&mut bytes) {
            Ok(length) if length > 0 => self.typing = self.terminal.write_all(&bytes[..length]).is_ok(),
            _ => self.typing = false,
        }
    }

    /// False when nobody has the other side open any more.
    fn show(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.terminal.read(&mut bytes) {
            Ok(length) if length > 0 => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes[..length]).and_then(|()| out.flush()).is_ok()
            }
            _ => false,
        }
    }

    /// What was written before the end.
    fn drain(&mut self) {
        let is_ready = |terminal: &File| {
            let mut polled = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        while is_ready(&self.terminal) && self.show() {}
    }
}
