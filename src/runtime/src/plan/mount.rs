//! Mounts of a configuration: words to flags.

use std::fmt;
use std::path::PathBuf;

use knarr_linux::mounts::{Attributes, Propagation};

use super::{Facts, step::propagation_name};
use crate::RuntimeError;
use crate::spec::{IdMapping, Mount};

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Its place in the configuration.
    pub index: usize,
    /// Where, as a path in the root.
    pub destination: PathBuf,
    /// What.
    pub what: What,
    /// Flags of the mount.
    pub attributes: Attributes,
    /// Flags of all mounts in it.
    pub all_attributes: Attributes,
    /// How mounts reach it, applied in this order.
    pub propagation: Vec<(Propagation, bool)>,
    /// Whether what the root has there is copied into it.
    pub copy_up: bool,
    /// Whether owners are mapped, and for all mounts in it.
    pub id_map: Option<IdMap>,
}

/// Mapped owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// For all mounts in it.
    pub recursive: bool,
    /// Users; the container's own when empty.
    pub uids: Vec<IdMapping>,
    /// Groups; the container's own when empty.
    pub gids: Vec<IdMapping>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file or directory of the host.
    Bind {
        /// It.
        source: PathBuf,
        /// With what is mounted in it.
        recursive: bool,
    },
    /// A new file system.
    FileSystem {
        /// Its kind.
        kind: String,
        /// Its source.
        source: String,
        /// Its options.
        options: Vec<(String, Option<String>)>,
    },
    /// The control groups, of whichever version.
    Cgroup,
}

impl MountPlan {
    pub(super) fn new(mount: &Mount, index: usize, facts: &Facts) -> Result<Self, RuntimeError> {
        let bad = |reason: String| RuntimeError::invalid(format!("mounts[{index}]"), reason);
        if mount.destination.as_os_str().is_empty() {
            return Err(bad("has no destination".to_owned()));
        }
        let mut plan = Self {
            index,
            destination: mount.destination.clone(),
            what: What::Cgroup,
            attributes: Attributes::default(),
            all_attributes: Attributes::default(),
            propagation: Vec::new(),
            copy_up: false,
            id_map: None,
        };
        let (mut bind, mut options) = (is_bind(mount).then_some(false), Vec::new());
        for option in &mount.options {
            plan.take_option(option, &mut bind, &mut options);
        }
        plan.map_ids(mount);
        plan.what = what(mount, bind, options, facts).map_err(bad)?;
        Ok(plan)
    }

    fn take_option(
        &mut self,
        option: &str,
        bind: &mut Option<bool>,
        options: &mut Vec<(String, Option<String>)>,
    ) {
        match option {
            "bind" => _ = bind.get_or_insert(false),
            "rbind" => *bind = Some(true),
            "defaults" | "remount" | "silent" | "loud" | "noiversion" | "copy-symlink" => {}
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(IdMap { recursive: false, uids: vec![], gids: vec![] }),
            "ridmap" => self.id_map = Some(IdMap { recursive: true, uids: vec![], gids: vec![] }),
            word if self.take_flag(word) => {}
            word => options.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            }),
        }
    }

    /// Whether the word is a flag of the mount, of all mounts in it, or a way to propagate.
    fn take_flag(&mut self, word: &str) -> bool {
        if let Some(propagation) = propagation_by_name(word) {
            self.propagation.push(propagation);
            return true;
        }
        apply_flag(&mut self.attributes, word)
            || word.strip_prefix('r').is_some_and(|rest| apply_flag(&mut self.all_attributes, rest))
    }

    fn map_ids(&mut self, mount: &Mount) {
        if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
            return;
        }
        let map = self.id_map.get_or_insert(IdMap { recursive: false, uids: vec![], gids: vec![] });
        map.uids.clone_from(&mount.uid_mappings);
        map.gids.clone_from(&mount.gid_mappings);
    }

    /// Whether it shows control groups.
    #[must_use]
    pub const fn is_cgroup(&self) -> bool {
        matches!(self.what, What::Cgroup)
    }

    /// Whether it shows the kernel's own tables, over which guards lie.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        matches!(&self.what, What::FileSystem { kind, .. } if kind == "proc" || kind == "sysfs")
    }
}

