//! One recipe over another, and a recipe for one target.
//!
//! A single value of the upper one wins; lists are added to the lower one's, maps key by key. A package with
//! `-` behind its name is taken out of what the lower one has.

use std::collections::BTreeMap;

use crate::recipe::{DevTable, ImageTable, Mode, ProductionTable, Recipe, TargetName};

impl Recipe {
    /// This recipe over `base`; what it extends is `base`'s.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            // A name, a description: these are of one recipe, not of those that extend it.
            name: self.name,
            description: self.description.or(base.description),
            extends: base.extends,
            suite: self.suite.or(base.suite),
            platforms: if self.platforms.is_empty() { base.platforms } else { self.platforms },
            target: self.target.or(base.target),
            packages: packages(base.packages, self.packages),
            exclude: append(base.exclude, self.exclude),
            components: if self.components.is_empty() { base.components } else { self.components },
            repositories: append(base.repositories, self.repositories),
            drop: append(base.drop, self.drop),
            keep: append(base.keep, self.keep),
            recommends: self.recommends.or(base.recommends),
            pins: maps(base.pins, self.pins),
            locales: append(base.locales, self.locales),
            timezone: self.timezone.or(base.timezone),
            certificates: self.certificates.or(base.certificates),
            extra_certificates: append(base.extra_certificates, self.extra_certificates),
            users: append(base.users, self.users),
            groups: append(base.groups, self.groups),
            files: append(base.files, self.files),
            copies: append(base.copies, self.copies),
            runs: append(base.runs, self.runs),
            stages: maps(base.stages, self.stages),
            image: options(base.image, self.image, ImageTable::over),
            verifies: append(base.verifies, self.verifies),
            dev: boxes(base.dev, self.dev, DevTable::over),
            production: boxes(base.production, self.production, ProductionTable::over),
        }
    }

    /// The target that is built when nobody says which.
    #[must_use]
    pub fn default_target(&self) -> TargetName {
        match (self.target, &self.dev, &self.production) {
            (Some(target), ..) => target,
            (None, Some(_), None) => TargetName::Dev,
            (None, None, None) => TargetName::Base,
            (None, ..) => TargetName::Production,
        }
    }

    /// How much of it a production image leaves out.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.production.as_ref().and_then(|table| table.mode).unwrap_or_default()
    }

    /// The recipe of one target: what its table adds is in the common keys.
    #[must_use]
    pub fn for_target(mut self, target: TargetName) -> Self {
        self.target = Some(target);
        match target {
            TargetName::Dev => {
                let table = self.dev.get_or_insert_default();
                self.packages = packages(self.packages, std::mem::take(&mut table.packages));
                self.files.append(&mut table.files);
                self.runs.append(&mut table.runs);
                // What holds in production is no promise of a container to work in.
                self.verifies = std::mem::take(&mut table.verifies);
                self.image = options(self.image.take(), table.image.take(), ImageTable::over);
            }
            TargetName::Production => {
                let table = self.production.get_or_insert_default();
                self.packages = packages(self.packages, std::mem::take(&mut table.packages));
                self.files.append(&mut table.files);
                self.verifies.append(&mut table.verifies);
                self.keep.append(&mut table.keep);
                self.drop.append(&mut table.drop);
                self.image = options(self.image.take(), table.image.take(), ImageTable::over);
            }
            TargetName::Base => {}
        }
        self
    }
}

impl ImageTable {
    fn over(self, base: Self) -> Self {
        // Arguments belong to their program: a new entrypoint does not get the old one's.
        let cmd = if self.entrypoint.is_some() { self.cmd } else { self.cmd.or(base.cmd) };
        Self {
            env: maps(base.env, self.env),
            entrypoint: self.entrypoint.or(base.entrypoint),
            cmd,
            labels: maps(base.labels, self.labels),
            ports: append(base.ports, self.ports),
            volumes: append(base.volumes, self.volumes),
            workdir: self.workdir.or(base.workdir),
            user: self.user.or(base.user),
            stop_signal: self.stop_signal.or(base.stop_signal),
            healthcheck: self.healthcheck.or(base.healthcheck),
        }
    }
}

impl DevTable {
    fn over(self, base: Self) -> Self {
        Self {
            packages: packages(base.packages, self.packages),
            runs: append(base.runs, self.runs),
            files: append(base.files, self.files),
            image: options(base.image, self.image, ImageTable::over),
            user: self.user.or(base.user),
            verifies: append(base.verifies, self.verifies),
            customizations: maps(base.customizations, self.customizations),
        }
    }
}

impl ProductionTable {
    fn over(self, base: Self) -> Self {
        Self {
            mode: self.mode.or(base.mode),
            packages: packages(base.packages, self.packages),
            files: append(base.files, self.files),
            image: options(base.image, self.image, ImageTable::over),
            assume: append(base.assume, self.assume),
            keep: append(base.keep, self.keep),
            drop: append(base.drop, self.drop),
            debug: self.debug.or(base.debug),
            copyright: self.copyright.or(base.copyright),
            verifies: append(base.verifies, self.verifies),
        }
    }
}

/// One list of packages over another.
#[must_use]
pub fn packages(base: Vec<String>, over: Vec<String>) -> Vec<String> {
    let mut all = base;
    for name in over {
        match name.strip_suffix('-') {
            Some(gone) if all.iter().any(|known| known == gone) => all.retain(|known| known != gone),
            None if all.contains(&name) => {}
            // One that is not there may be among those that the target brings.
            _ => all.push(name),
        }
    }
    all
}

fn append<T>(mut base: Vec<T>, mut over: Vec<T>) -> Vec<T> {
    base.append(&mut over);
    base
}

fn maps<K: Ord, V>(mut base: BTreeMap<K, V>, over: BTreeMap<K, V>) -> BTreeMap<K, V> {
    base.extend(over);
    base
}

fn options<T>(base: Option<T>, over: Option<T>, merge: impl Fn(T, T) -> T) -> Option<T> {
    match (over, base) {
        (Some(over), Some(base)) => Some(merge(over, base)),
        (over, base) => over.or(base),
    }
}

fn boxes<T>(base: Option<Box<T>>, over: Option<Box<T>>, merge: impl Fn(T, T) -> T) -> Option<Box<T>> {
    options(base, over, |over, base| Box::new(merge(*over, *base)))
}
