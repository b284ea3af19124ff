//! What a bootstrap is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use knarr_base::{Architecture, Timestamp};
use knarr_mirror::repository::Repository;
use knarr_mirror::suite::Suite;

use crate::filter::PathFilter;
use crate::hooks::Hooks;
use crate::scripts::ScriptPolicy;
use crate::target::Target;
use crate::variant::Variant;

/// What a bootstrap is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The suite.
    pub suite: Suite,
    /// Where the result goes.
    pub target: Target,
    /// Addresses given by hand: then they alone are used, without pockets.
    pub mirrors: Vec<String>,
    /// The main mirrors when none is given by hand, first to last.
    pub main_mirrors: Vec<String>,
    /// The mirrors of security updates when none is given by hand.
    pub security_mirrors: Vec<String>,
    /// Which pockets are used.
    pub pockets: Vec<String>,
    /// Repositories beside the suite's own.
    pub repositories: Vec<Repository>,
    /// The suite was named by a sources file: its repositories are all there is.
    pub only_repositories: bool,
    /// Where keys are looked for that are named by their fingerprint only.
    pub key_directories: Vec<PathBuf>,
    /// For which machine.
    pub architecture: Architecture,
    /// What it starts from.
    pub variant: Variant,
    /// Packages beyond the variant.
    pub include: Vec<String>,
    /// Packages that must not be there.
    pub exclude: Vec<String>,
    /// Packages that others may need and that are left out all the same.
    pub assume: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Priorities of packages by name, or of suites and pockets by theirs, as apt counts.
    pub pins: Vec<(String, i32)>,
    /// Whether recommended packages come along.
    pub recommends: bool,
    /// Keyrings that replace the suite's own.
    pub keyrings: Vec<PathBuf>,
    /// Which files of packages are left out.
    pub filter: PathFilter,
    /// What the user adds.
    pub hooks: Hooks,
    /// Text of `/etc/hostname`.
    pub hostname: Option<String>,
    /// What `/etc/resolv.conf` becomes.
    pub resolv_conf: ResolvConf,
    /// The lock to obey or to write.
    pub lock: Option<PathBuf>,
    /// The lock must not change.
    pub locked: bool,
    /// Newest time of any file; `SOURCE_DATE_EPOCH`.
    pub time: Option<Timestamp>,
    /// This machine's clock.
    pub now: Timestamp,
    /// Unpack, and run no scripts.
    pub only_unpack: bool,
    /// Fetch and stop.
    pub download_only: bool,
    /// Resolve, tell and stop.
    pub dry_run: bool,
    /// Whether a root that was made before may be used again.
    pub reuse: bool,
    /// How scripts run.
    pub scripts: ScriptPolicy,
    /// A script that runs longer is ended.
    pub script_timeout: Option<Duration>,
    /// The process is root in a user namespace only: device nodes cannot be made.
    pub rootless: bool,
}

/// What `/etc/resolv.conf` becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvConf {
    /// The host's for directories, nothing for everything else.
    Auto,
    /// Nothing.
    None,
    /// The content of a file.
    File(PathBuf),
}
