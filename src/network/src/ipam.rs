//! Addresses: which network has which subnet, which container has which address.
//!
//! [`Ipam`] is pure: what the host's routes take is told to it. Whose address it is, is for others to know.
//!
//! Spec: RFC 1918, RFC 4193.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{NetworkError, Pool};

/// What a network wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) pools: &'a [Pool],
}

/// All addresses that are given out.
#[derive(Debug)]
pub(crate) struct Ipam {
    defaults: Vec<(IpNet, u8)>,
    networks: BTreeMap<String, Addresses>,
}

#[derive(Debug)]
struct Addresses {
    name: String,
    pools: Vec<Pool>,
    taken: BTreeSet<IpAddr>,
}

impl Ipam {
    pub(crate) fn new(defaults: Vec<(IpNet, u8)>) -> Self {
        Self { defaults, networks: BTreeMap::new() }
    }

    /// Takes subnets for a network, with their gateways. `routes` are what the host reaches otherwise: a subnet that is
    /// chosen overlaps none of them; one that is asked for may.
    pub(crate) fn add(&mut self, wanted: &Wanted<'_>, routes: &[IpNet]) -> Result<Vec<Pool>, NetworkError> {
        let mut pools = wanted.pools.to_vec();
        for pool in &pools {
            self.check(pool, &pools)?;
        }
        if wanted.ipv4 && !pools.iter().any(|pool| is_v4(pool.subnet)) {
            pools.insert(0, plain(self.choose(true, routes).ok_or_else(|| exhausted("IPv4"))?));
        }
        if wanted.ipv6 && !pools.iter().any(|pool| !is_v4(pool.subnet)) {
            let subnet = self.choose(false, routes).unwrap_or_else(|| unique_local(wanted.id));
            pools.push(plain(subnet));
        }
        let pools = pools.into_iter().map(with_gateway).collect::<Result<Vec<_>, _>>()?;
        self.adopt(wanted.id, wanted.name, &pools);
        Ok(pools)
    }

    /// Takes over what a network has.
    pub(crate) fn adopt(&mut self, id: &str, name: &str, pools: &[Pool]) {
        let taken = pools.iter().flat_map(given_away).collect();
        self.networks
            .insert(id.to_owned(), Addresses { name: name.to_owned(), pools: pools.to_vec(), taken });
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// Gives out an address: the one asked for, or the lowest that is free. `None` when the network has none of this
    /// family.
    pub(crate) fn take(
        &mut self,
        id: &str,
        ipv6: bool,
        fixed: Option<IpAddr>,
    ) -> Result<Option<IpNet>, NetworkError> {
        let Some(addresses) = self.networks.get_mut(id) else { return Ok(None) };
        match fixed {
            Some(address) => addresses.take_fixed(address).map(Some),
            None => addresses.take_free(id, ipv6),
        }
    }

    pub(crate) fn give_back(&mut self, id: &str, address: IpAddr) {
        if let Some(addresses) = self.networks.get_mut(id) {
            addresses.taken.remove(&address);
        }
    }

    fn check(&self, pool: &Pool, siblings: &[Pool]) -> Result<(), NetworkError> {
        let subnet = pool.subnet;
        if subnet.trunc() != subnet {
            let message = format!("invalid subnet {subnet}: it should be {}", subnet.trunc());
            return Err(NetworkError::Invalid { message });
        }
        let inside = |address: &IpAddr| subnet.contains(address);
        if let Some(gateway) = pool.gateway.iter().find(|gateway| !inside(gateway)) {
            let message =
                format!("invalid network config: invalid gateway {gateway}: parent subnet is {subnet}");
            return Err(NetworkError::Invalid { message });
        }
        if pool.range.is_some_and(|range| !subnet.contains(&range)) {
            let message = format!("invalid network config: the ip-range is not in the subnet {subnet}");
            return Err(NetworkError::Invalid { message });
        }
        let twice = siblings.iter().filter(|other| overlap(other.subnet, subnet)).count() > 1;
        if twice || self.subnets().any(|other| overlap(other, subnet)) {
            let message = "invalid pool request: Pool overlaps with other one on this address space";
            return Err(NetworkError::Forbidden { message: message.to_owned() });
        }
        Ok(())
    }

    fn choose(&self, ipv4: bool, routes: &[IpNet]) -> Option<IpNet> {
        let busy: Vec<IpNet> = self.subnets().chain(routes.iter().copied()).collect();
        let fitting = self.defaults.iter().filter(|(base, _)| is_v4(*base) == ipv4);
        fitting.into_iter().find_map(|(base, size)| first_free(*base, *size, &busy))
    }

    fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.networks.values().flat_map(|addresses| addresses.pools.iter().map(|pool| pool.subnet))
    }
}

