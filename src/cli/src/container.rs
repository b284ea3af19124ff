//! `knarr ps`, `stop`, `rm` and all else that is done with containers but to run programs in them.
//!
//! Spec: docker's commands of these names.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use http::Method;
use knarr_base::HumanSize;
use serde_json::{Value, json};

use crate::client::{Client, encode, query, request, upload};
use crate::create::{CreateArgs, bytes, restart as restart_policy};
use crate::exit::Answer;
use crate::run::{AttachArgs, ExecArgs, RunArgs, StartArgs};
use crate::session;
use crate::table::{ago, table};
use crate::template::render;
use crate::ui::Ui;

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program in a new container
    Run(Box<RunArgs>),
    /// Make a container without starting it
    Create(Box<CreateArgs>),
    /// Start containers
    Start(StartArgs),
    /// Stop containers
    Stop(StopArgs),
    /// Stop containers and start them again
    Restart(StopArgs),
    /// Send containers a signal
    Kill(KillArgs),
    /// Remove containers
    Rm(RmArgs),
    /// List containers
    #[command(alias = "ps", alias = "list")]
    Ls(PsArgs),
    /// Run another program in a container
    Exec(ExecArgs),
    /// Connect to a container's program
    Attach(AttachArgs),
    /// Show what containers have written
    Logs(LogsArgs),
    /// Show everything about containers, as JSON
    Inspect(InspectArgs),
    /// Copy files into a container, or out of it
    Cp(CpArgs),
    /// Show what a container has changed in its root
    Diff(OneArgs),
    /// Write a container's files as one tarball
    Export(ExportArgs),
    /// Make an image of a container
    Commit(CommitArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Show what runs in a container
    Top(TopArgs),
    /// Show a container's ports
    Port(PortArgs),
    /// Stop containers where they stand
    Pause(ManyArgs),
    /// Let them go on
    Unpause(ManyArgs),
    /// Wait until containers end, and print how
    Wait(ManyArgs),
    /// Change what containers may use
    Update(UpdateArgs),
    /// Show how much of the machine containers use
    Stats(StatsArgs),
    /// Remove all containers that do not run
    Prune(PruneArgs),
}

/// Containers.
#[derive(Debug, clap::Args)]
pub(crate) struct ManyArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// A container.
#[derive(Debug, clap::Args)]
pub(crate) struct OneArgs {
    /// Name or id
    container: String,
}

/// What `knarr stop` and `restart` take.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Seconds until it is killed; -1 for ever
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_hyphen_values = true)]
    time: Option<i64>,
    /// The signal that asks it to end
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What `knarr kill` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What `knarr rm` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Remove volumes that nobody named, too
    #[arg(short, long)]
    volumes: bool,
    /// Remove a link, not the container
    #[arg(short, long)]
    link: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What `knarr ps` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Those that fit: KEY=VALUE (may be given again)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// The last so many, running or not
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The last one
    #[arg(short, long)]
    latest: bool,
    /// Show everything whole
    #[arg(long)]
    no_trunc: bool,
    /// Show how much they have written
    #[arg(short, long)]
    size: bool,
}

/// What `knarr logs` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Not before: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The last so many lines, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// Each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Each line with its labels
    #[arg(long)]
    details: bool,
    /// Name or id
    container: String,
}

/// What `knarr inspect` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// With the sizes of containers' files
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// What `knarr cp` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct CpArgs {
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Follow a link that is the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, a path of this machine, or - for a tarball
    source: String,
    /// CONTAINER:PATH, a path of this machine, or - for a tarball
    target: String,
}

/// What `knarr export` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// The file; without it standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    container: String,
}

/// What `knarr commit` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// A setting of the image: CMD, ENV, … (may be given again)
    #[arg(short, long, value_name = "SETTING")]
    change: Vec<String>,
    /// A remark
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let it run meanwhile
    #[arg(long)]
    no_pause: bool,
    /// Name or id
    container: String,
    /// The image's name
    image: Option<String>,
}

/// What `knarr rename` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// Name or id
    container: String,
    /// Its new name
    name: String,
}

/// What `knarr top` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Name or id
    container: String,
    /// Arguments of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What `knarr port` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    /// Name or id
    container: String,
    /// One port: 80 or 80/tcp
    port: Option<String>,
}

