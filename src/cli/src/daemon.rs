//! `knarr daemon`: the engine, resident.
//!
//! What was typed, the `[daemon]` table of the configuration and the usual places become the options of an engine and the
//! doors of its API. Containers outlive it.
//!
//! Spec: docs/guide/daemon.md; sd_listen_fds(3), sd_notify(3).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use knarr_api::{Listen, Tls, metrics};
use knarr_engine::{Engine, Reloadable};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::client::{default_socket, run_dir};
use crate::settings::{DaemonSettings, Settings};
use crate::ui::Ui;

/// What was typed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Listen here: unix:///PATH, tcp://ADDRESS:PORT or fd:// (may be given again)
    #[arg(long = "listen", value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Keep containers, volumes and networks here
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Keep here what ends with the machine
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Keep images here
    #[arg(long, env = "KNARR_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// Let this group use the socket
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Trust clients whose certificates this authority signed
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// Show this certificate to clients
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Listen on TCP of the loopback without TLS: every user of this machine becomes root
    #[arg(long)]
    insecure: bool,
    /// Write the log as lines of text or of JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// Write so much: error, warn, info (as without), debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Label this engine (may be given again)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The log driver of containers that name none; json-file without
    #[arg(long, value_name = "DRIVER", value_parser = LOG_DRIVERS)]
    log_driver: Option<String>,
    /// An option of that driver (may be given again)
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    log_options: Vec<String>,
    /// Take addresses of networks from here: base=ADDRESS/PREFIX,size=PREFIX (may be given again)
    #[arg(long = "default-address-pool", value_name = "POOL")]
    pools: Vec<String>,
    /// The name server of containers that name none (may be given again)
    #[arg(long = "dns", value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Leave when nobody has asked for anything and nothing has run for so many seconds
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// Show figures for Prometheus here, at /metrics; whoever reaches it can read them
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<String>,
    /// Fetch so many blobs of an image at once
    #[arg(long, value_name = "COUNT")]
    max_concurrent_downloads: Option<usize>,
    /// Send so many blobs of an image at once
    #[arg(long, value_name = "COUNT")]
    max_concurrent_uploads: Option<usize>,
    /// Let work that is under way go on for so many seconds at the end; 2 without
    #[arg(long, value_name = "SECONDS")]
    shutdown_timeout: Option<u64>,
}

const LOG_DRIVERS: [&str; 4] = ["json-file", "local", "journald", "none"];
/// How long work that is under way may hold the end, in seconds.
const SHUTDOWN_TIMEOUT_S: u64 = 2;

impl Args {
    /// What is not typed is as the configuration has it.
    fn completed(&self, settings: &DaemonSettings) -> Self {
        let list = |typed: &Vec<String>, said: &Option<Vec<String>>| match typed.is_empty() {
            true => said.clone().unwrap_or_default(),
            false => typed.clone(),
        };
        let said_options = settings.log_opts.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        let mut all = self.clone();
        all.listen = list(&self.listen, &settings.listen);
        all.root = self.root.clone().or_else(|| settings.root.clone());
        all.run_dir = self.run_dir.clone().or_else(|| settings.run_dir.clone());
        all.group = self.group.clone().or_else(|| settings.group.clone());
        all.log_format = self.log_format.clone().or_else(|| settings.log_format.clone());
        all.log_level = self.log_level.clone().or_else(|| settings.log_level.clone());
        all.log_driver = self.log_driver.clone().or_else(|| settings.log_driver.clone());
        all.log_options = list(&self.log_options, &Some(said_options.collect()));
        all.labels = list(&self.labels, &settings.labels);
        all.pools = list(&self.pools, &settings.default_address_pools);
        all.dns = list(&self.dns, &settings.dns);
        all.metrics_addr = self.metrics_addr.clone().or_else(|| settings.metrics_addr.clone());
        all.max_concurrent_downloads = self.max_concurrent_downloads.or(settings.max_concurrent_downloads);
        all.max_concurrent_uploads = self.max_concurrent_uploads.or(settings.max_concurrent_uploads);
        all.shutdown_timeout = self.shutdown_timeout.or(settings.shutdown_timeout);
        all
    }

    fn reloadable(&self, settings: &Settings) -> Reloadable {
        Reloadable {
            labels: self.labels.clone(),
            registries: settings.registries.clone(),
            max_downloads: self.max_concurrent_downloads,
            max_uploads: self.max_concurrent_uploads,
        }
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    // A daemon hears them itself, and SIGHUP often: it must not be taken for an interrupt of what clients asked for.
    knarr_linux::signals::forget()?;
    let typed = args;
    let settings = Settings::load()?;
    let args = &typed.completed(&settings.daemon);
    let options = options(args, &settings)?;
    let doors = doors(args)?;
    let set_level = start_log(args)?;
    let mut reload =
        Reload { typed: typed.clone(), settings, set_level, shutdown_timeout_s: args.shutdown_timeout };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(args, options, doors, &mut reload));
    // Blocking work that goes on, a pull for instance, must not hold the end for long.
    let patience_s = reload.shutdown_timeout_s.unwrap_or(SHUTDOWN_TIMEOUT_S);
    runtime.shutdown_timeout(Duration::from_secs(patience_s));
    let _ = ui;
    outcome
}

