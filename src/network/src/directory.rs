//! Who has which name, and who may ask for it.
//!
//! [`Directory`] is pure. A container sees the members of its own networks, and of the default bridge nobody.
//! Questions of the wire are for [`crate::dns`] to know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A container's names in one network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) names: Vec<String>,
    /// Alias → container, for this container's eyes only.
    pub(crate) links: BTreeMap<String, String>,
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Place {
    name: String,
    /// Names are given in it: not in the default bridge.
    named: bool,
    internal: bool,
    members: BTreeMap<String, Member>,
}

/// All names of all networks.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    networks: BTreeMap<String, Place>,
    of_container: BTreeMap<String, BTreeSet<String>>,
}

impl Directory {
    pub(crate) fn add_network(&mut self, id: &str, name: &str, named: bool, internal: bool) {
        let place = Place { name: name.to_owned(), named, internal, members: BTreeMap::new() };
        self.networks.insert(id.to_owned(), place);
    }

    pub(crate) fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    pub(crate) fn add(&mut self, container: &str, network: &str, member: Member) {
        if let Some(place) = self.networks.get_mut(network) {
            place.members.insert(container.to_owned(), member);
            self.of_container.entry(container.to_owned()).or_default().insert(network.to_owned());
        }
    }

    pub(crate) fn remove(&mut self, container: &str, network: &str) {
        if let Some(place) = self.networks.get_mut(network) {
            place.members.remove(container);
        }
        if let Some(networks) = self.of_container.get_mut(container) {
            networks.remove(network);
        }
        self.of_container.retain(|_, networks| !networks.is_empty());
    }

    pub(crate) fn rename(&mut self, container: &str, network: &str, names: Vec<String>) {
        let place = self.networks.get_mut(network);
        if let Some(member) = place.and_then(|place| place.members.get_mut(container)) {
            member.names = names;
        }
    }

    /// The addresses behind a name, as this container sees it; `None` when it is nobody's name.
    pub(crate) fn find(&self, container: &str, name: &str) -> Option<Vec<IpAddr>> {
        let mut known = false;
        let mut found = Vec::new();
        for place in self.places(container) {
            for member in place.matching(container, name) {
                known = true;
                found.extend(member.addresses.iter().copied());
            }
        }
        known.then_some(found)
    }

    /// The name of an address, as this container sees it.
    pub(crate) fn name_of(&self, container: &str, address: IpAddr) -> Option<String> {
        self.places(container).find_map(|place| {
            let member = place.members.values().find(|member| member.addresses.contains(&address))?;
            Some(format!("{}.{}", member.names.first()?, place.name))
        })
    }

    /// Whether nothing of this container may leave the host.
    pub(crate) fn is_closed(&self, container: &str) -> bool {
        let Some(networks) = self.of_container.get(container) else { return false };
        !networks.is_empty()
            && networks.iter().all(|id| self.networks.get(id).is_some_and(|place| place.internal))
    }

    fn places(&self, container: &str) -> impl Iterator<Item = &Place> {
        let networks = self.of_container.get(container).into_iter().flatten();
        networks.filter_map(|id| self.networks.get(id)).filter(|place| place.named)
    }
}

impl Place {
    /// Members with this name, plain or followed by the network's own.
    fn matching<'a>(&'a self, asker: &str, name: &'a str) -> impl Iterator<Item = &'a Member> {
        let tail = name.len().checked_sub(self.name.len() + 1);
        let short = tail.filter(|at| {
            name.is_char_boundary(*at)
                && name[*at..].starts_with('.')
                && name[*at + 1..].eq_ignore_ascii_case(&self.name)
        });
        let short = short.map(|at| &name[..at]);
        let is = move |other: &str| {
            other.eq_ignore_ascii_case(name) || short.is_some_and(|short| other.eq_ignore_ascii_case(short))
        };
        let links = self.members.get(asker).map(|member| &member.links);
        let linked = links.and_then(|links| links.iter().find(|(alias, _)| is(alias)).map(|(_, id)| id));
        self.members.iter().filter_map(move |(id, member)| {
            // Who is linked may come later than the link: then it is known by its name.
            let is_linked = linked.is_some_and(|linked| linked == id || member.names.contains(linked));
            (is_linked || member.names.iter().any(|other| is(other))).then_some(member)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Directory, Member};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn member(names: &[&str], address: &str) -> Member {
        Member {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: vec![ip(address)],
            ..Member::default()
        }
    }

    fn directory() -> Directory {
        let mut directory = Directory::default();
        directory.add_network("n1", "front", true, false);
        directory.add_network("n2", "back", true, true);
        directory.add_network("n0", "bridge", false, false);
        directory.add("web", "n1", member(&["web", "www"], "10.1.0.2"));
        directory.add("web", "n2", member(&["web"], "10.2.0.2"));
        directory.add("db", "n2", member(&["db", "data"], "10.2.0.3"));
        directory.add("lone", "n0", member(&["lone"], "10.0.0.2"));
        directory.add("old", "n0", member(&["old"], "10.0.0.3"));
        directory
    }

    #[test]
    fn names_are_seen_in_common_networks_only() {
        let directory = directory();
        assert_eq!(directory.find("web", "DATA"), Some(vec![ip("10.2.0.3")]));
        assert_eq!(directory.find("db", "www"), None);
        assert_eq!(directory.find("lone", "old"), None);
        assert_eq!(directory.find("stranger", "web"), None);
    }

    #[test]
    fn a_name_may_carry_its_network() {
        let directory = directory();
        assert_eq!(directory.find("web", "web.front"), Some(vec![ip("10.1.0.2")]));
        assert_eq!(directory.find("web", "db.front"), None);
        assert_eq!(directory.name_of("web", ip("10.2.0.3")), Some("db.back".to_owned()));
        assert_eq!(directory.name_of("db", ip("10.1.0.2")), None);
    }

    #[test]
    fn one_alias_of_many_has_all_their_addresses() {
        let mut directory = directory();
        directory.add("db2", "n2", member(&["db2", "data"], "10.2.0.4"));
        assert_eq!(directory.find("web", "data"), Some(vec![ip("10.2.0.3"), ip("10.2.0.4")]));
    }

    #[test]
    fn links_are_for_their_own_container() {
        let mut directory = directory();
        let mut linked = member(&["app"], "10.2.0.9");
        linked.links.insert("store".to_owned(), "db".to_owned());
        directory.add("app", "n2", linked);
        assert_eq!(directory.find("app", "store"), Some(vec![ip("10.2.0.3")]));
        assert_eq!(directory.find("web", "store"), None);
    }

    #[test]
    fn renamed_and_removed_members_lose_their_names() {
        let mut directory = directory();
        directory.rename("db", "n2", vec!["base".to_owned()]);
        assert_eq!(directory.find("web", "db"), None);
        assert_eq!(directory.find("web", "base"), Some(vec![ip("10.2.0.3")]));
        directory.remove("db", "n2");
        assert_eq!(directory.find("web", "base"), None);
    }

    #[test]
    fn only_internal_networks_make_a_container_closed() {
        let directory = directory();
        assert!(directory.is_closed("db"));
        assert!(!directory.is_closed("web"));
    }
}
