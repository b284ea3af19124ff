//! Why no set of packages meets a request, told in package names.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use super::catalog::{Catalog, Term, Version};

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
            Self::Impossible { reasons } => match reasons.as_slice() {
                [only] => f.write_str(only),
                several => write!(
                    f,
                    "the packages asked for cannot be installed together:\n  {}",
                    several.join("\n  ")
                ),
            },
        }
    }
}

impl std::error::Error for Unresolvable {}

/// What an impossibility rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// It was asked for.
    Asked(Version),
    /// It is there already, and stays.
    Installed(Version),
    /// It needs one of the alternatives of its group with this position.
    Needs { version: Version, position: usize },
    /// It conflicts with another, because of this relation.
    Clash { version: Version, term: Term, other: Version },
}

/// Tells the facts in an order that leads from what was asked for to what is impossible.
pub(super) fn explain(catalog: &mut Catalog<'_, '_>, facts: &[Fact]) -> Unresolvable {
    let mut reasons = Vec::new();
    let starts = facts.iter().filter_map(|fact| match fact {
        Fact::Asked(version) | Fact::Installed(version) => Some(*version),
        _ => None,
    });
    let mut todo: VecDeque<Version> = starts.collect();
    let mut seen: HashSet<Version> = todo.iter().copied().collect();
    while let Some(by) = todo.pop_front() {
        for fact in facts {
            if let Fact::Needs { version, position } = *fact
                && version == by
            {
                let (sentence, targets) = tell_need(catalog, version, position);
                reasons.push(sentence);
                todo.extend(targets.into_iter().filter(|target| seen.insert(*target)));
            }
        }
    }
    for fact in facts {
        if let Fact::Clash { version, term, other } = *fact {
            let (one, two) = (catalog.describe(version), catalog.describe(other));
            let relation = catalog.relation(term);
            let sentence = format!("{one} conflicts with {two} ({relation})");
            let kept =
                [version, other].into_iter().find(|version| facts.contains(&Fact::Installed(*version)));
            let kept = kept.map(|version| format!(", and {} is installed", catalog.record(version).name()));
            reasons.push(sentence + &kept.unwrap_or_default());
        }
    }
    Unresolvable::Impossible { reasons }
}

/// `a depends on b (>= 4), but there is only b 1 (trixie/main)`, and the packages that would do.
fn tell_need(catalog: &mut Catalog<'_, '_>, version: Version, position: usize) -> (String, Vec<Version>) {
    let needs = catalog.needs(version);
    let terms = &needs.groups[position].terms;
    let mut sentence =
        format!("{} depends on {}", catalog.record(version).name(), catalog.describe_group(terms));
    let (mut possible, mut there, mut is_excluded) = (Vec::new(), Vec::new(), false);
    for &term in terms {
        for &target in catalog.targets(term).iter() {
            let name = catalog.name_of(target);
            if catalog.candidate(name) == Some(target) {
                possible.push(target);
            }
        }
        let name = catalog.name(catalog.relation(term).name);
        is_excluded |= catalog.is_excluded(catalog.name_text(name));
        there.extend(catalog.versions(name).iter().copied());
    }
    if possible.is_empty() {
        let there: Vec<String> = there.into_iter().map(|version| catalog.describe(version)).collect();
        sentence += &match (is_excluded, there.is_empty()) {
            (true, _) => ", which is excluded".to_owned(),
            (_, true) => ", which no index has".to_owned(),
            (_, false) => format!(", but there is only {}", there.join(", ")),
        };
    }
    (sentence, possible)
}
