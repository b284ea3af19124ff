//! The first step: packages, and what follows from them and from the recipe's simple wishes.
//!
//! [`options`] says what `bootstrap` is asked for; [`make`] makes the root and its layers.

use knarr_base::Timestamp;
use knarr_bootstrap::filter::PathFilter;
use knarr_bootstrap::lock::{Lock, LockedPackage};
use knarr_bootstrap::options::{Options, ResolvConf};
use knarr_bootstrap::package::Package;
use knarr_bootstrap::variant::Variant;
use knarr_bootstrap::{Progress, run};
use knarr_mirror::Mirror;
use knarr_recipe::merge::packages as merged;
use knarr_recipe::recipe::{Mode, Recipe, TargetName};
use knarr_tree::root::Root;

use crate::cache::LayerRecord;
use crate::groups::{self, Member};
use crate::inventory::{Brought, Inventory};
use crate::layers::{LayerOptions, PackageFiles, package_layers};
use crate::state::Live;
use crate::{FactoryError, effects};

/// What every container to work in has, unless the recipe takes it away with `NAME-`.
const DEV_PACKAGES: [&str; 19] = [
    "bash-completion",
    "build-essential",
    "ca-certificates",
    "curl",
    "file",
    "gdb",
    "git",
    "iproute2",
    "less",
    "locales",
    "man-db",
    "manpages-dev",
    "nano",
    "openssh-client",
    "procps",
    "strace",
    "sudo",
    "unzip",
    "xz-utils",
];

/// What packages need only for being installed, or for being administrated: production images do without, unless
/// the recipe names it.
const ASSUMED: [&str; 63] = [
    "adduser",
    "apt",
    "awk",
    "bash",
    "base-passwd",
    "ca-certificates",
    "ca-certificates-java",
    "cdebconf",
    "coreutils",
    "cron",
    "cron-daemon",
    "dash",
    "dbus",
    "debconf",
    "debconf-2.0",
    "debianutils",
    "default-mta",
    "diffutils",
    "dpkg",
    "findutils",
    "fontconfig-config",
    "gawk",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "install-info",
    "iproute2",
    "java-common",
    "libc-bin",
    "libpam-modules",
    "libpam-runtime",
    "login",
    "logrotate",
    "lsb-base",
    "mawk",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "netbase",
    "openssl",
    "passwd",
    "perl",
    "perl-base",
    "perl:any",
    "procps",
    "psmisc",
    "readline-common",
    "runit-helper",
    "sed",
    "sensible-utils",
    "ssl-cert",
    "systemd",
    "systemd-standalone-sysusers",
    "systemd-sysusers",
    "sysvinit-utils",
    "tar",
    "tzdata",
    "ucf",
    "util-linux",
    "xdg-utils",
    "media-types",
    "mailcap",
];

/// Files of packages that a program which runs does not need. Copyright files stay: licences ask for them.
const LEFT_OUT: [&str; 37] = [
    "/usr/share/doc/*",
    "/usr/share/doc-base/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/bash-completion/*",
    "/usr/share/zsh/*",
    "/usr/share/fish/*",
    "/usr/share/gtk-doc/*",
    "/usr/share/applications/*",
    "/usr/share/pixmaps/*",
    "/usr/share/icons/*",
    "/usr/share/menu/*",
    "/usr/share/initramfs-tools/*",
    "/usr/share/apport/*",
    "/usr/share/gdb/*",
    "/usr/share/gcc/python/*",
    "/usr/share/gcc-*/python/*",
    "/usr/lib/systemd/*",
    "/usr/lib/tmpfiles.d/*",
    "/usr/lib/sysctl.d/*",
    "/usr/lib/mime/*",
    "/etc/init.d/*",
    "/etc/cron.*/*",
    "/etc/logrotate.d/*",
    "/etc/apparmor.d/*",
    "/etc/ufw/*",
    "/etc/update-motd.d/*",
    "/etc/default/*",
    "/etc/X11/*",
    "/usr/include/*",
    "/usr/share/python3/runtime.d/*",
    "/usr/share/vim/*",
    "/usr/lib/*/libc_malloc_debug.so*",
    // Character sets beyond UTF-8, UTF-16 and ASCII, which are in the C library itself.
    "/usr/lib/*/gconv/*",
];

