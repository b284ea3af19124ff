//! `knarr run`, `create`, `start`, `attach`, `exec`: programs in containers, with their streams here.
//!
//! Spec: docker's commands of these names; docs/guide/exit-status.md (125, 126, 127).

use std::io::IsTerminal;

use anyhow::Context;
use serde_json::{Value, json};

use crate::client::{ApiFailure, Client, encode, query};
use crate::create::{Attach, CreateArgs, variable, variables_of};
use crate::exit::Answer;
use crate::session::{self, Session};
use crate::ui::Ui;

/// What `knarr run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Leave it running, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Connect to stdin, stdout or stderr only (may be given again)
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr", "STDIN", "STDOUT", "STDERR"])]
    attach: Vec<String>,
    /// Keys that part from it: ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not pass signals on to it
    #[arg(long = "no-sig-proxy")]
    no_sig_proxy: bool,
    /// Accepted as docker's: signals are passed on unless it is false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    sig_proxy: Option<bool>,
    #[command(flatten)]
    create: CreateArgs,
}

/// What `knarr start` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Show what it writes, pass signals on, and end as it ends
    #[arg(short, long)]
    attach: bool,
    /// Connect its input, too
    #[arg(short, long)]
    interactive: bool,
    /// Keys that part from it
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What `knarr attach` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Leave its input alone
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Keys that part from it
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Name or id
    container: String,
}

/// What `knarr exec` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Keep its input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run as USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set a variable (may be given again)
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set variables from a file (may be given again)
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Let it do all that root may
    #[arg(long)]
    privileged: bool,
    /// Keys that part from it
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Name or id
    container: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `knarr run`. What keeps a container from running ends with 125, 126 or 127.
pub(crate) fn run(args: &RunArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    match try_run(args, host, ui) {
        Err(error) if error.downcast_ref::<Answer>().is_none() => {
            ui.error(&format!("{error:#}"));
            Err(Answer(status_of(&error)).into())
        }
        other => other,
    }
}

/// As docker's users know it: 127 for a program that is not there, 126 for one that cannot be run, 125 for all else.
fn status_of(error: &anyhow::Error) -> u8 {
    let text = format!("{error:#}");
    let of_program = text.contains("unable to start container process") || text.contains("exec:");
    let says = |words: &[&str]| of_program && words.iter().any(|word| text.contains(word));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

fn try_run(args: &RunArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let attach = wanted_streams(args);
    client.run(async {
        let id = create_with_pull(&client, &args.create, attach, ui).await?;
        if args.detach {
            client.post(&format!("/containers/{id}/start"), None).await?;
            return ui.print(&format!("{id}\n"));
        }
        let session = Session { tty: args.create.tty, stdin: attach.stdin };
        let proxy = !args.no_sig_proxy && args.sig_proxy != Some(false) && !args.create.tty;
        let condition = if args.create.rm { "removed" } else { "next-exit" };
        let follow = Follow { session, attach, proxy, condition, detach_keys: args.detach_keys.as_deref() };
        follow.start(&client, &id).await
    })
}

fn wanted_streams(args: &RunArgs) -> Attach {
    let named = |stream: &str| args.attach.iter().any(|name| name.eq_ignore_ascii_case(stream));
    match (args.detach, args.attach.is_empty()) {
        (true, _) => Attach::default(),
        (false, true) => Attach { stdin: args.create.interactive, stdout: true, stderr: true },
        (false, false) => Attach { stdin: named("stdin"), stdout: named("stdout"), stderr: named("stderr") },
    }
}

/// Makes a container; an image that is not here is fetched first.
async fn create_with_pull(
    client: &Client,
    args: &CreateArgs,
    attach: Attach,
    ui: &Ui,
) -> anyhow::Result<String> {
    let body = args.body(attach)?;
    if let Some(path) = args.cidfile.as_ref().filter(|path| path.exists()) {
        anyhow::bail!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        );
    }
    if args.pull == "always" {
        pull(client, args, ui).await?;
    }
    let path = format!(
        "/containers/create{}",
        query(&[("name", args.name.clone()), ("platform", args.platform.clone())])
    );
    let made = match client.post(&path, Some(&body)).await {
        Err(error) if args.pull == "missing" && is_missing_image(&error) => {
            ui.say(&format!("Unable to find image '{}' locally", args.image));
            pull(client, args, ui).await?;
            client.post(&path, Some(&body)).await?
        }
        other => other?,
    };
    for warning in made["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        ui.say(&format!("warning: {warning}"));
    }
    let id = made["Id"].as_str().context("the daemon names no id")?.to_owned();
    if let Some(path) = &args.cidfile {
        std::fs::write(path, &id).with_context(|| path.display().to_string())?;
    }
    Ok(id)
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ApiFailure>()
        .is_some_and(|failure| failure.status == 404 && failure.message.contains("No such image"))
}

