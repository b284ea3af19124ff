//! `knarr system`: what Knarr keeps on this machine.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use knarr_base::HumanSize;
use knarr_mirror::cache::Cache;

use crate::settings::Settings;
use crate::ui::Ui;

/// What to do with what is kept.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much room the caches take
    Df {
        /// Where the cache lies
        #[arg(long, env = "KNARR_CACHE_DIR", value_name = "DIR")]
        cache_dir: Option<PathBuf>,
    },
    /// Remove what has not been used for long
    Prune {
        /// Where the cache lies
        #[arg(long, env = "KNARR_CACHE_DIR", value_name = "DIR")]
        cache_dir: Option<PathBuf>,
        /// Keep at most this much, such as 2GB
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,
        /// Remove what was not used for this long, such as 30d or 12h
        #[arg(long, value_name = "TIME", value_parser = parse_age)]
        max_age: Option<Duration>,
        /// Remove everything
        #[arg(short, long)]
        all: bool,
    },
}

const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Df { cache_dir: dir } => df(&open(dir.as_ref())?, ui),
        Command::Prune { cache_dir: dir, max_size, max_age, all } => {
            let size = if *all { 0 } else { max_size.unwrap_or(u64::MAX) };
            let age = max_age.unwrap_or(if max_size.is_some() { Duration::MAX } else { DEFAULT_MAX_AGE });
            let (files, bytes) = open(dir.as_ref())?.prune(size, age)?;
            ui.print(&format!("Removed {files} files, {}\n", HumanSize(bytes)))
        }
    }
}

fn open(dir: Option<&PathBuf>) -> anyhow::Result<Cache> {
    let path = match dir {
        Some(dir) => dir.clone(),
        None => Settings::load()?.cache_dir(),
    };
    Ok(Cache::open(&path)?)
}

fn df(cache: &Cache, ui: &Ui) -> anyhow::Result<()> {
    let mut text = format!("{:<12} {:>8} {:>10}\n", "TYPE", "FILES", "SIZE");
    for usage in cache.usage()? {
        writeln!(text, "{:<12} {:>8} {:>10}", usage.kind, usage.files, HumanSize(usage.bytes).to_string())?;
    }
    ui.print(&text)
}

pub(crate) fn parse_size(text: &str) -> anyhow::Result<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor: f64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        _ => bail!("{text:?} is no size: expected a number with B, kB, MB, GB or TB"),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no size"))?;
    Ok((number * factor) as u64)
}

/// A time such as `90s`, `15m`, `12h`, `30d`.
pub(crate) fn parse_age(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!("{text:?} is no time: expected a number with s, m, h or d"),
    };
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
}