/// What is asked of `bootstrap` for a recipe of one target.
pub fn options(recipe: &Recipe, mut base: Options) -> Options {
    base.target =
        knarr_bootstrap::target::Target { format: knarr_bootstrap::target::Format::Tar, path: None };
    base.exclude.clone_from(&recipe.exclude);
    base.pins = recipe.pins.iter().map(|(name, pin)| (name.clone(), *pin)).collect();
    base.recommends = recipe.recommends.unwrap_or(false);
    base.resolv_conf = ResolvConf::None;
    base.hostname = None;
    if !recipe.components.is_empty() {
        base.components.clone_from(&recipe.components);
    }
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let wanted = merged(own_packages(recipe), recipe.packages.clone());
    base.include = wanted.into_iter().filter(|name| !name.ends_with('-')).collect();
    match recipe.default_target() {
        TargetName::Production => {
            base.variant = Variant::Custom;
            base.only_unpack = true;
            let table = recipe.production.as_deref();
            let assumed =
                strings(&ASSUMED).into_iter().chain(table.into_iter().flat_map(|t| t.assume.clone()));
            base.assume = assumed.filter(|name| !base.include.contains(name)).collect();
            LEFT_OUT.iter().for_each(|pattern| base.filter.exclude(pattern));
            base.filter.include("/usr/share/doc/*/copyright");
            if table.and_then(|table| table.copyright) == Some(false) {
                base.filter.exclude("/usr/share/doc/*");
                base.filter.exclude("/usr/share/common-licenses/*");
            }
        }
        TargetName::Dev | TargetName::Base => base.variant = Variant::Minbase,
    }
    recipe.drop.iter().for_each(|pattern| base.filter.exclude(pattern));
    recipe.keep.iter().for_each(|pattern| keep(&mut base.filter, pattern));
    base
}

/// A path without `*` names a file, or a directory with all that is in it.
fn keep(filter: &mut PathFilter, pattern: &str) {
    filter.include(pattern);
    if !pattern.contains(['*', '?', '[']) {
        filter.include(&format!("{}/*", pattern.trim_end_matches('/')));
    }
}

/// Packages that follow from the target and the recipe's wishes.
fn own_packages(recipe: &Recipe) -> Vec<String> {
    let mut names: Vec<&str> = match recipe.default_target() {
        TargetName::Dev => DEV_PACKAGES.to_vec(),
        TargetName::Production => vec!["base-files"],
        TargetName::Base => Vec::new(),
    };
    if recipe.certificates == Some(true) || !recipe.extra_certificates.is_empty() {
        names.push("ca-certificates");
    }
    if recipe.timezone.is_some() {
        names.push("tzdata");
    }
    if !recipe.locales.is_empty() && recipe.default_target() != TargetName::Production {
        names.push("locales");
    }
    if recipe.production.as_ref().and_then(|table| table.debug) == Some(true) {
        names.push("busybox-static");
    }
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}

/// Whether a recipe of one target has packages at all.
#[must_use]
pub fn has_packages(recipe: &Recipe) -> bool {
    !(recipe.default_target() == TargetName::Production && recipe.mode() == Mode::Scratch)
}

/// A root of packages, with all that the recipe says of it.
pub struct Made {
    /// The root.
    pub live: Live,
    /// What was unpacked.
    pub packages: Vec<Package>,
    /// Its layers.
    pub layers: Vec<LayerRecord>,
    /// What each package brought, before anything of it was left out.
    pub brought: Brought,
}

