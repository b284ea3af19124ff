//! `knarr login` and `logout`: who one is at a registry.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context, bail};
use knarr_registry::RegistryError;
use knarr_registry::credentials::{Credential, Credentials, Kept, Secret};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::remote::RemoteArgs;
use crate::settings::Settings;
use crate::ui::Ui;

/// What `knarr login` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// The registry's host
    #[arg(default_value = "docker.io")]
    registry: String,
    /// Your name there
    #[arg(short, long)]
    username: Option<String>,
    /// Your password; others on this machine may see it there: --password-stdin hides it
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What `knarr logout` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// The registry's host
    #[arg(default_value = "docker.io")]
    registry: String,
}

const MAX_PASSWORD_BYTES: u64 = 64 << 10;

pub(crate) fn login(args: &LoginArgs, ui: &Ui) -> anyhow::Result<()> {
    let registry = host(&args.registry)?;
    let username = match &args.username {
        Some(name) => name.clone(),
        None => ask("Username: ", false)?,
    };
    let password = match &args.password {
        Some(word) => word.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().lock().take(MAX_PASSWORD_BYTES).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", true)?,
    };
    if username.is_empty() || password.is_empty() {
        bail!("a name and a password are needed");
    }
    if username.contains(':') {
        bail!("{username:?} is no user name: it has a colon");
    }
    let credential = Credential { username, secret: Secret::Password(password) };
    let client = args.remote.client(&Settings::load()?)?;
    if !client.login(&registry, &credential)? {
        knarr_bootstrap::Progress::warn(
            ui,
            &format!("{registry} asked for no name: whether this one is right is not known"),
        );
    }
    match Credentials::of_caller().set(&registry, &credential)? {
        Kept::File(path) => {
            ui.say(&format!("the password lies in {}, readable for you and root", path.display()));
        }
        Kept::Helper(name) => ui.say(&format!("docker-credential-{name} keeps the password")),
    }
    ui.print("Login Succeeded\n")
}

pub(crate) fn logout(args: &LogoutArgs, ui: &Ui) -> anyhow::Result<()> {
    let registry = host(&args.registry)?;
    if Credentials::of_caller().remove(&registry)? {
        return ui.print(&format!("Removing login credentials for {registry}\n"));
    }
    ui.print(&format!("Not logged in to {registry}\n"))
}

/// The host of what may be an address.
pub(crate) fn host(text: &str) -> anyhow::Result<String> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = host.trim_end_matches('/');
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        bail!("{text:?} is no registry: expected a host, such as registry.example:5000");
    }
    Ok(if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() })
}

/// Asks on the terminal. Whoever presses Ctrl-C gets a terminal back that shows what is typed.
fn ask(prompt: &str, is_secret: bool) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        bail!("standard input is no terminal: give -u and --password-stdin");
    }
    io::stderr().write_all(prompt.as_bytes())?;
    let silence = if is_secret { Some(Silence::begin()?) } else { None };
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reading cannot be interrupted: it is left behind when nobody waits for it any more.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = sender.send(io::stdin().read_line(&mut line).map(|_| line));
    });
    let answer = loop {
        if knarr_linux::signals::interrupted().load(Ordering::Relaxed) {
            break Err(RegistryError::Interrupted.into());
        }
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(anyhow::anyhow!("cannot read from the terminal"));
            }
            Ok(line) => break line.context("cannot read from the terminal"),
        }
    };
    if silence.is_some() {
        io::stderr().write_all(b"\n")?;
    }
    Ok(answer?.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing anyway.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
