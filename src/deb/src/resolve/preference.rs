//! Preference: which of several packages apt takes when any would do.
//!
//! [`sort`] puts the candidates for one relation into the order of apt's `CompareProviders`. Its
//! last resort is the order in which apt first met the names; [`Mentions`] knows that order.
//!
//! Spec: apt-pkg/depcache.cc, `CompareProviders`; apt-pkg/pkgcachegen.cc, `NewPackage`.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::catalog::{Catalog, Version};
use super::{PackageId, Universe};
use crate::packages::{PackagesIndex, Record};

/// Sorts versions that satisfy a relation to `target`, the one that apt would try first in front.
pub(super) fn sort(
    catalog: &Catalog<'_, '_>,
    versions: &mut [Version],
    target: &str,
    is_protected: impl Fn(Version) -> bool,
) {
    if versions.len() < 2 {
        return;
    }
    let key = |version: &Version| {
        let record = catalog.record(*version);
        let installed = catalog.installed(catalog.name_of(*version)).is_some();
        (
            Reverse(is_protected(*version)),
            Reverse(installed && record.multi_arch() == "same"),
            Reverse(installed),
            Reverse(record.name() == target),
            Reverse(record.essential()),
            Reverse(record.important() || record.protected()),
            rank(record.priority()),
        )
    };
    versions.sort_by_key(key);
    let tied = versions.windows(2).any(|pair| key(&pair[0]) == key(&pair[1]));
    if tied {
        let mentions = catalog.universe().mentions();
        versions
            .sort_by_key(|version| (key(version), Reverse(mentions.rank(catalog.record(*version).name()))));
    }
}

/// apt's numbers: a package without a priority comes first.
fn rank(priority: &str) -> u8 {
    match priority {
        "" => 0,
        "required" => 1,
        "important" => 2,
        "standard" => 3,
        "optional" => 4,
        _ => 5,
    }
}

/// The order in which apt first met the names of packages that provide something: in their own
/// stanza, or before that in a relation of another. Suggestions count for apt, but no index keeps
/// them.
#[derive(Default)]
pub(super) struct Mentions<'a> {
    ranks: HashMap<&'a str, u32>,
}

impl<'a> Mentions<'a> {
    pub(super) fn read(universe: &Universe<'a>) -> Self {
        let mut ranks = HashMap::new();
        for (index, offer) in universe.offers() {
            let providers = offer.iter().map(|record| PackageId { index, record });
            let records = providers.map(|id| universe.record(id));
            ranks.extend(
                records
                    .filter(|record| !record.provides().is_empty())
                    .map(|record| (record.name(), u32::MAX)),
            );
        }
        let mut mentions = Self { ranks };
        let mut next = 0;
        for (_, offer) in universe.offers() {
            for record in in_order_of_text(offer) {
                mentions.meet(record.name(), &mut next);
                let relations = [
                    record.pre_depends(),
                    record.depends(),
                    record.conflicts(),
                    record.breaks(),
                    record.recommends(),
                    record.replaces(),
                    record.provides(),
                ];
                relations
                    .iter()
                    .flat_map(|field| names(field))
                    .for_each(|name| mentions.meet(name, &mut next));
            }
        }
        mentions
    }

    fn rank(&self, name: &str) -> u32 {
        self.ranks.get(name).copied().unwrap_or(u32::MAX)
    }

    fn meet(&mut self, name: &str, next: &mut u32) {
        if let Some(rank) = self.ranks.get_mut(name)
            && *rank == u32::MAX
        {
            *rank = *next;
            *next += 1;
        }
    }
}

/// An index sorts its records by name, but keeps their texts in the order in which they came.
fn in_order_of_text(index: &PackagesIndex) -> Vec<Record<'_>> {
    let mut records: Vec<Record<'_>> = index.iter().map(|number| index.record(number)).collect();
    records.sort_by_key(|record| record.name().as_ptr() as usize);
    records
}

/// The unqualified names in a relation field: for apt, `python3:any` is another name.
fn names(field: &str) -> impl Iterator<Item = &str> {
    field.split([',', '|']).filter_map(|relation| {
        let relation = relation.trim_start();
        let end = relation.find([' ', '(', ':', '[', '<', '\n', '\t']).unwrap_or(relation.len());
        (!relation[end..].starts_with(':')).then_some(&relation[..end])
    })
}
