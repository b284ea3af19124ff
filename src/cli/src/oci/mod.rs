//! `knarr oci`: containers from OCI bundles, with the command line that engines drive runtimes with.
//!
//! The names, flags, outputs and statuses are runc's, so that podman, containerd and test suites need not know the
//! difference. A link to this program called `knarr-oci` or `knarr-runc` is the same as `knarr oci`. Everything here has
//! one thread, and `create`, `run` and `exec` start again from a file that nobody below can write.
//!
//! Spec: OCI runtime-spec, `runtime.md`; `docs/decisions/009-runtime.md`.

mod log;
mod show;
mod update;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use knarr_linux::process::Process;
use knarr_runtime::create::{self, CreateOptions};
use knarr_runtime::exec::{self, ExecOptions};
use knarr_runtime::foreground::Signals;
use knarr_runtime::spec::ProcessSpec;
use knarr_runtime::state::Container;
use knarr_runtime::{RuntimeError, features, lifecycle};

use crate::ui::Ui;

/// Run containers from OCI bundles
#[derive(Debug, Parser)]
#[command(name = "knarr-oci", version = VERSION, arg_required_else_help = true)]
pub(crate) struct Oci {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");
/// The names under which the whole program is this command.
const NAMES: [&str; 3] = ["knarr-oci", "knarr-runc", knarr_linux::seal::SEALED_NAME];
/// The status of an `exec` that could not be.
const EXEC_FAILED: u8 = 255;

#[derive(Debug, clap::Args)]
struct Global {
    /// Keep containers in this directory
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write errors into this file, too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write them in this form
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Accepted for those who set it; nothing more is said
    #[arg(long)]
    debug: bool,
    /// Refused: control groups are made as files here
    #[arg(long)]
    systemd_cgroup: bool,
    /// Say who makes control groups; only files are offered here
    #[arg(long, value_name = "NAME", default_value = "cgroupfs", value_parser = ["cgroupfs", "systemd"])]
    cgroup_manager: String,
    /// Accepted for those who set it; who runs this decides
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, default_missing_value = "true")]
    rootless: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container that waits for its start
    Create(CreateArgs),
    /// Let a container's program run
    Start {
        /// The container
        id: String,
    },
    /// Make a container and let its program run
    Run(RunArgs),
    /// Print what a container is and does
    State {
        /// The container
        id: String,
    },
    /// Send a signal to a container
    Kill {
        /// Send it to all of its processes
        #[arg(short, long)]
        all: bool,
        /// The container
        id: String,
        /// The signal, by name or number
        #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
        signal: String,
    },
    /// Take a container away
    Delete {
        /// End it when it still runs, and be content when it is not there
        #[arg(short, long)]
        force: bool,
        /// The containers
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Run another program in a container
    Exec(Box<ExecArgs>),
    /// List containers
    List(show::ListArgs),
    /// List the processes of a container
    Ps(show::PsArgs),
    /// Let a container's processes stand still
    Pause {
        /// The container
        id: String,
    },
    /// Let them go on
    Resume {
        /// The container
        id: String,
    },
    /// Change the limits of a container
    Update(Box<update::Args>),
    /// Print what a container uses of the machine, as it changes
    Events(show::EventsArgs),
    /// Print what this runtime can do
    Features,
    /// Write a first configuration
    Spec(show::SpecArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Take the bundle from this directory
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Take another file of the bundle than config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Hand the terminal over to who listens on this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the process's number into this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting into it, as in an initramfs
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Give the program so many more open descriptors
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// The container's id
    id: String,
}

impl CreateArgs {
    /// How many descriptors after the third the program gets.
    fn descriptors(&self) -> u32 {
        self.preserve_fds.saturating_add(listen_fds())
    }
}

/// How many sockets the caller was handed to listen on, which it hands on.
fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    create: CreateArgs,
    /// Come back as soon as it runs
    #[arg(short, long)]
    detach: bool,
    /// Leave it there when it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted for those who set it
    #[arg(long)]
    no_subreaper: bool,
}

#[derive(Debug, clap::Args)]
struct ExecArgs {
    /// Hand the terminal over to who listens on this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Start in this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Be this user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Be in these groups, too
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Take process and its attributes from this file
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Come back as soon as it runs
    #[arg(short, long)]
    detach: bool,
    /// Write the process's number into this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Never gain rights
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Give the program so many more open descriptors
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// Set the AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Set the SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// The container
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Whether this start of the program is for this command, and with which arguments.
pub(crate) fn requested() -> Option<Vec<String>> {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let name = arguments.next()?;
    let base = Path::new(&name).file_name()?.to_str()?;
    if NAMES.contains(&base) {
        return Some(arguments.collect());
    }
    (arguments.next()? == "oci").then(|| arguments.collect())
}

/// What stands behind `oci` on the command line, where something stands before it.
pub(crate) fn arguments() -> Vec<String> {
    let all = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    all.skip_while(|argument| argument != "oci").skip(1).collect()
}

/// Runs the command with arguments from the command line.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let name = std::iter::once("knarr-oci".to_owned());
    let oci = Oci::parse_from(name.chain(arguments.iter().cloned()));
    run(oci, arguments, &Ui::new(false))
}

