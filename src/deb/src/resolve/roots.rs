//! The roots: which packages a request names, before any dependency is looked at.
//!
//! [`find`] answers with versions and fixes them as candidates, so that nothing later chooses
//! another one. What they need is the walk's question.
//!
//! Spec: apt-get(8), `install`, for `name=version`, `name/suite` and virtual names.

use std::collections::{HashMap, HashSet};

use knarr_base::near;

use super::catalog::{Catalog, Name, Version};
use super::explain::Unresolvable;
use super::{Because, preference};

/// What is asked for, each with the reason: essential packages, priorities, then names.
pub(super) fn find(catalog: &mut Catalog<'_, '_>) -> Result<Vec<(Version, Because)>, Unresolvable> {
    let mut roots = by_kind(catalog);
    let mut positions: HashMap<Name, usize> = roots
        .iter()
        .enumerate()
        .map(|(position, (version, _))| (catalog.name_of(*version), position))
        .collect();
    let mut fixed: HashMap<Name, Version> = HashMap::new();
    for spec in &catalog.request().include {
        let (version, is_fixed) = by_name(catalog, spec)?;
        let name = catalog.name_of(version);
        if let Some(&other) = fixed.get(&name).filter(|other| **other != version) {
            let (one, two) = (catalog.describe(other), catalog.describe(version));
            return Err(impossible(format!("{one} and {two} cannot both be installed")));
        }
        if is_fixed {
            fixed.insert(name, version);
        }
        let because = Because::Requested;
        match positions.get(&name) {
            Some(&position) if is_fixed => roots[position].0 = version,
            Some(_) => {}
            None => {
                positions.insert(name, roots.len());
                roots.push((version, because));
            }
        }
    }
    Ok(roots)
}

/// Essential packages and those of the wanted priorities, by name.
fn by_kind(catalog: &mut Catalog<'_, '_>) -> Vec<(Version, Because)> {
    let request = catalog.request();
    if !request.essential && request.priorities.is_empty() {
        return Vec::new();
    }
    let universe = catalog.universe();
    let because = |id| {
        let record = universe.record(id);
        if request.essential && record.essential() {
            return Some(Because::Essential);
        }
        let is_wanted = request.priorities.iter().any(|priority| priority == record.priority());
        is_wanted.then_some(Because::Priority)
    };
    let wanted = universe.all().filter(|id| because(*id).is_some());
    let mut names: Vec<&str> = wanted.map(|id| universe.record(id).name()).collect();
    names.sort_unstable();
    names.dedup();
    // A version that is not the candidate may have another priority.
    let candidates = names.into_iter().filter_map(|name| {
        let name = catalog.name(name);
        catalog.candidate(name)
    });
    let candidates: Vec<Version> = candidates.collect();
    candidates.into_iter().filter_map(|version| Some((version, because(catalog.id(version))?))).collect()
}

/// The version that a spec means, and whether the spec leaves no choice of version.
fn by_name(catalog: &mut Catalog<'_, '_>, spec: &str) -> Result<(Version, bool), Unresolvable> {
    let split = spec.find(['=', '/']).unwrap_or(spec.len());
    let (name, wanted) = spec.split_at(split);
    let name = without_architecture(catalog, name)?;
    let universe = catalog.universe();
    if catalog.is_excluded(name) {
        return Err(impossible(format!("{name} is both asked for and excluded")));
    }
    let Some(own) =
        universe.offers().find_map(|(_, offer)| Some(offer.record(offer.named(name).next()?).name()))
    else {
        return virtual_name(catalog, name).map(|version| (version, false));
    };
    let number = catalog.name(own);
    let versions = catalog.versions(number);
    if versions.is_empty() {
        return virtual_name(catalog, name).map(|version| (version, false));
    }
    let mut texts = versions.iter().copied();
    let found = match wanted.split_at_checked(1) {
        Some(("=", version)) => texts.find(|found| catalog.record(*found).version() == version),
        Some((_, suite)) => {
            let is_there = |found: &Version| suite_of(catalog, *found) == suite;
            texts.filter(is_there).max_by(|a, b| {
                crate::version::compare(catalog.record(*a).version(), catalog.record(*b).version())
            })
        }
        None => catalog.candidate(number),
    };
    let version = found.ok_or_else(|| Unresolvable::UnknownVersion {
        name: name.to_owned(),
        wanted: if wanted.is_empty() { "acceptable pin".to_owned() } else { wanted[1..].to_owned() },
        found: versions.iter().map(|version| catalog.describe(*version)).collect(),
    })?;
    if !catalog.set_candidate(version) {
        let installed =
            catalog.candidate(number).map(|installed| catalog.describe(installed)).unwrap_or_default();
        return Err(impossible(format!(
            "{} cannot replace {installed}, which is installed",
            catalog.describe(version)
        )));
    }
    if wanted.starts_with('/') {
        follow_suite(catalog, version);
    }
    Ok((version, !wanted.is_empty()))
}

