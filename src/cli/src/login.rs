//! `knarr login` and `logout`: who one is at a registry.

use std::io::{self, Read};

use anyhow::{Context, bail};
use knarr_registry::credentials::{Credential, Credentials, Kept, Secret};

use crate::prompt::ask;
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
        None => ask("Username: ", false).context("give -u and --password-stdin")?,
    };
    let password = match &args.password {
        Some(word) => word.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().lock().take(MAX_PASSWORD_BYTES).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", true).context("give --password-stdin")?,
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