/// What [`make`] works with.
pub struct Scene<'a> {
    /// The recipe of one target.
    pub recipe: &'a Recipe,
    /// What `bootstrap` is asked for.
    pub options: &'a Options,
    /// What was chosen.
    pub lock: &'a Lock,
    /// Where .debs come from.
    pub mirror: &'a Mirror,
    /// Who hears of it.
    pub progress: &'a dyn Progress,
    /// How layers are written.
    pub layers: &'a LayerOptions<'a>,
    /// Most layers for packages.
    pub max_layers: usize,
    /// Certificates that the recipe adds: name and PEM text.
    pub certificates: &'a [(String, Vec<u8>)],
}

/// Makes the root of the packages and its layers.
pub fn make(scene: &Scene<'_>) -> Result<Made, FactoryError> {
    let run::Made { stage, packages, .. } =
        run::make(scene.options, scene.lock, scene.mirror, scene.progress)?;
    let root = Root::open(stage.root())?;
    let live = Live { stage, root };
    let records = effects::apply(scene, &live.root, &packages)?;
    let brought = Brought::of(Inventory::of(&packages, &live.root)?, &packages, records.clone(), &live.root)?;
    scene.progress.phase("writing layers");
    let files: Vec<PackageFiles<'_>> = packages
        .iter()
        .zip(records)
        .zip(&scene.lock.packages)
        .map(|((package, records), locked)| PackageFiles { package, digest: locked.sha256, records })
        .collect();
    for file in &files {
        set_record_times(&live.root, file)?;
    }
    let members = members(&packages, &scene.lock.packages, scene.recipe.default_target());
    let groups = groups::plan(&members, scene.max_layers);
    let created_by = format!("knarr: configuration of {}", scene.lock.suite);
    let layers = package_layers(&live.root, &files, &groups, scene.layers, &created_by)?;
    Ok(Made { live, packages, layers, brought })
}

/// What this program wrote about a package is as old as the package: its layer must not tell when it was made.
fn set_record_times(root: &Root, files: &PackageFiles<'_>) -> Result<(), FactoryError> {
    let newest = files.package.entries.iter().map(|entry| entry.mtime).max().unwrap_or(0);
    Ok(files.records.iter().try_for_each(|path| root.set_mtime(path, newest))?)
}

fn members(packages: &[Package], locked: &[LockedPackage], target: TargetName) -> Vec<Member> {
    let member = |(position, (package, locked)): (usize, (&Package, &LockedPackage))| Member {
        position,
        source: source_name(package),
        tier: tier(&locked.name, locked.base, target),
        size_bytes: package.entries.iter().filter(|entry| entry.written).map(|entry| entry.size_bytes).sum(),
    };
    packages.iter().zip(locked).enumerate().map(member).collect()
}

/// The source package's name.
#[must_use]
pub fn source_name(package: &Package) -> String {
    let source = package.control.field("Source").split_whitespace().next().unwrap_or_default();
    if source.is_empty() { package.control.name().to_owned() } else { source.to_owned() }
}

/// How near the ground a package lies. In production the tiers are what images of more and more have in common.
pub(crate) fn tier(name: &str, base: bool, target: TargetName) -> u8 {
    const TIERS: [&[&str]; 3] = [
        &["base-files", "netbase", "tzdata", "media-types", "ca-certificates"],
        &["libc6", "libssl3", "libssl3t64", "zlib1g", "libzstd1"],
        &["libgcc-s1", "gcc-12-base", "gcc-13-base", "gcc-14-base", "gcc-15-base", "libstdc++6", "libgomp1"],
    ];
    if target != TargetName::Production {
        return if base { 0 } else { TIERS.len() as u8 };
    }
    let known = TIERS.iter().position(|names| names.contains(&name));
    known.unwrap_or(TIERS.len()) as u8
}

/// The time that files of a build have at most.
#[must_use]
pub fn newest(options: &Options, lock: &Lock) -> Timestamp {
    options.time.unwrap_or(lock.time)
}
