//! The walk: apt's own way from what is asked for to everything that comes along.
//!
//! [`Walk`] does what `pkgDepCache::MarkInstall` does, in the same order, because the order decides:
//! an alternative that is chosen already satisfies a relation that is looked at later. It never
//! takes back more than apt does, so it may end with something broken; [`super::search`] goes on
//! from there.
//!
//! Spec: apt-pkg/depcache.cc of apt 3.0, `MarkInstall` and what it calls.

use std::collections::HashSet;
use std::rc::Rc;

use super::catalog::{Catalog, Group, Name, Needs, Term, Version};
use super::preference;

/// What the walk has decided, package by package.
pub(super) struct Walk<'c, 'u, 'a> {
    catalog: &'c mut Catalog<'u, 'a>,
    states: Vec<State>,
}

/// apt's `StateCache`. Without upgrades, `chosen` is the installed version, the candidate or none.
#[derive(Clone, Copy, Default)]
struct State {
    chosen: Option<Version>,
    /// apt's `ModeInstall`; otherwise the package is kept as it is: there or not there.
    is_marked: bool,
    /// Later steps may not change the mark.
    is_protected: bool,
    /// Its candidate was tried, or is in the way, and counts no more.
    is_discarded: bool,
}

/// A package whose dependencies are being met.
struct Visit {
    name: Name,
    needs: Rc<Needs>,
    /// Positions in `needs.groups` that were not satisfied at the start, in reverse.
    open: Vec<usize>,
    current: Option<Choice>,
    was_protected: bool,
    by_user: bool,
    has_failed: bool,
}

/// A group for which solutions are tried, one by one.
struct Choice {
    group: usize,
    /// The best is last.
    solutions: Vec<Version>,
    waits_for: WaitsFor,
}

enum WaitsFor {
    /// The only solution to be marked, without its dependencies, so that it can be protected.
    Mark(Version),
    /// A solution with its dependencies.
    Solution,
    /// The dependencies of what satisfies the group already to be protected.
    Protection,
}

enum Entry {
    Done(bool),
    Open(Box<Visit>),
}

enum Next {
    Install { name: Name, follow: bool },
    Done(bool),
}

impl<'c, 'u, 'a> Walk<'c, 'u, 'a> {
    pub(super) fn new(catalog: &'c mut Catalog<'u, 'a>) -> Self {
        let mut walk = Self { catalog, states: Vec::new() };
        for id in &walk.catalog.request().installed {
            let version = walk.catalog.version_of(*id);
            let name = walk.catalog.name_of(version);
            walk.state(name).chosen = Some(version);
        }
        walk
    }

    /// Marks everything that is asked for, then follows the dependencies of each.
    pub(super) fn run(&mut self, roots: &[Version]) {
        let names: Vec<Name> = roots.iter().map(|root| self.catalog.name_of(*root)).collect();
        for &name in &names {
            self.state(name).is_protected = true;
            self.install(name, false);
        }
        for name in names {
            self.install(name, true);
        }
    }

    /// What was chosen and what is installed, unless something is broken or missing.
    pub(super) fn finish(mut self, roots: &[Version]) -> Option<HashSet<Version>> {
        let names: Vec<Name> = (0..self.states.len()).map(Name::from_index).collect();
        let has_all = roots.iter().all(|&root| self.is_chosen(root));
        let is_sound = !names.iter().any(|name| self.is_broken(*name, Strictness::Hard));
        let chosen = self.states.iter().filter_map(|state| state.chosen);
        (has_all && is_sound).then(|| chosen.collect())
    }

    /// A user's request for a package, with or without its dependencies.
    fn install(&mut self, name: Name, follow: bool) -> bool {
        let mut visits = Vec::new();
        let mut outcome = match self.enter(name, follow, true) {
            Entry::Done(outcome) => return outcome,
            Entry::Open(visit) => {
                visits.push(visit);
                false
            }
        };
        while let Some(visit) = visits.last_mut() {
            match self.advance(visit, outcome) {
                Next::Install { name, follow } => match self.enter(name, follow, false) {
                    Entry::Done(done) => outcome = done,
                    Entry::Open(visit) => visits.push(visit),
                },
                Next::Done(done) => {
                    outcome = done;
                    visits.pop();
                }
            }
        }
        outcome
    }

