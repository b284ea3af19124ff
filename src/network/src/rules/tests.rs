use super::{Bridge, Chain, Forward, Protocol, Rule, plan};

fn bridge(interface: &str, subnet: &str, internal: bool) -> Bridge {
    let subnets = vec![subnet.parse().expect("a subnet")];
    Bridge { interface: interface.to_owned(), subnets, internal, masquerade: true, icc: true }
}

fn forward(host: &str, container: &str) -> Forward {
    let parse = |text: &str| text.parse().expect("an address with a port");
    Forward { protocol: Protocol::Tcp, host: parse(host), container: parse(container) }
}

fn texts(rules: &[Rule], chain: Chain) -> Vec<String> {
    rules.iter().filter(|rule| rule.chain == chain).map(ToString::to_string).collect()
}

#[test]
fn a_bridge_masquerades_what_leaves_it_and_is_closed_to_others() {
    let rules = plan(&[bridge("br-a", "10.0.0.0/24", false)], &[]);
    assert_eq!(
        texts(&rules, Chain::Forward),
        [
            "forward: oifname br-a ct state established,related accept",
            "forward: oifname br-a ct status dnat accept",
            "forward: iifname br-a oifname br-a accept",
            "forward: oifname br-a drop",
        ]
    );
    assert_eq!(
        texts(&rules, Chain::Postrouting),
        [
            "postrouting: saddr 127.0.0.0/8 oifname br-a masquerade",
            "postrouting: saddr 10.0.0.0/24 oifname br-a ct status dnat masquerade",
            "postrouting: saddr 10.0.0.0/24 oifname != br-a masquerade",
        ]
    );
}

#[test]
fn internal_networks_are_closed_before_anything_is_open_in_any_order() {
    let open = bridge("br-a", "10.0.0.0/24", false);
    let closed = bridge("br-b", "10.0.1.0/24", true);
    for bridges in [[open.clone(), closed.clone()], [closed.clone(), open.clone()]] {
        let forward = texts(&plan(&bridges, &[]), Chain::Forward);
        assert_eq!(forward[0], "forward: iifname br-b oifname != br-b drop");
        assert_eq!(forward[1], "forward: oifname br-b iifname != br-b drop");
        let postrouting = texts(&plan(&bridges, &[]), Chain::Postrouting);
        assert!(postrouting.iter().all(|rule| !rule.contains("br-b")));
    }
}

#[test]
fn every_drop_between_bridges_stands_behind_every_accept() {
    let bridges = [bridge("br-a", "10.0.0.0/24", false), bridge("br-b", "10.0.1.0/24", false)];
    let forward = texts(&plan(&bridges, &[]), Chain::Forward);
    let last_accept = forward.iter().rposition(|rule| rule.ends_with("accept")).expect("accepts");
    let first_drop = forward.iter().position(|rule| rule.ends_with("drop")).expect("drops");
    assert!(last_accept < first_drop);
}

#[test]
fn containers_that_may_not_talk_are_kept_apart() {
    let mut apart = bridge("br-a", "10.0.0.0/24", false);
    apart.icc = false;
    let forward = texts(&plan(&[apart], &[]), Chain::Forward);
    assert!(forward.contains(&"forward: iifname br-a oifname br-a drop".to_owned()));
}

#[test]
fn a_port_on_all_addresses_leads_in_from_outside_and_from_the_host() {
    let rules = plan(&[], &[forward("0.0.0.0:8080", "10.0.0.2:80")]);
    assert_eq!(
        rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "prerouting: ip local tcp dport 8080 dnat to 10.0.0.2:80",
            "output: ip local tcp dport 8080 dnat to 10.0.0.2:80",
        ]
    );
}

#[test]
fn a_port_on_one_address_is_on_no_other_and_the_ipv6_loopback_is_left_to_the_relay() {
    let rules = plan(&[], &[forward("192.0.2.1:80", "10.0.0.2:80"), forward("[::]:80", "[fd00::2]:80")]);
    assert_eq!(rules[0].to_string(), "prerouting: daddr 192.0.2.1/32 tcp dport 80 dnat to 10.0.0.2:80");
    assert_eq!(rules[3].to_string(), "output: ip6 local daddr != ::1/128 tcp dport 80 dnat to [fd00::2]:80");
}

#[test]
fn the_hosts_loopback_is_closed_to_containers() {
    let rules = plan(&[bridge("br-a", "10.0.0.0/24", true)], &[]);
    assert_eq!(
        texts(&rules, Chain::Raw),
        ["raw: iifname br-a daddr 127.0.0.0/8 drop", "raw: iifname br-a saddr 127.0.0.0/8 drop"]
    );
}
