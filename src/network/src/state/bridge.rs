//! The life of a network: its addresses, its link, its rules.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Placed, State, has_link, no_network};
use crate::dns::host_servers;
use crate::error::kernel;
use crate::ipam::Wanted;
use crate::rules::Bridge;
use crate::{Driver, Network, NetworkError, NetworkRequest, Pool};

impl State {
    pub(crate) fn create(&mut self, mut request: NetworkRequest) -> Result<Network, NetworkError> {
        if self.networks.contains_key(&request.id) {
            let message = format!("network with id {} already exists", request.id);
            return Err(NetworkError::Conflict { message });
        }
        if !has_link(request.driver) {
            return Ok(self.place(Network { request, interface: String::new() }, 0, false));
        }
        let interface = interface_of(&request)?;
        self.take_over_addresses(&mut request, &interface)?;
        request.pools = self.choose_pools(&request)?;
        let id = request.id.clone();
        let made = self.make_network(Network { request, interface });
        made.inspect_err(|_| self.ipam.remove(&id))
    }

    fn choose_pools(&mut self, request: &NetworkRequest) -> Result<Vec<Pool>, NetworkError> {
        let busy = self.busy()?;
        let NetworkRequest { id, name, ipv4, ipv6, pools, .. } = request;
        self.ipam.add(&Wanted { id, name, ipv4: *ipv4, ipv6: *ipv6, pools }, &busy)
    }

    /// What the host reaches by links that are not ours, and its name servers.
    fn busy(&mut self) -> Result<Vec<IpNet>, NetworkError> {
        let ours: BTreeSet<u32> = self
            .links
            .all()?
            .into_iter()
            .filter(|link| link.alias.starts_with(&self.tag))
            .map(|link| link.index)
            .collect();
        let routes = self.links.routes()?.into_iter();
        let others = routes.filter(|(index, to)| !ours.contains(index) && to.prefix_len() > 0);
        Ok(others.map(|(_, to)| to).chain(host_servers().into_iter().map(IpNet::from)).collect())
    }

    /// A bridge that somebody made before keeps its addresses: they are the network's gateways.
    fn take_over_addresses(&mut self, request: &mut NetworkRequest, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.links.find(name)? else { return Ok(()) };
        if request.driver != Driver::Bridge || link.alias.starts_with(&self.tag) || !request.pools.is_empty()
        {
            return Ok(());
        }
        let own = self.links.addresses()?.into_iter().filter(|(index, _)| *index == link.index);
        let fitting = own.map(|(_, address)| address).filter(|address| match address {
            IpNet::V4(_) => request.ipv4,
            IpNet::V6(net) => request.ipv6 && !net.addr().is_unicast_link_local(),
        });
        request.pools = fitting
            .map(|address| Pool {
                subnet: address.trunc(),
                range: None,
                gateway: Some(address.addr()),
                reserved: std::collections::BTreeMap::new(),
            })
            .collect();
        Ok(())
    }

    fn make_network(&mut self, network: Network) -> Result<Network, NetworkError> {
        let (index, owned) = self.make_link(&network)?;
        let id = network.request.id.clone();
        let network = self.place(network, index, owned);
        let prepared = self.prepare(&network, index).and_then(|()| self.apply_rules());
        if let Err(error) = prepared {
            self.unplace(&id);
            if owned {
                self.links.remove(index)?;
            }
            return Err(error);
        }
        Ok(network)
    }

    pub(super) fn place(&mut self, network: Network, index: u32, owned: bool) -> Network {
        let request = &network.request;
        let named = request.name != "bridge" && has_link(request.driver);
        let internal = request.internal;
        self.directory().add_network(&request.id, &request.name, named, internal);
        self.networks.insert(request.id.clone(), Placed { network: network.clone(), index, owned });
        network
    }

    fn unplace(&mut self, id: &str) -> Option<Placed> {
        self.directory().remove_network(id);
        self.networks.remove(id)
    }