/// What `knarr update` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// At most so much memory
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory that is left to it
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// So many processors
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Its weight beside others
    #[arg(short, long, value_name = "NUMBER")]
    cpu_shares: Option<i64>,
    /// Microseconds of a period
    #[arg(long, value_name = "NUMBER")]
    cpu_period: Option<i64>,
    /// Microseconds in a period
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// On these processors
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// At most so many processes
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Its weight at the disk
    #[arg(long, value_name = "NUMBER")]
    blkio_weight: Option<u16>,
    /// Start it again: no, always, unless-stopped, on-failure[:TRIES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What `knarr stats` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// A template, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids; all that run without
    containers: Vec<String>,
}

/// What prunes take.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only those that fit: until=…, label=… (may be given again)
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// Of volumes those with names, too
    #[arg(short, long)]
    pub(crate) all: bool,
}

pub(crate) fn run(command: &Command, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => return crate::run::run(args, host, ui),
        Command::Create(args) => return crate::run::create(args, host, ui),
        Command::Start(args) => return crate::run::start(args, host, ui),
        Command::Exec(args) => return crate::run::exec(args, host, ui),
        Command::Attach(args) => return crate::run::attach(args, host),
        Command::Cp(args) => return cp(args, host),
        _ => {}
    }
    let client = Client::open(host)?;
    match command {
        Command::Stop(args) => stop(&client, args, "stop", ui),
        Command::Restart(args) => stop(&client, args, "restart", ui),
        Command::Kill(args) => each(&client, &args.containers, ui, async |client, name| {
            let query = query(&[("signal", Some(args.signal.clone()))]);
            client.post(&format!("/containers/{}/kill{query}", encode(name)), None).await.map(drop)
        }),
        Command::Rm(args) => each(&client, &args.containers, ui, async |client, name| {
            let flag = |set: bool| set.then(|| "1".to_owned());
            let query =
                query(&[("force", flag(args.force)), ("v", flag(args.volumes)), ("link", flag(args.link))]);
            client.delete(&format!("/containers/{}{query}", encode(name))).await.map(drop)
        }),
        Command::Ls(args) => ps(&client, args, ui),
        Command::Logs(args) => logs(&client, args),
        Command::Inspect(args) => crate::inspect::containers(&client, args, ui),
        Command::Diff(args) => diff(&client, &args.container, ui),
        Command::Export(args) => export(&client, &args.container, args.output.as_deref()),
        Command::Commit(args) => commit(&client, args, ui),
        Command::Rename(args) => {
            let query = query(&[("name", Some(args.name.clone()))]);
            client
                .run(client.post(&format!("/containers/{}/rename{query}", encode(&args.container)), None))
                .map(drop)
        }
        Command::Top(args) => top(&client, args, ui),
        Command::Port(args) => port(&client, args, ui),
        Command::Pause(args) => verb(&client, &args.containers, "pause", ui),
        Command::Unpause(args) => verb(&client, &args.containers, "unpause", ui),
        Command::Wait(args) => wait(&client, &args.containers, ui),
        Command::Update(args) => update(&client, args, ui),
        Command::Stats(args) => stats(&client, args, ui),
        Command::Prune(args) => prune(&client, "containers", args, ui),
        Command::Run(_)
        | Command::Create(_)
        | Command::Start(_)
        | Command::Exec(_)
        | Command::Attach(_)
        | Command::Cp(_) => Ok(()),
    }
}

/// Does something with each of several, and goes on after a failure. What was done is printed.
#[expect(clippy::needless_pass_by_value, reason = "a closure is handed over, not shared")]
pub(crate) fn each(
    client: &Client,
    names: &[String],
    ui: &Ui,
    act: impl AsyncFn(&Client, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed = false;
    for name in names {
        match client.run(act(client, name)) {
            Ok(()) => ui.print(&format!("{name}\n"))?,
            Err(error) => {
                ui.error(&format!("{error:#}"));
                failed = true;
            }
        }
    }
    if failed { Err(Answer(1).into()) } else { Ok(()) }
}

fn verb(client: &Client, names: &[String], verb: &str, ui: &Ui) -> anyhow::Result<()> {
    each(client, names, ui, async |client, name| {
        client.post(&format!("/containers/{}/{verb}", encode(name)), None).await.map(drop)
    })
}

fn stop(client: &Client, args: &StopArgs, verb: &str, ui: &Ui) -> anyhow::Result<()> {
    let query = query(&[("t", args.time.map(|time| time.to_string())), ("signal", args.signal.clone())]);
    each(client, &args.containers, ui, async |client, name| {
        client.post(&format!("/containers/{}/{verb}{query}", encode(name)), None).await.map(drop)
    })
}

/// `KEY=VALUE`s as the API has them.
pub(crate) fn filters(texts: &[String]) -> anyhow::Result<Option<String>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut all = json!({});
    for text in texts {
        let (key, value) =
            text.split_once('=').with_context(|| format!("invalid filter '{text}': expected KEY=VALUE"))?;
        match &mut all[key] {
            Value::Array(list) => list.push(json!(value)),
            empty => *empty = json!([value]),
        }
    }
    Ok(Some(all.to_string()))
}

