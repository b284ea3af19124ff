//! `knarr system`: what Knarr keeps on this machine.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use knarr_base::HumanSize;
use knarr_mirror::cache::Cache;
use knarr_store::{Store, gc};

use crate::image::{self, StoreArgs, become_owner};
use crate::settings::Settings;
use crate::ui::Ui;

/// Where what is kept lies.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Places {
    /// Where the cache lies
    #[arg(long, env = "KNARR_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What to do with what is kept.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much room caches and images take
    Df {
        #[command(flatten)]
        places: Places,
    },
    /// Remove what has not been used for long, images without a name, and what killed runs left
    Prune {
        #[command(flatten)]
        places: Places,
        /// Keep at most this much in the cache, such as 2GB
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,
        /// Remove from the cache what was not used for this long, such as 30d or 12h
        #[arg(long, value_name = "TIME", value_parser = parse_age)]
        max_age: Option<Duration>,
        /// Remove the whole cache
        #[arg(short, long)]
        all: bool,
    },
    /// Look at everything that is kept: every byte of every image, and what killed runs left
    Check {
        #[command(flatten)]
        places: Places,
    },
}

const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Df { places } => {
            let (cache, store) = places.open()?;
            become_owner()?;
            df(&cache, &store, ui)
        }
        Command::Prune { places, max_size, max_age, all } => {
            let size = if *all { 0 } else { max_size.unwrap_or(u64::MAX) };
            let age = max_age.unwrap_or(if max_size.is_some() { Duration::MAX } else { DEFAULT_MAX_AGE });
            let (cache, store) = places.open()?;
            let (files, bytes) = cache.prune(size, age)?;
            ui.print(&format!("Removed {files} files of the cache, {}\n", HumanSize(bytes)))?;
            image::prune(&store, false, ui)
        }
        Command::Check { places } => {
            let (cache, store) = places.open()?;
            for path in cache.leftovers()? {
                ui.print(&format!("garbage: {}: left by a process that is gone\n", path.display()))?;
            }
            image::check(&store, ui)
        }
    }
}

impl Places {
    fn open(&self) -> anyhow::Result<(Cache, Store)> {
        let path = match &self.cache_dir {
            Some(dir) => dir.clone(),
            None => Settings::load()?.cache_dir(),
        };
        Ok((Cache::open(&path)?, self.store.open()?))
    }
}

fn df(cache: &Cache, store: &Store, ui: &Ui) -> anyhow::Result<()> {
    let mut text = format!("{:<12} {:>8} {:>10} {:>12}\n", "TYPE", "COUNT", "SIZE", "RECLAIMABLE");
    let mut line = |kind: &str, count: u64, bytes: u64, free: u64| {
        let (size, free) = (HumanSize(bytes).to_string(), HumanSize(free).to_string());
        writeln!(text, "{kind:<12} {count:>8} {size:>10} {free:>12}")
    };
    let usage = gc::usage(store)?;
    line("images", usage.images, usage.blob_bytes, usage.unneeded_bytes)?;
    line("layers", usage.layers, usage.layer_bytes, usage.layer_bytes)?;
    for usage in cache.usage()? {
        // Dates of Release files are protection; all else can be fetched or made again.
        line(usage.kind, usage.files, usage.bytes, usage.bytes)?;
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
