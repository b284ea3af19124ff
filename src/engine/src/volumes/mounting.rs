//! Mounts under volumes that have options of a mount: `type`, `o`, `device`.
//!
//! [`mount`] makes what was asked for, [`unmount`] takes away whatever lies over a volume's directory. When is the
//! volumes' matter.
//!
//! Spec: mount(8), "Filesystem-independent mount options".

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::EngineError;

/// Words of `o` that set a flag, and those that take it away.
const FLAGS: [(&str, &str, MsFlags); 14] = [
    ("ro", "rw", MsFlags::MS_RDONLY),
    ("nosuid", "suid", MsFlags::MS_NOSUID),
    ("nodev", "dev", MsFlags::MS_NODEV),
    ("noexec", "exec", MsFlags::MS_NOEXEC),
    ("sync", "async", MsFlags::MS_SYNCHRONOUS),
    ("dirsync", "", MsFlags::MS_DIRSYNC),
    ("mand", "nomand", MsFlags::MS_MANDLOCK),
    ("noatime", "atime", MsFlags::MS_NOATIME),
    ("nodiratime", "diratime", MsFlags::MS_NODIRATIME),
    ("relatime", "norelatime", MsFlags::MS_RELATIME),
    ("strictatime", "nostrictatime", MsFlags::MS_STRICTATIME),
    ("bind", "", MsFlags::MS_BIND),
    ("rbind", "", MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("defaults", "", MsFlags::empty()),
];
/// Words of `o` that say how mounts below spread.
const PROPAGATIONS: [(&str, MsFlags); 8] = [
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// What the words of `o` say.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    flags: MsFlags,
    propagation: MsFlags,
    /// What the file system itself is told.
    data: String,
}

impl Words {
    fn parse(text: &str) -> Self {
        let (mut flags, mut propagation) = (MsFlags::empty(), MsFlags::empty());
        let mut data = Vec::new();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            if let Some((_, _, flag)) = FLAGS.iter().find(|(set, ..)| *set == word) {
                flags |= *flag;
            } else if let Some((_, _, flag)) = FLAGS.iter().find(|(_, clear, _)| *clear == word) {
                flags &= !*flag;
            } else if let Some((_, flag)) = PROPAGATIONS.iter().find(|(name, _)| *name == word) {
                propagation |= *flag;
            } else {
                data.push(word);
            }
        }
        Self { flags, propagation, data: data.join(",") }
    }
}

/// Mounts what a volume's options ask for over its directory.
pub(super) fn mount(options: &HashMap<String, String>, target: &Path) -> Result<(), EngineError> {
    let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, device) = (option("type"), option("device"));
    let failed = |why: String| {
        let text = format!("error while mounting volume '{}': {why}", target.display());
        EngineError::failed(hide_password(&text, option("o")))
    };
    let mut words = Words::parse(option("o"));
    if matches!(kind, "nfs" | "nfs4" | "cifs") {
        words.data = with_address(&words.data).map_err(&failed)?;
    }
    mount_words(kind, device, &words, target).map_err(|error| failed(explain(device, &words, target, error)))
}

fn mount_words(kind: &str, device: &str, words: &Words, target: &Path) -> nix::Result<()> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (device, kind, data) = (text(device), text(kind), text(&words.data));
    let none = None::<&str>;
    nix::mount::mount(device.as_deref(), target, kind.as_deref(), words.flags, data.as_deref())?;
    // A bind takes flags only when it is mounted once more.
    let further = words.flags & !(MsFlags::MS_BIND | MsFlags::MS_REC);
    let mut finish = Ok(());
    if words.flags.contains(MsFlags::MS_BIND) && !further.is_empty() {
        let flags = words.flags | MsFlags::MS_REMOUNT;
        finish = nix::mount::mount(none, target, none, flags, none);
    }
    if !words.propagation.is_empty() {
        finish = finish.and_then(|()| nix::mount::mount(none, target, none, words.propagation, none));
    }
    match finish {
        // What is half mounted is mounted for nobody.
        Err(error) => umount2(target, MntFlags::MNT_DETACH).and(Err(error)),
        Ok(()) => Ok(()),
    }
}

