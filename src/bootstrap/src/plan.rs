//! The plan: which packages, from where, as a lock.
//!
//! [`resolve`] asks the mirrors and answers with a [`Lock`]; a lock that is there already needs no
//! mirror at all.

use std::collections::{HashMap, HashSet};

use knarr_base::{Digest, Timestamp};
use knarr_deb::packages::PackagesIndex;
use knarr_deb::relation::parse_relations;
use knarr_deb::resolve::{self as solver, PackageId, Request, Solution, Universe};
use knarr_mirror::release::{Source, VerifiedRelease};
use knarr_mirror::suite::{Role, builtin_keyring};
use knarr_mirror::{Mirror, MirrorError};
use knarr_pgp::Keyring;

use crate::lock::{LOCK_VERSION, Lock, LockedPackage, LockedRelease};
use crate::options::Options;
use crate::{BootstrapError, Progress};

/// The releases that a bootstrap draws on, without their keys checked yet: the suite's own, then those
/// of each repository.
pub fn sources(options: &Options) -> Result<Vec<Source>, BootstrapError> {
    let keyring = keyring(options)?;
    let mut sources = if options.only_repositories { Vec::new() } else { own_sources(options, &keyring) };
    for repository in &options.repositories {
        let own = repository.keyring(&keyring, &options.key_directories)?;
        if own.is_empty() {
            return Err(BootstrapError::NoKeys { place: repository.place.clone() });
        }
        sources.extend(repository.sources(options.architecture, &own));
    }
    if sources.is_empty() {
        let architecture = options.architecture;
        return Err(BootstrapError::Request(format!("no repository that was named is for {architecture}")));
    }
    Ok(sources)
}

fn own_sources(options: &Options, keyring: &Keyring) -> Vec<Source> {
    let suite = &options.suite;
    let source = |mirrors: &[String], name: &str| Source {
        mirrors: mirrors.to_vec(),
        suite: name.to_owned(),
        components: options.components.clone(),
        keyring: keyring.clone(),
        ..Source::default()
    };
    let main = if options.mirrors.is_empty() { &options.main_mirrors } else { &options.mirrors };
    let mut sources = vec![source(main, &suite.name)];
    for pocket in suite.pockets.iter().filter(|pocket| options.pockets.contains(&pocket.name)) {
        let mirrors = match pocket.mirror {
            Role::Main => main,
            Role::Security => &options.security_mirrors,
        };
        sources.push(source(mirrors, &pocket.suite));
    }
    sources
}

/// The keys of the suite's own mirrors.
pub(crate) fn keyring(options: &Options) -> Result<Keyring, BootstrapError> {
    let mut keyring = Keyring::default();
    let pgp = |error| BootstrapError::Mirror(MirrorError::Keyring(error));
    for path in &options.keyrings {
        keyring.add_file(path).map_err(pgp)?;
    }
    if !options.keyrings.is_empty() {
        return Ok(keyring);
    }
    for name in &options.suite.keyrings {
        match builtin_keyring(name) {
            Some(bytes) => keyring.add_bytes(name, bytes).map_err(pgp)?,
            None => keyring.add_file(name.as_ref()).map_err(pgp)?,
        }
    }
    Ok(keyring)
}

/// Asks the mirrors and chooses packages.
pub fn resolve(options: &Options, mirror: &Mirror, progress: &dyn Progress) -> Result<Lock, BootstrapError> {
    let sources = sources(options)?;
    let offers = fetch_offers(options, mirror, &sources)?;
    let mut universe = Universe::new(options.architecture);
    let mut origin = Vec::new();
    for (number, (release, indices)) in offers.iter().enumerate() {
        release.warnings().iter().for_each(|warning| progress.warn(warning));
        for (component, index) in indices {
            universe.add(
                index,
                pin_of(options, release),
                &format!("{}/{component}", release.source().label()),
            );
            origin.push(number);
        }
    }
    let releases: Vec<&VerifiedRelease> = offers.iter().map(|(release, _)| release).collect();
    choose(options, &universe, &origin, &releases)
}

/// What was asked for the suite, or what it says of itself.
fn pin_of(options: &Options, release: &VerifiedRelease) -> i32 {
    let names = [
        release.source().suite.as_str(),
        release.release().suite.as_str(),
        release.release().codename.as_str(),
    ];
    let asked = options.pins.iter().rev().find(|(name, _)| names.contains(&name.as_str()));
    asked.map_or_else(|| release.pin(), |(_, pin)| *pin)
}

type Offer = (VerifiedRelease, Vec<(String, PackagesIndex)>);

/// All releases and their indices, fetched side by side.
fn fetch_offers(
    options: &Options,
    mirror: &Mirror,
    sources: &[Source],
) -> Result<Vec<Offer>, BootstrapError> {
    std::thread::scope(|scope| {
        let fetches: Vec<_> =
            sources.iter().map(|source| scope.spawn(move || fetch_offer(options, mirror, source))).collect();
        let join = |fetch: std::thread::ScopedJoinHandle<'_, Result<Offer, BootstrapError>>| {
            fetch.join().unwrap_or(Err(BootstrapError::Interrupted))
        };
        fetches.into_iter().map(join).collect()
    })
}

