//! The table of rules in the kernel.
//!
//! [`Table::replace`] sets the whole content of one table in one step: packets meet either the old rules or the new
//! ones. Tables of others are never touched. What the rules are is for [`crate::rules`] to know.
//!
//! Spec: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::NetworkError;
use crate::error::kernel;
use crate::link::octets;
use crate::rules::{Chain, Match, Rule, Verdict};
use crate::wire::{ACK, APPEND, CREATE, Message, NETFILTER, Netlink};

/// One table of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Table {
    netlink: Netlink,
    name: String,
    chains: Vec<Chain>,
    /// Whether the table in the kernel is one that this process made.
    known: bool,
}

impl Table {
    /// That of the namespace this thread is in. The kernel is asked for nothing yet.
    pub(crate) fn open(name: &str, chains: &[Chain]) -> io::Result<Self> {
        let netlink = Netlink::open(NETFILTER)?.for_batches()?;
        Ok(Self { netlink, name: name.to_owned(), chains: chains.to_vec(), known: false })
    }

    /// These rules and no others are in the table from now on.
    pub(crate) fn replace(&mut self, rules: &[Rule]) -> Result<(), NetworkError> {
        let mut messages = vec![batch(BATCH_BEGIN), self.table(NEWTABLE)];
        if !self.known {
            messages.extend(self.chains.iter().map(|chain| self.chain(*chain)));
        }
        messages.push(self.flush());
        messages.extend(rules.iter().map(|rule| self.rule(rule)));
        self.commit(messages, "set the rules for packets (nf_tables)")?;
        self.known = true;
        Ok(())
    }

    fn commit(&mut self, mut messages: Vec<Message>, doing: &str) -> Result<(), NetworkError> {
        messages.push(batch(BATCH_END));
        self.netlink.send(messages).map_err(|(_, error)| kernel(doing)(error))
    }

    fn table(&self, kind: u16) -> Message {
        let flags = if kind == NEWTABLE { CREATE | ACK } else { ACK };
        let mut message = Message::new(subsystem(kind), flags, &head(0));
        message.text(1, &self.name);
        message
    }

    /// Deletes every rule of the table; chains stay.
    fn flush(&self) -> Message {
        let mut message = Message::new(subsystem(DELRULE), ACK, &head(0));
        message.text(RULE_TABLE, &self.name);
        message
    }

    fn chain(&self, chain: Chain) -> Message {
        let (hook, priority, kind) = place(chain);
        let mut message = Message::new(subsystem(NEWCHAIN), CREATE | ACK, &head(0));
        message.text(CHAIN_TABLE, &self.name).text(CHAIN_NAME, chain.name());
        message.nested(CHAIN_HOOK, |place| {
            place.big(1, hook).attribute(2, &priority.to_be_bytes());
        });
        message.big(CHAIN_POLICY, ACCEPT).text(CHAIN_TYPE, kind);
        message
    }

    fn rule(&self, rule: &Rule) -> Message {
        let mut message = Message::new(subsystem(NEWRULE), CREATE | APPEND | ACK, &head(0));
        message.text(RULE_TABLE, &self.name).text(RULE_CHAIN, rule.chain.name());
        message.nested(RULE_EXPRESSIONS, |list| {
            for what in &rule.matches {
                add_match(list, what);
            }
            add_verdict(list, rule.verdict);
        });
        message
    }
}

/// Hook, priority and type of a chain.
const fn place(chain: Chain) -> (u32, i32, &'static str) {
    match chain {
        Chain::Raw => (0, -300, "filter"),
        Chain::Prerouting => (0, -100, "nat"),
        Chain::Forward => (2, 0, "filter"),
        Chain::Output => (3, -100, "nat"),
        Chain::Postrouting => (4, 100, "nat"),
    }
}

fn batch(kind: u16) -> Message {
    Message::new(kind, 0, &head(SUBSYSTEM))
}