    /// Makes the link of a network that has none, or finds it.
    pub(super) fn mend(&mut self, id: &str) -> Result<(), NetworkError> {
        let placed = self.networks.get(id).ok_or_else(|| no_network(id))?;
        if placed.index != 0 || !has_link(placed.network.request.driver) {
            return Ok(());
        }
        let network = placed.network.clone();
        let (index, owned) = self.make_link(&network)?;
        if let Some(placed) = self.networks.get_mut(id) {
            (placed.index, placed.owned) = (index, owned);
        }
        self.prepare(&network, index)
    }

    /// Makes the link or finds the one that is there; says whether it is ours.
    fn make_link(&mut self, network: &Network) -> Result<(u32, bool), NetworkError> {
        match network.request.driver {
            Driver::Bridge => self.make_bridge(network),
            _ => self.make_parent(network),
        }
    }

    fn make_bridge(&mut self, network: &Network) -> Result<(u32, bool), NetworkError> {
        let name = network.interface.as_str();
        let alias = format!("{}{}", self.tag, network.request.id);
        match self.links.find(name)? {
            Some(link) if link.kind != "bridge" => {
                let message = format!("the interface {name} exists and is no bridge");
                return Err(NetworkError::Conflict { message });
            }
            Some(link) if link.alias == alias => return Ok((link.index, true)),
            Some(link) if link.alias.starts_with(&self.tag) => self.links.remove(link.index)?,
            Some(link) => {
                self.links.up(link.index)?;
                return Ok((link.index, false));
            }
            None => {}
        }
        let mac = mac_of(&network.request.id);
        let index = self.links.add_bridge(name, &alias, mac, number(&network.request, MTU)?)?;
        Ok((index, true))
    }

    /// The link below macvlan and ipvlan: one of the host, a VLAN of one (`eth0.10`), or one that leads nowhere.
    fn make_parent(&mut self, network: &Network) -> Result<(u32, bool), NetworkError> {
        let name = network.interface.as_str();
        let alias = format!("{}{}", self.tag, network.request.id);
        if let Some(link) = self.links.find(name)? {
            return Ok((link.index, link.alias == alias));
        }
        if !network.request.options.contains_key("parent") {
            return Ok((self.links.add_plain(name, &alias, "dummy")?, true));
        }
        let vlan = name.rsplit_once('.').and_then(|(parent, tag)| Some((parent, tag.parse().ok()?)));
        let Some((parent, tag)) = vlan else {
            let message = format!("the parent interface {name} was not found on this host");
            return Err(NetworkError::Invalid { message });
        };
        let parent = self.links.index(parent)?;
        Ok((self.links.add_vlan(name, &alias, parent, tag)?, true))
    }

