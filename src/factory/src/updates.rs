//! What has become newer than an image, and the lock that takes it in.
//!
//! [`compare`] lists what would be chosen now instead of what the image has; [`only_security`] makes a lock that differs
//! from the image's by security updates alone, and by what these need. Both are pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use knarr_bootstrap::lock::{Lock, LockedPackage, LockedRelease};
use knarr_bootstrap::plan::{Facts, Survey};
use knarr_deb::relation::{Relation, parse_relations};
use knarr_deb::version;
use knarr_mirror::suite::Suite;
use serde::Serialize;

use crate::FactoryError;

/// A package of which there is a newer version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Its name.
    pub package: String,
    /// Its architecture, `all` included.
    pub architecture: String,
    /// What the image has.
    pub installed: String,
    /// What would be chosen now.
    pub candidate: String,
    /// The suites that offer it.
    pub origin: Vec<String>,
    /// Whether one of them is for security updates.
    pub security: bool,
    /// The source package, by which advisories name it.
    pub source: String,
}

type Key<'a> = (&'a str, &'a str);

fn key(package: &LockedPackage) -> Key<'_> {
    (&package.name, &package.architecture)
}

/// Lists all that is newer, by name.
#[must_use]
pub fn compare(old: &Lock, now: &Survey, suite: &Suite) -> Vec<Update> {
    let installed: BTreeMap<Key<'_>, &LockedPackage> =
        old.packages.iter().map(|package| (key(package), package)).collect();
    let pairs = now.lock.packages.iter().zip(&now.facts);
    let newer = pairs.filter_map(|(package, facts)| {
        let installed = installed.get(&key(package))?;
        if version::compare(&package.version, &installed.version) != Ordering::Greater {
            return None;
        }
        let releases: Vec<&LockedRelease> =
            facts.releases.iter().filter_map(|number| now.lock.releases.get(*number)).collect();
        let mut origin: Vec<String> = releases.iter().map(|release| release.suite.clone()).collect();
        origin.dedup();
        Some(Update {
            package: package.name.clone(),
            architecture: package.architecture.clone(),
            installed: installed.version.clone(),
            candidate: package.version.clone(),
            security: releases.iter().any(|release| is_security(release, suite)),
            origin,
            source: facts.source.clone(),
        })
    });
    newer.collect()
}

fn is_security(release: &LockedRelease, suite: &Suite) -> bool {
    let pocket = suite.pockets.iter().find(|pocket| pocket.suite == release.suite);
    pocket.is_some_and(|pocket| pocket.name == "security") || release.suite.ends_with("-security")
}

/// The old lock with security updates, and with what they need.
pub fn only_security(old: &Lock, now: &Survey, suite: &Suite) -> Result<Lock, FactoryError> {
    let updates = compare(old, now, suite);
    // What was built together is updated together.
    let sources: BTreeSet<&str> =
        updates.iter().filter(|update| update.security).map(|update| update.source.as_str()).collect();
    let mut mix = Mix::new(old, now);
    for (position, facts) in now.facts.iter().enumerate() {
        let updated = updates
            .iter()
            .any(|update| key(&now.lock.packages[position]) == (&update.package, &update.architecture));
        if updated && sources.contains(facts.source.as_str()) {
            mix.taken.insert(position);
        }
    }
    mix.close()?;
    Ok(if mix.taken.is_empty() { old.clone() } else { mix.lock() })
}

/// Packages of the old lock and of the new one.
struct Mix<'a> {
    old: &'a Lock,
    now: &'a Survey,
    /// Positions in the new lock of what is taken from it.
    taken: BTreeSet<usize>,
}

impl<'a> Mix<'a> {
    const fn new(old: &'a Lock, now: &'a Survey) -> Self {
        Self { old, now, taken: BTreeSet::new() }
    }

    /// Takes what the taken need until nothing is missing and nothing is in the way.
    fn close(&mut self) -> Result<(), FactoryError> {
        let mut waiting: Vec<usize> = self.taken.iter().copied().collect();
        while let Some(position) = waiting.pop() {
            let facts = &self.now.facts[position];
            let mut more = self.missing(facts)?;
            more.extend(self.broken(facts)?);
            waiting.extend(more.into_iter().filter(|needed| self.taken.insert(*needed)));
        }
        Ok(())
    }

