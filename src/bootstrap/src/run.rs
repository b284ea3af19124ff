//! A bootstrap from first to last.
//!
//! [`run`] is the order of things; each step lies in a module of its own.

use std::cell::OnceCell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};

use knarr_base::{Architecture, Timestamp};
use knarr_linux::emulator::Emulator;
use knarr_linux::sandbox::{Sandbox, Writes};
use knarr_linux::signals::interrupted;
use knarr_mirror::cache::Cache;
use knarr_mirror::repository::Repository;
use knarr_mirror::{Mirror, MirrorError, PoolFile};
use knarr_pgp::Keyring;
use knarr_tree::root::Root;

use crate::configure::Configurator;
use crate::filter::PathFilter;
use crate::hooks::{Hooks, Stage as HookStage};
use crate::lock::{Change, Lock, diff};
use crate::options::{Options, ResolvConf};
use crate::package::Package;
use crate::reuse::Product;
use crate::scripts::{Explanation, OUTSIDE_ROOT, Runner, ScriptPolicy};
use crate::stage::Stage;
use crate::target::{Format, Target};
use crate::unpack::{Preinst, Source, Unpacker};
use crate::variant::Variant;
use crate::{BootstrapError, Progress, database, finish, output, plan, sources, stage};

/// What a bootstrap did.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the root is made of.
    pub lock: Lock,
    /// How each maintainer script ran.
    pub explanations: Vec<Explanation>,
}

/// Makes the root filesystem that `options` ask for.
pub fn run(options: &Options, mirror: &Mirror, progress: &dyn Progress) -> Result<Report, BootstrapError> {
    let options = &with_target_of_link(options)?;
    check_target(options)?;
    let lock = obtain_lock(options, mirror, progress)?;
    if options.dry_run {
        return Ok(Report { lock, explanations: Vec::new() });
    }
    if options.download_only {
        fetch_only(&lock, mirror, progress)?;
        return Ok(Report { lock, explanations: Vec::new() });
    }
    let product = Product::of(options, &lock, mirror.cache())?;
    if product.as_ref().map_or(Ok(false), |product| product.deliver(&options.target))? {
        return Ok(Report { lock, explanations: Vec::new() });
    }
    let stage = Stage::create(&options.target, lock.size_bytes())?;
    match build(options, &lock, mirror, stage.root(), progress) {
        Ok((_, explanations)) => {
            deliver(options, &lock, stage, options.now, progress)?;
            product
                .map_or(Ok(()), |product| product.keep(&options.target, options.time.unwrap_or(lock.time)))?;
            Ok(Report { lock, explanations })
        }
        Err(error) => Err(abandon(options, stage, error, progress)),
    }
}

/// A root that was made for somebody to go on with.
#[derive(Debug)]
pub struct Made {
    /// Where it is. It is gone with this value.
    pub stage: Stage,
    /// What was unpacked into it.
    pub packages: Vec<Package>,
    /// How each maintainer script ran.
    pub explanations: Vec<Explanation>,
}

/// The lock of these options: the one that is there, or a new one.
pub fn lock(options: &Options, mirror: &Mirror, progress: &dyn Progress) -> Result<Lock, BootstrapError> {
    obtain_lock(options, mirror, progress)
}

/// Makes the root of a lock in memory, for somebody to go on with.
pub fn make(
    options: &Options,
    lock: &Lock,
    mirror: &Mirror,
    progress: &dyn Progress,
) -> Result<Made, BootstrapError> {
    let stage = Stage::create(&options.target, lock.size_bytes())?;
    let (packages, explanations) = build(options, lock, mirror, stage.root(), progress)?;
    Ok(Made { stage, packages, explanations })
}

/// A link as a target means what it leads to: to replace the link itself would surprise.
fn with_target_of_link(options: &Options) -> Result<Options, BootstrapError> {
    let mut options = options.clone();
    if let Some(path) = options.target.path.as_mut().filter(|path| path.is_symlink()) {
        let fail = |source| BootstrapError::File { path: path.clone(), doing: "follow the link", source };
        *path = std::fs::canonicalize(&*path).map_err(fail)?;
    }
    Ok(options)
}

