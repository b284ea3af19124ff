//! The steps of a plan, and how each is called when it fails.

use std::fmt;
use std::path::PathBuf;

use knarr_linux::mounts::Propagation;

use super::mount::MountPlan;

/// What the container's first process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Gets a keyring without the caller's keys.
    NewKeyring(String),
    /// Makes 127.0.0.1 answer.
    RaiseLoopback,
    /// Names the machine.
    SetHostName(String),
    /// Names its NIS domain.
    SetDomainName(String),
    /// Keeps mounts that follow from reaching the host.
    SetPropagation {
        /// How far they reach.
        propagation: Propagation,
        /// Whether that holds for all mounts below.
        recursive: bool,
    },
    /// Keeps mounts from reaching the host through the mount in which the root lies.
    MakePrivateAbove(PathBuf),
    /// Makes the root a mount of its own and holds on to it.
    OpenRoot(PathBuf),
    /// Mounts something in it.
    Mount(Box<MountPlan>),
    /// Waits until it knows its number outside, which hooks are told.
    AwaitNumber,
    /// Makes its control group the root of those that it sees.
    MakeCgroupNamespace,
    /// Makes a device.
    MakeDevice(DevicePlan),
    /// Makes a symbolic link.
    Link {
        /// Where.
        path: PathBuf,
        /// Where it leads.
        target: &'static str,
    },
    /// Makes a terminal and hands its other side over.
    OpenConsole {
        /// Its columns and lines.
        size: Option<(u16, u16)>,
    },
    /// Lets the caller run hooks.
    RuntimeHooks,
    /// Runs hooks before the host's files are out of sight.
    ContainerHooks,
    /// Sets a value in `/proc/sys`.
    SetSysctl {
        /// Which.
        key: String,
        /// To what.
        value: String,
    },
    /// Makes a path read-only.
    MakeReadOnly(PathBuf),
    /// Hides a path.
    Mask(PathBuf),
    /// Makes the root `/`.
    EnterRoot {
        /// By pivot_root.
        pivot: bool,
        /// Whether what is unmounted here would be unmounted there.
        reaches_host: bool,
    },
    /// Sets how mounts reach the root.
    SetRootPropagation {
        /// How far.
        propagation: Propagation,
        /// Whether that holds for all mounts below.
        recursive: bool,
    },
    /// Makes the root read-only.
    MakeRootReadOnly,
}

/// A device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Where.
    pub path: PathBuf,
    /// `b`, `c` or `p`.
    pub kind: char,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether the host's own is shown, as a user namespace cannot make any.
    pub bind: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewKeyring(name) => write!(formatter, "make the keyring {name}"),
            Self::RaiseLoopback => write!(formatter, "raise the loopback"),
            Self::SetHostName(name) => write!(formatter, "set the host name to {name}"),
            Self::SetDomainName(name) => write!(formatter, "set the domain name to {name}"),
            Self::SetPropagation { propagation, recursive } => {
                write!(formatter, "make the mounts {}", propagation_name(*propagation, *recursive))
            }
            Self::MakePrivateAbove(path) => {
                write!(formatter, "make the mount that has {} private", path.display())
            }
            Self::OpenRoot(path) => write!(formatter, "open the root {}", path.display()),
            Self::Mount(mount) => write!(formatter, "{mount}"),
            Self::AwaitNumber => write!(formatter, "wait for the number outside"),
            Self::MakeCgroupNamespace => write!(formatter, "make the control group the root of those seen"),
            Self::MakeDevice(device) => {
                let how = if device.bind { "show" } else { "make" };
                let DevicePlan { kind, major, minor, mode, uid, gid, .. } = device;
                let path = device.path.display();
                write!(formatter, "{how} the device {path} ({kind} {major}:{minor} {mode:04o} {uid}:{gid})")
            }
            Self::Link { path, target } => write!(formatter, "link {} to {target}", path.display()),
            Self::OpenConsole { size: None } => write!(formatter, "open the console"),
            Self::OpenConsole { size: Some((columns, lines)) } => {
                write!(formatter, "open the console, {columns} by {lines}")
            }
            Self::RuntimeHooks => write!(formatter, "wait for the hooks outside"),
            Self::ContainerHooks => write!(formatter, "run the createContainer hooks"),
            Self::SetSysctl { key, value } => write!(formatter, "set {key} to {value}"),
            Self::MakeReadOnly(path) => write!(formatter, "make {} read-only", path.display()),
            Self::Mask(path) => write!(formatter, "hide {}", path.display()),
            Self::EnterRoot { pivot: true, .. } => write!(formatter, "pivot into the root"),
            Self::EnterRoot { pivot: false, .. } => write!(formatter, "move the root to /"),
            Self::SetRootPropagation { propagation, recursive } => {
                write!(formatter, "make the root {}", propagation_name(*propagation, *recursive))
            }
            Self::MakeRootReadOnly => write!(formatter, "make the root read-only"),
        }
    }
}

pub(super) fn propagation_name(propagation: Propagation, recursive: bool) -> String {
    let name = match propagation {
        Propagation::SHARED => "shared",
        Propagation::SLAVE => "slave",
        Propagation::PRIVATE => "private",
        _ => "unbindable",
    };
    if recursive { format!("r{name}") } else { name.to_owned() }
}