    /// What satisfies needs that the mix does not.
    fn missing(&self, facts: &Facts) -> Result<Vec<usize>, FactoryError> {
        let mut needed = Vec::new();
        for group in parse_relations(&facts.depends)? {
            if group.iter().any(|relation| self.has(relation)) {
                continue;
            }
            let all = 0..self.now.facts.len();
            needed
                .extend(all.filter(|position| group.iter().any(|relation| self.offers(*position, relation))));
        }
        Ok(needed)
    }

    /// Newer versions of what is in the way.
    fn broken(&self, facts: &Facts) -> Result<Vec<usize>, FactoryError> {
        let mut needed = Vec::new();
        for relation in parse_relations(&facts.breaks)?.into_iter().flatten() {
            let hit = self.kept().any(|package| fits(&package.name, &package.version, &relation));
            let newer = |position: &usize| self.now.lock.packages[*position].name == relation.name;
            if hit {
                needed.extend((0..self.now.facts.len()).filter(newer));
            }
        }
        Ok(needed)
    }

    /// Packages of the old lock that stay.
    fn kept(&self) -> impl Iterator<Item = &'a LockedPackage> + '_ {
        let taken: BTreeSet<Key<'_>> =
            self.taken.iter().map(|position| key(&self.now.lock.packages[*position])).collect();
        self.old.packages.iter().filter(move |package| !taken.contains(&key(package)))
    }

    fn has(&self, relation: &Relation<'_>) -> bool {
        if self.old.assume.iter().any(|name| name == relation.name) {
            return true;
        }
        // What an old package stands for is not in its lock: the same version of today tells it.
        let same = |package: &LockedPackage| {
            let now = self.now.lock.packages.iter().position(|now| key(now) == key(package));
            now.is_some_and(|now| provides(&self.now.facts[now], relation))
        };
        self.kept().any(|package| fits(&package.name, &package.version, relation) || same(package))
            || self.taken.iter().any(|position| self.offers(*position, relation))
    }

    fn offers(&self, position: usize, relation: &Relation<'_>) -> bool {
        let package = &self.now.lock.packages[position];
        fits(&package.name, &package.version, relation) || provides(&self.now.facts[position], relation)
    }

    fn lock(&self) -> Lock {
        let mut lock = self.old.clone();
        let offset = lock.releases.len();
        lock.releases.extend(self.now.lock.releases.iter().cloned());
        lock.packages = self.kept().cloned().collect();
        for position in &self.taken {
            let new = &self.now.lock.packages[*position];
            let mut taken = LockedPackage { release: new.release + offset, ..new.clone() };
            // Who asked for it has not changed.
            if let Some(known) = self.old.packages.iter().find(|known| key(known) == key(new)) {
                (taken.base, taken.automatic) = (known.base, known.automatic);
            }
            lock.packages.push(taken);
        }
        lock.packages.sort_by(|a, b| key(a).cmp(&key(b)));
        drop_unused_releases(&mut lock);
        lock.time = lock.releases.iter().map(|release| release.date).max().unwrap_or(lock.time);
        lock
    }
}

fn fits(name: &str, version: &str, relation: &Relation<'_>) -> bool {
    let holds = relation.constraint.is_none_or(|(operator, wanted)| operator.holds(version, wanted));
    name == relation.name && holds
}

fn provides(facts: &Facts, relation: &Relation<'_>) -> bool {
    // What was chosen was parsed before; an unreadable field provides nothing.
    let provided = parse_relations(&facts.provides).unwrap_or_default();
    provided.iter().flatten().any(|provided| {
        let versions = (relation.constraint, provided.constraint);
        provided.name == relation.name
            && match versions {
                (None, _) => true,
                (Some(_), None) => false,
                (Some((operator, wanted)), Some((_, version))) => operator.holds(version, wanted),
            }
    })
}