fn ps(client: &Client, args: &PsArgs, ui: &Ui) -> anyhow::Result<()> {
    let limit = if args.latest { Some(1) } else { args.last.filter(|last| *last > 0) };
    let flag = |set: bool| set.then(|| "1".to_owned());
    let query = query(&[
        ("all", flag(args.all)),
        ("limit", limit.map(|limit| limit.to_string())),
        ("size", flag(args.size)),
        ("filters", filters(&args.filter)?),
    ]);
    let found = client.run(client.get(&format!("/containers/json{query}")))?;
    let rows: Vec<Value> =
        found.as_array().into_iter().flatten().map(|one| ps_row(one, args.no_trunc)).collect();
    if let Some(format) = &args.format {
        return print_rows(&rows, format, ui);
    }
    if ui.is_quiet() {
        return rows.iter().try_for_each(|row| ui.print(&format!("{}\n", word(&row["ID"]))));
    }
    let mut head = vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    let mut keys = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
    if args.size {
        head.push("SIZE");
        keys.push("Size");
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| keys.iter().map(|key| word(&row[*key])).collect()).collect();
    ui.print(&table(&head, &cells))
}

fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// Prints rows by a template, or as JSON.
pub(crate) fn print_rows(rows: &[Value], format: &str, ui: &Ui) -> anyhow::Result<()> {
    if format == "json" {
        return rows.iter().try_for_each(|row| ui.print(&format!("{row}\n")));
    }
    if let Some(template) = format.strip_prefix("table ") {
        let template = template.replace("\\t", "\t");
        let head: Vec<String> = template.split('\t').map(title).collect();
        let cells =
            rows.iter().map(|row| Ok(render(&template, row)?.split('\t').map(str::to_owned).collect()));
        let cells = cells.collect::<anyhow::Result<Vec<Vec<String>>>>()?;
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        return ui.print(&table(&head, &cells));
    }
    rows.iter().try_for_each(|row| ui.print(&format!("{}\n", render(format, row)?)))
}

/// The title of a template's column: `{{.CreatedAt}}` is CREATED AT.
fn title(template: &str) -> String {
    let mut text = String::new();
    let mut before = 'A';
    for letter in template.trim_matches(|c: char| "{}. ".contains(c)).chars() {
        if letter.is_ascii_uppercase() && !before.is_ascii_uppercase() {
            text.push(' ');
        }
        text.push(letter.to_ascii_uppercase());
        before = letter;
    }
    if text == "ID" { "CONTAINER ID".to_owned() } else { text }
}

fn ps_row(one: &Value, whole: bool) -> Value {
    let id = word(&one["Id"]);
    let names: Vec<String> = one["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| word(name).trim_start_matches('/').to_owned())
        .collect();
    let command = word(&one["Command"]);
    let cut = command.chars().count() > 20 && !whole;
    let command = if cut { format!("{}…", command.chars().take(19).collect::<String>()) } else { command };
    let created = one["Created"].as_i64().unwrap_or_default();
    let now = crate::settings::now().0;
    let labels: Vec<String> = one["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", word(value)))
        .collect();
    let mounts: Vec<String> = one["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| match word(&mount["Name"]) {
            name if name.is_empty() => word(&mount["Source"]),
            name => name,
        })
        .collect();
    let networks: Vec<String> = one["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    let image = word(&one["Image"]);
    let size = |key: &str| HumanSize(one[key].as_u64().unwrap_or_default()).to_string();
    json!({
        "ID": if whole { id.clone() } else { id.chars().take(12).collect() },
        "Image": if image.starts_with("sha256:") && !whole { image[7..].chars().take(12).collect() } else { image },
        "Command": format!("\"{command}\""),
        "CreatedAt": knarr_base::Timestamp(created).to_string(),
        "RunningFor": ago(now - created),
        "Ports": ports(&one["Ports"]),
        "State": one["State"],
        "Status": one["Status"],
        "Size": format!("{} (virtual {})", size("SizeRw"), size("SizeRootFs")),
        "Names": names.join(","),
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": networks.join(","),
        "LocalVolumes": one["Mounts"].as_array().map_or(0, |mounts| mounts.iter().filter(|mount| mount["Type"] == "volume").count()).to_string(),
    })
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
fn ports(value: &Value) -> String {
    let mut all: Vec<String> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let inside = format!("{}/{}", port["PrivatePort"], word(&port["Type"]));
            match (port["IP"].as_str(), port["PublicPort"].as_u64()) {
                (Some(address), Some(public)) if address.contains(':') => {
                    format!("[{address}]:{public}->{inside}")
                }
                (Some(address), Some(public)) => format!("{address}:{public}->{inside}"),
                _ => inside,
            }
        })
        .collect();
    all.sort();
    all.join(", ")
}