fn options(args: &Args, settings: &Settings) -> anyhow::Result<knarr_engine::Options> {
    let root = || match knarr_linux::namespace::is_unprivileged() {
        false => PathBuf::from("/var/lib/knarr"),
        true => settings.store_dir().parent().map_or_else(|| "/tmp/knarr".into(), PathBuf::from),
    };
    let pair = |text: &String| -> anyhow::Result<(String, String)> {
        let (key, value) = text.split_once('=').with_context(|| format!("{text:?}: expected KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let own_root = args.root.is_some();
    let root = args.root.clone().unwrap_or_else(root);
    let store = match &args.store {
        Some(store) => store.clone(),
        None if own_root => root.join("store"),
        None => settings.store_dir(),
    };
    Ok(knarr_engine::Options {
        store,
        root,
        run: args.run_dir.clone().unwrap_or_else(run_dir),
        program: "/proc/self/exe".into(),
        log_driver: log_driver(args)?,
        log_options: args.log_options.iter().map(pair).collect::<anyhow::Result<BTreeMap<_, _>>>()?,
        address_pools: args.pools.iter().map(|text| pool(text)).collect::<anyhow::Result<_>>()?,
        dns: args.dns.clone(),
        reloadable: args.reloadable(settings),
    })
}

fn log_driver(args: &Args) -> anyhow::Result<String> {
    let driver = args.log_driver.clone().unwrap_or_else(|| "json-file".to_owned());
    if !LOG_DRIVERS.contains(&driver.as_str()) {
        bail!("daemon.log_driver {driver:?}: expected one of {}", LOG_DRIVERS.join(", "));
    }
    Ok(driver)
}

fn pool(text: &str) -> anyhow::Result<(String, u8)> {
    let told = || format!("{text:?}: expected base=ADDRESS/PREFIX,size=PREFIX");
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=').with_context(told)? {
            ("base", value) => base = Some(value.to_owned()),
            ("size", value) => size = Some(value.parse().with_context(told)?),
            _ => bail!(told()),
        }
    }
    Ok((base.with_context(told)?, size.with_context(told)?))
}

fn doors(args: &Args) -> anyhow::Result<Vec<Listen>> {
    let group = args.group.as_deref().map(group).transpose()?;
    let run = args.run_dir.clone();
    let own = || run.map_or_else(default_socket, |run| run.join("knarr.sock"));
    let inherited = inherited()?;
    if args.listen.is_empty() {
        if !inherited.is_empty() {
            return Ok(inherited.into_iter().map(Listen::Fd).collect());
        }
        return Ok(vec![Listen::Unix { path: own(), group }]);
    }
    let mut doors: Vec<Listen> = inherited.into_iter().map(Listen::Fd).collect();
    for text in &args.listen {
        if let Some(path) = text.strip_prefix("unix://") {
            doors.push(Listen::Unix { path: path.into(), group });
        } else if let Some(address) = text.strip_prefix("tcp://") {
            doors.push(tcp(address, args)?);
        } else if text.starts_with("fd://") {
            if doors.iter().all(|door| !matches!(door, Listen::Fd(_))) {
                bail!(
                    "fd:// was asked for, but no socket was handed over: start the daemon from knarr.socket"
                );
            }
        } else {
            bail!("--listen {text}: expected unix:///PATH, tcp://ADDRESS:PORT or fd://");
        }
    }
    Ok(doors)
}

fn tcp(text: &str, args: &Args) -> anyhow::Result<Listen> {
    let address: SocketAddr =
        text.parse().with_context(|| format!("--listen tcp://{text}: expected ADDRESS:PORT"))?;
    let tls = match (&args.tls_ca, &args.tls_cert, &args.tls_key) {
        (Some(ca), Some(cert), Some(key)) => {
            Some(Tls { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
        }
        _ => None,
    };
    if tls.is_none() && !args.insecure {
        bail!(
            "tcp://{text} without TLS gives this machine to everybody who reaches it: --tls-ca, --tls-cert and --tls-key protect it"
        );
    }
    if tls.is_none() && !address.ip().is_loopback() {
        bail!("--insecure is for the loopback only, and {address} is elsewhere");
    }
    Ok(Listen::Tcp { address, tls })
}

fn metrics_address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("--metrics-addr {text}: expected ADDRESS:PORT, such as 127.0.0.1:9323"))
}

fn group(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(name)?;
    Ok(found.with_context(|| format!("there is no group {name}"))?.gid.as_raw())
}

/// Sockets that systemd opened for us.
fn inherited() -> anyhow::Result<Vec<OwnedFd>> {
    let variable = |name: &str| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count: i32 = variable("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or_default();
    if !ours {
        return Ok(Vec::new());
    }
    (3..3 + count).map(|number| Ok(knarr_linux::process::inherited_fd(number)?)).collect()
}

/// Changes how much is written.
type SetLevel = Box<dyn Fn(&Args) -> anyhow::Result<()>>;

fn level(args: &Args) -> anyhow::Result<EnvFilter> {
    let level = args.log_level.as_deref().unwrap_or("info");
    EnvFilter::try_new(level)
        .with_context(|| format!("log level {level:?}: expected error, warn, info, debug or trace"))
}

fn start_log(args: &Args) -> anyhow::Result<SetLevel> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(level(args)?)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    match args.log_format.as_deref().unwrap_or("text") {
        "json" => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Ok(Box::new(move |args| Ok(handle.reload(level(args)?)?)))
        }
        "text" => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Ok(Box::new(move |args| Ok(handle.reload(level(args)?)?)))
        }
        other => bail!("daemon.log_format {other:?}: expected text or json"),
    }
}

