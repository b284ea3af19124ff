//! The search: a way where apt's walk ends in a conflict, or the proof that there is none.
//!
//! [`Search`] reads dependencies and conflicts as clauses over "this package's candidate is
//! chosen". It decides in the walk's order of preference, follows what is forced, and learns a
//! clause from every conflict, so no dead end is entered twice. It asks nothing of the walk.
//!
//! Spec: Marques-Silva, Sakallah: GRASP (first unique implication point, backjumping).

use std::collections::HashSet;

use super::catalog::{Catalog, Name, Term, Version};
use super::explain::{Fact, Unresolvable, explain};
use super::preference;

pub(super) struct Search<'c, 'u, 'a> {
    catalog: &'c mut Catalog<'u, 'a>,
    clauses: Vec<Clause>,
    /// Clauses that mention a name.
    mentions: Vec<Vec<usize>>,
    values: Vec<Option<Value>>,
    /// In the order in which values were given.
    trail: Vec<Name>,
    level: usize,
    /// All groups of the packages before this position of the trail are satisfied.
    settled: usize,
    /// Clauses of groups by package, hard ones, and alternatives that are only wished for.
    wishes: Vec<(Name, Vec<Name>)>,
    expanded: HashSet<Name>,
}

#[derive(Clone, Copy)]
struct Value {
    is_chosen: bool,
    level: usize,
    /// The clause that forced it; a decision has none.
    reason: Option<usize>,
}

struct Clause {
    literals: Vec<Literal>,
    origin: Origin,
}

/// That a package is chosen, or that it is not.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Literal {
    name: Name,
    is_chosen: bool,
}

enum Origin {
    Fact(Fact),
    /// Learned from these clauses.
    Learned(Vec<usize>),
}

impl<'c, 'u, 'a> Search<'c, 'u, 'a> {
    pub(super) fn new(catalog: &'c mut Catalog<'u, 'a>) -> Self {
        Self {
            catalog,
            clauses: Vec::new(),
            mentions: Vec::new(),
            values: Vec::new(),
            trail: Vec::new(),
            level: 0,
            settled: 0,
            wishes: Vec::new(),
            expanded: HashSet::new(),
        }
    }

    /// A set that holds the roots and all that is installed, in which nothing is broken.
    pub(super) fn run(mut self, roots: &[Version]) -> Result<HashSet<Version>, Unresolvable> {
        let mut conflict = None;
        for id in &self.catalog.request().installed {
            let version = self.catalog.version_of(*id);
            conflict = conflict.or_else(|| self.demand(version, Fact::Installed(version)));
        }
        for &root in roots {
            conflict = conflict.or_else(|| self.demand(root, Fact::Asked(root)));
        }
        loop {
            conflict = conflict.or_else(|| self.propagate());
            match conflict.take() {
                Some(clause) if self.level == 0 => return Err(self.explain(clause)),
                Some(clause) => conflict = self.learn(clause),
                None => match self.next_decision() {
                    Some(name) => {
                        self.level += 1;
                        self.assign(Literal { name, is_chosen: true }, None);
                    }
                    None => return Ok(self.chosen()),
                },
            }
        }
    }

    fn demand(&mut self, version: Version, fact: Fact) -> Option<usize> {
        let name = self.catalog.name_of(version);
        self.add(vec![Literal { name, is_chosen: true }], Origin::Fact(fact))
    }

    fn chosen(&mut self) -> HashSet<Version> {
        let names: Vec<Name> =
            self.trail.iter().copied().filter(|name| self.value(*name) == Some(true)).collect();
        names.into_iter().filter_map(|name| self.catalog.candidate(name)).collect()
    }

    /// Adds a clause and follows it if it forces something; answers with it if it is broken.
    fn add(&mut self, literals: Vec<Literal>, origin: Origin) -> Option<usize> {
        let number = self.clauses.len();
        for literal in &literals {
            let needed = literal.name.index() + 1;
            if self.mentions.len() < needed {
                self.mentions.resize(needed, Vec::new());
            }
            self.mentions[literal.name.index()].push(number);
        }
        self.clauses.push(Clause { literals, origin });
        self.follow(number)
    }

