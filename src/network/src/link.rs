//! Links, addresses and routes.
//!
//! [`Links`] speaks to the kernel in one namespace: the host's or a sandbox's. Which links there are to be is for
//! [`crate::state`] to know.
//!
//! Spec: rtnetlink(7), linux/if_link.h, linux/if_bridge.h.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use crate::NetworkError;
use crate::error::kernel;
use crate::wire::{
    ACK, Answer, CREATE, DUMP, EXCLUSIVE, Message, Netlink, REPLACE, ROUTE, attributes, text_of,
};

/// A link as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`; empty for hardware.
    pub(crate) kind: String,
    pub(crate) alias: String,
    /// The bridge it is a port of.
    pub(crate) master: u32,
}

/// A link's place at a bridge, and its other end in a sandbox.
pub(crate) struct Veth<'a> {
    pub(crate) host: &'a str,
    pub(crate) alias: &'a str,
    pub(crate) inside: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) bridge: u32,
    pub(crate) mtu: Option<u32>,
    pub(crate) namespace: BorrowedFd<'a>,
    /// Ports that are isolated reach the bridge, not each other.
    pub(crate) isolated: bool,
    /// Packets may leave by the port by which they came.
    pub(crate) hairpin: bool,
}

/// A link below a link of the host, straight in a sandbox.
pub(crate) struct Child<'a> {
    pub(crate) kind: &'a str,
    pub(crate) inside: &'a str,
    pub(crate) parent: u32,
    pub(crate) mac: Option<[u8; 6]>,
    /// The mode's number, as the kernel wants it for this kind.
    pub(crate) mode: &'a [u8],
    pub(crate) mtu: Option<u32>,
    pub(crate) namespace: BorrowedFd<'a>,
}

/// The links of one namespace.
#[derive(Debug)]
pub(crate) struct Links {
    netlink: Netlink,
}

