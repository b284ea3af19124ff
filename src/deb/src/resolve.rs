//! Choosing packages: what must be installed so that every dependency is met.
//!
//! [`resolve`] makes the choices that apt makes: the best version by pin, the first alternative
//! unless another is chosen already, a real package before one that provides its name. Where such
//! a choice meets a conflict, the next alternative is tried.
//!
//! Spec: Debian Policy 7; apt_preferences(5) for pins; docs/decisions/003-resolver.md.

mod explain;
mod search;

use std::collections::{HashMap, HashSet};

use knarr_base::Architecture;

pub use explain::Unresolvable;

use crate::packages::{PackagesIndex, Record};
use crate::relation::Relation;
use crate::version;

/// Everything that may be chosen.
pub struct Universe<'a> {
    native: Architecture,
    indices: Vec<Offer<'a>>,
}

struct Offer<'a> {
    index: &'a PackagesIndex,
    pin: i32,
    label: String,
}

/// One package of a universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageId {
    /// Position of its index, in the order of [`Universe::add`].
    pub index: u16,
    /// Its number there.
    pub record: u32,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Packages by name, `name=version` or `name/label`.
    pub include: Vec<String>,
    /// Names that must not be chosen.
    pub exclude: Vec<String>,
    /// Every `Essential: yes` package is asked for.
    pub essential: bool,
    /// Every package of these priorities is asked for.
    pub priorities: Vec<String>,
    /// Recommended packages come along.
    pub recommends: bool,
    /// Kept, and preferred where they satisfy something.
    pub installed: Vec<PackageId>,
    /// Pins of packages by name, instead of their index's.
    pub pins: HashMap<String, i32>,
}

/// What was chosen.
#[derive(Clone, Debug, Default)]
pub struct Solution {
    /// Sorted by name; without those that were installed.
    pub packages: Vec<Chosen>,
}

/// A chosen package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub id: PackageId,
    /// It came along as a dependency.
    pub automatic: bool,
}

impl<'a> Universe<'a> {
    /// An empty universe for a machine of this architecture.
    #[must_use]
    pub const fn new(native: Architecture) -> Self {
        Self { native, indices: Vec::new() }
    }

    /// Adds an index; `pin` is its priority as apt counts, `label` names it in messages.
    pub fn add(&mut self, index: &'a PackagesIndex, pin: i32, label: &str) {
        self.indices.push(Offer { index, pin, label: label.to_owned() });
    }

    /// The package itself.
    #[must_use]
    pub fn record(&self, id: PackageId) -> Record<'a> {
        self.indices[usize::from(id.index)].index.record(id.record)
    }

    /// The label of the index that it comes from.
    #[must_use]
    pub fn label(&self, id: PackageId) -> &str {
        &self.indices[usize::from(id.index)].label
    }

    fn pin(&self, id: PackageId, request: &Request) -> i32 {
        let own = request.pins.get(self.record(id).name()).copied();
        own.unwrap_or_else(|| self.indices[usize::from(id.index)].pin)
    }

    fn offers(&self) -> impl Iterator<Item = (u16, &'a PackagesIndex)> + '_ {
        self.indices.iter().enumerate().map(|(number, offer)| (number as u16, offer.index))
    }

    fn named(&self, name: &str) -> Vec<PackageId> {
        let mut found = Vec::new();
        for (index, offer) in self.offers() {
            found.extend(offer.named(name).map(|record| PackageId { index, record }));
        }
        found.retain(|id| self.fits(*id));
        found
    }

    fn providers(&self, name: &str) -> Vec<PackageId> {
        let mut found = Vec::new();
        for (index, offer) in self.offers() {
            found.extend(offer.providers(name).map(|record| PackageId { index, record }));
        }
        found.retain(|id| self.fits(*id));
        found
    }

    /// Only the native architecture is chosen from; `all` belongs to every one.
    fn fits(&self, id: PackageId) -> bool {
        let architecture = self.record(id).architecture();
        architecture == self.native.name() || architecture == "all"
    }

    /// The version that apt would install: the highest pin, then the highest version.
    fn candidate(&self, name: &str, request: &Request) -> Option<PackageId> {
        let better = |a: &PackageId, b: &PackageId| {
            let pins = self.pin(*a, request).cmp(&self.pin(*b, request));
            pins.then_with(|| version::compare(self.record(*a).version(), self.record(*b).version()))
                .then_with(|| b.cmp(a))
        };
        self.named(name).into_iter().filter(|id| self.pin(*id, request) >= 0).max_by(better)
    }

    fn names(&self) -> HashSet<&'a str> {
        self.offers()
            .flat_map(|(_, index)| index.iter().map(move |number| index.record(number).name()))
            .collect()
    }
}

/// Chooses packages that meet the request.
pub fn resolve(universe: &Universe<'_>, request: &Request) -> Result<Solution, Unresolvable> {
    search::Search::new(universe, request).run()
}

/// Whether `id` satisfies `relation`, by its own name or by what it provides.
fn satisfies(universe: &Universe<'_>, id: PackageId, relation: &Relation<'_>) -> bool {
    let record = universe.record(id);
    // Only the native architecture is chosen from, so another one's package is never meant.
    if relation.qualifier.is_some_and(|of| !matches!(of, "any" | "native") && of != universe.native.name()) {
        return false;
    }
    if record.name() == relation.name {
        return relation.constraint.is_none_or(|(operator, wanted)| operator.holds(record.version(), wanted));
    }
    provides(&record, relation)
}

/// A versioned relation is met by a versioned `Provides` only.
fn provides(record: &Record<'_>, relation: &Relation<'_>) -> bool {
    let groups = crate::relation::parse_relations(record.provides()).unwrap_or_default();
    groups.iter().flatten().filter(|provided| provided.name == relation.name).any(|provided| {
        match (relation.constraint, provided.constraint) {
            (None, _) => true,
            (Some((operator, wanted)), Some((_, version))) => operator.holds(version, wanted),
            (Some(_), None) => false,
        }
    })
}

#[cfg(test)]
mod tests;
