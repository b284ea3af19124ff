//! Commands that run in the image while it is built.

use std::path::PathBuf;

use knarr_base::Architecture;
use knarr_linux::sandbox::{Outcome, Program, Sandbox, Session, Status, Writes};
use knarr_recipe::recipe::Run;
use knarr_tree::changes::Changes;
use knarr_tree::root::Root;

use crate::FactoryError;
use crate::state::Live;

/// What commands see of the image that is being built.
pub struct Surroundings<'a> {
    /// For which machine.
    pub architecture: Architecture,
    /// The image's environment.
    pub env: &'a [String],
    /// Where commands start that do not say.
    pub workdir: &'a str,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Failures show so much of what the command said.
const SHOWN_BYTES: usize = 4000;

/// Runs one command; answers with what it changed.
pub fn run(live: &Live, run: &Run, around: &Surroundings<'_>) -> Result<Changes, FactoryError> {
    let before = live.snapshot()?;
    let resolver = if run.network { lend_resolver(live)? } else { None };
    let outcome =
        session(&live.root, around.architecture, run.network, Writes::Kept).and_then(|mut session| {
            let program =
                Program { argv: argv(run, around), env: environment(run, around.env), ..Program::default() };
            Ok(session.run(&program)?)
        });
    if let Some(old) = resolver {
        take_resolver_back(live, old)?;
    }
    let outcome = outcome?;
    if outcome.status != Status::Exited(0) {
        return Err(FactoryError::Run {
            command: run.command.text(),
            status: describe(outcome.status),
            output: tail(&outcome),
        });
    }
    let mut changes = before.changes(&live.snapshot()?);
    changes.changed.retain(|path| !is_volatile(path));
    Ok(changes)
}

/// What is left in these directories is of the command, not of the image.
fn is_volatile(path: &str) -> bool {
    ["tmp/", "run/", "var/tmp/", "var/cache/apt/archives/", "var/lib/apt/lists/"]
        .iter()
        .any(|top| path.starts_with(top))
        || matches!(
            path,
            "var/cache/apt/pkgcache.bin" | "var/cache/apt/srcpkgcache.bin" | "var/log/apt/eipp.log.xz"
        )
        || path == RESOLVER
}

/// A sandbox over a root.
pub fn session(
    root: &Root,
    architecture: Architecture,
    network: bool,
    writes: Writes,
) -> Result<Session, FactoryError> {
    lent_session(root, architecture, network, writes, Vec::new())
}

/// A sandbox over a root, in which directories of the host are seen, too.
pub fn lent_session(
    root: &Root,
    architecture: Architecture,
    network: bool,
    writes: Writes,
    binds: Vec<(PathBuf, String)>,
) -> Result<Session, FactoryError> {
    let path = root.path();
    let root = std::path::absolute(path).map_err(|source| FactoryError::File {
        doing: "find",
        path: path.to_owned(),
        source,
    })?;
    let emulator = knarr_bootstrap::run::emulator(architecture)?;
    Ok(Session::start(&Sandbox { root, writes, network, hostname: "build".to_owned(), emulator, binds })?)
}

fn argv(run: &Run, around: &Surroundings<'_>) -> Vec<String> {
    let argv = run.command.argv();
    let workdir = run.workdir.as_deref().unwrap_or(around.workdir);
    if workdir.is_empty() || workdir == "/" {
        return argv;
    }
    let script = "cd \"$1\" && shift && exec \"$@\"";
    let words = ["/bin/sh", "-ec", script, "sh", workdir];
    words.into_iter().map(str::to_owned).chain(argv).collect()
}

fn environment(run: &Run, env: &[String]) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned()),
    ];
    let mut set = |name: &str, value: &str| {
        pairs.retain(|(known, _)| known != name);
        pairs.push((name.to_owned(), value.to_owned()));
    };
    env.iter().filter_map(|pair| pair.split_once('=')).for_each(|(name, value)| set(name, value));
    run.env.iter().for_each(|(name, value)| set(name, value));
    pairs
}

const RESOLVER: &str = "etc/resolv.conf";

/// What stood where the host's resolver is lent to: nothing, a file, or a link.
enum Old {
    Nothing,
    File(Vec<u8>),
    Link(String),
}

/// Gives the command the host's name servers.
fn lend_resolver(live: &Live) -> Result<Option<Old>, FactoryError> {
    let Ok(text) = std::fs::read("/etc/resolv.conf") else { return Ok(None) };
    let root = &live.root;
    let old = if !root.exists(RESOLVER)? {
        Old::Nothing
    } else if root.lstat(RESOLVER)?.kind == knarr_tree::unpack::Kind::Symlink {
        Old::Link(String::from_utf8_lossy(&root.read_link(RESOLVER)?).into_owned())
    } else {
        Old::File(root.read(RESOLVER)?)
    };
    root.create_dir_all("etc", 0o755)?;
    root.write(RESOLVER, &text, 0o644)?;
    Ok(Some(old))
}

fn take_resolver_back(live: &Live, old: Old) -> Result<(), FactoryError> {
    match old {
        Old::Nothing => live.root.remove_dir_all(RESOLVER)?,
        Old::File(bytes) => live.root.write(RESOLVER, &bytes, 0o644)?,
        Old::Link(target) => live.root.symlink(&target, RESOLVER)?,
    }
    Ok(())
}

/// How a program ended, in words.
#[must_use]
pub fn describe(status: Status) -> String {
    match status {
        Status::Exited(code) => format!("exit status {code}"),
        Status::Signaled(signal) => format!("ended by signal {signal}"),
        Status::TimedOut => "it took too long and was ended".to_owned(),
    }
}

/// The end of what a program said.
#[must_use]
pub fn tail(outcome: &Outcome) -> String {
    let start = outcome.output.len().saturating_sub(SHOWN_BYTES);
    String::from_utf8_lossy(&outcome.output[start..]).into_owned()
}