impl Links {
    /// Those of the namespace this thread is in.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(ROUTE)? })
    }

    pub(crate) fn all(&mut self) -> Result<Vec<Link>, NetworkError> {
        let message = Message::new(GETLINK, DUMP, &link_head(0, 0, 0));
        let answers = self.netlink.ask(message).map_err(kernel("list the links"))?;
        Ok(answers.iter().filter_map(read_link).collect())
    }

    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut message = Message::new(GETLINK, ACK, &link_head(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.netlink.ask(message) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(NO_DEVICE) => Ok(None),
            Err(error) => Err(kernel(format!("find the link {name}"))(error)),
        }
    }

    pub(crate) fn index(&mut self, name: &str) -> Result<u32, NetworkError> {
        let found = self.find(name)?;
        found.map(|link| link.index).ok_or_else(|| NetworkError::NotFound {
            message: format!("there is no link {name} on this host"),
        })
    }

    /// Makes a bridge, up, without addresses.
    pub(crate) fn add_bridge(
        &mut self,
        name: &str,
        alias: &str,
        mac: [u8; 6],
        mtu: Option<u32>,
    ) -> Result<u32, NetworkError> {
        let mut add = Message::new(NEWLINK, ACK | CREATE | EXCLUSIVE, &link_head(0, 0, 0));
        add.text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac);
        add.number_if(IFLA_MTU, mtu);
        add.nested(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
        let messages = vec![add, named_alias(name, alias), named_no_ipv6(name), named_up(name)];
        self.send(messages, || format!("make the bridge {name}"))?;
        self.index(name)
    }

    /// Makes a link that needs nothing but its kind: `dummy`.
    pub(crate) fn add_plain(&mut self, name: &str, alias: &str, kind: &str) -> Result<u32, NetworkError> {
        let mut add = Message::new(NEWLINK, ACK | CREATE | EXCLUSIVE, &link_head(0, 0, 0));
        add.text(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, kind);
        });
        self.send(vec![add, named_alias(name, alias), named_up(name)], || format!("make the link {name}"))?;
        self.index(name)
    }

    pub(crate) fn add_vlan(
        &mut self,
        name: &str,
        alias: &str,
        parent: u32,
        tag: u16,
    ) -> Result<u32, NetworkError> {
        let mut add = Message::new(NEWLINK, ACK | CREATE | EXCLUSIVE, &link_head(0, 0, 0));
        add.text(IFLA_IFNAME, name).number(IFLA_LINK, parent).nested(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "vlan").nested(INFO_DATA, |data| {
                data.attribute(VLAN_ID, &tag.to_ne_bytes());
            });
        });
        self.send(vec![add, named_alias(name, alias), named_up(name)], || format!("make the VLAN {name}"))?;
        self.index(name)
    }

    /// Makes both ends; the one in the sandbox has no address yet and is down.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetworkError> {
        let doing = || format!("make the link {} of a container", veth.host);
        let messages = vec![new_veth(veth), named_alias(veth.host, veth.alias), named_no_ipv6(veth.host)];
        self.send(messages, doing)?;
        let index = self.index(veth.host)?;
        let mut messages = vec![Message::new(SETLINK, ACK, &link_head(index, UP, UP))];
        if veth.isolated || veth.hairpin {
            messages.insert(0, port_flags(index, veth));
        }
        self.send(messages, doing)
    }

    /// Makes a link in the sandbox that sends by a link of the host.
    pub(crate) fn add_child(&mut self, child: &Child<'_>) -> Result<(), NetworkError> {
        let mut add = Message::new(NEWLINK, ACK | CREATE | EXCLUSIVE, &link_head(0, 0, 0));
        add.text(IFLA_IFNAME, child.inside).number(IFLA_LINK, child.parent);
        add.attribute(IFLA_NET_NS_FD, &child.namespace.as_raw_fd().to_ne_bytes());
        if let Some(mac) = child.mac {
            add.attribute(IFLA_ADDRESS, &mac);
        }
        add.number_if(IFLA_MTU, child.mtu);
        add.nested(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, child.kind).nested(INFO_DATA, |data| {
                data.attribute(CHILD_MODE, child.mode);
            });
        });
        self.send(vec![add], || format!("make a {} link", child.kind))
    }

    /// Gives a link its addresses and brings it up. Without IPv6 addresses it gets none of its own making either.
    pub(crate) fn configure(&mut self, index: u32, addresses: &[IpNet]) -> Result<(), NetworkError> {
        let mut messages = Vec::new();
        if !addresses.iter().any(|address| matches!(address, IpNet::V6(_))) {
            messages.push(no_ipv6(index));
        }
        messages.extend(addresses.iter().map(|address| new_address(index, *address)));
        messages.push(Message::new(SETLINK, ACK, &link_head(index, UP, UP)));
        self.send(messages, || "give a link its addresses".to_owned())
    }

    pub(crate) fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetworkError> {
        self.send(vec![new_address(index, address)], || format!("give a link the address {address}"))
    }

    pub(crate) fn remove_address(&mut self, index: u32, address: IpNet) -> Result<(), NetworkError> {
        let message = address_message(DELADDR, ACK, index, address);
        self.send(vec![message], || format!("take the address {address} from a link"))
    }

    /// The addresses of all links, with the link's index.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, NetworkError> {
        let message = Message::new(GETADDR, DUMP, &[0; 8]);
        let answers = self.netlink.ask(message).map_err(kernel("list the addresses"))?;
        Ok(answers.iter().filter_map(read_address).collect())
    }

    /// The routes of all tables: where to, and by which link.
    pub(crate) fn routes(&mut self) -> Result<Vec<(u32, IpNet)>, NetworkError> {
        let message = Message::new(GETROUTE, DUMP, &[0; 12]);
        let answers = self.netlink.ask(message).map_err(kernel("list the routes"))?;
        Ok(answers.iter().filter_map(read_route).collect())
    }

    /// The default route goes by this gateway; without a gateway, straight by the link.
    pub(crate) fn set_default_route(
        &mut self,
        index: u32,
        ipv6: bool,
        gateway: Option<IpAddr>,
    ) -> Result<(), NetworkError> {
        let scope = if gateway.is_none() && !ipv6 { SCOPE_LINK } else { 0 };
        let mut message = Message::new(NEWROUTE, ACK | CREATE | REPLACE, &route_head(ipv6, scope));
        message.number(RTA_OIF, index);
        if let Some(gateway) = gateway {
            message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        self.send(vec![message], || "set a container's default route".to_owned())
    }

    /// There is no default route; none to take away is no error.
    pub(crate) fn remove_default_route(&mut self, ipv6: bool) -> Result<(), NetworkError> {
        let message = Message::new(DELROUTE, ACK, &route_head(ipv6, SCOPE_NOWHERE));
        match self.netlink.send(vec![message]) {
            Err((_, error)) if !error.raw_os_error().is_some_and(|code| NO_ROUTE.contains(&code)) => {
                Err(kernel("take a container's default route away")(error))
            }
            _ => Ok(()),
        }
    }

    /// The port of a bridge hears and says nothing any more. Its link is about to go: failing to is no harm.
    pub(crate) fn silence(&mut self, index: u32) {
        let mut head = link_head(index, 0, 0);
        head[0] = FAMILY_BRIDGE;
        let mut message = Message::new(SETLINK, ACK, &head);
        message.nested(IFLA_PROTINFO, |port| {
            port.attribute(PORT_STATE, &[PORT_DISABLED]);
        });
        if let Err((_, error)) = self.netlink.send(vec![message]) {
            tracing::debug!(%error, index, "a bridge's port is not closed");
        }
    }

    /// Brings a link up.
    pub(crate) fn up(&mut self, index: u32) -> Result<(), NetworkError> {
        self.send(vec![Message::new(SETLINK, ACK, &link_head(index, UP, UP))], || {
            "bring a link up".to_owned()
        })
    }

    /// Takes a link away; one that is gone is no error.
    pub(crate) fn remove(&mut self, index: u32) -> Result<(), NetworkError> {
        let message = Message::new(DELLINK, ACK, &link_head(index, 0, 0));
        self.lenient(message, "take a link away")
    }

    /// Takes these links away with one request; those that are gone are no error.
    pub(crate) fn remove_all(&mut self, links: &[u32]) -> Result<(), NetworkError> {
        for link in links {
            let mut mark = Message::new(SETLINK, ACK, &link_head(*link, 0, 0));
            mark.number(IFLA_GROUP, GROUP_TO_GO);
            self.lenient(mark, "mark a link")?;
        }
        let mut remove = Message::new(DELLINK, ACK, &link_head(0, 0, 0));
        remove.number(IFLA_GROUP, GROUP_TO_GO);
        self.lenient(remove, "take links away")
    }

    /// Sends a request whose link may be gone.
    fn lenient(&mut self, message: Message, doing: &str) -> Result<(), NetworkError> {
        match self.netlink.send(vec![message]) {
            Err((_, error)) if error.raw_os_error() != Some(NO_DEVICE) => Err(kernel(doing)(error)),
            _ => Ok(()),
        }
    }

    fn send(&mut self, messages: Vec<Message>, doing: impl FnOnce() -> String) -> Result<(), NetworkError> {
        self.netlink.send(messages).map_err(|(_, error)| kernel(doing())(error))
    }
}