/// What is needed to take a changed configuration over.
struct Reload {
    typed: Args,
    /// As it was at the start.
    settings: Settings,
    set_level: SetLevel,
    shutdown_timeout_s: Option<u64>,
}

impl Reload {
    /// Takes over what can change while the daemon runs; all of it or, when something is wrong, nothing.
    fn run(&mut self, engine: &Engine) {
        notify("RELOADING=1");
        if let Err(error) = self.try_run(engine) {
            tracing::error!("the configuration is not taken over: {error:#}");
        }
        notify("READY=1");
    }

    fn try_run(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let settings = Settings::load()?;
        let args = self.typed.completed(&settings.daemon);
        (self.set_level)(&args)?;
        let new = args.reloadable(&settings);
        tracing::info!(labels = ?new.labels, registries = new.registries.len(), "the configuration is taken over");
        engine.reload(new);
        self.shutdown_timeout_s = args.shutdown_timeout;
        for key in settings.daemon.fixed_keys_other_than(&self.settings.daemon) {
            tracing::warn!("daemon.{key} has changed: it holds from the next start on");
        }
        if settings.store_dir != self.settings.store_dir {
            tracing::warn!("store.dir has changed: it holds from the next start on");
        }
        Ok(())
    }
}

async fn serve(
    args: &Args,
    options: knarr_engine::Options,
    doors: Vec<Listen>,
    reload: &mut Reload,
) -> anyhow::Result<()> {
    let figures = match &args.metrics_addr {
        Some(text) => Some(metrics::listen(metrics_address(text)?).await?),
        None => None,
    };
    let run = options.run.clone();
    let engine = Engine::open(options).await.map_err(|error| anyhow::anyhow!(error.message()))?;
    let (stop, stopped) = watch::channel(false);
    let active = Arc::new(AtomicUsize::new(0));
    let pid_file = run.join("knarr.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id()))
        .with_context(|| pid_file.display().to_string())?;
    let served = tokio::spawn(knarr_api::serve(engine.clone(), doors, stopped, active.clone()));
    if let Some(listener) = figures {
        tokio::spawn(metrics::serve(engine.clone(), listener, active.clone()));
    }
    notify("READY=1");
    tracing::info!(pid = std::process::id(), "knarr daemon is ready");
    let why = await_end(args, &engine, &active, served, reload).await;
    notify("STOPPING=1");
    stop.send_replace(true);
    engine.close().await;
    tracing::info!(why = why.as_deref().unwrap_or("failure"), "knarr daemon leaves; containers go on");
    // One that is not there is as good.
    let _ = std::fs::remove_file(&pid_file);
    why.map(|_| ())
}

/// Waits for a reason to leave.
async fn await_end(
    args: &Args,
    engine: &Engine,
    active: &AtomicUsize,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    reload: &mut Reload,
) -> anyhow::Result<String> {
    let (mut term, mut interrupt, mut hangup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let idle = idle(args.idle_timeout, engine, active);
    tokio::pin!(idle);
    tokio::pin!(served);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok("SIGTERM".to_owned()),
            _ = interrupt.recv() => return Ok("SIGINT".to_owned()),
            _ = hangup.recv() => reload.run(engine),
            () = &mut idle => return Ok("nobody needed it".to_owned()),
            outcome = &mut served => {
                outcome??;
                bail!("nobody listens any more");
            }
        }
    }
}

/// Comes back when for so long nobody has asked for anything and nothing has run.
async fn idle(seconds: Option<u64>, engine: &Engine, active: &AtomicUsize) {
    let Some(seconds) = seconds else { return std::future::pending().await };
    let mut quiet_s = 0;
    while quiet_s < seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let busy = active.load(Ordering::SeqCst) > 0 || engine.running().await > 0;
        quiet_s = if busy { 0 } else { quiet_s + 1 };
    }
}

/// Tells systemd, if it started us.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(state.as_bytes(), &path));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd does not hear us");
    }
}

#[cfg(test)]
mod tests {
    use super::pool;

    #[test]
    fn pools_are_read() {
        assert_eq!(pool("base=10.0.0.0/8,size=24").unwrap(), ("10.0.0.0/8".to_owned(), 24));
        assert!(pool("10.0.0.0/8").is_err() && pool("base=10.0.0.0/8").is_err());
    }
}
