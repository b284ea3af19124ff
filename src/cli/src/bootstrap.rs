//! `knarr bootstrap`: a root filesystem from a signed mirror.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use knarr_base::{Architecture, HumanSize, Timestamp};
use knarr_bootstrap::filter::PathFilter;
use knarr_bootstrap::hooks::{Hooks, Stage};
use knarr_bootstrap::options::ResolvConf;
use knarr_bootstrap::scripts::ScriptPolicy;
use knarr_bootstrap::target::Target;
use knarr_bootstrap::variant::Variant;
use knarr_bootstrap::{BootstrapError, Options, Report, run as bootstrap};
use knarr_linux::namespace;
use knarr_mirror::host::host_mirror;
use knarr_mirror::release::Leniency;
use knarr_mirror::repository::{self, Repository};
use knarr_mirror::suite::{Role, Suite};
use knarr_mirror::{Mirror, Options as MirrorOptions};

use crate::settings::{Settings, now};
use crate::system::parse_age;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// Suite (see `knarr suite ls`), a suite file (.toml), or a file of apt's (.sources, .list)
    suite: String,
    /// Where the result goes: DIR, FILE.tar[.gz|.xz|.zst], FILE.squashfs, FILE.ext4, oci:DIR, oci-archive:FILE, or - for a tarball on standard output
    target: String,
    /// Mirrors to use instead of the suite's own, each in place of those before it that fail; pockets are then left out unless named. A sources file or line stands for itself. Also KNARR_MIRROR
    #[arg(value_name = "MIRROR")]
    mirrors: Vec<String>,
    /// Add repositories: a .sources or .list file of apt's, or a line such as "deb [signed-by=KEY] URI SUITE COMPONENT"
    #[arg(long, value_name = "FILE|LINE", alias = "extra-repository")]
    sources: Vec<String>,
    /// Form of the result, when its name does not say
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// What to start from: essential, apt, minbase, buildd, important, standard, extract, custom
    #[arg(long, default_value = "minbase")]
    variant: Variant,
    /// Architecture, by Debian's name
    #[arg(long, value_name = "ARCH")]
    arch: Option<Architecture>,
    /// Packages to add: name, name=version or name/suite
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    include: Vec<String>,
    /// Packages to leave out
    #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Components to use
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    components: Vec<String>,
    /// Pockets to use: any of the suite's, or none
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pockets: Option<Vec<String>>,
    /// Priority of a package, or of a suite or pocket by its name there, as in apt_preferences(5)
    #[arg(long, value_name = "NAME=PRIORITY", value_parser = parse_pin)]
    pin: Vec<(String, i32)>,
    /// Let recommended packages come along
    #[arg(long)]
    recommends: bool,
    /// Keyring that replaces the suite's own (.gpg, .asc)
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
    /// Use the mirror as it was at this time: 20261121T091544Z
    #[arg(long, value_name = "TIMESTAMP", conflicts_with = "mirrors")]
    snapshot: Option<String>,
    /// Write a lock, or obey the one that is there
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Refuse when the lock would change
    #[arg(long)]
    locked: bool,
    /// Leave out files of packages that match
    #[arg(long, value_name = "PATTERN")]
    path_exclude: Vec<String>,
    /// Keep files that match in spite of --path-exclude
    #[arg(long, value_name = "PATTERN")]
    path_include: Vec<String>,
    /// Run before anything is unpacked
    #[arg(long, value_name = "HOOK")]
    hook_setup: Vec<String>,
    /// Run when packages are unpacked and none is configured
    #[arg(long, value_name = "HOOK")]
    hook_extract: Vec<String>,
    /// Run when the essential packages are configured
    #[arg(long, value_name = "HOOK")]
    hook_essential: Vec<String>,
    /// Run in the end: a program, or copy-in, copy-out, upload, download, run
    #[arg(long, value_name = "HOOK")]
    hook_customize: Vec<String>,
    /// Content of /etc/hostname
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// What /etc/resolv.conf becomes: auto (the host's, for directories), none, or a file
    #[arg(long, value_name = "FILE", default_value = "auto")]
    resolv_conf: String,
    /// Fetch and stop
    #[arg(long)]
    download_only: bool,
    /// Show what would be installed and stop
    #[arg(long, visible_alias = "simulate")]
    dry_run: bool,
    /// Use the cache only
    #[arg(long)]
    offline: bool,
    /// Where the cache lies
    #[arg(long, env = "KNARR_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Transfers at once
    #[arg(long, default_value_t = 6, value_name = "N")]
    jobs: usize,
    /// How often a failed transfer is tried again
    #[arg(long, default_value_t = 3, value_name = "N")]
    retries: u32,
    /// Give up a transfer in which nothing comes for this long
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_age)]
    timeout: Duration,
    /// End a maintainer script that runs longer
    #[arg(long, default_value = "30m", value_name = "TIME", value_parser = parse_age)]
    script_timeout: Duration,
    /// How maintainer scripts run: replay (their effect is made, where proven equal), outside (by DPKG_ROOT, where proven equal) or inside (always in the root)
    #[arg(long, default_value = "replay", value_name = "WAY")]
    scripts: String,
    /// Make the root anew, even when the cache has the very same
    #[arg(long)]
    fresh: bool,
    /// Show how each maintainer script ran
    #[arg(long)]
    explain: bool,
    /// Accept a Release file past its Valid-Until: a frozen mirror goes unnoticed
    #[arg(long)]
    insecure_allow_expired: bool,
    /// Accept a Release file older than one seen before: an old state played back goes unnoticed
    #[arg(long)]
    insecure_allow_rollback: bool,
}