fn check_target(options: &Options) -> Result<(), BootstrapError> {
    let Some(path) = &options.target.path else { return Ok(()) };
    let above = stage::parent(path);
    std::fs::metadata(above).map_err(|source| BootstrapError::File {
        path: above.to_owned(),
        doing: "put the target into",
        source,
    })?;
    let is_directory = matches!(options.target.format, Format::Directory | Format::Oci);
    let counts = |entry: &std::fs::DirEntry| {
        options.target.format != Format::Directory || !stage::is_nothing(path, &entry.file_name())
    };
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let taken = !is_directory || entries.flatten().any(|entry| counts(&entry));
            if taken { Err(BootstrapError::TargetExists { path: path.clone() }) } else { Ok(()) }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory && !is_directory => Ok(()),
        Err(source) => Err(BootstrapError::File { path: path.clone(), doing: "use", source }),
    }
}

/// What runs the architecture's programs: nothing where the machine does so itself.
pub fn emulator(architecture: Architecture) -> Result<Option<Emulator>, BootstrapError> {
    let native = Architecture::native();
    let runs = architecture == native || (native.name(), architecture.name()) == ("amd64", "i386");
    if runs || Emulator::is_registered(architecture.qemu()) {
        return Ok(None);
    }
    let program = format!("qemu-{}-static", architecture.qemu());
    Emulator::find(architecture.qemu()).map(Some).ok_or(BootstrapError::CannotRun { architecture, program })
}

/// The lock that is there, or a new one; a new one is written where one was asked for.
fn obtain_lock(options: &Options, mirror: &Mirror, progress: &dyn Progress) -> Result<Lock, BootstrapError> {
    let existing = options
        .lock
        .as_deref()
        .filter(|path| path.exists())
        .map(|path| Ok::<_, BootstrapError>((path, Lock::load(path)?)))
        .transpose()?;
    match existing {
        Some((path, lock)) if !options.locked => {
            check_fits(options, path, &lock)?;
            Ok(lock)
        }
        Some((path, lock)) => {
            progress.phase("resolving");
            let changes = diff(&lock, &plan::resolve(options, mirror, progress)?);
            if changes.is_empty() {
                return Ok(lock);
            }
            let changes = changes.iter().map(describe).collect::<Vec<_>>().join("\n");
            Err(BootstrapError::LockDiffers { path: path.to_owned(), changes })
        }
        None if options.locked => {
            Err(BootstrapError::Request("--locked needs --lock with a file that is there".to_owned()))
        }
        None => {
            progress.phase("resolving");
            let lock = plan::resolve(options, mirror, progress)?;
            if let Some(path) = &options.lock {
                write_lock(path, &lock)?;
            }
            Ok(lock)
        }
    }
}

fn check_fits(options: &Options, path: &Path, lock: &Lock) -> Result<(), BootstrapError> {
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let (include, assume) = (sorted(&options.include), sorted(&options.assume));
    if assume != lock.assume {
        let reason = "it left other packages out on purpose; remove it to resolve anew".to_owned();
        return Err(BootstrapError::BadLock { path: path.to_owned(), reason });
    }
    let repositories = repositories_of(options);
    let asked =
        (options.suite.name.as_str(), options.architecture, options.variant.name(), &include, &repositories);
    let known = lock.repositories();
    let locked = (lock.suite.as_str(), lock.architecture, lock.variant.as_str(), &lock.include, &known);
    if asked == locked {
        return Ok(());
    }
    let show = |(suite, architecture, variant, include, more): Asked<'_>| {
        let more = if more.is_empty() { String::new() } else { format!(" from {}", more.join(", ")) };
        format!("{suite} {architecture} {variant} with [{}]{more}", include.join(", "))
    };
    let reason =
        format!("it is of {}, asked for is {}; remove it to resolve anew", show(locked), show(asked));
    Err(BootstrapError::BadLock { path: path.to_owned(), reason })
}

type Asked<'a> = (&'a str, Architecture, &'a str, &'a Vec<String>, &'a Vec<String>);

/// `name/suite` of every repository that was asked for, as [`Lock::repositories`] has them.
fn repositories_of(options: &Options) -> Vec<String> {
    let sources = |repository: &Repository| repository.sources(options.architecture, &Keyring::default());
    let sources = options.repositories.iter().flat_map(sources);
    sources.map(|source| format!("{}/{}", source.repository, source.suite)).collect()
}

/// One line for a change.
#[must_use]
pub fn describe(change: &Change) -> String {
    match change {
        Change::Added(name, version) => format!("+ {name} {version}"),
        Change::Removed(name, version) => format!("- {name} {version}"),
        Change::Changed(name, old, new) => format!("~ {name} {old} -> {new}"),
        Change::Rebuilt(name, version) => format!("~ {name} {version} (other bytes)"),
    }
}

