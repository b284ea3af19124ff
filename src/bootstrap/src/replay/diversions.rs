//! Diversions: `dpkg-divert --no-rename` of paths that no package has yet.
//!
//! dpkg writes them in the order of its hash table of paths: FNV-1a, 32 bits, 262,139 bins.

use std::fmt::Write;

use knarr_tree::root::Root;

use super::text_of;
use crate::BootstrapError;
use crate::database::ADMIN_DIR;

const BINS: u32 = 262_139;

/// Diverts `path` to `to` for `package`, unless it is diverted already.
pub(super) fn add(root: &Root, path: &str, to: &str, package: &str) -> Result<(), BootstrapError> {
    let mut all = read(root)?;
    if !all.iter().any(|(known, ..)| known == path) {
        all.push((path.to_owned(), to.to_owned(), package.to_owned()));
        write(root, all)?;
    }
    Ok(())
}

/// Drops the diversion of `path`, if there is one.
pub(super) fn remove(root: &Root, path: &str) -> Result<(), BootstrapError> {
    let mut all = read(root)?;
    let before = all.len();
    all.retain(|(known, ..)| known != path);
    if all.len() < before { write(root, all) } else { Ok(()) }
}

type Diversion = (String, String, String);

fn read(root: &Root) -> Result<Vec<Diversion>, BootstrapError> {
    let text = text_of(root, &format!("{ADMIN_DIR}/diversions"))?;
    let lines: Vec<&str> = text.lines().collect();
    let (all, _) = lines.as_chunks::<3>();
    Ok(all.iter().map(|[path, to, package]| (own(path), own(to), own(package))).collect())
}

fn own(text: &str) -> String {
    text.to_owned()
}

fn write(root: &Root, mut all: Vec<Diversion>) -> Result<(), BootstrapError> {
    all.sort_by_key(|(path, ..)| bin(path));
    let text = all.iter().fold(String::new(), |mut text, (path, to, package)| {
        let _ = writeln!(text, "{path}\n{to}\n{package}");
        text
    });
    Ok(root.write(&format!("{ADMIN_DIR}/diversions"), text.as_bytes(), 0o644)?)
}

fn bin(path: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    path.trim_start_matches('/').bytes().fold(2_166_136_261, step) % BINS
}

#[cfg(test)]
mod tests {
    use super::bin;

    #[test]
    fn bins_are_in_the_order_in_which_dpkg_writes() {
        // Seen with dpkg 1.21 and 1.22.
        let paths =
            ["/lib64/ld-linux-x86-64.so.2", "/libx32", "/lib/ld-linux-aarch64.so.1", "/lib32", "/libo32"];
        let bins = paths.map(bin);
        assert!(bins[0] < bins[1] && bins[1] < bins[3] && bins[3] < bins[4], "{bins:?}");
        assert!(bins[1] < bins[2] && bins[2] < bins[3], "{bins:?}");
    }
}
