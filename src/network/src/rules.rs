//! What happens to packets: the one table, from all networks and published ports.
//!
//! [`plan`] is pure; [`crate::nft`] hands its outcome to the kernel. Every rule stands in one of a few phases, so that no
//! order of networks changes what is let through.
//!
//! Spec: docs/decisions/010-network.md, nft(8).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

/// A bridge, as rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) interface: String,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) internal: bool,
    /// Packets that leave it get the host's address.
    pub(crate) masquerade: bool,
    /// Its containers reach each other.
    pub(crate) icc: bool,
}

/// A port of the host that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) protocol: Protocol,
    pub(crate) host: SocketAddr,
    pub(crate) container: SocketAddr,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Where a packet meets a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Packets from outside, before their connection is known.
    Raw,
    /// Packets from outside: where they go is changed here.
    Prerouting,
    /// The same for packets of the host itself.
    Output,
    /// Packets that pass through.
    Forward,
    /// Packets that leave: where they come from is changed here.
    Postrouting,
}

impl Chain {
    pub(crate) const ALL: [Self; 5] =
        [Self::Raw, Self::Prerouting, Self::Output, Self::Forward, Self::Postrouting];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Forward => "forward",
            Self::Postrouting => "postrouting",
        }
    }
}

/// What a packet must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    From(String),
    NotFrom(String),
    To(String),
    NotTo(String),
    Source(IpNet),
    Destination(IpNet),
    NotDestination(IpNet),
    /// Any address of the host; of IPv6 when true.
    Local(bool),
    Port(Protocol, u16),
    /// Part of a connection that was let through.
    Established,
    /// Its destination was changed.
    Translated,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Masquerade,
    Redirect(SocketAddr),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: Chain,
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

/// All rules of the host's table, in their order.
pub(crate) fn plan(bridges: &[Bridge], forwards: &[Forward]) -> Vec<Rule> {
    let mut rules = Vec::new();
    rules.extend(bridges.iter().flat_map(no_loopback_from));
    rules.extend(forwards.iter().flat_map(redirect));
    rules.extend(passing(bridges));
    rules.extend(bridges.iter().filter(|bridge| !bridge.internal).flat_map(leaving));
    rules
}

/// The rules in a sandbox: its name server's port is 53, whatever it is bound to.
pub(crate) fn names(udp: SocketAddr, tcp: SocketAddr) -> Vec<Rule> {
    let rule = |protocol, to: SocketAddr| Rule {
        chain: Chain::Output,
        matches: vec![Match::Destination(IpNet::from(to.ip())), Match::Port(protocol, 53)],
        verdict: Verdict::Redirect(to),
    };
    vec![rule(Protocol::Udp, udp), rule(Protocol::Tcp, tcp)]
}

/// `route_localnet` is on for bridges, so that the host's 127.0.0.1 reaches containers; the way back is closed here.
fn no_loopback_from(bridge: &Bridge) -> Vec<Rule> {
    let from = || Match::From(bridge.interface.clone());
    let rule = |what| Rule { chain: Chain::Raw, matches: vec![from(), what], verdict: Verdict::Drop };
    vec![rule(Match::Destination(loopback())), rule(Match::Source(loopback()))]
}

fn redirect(forward: &Forward) -> Vec<Rule> {
    let mut matches = vec![where_to(forward.host.ip()), Match::Port(forward.protocol, forward.host.port())];
    let verdict = Verdict::Redirect(forward.container);
    let outside = Rule { chain: Chain::Prerouting, matches: matches.clone(), verdict };
    if forward.host.is_ipv6() {
        // The kernel routes nothing from ::1 to another link: a relay answers there.
        matches.insert(1, Match::NotDestination(IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST))));
    }
    vec![outside, Rule { chain: Chain::Output, matches, verdict }]
}

fn where_to(host: IpAddr) -> Match {
    if host.is_unspecified() { Match::Local(host.is_ipv6()) } else { Match::Destination(IpNet::from(host)) }
}

/// First what is closed altogether, then what is open, then what remains closed.
fn passing(bridges: &[Bridge]) -> Vec<Rule> {
    let to = |bridge: &Bridge| Match::To(bridge.interface.clone());
    let from = |bridge: &Bridge| Match::From(bridge.interface.clone());
    let not_to = |bridge: &Bridge| Match::NotTo(bridge.interface.clone());
    let not_from = |bridge: &Bridge| Match::NotFrom(bridge.interface.clone());
    let rule = |matches, verdict| Rule { chain: Chain::Forward, matches, verdict };
    let mut rules = Vec::new();
    for bridge in bridges.iter().filter(|bridge| bridge.internal) {
        rules.push(rule(vec![from(bridge), not_to(bridge)], Verdict::Drop));
        rules.push(rule(vec![to(bridge), not_from(bridge)], Verdict::Drop));
    }
    for bridge in bridges {
        rules.push(rule(vec![to(bridge), Match::Established], Verdict::Accept));
        rules.push(rule(vec![to(bridge), Match::Translated], Verdict::Accept));
        let within = if bridge.icc { Verdict::Accept } else { Verdict::Drop };
        rules.push(rule(vec![from(bridge), to(bridge)], within));
    }
    rules.extend(bridges.iter().map(|bridge| rule(vec![to(bridge)], Verdict::Drop)));
    rules
}

fn leaving(bridge: &Bridge) -> Vec<Rule> {
    let to = || Match::To(bridge.interface.clone());
    let rule = |matches| Rule { chain: Chain::Postrouting, matches, verdict: Verdict::Masquerade };
    let mut rules = vec![rule(vec![Match::Source(loopback()), to()])];
    for subnet in &bridge.subnets {
        rules.push(rule(vec![Match::Source(*subnet), to(), Match::Translated]));
        if bridge.masquerade {
            rules.push(rule(vec![Match::Source(*subnet), Match::NotTo(bridge.interface.clone())]));
        }
    }
    rules
}

fn loopback() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.chain.name())?;
        for what in &self.matches {
            write!(formatter, " {what}")?;
        }
        match self.verdict {
            Verdict::Accept => write!(formatter, " accept"),
            Verdict::Drop => write!(formatter, " drop"),
            Verdict::Masquerade => write!(formatter, " masquerade"),
            Verdict::Redirect(to) => write!(formatter, " dnat to {to}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(link) => write!(formatter, "iifname {link}"),
            Self::NotFrom(link) => write!(formatter, "iifname != {link}"),
            Self::To(link) => write!(formatter, "oifname {link}"),
            Self::NotTo(link) => write!(formatter, "oifname != {link}"),
            Self::Source(net) => write!(formatter, "saddr {net}"),
            Self::Destination(net) => write!(formatter, "daddr {net}"),
            Self::NotDestination(net) => write!(formatter, "daddr != {net}"),
            Self::Local(ipv6) => write!(formatter, "{} local", if *ipv6 { "ip6" } else { "ip" }),
            Self::Port(protocol, port) => write!(formatter, "{protocol} dport {port}"),
            Self::Established => write!(formatter, "ct state established,related"),
            Self::Translated => write!(formatter, "ct status dnat"),
        }
    }
}

#[cfg(test)]
mod tests;
