//! A container's place in a network: its link, its addresses, its default route.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use ipnet::IpNet;

use super::bridge::{ICC, MTU, gateway_of, is_on, number, set_sysctl};
use super::{Placed, Sandbox, State, has_link, no_network, no_sandbox};
use crate::directory::Member;
use crate::error::kernel;
use crate::link::{Child, Links, Veth};
use crate::ports::Target;
use crate::sandbox;
use crate::{Driver, Endpoint, EndpointRequest, NetworkError, NetworkRequest};

impl State {
    pub(crate) fn connect(
        &mut self,
        container: &str,
        network: &str,
        request: EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        self.mend(network)?;
        let placed = self.networks.get(network).ok_or_else(|| no_network(network))?;
        let sandbox = self.sandboxes.get(container).ok_or_else(|| no_sandbox(container))?;
        if sandbox.endpoints.contains_key(network) {
            let name = request.names.first().map_or(container, String::as_str);
            let message = format!(
                "endpoint with name {name} already exists in network {}",
                placed.network.request.name
            );
            return Err(NetworkError::Forbidden { message });
        }
        let mut endpoint = blank(network, request)?;
        if has_link(placed.network.request.driver) {
            endpoint.interface = free_name(sandbox);
            self.fill(&mut endpoint)?;
            if let Err(error) = self.plug(container, &endpoint) {
                self.give_back(&endpoint);
                return Err(error);
            }
        }
        self.add_endpoint(container, endpoint.clone());
        let settled = self.settle(container);
        if let Err(error) = settled {
            self.disconnect(container, network)?;
            return Err(error);
        }
        Ok(endpoint)
    }