/// Runs what was parsed.
pub(crate) fn run(oci: Oci, arguments: &[String], ui: &Ui) -> ExitCode {
    let failed = if matches!(oci.command, Command::Exec(_)) { EXEC_FAILED } else { 1 };
    match dispatch(&oci.global, oci.command, arguments, ui) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let text = knarr_bootstrap::error_chain(error.as_ref());
            ui.error(&text);
            log::append(oci.global.log.as_deref(), &oci.global.log_format, "error", &text, ui);
            ExitCode::from(failed)
        }
    }
}

fn dispatch(global: &Global, command: Command, arguments: &[String], ui: &Ui) -> anyhow::Result<u8> {
    if global.systemd_cgroup || global.cgroup_manager == "systemd" {
        let text = "control groups are made as files here, systemd is not asked: leave --systemd-cgroup out (podman: --cgroup-manager=cgroupfs)";
        return Err(RuntimeError::Request(text.to_owned()).into());
    }
    if matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        knarr_linux::seal::start_again_read_only(arguments)
            .map_err(knarr_linux::LinuxError::from_step("start again from a read-only file"))?;
    }
    match &command {
        Command::Create(args) | Command::Run(RunArgs { create: args, .. }) => {
            knarr_runtime::check_preserved(args.descriptors())?;
        }
        Command::Exec(args) => knarr_runtime::check_preserved(args.preserve_fds)?,
        _ => {}
    }
    let root = &root(global);
    let open = |id: &str| Container::open(root, id);
    match command {
        Command::Create(args) => {
            let console = console(args.console_socket.as_deref())?;
            create::create(&create_options(root, &args, console))?;
        }
        Command::Start { id } => warn(global, ui, &lifecycle::start(&open(&id)?)?),
        Command::Run(args) => return run_container(global, root, &args, ui),
        Command::State { id } => show::state(&open(&id)?, ui)?,
        Command::Kill { all, id, signal } => lifecycle::kill(&open(&id)?, parse_signal(&signal)?, all)?,
        Command::Delete { force, id } => id.iter().try_for_each(|id| delete(global, root, id, force, ui))?,
        Command::Exec(args) => return exec_in(root, &args),
        Command::List(args) => show::list(root, &args, ui)?,
        Command::Ps(args) => show::ps(&open(args.id())?, &args, ui)?,
        Command::Pause { id } => lifecycle::pause(&open(&id)?)?,
        Command::Resume { id } => lifecycle::resume(&open(&id)?)?,
        Command::Update(args) => lifecycle::update(&open(args.id())?, &args.resources()?)?,
        Command::Events(args) => show::events(root, &args, ui)?,
        Command::Features => ui.print(&format!("{:#}\n", features::features()))?,
        Command::Spec(args) => show::spec(&args)?,
    }
    Ok(0)
}

fn root(global: &Global) -> PathBuf {
    if let Some(root) = &global.root {
        return root.clone();
    }
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| knarr_linux::namespace::is_unprivileged());
    user.map_or_else(
        || PathBuf::from("/run/knarr/oci"),
        |directory| PathBuf::from(directory).join("knarr/oci"),
    )
}

fn console(path: Option<&Path>) -> anyhow::Result<Option<UnixStream>> {
    let connect = |path: &Path| {
        knarr_linux::terminal::connect(path).map_err(|source| RuntimeError::File {
            doing: "connect to",
            path: path.to_owned(),
            source,
        })
    };
    Ok(path.map(connect).transpose()?)
}

