//! The catalog: what the walk and the search need to know, looked up once.
//!
//! [`Catalog`] numbers package names, their versions and the relations between them as they are
//! met; most of a suite is never looked at. It knows what there is, never what is chosen.
//!
//! Spec: Debian Policy 7; Multi-Arch specification for qualifiers; apt's pkgcachegen.cc.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::{PackageId, Request, Universe};
use crate::packages::Record;
use crate::relation::{Relation, parse_relations};
use crate::version;

/// The number of a package name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name(u32);

/// The number of a version of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Version(u32);

/// The number of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term(u32);

impl Name {
    pub(super) const fn from_index(index: usize) -> Self {
        Self(index as u32)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Alternatives of which one must be there, or should be.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) terms: Vec<Term>,
    /// `Pre-Depends` and `Depends` are hard, `Recommends` is not.
    pub(super) hard: bool,
}

/// What a version asks of other packages, in apt's order.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) groups: Vec<Group>,
    pub(super) conflicts: Vec<Term>,
}

/// What may be chosen, numbered.
pub(super) struct Catalog<'u, 'a> {
    universe: &'u Universe<'a>,
    request: &'u Request,
    excluded: HashSet<&'u str>,
    pins: HashMap<&'u str, i32>,
    names: HashMap<&'a str, Name>,
    packages: Vec<PackageRow<'a>>,
    versions: Vec<VersionRow<'a>>,
    by_id: HashMap<PackageId, Version>,
    terms: Vec<TermRow<'a>>,
    by_relation: HashMap<Relation<'a>, Term>,
}

struct PackageRow<'a> {
    name: &'a str,
    versions: Option<Rc<[Version]>>,
    candidate: Option<Version>,
    installed: Option<Version>,
}

struct VersionRow<'a> {
    id: PackageId,
    record: Record<'a>,
    name: Name,
    needs: Option<Rc<Needs>>,
}

struct TermRow<'a> {
    relation: Relation<'a>,
    targets: Option<Rc<[Version]>>,
}

impl<'u, 'a> Catalog<'u, 'a> {
    pub(super) fn new(universe: &'u Universe<'a>, request: &'u Request) -> Self {
        let mut catalog = Self {
            universe,
            request,
            excluded: request.exclude.iter().map(String::as_str).collect(),
            pins: request.preferences.iter().map(|(name, pin)| (name.as_str(), *pin)).collect(),
            names: HashMap::new(),
            packages: Vec::new(),
            versions: Vec::new(),
            by_id: HashMap::new(),
            terms: Vec::new(),
            by_relation: HashMap::new(),
        };
        for &id in &request.installed {
            catalog.install(id);
        }
        catalog
    }

    pub(super) const fn universe(&self) -> &'u Universe<'a> {
        self.universe
    }