/// Releases that no package is of any more, and those that are there twice, go.
fn drop_unused_releases(lock: &mut Lock) {
    let used: BTreeSet<usize> = lock.packages.iter().map(|package| package.release).collect();
    let mut kept: Vec<LockedRelease> = Vec::new();
    let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, release) in lock.releases.iter().enumerate() {
        let known = kept.iter().position(|known| known == release);
        // A repository stays although nothing is of it: the recipe names it.
        if known.is_none() && !used.contains(&number) && release.repository.is_empty() {
            continue;
        }
        let position = known.unwrap_or_else(|| {
            kept.push(release.clone());
            kept.len() - 1
        });
        moved.insert(number, position);
    }
    for package in &mut lock.packages {
        package.release = moved.get(&package.release).copied().unwrap_or(package.release);
    }
    lock.releases = kept;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use knarr_bootstrap::lock::Lock;
    use knarr_bootstrap::plan::{Facts, Survey};
    use knarr_mirror::suite::Suite;

    use super::{compare, only_security};

    fn lock(releases: &[&str], packages: &[(&str, &str, usize)]) -> Lock {
        let mut text =
            "version = 1\nsuite = \"x\"\narchitecture = \"amd64\"\nvariant = \"custom\"\ntime = 1\n"
                .to_owned();
        for suite in releases {
            text += &format!(
                "[[release]]\nsuite = \"{suite}\"\nmirrors = []\ncomponents = []\ndate = 5\ndigest = \"{:064}\"\n",
                suite.len()
            );
        }
        for (name, version, release) in packages {
            text += &format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\narchitecture = \"amd64\"\nrelease = {release}\npath = \"p\"\nsize = 1\nsha256 = \"{:064}\"\n",
                0
            );
        }
        Lock::parse(Path::new("test"), &text).unwrap()
    }

    fn facts(releases: &[usize], source: &str, depends: &str, breaks: &str) -> Facts {
        Facts {
            releases: releases.to_vec(),
            source: source.to_owned(),
            depends: depends.to_owned(),
            breaks: breaks.to_owned(),
            provides: String::new(),
        }
    }

    #[test]
    fn security_updates_bring_what_they_need_and_nothing_else() {
        let old = lock(&["x"], &[("a", "1", 0), ("b", "1", 0), ("c", "1", 0), ("d", "1", 0), ("e", "1", 0)]);
        let now = Survey {
            lock: lock(
                &["x", "x-security"],
                &[("a", "2", 1), ("b", "2", 0), ("c", "2", 0), ("d", "2", 0), ("e", "2", 0), ("f", "1", 0)],
            ),
            facts: vec![
                facts(&[1], "a", "b (>= 2), f", "c (<< 2)"),
                facts(&[0], "b", "", ""),
                facts(&[0], "c", "", ""),
                facts(&[0], "d", "", ""),
                // Built with a: no security update of its own, but of the same source.
                facts(&[0], "a", "", ""),
                facts(&[0], "f", "", ""),
            ],
        };
        let suite = Suite::find("sid").unwrap();
        let updates = compare(&old, &now, &suite);
        let secure: Vec<_> =
            updates.iter().filter(|update| update.security).map(|one| one.package.as_str()).collect();
        assert_eq!((updates.len(), secure), (5, vec!["a"]));
        let new = only_security(&old, &now, &suite).unwrap();
        let versions: Vec<_> =
            new.packages.iter().map(|one| format!("{}{}", one.name, one.version)).collect();
        assert_eq!(versions, ["a2", "b2", "c2", "d1", "e2", "f1"]);
        assert_eq!(new.releases[new.packages[0].release].suite, "x-security");
        assert_eq!(
            new.releases.iter().map(|one| one.suite.as_str()).collect::<Vec<_>>(),
            ["x", "x-security"]
        );
    }

    #[test]
    fn older_and_equal_versions_are_no_updates() {
        let old = lock(&["x"], &[("a", "2", 0), ("b", "1", 0)]);
        let now = Survey {
            lock: lock(&["x"], &[("a", "1", 0), ("b", "1", 0)]),
            facts: vec![Facts::default(), Facts::default()],
        };
        assert_eq!(compare(&old, &now, &Suite::find("sid").unwrap()), []);
        assert_eq!(only_security(&old, &now, &Suite::find("sid").unwrap()).unwrap(), old);
    }
}
