//! The last steps inside a root: host files, apt's own state, and nothing that differs from run to run.

use std::collections::BTreeMap;
use std::fmt::Write;

use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use crate::BootstrapError;
use crate::lock::Lock;
use crate::package::Package;

/// Makes the links of a merged `/usr` before the first package is unpacked.
pub fn merge_usr(root: &Root, extra_links: &[&str]) -> Result<(), BootstrapError> {
    for name in ["bin", "sbin", "lib"].iter().chain(extra_links) {
        root.create_dir_all(&format!("usr/{name}"), 0o755)?;
        root.symlink(&format!("usr/{name}"), name)?;
    }
    Ok(())
}

/// Writes `/var/lib/apt/extended_states`, from which apt knows what it may remove again.
pub fn write_extended_states(root: &Root, lock: &Lock) -> Result<(), BootstrapError> {
    let native = lock.architecture.name();
    let mut text = String::new();
    for package in lock.packages.iter().filter(|package| package.automatic) {
        let architecture = if package.architecture == "all" { native } else { &package.architecture };
        let _ =
            writeln!(text, "Package: {}\nArchitecture: {architecture}\nAuto-Installed: 1\n", package.name);
    }
    if text.is_empty() || !root.exists("var/lib/apt")? {
        return Ok(());
    }
    Ok(root.write("var/lib/apt/extended_states", text.as_bytes(), 0o644)?)
}

/// Gives apt's download directories to the user that apt drops to, as apt itself would.
pub fn give_apt_its_directories(root: &Root) -> Result<(), BootstrapError> {
    let Some(uid) = user_id(root, "_apt")? else { return Ok(()) };
    for path in ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
        if root.exists(path)? {
            root.set_owner(path, uid, 0)?;
            root.set_mode(path, 0o700)?;
        }
    }
    Ok(())
}

fn user_id(root: &Root, name: &str) -> Result<Option<u32>, BootstrapError> {
    if !root.exists("etc/passwd")? {
        return Ok(None);
    }
    let text = root.read("etc/passwd")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
    Ok(line.and_then(|line| line.split(':').nth(1)?.parse().ok()))
}

/// Removes what differs from run to run: logs, caches of programs, identities, leftovers.
pub fn clean(root: &Root, packages: &[Package]) -> Result<(), BootstrapError> {
    for path in VOLATILE {
        if root.exists(path)? {
            root.remove_file(path)?;
        }
    }
    for directory in ["tmp", "run"] {
        empty(root, directory, packages)?;
    }
    // An empty machine-id lets every boot or container make its own.
    if root.exists("etc/machine-id")? {
        root.write("etc/machine-id", b"", 0o644)?;
    }
    Ok(())
}

/// Empties a directory, but for what packages ship in it.
fn empty(root: &Root, directory: &str, packages: &[Package]) -> Result<(), BootstrapError> {
    if !root.exists(directory)? {
        return Ok(());
    }
    for name in root.list(directory)? {
        let path = format!("{directory}/{name}");
        let shipped = packages.iter().any(|package| package.entries.iter().any(|entry| entry.path == path));
        if path == "run/lock" || shipped {
            continue;
        }
        match root.lstat(&path)?.kind {
            Kind::Directory => root.remove_dir_all(&path)?,
            _ => root.remove_file(&path)?,
        }
    }
    Ok(())
}

const VOLATILE: [&str; 14] = [
    "var/log/dpkg.log",
    "var/log/bootstrap.log",
    "var/log/alternatives.log",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/apt/eipp.log.xz",
    "var/log/fontconfig.log",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
];

/// Gives each packaged directory the newest of the times that packages have for it: which of them
/// was unpacked first, or wrote into it last, must not show.
pub fn set_directory_times(root: &Root, packages: &[Package]) -> Result<(), BootstrapError> {
    let mut times: BTreeMap<&str, i64> = BTreeMap::new();
    let entries = packages.iter().flat_map(|package| &package.entries);
    for entry in entries.filter(|entry| entry.kind == Kind::Directory) {
        let time = times.entry(&entry.path).or_insert(entry.mtime);
        *time = entry.mtime.max(*time);
    }
    for (path, mtime) in times {
        if root.exists(path)? && root.lstat(path)?.kind == Kind::Directory {
            root.set_mtime(path, mtime)?;
        }
    }
    Ok(())
}

/// Makes the device nodes that every Linux root has.
pub fn make_devices(root: &Root) -> Result<(), BootstrapError> {
    for entry in knarr_tree::archive::dev_entries() {
        root.make_entry(&entry)?;
    }
    Ok(())
}
