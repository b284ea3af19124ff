//! `knarr lock`: what is in locks.

use std::path::PathBuf;

use clap::Subcommand;
use knarr_bootstrap::lock::{Lock, diff};
use knarr_bootstrap::run::describe;

use crate::ui::Ui;

/// What to do with locks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what changed from one lock to another
    Diff {
        /// The older lock
        old: PathBuf,
        /// The newer lock
        new: PathBuf,
    },
}

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    let Command::Diff { old, new } = command;
    let changes = diff(&Lock::load(old)?, &Lock::load(new)?);
    let text: String = changes.iter().map(|change| describe(change) + "\n").collect();
    ui.print(&text)
}