fn create_options(root: &Path, args: &CreateArgs, console: Option<UnixStream>) -> CreateOptions {
    CreateOptions {
        root: root.to_owned(),
        id: args.id.clone(),
        bundle: args.bundle.clone(),
        config: args.config.clone(),
        console,
        pid_file: args.pid_file.clone(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.descriptors(),
        listen_fds: listen_fds(),
    }
}

/// What went wrong after the fact: told, but no failure.
fn warn(global: &Global, ui: &Ui, complaints: &[RuntimeError]) {
    for complaint in complaints {
        let text = knarr_bootstrap::error_chain(complaint);
        ui.say(&format!("warning: {text}"));
        log::append(global.log.as_deref(), &global.log_format, "warning", &text, ui);
    }
}

fn delete(global: &Global, root: &Path, id: &str, force: bool, ui: &Ui) -> anyhow::Result<()> {
    match Container::open(root, id) {
        Ok(container) => warn(global, ui, &lifecycle::delete(&container, force)?),
        Err(RuntimeError::NotFound { .. }) if force => _ = lifecycle::delete_rest(root, id)?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn run_container(global: &Global, root: &Path, args: &RunArgs, ui: &Ui) -> anyhow::Result<u8> {
    let signals = if args.detach { None } else { Some(Signals::block()?) };
    let wants_terminal = || -> anyhow::Result<bool> {
        let (spec, _) = knarr_runtime::spec::Spec::load(&args.create.bundle, args.create.config.as_deref())?;
        Ok(spec.process.is_some_and(|process| process.terminal))
    };
    let own = !args.detach && args.create.console_socket.is_none() && wants_terminal()?;
    let (console, terminal) =
        if own { own_console()? } else { (console(args.create.console_socket.as_deref())?, None) };
    let created = create::create(&create_options(root, &args.create, console))?;
    let container = created.container;
    let master =
        terminal.map(|socket| knarr_linux::terminal::receive_descriptor(std::os::fd::AsFd::as_fd(&socket)));
    let started = lifecycle::start(&container);
    let outcome = match (started, signals) {
        (Err(error), _) => Err(error),
        (Ok(complaints), signals) => {
            warn(global, ui, &complaints);
            let Some(signals) = signals else { return Ok(0) };
            // Others may look at it while it runs.
            let (id, process) = (container.state.id.clone(), created.process);
            drop(container);
            let status = signals.follow(&process, master.transpose()?)?;
            if !args.keep {
                delete(global, root, &id, true, ui)?;
            }
            return Ok(u8::try_from(status).unwrap_or(1));
        }
    };
    warn(global, ui, &lifecycle::delete(&container, true)?);
    outcome.map_err(Into::into)
}

type OwnConsole = (Option<UnixStream>, Option<UnixStream>);

fn own_console() -> anyhow::Result<OwnConsole> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Some(theirs), Some(ours)))
}

fn exec_in(root: &Path, args: &ExecArgs) -> anyhow::Result<u8> {
    let container = Container::open(root, &args.id)?;
    let process = exec_process(&container, args)?;
    let own = process.terminal && args.console_socket.is_none() && !args.detach;
    let (console, terminal) =
        if own { own_console()? } else { (console(args.console_socket.as_deref())?, None) };
    let signals = if args.detach { None } else { Some(Signals::block()?) };
    let options = ExecOptions {
        process,
        console,
        pid_file: args.pid_file.clone(),
        preserve_fds: args.preserve_fds,
        common: None,
    };
    let process: Process = exec::exec(&container, &options)?;
    drop(container);
    drop(options);
    let Some(signals) = signals else { return Ok(0) };
    let master =
        terminal.map(|socket| knarr_linux::terminal::receive_descriptor(std::os::fd::AsFd::as_fd(&socket)));
    let status = signals.follow(&process, master.transpose()?)?;
    Ok(u8::try_from(status).unwrap_or(1))
}

/// What runs: from a file, or as the container's own program with what the flags change.
fn exec_process(container: &Container, args: &ExecArgs) -> anyhow::Result<ProcessSpec> {
    if let Some(path) = &args.process {
        let text = knarr_runtime::spec::read_bounded(path)?;
        let mut process: ProcessSpec = serde_json::from_slice(&text)
            .map_err(|source| RuntimeError::Config { path: path.clone(), source })?;
        process.terminal |= args.tty;
        return Ok(process);
    }
    let mut process = container.spec()?.process.unwrap_or_default();
    process.terminal = args.tty;
    process.console_size = None;
    process.args.clone_from(&args.args);
    process.env.extend(args.env.iter().cloned());
    process.cwd = args.cwd.clone().unwrap_or(process.cwd);
    process.no_new_privileges |= args.no_new_privs;
    process.apparmor_profile = args.apparmor.clone().or(process.apparmor_profile);
    process.selinux_label = args.process_label.clone().or(process.selinux_label);
    process.user.additional_gids.extend(&args.additional_gids);
    if let Some(user) = &args.user {
        (process.user.uid, process.user.gid) = parse_user(user)?;
    }
    let capabilities = process.capabilities.get_or_insert_default();
    for name in &args.cap {
        let sets = [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted];
        sets.into_iter().for_each(|set| set.push(name.clone()));
    }
    Ok(process)
}

fn parse_user(text: &str) -> Result<(u32, u32), RuntimeError> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err(RuntimeError::Request(format!("{text:?} is no user: UID or UID:GID in numbers is"))),
    }
}

fn parse_signal(text: &str) -> Result<i32, RuntimeError> {
    knarr_linux::signals::by_name(text)
        .ok_or_else(|| RuntimeError::Request(format!("{text:?} is no signal: TERM, SIGTERM and 15 are one")))
}
