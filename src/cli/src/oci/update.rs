//! New limits, from flags or from a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use knarr_runtime::RuntimeError;
use knarr_runtime::spec::{Resources, read_bounded};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Take them from this file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Share of the disks beside others
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Length of a period in microseconds
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Microseconds in each period
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long)]
    cpu_burst: Option<u64>,
    /// Share of the processors beside others
    #[arg(long)]
    cpu_share: Option<u64>,
    /// Length of a period for real-time processes in microseconds
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    /// Microseconds in each of them
    #[arg(long, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Only when nobody else wants to
    #[arg(long)]
    cpu_idle: Option<i64>,
    /// Memory, in bytes or with k, m, g
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory when it is short
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory together with swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The container
    id: String,
}

impl Args {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn resources(&self) -> Result<Resources, RuntimeError> {
        let mut resources = self.resources.as_deref().map(load).transpose()?.unwrap_or_default();
        let memory = resources.memory.get_or_insert_default();
        set(&mut memory.limit, self.memory.as_deref().map(parse_size).transpose()?);
        set(&mut memory.reservation, self.memory_reservation.as_deref().map(parse_size).transpose()?);
        set(&mut memory.swap, self.memory_swap.as_deref().map(parse_size).transpose()?);
        let cpu = resources.cpu.get_or_insert_default();
        set(&mut cpu.shares, self.cpu_share);
        set(&mut cpu.quota, self.cpu_quota);
        set(&mut cpu.burst, self.cpu_burst);
        set(&mut cpu.period, self.cpu_period);
        set(&mut cpu.realtime_period, self.cpu_rt_period);
        set(&mut cpu.realtime_runtime, self.cpu_rt_runtime);
        set(&mut cpu.cpus, self.cpuset_cpus.clone());
        set(&mut cpu.mems, self.cpuset_mems.clone());
        set(&mut cpu.idle, self.cpu_idle);
        set(&mut resources.pids.get_or_insert_default().limit, self.pids_limit);
        set(&mut resources.block_io.get_or_insert_default().weight, self.blkio_weight);
        Ok(resources)
    }
}

fn set<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

fn load(path: &Path) -> Result<Resources, RuntimeError> {
    const MOST_BYTES: u64 = 1 << 20;
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        let read = std::io::stdin().take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(|source| RuntimeError::File { doing: "read", path: path.to_owned(), source })?;
        text
    } else {
        read_bounded(path)?
    };
    serde_json::from_slice(&text).map_err(|source| RuntimeError::Config { path: path.to_owned(), source })
}

fn parse_size(text: &str) -> Result<i64, RuntimeError> {
    let bad = || RuntimeError::Request(format!("{text:?} is no size: 512m is one, -1 is none"));
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches('b');
    let (digits, factor) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 1 << 10),
        Some('m') => (&lower[..lower.len() - 1], 1 << 20),
        Some('g') => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    digits.parse::<i64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)
}
