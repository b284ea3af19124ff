//! Why no set of packages meets a request, told in package names.

use std::fmt;

/// Why a request cannot be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolvable {
    /// A name that no index has.
    UnknownPackage {
        /// The name.
        name: String,
        /// Names that are nearly the same.
        near: Vec<String>,
    },
    /// A version or suite of a package that no index has.
    UnknownVersion {
        /// The package.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// A chain of reasons, from what was asked for to what is impossible.
    Impossible {
        /// One sentence each.
        reasons: Vec<String>,
    },
}

impl fmt::Display for Unresolvable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPackage { name, near } if near.is_empty() => write!(f, "there is no package {name}"),
            Self::UnknownPackage { name, near } => {
                write!(f, "there is no package {name}; similar are {}", near.join(", "))
            }
            Self::UnknownVersion { name, wanted, found } => {
                write!(f, "there is no {name} of {wanted}; there is {}", found.join(", "))
            }
            Self::Impossible { reasons } => {
                write!(f, "the packages asked for cannot be installed together:\n  {}", reasons.join("\n  "))
            }
        }
    }
}

impl std::error::Error for Unresolvable {}

/// Up to five of `names` that differ from `name` by few letters.
pub(super) fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let most = 1 + name.len() / 4;
    let mut close: Vec<(usize, &str)> = names
        .filter(|other| other.len().abs_diff(name.len()) <= most)
        .map(|other| (distance(name.as_bytes(), other.as_bytes()), other))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    close.sort_unstable();
    close.into_iter().take(5).map(|(_, other)| other.to_owned()).collect()
}

/// The number of letters to add, drop or change.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