pub(crate) fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let start = Instant::now();
    // Namespaces first: they can only be entered while there is one thread.
    let rootless = namespace::is_unprivileged();
    let settings = Settings::load()?;
    let cache = args.cache_dir.clone().unwrap_or_else(|| settings.cache_dir());
    let explain = args.explain;
    if !(args.dry_run || args.download_only) {
        let entered = if rootless { namespace::become_root() } else { namespace::private_mounts() };
        entered.map_err(BootstrapError::from)?;
    }
    let mirror = Mirror::new(mirror_options(&args, cache))?;
    let dry_run = args.dry_run;
    let options = options(args, &settings, rootless || namespace::in_user_namespace())?;
    let report = bootstrap(&options, &mirror, ui)?;
    if settings.max_cache_bytes.is_some() || settings.max_cache_age.is_some() {
        let (bytes, age) = (settings.max_cache_bytes, settings.max_cache_age);
        mirror.cache().prune(bytes.unwrap_or(u64::MAX), age.unwrap_or(Duration::MAX))?;
    }
    ui.clear();
    if explain {
        ui.print(&explanation(&report)?)?;
    }
    if dry_run {
        return ui.print(&listing(&report)?);
    }
    let lock = &report.lock;
    let seconds = start.elapsed().as_secs_f64();
    ui.say(&format!(
        "{} {} {}: {} packages, {} fetched or cached, in {seconds:.1} s -> {}",
        lock.suite,
        lock.architecture,
        lock.variant,
        lock.packages.len(),
        HumanSize(lock.size_bytes()),
        options.target.display()
    ));
    Ok(())
}

/// A mirror for a command that bootstraps on its way; `words` are flags of `knarr bootstrap`.
pub(crate) fn mirror(words: &[String], settings: &Settings) -> anyhow::Result<Mirror> {
    let args = parse_words(words, "trixie", Architecture::native(), &[])?;
    let cache = args.cache_dir.clone().unwrap_or_else(|| settings.cache_dir());
    Ok(Mirror::new(mirror_options(&args, cache))?.cancelled_by(knarr_linux::signals::interrupted()))
}

/// What a bootstrap of a suite would be asked for by these words.
pub(crate) fn base_options(
    words: &[String],
    suite: &str,
    architecture: Architecture,
    repositories: &[String],
    settings: &Settings,
) -> anyhow::Result<Options> {
    let args = parse_words(words, suite, architecture, repositories)?;
    options(args, settings, namespace::in_user_namespace())
}

fn parse_words(
    words: &[String],
    suite: &str,
    architecture: Architecture,
    repositories: &[String],
) -> anyhow::Result<Args> {
    let sources = repositories.iter().flat_map(|line| ["--sources", line]);
    let fixed = ["knarr", "--arch", architecture.name()].into_iter().chain(sources).chain([suite, "-"]);
    let all = fixed.map(str::to_owned).chain(words.iter().cloned());
    Ok(crate::build::BootstrapWords::try_parse_from(all)?.args)
}