fn logs(client: &Client, args: &LogsArgs) -> anyhow::Result<()> {
    let flag = |set: bool| set.then(|| "1".to_owned());
    let time = |text: &Option<String>| {
        text.as_deref()
            .map(|text| {
                Ok::<_, anyhow::Error>(
                    knarr_engine::filters::moment(text)
                        .map_err(|error| anyhow::anyhow!(error.message()))?
                        .to_string(),
                )
            })
            .transpose()
    };
    let query = query(&[
        ("stdout", flag(true)),
        ("stderr", flag(true)),
        ("follow", flag(args.follow)),
        ("since", time(&args.since)?),
        ("until", time(&args.until)?),
        ("timestamps", flag(args.timestamps)),
        ("details", flag(args.details)),
        ("tail", Some(args.tail.clone())),
    ]);
    client.run(async {
        let response = client
            .send(request(
                Method::GET,
                &format!("/containers/{}/logs{query}", encode(&args.container)),
                None,
            )?)
            .await?;
        let kind = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let reader = body_reader(response.into_body());
        if kind.contains("raw-stream") {
            return session::show_raw(reader).await;
        }
        session::show_frames(reader).await
    })
}

/// A body as a reader.
fn body_reader(body: hyper::body::Incoming) -> impl tokio::io::AsyncRead + Unpin {
    use futures_util::TryStreamExt;
    let stream = http_body_util::BodyDataStream::new(body).map_err(std::io::Error::other);
    tokio_util::io::StreamReader::new(stream)
}

fn diff(client: &Client, name: &str, ui: &Ui) -> anyhow::Result<()> {
    let changes = client.run(client.get(&format!("/containers/{}/changes", encode(name))))?;
    let mut text = String::new();
    for change in changes.as_array().into_iter().flatten() {
        let kind = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            _ => 'D',
        };
        writeln!(text, "{kind} {}", word(&change["Path"]))?;
    }
    ui.print(&text)
}

pub(crate) fn export(client: &Client, name: &str, output: Option<&Path>) -> anyhow::Result<()> {
    if output.is_none() && std::io::stdout().is_terminal() {
        bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    }
    client.run(async {
        let response =
            client.send(request(Method::GET, &format!("/containers/{}/export", encode(name)), None)?).await?;
        download(body_reader(response.into_body()), output).await
    })
}

/// Writes what comes to standard output, or whole into a file.
async fn download(
    mut reader: impl tokio::io::AsyncRead + Unpin,
    output: Option<&Path>,
) -> anyhow::Result<()> {
    let Some(path) = output else {
        let mut out = tokio::io::stdout();
        tokio::io::copy(&mut reader, &mut out).await?;
        return Ok(tokio::io::AsyncWriteExt::flush(&mut out).await?);
    };
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let told = || path.display().to_string();
    let half = tempfile::NamedTempFile::new_in(parent).with_context(told)?;
    let mut file = tokio::fs::File::from_std(half.reopen()?);
    tokio::io::copy(&mut reader, &mut file).await.with_context(told)?;
    file.sync_all().await.with_context(told)?;
    half.persist(path).with_context(told)?;
    Ok(())
}

