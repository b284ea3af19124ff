//! Which packages share a layer.
//!
//! [`plan`] is pure: the same packages give the same groups, whatever else is in the image. What changes least and is
//! shared most lies lowest: foundations by tier, large sources alone, small ones of a tier together.

use std::collections::BTreeMap;

/// A package as the grouping sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its position among the packages.
    pub position: usize,
    /// The source package: what is updated together.
    pub source: String,
    /// How near the ground it lies: 0 is lowest.
    pub tier: u8,
    /// What it unpacks to.
    pub size_bytes: u64,
}

/// Packages in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerGroup {
    /// What it is called in the image's history.
    pub title: String,
    /// Positions, sorted.
    pub members: Vec<usize>,
}

/// From this size on a source has a layer of its own.
const OWN_LAYER_BYTES: u64 = 1 << 20;

/// Groups packages into at most `max_layers` layers, the lowest first.
#[must_use]
pub fn plan(members: &[Member], max_layers: usize) -> Vec<LayerGroup> {
    let mut sources: BTreeMap<(u8, &str), (u64, Vec<usize>)> = BTreeMap::new();
    for member in members {
        // A source in two tiers has two layers: the lower one must not depend on what lies above it.
        let source = sources.entry((member.tier, &member.source)).or_default();
        source.0 += member.size_bytes;
        source.1.push(member.position);
    }
    let alone = alone(&sources, max_layers);
    let mut groups = Vec::new();
    let tiers: std::collections::BTreeSet<u8> = sources.keys().map(|(tier, _)| *tier).collect();
    for tier in tiers {
        let mut rest = LayerGroup { title: String::new(), members: Vec::new() };
        let mut names = Vec::new();
        for ((_, name), (_, positions)) in sources.iter().filter(|((of, _), _)| *of == tier) {
            if alone.contains(&(tier, name)) {
                groups.push(group((*name).to_owned(), positions.clone()));
            } else {
                rest.members.extend(positions);
                names.push(*name);
            }
        }
        if !rest.members.is_empty() {
            groups.push(group(title(&names), rest.members));
        }
    }
    merge(groups, max_layers.max(1))
}

/// The sources that have a layer of their own: the largest, lower tiers before higher ones of equal size.
fn alone<'a>(sources: &BTreeMap<(u8, &'a str), (u64, Vec<usize>)>, max_layers: usize) -> Vec<(u8, &'a str)> {
    let tiers = sources.keys().map(|(tier, _)| tier).collect::<std::collections::BTreeSet<_>>().len();
    let mut large: Vec<(u64, u8, &str)> = sources
        .iter()
        .filter(|(_, (size, _))| *size >= OWN_LAYER_BYTES)
        .map(|((tier, name), (size, _))| (*size, *tier, *name))
        .collect();
    // The lowest tier decides for itself, so that images that share it share its layers.
    large.sort_by_key(|(size, tier, name)| (*tier, std::cmp::Reverse(*size), *name));
    let room = max_layers.saturating_sub(tiers);
    let lowest = large.first().map_or(0, |(_, tier, _)| *tier);
    let (low, high): (Vec<_>, Vec<_>) = large.into_iter().partition(|(_, tier, _)| *tier == lowest);
    let low: Vec<_> = low.into_iter().take(room.div_ceil(2)).collect();
    let mut high = high;
    high.sort_by_key(|(size, tier, name)| (std::cmp::Reverse(*size), *tier, *name));
    let left = room - low.len();
    low.into_iter().chain(high.into_iter().take(left)).map(|(_, tier, name)| (tier, name)).collect()
}

fn group(title: String, mut members: Vec<usize>) -> LayerGroup {
    members.sort_unstable();
    LayerGroup { title, members }
}

fn title(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [first, second, third] => format!("{first}, {second}, {third}"),
        [first, second] => format!("{first}, {second}"),
        [first, second, rest @ ..] => format!("{first}, {second} and {} more", rest.len()),
        [] => String::new(),
    }
}

/// Puts the uppermost layers into one until there are few enough.
fn merge(mut groups: Vec<LayerGroup>, max_layers: usize) -> Vec<LayerGroup> {
    while groups.len() > max_layers {
        let (Some(upper), Some(mut lower)) = (groups.pop(), groups.pop()) else { break };
        lower.title = format!("{}; {}", lower.title, upper.title);
        lower.members.extend(upper.members);
        groups.push(group(lower.title, lower.members));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::{Member, plan};

    fn member(position: usize, source: &str, tier: u8, size_bytes: u64) -> Member {
        Member { position, source: source.to_owned(), tier, size_bytes }
    }

    fn base() -> Vec<Member> {
        vec![
            member(0, "glibc", 0, 12 << 20),
            member(1, "zlib", 0, 1000),
            member(2, "perl", 0, 8 << 20),
            member(3, "gzip", 0, 900),
        ]
    }

    #[test]
    fn two_images_of_one_suite_share_the_layers_of_what_they_share() {
        let (mut one, mut two) = (base(), base());
        one.push(member(4, "nginx", 9, 3 << 20));
        two.push(member(4, "python", 9, 30 << 20));
        two.push(member(5, "tiny", 9, 10));
        let (one, two) = (plan(&one, 20), plan(&two, 20));
        assert_eq!(one[..3], two[..3]);
        assert_eq!(one[0].title, "glibc");
        assert_eq!(one[2].title, "gzip, zlib");
    }

    #[test]
    fn there_are_never_more_layers_than_asked_for() {
        let many: Vec<Member> =
            (0..50).map(|n| member(n, &format!("s{n}"), (n % 3) as u8, 2 << 20)).collect();
        for bound in [1, 2, 3, 5, 10, 60] {
            let groups = plan(&many, bound);
            assert!(groups.len() <= bound, "{bound}: {}", groups.len());
            assert_eq!(groups.iter().map(|group| group.members.len()).sum::<usize>(), 50);
        }
    }

    #[test]
    fn packages_of_one_source_stay_together_in_their_tier() {
        let groups =
            plan(&[member(0, "gcc", 1, 2 << 20), member(1, "gcc", 0, 10), member(2, "gcc", 1, 1)], 10);
        assert_eq!(
            groups.iter().map(|group| group.members.clone()).collect::<Vec<_>>(),
            [vec![1], vec![0, 2]]
        );
    }
}