fn mirror_options(args: &Args, cache: PathBuf) -> MirrorOptions {
    MirrorOptions {
        cache,
        offline: args.offline,
        jobs: args.jobs,
        retries: args.retries,
        stall: args.timeout,
        lenient: Leniency {
            expired: args.insecure_allow_expired || args.snapshot.is_some(),
            rollback: args.insecure_allow_rollback || args.snapshot.is_some(),
        },
    }
}

fn options(args: Args, settings: &Settings, rootless: bool) -> anyhow::Result<Options> {
    let (suite, from_file) = crate::suite::find(&args.suite)?;
    let architecture = args.arch.unwrap_or_else(Architecture::native);
    let (typed, addresses): (Vec<_>, Vec<_>) =
        mirror_words(&args.mirrors, from_file.is_none() && args.snapshot.is_none())
            .into_iter()
            .partition(|word| repository::is_sources(word));
    let only_repositories = from_file.is_some() || (addresses.is_empty() && !typed.is_empty());
    let repositories =
        repositories(from_file, &typed, &args.sources, &suite.distribution, only_repositories)?;
    if only_repositories {
        check_only_repositories(&args, &addresses)?;
    }
    let (main_mirrors, security_mirrors) = mirrors(&suite, architecture, args.snapshot.as_deref(), settings)?;
    let pockets = pockets(args.pockets.as_deref(), &suite, addresses.is_empty())?;
    let mut filter = PathFilter::default();
    args.path_exclude.iter().for_each(|pattern| filter.exclude(pattern));
    args.path_include.iter().for_each(|pattern| filter.include(pattern));
    let mut hooks = Hooks::default();
    let given = [
        (Stage::Setup, &args.hook_setup),
        (Stage::Extract, &args.hook_extract),
        (Stage::Essential, &args.hook_essential),
        (Stage::Customize, &args.hook_customize),
    ];
    for (stage, texts) in given {
        texts.iter().try_for_each(|text| hooks.add(stage, text))?;
    }
    Ok(Options {
        target: Target::parse(&args.target, args.format.as_deref())
            .map_err(|error| BootstrapError::Request(error.to_string()))?,
        mirrors: addresses,
        main_mirrors,
        security_mirrors,
        pockets,
        repositories,
        only_repositories,
        key_directories: Vec::new(),
        architecture,
        variant: args.variant,
        include: args.include,
        exclude: args.exclude,
        assume: Vec::new(),
        components: if args.components.is_empty() { suite.components.clone() } else { args.components },
        pins: args.pin,
        recommends: args.recommends,
        keyrings: args.keyring,
        filter,
        hooks,
        hostname: args.hostname,
        resolv_conf: match args.resolv_conf.as_str() {
            "auto" => ResolvConf::Auto,
            "none" => ResolvConf::None,
            path => ResolvConf::File(path.into()),
        },
        lock: args.lock,
        locked: args.locked,
        time: source_date_epoch()?,
        now: now(),
        only_unpack: args.variant.only_unpacks(),
        download_only: args.download_only,
        reuse: !args.fresh && !args.explain,
        dry_run: args.dry_run,
        scripts: match args.scripts.as_str() {
            "replay" => ScriptPolicy::Replay,
            "outside" => ScriptPolicy::Outside,
            "inside" => ScriptPolicy::Inside,
            other => {
                bail!(BootstrapError::Request(format!(
                    "--scripts {other}: expected replay, outside or inside"
                )))
            }
        },
        script_timeout: Some(args.script_timeout),
        rootless,
        suite,
    })
}

/// Addresses and sources as they were typed, or as `KNARR_MIRROR` has them where it counts: a sources
/// line is one word, everything else ends at a space or a comma.
fn mirror_words(typed: &[String], environment_counts: bool) -> Vec<String> {
    let environment = std::env::var("KNARR_MIRROR").ok().filter(|_| environment_counts && typed.is_empty());
    let split = |word: &String| match repository::is_line(word) {
        true => vec![word.clone()],
        false => word.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect(),
    };
    typed.iter().chain(&environment).flat_map(split).collect()
}

/// Everything that sources files and lines name. Each file keeps a name of its own in the root.
fn repositories(
    from_suite: Option<Vec<Repository>>,
    typed: &[String],
    added: &[String],
    distribution: &str,
    only: bool,
) -> anyhow::Result<Vec<Repository>> {
    let mut taken = if only { Vec::new() } else { vec![distribution.to_owned()] };
    let mut all = Vec::new();
    let loaded = typed.iter().chain(added).map(|word| repository::load(word));
    for group in from_suite.map(Ok).into_iter().chain(loaded) {
        let mut group = group?;
        let name = group[0].name.clone();
        let free = |name: &String| !taken.contains(name);
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let name = std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or(name);
        group.iter_mut().for_each(|repository| repository.name.clone_from(&name));
        taken.push(name);
        all.append(&mut group);
    }
    Ok(all)
}