    /// Gives the bridge its addresses and lets the host forward.
    fn prepare(&mut self, network: &Network, index: u32) -> Result<(), NetworkError> {
        let request = &network.request;
        if request.driver != Driver::Bridge {
            return Ok(());
        }
        if request.ipv6 {
            set_sysctl(&format!("ipv6/conf/{}/disable_ipv6", network.interface), "0")?;
            set_sysctl(&format!("ipv6/conf/{}/accept_ra", network.interface), "0")?;
        }
        let inhibited = is_on(request, "com.docker.network.bridge.inhibit_ipv4", false);
        for pool in &request.pools {
            let Some(gateway) = pool.gateway else { continue };
            if let Ok(address) = IpNet::new(gateway, pool.subnet.prefix_len())
                && !(inhibited && gateway.is_ipv4())
            {
                self.links.add_address(index, address)?;
            }
        }
        if request.internal {
            return Ok(());
        }
        set_sysctl(&format!("ipv4/conf/{}/route_localnet", network.interface), "1")?;
        set_sysctl("ipv4/ip_forward", "1")?;
        if request.ipv6 {
            set_sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: &str) -> Result<(), NetworkError> {
        let placed = self.networks.get(id).ok_or_else(|| no_network(id))?;
        if let Some(active) = self.active(id) {
            let name = &placed.network.request.name;
            let message =
                format!("error while removing network: network {name} has active endpoints{active}");
            return Err(NetworkError::Forbidden { message });
        }
        let Some(placed) = self.unplace(id) else { return Ok(()) };
        self.ipam.remove(id);
        if !has_link(placed.network.request.driver) {
            return Ok(());
        }
        let applied = self.apply_rules();
        if placed.owned {
            self.release_link(&placed);
        }
        applied
    }

    /// Its addresses go at once, so that the next network may have them; the link goes beside, since it takes long.
    fn release_link(&mut self, placed: &Placed) {
        for pool in &placed.network.request.pools {
            let address = pool.gateway.and_then(|gateway| IpNet::new(gateway, pool.subnet.prefix_len()).ok());
            if let Some(address) = address
                && placed.network.request.driver == Driver::Bridge
                && let Err(error) = self.links.remove_address(placed.index, address)
            {
                tracing::debug!(%error, "the bridge goes with its address");
            }
        }
        self.reaper.take_away(placed.index);
    }

    /// Who is in a network, as docker words it.
    fn active(&self, id: &str) -> Option<String> {
        let members = self.sandboxes.iter().filter_map(|(container, sandbox)| {
            let endpoint = sandbox.endpoints.get(id)?;
            let name = endpoint.request.names.first().unwrap_or(container);
            Some(format!(" (name:\"{name}\" id:\"{}\")", short(&endpoint.id)))
        });
        let text = members.collect::<Vec<_>>().join(",");
        (!text.is_empty()).then_some(text)
    }
}

/// A bridge as the rules see it; other networks have none.
pub(super) fn as_rules_see_it(placed: &Placed) -> Option<Bridge> {
    let request = &placed.network.request;
    (request.driver == Driver::Bridge).then(|| Bridge {
        interface: placed.network.interface.clone(),
        subnets: request.pools.iter().map(|pool| pool.subnet).collect(),
        internal: request.internal,
        masquerade: is_on(request, "com.docker.network.bridge.enable_ip_masquerade", true),
        icc: is_on(request, ICC, true),
    })
}

/// The name of a network's link on the host.
fn interface_of(request: &NetworkRequest) -> Result<String, NetworkError> {
    let option = match request.driver {
        Driver::Bridge => "com.docker.network.bridge.name",
        _ => "parent",
    };
    let prefix = if request.driver == Driver::Bridge { "br" } else { "dm" };
    let chosen = request.options.get(option).filter(|name| !name.is_empty());
    let name = chosen.cloned().unwrap_or_else(|| format!("{prefix}-{}", short(&request.id)));
    if name.len() > 15 || name.starts_with('.') || name.contains(['/', ' ', ':', '\0', '\n', '\t']) {
        return Err(NetworkError::Invalid { message: format!("invalid interface name: {name:?}") });
    }
    Ok(name)
}

pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A switch among a network's options.
pub(super) fn is_on(request: &NetworkRequest, option: &str, otherwise: bool) -> bool {
    request
        .options
        .get(option)
        .map_or(otherwise, |value| matches!(value.as_str(), "true" | "1" | "t" | "T" | "True" | "TRUE"))
}

/// A number among a network's options.
pub(super) fn number(request: &NetworkRequest, options: [&str; 2]) -> Result<Option<u32>, NetworkError> {
    let Some(text) = options.iter().find_map(|option| request.options.get(*option)) else { return Ok(None) };
    match text.parse() {
        Ok(0) => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(NetworkError::Invalid { message: format!("invalid MTU: {text:?} is no number") }),
    }
}

/// A bridge keeps this address whatever its ports are.
fn mac_of(id: &str) -> [u8; 6] {
    let digit = |at: usize| id.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
    [2, 0x42, digit(0).unwrap_or(0), digit(2).unwrap_or(0), digit(4).unwrap_or(0), digit(6).unwrap_or(0)]
}

/// Writes one of the kernel's switches below net/, unless it stands so.
pub(super) fn set_sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path).is_ok_and(|current| current.trim_end() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(kernel(format!("write {value} to {path}")))
}

/// The gateway that containers use, if any.
pub(super) fn gateway_of(request: &NetworkRequest, ipv6: bool) -> Option<IpAddr> {
    let pools = request.pools.iter().filter(|_| !request.internal);
    pools.filter_map(|pool| pool.gateway).find(|gateway| gateway.is_ipv6() == ipv6)
}

pub(super) const MTU: [&str; 2] = ["com.docker.network.driver.mtu", "mtu"];
pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
