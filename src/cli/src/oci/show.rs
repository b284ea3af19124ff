//! What is only shown: states, lists, processes, figures, a first configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use knarr_runtime::state::{self, Container, State, Status};
use knarr_runtime::{RuntimeError, lifecycle, stats};
use serde_json::{Value, json};

use crate::ui::Ui;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print in this form
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PsArgs {
    /// Print in this form
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// The container
    id: String,
    /// Arguments for ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl PsArgs {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Print the figures once
    #[arg(long)]
    stats: bool,
    /// Print them so often
    #[arg(long, default_value = "5s", value_name = "TIME")]
    interval: String,
    /// The container
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
    /// Write into this directory
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// For an ordinary user
    #[arg(long)]
    rootless: bool,
}

fn details(state: &State, status: Status) -> Value {
    let mut value = state.to_json(&status.to_string());
    value["rootfs"] = json!(state.rootfs);
    value["created"] = json!(state.created);
    value["owner"] = json!(owner_name(state.owner));
    value
}

fn owner_name(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("#{uid}") }
}

pub(super) fn state(container: &Container, ui: &Ui) -> anyhow::Result<()> {
    ui.print(&format!("{:#}\n", details(&container.state, container.status()?)))
}

pub(super) fn list(root: &Path, args: &ListArgs, ui: &Ui) -> anyhow::Result<()> {
    let all = state::list(root)?;
    if args.quiet {
        return all.iter().try_for_each(|(state, _)| ui.print(&format!("{}\n", state.id)));
    }
    if args.format == "json" {
        let all: Vec<Value> = all.iter().map(|(state, status)| details(state, *status)).collect();
        return ui.print(&format!("{}\n", Value::from(all)));
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |(state, status): &(State, Status)| {
        let pid = if *status == Status::Stopped { 0 } else { state.pid };
        let bundle = state.bundle.display().to_string();
        [
            state.id.clone(),
            pid.to_string(),
            status.to_string(),
            bundle,
            state.created.clone(),
            owner_name(state.owner),
        ]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(all.iter().map(row)).collect();
    ui.print(&table(&rows))
}

fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

pub(super) fn ps(container: &Container, args: &PsArgs, ui: &Ui) -> anyhow::Result<()> {
    let pids = lifecycle::processes(container)?;
    if args.format == "json" {
        return ui.print(&format!("{}\n", json!(pids)));
    }
    let options = if args.options.is_empty() { vec!["-ef".to_owned()] } else { args.options.clone() };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .context("cannot run ps, which the package procps brings")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column =
        head.split_ascii_whitespace().position(|name| name == "PID").context("ps prints no PID column")?;
    ui.print(&format!("{head}\n"))?;
    let is_ours = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|field| field.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    lines.filter(is_ours).try_for_each(|line| ui.print(&format!("{line}\n")))
}

pub(super) fn events(root: &Path, args: &EventsArgs, ui: &Ui) -> anyhow::Result<()> {
    let interval = parse_interval(&args.interval)?;
    let mut kills = None;
    loop {
        let container = Container::open(root, &args.id)?;
        if container.status()? == Status::Stopped {
            let verb = "read the figures of";
            let stopped =
                RuntimeError::WrongStatus { verb, id: args.id.clone(), status: "stopped".to_owned() };
            return if kills.is_some() { Ok(()) } else { Err(stopped.into()) };
        }
        ui.print(&format!("{}\n", stats::stats(&container)?))?;
        if args.stats {
            return Ok(());
        }
        let now = stats::out_of_memory_kills(&container)?;
        if kills.is_some_and(|before| now > before) {
            ui.print(&format!("{}\n", json!({ "type": "oom", "id": args.id })))?;
        }
        kills = Some(now);
        drop(container);
        std::thread::sleep(interval);
    }
}

fn parse_interval(text: &str) -> Result<Duration, RuntimeError> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let parse = |(unit, factor): &(&str, u64)| Some(text.strip_suffix(unit)?.parse::<u64>().ok()? * factor);
    let millis = units.iter().find_map(parse).filter(|millis| *millis > 0);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| RuntimeError::Request(format!("{text:?} is no time: 5s is one")))
}

pub(super) fn spec(args: &SpecArgs) -> anyhow::Result<()> {
    let path = args.bundle.join("config.json");
    let text = format!("{:#}\n", knarr_runtime::example::configuration(args.rootless));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
