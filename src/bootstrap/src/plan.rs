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

use crate::lock::{LOCK_VERSION, Lock, LockedIndex, LockedPackage, LockedRelease};
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
    Ok(survey(options, mirror, progress)?.lock)
}

/// What would be chosen now, with what updates are decided by.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What would be chosen.
    pub lock: Lock,
    /// What the indices say of each package, in the lock's order.
    pub facts: Vec<Facts>,
}

/// What an index says of a package beside what a lock keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Positions of the releases that have this very version.
    pub releases: Vec<usize>,
    /// The source package's name.
    pub source: String,
    /// `Pre-Depends` and `Depends`.
    pub depends: String,
    /// `Breaks` and `Conflicts`.
    pub breaks: String,
    /// `Provides`.
    pub provides: String,
}

/// The same as [`resolve`], and what the indices say of what is chosen.
pub fn survey(options: &Options, mirror: &Mirror, progress: &dyn Progress) -> Result<Survey, BootstrapError> {
    let sources = sources(options)?;
    let offers = fetch_offers(options, mirror, &sources)?;
    let mut universe = Universe::new(options.architecture);
    let mut origin = Vec::new();
    for (number, (release, indices)) in offers.iter().enumerate() {
        release.warnings().iter().for_each(|warning| progress.warn(warning));
        for (position, offered) in indices.iter().enumerate() {
            universe.add(
                &offered.index,
                pin_of(options, release),
                &format!("{}/{}", release.source().label(), offered.component),
            );
            origin.push((number, position));
        }
    }
    check_excluded(options, &offers, progress)?;
    choose(options, &universe, &origin, &offers)
}

/// Says what leaving out would be for nothing, and refuses what nothing works without.
fn check_excluded(
    options: &Options,
    offers: &[Offer],
    progress: &dyn Progress,
) -> Result<(), BootstrapError> {
    if !options.only_unpack && options.exclude.iter().any(|name| name == "dpkg") {
        return Err(BootstrapError::Request(
            "dpkg cannot be left out: it configures every other package; --variant extract does without it"
                .to_owned(),
        ));
    }
    let known = |name: &str| {
        offers.iter().flat_map(|(_, indices)| indices).any(|one| one.index.named(name).next().is_some())
    };
    for name in options.exclude.iter().filter(|name| !known(name)) {
        progress.warn(&format!("there is no package {name:?} that could be left out"));
    }
    Ok(())
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

/// An index and where it stands in its release.
struct Offered {
    component: String,
    path: String,
    index: PackagesIndex,
}

type Offer = (VerifiedRelease, Vec<Offered>);
/// Of an index: positions of its release, and of itself among that release's.
type Place = (usize, usize);

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
        let index = mirror.index(&release, "", "", &|_| {})?;
        indices.push(Offered { component: String::new(), path: release.index_path("", ""), index });
    }
    for component in &source.components {
        for architecture in &architectures {
            let index = mirror.index(&release, component, architecture, &|_| {});
            match index {
                // A mirror may list `all` and still keep its packages in each architecture's index.
                Err(MirrorError::MissingIndex { .. }) if *architecture == "all" => {}
                outcome => indices.push(Offered {
                    component: component.clone(),
                    path: release.index_path(component, architecture),
                    index: outcome?,
                }),
            }
        }
    }
    Ok((release, indices))
}

fn choose(
    options: &Options,
    universe: &Universe<'_>,
    origin: &[Place],
    offers: &[Offer],
) -> Result<Survey, BootstrapError> {
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
    let mut packages: Vec<(LockedPackage, Facts)> = Vec::new();
    for chosen in &solution.packages {
        let facts = facts(universe, chosen.id, origin, offers);
        packages.push((locked(universe, chosen, origin, &base), facts));
    }
    packages.sort_by(|(a, _), (b, _)| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
    let (packages, facts) = packages.into_iter().unzip();
    let date = offers.iter().map(|(release, _)| release.release().date).max().unwrap_or(Timestamp(0));
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let lock = Lock {
        version: LOCK_VERSION,
        suite: options.suite.name.clone(),
        architecture: options.architecture,
        variant: variant.name().to_owned(),
        include: sorted(&options.include),
        exclude: sorted(&options.exclude),
        assume: sorted(&options.assume),
        recommends: options.recommends,
        time: date,
        releases: offers.iter().map(locked_release).collect(),
        packages,
    };
    Ok(Survey { lock, facts })
}

fn facts(universe: &Universe<'_>, id: PackageId, origin: &[Place], offers: &[Offer]) -> Facts {
    let record = universe.record(id);
    let has = |offer: &&Offered| {
        offer.index.named(record.name()).any(|number| {
            let other = offer.index.record(number);
            (other.version(), other.architecture()) == (record.version(), record.architecture())
        })
    };
    let mut releases = vec![origin[usize::from(id.index)].0];
    let others = offers.iter().enumerate().filter(|(_, (_, indices))| indices.iter().any(|one| has(&one)));
    releases.extend(others.map(|(number, _)| number));
    releases.sort_unstable();
    releases.dedup();
    let joined = |one: &str, other: &str| [one, other].join(", ").trim_matches([',', ' ']).to_owned();
    let source = record.source().split_whitespace().next().unwrap_or_else(|| record.name());
    Facts {
        releases,
        source: source.to_owned(),
        depends: joined(record.pre_depends(), record.depends()),
        breaks: joined(record.breaks(), record.conflicts()),
        provides: record.provides().to_owned(),
    }
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
    origin: &[Place],
    base: &HashSet<PackageId>,
) -> LockedPackage {
    let record = universe.record(chosen.id);
    LockedPackage {
        name: record.name().to_owned(),
        version: record.version().to_owned(),
        architecture: record.architecture().to_owned(),
        release: origin[usize::from(chosen.id.index)].0,
        index: origin[usize::from(chosen.id.index)].1,
        path: record.filename().to_owned(),
        size: record.size_bytes(),
        sha256: record.digest(),
        base: base.contains(&chosen.id),
        automatic: chosen.automatic && !base.contains(&chosen.id),
    }
}

fn locked_release((release, indices): &Offer) -> LockedRelease {
    let is_extra = !release.source().repository.is_empty();
    LockedRelease {
        suite: release.source().suite.clone(),
        mirrors: release.source().mirrors.clone(),
        components: release.source().components.clone(),
        date: release.release().date,
        digest: release.digest(),
        repository: release.source().repository.clone(),
        keyring: is_extra.then(|| Digest::of(release.source().keyring.as_bytes())),
        keys: release.keys().to_vec(),
        indices: indices
            .iter()
            .map(|offered| LockedIndex { path: offered.path.clone(), sha256: offered.index.source() })
            .collect(),
    }
}