fn without_architecture<'n>(catalog: &Catalog<'_, '_>, name: &'n str) -> Result<&'n str, Unresolvable> {
    match name.split_once(':') {
        None => Ok(name),
        Some((name, architecture)) if catalog.is_native(architecture) || architecture == "all" => Ok(name),
        Some(_) => Err(Unresolvable::UnknownPackage { name: name.to_owned(), near: Vec::new() }),
    }
}

fn suite_of<'u>(catalog: &Catalog<'u, '_>, version: Version) -> &'u str {
    let label = catalog.universe().label(catalog.id(version));
    label.split('/').next().unwrap_or_default()
}

/// What a package of a named suite needs may come from that suite, if the candidates will not do.
fn follow_suite(catalog: &mut Catalog<'_, '_>, version: Version) {
    let suite = suite_of(catalog, version);
    let mut todo = vec![version];
    let mut seen = HashSet::from([version]);
    while let Some(version) = todo.pop() {
        let needs = catalog.needs(version);
        for group in needs.groups.iter().filter(|group| group.hard) {
            let targets: Vec<Version> =
                group.terms.iter().flat_map(|term| catalog.targets(*term).to_vec()).collect();
            if targets.iter().any(|target| catalog.candidate(catalog.name_of(*target)) == Some(*target)) {
                continue;
            }
            let other = targets.into_iter().find(|target| suite_of(catalog, *target) == suite);
            if let Some(other) = other.filter(|other| catalog.set_candidate(*other) && seen.insert(*other)) {
                todo.push(other);
            }
        }
    }
}

/// A name that only others provide means the one that does, if there is only one.
fn virtual_name(catalog: &mut Catalog<'_, '_>, name: &str) -> Result<Version, Unresolvable> {
    let universe = catalog.universe();
    let ids: Vec<_> = universe
        .offers()
        .flat_map(|(index, offer)| {
            let records: Vec<u32> = offer.providers(name).collect();
            records.into_iter().map(move |record| super::PackageId { index, record })
        })
        .filter(|id| universe.fits(*id))
        .collect();
    let mut providers: Vec<Version> = ids.into_iter().map(|id| catalog.version_of(id)).collect();
    providers.retain(|version| catalog.candidate(catalog.name_of(*version)) == Some(*version));
    preference::sort(catalog, &mut providers, name, |_| false);
    providers.dedup();
    match providers.as_slice() {
        [only] => Ok(*only),
        [] => {
            let names: HashSet<&str> = universe.all().map(|id| universe.record(id).name()).collect();
            Err(Unresolvable::UnknownPackage { name: name.to_owned(), near: near(name, names.into_iter()) })
        }
        several => {
            let names: Vec<&str> = several.iter().map(|version| catalog.record(*version).name()).collect();
            let names = names.join(", ");
            Err(impossible(format!("{name} is a virtual package; name one that provides it: {names}")))
        }
    }
}

fn impossible(reason: String) -> Unresolvable {
    Unresolvable::Impossible { reasons: vec![reason] }
}
