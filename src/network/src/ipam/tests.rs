use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::{Ipam, Wanted, overlap};
use crate::{NetworkError, Pool};

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ipam() -> Ipam {
    Ipam::new(vec![(net("172.17.0.0/16"), 16), (net("172.18.0.0/15"), 16), (net("192.168.0.0/16"), 20)])
}

fn wanted<'a>(id: &'a str, pools: &'a [Pool]) -> Wanted<'a> {
    Wanted { id, name: id, ipv4: true, ipv6: false, pools }
}

fn pool(subnet: &str) -> Pool {
    Pool { subnet: net(subnet), range: None, gateway: None, reserved: BTreeMap::new() }
}

fn subnet_of(ipam: &mut Ipam, id: &str, routes: &[IpNet]) -> IpNet {
    ipam.add(&wanted(id, &[]), routes).expect("a free subnet")[0].subnet
}

#[test]
fn networks_get_one_free_subnet_after_the_other() {
    let mut ipam = ipam();
    assert_eq!(subnet_of(&mut ipam, "a", &[]), net("172.17.0.0/16"));
    assert_eq!(subnet_of(&mut ipam, "b", &[]), net("172.18.0.0/16"));
    ipam.remove("a");
    assert_eq!(subnet_of(&mut ipam, "c", &[]), net("172.17.0.0/16"));
}

#[test]
fn no_chosen_subnet_overlaps_a_route_of_the_host() {
    let mut ipam = ipam();
    let routes = [net("172.17.4.0/24"), net("172.16.0.0/12"), net("192.168.3.1/32")];
    assert_eq!(subnet_of(&mut ipam, "a", &routes), net("192.168.16.0/20"));
}

#[test]
fn exhausted_pools_are_told_of() {
    let mut ipam = Ipam::new(vec![(net("10.0.0.0/24"), 25)]);
    subnet_of(&mut ipam, "a", &[]);
    subnet_of(&mut ipam, "b", &[]);
    let error = ipam.add(&wanted("c", &[]), &[]).expect_err("all are used");
    assert!(matches!(&error, NetworkError::Conflict { message } if message.contains("fully subnetted")));
}

#[test]
fn a_subnet_that_is_asked_for_must_not_overlap_another_network() {
    let mut ipam = ipam();
    ipam.add(&wanted("a", &[pool("10.1.0.0/16")]), &[]).expect("free");
    let error = ipam.add(&wanted("b", &[pool("10.1.2.0/24")]), &[]).expect_err("overlaps");
    assert!(error.to_string().contains("Pool overlaps with other one on this address space"));
    let both = [pool("10.2.0.0/24"), pool("10.2.0.0/25")];
    ipam.add(&wanted("c", &both), &[]).expect_err("they overlap each other");
}

#[test]
fn wrong_subnets_gateways_and_ranges_are_refused() {
    let mut ipam = ipam();
    let error = ipam.add(&wanted("a", &[pool("10.0.0.1/24")]), &[]).expect_err("host bits");
    assert_eq!(error.to_string(), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24");
    let mut far = pool("10.0.0.0/24");
    far.gateway = Some(ip("10.0.1.1"));
    ipam.add(&wanted("a", &[far]), &[]).expect_err("not inside");
    let mut far = pool("10.0.0.0/24");
    far.range = Some(net("10.0.1.0/28"));
    ipam.add(&wanted("a", &[far]), &[]).expect_err("not inside");
}

#[test]
fn addresses_are_the_lowest_free_ones_and_come_back() {
    let mut ipam = ipam();
    ipam.add(&wanted("a", &[pool("10.0.0.0/29")]), &[]).expect("free");
    let mut take = |fixed| ipam.take("a", false, fixed).map(Option::unwrap);
    assert_eq!(take(None).unwrap(), net("10.0.0.2/29"));
    assert_eq!(take(Some(ip("10.0.0.4"))).unwrap(), net("10.0.0.4/29"));
    assert_eq!(take(None).unwrap(), net("10.0.0.3/29"));
    assert_eq!(take(None).unwrap(), net("10.0.0.5/29"));
    assert_eq!(take(None).unwrap(), net("10.0.0.6/29"));
    assert!(take(None).unwrap_err().to_string().contains("no available IPv4 addresses"));
    assert_eq!(take(Some(ip("10.0.0.4"))).unwrap_err().to_string(), "Address already in use");
    assert!(take(Some(ip("10.0.9.4"))).unwrap_err().to_string().contains("no configured subnet"));
    ipam.give_back("a", ip("10.0.0.4"));
    assert_eq!(ipam.take("a", false, None).unwrap(), Some(net("10.0.0.4/29")));
}

#[test]
fn range_gateway_and_reserved_addresses_are_kept() {
    let mut ipam = ipam();
    let mut asked = pool("10.0.0.0/24");
    asked.range = Some(net("10.0.0.16/28"));
    asked.reserved.insert("router".to_owned(), ip("10.0.0.17"));
    let pools = ipam.add(&wanted("a", &[asked]), &[]).expect("free");
    assert_eq!(pools[0].gateway, Some(ip("10.0.0.16")));
    assert_eq!(ipam.take("a", false, None).unwrap(), Some(net("10.0.0.18/24")));
}

#[test]
fn ipv6_has_a_subnet_of_its_own() {
    let mut ipam = ipam();
    let mut both = wanted("ab0123456789cdef", &[]);
    both.ipv6 = true;
    let pools = ipam.add(&both, &[]).expect("free");
    assert_eq!(pools[1].subnet, net("fdab:123:4567:89cd::/64"));
    assert_eq!(ipam.take(both.id, true, None).unwrap(), Some(net("fdab:123:4567:89cd::2/64")));
    assert_eq!(ipam.take("unknown", true, None).unwrap(), None);
}

#[test]
fn a_network_without_ipv6_gives_none() {
    let mut ipam = ipam();
    ipam.add(&wanted("a", &[]), &[]).expect("free");
    assert_eq!(ipam.take("a", true, None).unwrap(), None);
}

proptest! {
    #[test]
    fn chosen_subnets_overlap_neither_each_other_nor_routes(
        routes in prop::collection::vec((any::<u32>(), 8_u8..=32), 0..12),
    ) {
        let routes: Vec<IpNet> = routes
            .into_iter()
            .map(|(bits, size)| IpNet::new(IpAddr::from((bits & 0x00ff_ffff | 0x0a00_0000).to_be_bytes()), size).unwrap())
            .collect();
        let mut ipam = Ipam::new(vec![(net("10.0.0.0/8"), 12)]);
        let mut all = Vec::new();
        for id in 0..20 {
            if let Ok(pools) = ipam.add(&wanted(&id.to_string(), &[]), &routes) {
                all.push(pools[0].subnet);
            }
        }
        for (place, one) in all.iter().enumerate() {
            prop_assert!(routes.iter().all(|route| !overlap(*one, *route)));
            prop_assert!(all[place + 1..].iter().all(|other| !overlap(*one, *other)));
        }
    }
}
