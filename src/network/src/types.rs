//! What networks are made of: the words that the engine and this crate share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What moves packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host.
    Bridge,
    /// The host's own.
    Host,
    /// None but the loopback.
    Null,
    /// A second MAC address on a link of the host.
    Macvlan,
    /// A second IP address on a link of the host.
    Ipvlan,
}

/// Addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// All of them.
    pub subnet: IpNet,
    /// Those that are given out; all when `None`.
    pub range: Option<IpNet>,
    /// The bridge's own.
    pub gateway: Option<IpAddr>,
    /// Never given out, by what they are for.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// What a network is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRequest {
    /// 64 hexadecimal digits, made by the caller.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What moves packets.
    pub driver: Driver,
    /// Nothing goes out of it or comes into it.
    pub internal: bool,
    /// Whether it has IPv4 addresses.
    pub ipv4: bool,
    /// Whether it has IPv6 addresses.
    pub ipv6: bool,
    /// As asked for; empty for one of the default pools.
    pub pools: Vec<Pool>,
    /// `com.docker.network.*`, `parent`, `macvlan_mode`, `mtu`.
    pub options: BTreeMap<String, String>,
}

/// A network as it is: what the engine writes down and gives back after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// What was asked for, with pools and gateways filled in.
    pub request: NetworkRequest,
    /// The bridge's or parent's name on the host; empty for host and null.
    pub interface: String,
}

/// What a container's place in a network is to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRequest {
    /// A fixed IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// A fixed MAC address: `02:42:…`.
    pub mac: Option<String>,
    /// Names by which others of the network find it: its name, short id and aliases.
    pub names: Vec<String>,
    /// Names that only this container knows: alias → container id.
    pub links: BTreeMap<String, String>,
    /// The endpoint with the highest one has the default route.
    pub priority: i64,
    /// Options of the driver, such as sysctls.
    pub options: BTreeMap<String, String>,
}

/// A container's place in a network, while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// What was asked for: a restarted engine needs the names.
    pub request: EndpointRequest,
    /// In the container: `eth0`.
    pub interface: String,
    /// On the host: `veth…`; empty for macvlan.
    pub host_interface: String,
    /// `02:42:…`.
    pub mac: String,
    /// With its prefix.
    pub ipv4: Option<IpNet>,
    /// The way out.
    pub gateway4: Option<IpAddr>,
    /// With its prefix.
    pub ipv6: Option<IpNet>,
    /// The way out.
    pub gateway6: Option<IpAddr>,
}

/// A port to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// In the container.
    pub container_port: u16,
    /// On which address of the host; `None` for all, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// First and last port of the host to choose from; `None` for a free one.
    pub host_ports: Option<(u16, u16)>,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// In the container.
    pub container_port: u16,
    /// `0.0.0.0`, `::` or one address.
    pub host_ip: IpAddr,
    /// On the host.
    pub host_port: u16,
}

/// What a running container has, as a daemon before this one left it.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The container.
    pub container: String,
    /// Its places.
    pub endpoints: Vec<Endpoint>,
    /// Its ports.
    pub ports: Vec<PublishedPort>,
}