fn fetch_offer(options: &Options, mirror: &Mirror, source: &Source) -> Result<Offer, BootstrapError> {
    let release = mirror.release(source, options.architecture, options.now)?;
    let mut architectures = vec![options.architecture.name()];
    let has_all = release.release().architectures.iter().any(|name| name == "all");
    if has_all && !release.release().no_support_for_architecture_all {
        architectures.push("all");
    }
    let mut indices = Vec::new();
    if source.is_flat() {
        indices.push((String::new(), mirror.index(&release, "", "", &|_| {})?));
    }
    for component in &source.components {
        for architecture in &architectures {
            let index = mirror.index(&release, component, architecture, &|_| {});
            match index {
                // A mirror may list `all` and still keep its packages in each architecture's index.
                Err(MirrorError::MissingIndex { .. }) if *architecture == "all" => {}
                outcome => indices.push((component.clone(), outcome?)),
            }
        }
    }
    Ok((release, indices))
}

fn choose(
    options: &Options,
    universe: &Universe<'_>,
    origin: &[usize],
    releases: &[&VerifiedRelease],
) -> Result<Lock, BootstrapError> {
    let variant = options.variant;
    let names = variant
        .names()
        .iter()
        .filter(|name| !options.exclude.iter().any(|out| out == *name))
        .map(|name| (*name).to_owned());
    let include: Vec<String> = names.chain(options.include.iter().cloned()).collect();
    let request = Request {
        include,
        exclude: options.exclude.clone(),
        essential: variant.has_essential(),
        priorities: variant.priorities().iter().map(|priority| (*priority).to_owned()).collect(),
        recommends: options.recommends,
        assume: options.assume.clone(),
        preferences: options.pins.clone(),
        ..Request::default()
    };
    let solution = solver::resolve(universe, &request)?;
    let base = base_of(universe, &solution)?;
    let mut packages: Vec<LockedPackage> = Vec::new();
    for chosen in &solution.packages {
        packages.push(locked(universe, chosen, origin, &base));
    }
    packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    let date = releases.iter().map(|release| release.release().date).max().unwrap_or(Timestamp(0));
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    Ok(Lock {
        version: LOCK_VERSION,
        suite: options.suite.name.clone(),
        architecture: options.architecture,
        variant: variant.name().to_owned(),
        include: sorted(&options.include),
        exclude: sorted(&options.exclude),
        assume: sorted(&options.assume),
        recommends: options.recommends,
        time: date,
        releases: releases.iter().map(|release| locked_release(release)).collect(),
        packages,
    })
}

/// The essential packages and what they need, among those chosen: configured before everything else.
fn base_of(universe: &Universe<'_>, solution: &Solution) -> Result<HashSet<PackageId>, BootstrapError> {
    let mut by_name: HashMap<&str, Vec<PackageId>> = HashMap::new();
    for chosen in &solution.packages {
        let record = universe.record(chosen.id);
        by_name.entry(record.name()).or_default().push(chosen.id);
        for provided in parse_relations(record.provides())?.into_iter().flatten() {
            by_name.entry(provided.name).or_default().push(chosen.id);
        }
    }
    let mut base = HashSet::new();
    let ids = solution.packages.iter().map(|chosen| chosen.id);
    let mut waiting: Vec<PackageId> = ids.filter(|id| universe.record(*id).essential()).collect();
    while let Some(id) = waiting.pop() {
        if !base.insert(id) {
            continue;
        }
        let record = universe.record(id);
        for field in [record.pre_depends(), record.depends()] {
            for relation in parse_relations(field)?.into_iter().flatten() {
                waiting.extend(by_name.get(relation.name).into_iter().flatten());
            }
        }
    }
    Ok(base)
}

fn locked(
    universe: &Universe<'_>,
    chosen: &solver::Chosen,
    origin: &[usize],
    base: &HashSet<PackageId>,
) -> LockedPackage {
    let record = universe.record(chosen.id);
    LockedPackage {
        name: record.name().to_owned(),
        version: record.version().to_owned(),
        architecture: record.architecture().to_owned(),
        release: origin[usize::from(chosen.id.index)],
        path: record.filename().to_owned(),
        size: record.size_bytes(),
        sha256: record.digest(),
        base: base.contains(&chosen.id),
        automatic: chosen.automatic && !base.contains(&chosen.id),
    }
}

fn locked_release(release: &VerifiedRelease) -> LockedRelease {
    let is_extra = !release.source().repository.is_empty();
    LockedRelease {
        suite: release.source().suite.clone(),
        mirrors: release.source().mirrors.clone(),
        components: release.source().components.clone(),
        date: release.release().date,
        digest: release.digest(),
        repository: release.source().repository.clone(),
        keyring: is_extra.then(|| Digest::of(release.source().keyring.as_bytes())),
    }
}
