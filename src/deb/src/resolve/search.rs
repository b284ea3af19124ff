//! The search: depth first, in the order of each package's own fields, with steps back on conflict.

use std::collections::HashMap;

use super::explain::near;
use super::{Chosen, PackageId, Request, Solution, Universe, Unresolvable, provides, satisfies};
use crate::relation::{Relation, parse_relations};

pub(super) struct Search<'u, 'a> {
    universe: &'u Universe<'a>,
    request: &'u Request,
    /// In the order of choice: taking back a choice shortens it.
    chosen: Vec<(PackageId, bool)>,
    by_name: HashMap<&'a str, PackageId>,
    /// Who provides a name, and who conflicts with it, among the chosen.
    provided: HashMap<&'a str, Vec<PackageId>>,
    conflicted: HashMap<&'a str, Vec<PackageId>>,
    /// Packages whose dependencies still wait, because the chain to them grew too long.
    waiting: Vec<PackageId>,
    depth: usize,
}

/// Beyond this, dependencies wait: a chain must not use up the stack.
const MAX_DEPTH: usize = 1_000;

type Attempt = Result<(), Vec<String>>;

impl<'u, 'a> Search<'u, 'a> {
    pub(super) fn new(universe: &'u Universe<'a>, request: &'u Request) -> Self {
        Self {
            universe,
            request,
            chosen: Vec::new(),
            by_name: HashMap::new(),
            provided: HashMap::new(),
            conflicted: HashMap::new(),
            waiting: Vec::new(),
            depth: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Solution, Unresolvable> {
        let roots = self.roots()?;
        for id in self.request.installed.clone() {
            self.take(id, false);
        }
        let impossible = |reasons| Unresolvable::Impossible { reasons };
        // All that is asked for is chosen before any dependency: it wins over other alternatives.
        let mut new = Vec::new();
        for id in roots {
            if self.by_name.get(self.universe.record(id).name()) == Some(&id) {
                continue;
            }
            self.check_conflicts(id).map_err(|reason| impossible(vec![reason]))?;
            self.take(id, false);
            new.push(id);
        }
        for id in new {
            self.depend(id).map_err(impossible)?;
        }
        while let Some(id) = self.waiting.pop() {
            self.depend(id).map_err(impossible)?;
        }
        Ok(self.solution())
    }

    fn solution(&self) -> Solution {
        let kept: std::collections::HashSet<_> = self.request.installed.iter().collect();
        let fresh = self.chosen.iter().filter(|(id, _)| !kept.contains(id));
        let mut packages: Vec<Chosen> = fresh.map(|&(id, automatic)| Chosen { id, automatic }).collect();
        packages.sort_by_key(|chosen| self.universe.record(chosen.id).name());
        Solution { packages }
    }

    /// What is asked for: essential packages, priorities, then names.
    fn roots(&self) -> Result<Vec<PackageId>, Unresolvable> {
        let mut roots = Vec::new();
        let wanted = |id: PackageId| {
            let record = self.universe.record(id);
            let by_priority = self.request.priorities.iter().any(|priority| priority == record.priority());
            (self.request.essential && record.essential()) || by_priority
        };
        if self.request.essential || !self.request.priorities.is_empty() {
            let mut names: Vec<&str> = Vec::new();
            for (index, offer) in self.universe.offers() {
                names.extend(
                    offer
                        .iter()
                        .filter(|&record| wanted(PackageId { index, record }))
                        .map(|record| offer.record(record).name()),
                );
            }
            names.sort_unstable();
            names.dedup();
            let candidates = names.into_iter().filter_map(|name| self.universe.candidate(name, self.request));
            roots.extend(
                candidates.filter(|&id| wanted(id) && !self.excluded(self.universe.record(id).name())),
            );
        }
        for spec in &self.request.include {
            let id = self.named_root(spec)?;
            if !roots.contains(&id) {
                roots.push(id);
            }
        }
        Ok(roots)
    }

    fn named_root(&self, spec: &str) -> Result<PackageId, Unresolvable> {
        let split = spec.find(['=', '/']);
        let (name, wanted) = split.map_or((spec, ""), |at| spec.split_at(at));
        let name = name.strip_suffix(&format!(":{}", self.universe.native)).unwrap_or(name);
        let all = self.universe.named(name);
        if all.is_empty() {
            return self.virtual_root(name);
        }
        if self.excluded(name) {
            return Err(Unresolvable::Impossible {
                reasons: vec![format!("{name} is both asked for and excluded")],
            });
        }
        let matching = |id: &PackageId| match wanted.split_at_checked(1) {
            Some(("=", version)) => self.universe.record(*id).version() == version,
            Some((_, label)) => self.universe.label(*id).split('/').next() == Some(label),
            None => true,
        };
        let found = if wanted.is_empty() {
            self.universe.candidate(name, self.request)
        } else {
            all.iter().copied().find(matching)
        };
        found.ok_or_else(|| Unresolvable::UnknownVersion {
            name: name.to_owned(),
            wanted: if wanted.is_empty() { "acceptable pin".to_owned() } else { wanted[1..].to_owned() },
            found: all.iter().map(|&id| self.describe(id)).collect(),
        })
    }

    fn virtual_root(&self, name: &str) -> Result<PackageId, Unresolvable> {
        let providers = self.ordered_providers(&Relation { name, qualifier: None, constraint: None });
        match providers.as_slice() {
            [only] => Ok(*only),
            [] => {
                let near = near(name, self.universe.names().into_iter());
                Err(Unresolvable::UnknownPackage { name: name.to_owned(), near })
            }
            several => {
                let names: Vec<&str> = several.iter().map(|&id| self.universe.record(id).name()).collect();
                let reason =
                    format!("{name} is a virtual package; name one that provides it: {}", names.join(", "));
                Err(Unresolvable::Impossible { reasons: vec![reason] })
            }
        }
    }

    /// Meets the dependencies of a chosen package.
    fn depend(&mut self, id: PackageId) -> Attempt {
        if self.depth >= MAX_DEPTH {
            self.waiting.push(id);
            return Ok(());
        }
        self.depth += 1;
        let outcome = self.depend_on_all(id);
        self.depth -= 1;
        outcome
    }

    fn depend_on_all(&mut self, id: PackageId) -> Attempt {
        let record = self.universe.record(id);
        for field in [record.pre_depends(), record.depends()] {
            let groups = parse_relations(field)
                .map_err(|error| vec![format!("{} is damaged: {error}", record.name())])?;
            for group in groups {
                self.meet(id, &group)?;
            }
        }
        if self.request.recommends {
            for group in parse_relations(record.recommends()).unwrap_or_default() {
                // A recommendation that cannot be followed is not followed.
                let _ = self.meet(id, &group);
            }
        }
        Ok(())
    }

    fn meet(&mut self, by: PackageId, group: &[Relation<'a>]) -> Attempt {
        if group.iter().any(|relation| self.is_met(relation)) {
            return Ok(());
        }
        let mut reasons = Vec::new();
        for relation in group {
            for candidate in self.candidates(relation) {
                let mark = self.chosen.len();
                let tried = self.check_conflicts(candidate).map_err(|reason| vec![reason]).and_then(|()| {
                    self.take(candidate, true);
                    self.depend(candidate)
                });
                match tried {
                    Ok(()) => return Ok(()),
                    Err(why) => {
                        self.take_back(mark);
                        keep_longest(&mut reasons, why);
                    }
                }
            }
        }
        reasons.insert(0, self.tell(by, group, reasons.is_empty()));
        Err(reasons)
    }

    fn is_met(&self, relation: &Relation<'_>) -> bool {
        let real = self.by_name.get(relation.name).is_some_and(|&id| satisfies(self.universe, id, relation));
        let providers = || self.provided.get(relation.name).into_iter().flatten();
        real || providers().any(|&id| provides(&self.universe.record(id), relation))
    }

    /// The real package first, then those that provide its name.
    fn candidates(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let real = self.universe.candidate(relation.name, self.request);
        let mut candidates: Vec<PackageId> =
            real.into_iter().filter(|&id| satisfies(self.universe, id, relation)).collect();
        candidates.extend(self.ordered_providers(relation));
        candidates.retain(|&id| {
            let name = self.universe.record(id).name();
            !self.excluded(name) && !self.by_name.contains_key(name)
        });
        candidates
    }

    /// Providers as apt prefers them: essential, then by priority, then by name.
    fn ordered_providers(&self, relation: &Relation<'_>) -> Vec<PackageId> {
        let mut providers: Vec<PackageId> = self.universe.providers(relation.name);
        providers.retain(|&id| {
            let record = self.universe.record(id);
            provides(&record, relation) && self.universe.candidate(record.name(), self.request) == Some(id)
        });
        providers.sort_by_key(|&id| {
            let record = self.universe.record(id);
            (!record.essential(), !record.important(), rank(record.priority()), record.name())
        });
        providers.dedup();
        providers
    }

    fn excluded(&self, name: &str) -> bool {
        self.request.exclude.iter().any(|excluded| excluded == name)
    }

    fn check_conflicts(&self, id: PackageId) -> Result<(), String> {
        let record = self.universe.record(id);
        if let Some(&other) = self.by_name.get(record.name())
            && other != id
        {
            return Err(format!(
                "{} and {} cannot both be installed",
                self.describe(id),
                self.describe(other)
            ));
        }
        for relation in conflicts(&record) {
            let mut against = self
                .by_name
                .get(relation.name)
                .into_iter()
                .chain(self.provided.get(relation.name).into_iter().flatten());
            if let Some(&other) =
                against.find(|&&other| other != id && satisfies(self.universe, other, &relation))
            {
                return Err(format!(
                    "{} conflicts with {} ({relation})",
                    self.describe(id),
                    self.describe(other)
                ));
            }
        }
        let own = parse_relations(record.provides()).unwrap_or_default();
        let names = std::iter::once(record.name()).chain(own.iter().flatten().map(|provided| provided.name));
        for name in names {
            for &other in self.conflicted.get(name).into_iter().flatten() {
                let hostile = conflicts(&self.universe.record(other));
                if let Some(relation) = hostile
                    .iter()
                    .find(|relation| relation.name == name && satisfies(self.universe, id, relation))
                {
                    return Err(format!(
                        "{} conflicts with {} ({relation})",
                        self.describe(other),
                        self.describe(id)
                    ));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, id: PackageId, automatic: bool) {
        let record = self.universe.record(id);
        self.chosen.push((id, automatic));
        self.by_name.insert(record.name(), id);
        for relation in parse_relations(record.provides()).unwrap_or_default().into_iter().flatten() {
            self.provided.entry(relation.name).or_default().push(id);
        }
        for relation in conflicts(&record) {
            self.conflicted.entry(relation.name).or_default().push(id);
        }
    }

    fn take_back(&mut self, mark: usize) {
        for (id, _) in self.chosen.split_off(mark) {
            let record = self.universe.record(id);
            self.by_name.remove(record.name());
            self.waiting.retain(|waiting| *waiting != id);
            for relation in parse_relations(record.provides()).unwrap_or_default().into_iter().flatten() {
                if let Some(all) = self.provided.get_mut(relation.name) {
                    all.retain(|other| *other != id);
                }
            }
            for relation in conflicts(&record) {
                if let Some(all) = self.conflicted.get_mut(relation.name) {
                    all.retain(|other| *other != id);
                }
            }
        }
    }

    fn describe(&self, id: PackageId) -> String {
        let record = self.universe.record(id);
        format!("{} {} ({})", record.name(), record.version(), self.universe.label(id))
    }

    fn tell(&self, by: PackageId, group: &[Relation<'_>], nothing_there: bool) -> String {
        let wanted: Vec<String> = group.iter().map(ToString::to_string).collect();
        let mut sentence = format!("{} depends on {}", self.universe.record(by).name(), wanted.join(" | "));
        if nothing_there {
            let there: Vec<String> = group
                .iter()
                .flat_map(|relation| self.universe.named(relation.name))
                .map(|id| self.describe(id))
                .collect();
            let excluded = group.iter().any(|relation| self.excluded(relation.name));
            sentence += &match (there.is_empty(), excluded) {
                (_, true) => ", which is excluded".to_owned(),
                (true, _) => ", which no index has".to_owned(),
                (false, _) => format!(", but there is only {}", there.join(", ")),
            };
        }
        sentence
    }
}

fn conflicts<'a>(record: &crate::packages::Record<'a>) -> Vec<Relation<'a>> {
    let fields = [record.conflicts(), record.breaks()];
    fields.iter().flat_map(|field| parse_relations(field).unwrap_or_default()).flatten().collect()
}

fn keep_longest(reasons: &mut Vec<String>, new: Vec<String>) {
    if new.len() > reasons.len() {
        *reasons = new;
    }
}

fn rank(priority: &str) -> u8 {
    match priority {
        "required" => 0,
        "important" => 1,
        "standard" => 2,
        "optional" => 3,
        _ => 4,
    }
}
