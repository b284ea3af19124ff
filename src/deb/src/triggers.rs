//! The `triggers` control file: what a package waits for and what it sets off.
//!
//! Spec: deb-triggers(5).

use crate::DebError;

/// One directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The package wants to hear of `name`.
    Interest {
        /// A word, or an absolute path.
        name: String,
        /// Those who set it off need not wait.
        noawait: bool,
    },
    /// The package sets off `name` whenever its state changes.
    Activate {
        /// A word, or an absolute path.
        name: String,
        /// It need not wait.
        noawait: bool,
    },
}

/// Parses the file's bytes.
pub fn parse_triggers(bytes: &[u8]) -> Result<Vec<Trigger>, DebError> {
    let mut triggers = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| DebError::NotText { line: number + 1 })?;
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            triggers.push(parse_line(line, number + 1)?);
        }
    }
    Ok(triggers)
}

fn parse_line(text: &str, line: usize) -> Result<Trigger, DebError> {
    let bad = |reason| DebError::BadField {
        line,
        field: "triggers",
        found: text.chars().take(100).collect(),
        reason,
    };
    let mut words = text.split_ascii_whitespace();
    let (Some(directive), Some(name), None) = (words.next(), words.next(), words.next()) else {
        return Err(bad("expected a directive and a trigger's name"));
    };
    if name.contains("..") || (!name.starts_with('/') && name.contains('/')) {
        return Err(bad("a trigger is a word or an absolute path"));
    }
    let name = name.to_owned();
    match directive {
        "interest" | "interest-await" => Ok(Trigger::Interest { name, noawait: false }),
        "interest-noawait" => Ok(Trigger::Interest { name, noawait: true }),
        "activate" | "activate-await" => Ok(Trigger::Activate { name, noawait: false }),
        "activate-noawait" => Ok(Trigger::Activate { name, noawait: true }),
        _ => Err(bad("the directives are interest, activate, and each with -await or -noawait")),
    }
}