    pub(super) const fn request(&self) -> &'u Request {
        self.request
    }

    /// What is installed stays: it is the only version that can be chosen.
    fn install(&mut self, id: PackageId) {
        let version = self.version_of(id);
        let name = self.name_of(version);
        let row = &mut self.packages[name.index()];
        row.installed = Some(version);
        row.candidate = Some(version);
    }

    /// The number of a name that an index holds.
    pub(super) fn name(&mut self, name: &'a str) -> Name {
        let next = Name(self.packages.len() as u32);
        let found = *self.names.entry(name).or_insert(next);
        if found == next {
            self.packages.push(PackageRow { name, versions: None, candidate: None, installed: None });
        }
        found
    }

    pub(super) fn name_text(&self, name: Name) -> &'a str {
        self.packages[name.index()].name
    }

    pub(super) fn is_excluded(&self, name: &str) -> bool {
        self.excluded.contains(name)
    }

    pub(super) fn installed(&self, name: Name) -> Option<Version> {
        self.packages[name.index()].installed
    }

    /// The version that apt would install: the highest pin, then the highest version.
    pub(super) fn candidate(&mut self, name: Name) -> Option<Version> {
        self.versions(name);
        self.packages[name.index()].candidate
    }

    /// Makes another version the one to install, unless the package is installed.
    pub(super) fn set_candidate(&mut self, version: Version) -> bool {
        let row = &mut self.packages[self.versions[version.0 as usize].name.index()];
        row.candidate = row.installed.or(Some(version));
        row.candidate == Some(version)
    }

    /// All versions of a package for this machine.
    pub(super) fn versions(&mut self, name: Name) -> Rc<[Version]> {
        if let Some(versions) = &self.packages[name.index()].versions {
            return Rc::clone(versions);
        }
        let text = self.name_text(name);
        let mut versions: Vec<Version> = Vec::new();
        for id in self.universe.named(text) {
            let record = self.universe.record(id);
            // Two indices may offer the same version: it is one, from where the pin is highest.
            let same = versions.iter().position(|other| self.record(*other).version() == record.version());
            if let Some(same) = same.map(|position| versions[position]) {
                if self.pin(id) > self.pin(self.id(same)) {
                    let row = &mut self.versions[same.0 as usize];
                    (row.id, row.record) = (id, record);
                }
                self.by_id.insert(id, same);
                continue;
            }
            let version = Version(self.versions.len() as u32);
            self.versions.push(VersionRow { id, record, name, needs: None });
            self.by_id.insert(id, version);
            versions.push(version);
        }
        let versions: Rc<[Version]> = versions.into();
        let candidate = self.best(text, &versions);
        let row = &mut self.packages[name.index()];
        row.versions = Some(Rc::clone(&versions));
        row.candidate = row.installed.or(candidate);
        versions
    }

    fn best(&self, name: &str, versions: &[Version]) -> Option<Version> {
        if self.is_excluded(name) {
            return None;
        }
        let allowed = versions.iter().copied().filter(|version| self.pin(self.id(*version)) >= 0);
        allowed.max_by(|a, b| {
            let pins = self.pin(self.id(*a)).cmp(&self.pin(self.id(*b)));
            pins.then_with(|| version::compare(self.record(*a).version(), self.record(*b).version()))
        })
    }

    fn pin(&self, id: PackageId) -> i32 {
        let own = self.pins.get(self.universe.record(id).name()).copied();
        own.unwrap_or_else(|| self.universe.pin(id))
    }

    pub(super) fn version_of(&mut self, id: PackageId) -> Version {
        let name = self.name(self.universe.record(id).name());
        self.versions(name);
        self.by_id[&id]
    }

    pub(super) fn id(&self, version: Version) -> PackageId {
        self.versions[version.0 as usize].id
    }

    pub(super) fn record(&self, version: Version) -> Record<'a> {
        self.versions[version.0 as usize].record
    }

    pub(super) fn name_of(&self, version: Version) -> Name {
        self.versions[version.0 as usize].name
    }

    /// What this version asks of others: `Pre-Depends`, `Depends`, then `Recommends` if followed.
    pub(super) fn needs(&mut self, version: Version) -> Rc<Needs> {
        if let Some(needs) = &self.versions[version.0 as usize].needs {
            return Rc::clone(needs);
        }
        let record = self.record(version);
        let mut needs = Needs::default();
        let recommends = if self.request.recommends { record.recommends() } else { "" };
        for (field, hard) in [(record.pre_depends(), true), (record.depends(), true), (recommends, false)] {
            for group in parse_relations(field).unwrap_or_default() {
                if group.iter().any(|relation| self.request.assume.iter().any(|name| name == relation.name)) {
                    continue;
                }
                let terms = group.into_iter().map(|relation| self.term(relation)).collect();
                needs.groups.push(Group { terms, hard });
            }
        }
        for field in [record.conflicts(), record.breaks()] {
            let relations = parse_relations(field).unwrap_or_default().into_iter().flatten();
            needs.conflicts.extend(relations.map(|relation| self.term(relation)));
        }
        let needs = Rc::new(needs);
        self.versions[version.0 as usize].needs = Some(Rc::clone(&needs));
        needs
    }

    fn term(&mut self, relation: Relation<'a>) -> Term {
        let next = Term(self.terms.len() as u32);
        let found = *self.by_relation.entry(relation).or_insert(next);
        if found == next {
            self.terms.push(TermRow { relation, targets: None });
        }
        found
    }

    pub(super) fn relation(&self, term: Term) -> Relation<'a> {
        self.terms[term.0 as usize].relation
    }

    /// Every version that satisfies a relation: by its own name first, then by what it provides.
    pub(super) fn targets(&mut self, term: Term) -> Rc<[Version]> {
        if let Some(targets) = &self.terms[term.0 as usize].targets {
            return Rc::clone(targets);
        }
        let relation = self.relation(term);
        let name = self.name(relation.name);
        let mut targets: Vec<Version> = self.versions(name).to_vec();
        targets.retain(|&version| self.is_named(self.record(version), &relation));
        for id in self.universe.providers(relation.name) {
            let version = self.version_of(id);
            if !targets.contains(&version) && self.provides(self.record(version), &relation) {
                targets.push(version);
            }
        }
        let targets: Rc<[Version]> = targets.into();
        self.terms[term.0 as usize].targets = Some(Rc::clone(&targets));
        targets
    }

    /// Versions of other packages that this version cannot be installed beside.
    pub(super) fn enemies(&mut self, version: Version, term: Term) -> Vec<Version> {
        let own = self.name_of(version);
        // A package that conflicts with a name that it provides means the others that do.
        self.targets(term).iter().copied().filter(|&other| self.name_of(other) != own).collect()
    }

    fn is_named(&self, record: Record<'_>, relation: &Relation<'_>) -> bool {
        let architecture = match relation.qualifier {
            None => true,
            Some("any") => record.multi_arch() == "allowed",
            Some(qualifier) => self.is_native(qualifier),
        };
        architecture
            && relation.constraint.is_none_or(|(operator, wanted)| operator.holds(record.version(), wanted))
    }

    /// A versioned relation is met by a versioned `Provides` only.
    fn provides(&self, record: Record<'_>, relation: &Relation<'_>) -> bool {
        let provided = parse_relations(record.provides()).unwrap_or_default();
        provided.iter().flatten().filter(|provided| provided.name == relation.name).any(|provided| {
            let architecture = match (relation.qualifier, provided.qualifier) {
                (None, None) => true,
                (Some("any"), None) => record.multi_arch() == "allowed",
                (Some(wanted), Some(found)) if wanted == found => true,
                (None, Some(one)) | (Some(one), None) => self.is_native(one),
                _ => false,
            };
            let version = match (relation.constraint, provided.constraint) {
                (None, _) => true,
                (Some((operator, wanted)), Some((_, version))) => operator.holds(version, wanted),
                (Some(_), None) => false,
            };
            architecture && version
        })
    }

    pub(super) fn is_native(&self, qualifier: &str) -> bool {
        qualifier == "native" || qualifier == self.universe.native.name()
    }

    /// `name version (suite/component)`.
    pub(super) fn describe(&self, version: Version) -> String {
        let record = self.record(version);
        format!("{} {} ({})", record.name(), record.version(), self.universe.label(self.id(version)))
    }

    /// The alternatives as Policy writes them.
    pub(super) fn describe_group(&self, terms: &[Term]) -> String {
        let texts: Vec<String> = terms.iter().map(|term| self.relation(*term).to_string()).collect();
        texts.join(" | ")
    }
}