    /// `MarkInstall` up to the point where dependencies are installed.
    fn enter(&mut self, name: Name, follow: bool, by_user: bool) -> Entry {
        let state = *self.state(name);
        let installed = self.catalog.installed(name);
        let candidate = self.candidate(name);
        let only_protects =
            state.is_protected && !state.is_marked && candidate.is_some() && candidate == installed;
        if state.is_protected && !state.is_marked && !by_user && !only_protects {
            return Entry::Done(false);
        }
        let Some(version) = candidate else { return Entry::Done(false) };
        if !state.is_protected
            && (installed == candidate || state.is_marked)
            && !self.is_broken(name, Strictness::Policy)
        {
            return Entry::Done(true);
        }
        if follow && !self.can_be_met(name, version) {
            return Entry::Done(false);
        }
        if by_user {
            self.choose(name, version);
        }
        let mut has_failed = false;
        let mut open = Vec::new();
        let needs = self.catalog.needs(version);
        if follow {
            open = self.open_groups(&needs, state.is_protected);
            if !self.clear_conflicts(version, &needs, state.is_protected, by_user) {
                if !state.is_protected && !by_user {
                    return Entry::Done(false);
                }
                has_failed = true;
            }
        }
        if !by_user {
            self.choose(name, version);
        }
        if !follow {
            return Entry::Done(!has_failed);
        }
        let was_protected = std::mem::replace(&mut self.state(name).is_protected, true);
        let current = None;
        Entry::Open(Box::new(Visit { name, needs, open, current, was_protected, by_user, has_failed }))
    }

    /// One step of `MarkInstall_InstallDependencies`; `outcome` is that of the step before.
    fn advance(&mut self, visit: &mut Visit, outcome: bool) -> Next {
        if let Some(choice) = visit.current.take()
            && let Some(next) = self.judge(visit, choice, outcome)
        {
            return next;
        }
        while let Some(group) = visit.open.pop() {
            if let Some(next) = self.begin(visit, group) {
                return next;
            }
            if visit.has_failed && !visit.was_protected && !visit.by_user {
                break;
            }
        }
        self.leave(visit)
    }

    /// Looks at what became of an attempt to satisfy a group.
    fn judge(&mut self, visit: &mut Visit, choice: Choice, outcome: bool) -> Option<Next> {
        match choice.waits_for {
            WaitsFor::Protection => {
                visit.has_failed |= !outcome;
                None
            }
            WaitsFor::Mark(version) if outcome => {
                let name = self.catalog.name_of(version);
                self.state(name).is_protected = true;
                visit.current = Some(Choice { waits_for: WaitsFor::Solution, ..choice });
                Some(Next::Install { name, follow: true })
            }
            WaitsFor::Solution if outcome => None,
            WaitsFor::Mark(_) | WaitsFor::Solution => self.try_next(visit, choice.group, choice.solutions),
        }
        .or_else(|| {
            let stops = visit.has_failed && !visit.was_protected && !visit.by_user;
            stops.then(|| self.leave(visit))
        })
    }

    fn begin(&mut self, visit: &mut Visit, position: usize) -> Option<Next> {
        let needs = Rc::clone(&visit.needs);
        let group = &needs.groups[position];
        if self.is_satisfied(group) {
            return if visit.was_protected && group.hard { self.protect(visit, position) } else { None };
        }
        let mut solutions = self.solutions(group);
        solutions.reverse();
        if let [only] = solutions[..]
            && visit.was_protected
            && group.hard
        {
            visit.current =
                Some(Choice { group: position, solutions: Vec::new(), waits_for: WaitsFor::Mark(only) });
            return Some(Next::Install { name: self.catalog.name_of(only), follow: false });
        }
        self.try_next(visit, position, solutions)
    }