fn new_veth(veth: &Veth<'_>) -> Message {
    let mut add = Message::new(NEWLINK, ACK | CREATE | EXCLUSIVE, &link_head(0, 0, 0));
    add.text(IFLA_IFNAME, veth.host).number(IFLA_MASTER, veth.bridge);
    add.number_if(IFLA_MTU, veth.mtu);
    add.nested(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "veth").nested(INFO_DATA, |data| {
            data.nested(VETH_PEER, |peer| {
                peer.raw(&link_head(0, 0, 0)).text(IFLA_IFNAME, veth.inside);
                peer.attribute(IFLA_ADDRESS, &veth.mac);
                peer.number_if(IFLA_MTU, veth.mtu);
                peer.attribute(IFLA_NET_NS_FD, &veth.namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    add
}

/// Links of a bridge are found by their number only.
fn port_flags(index: u32, veth: &Veth<'_>) -> Message {
    let mut head = link_head(index, 0, 0);
    head[0] = FAMILY_BRIDGE;
    let mut message = Message::new(SETLINK, ACK, &head);
    message.nested(IFLA_PROTINFO, |port| {
        port.attribute(PORT_MODE, &[u8::from(veth.hairpin)]);
        port.attribute(PORT_ISOLATED, &[u8::from(veth.isolated)]);
    });
    message
}

fn named_alias(name: &str, alias: &str) -> Message {
    let mut message = Message::new(SETLINK, ACK, &link_head(0, 0, 0));
    message.text(IFLA_IFNAME, name).attribute(IFLA_IFALIAS, alias.as_bytes());
    message
}

fn named_up(name: &str) -> Message {
    let mut message = Message::new(SETLINK, ACK, &link_head(0, UP, UP));
    message.text(IFLA_IFNAME, name);
    message
}

fn named_no_ipv6(name: &str) -> Message {
    let mut message = Message::new(SETLINK, ACK, &link_head(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    no_generated_address(&mut message);
    message
}

fn no_ipv6(index: u32) -> Message {
    let mut message = Message::new(SETLINK, ACK, &link_head(index, 0, 0));
    no_generated_address(&mut message);
    message
}

/// The link makes itself no `fe80::` address: nothing has to wait until it is known to be unique.
fn no_generated_address(message: &mut Message) {
    message.nested(IFLA_AF_SPEC, |families| {
        families.nested(FAMILY_IPV6, |ipv6| {
            ipv6.attribute(INET6_ADDR_GEN_MODE, &[GENERATE_NONE]);
        });
    });
}

fn new_address(index: u32, address: IpNet) -> Message {
    address_message(NEWADDR, ACK | CREATE | REPLACE, index, address)
}

fn address_message(kind: u16, flags: u16, index: u32, address: IpNet) -> Message {
    let (family, own) = family_of(address.addr());
    let mut head = vec![family, address.prefix_len(), 0, 0];
    head.extend(index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &head);
    message.attribute(IFA_LOCAL, &own).attribute(IFA_ADDRESS, &own);
    if let IpNet::V4(net) = address {
        message.attribute(IFA_BROADCAST, &net.broadcast().octets());
    } else {
        message.number(IFA_FLAGS, NO_DUPLICATE_DETECTION);
    }
    message
}

fn family_of(address: IpAddr) -> (u8, Vec<u8>) {
    (if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 as u8 }, octets(address))
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&change.to_ne_bytes());
    head
}

fn route_head(ipv6: bool, scope: u8) -> [u8; 12] {
    let family = if ipv6 { FAMILY_IPV6 as u8 } else { FAMILY_IPV4 };
    let (protocol, kind) = if scope == SCOPE_NOWHERE { (0, 0) } else { (PROTOCOL_BOOT, UNICAST) };
    [family, 0, 0, 0, TABLE_MAIN, protocol, scope, kind, 0, 0, 0, 0]
}

fn number_of(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_ne_bytes)
}

fn read_link(answer: &Answer) -> Option<Link> {
    if answer.kind != NEWLINK {
        return None;
    }
    let index = number_of(answer.body.get(4..8)?);
    let mut link = Link { index, name: String::new(), kind: String::new(), alias: String::new(), master: 0 };
    for (kind, value) in attributes(answer.body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_IFALIAS => link.alias = text_of(value),
            IFLA_MASTER => link.master = number_of(value),
            IFLA_LINKINFO => link.kind = kind_of(value),
            _ => {}
        }
    }
    Some(link)
}

fn kind_of(info: &[u8]) -> String {
    let found = attributes(info).into_iter().find(|(kind, _)| *kind == INFO_KIND);
    found.map(|(_, value)| text_of(value)).unwrap_or_default()
}

fn read_address(answer: &Answer) -> Option<(u32, IpNet)> {
    let head = answer.body.get(..8)?;
    let found = attributes(answer.body.get(8..)?);
    let of = |wanted| found.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let address = ip_of(of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?)?;
    Some((number_of(&head[4..8]), IpNet::new(address, head[1]).ok()?))
}

fn read_route(answer: &Answer) -> Option<(u32, IpNet)> {
    let prefix = *answer.body.get(1)?;
    let found = attributes(answer.body.get(12..)?);
    let of = |wanted| found.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let to = IpNet::new(ip_of(of(RTA_DST)?)?, prefix).ok()?;
    Some((of(RTA_OIF).map_or(0, number_of), to))
}

fn ip_of(value: &[u8]) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = value.try_into().ok();
    let sixteen: Option<[u8; 16]> = value.try_into().ok();
    four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from))
}

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
/// `knar`: nobody else uses this number.
const GROUP_TO_GO: u32 = 0x6b6e_6172;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const VLAN_ID: u16 = 1;
/// The same number for macvlan and ipvlan.
const CHILD_MODE: u16 = 1;
const PORT_STATE: u16 = 1;
const PORT_DISABLED: u8 = 0;
const PORT_MODE: u16 = 4;
const PORT_ISOLATED: u16 = 33;
const INET6_ADDR_GEN_MODE: u16 = 8;
const GENERATE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const NO_DUPLICATE_DETECTION: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const UNICAST: u8 = 1;

const UP: u32 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_BRIDGE: u8 = 7;
const FAMILY_IPV6: u16 = 10;
const NO_DEVICE: i32 = 19;
/// No such route, no table yet, no such family here.
const NO_ROUTE: [i32; 4] = [3, 2, 97, 95];