impl Addresses {
    fn take_fixed(&mut self, address: IpAddr) -> Result<IpNet, NetworkError> {
        let pool = self.pools.iter().find(|pool| pool.subnet.contains(&address));
        let Some(pool) = pool else {
            let message = format!(
                "invalid config for network {}: invalid endpoint settings:\nno configured subnet or ip-range contain \
                 the IP address {address}",
                self.name
            );
            return Err(NetworkError::Invalid { message });
        };
        if !self.taken.insert(address) {
            return Err(NetworkError::Forbidden { message: "Address already in use".to_owned() });
        }
        Ok(whole(address, pool.subnet))
    }

    fn take_free(&mut self, id: &str, ipv6: bool) -> Result<Option<IpNet>, NetworkError> {
        let mut fitting = self.pools.iter().filter(|pool| is_v4(pool.subnet) != ipv6).peekable();
        if fitting.peek().is_none() {
            return Ok(None);
        }
        let found = fitting.find_map(|pool| {
            lowest(pool.range.unwrap_or(pool.subnet), &self.taken).map(|address| (address, pool.subnet))
        });
        let Some((address, subnet)) = found else {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "no available {family} addresses on this network's address pools: {} ({id})",
                self.name
            );
            return Err(NetworkError::Conflict { message });
        };
        self.taken.insert(address);
        Ok(Some(whole(address, subnet)))
    }
}

fn exhausted(family: &str) -> NetworkError {
    let message = format!(
        "could not find an available, non-overlapping {family} address pool among the defaults to assign to the \
         network: all predefined address pools have been fully subnetted"
    );
    NetworkError::Conflict { message }
}

const fn is_v4(subnet: IpNet) -> bool {
    matches!(subnet, IpNet::V4(_))
}

pub(crate) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// An address with the prefix of its subnet.
fn whole(address: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}

const fn plain(subnet: IpNet) -> Pool {
    Pool { subnet, range: None, gateway: None, reserved: BTreeMap::new() }
}

/// The gateway is the lowest address of the range when nobody chose one.
fn with_gateway(mut pool: Pool) -> Result<Pool, NetworkError> {
    if pool.gateway.is_none() {
        let taken = given_away(&pool);
        let free = lowest(pool.range.unwrap_or(pool.subnet), &taken);
        pool.gateway = Some(free.ok_or_else(|| NetworkError::Invalid {
            message: format!("the subnet {} has no address for a gateway", pool.subnet),
        })?);
    }
    Ok(pool)
}

/// What no container gets: the subnet's ends, the gateway, what is reserved.
fn given_away(pool: &Pool) -> BTreeSet<IpAddr> {
    let mut taken: BTreeSet<IpAddr> = pool.reserved.values().copied().chain(pool.gateway).collect();
    if pool.subnet.max_prefix_len() - pool.subnet.prefix_len() > 1 {
        taken.insert(pool.subnet.network());
        if is_v4(pool.subnet) {
            taken.insert(pool.subnet.broadcast());
        }
    }
    taken
}

/// The lowest address of a range that is not taken. It looks at one more address than there are taken ones.
fn lowest(range: IpNet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let mut candidate = range.network();
    for busy in taken.range(candidate..) {
        if *busy != candidate {
            break;
        }
        candidate = next(candidate)?;
    }
    range.contains(&candidate).then_some(candidate)
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// The first subnet of this size in `base` that overlaps nothing busy: it jumps over each busy one.
fn first_free(base: IpNet, size: u8, busy: &[IpNet]) -> Option<IpNet> {
    if size < base.prefix_len() || size > base.max_prefix_len() {
        return None;
    }
    let mut candidate = IpNet::new(base.network(), size).ok()?;
    while base.contains(&candidate) {
        let Some(hit) = busy.iter().filter(|other| overlap(**other, candidate)).max_by_key(|net| last(**net))
        else {
            return Some(candidate);
        };
        let past = next(last(*hit).max(last(candidate)))?;
        candidate = IpNet::new(past, size).ok()?.trunc();
    }
    None
}

fn last(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => net.broadcast().into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}

/// A subnet of fd00::/8 that is this network's alone: its number is from the network's id.
fn unique_local(id: &str) -> IpNet {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(14).collect();
    let number = u64::from_str_radix(&digits, 16).unwrap_or_default() & 0x00ff_ffff_ffff_ffff;
    let address = Ipv6Addr::from((0xfd_u128 << 120) | (u128::from(number) << 64));
    Ipv6Net::new(address, 64).map_or_else(|_| IpNet::V4(Ipv4Net::default()), IpNet::V6)
}

#[cfg(test)]
mod tests;