    fn try_next(&mut self, visit: &mut Visit, group: usize, mut solutions: Vec<Version>) -> Option<Next> {
        while let Some(solution) = solutions.pop() {
            let name = self.catalog.name_of(solution);
            // An attempt before this one may have used up the candidate.
            if self.candidate(name) == Some(solution) {
                visit.current = Some(Choice { group, solutions, waits_for: WaitsFor::Solution });
                return Some(Next::Install { name, follow: true });
            }
        }
        visit.has_failed |= visit.needs.groups[group].hard;
        None
    }

    /// Hands the protection of a package on to the only one that can satisfy a group of its.
    fn protect(&mut self, visit: &mut Visit, position: usize) -> Option<Next> {
        let needs = Rc::clone(&visit.needs);
        let [only] = self.possible(&needs.groups[position])[..] else { return None };
        let name = self.catalog.name_of(only);
        if self.state(name).is_protected {
            return None;
        }
        self.state(name).is_protected = true;
        visit.current =
            Some(Choice { group: position, solutions: Vec::new(), waits_for: WaitsFor::Protection });
        Some(Next::Install { name, follow: true })
    }

    /// The end of `MarkInstall`: a package whose dependencies cannot be met is taken back.
    fn leave(&mut self, visit: &Visit) -> Next {
        self.state(visit.name).is_protected = visit.was_protected;
        if visit.has_failed && !visit.was_protected && !visit.by_user {
            self.unmark(visit.name);
            self.discard(visit.name);
        }
        Next::Done(!visit.has_failed)
    }

    /// The groups to look at, in reverse. A protected package looks at all, to protect what it needs.
    fn open_groups(&mut self, needs: &Needs, is_protected: bool) -> Vec<usize> {
        let wanted = |group: &Group, walk: &mut Self| is_protected || !walk.is_satisfied(group);
        (0..needs.groups.len()).rev().filter(|&position| wanted(&needs.groups[position], self)).collect()
    }

    /// `MarkInstall_RemoveConflictsIfNotUpgradeable`: takes out of the way what may be taken.
    fn clear_conflicts(
        &mut self,
        version: Version,
        needs: &Needs,
        is_protected: bool,
        by_user: bool,
    ) -> bool {
        let mut is_clear = true;
        for &term in &needs.conflicts {
            let enemies = self.catalog.enemies(version, term);
            if !is_protected && !enemies.iter().any(|enemy| self.is_chosen(*enemy)) {
                continue;
            }
            for enemy in enemies {
                let name = self.catalog.name_of(enemy);
                if self.candidate(name) != Some(enemy) {
                    continue;
                }
                // What is installed stays.
                if self.catalog.installed(name).is_some() || !self.keep(name) {
                    is_clear = false;
                } else if is_protected {
                    self.discard(name);
                    self.state(name).is_protected = true;
                }
                if !is_clear && !is_protected && !by_user {
                    return false;
                }
            }
        }
        is_clear
    }

    /// `MarkKeep`: whether a package that is not installed can stay so.
    fn keep(&mut self, name: Name) -> bool {
        let state = *self.state(name);
        if state.is_marked && !state.is_protected {
            self.unmark(name);
        }
        !state.is_marked || !state.is_protected
    }

    fn choose(&mut self, name: Name, version: Version) {
        let is_installed = self.catalog.installed(name).is_some();
        let state = self.state(name);
        state.chosen = Some(version);
        state.is_marked = !is_installed;
    }

    fn unmark(&mut self, name: Name) {
        let installed = self.catalog.installed(name);
        let state = self.state(name);
        state.is_marked = false;
        state.chosen = installed;
    }

    fn discard(&mut self, name: Name) {
        let state = self.state(name);
        state.is_discarded = state.chosen.is_none();
    }

    /// `IsInstallOkDependenciesSatisfiableByCandidates`: a version that needs what cannot be had is
    /// no candidate any more.
    fn can_be_met(&mut self, name: Name, version: Version) -> bool {
        if self.catalog.installed(name) == Some(version) {
            return true;
        }
        let needs = self.catalog.needs(version);
        let mut hard = needs.groups.iter().filter(|group| group.hard);
        let can_be_met = hard.all(|group| self.is_satisfied(group) || self.has_candidate(group));
        if !can_be_met && !self.state(name).is_protected {
            self.unmark(name);
            self.discard(name);
        }
        can_be_met
    }

