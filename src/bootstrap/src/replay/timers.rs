//! systemd timers: `deb-systemd-helper enable` of a unit that was never enabled.
//!
//! Spec: systemd.unit(5) "[Install]"; deb-systemd-helper(1p).

use knarr_tree::root::Root;

use super::text_of;
use crate::BootstrapError;

const STATE: &str = "var/lib/systemd/deb-systemd-helper-enabled";

/// Whether the unit asks for one `WantedBy` and nothing else, and nobody touched it yet.
pub(super) fn is_new(root: &Root, unit: &str) -> Result<bool, BootstrapError> {
    let is_known = root.exists(&format!("{STATE}/{unit}.dsh-also"))?;
    let is_replaced = root.exists(&format!("etc/systemd/system/{unit}"))?;
    let is_masked = root.exists(&format!("var/lib/systemd/deb-systemd-helper-masked/{unit}"))?;
    Ok(!is_known && !is_replaced && !is_masked && wanted_by(root, unit)?.is_some())
}

pub(super) fn enable(root: &Root, unit: &str) -> Result<(), BootstrapError> {
    let target = wanted_by(root, unit)?.unwrap_or_default();
    let link = format!("etc/systemd/system/{target}.wants/{unit}");
    root.create_dir_all(&format!("etc/systemd/system/{target}.wants"), 0o755)?;
    root.symlink(&format!("/lib/systemd/system/{unit}"), &link)?;
    root.create_dir_all(&format!("{STATE}/{target}.wants"), 0o755)?;
    root.write(&format!("{STATE}/{target}.wants/{unit}"), b"", 0o644)?;
    Ok(root.write(&format!("{STATE}/{unit}.dsh-also"), format!("/{link}\n").as_bytes(), 0o644)?)
}

fn wanted_by(root: &Root, unit: &str) -> Result<Option<String>, BootstrapError> {
    let text = text_of(root, &format!("lib/systemd/system/{unit}"))?;
    let install = text.split_once("[Install]").map_or("", |(_, rest)| rest);
    let mut lines = install.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let target = lines.next().and_then(|line| line.strip_prefix("WantedBy=")).map(str::to_owned);
    let is_plain = target.as_ref().is_some_and(|target| !target.contains([' ', '/']));
    Ok(target.filter(|_| is_plain && lines.next().is_none()))
}
