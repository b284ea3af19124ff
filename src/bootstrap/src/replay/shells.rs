//! `/etc/shells`: what `update-shells` adds and takes away.

use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::text_of;
use crate::BootstrapError;

const TEMPLATE: &str = "usr/share/debianutils/shells";
const DIRECTORY: &str = "usr/share/debianutils/shells.d";
const STATE: &str = "var/lib/shells.state";

pub(super) fn update(root: &Root) -> Result<(), BootstrapError> {
    let packaged = packaged(root)?;
    let state = text_of(root, STATE)?;
    let before: Vec<&str> = state.lines().collect();
    let source = if root.exists("etc/shells")? { "etc/shells" } else { TEMPLATE };
    let text = text_of(root, source)?;
    let mode = root.stat(source)?.mode;
    let mut lines: Vec<&str> = Vec::new();
    let mut listed: Vec<&str> = Vec::new();
    for line in text.lines() {
        let shell = line.split('#').next().unwrap_or_default();
        let is_kept = packaged.iter().any(|known| known == shell) || !before.contains(&shell);
        if shell.is_empty() || (is_kept && !listed.contains(&shell)) {
            lines.push(line);
            listed.push(shell);
        }
    }
    let is_new = |shell: &&str| !listed.contains(shell) && !before.contains(shell);
    let added: Vec<&str> = packaged.iter().map(String::as_str).filter(is_new).collect();
    lines.extend(added);
    root.write(STATE, join(packaged.iter().map(String::as_str)).as_bytes(), 0o644)?;
    Ok(root.write("etc/shells", join(lines.into_iter()).as_bytes(), mode)?)
}

fn join<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// Shells of packages, each as it is listed and as its directory is really called.
fn packaged(root: &Root) -> Result<Vec<String>, BootstrapError> {
    let mut files = vec![TEMPLATE.to_owned()];
    if root.exists(DIRECTORY)? {
        files.extend(root.list(DIRECTORY)?.into_iter().map(|name| format!("{DIRECTORY}/{name}")));
    }
    let mut shells: Vec<String> = Vec::new();
    for file in files {
        for line in text_of(root, &file)?.lines() {
            let line = line.split('#').next().unwrap_or_default();
            if line.is_empty() {
                continue;
            }
            for shell in [line.to_owned(), real(root, line)?] {
                if !shells.contains(&shell) {
                    shells.push(shell);
                }
            }
        }
    }
    Ok(shells)
}

/// The path with a link at its top replaced, as a merged `/usr` has them.
fn real(root: &Root, path: &str) -> Result<String, BootstrapError> {
    let (top, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    if root.exists(top)? && root.lstat(top)?.kind == Kind::Symlink {
        let target = String::from_utf8_lossy(&root.read_link(top)?).into_owned();
        return Ok(format!("/{}/{rest}", target.trim_matches('/')));
    }
    Ok(path.to_owned())
}
