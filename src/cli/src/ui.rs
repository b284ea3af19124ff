//! What people see: progress on standard error, results on standard output.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use knarr_bootstrap::Progress;

/// The terminal, or whatever stands in for it.
pub(crate) struct Ui {
    quiet: bool,
    color: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Ui {
    pub(crate) fn new(quiet: bool) -> Self {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { quiet, color, bar: Mutex::new(None) }
    }

    /// Whether people asked for less.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a result. A reader that has gone away is no error.
    pub(crate) fn print(&self, text: &str) -> anyhow::Result<()> {
        match io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome.context("cannot write to standard output"),
        }
    }

    /// Prints a line for people.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    pub(crate) fn error(&self, text: &str) {
        self.line(&format!("{}: {text}", self.paint("error", "31;1")));
    }

    pub(crate) fn hint(&self, text: &str) {
        self.line(&format!("{}: {text}", self.paint("hint", "36")));
    }

    /// Takes the progress bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.lock().take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        let write = || {
            // Standard error that cannot be written to leaves nowhere to say so.
            let _ = writeln!(io::stderr().lock(), "{text}");
        };
        match &*self.lock() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shows_bars(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// How wide standard error is; as terminals were where nobody knows.
fn terminal_columns() -> u16 {
    rustix::termios::tcgetwinsize(io::stderr())
        .map(|size| size.ws_col)
        .ok()
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

impl Progress for Ui {
    fn phase(&self, name: &str) {
        self.clear();
        if self.shows_bars() {
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style).with_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            *self.lock() = Some(bar);
        } else {
            self.say(name);
        }
    }

    fn expect_bytes(&self, bytes: u64) {
        if let Some(bar) = &*self.lock() {
            const WIDE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            const NARROW: &str = "{wide_msg} {percent:>3} %";
            let is_wide = terminal_columns() >= 96;
            let style = ProgressStyle::with_template(if is_wide { WIDE } else { NARROW });
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_length(bytes);
        }
    }

    fn bytes(&self, bytes: u64) {
        if let Some(bar) = &*self.lock() {
            bar.inc(bytes);
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("{}: {text}", self.paint("warning", "33")));
    }
}
