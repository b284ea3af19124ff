//! Users and groups of a new system: what `base-passwd` makes and `shadowconfig on` hides.
//!
//! Spec: passwd(5), group(5), shadow(5), gshadow(5).

use std::fmt::Write;

use knarr_tree::root::Root;

use super::{Scene, text_of};
use crate::BootstrapError;

const SECONDS_PER_DAY: i64 = 86_400;

/// The number of a group; `root` needs no file.
pub(super) fn group_id(root: &Root, group: &str) -> Result<Option<u32>, BootstrapError> {
    if group == "root" {
        return Ok(Some(0));
    }
    let text = text_of(root, "etc/group")?;
    let line = text.lines().find_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    Ok(line.and_then(|rest| rest.split(':').nth(1)?.parse().ok()))
}

pub(super) fn can_be_made(scene: &Scene<'_>) -> Result<bool, BootstrapError> {
    let script = String::from_utf8_lossy(scene.script.bytes).into_owned();
    Ok(scene.is_absent("etc/passwd")?
        && scene.is_absent("etc/group")?
        && here_document(&script, "/etc/passwd").is_some()
        && here_document(&script, "/etc/group").is_some())
}

pub(super) fn make(scene: &Scene<'_>) -> Result<(), BootstrapError> {
    let script = String::from_utf8_lossy(scene.script.bytes).into_owned();
    for path in ["etc/passwd", "etc/group"] {
        let text = here_document(&script, &format!("/{path}")).unwrap_or_default();
        scene.root.write(path, text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The text that a shell script feeds into a file below `$DPKG_ROOT`.
fn here_document<'s>(script: &'s str, path: &str) -> Option<&'s str> {
    let head = format!("cat > \"$DPKG_ROOT{path}\" <<'EOF'\n");
    let start = script.find(&head)? + head.len();
    let length = script[start..].find("\nEOF\n")? + 1;
    Some(&script[start..start + length])
}

pub(super) fn make_missing(root: &Root) -> Result<(), BootstrapError> {
    for name in ["passwd", "group"] {
        let (from, to) = (format!("usr/share/base-passwd/{name}.master"), format!("etc/{name}"));
        if !root.exists(&to)? {
            root.write(&to, &root.read(&from)?, 0o644)?;
        }
    }
    Ok(())
}

/// Only accounts without passwords, as a new system has them, and the usual ages.
pub(super) fn can_be_shadowed(scene: &Scene<'_>) -> Result<bool, BootstrapError> {
    let is_plain =
        |text: &str| !text.is_empty() && text.lines().all(|line| line.split(':').nth(1) == Some("*"));
    let defaults = text_of(scene.root, "etc/login.defs")?;
    let age = |key: &str| {
        let mut words = defaults.lines().map(str::split_ascii_whitespace);
        words.find_map(|mut words| (words.next() == Some(key)).then(|| words.next().map(str::to_owned))?)
    };
    let ages = ["PASS_MIN_DAYS", "PASS_MAX_DAYS", "PASS_WARN_AGE"].map(age);
    Ok(scene.is_absent("etc/shadow")?
        && scene.is_absent("etc/gshadow")?
        && is_plain(&text_of(scene.root, "etc/passwd")?)
        && is_plain(&text_of(scene.root, "etc/group")?)
        && text_of(scene.root, "etc/group")?.lines().all(|line| line.ends_with(':'))
        && group_id(scene.root, "shadow")?.is_some()
        && ages == ["0", "99999", "7"].map(|age| Some(age.to_owned())))
}

pub(super) fn shadow(scene: &Scene<'_>) -> Result<(), BootstrapError> {
    let root = scene.root;
    let day = scene.time.0.div_euclid(SECONDS_PER_DAY);
    let (users, groups) = (text_of(root, "etc/passwd")?, text_of(root, "etc/group")?);
    let group = group_id(root, "shadow")?.unwrap_or(0);
    let write_secret = |path: &str, text: &str| -> Result<(), BootstrapError> {
        root.write(path, text.as_bytes(), 0o640)?;
        root.set_owner(path, 0, group)?;
        Ok(root.set_mode(path, 0o640)?)
    };
    let shadow = names(&users).fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name}:*:{day}:0:99999:7:::");
        text
    });
    let gshadow = names(&groups).fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name}:*::");
        text
    });
    write_secret("etc/shadow", &shadow)?;
    write_secret("etc/gshadow", &gshadow)?;
    for (path, text, backup_mode) in [("etc/passwd", &users, 0o600), ("etc/group", &groups, 0o644)] {
        root.write(&format!("{path}-"), text.as_bytes(), backup_mode)?;
        root.write(path, text.replace(":*:", ":x:").as_bytes(), 0o644)?;
    }
    Ok(root.write("etc/.pwd.lock", b"", 0o600)?)
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split(':').next())
}
