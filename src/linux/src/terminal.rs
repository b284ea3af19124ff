//! The terminal of whoever sits there, for questions that are not answered by standard input.
//!
//! [`read_password`] asks for a line that is not shown while it is typed.
//!
//! Spec: tty(4), termios(3).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Longer lines are nobody's password.
const MAX_LINE_BYTES: u64 = 4096;

/// Asks for a password at the terminal of this process.
pub fn read_password(prompt: &str) -> io::Result<String> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(prompt.as_bytes())?;
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    quiet.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
    let guard = Shown { terminal: &terminal, before };
    let mut line = String::new();
    BufReader::new((&terminal).take(MAX_LINE_BYTES)).read_line(&mut line)?;
    drop(guard);
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Shows again what is typed, however the question ends.
struct Shown<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