const fn subsystem(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// Family (both IPv4 and IPv6), version, and the subsystem of a batch.
const fn head(subsystem: u16) -> [u8; 4] {
    let [high, low] = subsystem.to_be_bytes();
    let family = if subsystem == 0 { INET } else { 0 };
    [family, 0, high, low]
}

fn expression(list: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    list.nested(LIST_ELEMENT, |element| {
        element.text(1, name).nested(2, data);
    });
}

fn add_match(list: &mut Message, what: &Match) {
    match what {
        Match::From(link) => link_is(list, IIFNAME, EQUAL, link),
        Match::NotFrom(link) => link_is(list, IIFNAME, NOT_EQUAL, link),
        Match::To(link) => link_is(list, OIFNAME, EQUAL, link),
        Match::NotTo(link) => link_is(list, OIFNAME, NOT_EQUAL, link),
        Match::Source(net) => address_is(list, true, EQUAL, *net),
        Match::Destination(net) => address_is(list, false, EQUAL, *net),
        Match::NotDestination(net) => address_is(list, false, NOT_EQUAL, *net),
        Match::Local(ipv6) => local(list, *ipv6),
        Match::Port(protocol, port) => port_is(list, protocol.number(), *port),
        Match::Established => connection_has(list, CT_STATE, ESTABLISHED_OR_RELATED),
        Match::Translated => connection_has(list, CT_STATUS, DESTINATION_CHANGED),
    }
}

fn link_is(list: &mut Message, key: u32, how: u32, link: &str) {
    let mut name = [0; 16];
    let length = link.len().min(15);
    name[..length].copy_from_slice(&link.as_bytes()[..length]);
    meta(list, key);
    compare(list, how, &name);
}

fn address_is(list: &mut Message, source: bool, how: u32, net: IpNet) {
    let (offset, size) = match (net, source) {
        (IpNet::V4(_), true) => (12, 4),
        (IpNet::V4(_), false) => (16, 4),
        (IpNet::V6(_), true) => (8, 16),
        (IpNet::V6(_), false) => (24, 16),
    };
    family_is(list, matches!(net, IpNet::V6(_)));
    payload(list, NETWORK_HEADER, offset, size);
    if net.prefix_len() < net.max_prefix_len() {
        mask(list, &octets(net.netmask()));
    }
    compare(list, how, &octets(net.network()));
}

fn local(list: &mut Message, ipv6: bool) {
    family_is(list, ipv6);
    expression(list, "fib", |fib| {
        fib.big(1, REGISTER).big(2, FIB_ADDRESS_TYPE).big(3, FIB_DESTINATION);
    });
    compare(list, EQUAL, &ROUTE_LOCAL.to_ne_bytes());
}

fn port_is(list: &mut Message, protocol: u8, port: u16) {
    meta(list, L4PROTO);
    compare(list, EQUAL, &[protocol]);
    payload(list, TRANSPORT_HEADER, 2, 2);
    compare(list, EQUAL, &port.to_be_bytes());
}

fn connection_has(list: &mut Message, key: u32, bits: u32) {
    expression(list, "ct", |ct| {
        ct.big(1, REGISTER).big(2, key);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, NOT_EQUAL, &0_u32.to_ne_bytes());
}

fn family_is(list: &mut Message, ipv6: bool) {
    meta(list, NFPROTO);
    compare(list, EQUAL, &[if ipv6 { FAMILY_IPV6 } else { FAMILY_IPV4 }]);
}

fn meta(list: &mut Message, key: u32) {
    expression(list, "meta", |meta| {
        meta.big(1, REGISTER).big(2, key);
    });
}

fn payload(list: &mut Message, base: u32, offset: u32, size: u32) {
    expression(list, "payload", |payload| {
        payload.big(1, REGISTER).big(2, base).big(3, offset).big(4, size);
    });
}

fn mask(list: &mut Message, mask: &[u8]) {
    expression(list, "bitwise", |bitwise| {
        bitwise.big(1, REGISTER).big(2, REGISTER).big(3, u32::try_from(mask.len()).unwrap_or_default());
        bitwise.nested(4, |data| {
            data.attribute(1, mask);
        });
        bitwise.nested(5, |data| {
            data.attribute(1, &vec![0; mask.len()]);
        });
    });
}

fn compare(list: &mut Message, how: u32, value: &[u8]) {
    expression(list, "cmp", |cmp| {
        cmp.big(1, REGISTER).big(2, how).nested(3, |data| {
            data.attribute(1, value);
        });
    });
}

fn add_verdict(list: &mut Message, verdict: Verdict) {
    match verdict {
        Verdict::Accept => end(list, ACCEPT),
        Verdict::Drop => end(list, DROP),
        Verdict::Masquerade => expression(list, "masq", |_| {}),
        Verdict::Redirect(to) => redirect(list, to),
    }
}

fn end(list: &mut Message, code: u32) {
    expression(list, "immediate", |immediate| {
        immediate.big(1, REGISTER_VERDICT).nested(2, |data| {
            data.nested(2, |verdict| {
                verdict.big(1, code);
            });
        });
    });
}

fn redirect(list: &mut Message, to: SocketAddr) {
    load(list, REGISTER, &octets(to.ip()));
    load(list, REGISTER_PORT, &to.port().to_be_bytes());
    let family = if matches!(to.ip(), IpAddr::V6(_)) { FAMILY_IPV6 } else { FAMILY_IPV4 };
    expression(list, "nat", |nat| {
        nat.big(1, DNAT).big(2, u32::from(family)).big(3, REGISTER).big(5, REGISTER_PORT);
    });
}

fn load(list: &mut Message, register: u32, value: &[u8]) {
    expression(list, "immediate", |immediate| {
        immediate.big(1, register).nested(2, |data| {
            data.attribute(1, value);
        });
    });
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;

const INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const REGISTER_PORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const ROUTE_LOCAL: u32 = 2;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 6;
const DESTINATION_CHANGED: u32 = 0x20;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const DNAT: u32 = 1;
