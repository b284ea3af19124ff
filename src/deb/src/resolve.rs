//! Choosing packages: what must be installed so that every dependency is met.
//!
//! [`resolve`] makes the choices that apt makes: the best version by pin, the first alternative
//! unless another is chosen already, a real package before one that provides its name. Where
//! apt's way ends in a conflict, a search finds another, or proves that there is none.
//!
//! Spec: Debian Policy 7; apt_preferences(5) for pins; docs/decisions/003-resolver.md.

mod catalog;
mod explain;
mod preference;
mod roots;
mod search;
mod walk;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::OnceLock;

use knarr_base::Architecture;

pub use explain::Unresolvable;

use crate::packages::{PackagesIndex, Record};
use catalog::{Catalog, Version};
use preference::Mentions;

/// Everything that may be chosen.
pub struct Universe<'a> {
    native: Architecture,
    indices: Vec<Offer<'a>>,
    mentions: OnceLock<Mentions<'a>>,
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
    /// Packages by name, `name=version`, `name/suite` or `name:architecture`.
    pub include: Vec<String>,
    /// Names that must not be chosen.
    pub exclude: Vec<String>,
    /// Every `Essential: yes` package is asked for.
    pub essential: bool,
    /// Every package of these priorities is asked for.
    pub priorities: Vec<String>,
    /// Recommended packages come along where they can.
    pub recommends: bool,
    /// Kept as they are, and preferred where they satisfy something.
    pub installed: Vec<PackageId>,
    /// Names that count as there, whatever version is asked for: a need for one of them needs nothing.
    pub assume: Vec<String>,
    /// Pins of packages by name, instead of their index's.
    pub preferences: Vec<(String, i32)>,
}

/// What was chosen.
#[derive(Clone, Debug, Default)]
pub struct Solution {
    /// Sorted by name; without those that were installed.
    pub packages: Vec<Chosen>,
}

/// A chosen package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub id: PackageId,
    /// Nobody asked for it: it came along.
    pub automatic: bool,
    /// What brought it, or the first of several.
    pub because: Because,
}

/// Why a package was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It was asked for by name.
    Requested,
    /// It is essential, and these were asked for.
    Essential,
    /// Its priority was asked for.
    Priority,
    /// Another package needs it.
    DependencyOf {
        /// That package.
        name: String,
        /// What it says: `b (>= 2) | c`.
        relation: String,
    },
    /// Another package recommends it.
    RecommendedBy {
        /// That package.
        name: String,
        /// What it says.
        relation: String,
    },
}

/// Chooses packages that meet the request.
pub fn resolve(universe: &Universe<'_>, request: &Request) -> Result<Solution, Unresolvable> {
    let mut catalog = Catalog::new(universe, request);
    let roots = roots::find(&mut catalog)?;
    let versions: Vec<Version> = roots.iter().map(|(version, _)| *version).collect();
    let mut walk = walk::Walk::new(&mut catalog);
    walk.run(&versions);
    let chosen = match walk.finish(&versions) {
        Some(chosen) => chosen,
        None => search::Search::new(&mut catalog).run(&versions)?,
    };
    Ok(solution(&mut catalog, &chosen, roots))
}

/// What the roots reach among the chosen: an abandoned attempt may have left something behind.
fn solution(
    catalog: &mut Catalog<'_, '_>,
    chosen: &HashSet<Version>,
    roots: Vec<(Version, Because)>,
) -> Solution {
    let installed: HashSet<Version> =
        catalog.request().installed.iter().map(|id| catalog.version_of(*id)).collect();
    let mut todo: VecDeque<Version> = roots.iter().map(|(version, _)| *version).collect();
    todo.extend(&installed);
    let mut reasons: HashMap<Version, Because> = roots.into_iter().collect();
    while let Some(by) = todo.pop_front() {
        let needs = catalog.needs(by);
        for group in &needs.groups {
            for version in providers(catalog, chosen, &installed, &group.terms) {
                if !reasons.contains_key(&version) && !installed.contains(&version) {
                    let name = catalog.record(by).name().to_owned();
                    let relation = catalog.describe_group(&group.terms);
                    let because = match group.hard {
                        true => Because::DependencyOf { name, relation },
                        false => Because::RecommendedBy { name, relation },
                    };
                    reasons.insert(version, because);
                    todo.push_back(version);
                }
            }
        }
    }
    let fresh = reasons.into_iter().filter(|(version, _)| !installed.contains(version));
    let mut packages: Vec<Chosen> = fresh
        .map(|(version, because)| {
            let automatic = matches!(because, Because::DependencyOf { .. } | Because::RecommendedBy { .. });
            Chosen { id: catalog.id(version), automatic, because }
        })
        .collect();
    packages.sort_by_key(|chosen| catalog.universe().record(chosen.id).name());
    Solution { packages }
}

/// The chosen packages that satisfy a group: all of them, or those that are installed.
fn providers(
    catalog: &mut Catalog<'_, '_>,
    chosen: &HashSet<Version>,
    installed: &HashSet<Version>,
    group: &[catalog::Term],
) -> Vec<Version> {
    let targets = group.iter().map(|term| catalog.targets(*term)).collect::<Vec<_>>();
    let all = targets.iter().flat_map(|targets| targets.iter().copied());
    let mut providers: Vec<Version> = all.filter(|version| chosen.contains(version)).collect();
    if providers.iter().any(|version| installed.contains(version)) {
        providers.retain(|version| installed.contains(version));
    }
    providers
}

impl<'a> Universe<'a> {
    /// An empty universe for a machine of this architecture.
    #[must_use]
    pub const fn new(native: Architecture) -> Self {
        Self { native, indices: Vec::new(), mentions: OnceLock::new() }
    }

    /// Adds an index; `pin` is its priority as apt counts, `label` names it in messages.
    pub fn add(&mut self, index: &'a PackagesIndex, pin: i32, label: &str) {
        self.indices.push(Offer { index, pin, label: label.to_owned() });
        self.mentions = OnceLock::new();
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

    fn pin(&self, id: PackageId) -> i32 {
        self.indices[usize::from(id.index)].pin
    }

    fn offers(&self) -> impl Iterator<Item = (u16, &'a PackagesIndex)> + '_ {
        self.indices.iter().enumerate().map(|(number, offer)| (number as u16, offer.index))
    }

    fn named(&self, name: &'a str) -> impl Iterator<Item = PackageId> + '_ {
        let all = self
            .offers()
            .flat_map(move |(index, offer)| offer.named(name).map(move |record| PackageId { index, record }));
        all.filter(|id| self.fits(*id))
    }

    fn providers(&self, name: &'a str) -> impl Iterator<Item = PackageId> + '_ {
        let all = self.offers().flat_map(move |(index, offer)| {
            offer.providers(name).map(move |record| PackageId { index, record })
        });
        all.filter(|id| self.fits(*id))
    }

    /// Only the native architecture is chosen from; `all` belongs to every one.
    fn fits(&self, id: PackageId) -> bool {
        let architecture = self.record(id).architecture();
        architecture == self.native.name() || architecture == "all"
    }

    /// Every package for this machine.
    fn all(&self) -> impl Iterator<Item = PackageId> + '_ {
        let all = self
            .offers()
            .flat_map(|(index, offer)| offer.iter().map(move |record| PackageId { index, record }));
        all.filter(|id| self.fits(*id))
    }

    /// The order of names that apt falls back to; read when it is first needed.
    fn mentions(&self) -> &Mentions<'a> {
        self.mentions.get_or_init(|| Mentions::read(self))
    }
}

#[cfg(test)]
mod tests;
