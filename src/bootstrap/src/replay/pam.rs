//! PAM: `pam-auth-update` with the profiles of a new system.
//!
//! The stack of each service is the template with the lines of the enabled profiles between its
//! markers. Only the two profiles of `libpam-modules` are known here; with others it really runs.
//!
//! Spec: pam-auth-update(8); pam.conf(5).

use std::collections::BTreeMap;
use std::fmt::Write;

use knarr_tree::root::Root;

use super::text_of;
use crate::BootstrapError;

const PROFILES: &str = "usr/share/pam-configs";
const PRIMARY: &str = "# here are the per-package modules (the \"Primary\" block)";
const FALLBACK: &str = "# here's the fallback if no module succeeds";
const ADDITIONAL: &str = "# and here are more per-package modules (the \"Additional\" block)";
const END: &str = "# end of pam-auth-update config";
const SERVICES: [(&str, &str); 5] = [
    ("auth", "Auth"),
    ("account", "Account"),
    ("password", "Password"),
    ("session", "Session"),
    ("session-noninteractive", "Session"),
];

pub(super) fn is_new(root: &Root) -> Result<bool, BootstrapError> {
    if !root.exists(PROFILES)? || root.list(PROFILES)? != ["mkhomedir", "unix"] {
        return Ok(false);
    }
    let (unix, homes) = (profile(root, "unix")?, profile(root, "mkhomedir")?);
    let is = |profile: &BTreeMap<String, String>, key: &str, value: &str| {
        profile.get(key).is_some_and(|found| found == value)
    };
    let templates = SERVICES.iter().map(|(service, _)| text_of(root, &template(service)));
    let templates = templates.collect::<Result<Vec<_>, _>>()?;
    let has_markers =
        |text: &String| [PRIMARY, FALLBACK, ADDITIONAL, END].iter().all(|mark| text.contains(mark));
    Ok(is(&unix, "Default", "yes")
        && is(&homes, "Default", "no")
        && !root.exists("var/lib/pam/seen")?
        && !root.exists("etc/pam.d/common-auth")?
        && templates.iter().all(has_markers))
}

pub(super) fn write(root: &Root) -> Result<(), BootstrapError> {
    let unix = profile(root, "unix")?;
    root.create_dir_all("var/lib/pam", 0o755)?;
    for (service, field) in SERVICES {
        let kind = service.split('-').next().unwrap_or(service);
        let is_primary = unix.get(&format!("{field}-Type")).is_some_and(|kind| kind == "Primary");
        // The first profile of a block gives its initial lines.
        let lines =
            unix.get(&format!("{field}-Initial")).or_else(|| unix.get(field)).cloned().unwrap_or_default();
        let stack = stack(&text_of(root, &template(service))?, kind, is_primary, &lines);
        root.write(&format!("etc/pam.d/common-{service}"), stack.as_bytes(), 0o644)?;
        let nothing = if is_primary { "" } else { "Module: null\n[default=1]\t\t\tpam_permit.so\n" };
        let saved = format!("{nothing}Module: unix\n{lines}\n");
        root.write(&format!("var/lib/pam/{service}"), saved.as_bytes(), 0o644)?;
    }
    Ok(root.write("var/lib/pam/seen", b"unix\nmkhomedir\n", 0o644)?)
}

fn template(service: &str) -> String {
    format!("usr/share/pam/common-{service}")
}

fn stack(template: &str, kind: &str, is_primary: bool, lines: &str) -> String {
    let mut stack = String::with_capacity(template.len() + 256);
    let mut is_inside = false;
    for line in template.lines() {
        is_inside &= line != FALLBACK && line != END;
        if !is_inside {
            let _ = writeln!(stack, "{line}");
        }
        match line {
            PRIMARY if is_primary => stack.push_str(&block(kind, lines)),
            PRIMARY => {
                let _ = writeln!(stack, "{kind}\t[default=1]\t\t\tpam_permit.so");
            }
            ADDITIONAL if !is_primary => stack.push_str(&block(kind, lines)),
            _ => {}
        }
        is_inside |= line == PRIMARY || line == ADDITIONAL;
    }
    stack
}

/// The lines of a block; `end` in a control becomes the number of modules to jump over.
fn block(kind: &str, lines: &str) -> String {
    let count = lines.lines().count();
    lines.lines().enumerate().fold(String::new(), |mut text, (position, line)| {
        let (control, module) = line.split_once(']').map_or(("", line), |(head, rest)| (head, rest));
        let control = control.replace("=end", &format!("={}", count - position));
        let bracket = if control.is_empty() { "" } else { "]" };
        // The module and its options are always joined by a space, even where there are none.
        let has_options =
            module.trim_start().split_ascii_whitespace().count() > if bracket.is_empty() { 2 } else { 1 };
        let space = if has_options { "" } else { " " };
        let _ = writeln!(text, "{kind}\t{control}{bracket}{module}{space}");
        text
    })
}

/// The fields of a profile; a field's further lines are joined by line ends.
fn profile(root: &Root, name: &str) -> Result<BTreeMap<String, String>, BootstrapError> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in text_of(root, &format!("{PROFILES}/{name}"))?.lines() {
        match line.split_once(':').filter(|(key, _)| !key.contains(char::is_whitespace) && !key.is_empty()) {
            Some((key, value)) => {
                current = key.to_owned();
                fields.insert(current.clone(), value.trim().to_owned());
            }
            None => {
                let value = fields.entry(current.clone()).or_default();
                if !value.is_empty() {
                    value.push('\n');
                }
                value.push_str(line.trim());
            }
        }
    }
    Ok(fields)
}