    /// Addresses, names of links, gateways.
    fn fill(&mut self, endpoint: &mut Endpoint) -> Result<(), NetworkError> {
        let placed = self.networks.get(&endpoint.network).ok_or_else(|| no_network(&endpoint.network))?;
        let request = &placed.network.request;
        endpoint.gateway4 = gateway_of(request, false).filter(|_| request.ipv4);
        endpoint.gateway6 = gateway_of(request, true);
        if request.driver == Driver::Bridge {
            endpoint.host_interface = format!("veth{}", &endpoint.id[..10]);
        }
        let (ipv6, network) = (request.ipv6, endpoint.network.clone());
        endpoint.ipv4 = self.ipam.take(&network, false, endpoint.request.ipv4)?;
        if ipv6 {
            endpoint.ipv6 = self
                .ipam
                .take(&network, true, endpoint.request.ipv6)
                .inspect_err(|_| self.give_back(endpoint))?;
        }
        if endpoint.mac.is_empty() {
            endpoint.mac = mac_of(endpoint.ipv4.map(|net| net.addr()), &endpoint.id);
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, endpoint: &Endpoint) {
        for address in endpoint.ipv4.iter().chain(&endpoint.ipv6) {
            self.ipam.give_back(&endpoint.network, address.addr());
        }
    }

    /// Makes the link and brings it up with its addresses.
    pub(super) fn plug(&mut self, container: &str, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let Self { networks, sandboxes, links, tag, .. } = self;
        let placed = networks.get(&endpoint.network).ok_or_else(|| no_network(&endpoint.network))?;
        if placed.index == 0 {
            let message = format!("the interface {} of the network is not there", placed.network.interface);
            return Err(NetworkError::NotFound { message });
        }
        let sandbox = sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        let alias = format!("{tag}{}", endpoint.id);
        match placed.network.request.driver {
            Driver::Bridge => add_veth(links, placed, sandbox, endpoint, &alias)?,
            _ => add_child(links, placed, sandbox, endpoint)?,
        }
        let configured = configure(sandbox, endpoint);
        if configured.is_err() {
            unplug(links, sandbox, endpoint)?;
        }
        configured
    }

    pub(super) fn add_endpoint(&mut self, container: &str, endpoint: Endpoint) {
        let addresses = endpoint.ipv4.iter().chain(&endpoint.ipv6).map(IpNet::addr).collect();
        let EndpointRequest { names, links, .. } = endpoint.request.clone();
        self.directory().add(container, &endpoint.network, Member { names, links, addresses });
        if let Some(sandbox) = self.sandboxes.get_mut(container) {
            sandbox.endpoints.insert(endpoint.network.clone(), endpoint);
        }
    }

    /// The best endpoint has the default route and the ports.
    pub(super) fn settle(&mut self, container: &str) -> Result<(), NetworkError> {
        let Self { networks, sandboxes, .. } = self;
        let sandbox = sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        for ipv6 in [false, true] {
            let best =
                best(networks, sandbox, |endpoint, request| way_out(endpoint, request, ipv6).is_some());
            let way = best.and_then(|(endpoint, request)| {
                Some((endpoint.interface.clone(), way_out(endpoint, request, ipv6)?))
            });
            route(&mut sandbox.space.links, ipv6, way)?;
        }
        let target = target_of(networks, sandbox);
        let changed = target != sandbox.target();
        *sandbox.target.write().unwrap_or_else(PoisonError::into_inner) = target;
        let ports = if changed { sandbox.published() } else { Vec::new() };
        self.ports_changed(&ports)
    }

    pub(crate) fn disconnect(&mut self, container: &str, network: &str) -> Result<(), NetworkError> {
        let name =
            self.networks.get(network).map_or(network, |placed| &placed.network.request.name).to_owned();
        let removed = self.sandboxes.get_mut(container).and_then(|sandbox| sandbox.endpoints.remove(network));
        let Some(endpoint) = removed else {
            let message = format!("container {container} is not connected to network {name}");
            return Err(NetworkError::NotFound { message });
        };
        self.forget_endpoint(container, &endpoint);
        let Self { sandboxes, links, .. } = self;
        let sandbox = sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        let unplugged = unplug(links, sandbox, &endpoint);
        self.settle(container).and(unplugged)
    }

    /// Its names and addresses are free.
    pub(super) fn forget_endpoint(&mut self, container: &str, endpoint: &Endpoint) {
        self.directory().remove(container, &endpoint.network);
        self.give_back(endpoint);
    }

    pub(crate) fn rename(
        &mut self,
        container: &str,
        network: &str,
        names: Vec<String>,
    ) -> Result<(), NetworkError> {
        let sandbox = self.sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        let endpoint = sandbox.endpoints.get_mut(network).ok_or_else(|| NetworkError::NotFound {
            message: format!("container {container} is not connected to network {network}"),
        })?;
        endpoint.request.names.clone_from(&names);
        self.directory().rename(container, network, names);
        Ok(())
    }
}

fn blank(network: &str, request: EndpointRequest) -> Result<Endpoint, NetworkError> {
    let mac = request.mac.clone().filter(|mac| !mac.is_empty()).unwrap_or_default();
    if !mac.is_empty() && parse_mac(&mac).is_none() {
        return Err(NetworkError::Invalid { message: format!("invalid MAC address: {mac}") });
    }
    Ok(Endpoint {
        id: random_id()?,
        network: network.to_owned(),
        request,
        interface: String::new(),
        host_interface: String::new(),
        mac,
        ipv4: None,
        gateway4: None,
        ipv6: None,
        gateway6: None,
    })
}

fn random_id() -> Result<String, NetworkError> {
    let mut bytes = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(kernel("read random bytes from /dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn free_name(sandbox: &Sandbox) -> String {
    let used: BTreeSet<&str> =
        sandbox.endpoints.values().map(|endpoint| endpoint.interface.as_str()).collect();
    let names = (0..=used.len()).map(|number| format!("eth{number}"));
    names.into_iter().find(|name| !used.contains(name.as_str())).unwrap_or_default()
}

/// `02:42:` and the IPv4 address; without one, parts of the endpoint's own number.
fn mac_of(address: Option<IpAddr>, id: &str) -> String {
    let tail = match address {
        Some(IpAddr::V4(address)) => address.octets(),
        _ => u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or_default().to_be_bytes(),
    };
    format!("02:42:{:02x}:{:02x}:{:02x}:{:02x}", tail[0], tail[1], tail[2], tail[3])
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn mac_bytes(endpoint: &Endpoint) -> Result<[u8; 6], NetworkError> {
    parse_mac(&endpoint.mac)
        .ok_or_else(|| NetworkError::Invalid { message: format!("invalid MAC address: {}", endpoint.mac) })
}

fn add_veth(
    links: &mut Links,
    placed: &Placed,
    sandbox: &Sandbox,
    endpoint: &Endpoint,
    alias: &str,
) -> Result<(), NetworkError> {
    links.add_veth(&Veth {
        host: &endpoint.host_interface,
        alias,
        inside: &endpoint.interface,
        mac: mac_bytes(endpoint)?,
        bridge: placed.index,
        mtu: number(&placed.network.request, MTU)?,
        namespace: sandbox.space.file.as_fd(),
        isolated: !is_on(&placed.network.request, ICC, true),
        hairpin: bridges_are_filtered(),
    })
}

/// With br_netfilter a redirected packet may have to leave by the port by which it came.
fn bridges_are_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|value| value.trim() == "1")
}

fn add_child(
    links: &mut Links,
    placed: &Placed,
    sandbox: &Sandbox,
    endpoint: &Endpoint,
) -> Result<(), NetworkError> {
    let request = &placed.network.request;
    let is_macvlan = request.driver == Driver::Macvlan;
    links.add_child(&Child {
        kind: if is_macvlan { "macvlan" } else { "ipvlan" },
        inside: &endpoint.interface,
        parent: placed.index,
        mac: if is_macvlan { Some(mac_bytes(endpoint)?) } else { None },
        mode: &mode_of(request)?,
        mtu: number(request, MTU)?,
        namespace: sandbox.space.file.as_fd(),
    })
}

/// The number of a mode; macvlan's has four bytes, ipvlan's two.
fn mode_of(request: &NetworkRequest) -> Result<Vec<u8>, NetworkError> {
    let option = if request.driver == Driver::Macvlan { "macvlan_mode" } else { "ipvlan_mode" };
    let mode = request.options.get(option).map_or("", String::as_str);
    let bytes = match (request.driver, mode) {
        (Driver::Macvlan, "" | "bridge") => 4_u32.to_ne_bytes().to_vec(),
        (Driver::Macvlan, "private") => 1_u32.to_ne_bytes().to_vec(),
        (Driver::Macvlan, "vepa") => 2_u32.to_ne_bytes().to_vec(),
        (Driver::Macvlan, "passthru") => 8_u32.to_ne_bytes().to_vec(),
        (Driver::Ipvlan, "" | "l2") => 0_u16.to_ne_bytes().to_vec(),
        (Driver::Ipvlan, "l3") => 1_u16.to_ne_bytes().to_vec(),
        (Driver::Ipvlan, "l3s") => 2_u16.to_ne_bytes().to_vec(),
        _ => return Err(NetworkError::Invalid { message: format!("unknown {option}: {mode}") }),
    };
    Ok(bytes)
}

fn configure(sandbox: &mut Sandbox, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let addresses: Vec<_> = endpoint.ipv4.iter().chain(&endpoint.ipv6).copied().collect();
    let index = sandbox.space.links.index(&endpoint.interface)?;
    if let Some(sysctls) = endpoint.request.options.get("com.docker.network.endpoint.sysctls") {
        let inside =
            sandbox::inside(sandbox.space.file.as_fd(), || set_sysctls(sysctls, &endpoint.interface));
        inside.map_err(kernel("enter a container's namespace"))??;
    }
    sandbox.space.links.configure(index, &addresses)
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…`: dots part folders.
fn set_sysctls(text: &str, interface: &str) -> Result<(), NetworkError> {
    for sysctl in text.split(',').map(str::trim).filter(|sysctl| !sysctl.is_empty()) {
        let parsed =
            sysctl.split_once('=').and_then(|(name, value)| Some((name.strip_prefix("net.")?, value)));
        let Some((name, value)) =
            parsed.filter(|(name, _)| !name.contains(['/', '\0']) && !name.contains(".."))
        else {
            return Err(NetworkError::Invalid { message: format!("invalid endpoint sysctl: {sysctl}") });
        };
        set_sysctl(&name.replace('.', "/").replace("IFNAME", interface), value)?;
    }
    Ok(())
}

fn unplug(links: &mut Links, sandbox: &mut Sandbox, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let (links, name) = match endpoint.host_interface.as_str() {
        "" => (&mut sandbox.space.links, endpoint.interface.as_str()),
        host => (links, host),
    };
    if name.is_empty() {
        return Ok(());
    }
    links.find(name)?.map_or(Ok(()), |link| links.remove(link.index))
}

type Networks = std::collections::BTreeMap<String, Placed>;

/// The endpoint with the highest priority, then the first network by name, among those that are fit.
fn best<'a>(
    networks: &'a Networks,
    sandbox: &'a Sandbox,
    fit: impl Fn(&Endpoint, &NetworkRequest) -> bool,
) -> Option<(&'a Endpoint, &'a NetworkRequest)> {
    let endpoints = sandbox.endpoints.values();
    let known = endpoints.filter_map(|endpoint| {
        networks.get(&endpoint.network).map(|placed| (endpoint, &placed.network.request))
    });
    known
        .filter(|(endpoint, request)| fit(endpoint, request))
        .min_by_key(|(endpoint, request)| (Reverse(endpoint.request.priority), &request.name))
}

/// How packets leave by an endpoint: not at all, straight by the link, or by a gateway.
fn way_out(endpoint: &Endpoint, request: &NetworkRequest, ipv6: bool) -> Option<Option<IpAddr>> {
    let (address, gateway) =
        if ipv6 { (endpoint.ipv6, endpoint.gateway6) } else { (endpoint.ipv4, endpoint.gateway4) };
    address?;
    let mode = request.options.get("ipvlan_mode").map_or("", String::as_str);
    let straight = request.driver == Driver::Ipvlan && mode.starts_with("l3") && !request.internal;
    if straight { Some(None) } else { gateway.map(Some) }
}

fn route(links: &mut Links, ipv6: bool, way: Option<(String, Option<IpAddr>)>) -> Result<(), NetworkError> {
    match way {
        Some((interface, gateway)) => {
            let index = links.index(&interface)?;
            links.set_default_route(index, ipv6, gateway)
        }
        None => links.remove_default_route(ipv6),
    }
}

fn target_of(networks: &Networks, sandbox: &Sandbox) -> Target {
    let fit = |_: &Endpoint, request: &NetworkRequest| request.driver == Driver::Bridge && !request.internal;
    best(networks, sandbox, fit).map_or_else(Target::default, |(endpoint, _)| Target {
        ipv4: endpoint.ipv4.map(|net| net.addr()),
        ipv6: endpoint.ipv6.map(|net| net.addr()),
    })
}