async fn pull(client: &Client, args: &CreateArgs, ui: &Ui) -> anyhow::Result<()> {
    let path = format!(
        "/images/create{}",
        query(&[("fromImage", Some(args.image.clone())), ("platform", args.platform.clone())])
    );
    let mut lines = client.lines(crate::client::request(http::Method::POST, &path, None)?).await?;
    while let Some(line) = lines.next().await? {
        if let Some(error) = line["error"].as_str() {
            anyhow::bail!("{error}");
        }
        // Of progress within a layer only its end is of interest here.
        if line["progressDetail"]["total"].is_null()
            && let Some(status) = line["status"].as_str()
        {
            let id = line["id"].as_str().map(|id| format!("{id}: ")).unwrap_or_default();
            ui.say(&format!("{id}{status}"));
        }
    }
    Ok(())
}

/// How a container is followed from its start to its end.
struct Follow<'a> {
    session: Session,
    attach: Attach,
    proxy: bool,
    condition: &'a str,
    detach_keys: Option<&'a str>,
}

impl Follow<'_> {
    /// Attaches, starts, and ends as the program ends.
    async fn start(&self, client: &Client, id: &str) -> anyhow::Result<()> {
        let connection = client.upgrade(&self.attach_path(id), None).await?;
        let wait = client
            .send(crate::client::request(
                http::Method::POST,
                &format!("/containers/{id}/wait?condition={}", self.condition),
                None,
            )?)
            .await?;
        client.post(&format!("/containers/{id}/start"), None).await?;
        self.stay(client, id, connection, wait).await
    }

    fn attach_path(&self, id: &str) -> String {
        let flag = |set: bool| set.then(|| "1".to_owned());
        let query = query(&[
            ("stream", flag(true)),
            ("stdin", flag(self.attach.stdin)),
            ("stdout", flag(self.attach.stdout)),
            ("stderr", flag(self.attach.stderr)),
            ("detachKeys", self.detach_keys.map(str::to_owned)),
        ]);
        format!("/containers/{id}/attach{query}")
    }

    async fn stay(
        &self,
        client: &Client,
        id: &str,
        connection: crate::client::Upgraded,
        wait: http::Response<hyper::body::Incoming>,
    ) -> anyhow::Result<()> {
        let path = format!("/containers/{id}");
        let relayed = session::relay(connection, self.session);
        let sizes = async {
            if self.session.tty && std::io::stdout().is_terminal() {
                session::follow_size(client, &path).await
            } else {
                std::future::pending().await
            }
        };
        let signals = async {
            if self.proxy { session::pass_signals(client, id).await } else { std::future::pending().await }
        };
        tokio::select! {
            relayed = relayed => relayed?,
            sizes = sizes => sizes?,
            signals = signals => signals?,
        }
        let code = tokio::select! {
            code = exit_code(wait) => code?,
            // The streams ended and it runs on: somebody typed the keys.
            code = runs_on(client, id) => code?,
        };
        if code == 0 { Ok(()) } else { Err(Answer(u8::try_from(code).unwrap_or(1)).into()) }
    }
}

async fn exit_code(wait: http::Response<hyper::body::Incoming>) -> anyhow::Result<i64> {
    let bytes = http_body_util::BodyExt::collect(wait.into_body()).await?.to_bytes();
    let outcome: Value = serde_json::from_slice(&bytes)?;
    Ok(outcome["StatusCode"].as_i64().unwrap_or(125))
}

/// Comes back with 0 when the container runs although its streams are at their end.
async fn runs_on(client: &Client, id: &str) -> anyhow::Result<i64> {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let known = client.get(&format!("/containers/{id}/json")).await;
    let runs = known.is_ok_and(|value| value["State"]["Running"] == true && value["Config"]["Tty"] == true);
    if runs { Ok(0) } else { std::future::pending().await }
}

/// `knarr create`.
pub(crate) fn create(args: &CreateArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let attach = Attach { stdin: args.interactive, stdout: true, stderr: true };
    let id = client.run(create_with_pull(&client, args, attach, ui))?;
    ui.print(&format!("{id}\n"))
}

