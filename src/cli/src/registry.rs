//! `knarr registry`: a store, served to others.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use knarr_registry::server::{self, Access, Limits, Options, Scheme, Server, Sink, TlsFiles};
use serde_json::json;

use crate::settings::now;
use crate::system::parse_age;
use crate::ui::Ui;

/// What to do with registries.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a store as a registry until told to stop
    Serve(Box<ServeArgs>),
}

/// What `knarr registry serve` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The store, which is made when it is not there
    directory: PathBuf,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Certificate, and those between it and the authority, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve only clients with a certificate that one of these has signed
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Names and passwords, as `htpasswd -B` writes them; without it anybody may do all
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// How names and passwords become rights
    #[arg(long, value_name = "SCHEME", default_value = "basic", requires = "htpasswd")]
    auth: AuthScheme,
    /// How long a token is good
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_age)]
    token_age: Duration,
    /// Let anybody pull
    #[arg(long, requires = "htpasswd")]
    anonymous_pull: bool,
    /// Refuse pushes and deletions
    #[arg(long)]
    read_only: bool,
    /// When nothing was pushed for this long, remove what no tag needs
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    gc_after: Option<Duration>,
    /// Form of the access log, which goes to standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    log: LogForm,
    /// Listen where other machines reach it without TLS
    #[arg(long)]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AuthScheme {
    /// Name and password with every request
    Basic,
    /// Name and password once, for a token that is good for what it was asked for
    Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogForm {
    Text,
    Json,
    None,
}

pub(crate) fn run(command: Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve(*args, ui),
    }
}

fn serve(args: ServeArgs, ui: &Ui) -> anyhow::Result<()> {
    let (lines, writer) = log_writer();
    let sink = sink(if ui.is_quiet() { LogForm::None } else { args.log }, lines);
    let ready = |server: &Server| {
        // Who started it without looking at its output has no use for the address.
        let _ = ui.print(&format!("{}\n", server.url()));
    };
    let outcome = server::serve(&options(args), sink, ready);
    let end = Instant::now() + LAST_LINES;
    while !writer.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(outcome?)
}

/// So many lines wait for a reader of the log who is slow; what comes then is lost.
const WAITING_LINES: usize = 4096;
/// How long a log that nobody takes may hold up the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes lines on a thread of its own: a log that nobody takes is no reason to stop serving.
fn log_writer() -> (SyncSender<String>, JoinHandle<()>) {
    let (sender, lines) = sync_channel::<String>(WAITING_LINES);
    let writer = std::thread::spawn(move || {
        for line in lines {
            // Standard error that is gone leaves nowhere to say so.
            let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
        }
    });
    (sender, writer)
}

fn options(args: ServeArgs) -> Options {
    let files = args.tls_cert.zip(args.tls_key);
    Options {
        directory: args.directory,
        listen: args.listen,
        tls: files.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: args.client_ca }),
        htpasswd: args.htpasswd,
        scheme: match args.auth {
            AuthScheme::Basic => Scheme::Basic,
            AuthScheme::Token => Scheme::Token,
        },
        token_age: args.token_age,
        anonymous_pull: args.anonymous_pull,
        read_only: args.read_only,
        gc_after: args.gc_after,
        insecure: args.insecure,
        limits: Limits::default(),
    }
}

fn sink(form: LogForm, lines: SyncSender<String>) -> Sink {
    // Lines beyond those that may wait are lost, and the request goes on.
    match form {
        LogForm::None => Arc::new(|_| {}),
        LogForm::Text => Arc::new(move |access| drop(lines.try_send(text(access)))),
        LogForm::Json => Arc::new(move |access| drop(lines.try_send(document(access)))),
    }
}

fn text(access: &Access) -> String {
    let user = access.user.as_deref().unwrap_or("-");
    let trouble = access.trouble.as_ref().map(|trouble| format!(" error: {trouble}")).unwrap_or_default();
    format!(
        "{} {} {} {} {} {} in={} out={} {}ms{}",
        now(),
        access.peer,
        plain(user),
        access.method,
        plain(&access.path),
        access.status,
        access.received_bytes,
        access.sent_bytes,
        access.duration.as_millis(),
        plain(&trouble),
    )
}

/// Without characters that would end a line or move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn document(access: &Access) -> String {
    json!({
        "time": now().to_string(),
        "peer": access.peer.to_string(),
        "user": access.user,
        "method": access.method,
        "path": access.path,
        "status": access.status,
        "received": access.received_bytes,
        "bytes": access.sent_bytes,
        "ms": access.duration.as_millis() as u64,
        "error": access.trouble,
    })
    .to_string()
}