fn explain(device: &str, words: &Words, target: &Path, error: nix::Error) -> String {
    let mut text = format!("failed to mount local volume: mount {device}:{}", target.display());
    if !words.flags.is_empty() {
        text.push_str(&format!(", flags: {:#x}", words.flags.bits()));
    }
    if !words.data.is_empty() {
        text.push_str(&format!(", data: {}", words.data));
    }
    format!("{text}: {}", error.desc().to_lowercase())
}

/// The kernel wants `addr=` as an address: only programs can look a name up.
fn with_address(data: &str) -> Result<String, String> {
    let words = data.split(',').map(|word| match word.strip_prefix("addr=") {
        Some(name) if name.parse::<IpAddr>().is_err() => Ok(format!("addr={}", look_up(name)?)),
        _ => Ok(word.to_owned()),
    });
    Ok(words.collect::<Result<Vec<_>, String>>()?.join(","))
}

fn look_up(name: &str) -> Result<IpAddr, String> {
    let said = |why: &str| format!("error resolving passed in network volume address: lookup {name}: {why}");
    let mut found = (name, 0).to_socket_addrs().map_err(|error| said(&error.to_string()))?;
    found.next().map(|address| address.ip()).ok_or_else(|| said("no such host"))
}

fn hide_password(text: &str, words: &str) -> String {
    let password = words.split(',').find(|word| word.starts_with("password=") && word.len() > 9);
    password.map_or_else(|| text.to_owned(), |word| text.replace(word, "password=********"))
}

/// Takes away what lies over a directory, all of it.
pub(super) fn unmount(target: &Path) -> Result<(), EngineError> {
    while is_mounted(target) {
        umount2(target, MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .map_err(EngineError::file("unmount", target))?;
    }
    Ok(())
}

/// Whether something else lies over a directory.
pub(super) fn is_mounted(target: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let by_device = target.exists() && target.parent().is_some_and(|parent| device(target) != device(parent));
    by_device || is_in_mount_table(target)
}

/// A bind of the same file system is seen only here.
fn is_in_mount_table(target: &Path) -> bool {
    let Ok(target) = fs::canonicalize(target) else { return false };
    let wanted = escape(&target.to_string_lossy());
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}

/// As the kernel writes paths in its tables.
fn escape(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::mount::MsFlags;

    use super::{Words, escape, explain, hide_password, with_address};

    #[test]
    fn words_are_flags_propagation_or_the_file_systems_own() {
        let words = Words::parse("ro,nosuid,suid,rbind,rslave,size=1m,uid=7,");
        assert_eq!(words.flags, MsFlags::MS_RDONLY | MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(words.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(words.data, "size=1m,uid=7");
        assert_eq!(Words::parse("defaults").flags, MsFlags::empty());
    }

    #[test]
    fn a_failure_says_what_docker_says() {
        let words = Words::parse("bind");
        let text = explain("/none", &words, Path::new("/v/_data"), nix::errno::Errno::ENOENT);
        assert_eq!(
            text,
            "failed to mount local volume: mount /none:/v/_data, flags: 0x1000: no such file or directory"
        );
    }

    #[test]
    fn a_password_is_not_told() {
        let words = "username=a,password=secret,vers=3";
        assert_eq!(
            hide_password(&format!("data: {words}"), words),
            "data: username=a,password=********,vers=3"
        );
    }

    #[test]
    fn addresses_are_numbers() {
        assert_eq!(with_address("addr=127.0.0.1,rw").unwrap(), "addr=127.0.0.1,rw");
        assert!(with_address("addr=name.invalid").unwrap_err().contains("lookup name.invalid"));
    }

    #[test]
    fn paths_are_written_as_the_kernel_does() {
        assert_eq!(escape("/a b\\"), "/a\\040b\\134");
    }
}