fn commit(client: &Client, args: &CommitArgs, ui: &Ui) -> anyhow::Result<()> {
    let (repository, tag) = match args.image.as_deref() {
        Some(name) => match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => (Some(repository.to_owned()), Some(tag.to_owned())),
            None => (Some(name.to_owned()), None),
        },
        None => (None, None),
    };
    let mut pairs = vec![
        ("container", Some(args.container.clone())),
        ("repo", repository),
        ("tag", tag),
        ("comment", args.message.clone()),
        ("author", args.author.clone()),
        ("pause", args.no_pause.then(|| "0".to_owned())),
    ];
    pairs.extend(args.change.iter().map(|change| ("changes", Some(change.clone()))));
    let made = client.run(client.post(&format!("/commit{}", query(&pairs)), Some(&json!({}))))?;
    ui.print(&format!("{}\n", word(&made["Id"])))
}

fn top(client: &Client, args: &TopArgs, ui: &Ui) -> anyhow::Result<()> {
    let query = query(&[("ps_args", (!args.arguments.is_empty()).then(|| args.arguments.join(" ")))]);
    let found = client.run(client.get(&format!("/containers/{}/top{query}", encode(&args.container))))?;
    let words = |value: &Value| value.as_array().into_iter().flatten().map(word).collect::<Vec<String>>();
    let titles = words(&found["Titles"]);
    let head: Vec<&str> = titles.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = found["Processes"].as_array().into_iter().flatten().map(words).collect();
    ui.print(&table(&head, &rows))
}

fn port(client: &Client, args: &PortArgs, ui: &Ui) -> anyhow::Result<()> {
    let known = client.run(client.get(&format!("/containers/{}/json", encode(&args.container))))?;
    let wanted =
        args.port.as_ref().map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") });
    let mut text = String::new();
    for (inside, bound) in known["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
        if wanted.as_ref().is_some_and(|wanted| wanted != inside) {
            continue;
        }
        for binding in bound.as_array().into_iter().flatten() {
            let address = word(&binding["HostIp"]);
            let address = if address.contains(':') { format!("[{address}]") } else { address };
            let outside = format!("{address}:{}", word(&binding["HostPort"]));
            if wanted.is_some() {
                writeln!(text, "{outside}")?;
            } else {
                writeln!(text, "{inside} -> {outside}")?;
            }
        }
    }
    if let Some(wanted) = wanted.filter(|_| text.is_empty()) {
        bail!("no public port '{wanted}' published for {}", args.container);
    }
    ui.print(&text)
}

fn wait(client: &Client, names: &[String], ui: &Ui) -> anyhow::Result<()> {
    let mut failed = false;
    for name in names {
        match client.run(client.post(&format!("/containers/{}/wait", encode(name)), None)) {
            Ok(outcome) => ui.print(&format!("{}\n", outcome["StatusCode"]))?,
            Err(error) => {
                ui.error(&format!("{error:#}"));
                failed = true;
            }
        }
    }
    if failed { Err(Answer(1).into()) } else { Ok(()) }
}

