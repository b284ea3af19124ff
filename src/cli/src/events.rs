//! `knarr events`, `info`, `version`: what happens in the engine, and what it is.

use std::fmt::Write;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Client, query, request};
use crate::container::filters;
use crate::template::render;
use crate::ui::Ui;

/// What `knarr events` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// From here on: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to here
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Those that fit: KEY=VALUE (may be given again)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A template, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// What shows one document takes.
#[derive(Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// `knarr events`.
pub(crate) fn run(args: &Args, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let query = query(&[
        ("since", args.since.clone()),
        ("until", args.until.clone()),
        ("filters", filters(&args.filter)?),
    ]);
    client.run(async {
        let mut lines = client.lines(request(Method::GET, &format!("/events{query}"), None)?).await?;
        while let Some(event) = lines.next().await? {
            if let Some(error) = event["error"].as_str() {
                anyhow::bail!("{error}");
            }
            let text = match args.format.as_deref() {
                Some("json") => event.to_string(),
                Some(format) => render(format, &event)?,
                None => line(&event),
            };
            ui.print(&format!("{text}\n"))?;
        }
        Ok(())
    })
}

fn line(event: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = jiff::Timestamp::from_nanosecond(i128::from(event["timeNano"].as_i64().unwrap_or_default()))
        .unwrap_or_default();
    let attributes = event["Actor"]["Attributes"].as_object().into_iter().flatten();
    let mut attributes: Vec<String> =
        attributes.map(|(key, value)| format!("{key}={}", word(value))).collect();
    attributes.sort();
    let (kind, action, id) = (word(&event["Type"]), word(&event["Action"]), word(&event["Actor"]["ID"]));
    format!("{time} {kind} {action} {id} ({})", attributes.join(", "))
}

/// `knarr info`.
pub(crate) fn info(args: &FormatArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let info = client.run(client.get("/info"))?;
    if let Some(format) = args.format.as_deref() {
        let text = if format == "json" { info.to_string() } else { render(format, &info)? };
        return ui.print(&format!("{text}\n"));
    }
    let keys = [
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Server Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
        ("Total Memory", "MemTotal"),
        ("Name", "Name"),
        ("ID", "ID"),
        ("Root Dir", "DockerRootDir"),
    ];
    let mut text = String::new();
    for (title, key) in keys {
        let value = &info[key];
        let value = match value.as_u64().filter(|_| key == "MemTotal") {
            Some(bytes) => knarr_base::HumanSize(bytes).to_string(),
            None => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        writeln!(text, "{title}: {value}")?;
    }
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(text, "WARNING: {warning}")?;
    }
    ui.print(&text)
}

/// `knarr version`.
pub(crate) fn version(args: &FormatArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let server = client.run(client.get("/version"))?;
    let own = json!({ "Version": env!("CARGO_PKG_VERSION"), "Os": "linux", "Arch": std::env::consts::ARCH });
    let both = json!({ "Client": own, "Server": server });
    if let Some(format) = args.format.as_deref() {
        let text = if format == "json" { both.to_string() } else { render(format, &both)? };
        return ui.print(&format!("{text}\n"));
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ui.print(&format!(
        "Client: Knarr\n Version:      {}\n OS/Arch:      linux/{}\n\nServer: {}\n Version:      {}\n API version:  {} (minimum version {})\n Kernel:       {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        word(&server["Platform"]["Name"]),
        word(&server["Version"]),
        word(&server["ApiVersion"]),
        word(&server["MinAPIVersion"]),
        word(&server["KernelVersion"]),
    ))
}
