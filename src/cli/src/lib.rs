//! The command line: what was typed becomes options, and what happened becomes text and an exit status.
//!
//! [`main`] is the binary's. One file per subcommand; [`exit`] maps errors to statuses and hints.
#![forbid(unsafe_code)]

mod archive;
mod bootstrap;
mod build;
mod client;
mod container;
mod copy;
mod cp;
mod create;
mod daemon;
mod events;
mod exit;
mod image;
mod inspect;
mod lock;
mod login;
mod network;
mod oci;
mod prompt;
mod provenance;
mod pull;
mod push;
mod quick;
mod recipe;
mod registry;
mod remote;
mod run;
mod search;
mod session;
mod settings;
mod sign;
mod suite;
mod system;
mod table;
mod template;
mod ui;
mod update;
mod volume;

#[doc(hidden)]
pub use create::try_words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::ui::Ui;

/// From a signed Debian mirror to containers on a cluster, in one binary
#[derive(Debug, Parser)]
#[command(name = "knarr", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    globals: Globals,
}

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
struct Globals {
    /// Show less
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Ask the engine at unix:///PATH or tcp://HOST:PORT instead of this machine's own
    #[arg(short = 'H', long, global = true, value_name = "HOST")]
    host: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a root filesystem from a signed mirror
    Bootstrap(Box<bootstrap::Args>),
    /// Make an image from a recipe
    Build(Box<build::Args>),
    /// List images
    Images(image::ListArgs),
    /// Show, name, remove and compare images
    #[command(subcommand)]
    Image(image::Command),
    /// Fetch an image from a registry
    Pull(pull::Args),
    /// Send an image to a registry
    Push(push::Args),
    /// Say who you are at a registry
    Login(login::LoginArgs),
    /// Forget who you are at a registry
    Logout(login::LogoutArgs),
    /// Look what a registry has
    #[command(subcommand)]
    Search(search::Command),
    /// Give an image another name
    Tag(image::TagArgs),
    /// Remove images
    Rmi(image::RmArgs),
    /// Write images into an archive
    Save(archive::SaveArgs),
    /// Read images from an archive
    Load(archive::LoadArgs),
    /// Make an image from a root's tarball
    Import(archive::ImportArgs),
    /// Write an image's files as one tarball
    Export(archive::ExportArgs),
    /// Show, check and begin recipes
    #[command(subcommand)]
    Recipe(recipe::Command),
    /// Serve images to others
    #[command(subcommand)]
    Registry(registry::Command),
    /// Show the suites that can be bootstrapped
    #[command(subcommand)]
    Suite(suite::Command),
    #[command(flatten)]
    OfContainer(VerbOfContainer),
    /// Work with containers
    #[command(subcommand)]
    Container(Box<container::Command>),
    /// Work with volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Work with networks
    #[command(subcommand)]
    Network(network::Command),
    /// Show everything about containers, images, volumes and networks, as JSON
    Inspect(inspect::Args),
    /// Show what happens in the engine
    Events(events::Args),
    /// Show what the engine is
    Info(events::FormatArgs),
    /// Show the versions of this program and of the engine
    Version(events::FormatArgs),
    /// Be the engine: serve the Engine API, and look after containers
    Daemon(Box<daemon::Args>),
    /// Run containers from OCI bundles
    Oci(Box<oci::Oci>),
    /// Work with locks
    #[command(subcommand)]
    Lock(lock::Command),
    /// Look after what Knarr keeps on this machine
    #[command(subcommand)]
    System(system::Command),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(hide = true)]
    Manual,
}

/// What people type all day.
#[derive(Debug, Subcommand)]
enum VerbOfContainer {
    /// Run a program in a new container
    Run(Box<run::RunArgs>),
    /// Make a container without starting it
    Create(Box<create::CreateArgs>),
    /// Start containers
    Start(run::StartArgs),
    /// Stop containers
    Stop(container::StopArgs),
    /// Stop containers and start them again
    Restart(container::StopArgs),
    /// Send containers a signal
    Kill(container::KillArgs),
    /// Remove containers
    Rm(container::RmArgs),
    /// List containers
    Ps(container::PsArgs),
    /// Run another program in a container
    Exec(run::ExecArgs),
    /// Connect to a container's program
    Attach(run::AttachArgs),
    /// Show what containers have written
    Logs(container::LogsArgs),
    /// Copy files into a container, or out of it
    Cp(container::CpArgs),
    /// Show what a container has changed in its root
    Diff(container::OneArgs),
    /// Make an image of a container
    Commit(container::CommitArgs),
    /// Give a container another name
    Rename(container::RenameArgs),
    /// Show what runs in a container
    Top(container::TopArgs),
    /// Show a container's ports
    Port(container::PortArgs),
    /// Stop containers where they stand
    Pause(container::ManyArgs),
    /// Let them go on
    Unpause(container::ManyArgs),
    /// Wait until containers end, and print how
    Wait(container::ManyArgs),
    /// Change what containers may use
    Update(container::UpdateArgs),
    /// Show how much of the machine containers use
    Stats(container::StatsArgs),
}