/// What would change the suite's own mirrors has nothing to change when sources replace them.
fn check_only_repositories(args: &Args, addresses: &[String]) -> anyhow::Result<()> {
    let idle = [
        ("--components", !args.components.is_empty()),
        ("--pockets", args.pockets.is_some()),
        ("--snapshot", args.snapshot.is_some()),
        ("a mirror", !addresses.is_empty() && !args.mirrors.is_empty()),
    ];
    match idle.iter().find(|(_, given)| *given) {
        Some((what, _)) => bail!(BootstrapError::Request(format!(
            "{what} cannot be given beside a sources file that stands for the suite: the file says it"
        ))),
        None => Ok(()),
    }
}

/// The configured mirrors before the machine's own before the distribution's, unless a time is asked for.
fn mirrors(
    suite: &Suite,
    architecture: Architecture,
    snapshot: Option<&str>,
    settings: &Settings,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    if let Some(time) = snapshot {
        let template = |template: Option<&String>| {
            let template = template.with_context(|| format!("suite {} has no snapshots", suite.name))?;
            Ok::<_, anyhow::Error>(template.replace("{timestamp}", time))
        };
        let main = template(suite.snapshot.as_ref())?;
        let security =
            suite.security_snapshot.as_ref().map_or_else(|| Ok(main.clone()), |text| template(Some(text)))?;
        return Ok((vec![main], vec![security]));
    }
    let all = Suite::all()?;
    let configured = |role| {
        let suffix = if role == Role::Security { "-security" } else { "" };
        settings.mirrors.get(&format!("{}{suffix}", suite.distribution)).cloned()
    };
    let pick = |role| {
        if let Some(mirror) = configured(role) {
            return mirror;
        }
        let default = || suite.default_mirror(role, architecture).to_owned();
        let native = architecture == Architecture::native() || suite.ports_mirror.is_none();
        if native { host_mirror(suite, role, &all).unwrap_or_else(default) } else { default() }
    };
    Ok((vec![pick(Role::Main)], vec![pick(Role::Security)]))
}

fn pockets(named: Option<&[String]>, suite: &Suite, all_by_default: bool) -> anyhow::Result<Vec<String>> {
    let all: Vec<String> = suite.pockets.iter().map(|pocket| pocket.name.clone()).collect();
    match named {
        None if all_by_default => Ok(all),
        None => Ok(Vec::new()),
        Some([none]) if none == "none" => Ok(Vec::new()),
        Some(named) => match named.iter().find(|name| !all.contains(name)) {
            Some(unknown) => bail!(BootstrapError::Request(format!(
                "suite {} has no pocket {unknown}: it has {}",
                suite.name,
                all.join(", ")
            ))),
            None => Ok(named.to_vec()),
        },
    }
}

fn parse_pin(text: &str) -> anyhow::Result<(String, i32)> {
    let (name, priority) = text.split_once('=').context("expected NAME=PRIORITY, such as vim=-1")?;
    let priority =
        priority.trim().parse().with_context(|| format!("{priority:?} is no priority: expected a number"))?;
    Ok((name.trim().to_owned(), priority))
}

pub(crate) fn source_date_epoch() -> anyhow::Result<Option<Timestamp>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    match text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds >= 0) {
        Some(seconds) => Ok(Some(Timestamp(seconds))),
        None => bail!(BootstrapError::Request(format!(
            "SOURCE_DATE_EPOCH is {:?}: expected seconds since 1970",
            text.display().to_string()
        ))),
    }
}

fn listing(report: &Report) -> anyhow::Result<String> {
    let mut text = String::new();
    for package in &report.lock.packages {
        writeln!(text, "{} {} {}", package.name, package.version, package.architecture)?;
    }
    Ok(text)
}

fn explanation(report: &Report) -> anyhow::Result<String> {
    let mut text = format!("{:<32} {:<24} {:<10} {:>7}\n", "PACKAGE", "STEP", "WAY", "MS");
    for one in &report.explanations {
        writeln!(text, "{:<32} {:<24} {:<10} {:>7}", one.package, one.step, one.way, one.time_ms)?;
    }
    Ok(text)
}