/// `knarr start`.
pub(crate) fn start(args: &StartArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    if !args.attach && !args.interactive {
        return crate::container::each(&client, &args.containers, ui, async |client, name| {
            client.post(&format!("/containers/{}/start", encode(name)), None).await.map(drop)
        });
    }
    let [name] = args.containers.as_slice() else {
        anyhow::bail!("you cannot start and attach multiple containers at once")
    };
    client.run(async {
        let known = client.get(&format!("/containers/{}/json", encode(name))).await?;
        let id = known["Id"].as_str().context("the daemon names no id")?.to_owned();
        let (tty, rm) = (known["Config"]["Tty"] == true, known["HostConfig"]["AutoRemove"] == true);
        let attach = Attach { stdin: args.interactive, stdout: true, stderr: true };
        let condition = if rm { "removed" } else { "next-exit" };
        let session = Session { tty, stdin: args.interactive };
        Follow { session, attach, proxy: !tty, condition, detach_keys: args.detach_keys.as_deref() }
            .start(&client, &id)
            .await
    })
}

/// `knarr attach`.
pub(crate) fn attach(args: &AttachArgs, host: Option<&str>) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    client.run(async {
        let known = client.get(&format!("/containers/{}/json", encode(&args.container))).await?;
        let id = known["Id"].as_str().context("the daemon names no id")?.to_owned();
        if known["State"]["Running"] != true {
            anyhow::bail!("cannot attach to a stopped container, start it first");
        }
        let tty = known["Config"]["Tty"] == true;
        let stdin = !args.no_stdin && known["Config"]["OpenStdin"] == true;
        let attach = Attach { stdin, stdout: true, stderr: true };
        let follow = Follow {
            session: Session { tty, stdin },
            attach,
            proxy: args.sig_proxy && !tty,
            condition: "next-exit",
            detach_keys: args.detach_keys.as_deref(),
        };
        let connection = client.upgrade(&follow.attach_path(&id), None).await?;
        let wait = client
            .send(crate::client::request(http::Method::POST, &format!("/containers/{id}/wait"), None)?)
            .await?;
        follow.stay(&client, &id, connection, wait).await
    })
}

/// `knarr exec`.
pub(crate) fn exec(args: &ExecArgs, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    match try_exec(args, host) {
        Err(error) if error.downcast_ref::<Answer>().is_none() && status_of(&error) != 125 => {
            ui.error(&format!("{error:#}"));
            Err(Answer(status_of(&error)).into())
        }
        other => other,
    }
}

fn try_exec(args: &ExecArgs, host: Option<&str>) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let mut environment = Vec::new();
    for path in &args.env_file {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        environment.extend(variables_of(&text, path)?);
    }
    environment.extend(args.env.iter().filter_map(|entry| variable(entry)));
    let (attach, stdin) = (!args.detach, args.interactive && !args.detach);
    let mut body = json!({
        "AttachStdin": stdin, "AttachStdout": attach, "AttachStderr": attach,
        "Tty": args.tty, "Cmd": args.command, "Env": environment, "Privileged": args.privileged,
        "User": args.user.clone().unwrap_or_default(), "WorkingDir": args.workdir.clone().unwrap_or_default(),
        "DetachKeys": args.detach_keys.clone().unwrap_or_default(),
    });
    let size = session::size().filter(|_| args.tty).map(|(width, height)| json!([height, width]));
    if let Some(size) = &size {
        body["ConsoleSize"] = size.clone();
    }
    client.run(async {
        let made = client.post(&format!("/containers/{}/exec", encode(&args.container)), Some(&body)).await?;
        let id = made["Id"].as_str().context("the daemon names no id")?.to_owned();
        let mut start = json!({ "Detach": args.detach, "Tty": args.tty });
        if let Some(size) = size {
            start["ConsoleSize"] = size;
        }
        let path = format!("/exec/{id}");
        if args.detach {
            return client.post(&format!("{path}/start"), Some(&start)).await.map(drop);
        }
        let connection = client.upgrade(&format!("{path}/start"), Some(&start)).await?;
        let relayed = session::relay(connection, Session { tty: args.tty, stdin });
        let sizes = async {
            if args.tty && std::io::stdout().is_terminal() {
                session::follow_size(&client, &path).await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            relayed = relayed => relayed?,
            sizes = sizes => sizes?,
        }
        let code = ended(&client, &path).await?;
        if code == 0 { Ok(()) } else { Err(Answer(u8::try_from(code).unwrap_or(1)).into()) }
    })
}

/// The exit code of an exec, which follows its streams' end closely.
async fn ended(client: &Client, path: &str) -> anyhow::Result<i64> {
    for _ in 0..500 {
        let known = client.get(&format!("{path}/json")).await?;
        if known["Running"] != true {
            return Ok(known["ExitCode"].as_i64().unwrap_or(0));
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    // Its streams were closed and it runs on.
    Ok(0)
}