fn write_lock(path: &Path, lock: &Lock) -> Result<(), BootstrapError> {
    let fail = |source| BootstrapError::File { path: path.to_owned(), doing: "write", source };
    let mut file = tempfile::NamedTempFile::new_in(stage::parent(path)).map_err(fail)?;
    std::io::Write::write_all(&mut file, lock.to_text()?.as_bytes()).map_err(fail)?;
    // A lock is for others, too: a temporary file is not.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map(drop).map_err(|error| fail(error.error))
}

fn fetch_only(lock: &Lock, mirror: &Mirror, progress: &dyn Progress) -> Result<(), BootstrapError> {
    progress.phase("fetching");
    progress.expect_bytes(lock.size_bytes());
    Ok(mirror.pool(&pool_files(lock), &|_, _| {}, &|bytes| progress.bytes(bytes), interrupted())?)
}

fn pool_files(lock: &Lock) -> Vec<PoolFile> {
    let file = |package: &crate::lock::LockedPackage| PoolFile {
        mirrors: lock.releases[package.release].mirrors.clone(),
        path: package.path.clone(),
        size_bytes: package.size,
        digest: package.sha256,
    };
    lock.packages.iter().map(file).collect()
}

type Built = (Vec<Package>, Vec<Explanation>);

/// Everything that happens inside the stage.
fn build(
    options: &Options,
    lock: &Lock,
    mirror: &Mirror,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Built, BootstrapError> {
    let root = Root::open(path)?;
    let time = options.time.unwrap_or(lock.time);
    let environment = vec![
        ("KNARR_SUITE".to_owned(), lock.suite.clone()),
        ("KNARR_ARCH".to_owned(), lock.architecture.to_string()),
    ];
    let refuse = &mut |_: &str| {
        Err(BootstrapError::Request("a setup hook cannot \"run\": nothing is unpacked yet".to_owned()))
    };
    prepare(options, lock, &root)?;
    options.hooks.run(HookStage::Setup, &root, &environment, refuse)?;
    let unpacker = Unpacker::new(&root, &options.filter, options.rootless, options.suite.usr_merge);
    let (mut packages, debs) = fetch_and_unpack(options, lock, mirror, &unpacker, progress)?;
    unpacker.settle(&mut packages, &debs)?;
    packages
        .iter()
        .filter(|package| !package.lost.is_empty())
        .try_for_each(|package| database::write_list(&root, package))?;
    database::write_status(&root, &packages)?;
    options.hooks.run(HookStage::Extract, &root, &environment, &mut |command| {
        let make_sandbox = || sandbox(options, lock, &root);
        let (scripts, timeout) = (ScriptPolicy::Inside, options.script_timeout);
        let mut runner =
            Runner::new(&root, lock.architecture, scripts, time, timeout, &make_sandbox, &make_sandbox);
        runner.shell("extract", command)
    })?;
    let mut explanations = Vec::new();
    if !options.only_unpack {
        progress.phase("configuring");
        explanations =
            configure(options, lock, mirror, &root, &unpacker, &mut packages, &debs, time, &environment)?;
    }
    conclude(options, &root, &packages)?;
    Ok((packages, explanations))
}

/// What must be there before the first package.
fn prepare(options: &Options, lock: &Lock, root: &Root) -> Result<(), BootstrapError> {
    if options.suite.usr_merge {
        finish::merge_usr(root, lock.architecture.extra_lib_links())?;
    }
    for directory in ["dev", "etc", "proc", "run", "sys", "var/lib", "var/cache", "var/log"] {
        root.create_dir_all(directory, 0o755)?;
    }
    root.create_dir("tmp", 0o1777)?;
    root.set_mode("tmp", 0o1777)?;
    database::create(root, lock.architecture.name())
}

/// Fetches and unpacks side by side; answers with packages and their files by the lock's positions.
fn fetch_and_unpack(
    options: &Options,
    lock: &Lock,
    mirror: &Mirror,
    unpacker: &Unpacker<'_>,
    progress: &dyn Progress,
) -> Result<(Vec<Package>, Vec<PathBuf>), BootstrapError> {
    progress.phase("fetching and unpacking");
    progress.expect_bytes(lock.size_bytes());
    let files = pool_files(lock);
    // What an earlier run fetched is used again, and will be once more: worth a faster form.
    let known: Vec<bool> = files.iter().map(|file| mirror.cache().pool_path(file.digest).exists()).collect();
    let (sender, receiver) = channel::<(usize, PathBuf)>();
    let receiver = Mutex::new(receiver);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let extract_only = options.only_unpack;
    let results = std::thread::scope(|scope| {
        let work = || unpack_all(lock, unpacker, mirror.cache(), &known, &receiver, extract_only);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A failed worker closes its ear: sending to nobody is no error of the fetch.
        let fetched = {
            let sender = sender;
            let ready = |position, path| drop(sender.send((position, path)));
            mirror.pool(&files, &ready, &|bytes| progress.bytes(bytes), interrupted())
        };
        let mut results = Vec::new();
        let mut failure = fetched.err().map(BootstrapError::from);
        for worker in workers {
            match worker.join().unwrap_or(Err(BootstrapError::Interrupted)) {
                Ok(mut unpacked) => results.append(&mut unpacked),
                Err(error) => failure = Some(worse(failure, error)),
            }
        }
        failure.map_or(Ok(results), Err)
    })?;
    if interrupted().load(Ordering::SeqCst) {
        return Err(BootstrapError::Interrupted);
    }
    let mut results = results;
    results.sort_by_key(|(position, ..)| *position);
    Ok(results.into_iter().map(|(_, package, path)| (package, path)).unzip())
}

/// What went wrong first is rarely known: a damaged package tells more than an interrupted fetch.
fn worse(known: Option<BootstrapError>, new: BootstrapError) -> BootstrapError {
    match known {
        Some(known)
            if !matches!(
                known,
                BootstrapError::Interrupted | BootstrapError::Mirror(MirrorError::Interrupted)
            ) =>
        {
            known
        }
        _ => new,
    }
}

type Unpacked = Vec<(usize, Package, PathBuf)>;

fn unpack_all(
    lock: &Lock,
    unpacker: &Unpacker<'_>,
    cache: &Cache,
    known: &[bool],
    ready: &Mutex<Receiver<(usize, PathBuf)>>,
    extract_only: bool,
) -> Result<Unpacked, BootstrapError> {
    let mut unpacked = Vec::new();
    loop {
        let next = ready.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((position, path)) = next else { return Ok(unpacked) };
        if interrupted().load(Ordering::SeqCst) {
            return Err(BootstrapError::Interrupted);
        }
        let locked = &lock.packages[position];
        let preinst = if locked.base || extract_only { Preinst::Later } else { Preinst::First };
        let package =
            unpacker.unpack(position, locked, &Source::new(cache, &path, known[position]), preinst)?;
        unpacked.push((position, package, path));
    }
}

#[expect(clippy::too_many_arguments, reason = "each is one thing that configuring needs, used once")]
fn configure(
    options: &Options,
    lock: &Lock,
    mirror: &Mirror,
    root: &Root,
    unpacker: &Unpacker<'_>,
    packages: &mut Vec<Package>,
    debs: &[PathBuf],
    time: Timestamp,
    environment: &[(String, String)],
) -> Result<Vec<Explanation>, BootstrapError> {
    let make_sandbox = || sandbox(options, lock, root);
    let tools = OnceCell::new();
    let make_tools = || {
        let stage = tool_root(options, mirror)?;
        let tools = tools.get_or_init(|| stage).root().to_owned();
        let binds = vec![(make_sandbox()?.root, OUTSIDE_ROOT.to_owned())];
        let hostname = "localhost".to_owned();
        Ok(Sandbox { root: tools, writes: Writes::Kept, network: false, hostname, emulator: None, binds })
    };
    let mut runner = Runner::new(
        root,
        lock.architecture,
        options.scripts,
        time,
        options.script_timeout,
        &make_sandbox,
        &make_tools,
    );
    root.create_dir_all("usr/sbin", 0o755)?;
    root.write(POLICY, b"#!/bin/sh\nexit 101\n", 0o755)?;
    Configurator::new(root, unpacker, packages, debs, &mut runner)?.configure_base()?;
    options
        .hooks
        .run(HookStage::Essential, root, environment, &mut |command| runner.shell("essential", command))?;
    Configurator::new(root, unpacker, packages, debs, &mut runner)?.configure_rest()?;
    root.remove_file(POLICY)?;
    finish::write_extended_states(root, lock)?;
    finish::give_apt_its_directories(root)?;
    write_host_files(options, lock, root)?;
    options
        .hooks
        .run(HookStage::Customize, root, environment, &mut |command| runner.shell("customize", command))?;
    Ok(runner.explanations)
}

/// Where programs of the root run.
fn sandbox(options: &Options, lock: &Lock, root: &Root) -> Result<Sandbox, BootstrapError> {
    let fail = |source| BootstrapError::File { path: root.path().to_owned(), doing: "find", source };
    let path = std::path::absolute(root.path()).map_err(fail)?;
    let emulator = emulator(lock.architecture)?;
    let hostname = options.hostname.clone().unwrap_or_else(|| "localhost".to_owned());
    Ok(Sandbox { root: path, writes: Writes::Kept, network: false, hostname, emulator, binds: Vec::new() })
}

/// A native root of the same suite, whose programs work on the root that is being made.
fn tool_root(options: &Options, mirror: &Mirror) -> Result<Stage, BootstrapError> {
    let options = Options {
        target: Target { format: Format::Tar, path: None },
        architecture: Architecture::native(),
        variant: Variant::Minbase,
        include: Vec::new(),
        exclude: Vec::new(),
        recommends: false,
        filter: PathFilter::default(),
        hooks: Hooks::default(),
        hostname: None,
        resolv_conf: ResolvConf::None,
        lock: None,
        locked: false,
        scripts: ScriptPolicy::Replay,
        only_unpack: false,
        assume: Vec::new(),
        ..options.clone()
    };
    let lock = plan::resolve(&options, mirror, &Silent)?;
    let stage = Stage::create(&options.target, lock.size_bytes())?;
    build(&options, &lock, mirror, stage.root(), &Silent)?;
    Ok(stage)
}

/// Tells nobody: a tool root is nothing that was asked for.
struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str) {}
    fn expect_bytes(&self, _: u64) {}
    fn bytes(&self, _: u64) {}
    fn warn(&self, _: &str) {}
}

