//! `knarr suite`: which suites there are.

use std::fmt::Write;

use clap::Subcommand;
use knarr_mirror::repository::{self, Repository};
use knarr_mirror::suite::Suite;

use crate::ui::Ui;

/// What to do with suites.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the suites
    #[command(alias = "list")]
    Ls,
    /// Show what a suite stands for
    Show {
        /// Name or alias of a suite, a suite file, or a .sources file
        suite: String,
    },
}

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Ls => list(ui),
        Command::Show { suite } => show(suite, ui),
    }
}

/// A suite by name, or from a file when the word looks like a path; with the repositories that stand
/// in for its own mirrors when the file is one of apt's.
pub(crate) fn find(word: &str) -> anyhow::Result<(Suite, Option<Vec<Repository>>)> {
    if repository::is_sources(word) {
        let repositories = repository::load(word)?;
        return Ok((Suite::of_repository(&repositories[0]), Some(repositories)));
    }
    if word.contains('/') || word.ends_with(".toml") {
        let text = std::fs::read_to_string(word).map_err(|source| knarr_bootstrap::BootstrapError::File {
            path: word.into(),
            doing: "read",
            source,
        })?;
        return Ok((Suite::parse(word, &text)?, None));
    }
    Ok((Suite::find(word)?, None))
}

fn list(ui: &Ui) -> anyhow::Result<()> {
    let mut text =
        format!("{:<12} {:<14} {:<9} {:<24} {}\n", "SUITE", "DISTRIBUTION", "VERSION", "ALIASES", "POCKETS");
    for suite in Suite::all()? {
        let pockets: Vec<&str> = suite.pockets.iter().map(|pocket| pocket.name.as_str()).collect();
        let version = if suite.version.is_empty() { "-" } else { &suite.version };
        writeln!(
            text,
            "{:<12} {:<14} {:<9} {:<24} {}",
            suite.name,
            suite.distribution,
            version,
            suite.aliases.join(","),
            pockets.join(",")
        )?;
    }
    ui.print(&text)
}

fn show(word: &str, ui: &Ui) -> anyhow::Result<()> {
    let (suite, _) = find(word)?;
    let mut text = String::new();
    let architectures: Vec<&str> =
        suite.architectures.iter().map(|architecture| architecture.name()).collect();
    let mut line = |name: &str, value: &str| writeln!(text, "{name:<16} {value}");
    line("Name:", &suite.name)?;
    line("Aliases:", &suite.aliases.join(", "))?;
    line("Distribution:", &format!("{} {}", suite.distribution, suite.version))?;
    line("Mirror:", &suite.mirror)?;
    line("Security mirror:", suite.security_mirror.as_deref().unwrap_or("-"))?;
    line("Components:", &suite.all_components.join(", "))?;
    line("Architectures:", &architectures.join(", "))?;
    line("Keyrings:", &suite.keyrings.join(", "))?;
    for pocket in &suite.pockets {
        line("Pocket:", &format!("{} ({})", pocket.name, pocket.suite))?;
    }
    ui.print(&text)
}
