//! Questions that are answered at the terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context, bail};
use knarr_registry::RegistryError;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Asks on the terminal. Whoever presses Ctrl-C gets a terminal back that shows what is typed.
pub(crate) fn ask(prompt: &str, is_secret: bool) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        bail!("standard input is no terminal");
    }
    io::stderr().write_all(prompt.as_bytes())?;
    let silence = if is_secret { Some(Silence::begin()?) } else { None };
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reading cannot be interrupted: it is left behind when nobody waits for it any more.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = sender.send(io::stdin().read_line(&mut line).map(|_| line));
    });
    let answer = loop {
        if knarr_linux::signals::interrupted().load(Ordering::Relaxed) {
            break Err(RegistryError::Interrupted.into());
        }
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(anyhow::anyhow!("cannot read from the terminal"));
            }
            Ok(line) => break line.context("cannot read from the terminal"),
        }
    };
    if silence.is_some() {
        io::stderr().write_all(b"\n")?;
    }
    Ok(answer?.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing anyway.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