    /// Gives the last open literal of a clause its value; answers with the clause if none is left.
    fn follow(&mut self, number: usize) -> Option<usize> {
        let mut open = None;
        for &literal in &self.clauses[number].literals {
            match self.value(literal.name) {
                Some(value) if value == literal.is_chosen => return None,
                Some(_) => {}
                None if open.is_none() => open = Some(literal),
                None => return None,
            }
        }
        match open {
            Some(literal) => {
                self.assign(literal, Some(number));
                None
            }
            None => Some(number),
        }
    }

    /// Follows what is forced until nothing is; answers with a clause that is broken.
    fn propagate(&mut self) -> Option<usize> {
        // Everything before `settled` was looked at; expanding may lengthen the trail.
        let mut position = self.propagated();
        while let Some(&name) = self.trail.get(position) {
            if self.value(name) == Some(true)
                && let Some(broken) = self.expand(name)
            {
                return Some(broken);
            }
            for number in self.mentions.get(name.index()).cloned().unwrap_or_default() {
                if let Some(broken) = self.follow(number) {
                    return Some(broken);
                }
            }
            position += 1;
        }
        None
    }

    /// The first position of the trail that belongs to the current level.
    fn propagated(&self) -> usize {
        let is_current =
            |name: &Name| self.values[name.index()].is_some_and(|value| value.level == self.level);
        self.trail.iter().position(is_current).unwrap_or(self.trail.len())
    }

    /// Adds the clauses of a package that was chosen, once.
    fn expand(&mut self, name: Name) -> Option<usize> {
        if !self.expanded.insert(name) {
            return None;
        }
        let version = self.catalog.candidate(name)?;
        let needs = self.catalog.needs(version);
        let not_this = Literal { name, is_chosen: false };
        let mut broken = None;
        for (position, group) in needs.groups.iter().enumerate() {
            let solutions = self.solutions(&group.terms);
            if !group.hard {
                self.wishes.push((name, solutions));
                continue;
            }
            let literals = solutions.into_iter().map(|name| Literal { name, is_chosen: true });
            let literals = std::iter::once(not_this).chain(literals).collect();
            let added = self.add(literals, Origin::Fact(Fact::Needs { version, position }));
            broken = broken.or(added);
        }
        for &term in &needs.conflicts {
            for other in self.catalog.enemies(version, term) {
                let enemy = self.catalog.name_of(other);
                if self.catalog.candidate(enemy) == Some(other) {
                    let literals = vec![not_this, Literal { name: enemy, is_chosen: false }];
                    let added = self.add(literals, Origin::Fact(Fact::Clash { version, term, other }));
                    broken = broken.or(added);
                }
            }
        }
        broken
    }

