//! The `conffiles` control file: which files of a package belong to the administrator.
//!
//! Spec: deb-conffiles(5).

use crate::DebError;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredConffile {
    /// Absolute path.
    pub path: String,
    /// The file is dropped by this version: it is not shipped.
    pub remove_on_upgrade: bool,
}

/// Parses the file's bytes.
pub fn parse_conffiles(bytes: &[u8]) -> Result<Vec<DeclaredConffile>, DebError> {
    let mut conffiles = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| DebError::NotText { line: number + 1 })?.trim_end();
        if !line.trim_start().is_empty() {
            conffiles.push(parse_line(line, number + 1)?);
        }
    }
    Ok(conffiles)
}

fn parse_line(text: &str, line: usize) -> Result<DeclaredConffile, DebError> {
    let (flag, path) = match text.split_once(' ') {
        Some((flag, path)) if !flag.starts_with('/') => (flag, path.trim_start()),
        _ => ("", text),
    };
    let bad = |reason| DebError::BadField {
        line,
        field: "conffiles",
        found: text.chars().take(100).collect(),
        reason,
    };
    if !matches!(flag, "" | "remove-on-upgrade") {
        return Err(bad("the only known flag is remove-on-upgrade"));
    }
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(bad("expected an absolute path without \"..\""));
    }
    Ok(DeclaredConffile { path: path.to_owned(), remove_on_upgrade: !flag.is_empty() })
}
