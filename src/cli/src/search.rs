//! `knarr search`: what a registry has.

use clap::Subcommand;
use knarr_oci::Reference;

use crate::remote::RemoteArgs;
use crate::settings::Settings;
use crate::ui::Ui;

/// What to look for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the tags of a repository
    Tags {
        /// The repository, such as debian or registry.example/app
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List the repositories of a registry that tells them
    Repositories {
        /// The registry's host
        registry: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    let settings = Settings::load()?;
    let names = match command {
        Command::Tags { name, remote } => remote.client(&settings)?.tags(&Reference::parse(name)?)?,
        Command::Repositories { registry, remote } => {
            remote.client(&settings)?.repositories(&crate::login::host(registry)?)?
        }
    };
    ui.print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())
}