    fn has_candidate(&mut self, group: &Group) -> bool {
        group.terms.iter().any(|term| {
            let targets = self.catalog.targets(*term);
            targets.iter().any(|target| self.is_candidate(*target))
        })
    }

    fn is_satisfied(&mut self, group: &Group) -> bool {
        group
            .terms
            .iter()
            .any(|term| self.catalog.targets(*term).iter().any(|target| self.is_chosen(*target)))
    }

    fn is_broken(&mut self, name: Name, strictness: Strictness) -> bool {
        let Some(version) = self.state(name).chosen else { return false };
        let needs = self.catalog.needs(version);
        let counts = |group: &&Group| group.hard || strictness == Strictness::Policy;
        let lacks = needs.groups.iter().filter(counts).any(|group| !self.is_satisfied(group));
        let is_attacked = |term: &Term, walk: &mut Self| {
            walk.catalog.enemies(version, *term).iter().any(|enemy| walk.is_chosen(*enemy))
        };
        lacks || needs.conflicts.iter().any(|term| is_attacked(term, self))
    }

    /// Candidates that satisfy a group, the first to try in front: what is installed, then the
    /// alternatives in their order.
    fn solutions(&mut self, group: &Group) -> Vec<Version> {
        let (mut installed, mut fresh) = (Vec::new(), Vec::new());
        for &term in &group.terms {
            let targets = self.catalog.targets(term);
            let mut found: Vec<Version> =
                targets.iter().copied().filter(|target| self.is_candidate(*target)).collect();
            let states = &self.states;
            let catalog = &self.catalog;
            let is_protected = |version: Version| {
                states.get(catalog.name_of(version).index()).is_some_and(|state| state.is_protected)
            };
            preference::sort(catalog, &mut found, catalog.relation(term).name, is_protected);
            let is_installed = |version: &Version| catalog.installed(catalog.name_of(*version)).is_some();
            let (old, new): (Vec<Version>, Vec<Version>) = found.into_iter().partition(is_installed);
            installed.extend(old);
            fresh.extend(new);
        }
        installed.extend(fresh);
        self.without_hopeless(installed)
    }

    /// Candidates and installed versions that satisfy a group, in no order.
    fn possible(&mut self, group: &Group) -> Vec<Version> {
        let mut possible = Vec::new();
        for &term in &group.terms {
            let targets = self.catalog.targets(term);
            possible.extend(targets.iter().copied().filter(|target| self.is_candidate(*target)));
        }
        self.without_hopeless(possible)
    }

    /// Without repetitions and without what was decided against for good.
    fn without_hopeless(&mut self, mut versions: Vec<Version>) -> Vec<Version> {
        let mut seen = HashSet::new();
        versions.retain(|version| {
            let name = self.catalog.name_of(*version);
            let state = *self.state(name);
            let is_hopeless =
                state.is_protected && !state.is_marked && self.catalog.installed(name).is_none();
            !is_hopeless && seen.insert(*version)
        });
        versions
    }

    fn is_candidate(&mut self, version: Version) -> bool {
        self.candidate(self.catalog.name_of(version)) == Some(version)
    }

    fn is_chosen(&self, version: Version) -> bool {
        let state = self.states.get(self.catalog.name_of(version).index());
        state.is_some_and(|state| state.chosen == Some(version))
    }

    fn candidate(&mut self, name: Name) -> Option<Version> {
        if self.state(name).is_discarded { None } else { self.catalog.candidate(name) }
    }

    fn state(&mut self, name: Name) -> &mut State {
        if self.states.len() <= name.index() {
            self.states.resize(name.index() + 1, State::default());
        }
        &mut self.states[name.index()]
    }
}

/// Which dependencies count when asking whether a package is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// `Depends` and `Pre-Depends`.
    Hard,
    /// `Recommends` too, where they are followed.
    Policy,
}