/// Tells services not to start while there is nobody to serve.
const POLICY: &str = "usr/sbin/policy-rc.d";

fn write_host_files(options: &Options, lock: &Lock, root: &Root) -> Result<(), BootstrapError> {
    if let Some(hostname) = &options.hostname {
        root.write("etc/hostname", format!("{hostname}\n").as_bytes(), 0o644)?;
    }
    let copied = match &options.resolv_conf {
        ResolvConf::File(path) => Some(path.clone()),
        ResolvConf::Auto if options.target.format == Format::Directory => {
            Some(PathBuf::from("/etc/resolv.conf"))
        }
        ResolvConf::Auto | ResolvConf::None => None,
    };
    if let Some(path) = copied
        && (options.resolv_conf != ResolvConf::Auto || path.exists())
    {
        let bytes =
            std::fs::read(&path).map_err(|source| BootstrapError::File { path, doing: "read", source })?;
        root.write("etc/resolv.conf", &bytes, 0o644)?;
    }
    if root.exists("etc/apt")? {
        sources::write(options, lock, root)?;
    }
    Ok(())
}

fn conclude(options: &Options, root: &Root, packages: &[Package]) -> Result<(), BootstrapError> {
    if !options.only_unpack {
        finish::clean(root, packages)?;
    }
    if options.target.format == Format::Directory && !options.rootless {
        finish::make_devices(root)?;
    }
    finish::set_directory_times(root, packages)
}

fn deliver(
    options: &Options,
    lock: &Lock,
    stage: Stage,
    started: Timestamp,
    progress: &dyn Progress,
) -> Result<(), BootstrapError> {
    let newest = options.time.unwrap_or(lock.time);
    match (&options.target.path, options.target.format) {
        (Some(path), Format::Directory) => stage.become_target(path),
        _ => {
            progress.phase("writing");
            output::write(&Root::open(stage.root())?, &options.target, lock, newest, started)
        }
    }
}

/// After a failed script the stage is worth a look; after anything else it is not.
fn abandon(
    options: &Options,
    stage: Stage,
    error: BootstrapError,
    progress: &dyn Progress,
) -> BootstrapError {
    let is_script = matches!(error, BootstrapError::Script { .. } | BootstrapError::Hook { .. });
    if let (true, Format::Directory, Some(path)) = (is_script, options.target.format, &options.target.path)
        && let Some(kept) = stage.keep_incomplete(path, &error.to_string())
    {
        progress
            .warn(&format!("what there was of the root is kept, marked incomplete, in {}", kept.display()));
    }
    error
}