fn update(client: &Client, args: &UpdateArgs, ui: &Ui) -> anyhow::Result<()> {
    let size = |text: &Option<String>| -> anyhow::Result<Option<Value>> {
        text.as_deref().map(|text| bytes(text).map(|bytes| json!(bytes))).transpose()
    };
    let mut body = json!({});
    let values = [
        ("Memory", size(&args.memory)?),
        ("MemoryReservation", size(&args.memory_reservation)?),
        ("MemorySwap", size(&args.memory_swap)?),
        ("NanoCpus", args.cpus.map(|cpus| json!((cpus * 1e9).round() as i64))),
        ("CpuShares", args.cpu_shares.map(|value| json!(value))),
        ("CpuPeriod", args.cpu_period.map(|value| json!(value))),
        ("CpuQuota", args.cpu_quota.map(|value| json!(value))),
        ("CpusetCpus", args.cpuset_cpus.as_ref().map(|value| json!(value))),
        ("PidsLimit", args.pids_limit.map(|value| json!(value))),
        ("BlkioWeight", args.blkio_weight.map(|value| json!(value))),
        ("RestartPolicy", args.restart.as_deref().map(restart_policy).transpose()?),
    ];
    for (key, value) in values {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    each(client, &args.containers, ui, async |client, name| {
        client.post(&format!("/containers/{}/update", encode(name)), Some(&body)).await.map(drop)
    })
}

/// Removes what is not used, when the user agrees.
pub(crate) fn prune(client: &Client, noun: &str, args: &PruneArgs, ui: &Ui) -> anyhow::Result<()> {
    if !args.force && !confirmed(&format!("This removes all {noun} that are not used. Go on? [y/N] "))? {
        return Ok(());
    }
    let mut texts = args.filter.clone();
    if noun == "volumes" && args.all {
        texts.push("all=1".to_owned());
    }
    let query = query(&[("filters", filters(&texts)?)]);
    let pruned = client.run(client.post(&format!("/{noun}/prune{query}"), None))?;
    for key in ["ContainersDeleted", "VolumesDeleted", "NetworksDeleted"] {
        for name in pruned[key].as_array().into_iter().flatten() {
            ui.print(&format!("{}\n", word(name)))?;
        }
    }
    match pruned["SpaceReclaimed"].as_u64() {
        Some(bytes) => ui.print(&format!("Total reclaimed space: {}\n", HumanSize(bytes))),
        None => Ok(()),
    }
}

pub(crate) fn confirmed(question: &str) -> anyhow::Result<bool> {
    use std::io::Write;
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: --force goes on without");
    }
    let mut out = std::io::stderr().lock();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn stats(client: &Client, args: &StatsArgs, ui: &Ui) -> anyhow::Result<()> {
    let live = !args.no_stream && args.format.is_none() && std::io::stdout().is_terminal();
    loop {
        let rows = client.run(sample(client, args))?;
        if let Some(format) = &args.format {
            print_rows(&rows, format, ui)?;
        } else {
            let head = [
                "CONTAINER ID",
                "NAME",
                "CPU %",
                "MEM USAGE / LIMIT",
                "MEM %",
                "NET I/O",
                "BLOCK I/O",
                "PIDS",
            ];
            let keys = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];
            let cells: Vec<Vec<String>> =
                rows.iter().map(|row| keys.iter().map(|key| word(&row[*key])).collect()).collect();
            let text = table(&head, &cells);
            ui.print(&if live { format!("\u{1b}[2J\u{1b}[H{text}") } else { text })?;
        }
        if args.no_stream {
            return Ok(());
        }
    }
}

async fn sample(client: &Client, args: &StatsArgs) -> anyhow::Result<Vec<Value>> {
    let names: Vec<String> = if args.containers.is_empty() {
        let all = if args.all { "?all=1" } else { "" };
        let found = client.get(&format!("/containers/json{all}")).await?;
        found.as_array().into_iter().flatten().map(|one| word(&one["Id"])).collect()
    } else {
        args.containers.clone()
    };
    let samples = names.iter().map(|name| async move {
        let sample = client.get(&format!("/containers/{}/stats?stream=0", encode(name))).await?;
        Ok::<_, anyhow::Error>(stats_row(&sample))
    });
    let rows: Vec<Value> = futures_util::future::try_join_all(samples).await?;
    if rows.is_empty() {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    Ok(rows)
}

fn stats_row(sample: &Value) -> Value {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let (cpu, before) = (&sample["cpu_stats"], &sample["precpu_stats"]);
    let used = number(&cpu["cpu_usage"]["total_usage"]) - number(&before["cpu_usage"]["total_usage"]);
    let system = number(&cpu["system_cpu_usage"]) - number(&before["system_cpu_usage"]);
    let percent =
        if system > 0.0 { used / system * number(&cpu["online_cpus"]).max(1.0) * 100.0 } else { 0.0 };
    let memory = &sample["memory_stats"];
    let cache = memory["stats"]["total_inactive_file"]
        .as_f64()
        .or_else(|| memory["stats"]["inactive_file"].as_f64())
        .unwrap_or_default();
    let (usage, limit) = ((number(&memory["usage"]) - cache).max(0.0), number(&memory["limit"]));
    let sum = |key: &str| {
        sample["networks"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, one)| one[key].as_u64().unwrap_or_default())
            .sum::<u64>()
    };
    let disk = |operation: &str| {
        let entries = sample["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
        entries
            .filter(|entry| entry["op"] == operation)
            .map(|entry| entry["value"].as_u64().unwrap_or_default())
            .sum::<u64>()
    };
    let size = |bytes: u64| HumanSize(bytes).to_string();
    let id = word(&sample["id"]);
    json!({
        "ID": id.chars().take(12).collect::<String>(),
        "Container": id,
        "Name": word(&sample["name"]).trim_start_matches('/'),
        "CPUPerc": format!("{percent:.2}%"),
        "MemUsage": format!("{} / {}", size(usage as u64), size(limit as u64)),
        "MemPerc": format!("{:.2}%", if limit > 0.0 { usage / limit * 100.0 } else { 0.0 }),
        "NetIO": format!("{} / {}", size(sum("rx_bytes")), size(sum("tx_bytes"))),
        "BlockIO": format!("{} / {}", size(disk("read")), size(disk("write"))),
        "PIDs": sample["pids_stats"]["current"].as_u64().unwrap_or_default().to_string(),
    })
}

/// A side of `cp`.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Inside { container: String, path: String },
    Here(String),
    Stream,
}