impl From<VerbOfContainer> for container::Command {
    fn from(verb: VerbOfContainer) -> Self {
        use VerbOfContainer as V;
        match verb {
            V::Run(args) => Self::Run(args),
            V::Create(args) => Self::Create(args),
            V::Start(args) => Self::Start(args),
            V::Stop(args) => Self::Stop(args),
            V::Restart(args) => Self::Restart(args),
            V::Kill(args) => Self::Kill(args),
            V::Rm(args) => Self::Rm(args),
            V::Ps(args) => Self::Ls(args),
            V::Exec(args) => Self::Exec(args),
            V::Attach(args) => Self::Attach(args),
            V::Logs(args) => Self::Logs(args),
            V::Cp(args) => Self::Cp(args),
            V::Diff(args) => Self::Diff(args),
            V::Commit(args) => Self::Commit(args),
            V::Rename(args) => Self::Rename(args),
            V::Top(args) => Self::Top(args),
            V::Port(args) => Self::Port(args),
            V::Pause(args) => Self::Pause(args),
            V::Unpause(args) => Self::Unpause(args),
            V::Wait(args) => Self::Wait(args),
            V::Update(args) => Self::Update(args),
            V::Stats(args) => Self::Stats(args),
        }
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    knarr_linux::init_if_requested();
    knarr_runtime::shim::init_if_requested();
    if let Some(arguments) = oci::requested() {
        return oci::main(&arguments);
    }
    reset_sigpipe();
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = quick::parse(&arguments).unwrap_or_else(Cli::parse);
    let ui = Ui::new(cli.globals.quiet);
    if let Command::Oci(oci) = cli.command {
        return oci::run(*oci, &oci::arguments(), &ui);
    }
    match run(cli.command, cli.globals.host.as_deref(), &ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, &ui),
    }
}

/// Verbs of images work on this machine's store: another engine's images are not there.
fn refuse_elsewhere(command: &Command, host: Option<&str>) -> anyhow::Result<()> {
    let verb = match command {
        Command::Images(_) => "images",
        Command::Pull(_) => "pull",
        Command::Push(_) => "push",
        Command::Tag(_) => "tag",
        Command::Rmi(_) => "rmi",
        Command::Save(_) => "save",
        Command::Load(_) => "load",
        Command::Import(_) => "import",
        Command::Image(_) => "image",
        _ => return Ok(()),
    };
    match client::elsewhere(host) {
        Some(host) => anyhow::bail!(
            "`knarr {verb}` works on this machine's own store, and {host} is another engine: use `docker {verb}` there, or unset KNARR_HOST and DOCKER_HOST"
        ),
        None => Ok(()),
    }
}

fn run(command: Command, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    refuse_elsewhere(&command, host)?;
    match command {
        Command::OfContainer(verb) => container::run(&verb.into(), host, ui),
        Command::Container(command) => container::run(&command, host, ui),
        Command::Volume(command) => volume::run(&command, host, ui),
        Command::Network(command) => network::run(&command, host, ui),
        Command::Inspect(args) => inspect::run(&args, host, ui),
        Command::Events(args) => events::run(&args, host, ui),
        Command::Info(args) => events::info(&args, host, ui),
        Command::Version(args) => events::version(&args, host, ui),
        Command::Bootstrap(args) => bootstrap::run(*args, ui),
        Command::Build(args) => build::run(&args, ui),
        Command::Images(args) => image::list(&args, ui),
        Command::Image(command) => image::run(&command, ui),
        Command::Pull(args) => pull::run(&args, ui),
        Command::Push(args) => push::run(&args, ui),
        Command::Login(args) => login::login(&args, ui),
        Command::Logout(args) => login::logout(&args, ui),
        Command::Search(command) => search::run(&command, ui),
        Command::Tag(args) => image::tag(&args, ui),
        Command::Rmi(args) => image::remove(&args, ui),
        Command::Save(args) => archive::save(&args),
        Command::Load(args) => archive::load(&args, ui),
        Command::Import(args) => archive::import(&args, ui),
        Command::Export(args) => archive::export(&args),
        Command::Recipe(command) => recipe::run(&command, ui),
        Command::Registry(command) => registry::run(command, ui),
        Command::Suite(command) => suite::run(&command, ui),
        // Has statuses of its own, so it was run before.
        Command::Oci(_) => Ok(()),
        Command::Daemon(args) => daemon::run(&args, ui),
        Command::Lock(command) => lock::run(&command, ui),
        Command::System(command) => system::run(&command, ui),
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "knarr", &mut text);
            ui.print(&String::from_utf8_lossy(&text))
        }
        Command::Manual => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            ui.print(&String::from_utf8_lossy(&text))
        }
    }
}

/// `knarr … | head` ends quietly: writing to a closed pipe is an error that [`Ui`] swallows.
fn reset_sigpipe() {
    let _ = knarr_linux::signals::watch();
}