    /// Candidates for any of these relations, the best in front.
    fn solutions(&mut self, terms: &[Term]) -> Vec<Name> {
        let mut names = Vec::new();
        for &term in terms {
            let targets = self.catalog.targets(term);
            let is_candidate = |target: &Version, catalog: &mut Catalog<'u, 'a>| {
                catalog.candidate(catalog.name_of(*target)) == Some(*target)
            };
            let mut found: Vec<Version> =
                targets.iter().copied().filter(|target| is_candidate(target, self.catalog)).collect();
            preference::sort(self.catalog, &mut found, self.catalog.relation(term).name, |_| false);
            names.extend(found.into_iter().map(|version| self.catalog.name_of(version)));
        }
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// The first alternative of the first group that is open; wishes come when all needs are met.
    fn next_decision(&mut self) -> Option<Name> {
        while let Some(&name) = self.trail.get(self.settled) {
            if self.value(name) == Some(true)
                && let Some(decision) = self.open_need(name)
            {
                return Some(decision);
            }
            self.settled += 1;
        }
        let of_chosen = self.wishes.iter().filter(|(name, _)| self.value(*name) == Some(true));
        let unmet = of_chosen.filter(|(_, names)| !names.iter().any(|name| self.value(*name) == Some(true)));
        let mut open = unmet.filter_map(|(_, names)| names.iter().find(|name| self.value(**name).is_none()));
        open.next().copied()
    }

    fn open_need(&self, name: Name) -> Option<Name> {
        let not_this = Literal { name, is_chosen: false };
        let clauses = self.mentions.get(name.index())?.iter().map(|number| &self.clauses[*number]);
        let needs = clauses.filter(|clause| matches!(clause.origin, Origin::Fact(Fact::Needs { .. })));
        let mut own = needs.filter(|clause| clause.literals.first() == Some(&not_this));
        own.find_map(|clause| {
            let alternatives = &clause.literals[1..];
            let is_met = alternatives.iter().any(|literal| self.value(literal.name) == Some(true));
            let open = alternatives.iter().find(|literal| self.value(literal.name).is_none());
            if is_met { None } else { open.map(|literal| literal.name) }
        })
    }

    /// Learns why a clause was broken, goes back to where that could have been known, and follows
    /// what was learned.
    fn learn(&mut self, broken: usize) -> Option<usize> {
        let mut from = vec![broken];
        let mut seen: HashSet<Name> = HashSet::new();
        let mut literals: Vec<Literal> = Vec::new();
        let mut current = broken;
        let mut position = self.trail.len();
        let mut pending = 0;
        loop {
            for literal in &self.clauses[current].literals {
                let Some(value) = self.values[literal.name.index()] else { continue };
                if seen.insert(literal.name) {
                    if value.level == self.level { pending += 1 } else { literals.push(*literal) }
                }
            }
            // The youngest of those that were given their value on this level.
            let name = loop {
                position -= 1;
                let name = self.trail[position];
                if seen.contains(&name) && self.level_of(name) == self.level {
                    break name;
                }
            };
            pending -= 1;
            match self.values[name.index()] {
                Some(Value { reason: Some(reason), .. }) if pending > 0 => {
                    from.push(reason);
                    current = reason;
                }
                value => {
                    let is_chosen = value.is_some_and(|value| value.is_chosen);
                    literals.push(Literal { name, is_chosen: !is_chosen });
                    break;
                }
            }
        }
        let (_, rest) = literals.split_last()?;
        let back_to = rest.iter().map(|literal| self.level_of(literal.name)).max().unwrap_or(0);
        self.go_back(back_to);
        self.add(literals, Origin::Learned(from))
    }

    fn go_back(&mut self, level: usize) {
        while let Some(&name) = self.trail.last()
            && self.level_of(name) > level
        {
            self.values[name.index()] = None;
            self.trail.pop();
        }
        self.level = level;
        self.settled = 0;
    }

    fn assign(&mut self, literal: Literal, reason: Option<usize>) {
        let index = literal.name.index();
        if self.values.len() <= index {
            self.values.resize(index + 1, None);
        }
        self.values[index] = Some(Value { is_chosen: literal.is_chosen, level: self.level, reason });
        self.trail.push(literal.name);
    }

    fn value(&self, name: Name) -> Option<bool> {
        self.values.get(name.index()).copied().flatten().map(|value| value.is_chosen)
    }

    fn level_of(&self, name: Name) -> usize {
        self.values[name.index()].map_or(0, |value| value.level)
    }

    /// The facts that a conflict without any decision rests on.
    fn explain(&mut self, broken: usize) -> Unresolvable {
        let mut facts = Vec::new();
        let mut seen = HashSet::from([broken]);
        let mut todo = vec![broken];
        while let Some(number) = todo.pop() {
            let clause = &self.clauses[number];
            let reasons = clause.literals.iter().filter_map(|literal| {
                let value = self.values.get(literal.name.index()).copied().flatten();
                value.and_then(|value| value.reason)
            });
            let mut next: Vec<usize> = reasons.collect();
            match &clause.origin {
                Origin::Fact(fact) => facts.push(*fact),
                Origin::Learned(from) => next.extend(from),
            }
            todo.extend(next.into_iter().filter(|number| seen.insert(*number)));
        }
        explain(self.catalog, &facts)
    }
}