fn side(text: &str) -> Side {
    if text == "-" {
        return Side::Stream;
    }
    if text.starts_with(['/', '.']) {
        return Side::Here(text.to_owned());
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() => {
            Side::Inside { container: container.to_owned(), path: path.to_owned() }
        }
        _ => Side::Here(text.to_owned()),
    }
}

fn cp(args: &CpArgs, host: Option<&str>) -> anyhow::Result<()> {
    let (source, target) = (side(&args.source), side(&args.target));
    let client = Client::open(host)?;
    match (source, target) {
        (Side::Inside { container, path }, Side::Stream) => {
            client.run(async { download(copy_out(&client, &container, &path).await?, None).await })
        }
        (Side::Inside { container, path }, Side::Here(target)) => {
            crate::cp::out(&client, &container, &path, &target, args.follow_link, args.archive)
        }
        (Side::Stream, Side::Inside { container, path }) => {
            client.run(put(&client, &container, &path, args.archive, tokio::io::stdin()))
        }
        (Side::Here(source), Side::Inside { container, path }) => {
            crate::cp::into(&client, &source, &container, &path, args.follow_link, args.archive)
        }
        (Side::Inside { .. }, Side::Inside { .. }) => bail!("copying between containers is not supported"),
        _ => bail!("must specify at least one container source: CONTAINER:PATH"),
    }
}

/// The tarball of a container's path.
pub(crate) async fn copy_out(
    client: &Client,
    container: &str,
    path: &str,
) -> anyhow::Result<impl tokio::io::AsyncRead + Unpin + use<>> {
    let query = query(&[("path", Some(path.to_owned()))]);
    let response = client
        .send(request(Method::GET, &format!("/containers/{}/archive{query}", encode(container)), None)?)
        .await?;
    Ok(body_reader(response.into_body()))
}

/// Unpacks a tarball in a container's directory.
pub(crate) async fn put(
    client: &Client,
    container: &str,
    directory: &str,
    owners: bool,
    tarball: impl tokio::io::AsyncRead + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let query = query(&[
        ("path", Some(directory.to_owned())),
        ("noOverwriteDirNonDir", Some("true".to_owned())),
        ("copyUIDGID", owners.then(|| "true".to_owned())),
    ]);
    client
        .send(upload(Method::PUT, &format!("/containers/{}/archive{query}", encode(container)), tarball)?)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Side, filters, ports, ps_row, side, title};

    #[test]
    fn sides_of_cp_are_told_apart() {
        assert_eq!(side("c:/etc"), Side::Inside { container: "c".to_owned(), path: "/etc".to_owned() });
        assert_eq!(side("./a:b"), Side::Here("./a:b".to_owned()));
        assert_eq!((side("-"), side("a")), (Side::Stream, Side::Here("a".to_owned())));
    }

    #[test]
    fn rows_are_dockers() {
        let one = json!({ "Id": "0123456789abcdef", "Names": ["/a"], "Command": "sleep 1000000000000000", "Image": "img", "Created": 0, "Status": "Up 1 second" });
        let row = ps_row(&one, false);
        assert_eq!((&row["ID"], &row["Names"]), (&json!("0123456789ab"), &json!("a")));
        assert_eq!(row["Command"], "\"sleep 1000000000000…\"");
        let ports_of = json!([{ "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" }, { "PrivatePort": 443, "Type": "tcp" }]);
        assert_eq!(ports(&ports_of), "0.0.0.0:8080->80/tcp, 443/tcp");
    }

    #[test]
    fn filters_and_titles() {
        assert_eq!(filters(&["a=b".to_owned(), "a=c".to_owned()]).unwrap().unwrap(), r#"{"a":["b","c"]}"#);
        assert!(filters(&["a".to_owned()]).is_err());
        assert_eq!(title("{{.CreatedAt}}"), "CREATED AT");
    }
}
