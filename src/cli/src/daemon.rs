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
use knarr_api::{Listen, Tls};
use knarr_engine::Engine;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::client::{default_socket, run_dir};
use crate::settings::Settings;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
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
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Write so much: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Label this engine (may be given again)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The log driver of containers that name none
    #[arg(long, value_name = "DRIVER", default_value = "json-file", value_parser = ["json-file", "local", "journald", "none"])]
    log_driver: String,
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
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let settings = Settings::load()?;
    let options = options(args, &settings)?;
    let doors = doors(args)?;
    start_log(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(args, options, doors));
    // Blocking work that goes on, a pull for instance, must not hold the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
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
        registries: settings.registries.clone(),
        log_driver: args.log_driver.clone(),
        log_options: args.log_options.iter().map(pair).collect::<anyhow::Result<BTreeMap<_, _>>>()?,
        labels: args.labels.clone(),
        address_pools: args.pools.iter().map(|text| pool(text)).collect::<anyhow::Result<_>>()?,
        dns: args.dns.clone(),
    })
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

fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level).with_context(|| {
        format!("--log-level {}: expected error, warn, info, debug or trace", args.log_level)
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    match args.log_format.as_str() {
        "json" => builder.json().init(),
        _ => builder.init(),
    }
    Ok(())
}

async fn serve(args: &Args, options: knarr_engine::Options, doors: Vec<Listen>) -> anyhow::Result<()> {
    let run = options.run.clone();
    let engine = Engine::open(options).await.map_err(|error| anyhow::anyhow!(error.message()))?;
    let (stop, stopped) = watch::channel(false);
    let active = Arc::new(AtomicUsize::new(0));
    let pid_file = run.join("knarr.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id()))
        .with_context(|| pid_file.display().to_string())?;
    let served = tokio::spawn(knarr_api::serve(engine.clone(), doors, stopped, active.clone()));
    notify("READY=1");
    tracing::info!(pid = std::process::id(), "knarr daemon is ready");
    let why = await_end(args, &engine, &active, served).await;
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
) -> anyhow::Result<String> {
    let (mut term, mut interrupt, mut reload) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let idle = idle(args.idle_timeout, engine, active);
    tokio::pin!(idle);
    tokio::pin!(served);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok("SIGTERM".to_owned()),
            _ = interrupt.recv() => return Ok("SIGINT".to_owned()),
            _ = reload.recv() => match Settings::load() {
                Ok(_) => tracing::info!("the configuration was read again: new settings of registries hold from the next start on"),
                Err(error) => tracing::error!("the configuration is not taken over: {error:#}"),
            },
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