fn what(
    mount: &Mount,
    bind: Option<bool>,
    options: Vec<(String, Option<String>)>,
    facts: &Facts,
) -> Result<What, String> {
    let kind = mount.kind.as_deref().unwrap_or_default();
    let source = mount.source.clone().unwrap_or_default();
    if let Some(recursive) = bind {
        if source.is_empty() {
            return Err("has no source".to_owned());
        }
        return Ok(What::Bind { source: facts.bundle.join(source), recursive });
    }
    match kind {
        "" | "none" => Err(format!("{} has no type", mount.destination.display())),
        "cgroup" => Ok(What::Cgroup),
        "cgroup2" if facts.unified => Ok(What::Cgroup),
        _ => Ok(What::FileSystem { kind: kind.to_owned(), source, options }),
    }
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.kind.as_deref() == Some("bind")
        || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

pub(super) fn propagation_by_name(name: &str) -> Option<(Propagation, bool)> {
    Some(match name {
        "shared" => (Propagation::SHARED, false),
        "slave" => (Propagation::SLAVE, false),
        "private" => (Propagation::PRIVATE, false),
        "unbindable" => (Propagation::UNBINDABLE, false),
        "rshared" => (Propagation::SHARED, true),
        "rslave" => (Propagation::SLAVE, true),
        "rprivate" => (Propagation::PRIVATE, true),
        "runbindable" => (Propagation::UNBINDABLE, true),
        _ => return None,
    })
}

const READ_ONLY: u64 = 0x1;
const NO_SUID: u64 = 0x2;
const NO_DEVICES: u64 = 0x4;
const NO_EXEC: u64 = 0x8;
const ACCESS_TIMES: u64 = 0x70;
const NO_ACCESS_TIMES: u64 = 0x10;
const STRICT_ACCESS_TIMES: u64 = 0x20;
const NO_DIRECTORY_ACCESS_TIMES: u64 = 0x80;
const NO_SYMLINKS: u64 = 0x0020_0000;

fn apply_flag(attributes: &mut Attributes, word: &str) -> bool {
    let (set, clear) = match word {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEVICES, 0),
        "dev" => (0, NO_DEVICES),
        "noexec" => (NO_EXEC, 0),
        "exec" => (0, NO_EXEC),
        "noatime" => (NO_ACCESS_TIMES, ACCESS_TIMES),
        "strictatime" => (STRICT_ACCESS_TIMES, ACCESS_TIMES),
        "relatime" | "atime" | "nostrictatime" | "norelatime" => (0, ACCESS_TIMES),
        "nodiratime" => (NO_DIRECTORY_ACCESS_TIMES, 0),
        "diratime" => (0, NO_DIRECTORY_ACCESS_TIMES),
        "nosymfollow" => (NO_SYMLINKS, 0),
        "symfollow" => (0, NO_SYMLINKS),
        _ => return false,
    };
    attributes.set = (attributes.set & !clear) | set;
    attributes.clear = (attributes.clear & !set) | clear;
    true
}

/// Words for the flags that are set, as mount(8) has them.
fn flag_words(attributes: Attributes) -> Vec<&'static str> {
    let words = [
        (READ_ONLY, "ro"),
        (NO_SUID, "nosuid"),
        (NO_DEVICES, "nodev"),
        (NO_EXEC, "noexec"),
        (NO_ACCESS_TIMES, "noatime"),
        (STRICT_ACCESS_TIMES, "strictatime"),
        (NO_DIRECTORY_ACCESS_TIMES, "nodiratime"),
        (NO_SYMLINKS, "nosymfollow"),
    ];
    words.into_iter().filter(|(bit, _)| attributes.set & bit != 0).map(|(_, word)| word).collect()
}

impl fmt::Display for MountPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.destination.display();
        match &self.what {
            What::Bind { source, recursive } => {
                let with = if *recursive { " with all in it" } else { "" };
                write!(formatter, "show {}{with} on {place}", source.display())?;
            }
            What::FileSystem { kind, .. } => write!(formatter, "mount {kind} on {place}")?,
            What::Cgroup => write!(formatter, "show the control groups on {place}")?,
        }
        let mut words: Vec<String> = flag_words(self.attributes).into_iter().map(str::to_owned).collect();
        words.extend(flag_words(self.all_attributes).into_iter().map(|word| format!("r{word}")));
        words.extend(self.propagation.iter().map(|(kind, recursive)| propagation_name(*kind, *recursive)));
        if let What::FileSystem { options, .. } = &self.what {
            let word = |(key, value): &(String, Option<String>)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            };
            words.extend(options.iter().map(word));
        }
        words.extend(self.copy_up.then(|| "tmpcopyup".to_owned()));
        words.extend(
            self.id_map.as_ref().map(|map| if map.recursive { "ridmap" } else { "idmap" }.to_owned()),
        );
        if words.is_empty() { Ok(()) } else { write!(formatter, " ({})", words.join(",")) }
    }
}
