//! Networks, as the Engine API sees them.
//!
//! What a network is lies in `networks/ID.json`; packets are the crate `network`'s work.
//!
//! Spec: docs/formats/network.md.

mod check;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Arc, PoisonError};

use bollard_stubs::models::{
    ConfigReference, EndpointResource, EndpointSettings, EventMessageTypeEnum, Ipam, IpamConfig,
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkInspect, NetworkPruneResponse,
};
use knarr_network::{Driver, Network, NetworkRequest};
use serde::{Deserialize, Serialize};

use crate::containers::record::{Attachment, is_unfinished, write_file};
use crate::containers::{Container, endpoint_request};
use crate::engine::now;
use crate::filters::Filters;
use crate::meters::Action;
use crate::{Engine, EngineError, Kind};

use check::{check_endpoint, check_name, dangling, family, pools_of};

const FORMAT: u32 = 1;
/// Networks that are always there.
const PREDEFINED: [(&str, Driver); 3] =
    [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)];

/// Why there is no network over several machines.
const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                          connect this node to swarm and try again.";

/// What is kept of a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkRecord {
    format: u32,
    created: String,
    attachable: bool,
    labels: HashMap<String, String>,
    /// As it is in the kernel.
    pub(crate) network: Network,
    /// What was asked for of its addresses.
    ipam: Ipam,
}

/// All networks of an engine, by id.
pub(crate) type NetworkTable = std::sync::Mutex<BTreeMap<String, NetworkRecord>>;

impl NetworkRecord {
    fn id(&self) -> &str {
        &self.network.request.id
    }

    fn name(&self) -> &str {
        &self.network.request.name
    }

    fn is_predefined(&self) -> bool {
        PREDEFINED.iter().any(|(name, _)| *name == self.name())
    }
}

/// docker's name of a driver.
pub(crate) const fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Bridge => "bridge",
        Driver::Host => "host",
        Driver::Null => "null",
        Driver::Macvlan => "macvlan",
        Driver::Ipvlan => "ipvlan",
    }
}

impl Engine {
    fn network_table(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, NetworkRecord>> {
        self.shared().network_table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn count_networks(&self) -> usize {
        self.network_table().len()
    }

    /// Finds a network by id, name or the beginning of its id.
    pub(crate) fn find_network(&self, name: &str) -> Result<NetworkRecord, EngineError> {
        let table = self.network_table();
        if let Some(found) = table.get(name).or_else(|| table.values().find(|record| record.name() == name)) {
            return Ok(found.clone());
        }
        let begins = |record: &&NetworkRecord| !name.is_empty() && record.id().starts_with(name);
        let matching: Vec<_> = table.values().filter(begins).collect();
        match matching[..] {
            [found] => Ok(found.clone()),
            [] => Err(EngineError::not_found(format!("network {name} not found"))),
            _ => Err(EngineError::invalid(format!(
                "network {name} is ambiguous ({} matches found based on ID prefix)",
                matching.len()
            ))),
        }
    }

    /// Tells that a container came into a network, or left it.
    pub(crate) fn tell_network(&self, action: &str, id: &str, container: &str) {
        let named = self
            .network_table()
            .get(id)
            .map(|record| (record.name().to_owned(), driver_name(record.network.request.driver)));
        if let Some((name, driver)) = named {
            self.shared().events.network(action, id, &name, driver, Some(container));
        }
    }

    /// Reads the records of networks, and answers with what is to be in the kernel.
    pub(crate) fn load_networks(&self) -> Result<Vec<Network>, EngineError> {
        let directory = self.shared().options.root.join("networks");
        let mut networks = Vec::new();
        for entry in fs::read_dir(&directory).map_err(EngineError::file("list", &directory))? {
            let path = entry.map_err(EngineError::file("list", &directory))?.path();
            if is_unfinished(&path) {
                fs::remove_file(&path).map_err(EngineError::file("remove", &path))?;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = fs::read(&path).map_err(EngineError::file("read", &path))?;
            let record: NetworkRecord = match serde_json::from_slice(&bytes) {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a network is left out");
                    continue;
                }
            };
            if record.format > FORMAT {
                let (path, format) = (path.display(), record.format);
                return Err(EngineError::failed(format!("{path} has format {format}: use a newer knarr")));
            }
            networks.push(record.network.clone());
            self.network_table().insert(record.id().to_owned(), record);
        }
        Ok(networks)
    }

    /// Makes the networks that are always there.
    pub(crate) async fn ensure_default_networks(&self) -> Result<(), EngineError> {
        for (name, driver) in PREDEFINED {
            let known = self.network_table().values().any(|record| record.name() == name);
            if known {
                continue;
            }
            let mut options = HashMap::new();
            if driver == Driver::Bridge {
                options.insert("com.docker.network.bridge.name".to_owned(), "knarr0".to_owned());
                options.insert("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned());
            }
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some(driver_name(driver).to_owned()),
                options: Some(options),
                ..NetworkCreateRequest::default()
            };
            self.make_network(request, driver).await?;
        }
        Ok(())
    }

    fn save_network(&self, record: &NetworkRecord) -> Result<(), EngineError> {
        let path = self.shared().options.root.join("networks").join(format!("{}.json", record.id()));
        let bytes =
            serde_json::to_vec_pretty(record).map_err(|error| EngineError::failed(error.to_string()))?;
        write_file(&path, &bytes, false).map_err(EngineError::file("write", &path))
    }

    async fn make_network(
        &self,
        request: NetworkCreateRequest,
        driver: Driver,
    ) -> Result<NetworkRecord, EngineError> {
        let ipam = request.ipam.clone().unwrap_or_default();
        let pools = pools_of(&ipam)?;
        let options: BTreeMap<String, String> =
            request.options.clone().unwrap_or_default().into_iter().collect();
        let ipv4 = family(request.enable_ipv4, &options, "com.docker.network.enable_ipv4")?;
        let ipv6 = family(request.enable_ipv6, &options, "com.docker.network.enable_ipv6")?;
        let has6 = pools.iter().any(|pool| pool.subnet.addr().is_ipv6());
        let plan = NetworkRequest {
            id: crate::engine::new_id()?,
            name: request.name.clone(),
            driver,
            internal: request.internal == Some(true),
            ipv4: ipv4 != Some(false),
            ipv6: ipv6 == Some(true) || has6,
            pools,
            options,
        };
        let timed = self.shared().meters.time(Action::Allocate);
        let network = self.shared().networks.create(plan).await?;
        drop(timed);
        let record = NetworkRecord {
            format: FORMAT,
            created: now(),
            attachable: request.attachable == Some(true),
            labels: request.labels.unwrap_or_default(),
            network,
            ipam,
        };
        if let Err(error) = self.save_network(&record) {
            self.shared().networks.remove(record.id()).await?;
            return Err(error);
        }
        self.network_table().insert(record.id().to_owned(), record.clone());
        self.shared().events.network("create", record.id(), record.name(), driver_name(driver), None);
        Ok(record)
    }

    /// `POST /networks/create`.
    ///
    /// # Errors
    /// The name is taken, or an address or the driver is wrong.
    pub async fn create_network(
        &self,
        request: NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse, EngineError> {
        let name = request.name.as_str();
        check_name(name)?;
        if request.ingress == Some(true) || request.scope.as_deref() == Some("swarm") {
            return Err(EngineError::said(Kind::Unsupported, "networks of a swarm are not supported"));
        }
        let driver = match request.driver.as_deref().unwrap_or_default() {
            "" | "default" | "bridge" => Driver::Bridge,
            "macvlan" => Driver::Macvlan,
            "ipvlan" => Driver::Ipvlan,
            one @ ("host" | "null") => {
                let text = format!("only one instance of \"{one}\" network is allowed");
                return Err(EngineError::said(Kind::Forbidden, text));
            }
            "overlay" => return Err(EngineError::said(Kind::Forbidden, NO_MANAGER)),
            other => {
                return Err(EngineError::not_found(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"
                )));
            }
        };
        // Two that are made at once must not get one name.
        let _turn = self.shared().network_turn.lock().await;
        if self.network_table().values().any(|record| record.name() == name) {
            return Err(EngineError::conflict(format!("network with name {name} already exists")));
        }
        let record = self.make_network(request, driver).await?;
        Ok(NetworkCreateResponse { id: record.id().to_owned(), warning: String::new() })
    }

    /// `GET /networks`: as inspected, without containers.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkInspect>, EngineError> {
        filters.allow(&["dangling", "driver", "id", "label", "label!", "name", "scope", "type"])?;
        let dangling = dangling(filters)?;
        if let Some(typ) = filters.get("type").find(|typ| !matches!(*typ, "custom" | "builtin")) {
            return Err(EngineError::invalid(format!("invalid filter: 'type'='{typ}'")));
        }
        let is_one =
            |key: &str, found: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(found);
        let used = self.used_networks();
        let wanted = |record: &NetworkRecord| {
            filters.matches("name", record.name())
                && filters.matches("id", record.id())
                && is_one("driver", &|name| driver_name(record.network.request.driver) == name)
                && is_one("scope", &|scope| scope == "local")
                && is_one("type", &|typ| (typ == "builtin") == record.is_predefined())
                && dangling
                    .is_none_or(|dangling| dangling != (record.is_predefined() || used.contains(record.id())))
                && filters.labels(|key| record.labels.get(key).map(String::as_str))
        };
        let table = self.network_table();
        Ok(table
            .values()
            .filter(|record| wanted(record))
            .map(|record| show(record, HashMap::new()))
            .collect())
    }

    fn used_networks(&self) -> std::collections::HashSet<String> {
        let containers = self.shared().containers.all();
        containers
            .iter()
            .flat_map(|container| {
                let record = container.record();
                record.networks.values().map(|place| place.network_id.clone()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// `GET /networks/{id}`.
    ///
    /// # Errors
    /// There is none.
    pub async fn inspect_network(
        &self,
        name: &str,
        scope: Option<&str>,
    ) -> Result<NetworkInspect, EngineError> {
        if scope.is_some_and(|scope| !matches!(scope, "" | "local")) {
            return Err(EngineError::not_found(format!("network {name} not found")));
        }
        let record = self.find_network(name)?;
        let mut containers = HashMap::new();
        for container in self.shared().containers.all() {
            let held = container.record();
            let place = held.networks.values().find(|place| place.network_id == record.id());
            let Some(place) = place.filter(|_| held.state.running) else { continue };
            let Some(endpoint) = &place.endpoint else {
                let id = bare_endpoint_id(&container.id, record.id());
                containers.insert(container.id.clone(), bare_resource(&held.name, id));
                continue;
            };
            let text = |net: Option<ipnet::IpNet>| Some(net.map(|net| net.to_string()).unwrap_or_default());
            let resource = EndpointResource {
                name: Some(held.name.clone()),
                endpoint_id: Some(endpoint.id.clone()),
                mac_address: Some(endpoint.mac.clone()),
                ipv4_address: text(endpoint.ipv4),
                ipv6_address: text(endpoint.ipv6),
            };
            containers.insert(container.id.clone(), resource);
        }
        Ok(show(&record, containers))
    }

    /// `DELETE /networks/{id}`.
    ///
    /// # Errors
    /// It is one that is always there, or containers are in it.
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let _turn = self.shared().network_turn.lock().await;
        let record = self.find_network(name)?;
        if record.is_predefined() {
            let text = format!("{} is a pre-defined network and cannot be removed", record.name());
            return Err(EngineError::said(Kind::Forbidden, text));
        }
        let inside = self.inspect_network(record.id(), None).await?.containers.unwrap_or_default();
        if !inside.is_empty() {
            let list = inside.values().map(|one| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("name:\"{}\" id:\"{:.12}\"", text(&one.name), text(&one.endpoint_id))
            });
            let list = list.collect::<Vec<_>>().join(", ");
            let text = format!(
                "error while removing network: network {} has active endpoints ({list})",
                record.name()
            );
            return Err(EngineError::said(Kind::Forbidden, text));
        }
        self.shared().networks.remove(record.id()).await?;
        let path = self.shared().options.root.join("networks").join(format!("{}.json", record.id()));
        fs::remove_file(&path).map_err(EngineError::file("remove", &path))?;
        self.network_table().remove(record.id());
        let driver = driver_name(record.network.request.driver);
        self.shared().events.network("destroy", record.id(), record.name(), driver, None);
        Ok(())
    }

    /// `POST /networks/{id}/connect`, of a container that runs or not.
    ///
    /// # Errors
    /// Either is not there, or it is in it already.
    pub async fn connect_network(
        &self,
        name: &str,
        request: NetworkConnectRequest,
    ) -> Result<(), EngineError> {
        let container = self.shared().containers.find(&request.container)?;
        let _turn = container.turn.lock().await;
        let asked = request.endpoint_config.unwrap_or_default();
        let record = match self.find_network(name) {
            // It is looked for again when the container is started.
            Err(error) if error.kind() == Kind::NotFound && !container.record().state.running => {
                let place = Attachment { asked, ..Attachment::default() };
                self.change(&container, |held| drop(held.networks.insert(name.to_owned(), place))).await;
                return Ok(());
            }
            found => found?,
        };
        self.may_connect(&record, &container, &asked)?;
        let mut place = Attachment { network_id: record.id().to_owned(), asked, endpoint: None };
        let running = container.record().state.running;
        if running {
            let mut wanted = endpoint_request(&container.record(), record.name(), &place);
            wanted.links = self.links_of(&container.record(), record.name(), &place);
            let endpoint = self.shared().networks.connect(&container.id, record.id(), wanted).await?;
            place.endpoint = Some(endpoint);
            if record.name() != "bridge" {
                self.serve_names(&container).await?;
            }
        }
        let key = record.name().to_owned();
        self.change(&container, |held| {
            held.networks.insert(key, place);
        })
        .await;
        if running {
            self.refresh_hosts(&container).await?;
            self.tell_network("connect", record.id(), &container.id);
        }
        Ok(())
    }

    fn may_connect(
        &self,
        record: &NetworkRecord,
        container: &Arc<Container>,
        asked: &EndpointSettings,
    ) -> Result<(), EngineError> {
        let held = container.record();
        if held.state.removing || held.state.dead {
            return Err(EngineError::conflict(format!(
                "Container {} is marked for removal and cannot be connected or disconnected to the network",
                held.id
            )));
        }
        let driver = record.network.request.driver;
        if held.network_mode() == "host" || driver == Driver::Host {
            return Err(EngineError::invalid(
                "cannot connect container to host network - container must be created in host network mode",
            ));
        }
        if held.network_mode().starts_with("container:") {
            return Err(EngineError::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if held.networks.contains_key("none") || (driver == Driver::Null && !held.networks.is_empty()) {
            return Err(EngineError::invalid(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        if held.networks.contains_key(record.name()) {
            return Err(EngineError::said(
                Kind::Forbidden,
                format!("endpoint with name {} already exists in network {}", held.name, record.name()),
            ));
        }
        check_endpoint(Some(record), asked)
    }

    /// A place in a network that a container is to have; one of a network that is not there yet is found when it starts.
    ///
    /// # Errors
    /// The network cannot give such a place, or the name is of several.
    pub(crate) fn place_in(
        &self,
        name: &str,
        asked: EndpointSettings,
    ) -> Result<(String, Attachment), EngineError> {
        let found = match self.find_network(name) {
            Ok(record) => Some(record),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => return Err(error),
        };
        check_endpoint(found.as_ref(), &asked).map_err(|error| {
            EngineError::invalid(format!("invalid config for network {name}: {}", error.message()))
        })?;
        let (name, network_id) = found.map_or_else(
            || (name.to_owned(), String::new()),
            |record| (record.name().to_owned(), record.id().to_owned()),
        );
        Ok((name, Attachment { network_id, asked, endpoint: None }))
    }

    /// Finds the networks of a container that is about to start.
    ///
    /// # Errors
    /// One is not there, or not any more.
    pub(crate) fn find_places(&self, container: &Container) -> Result<(), EngineError> {
        let mut held = container.record();
        let mut found = BTreeMap::new();
        for (key, place) in &held.networks {
            // Those that are always there may have been made anew.
            let by_name = place.network_id.is_empty() || PREDEFINED.iter().any(|(name, _)| name == key);
            let record = self.find_network(if by_name { key } else { &place.network_id })?;
            let place = Attachment { network_id: record.id().to_owned(), ..place.clone() };
            found.insert(record.name().to_owned(), place);
        }
        held.networks = found;
        Ok(())
    }

    /// `POST /networks/{id}/disconnect`.
    ///
    /// # Errors
    /// The container is not in it.
    pub async fn disconnect_network(
        &self,
        name: &str,
        container: &str,
        force: bool,
    ) -> Result<(), EngineError> {
        let found = self.find_network(name);
        let container = match self.shared().containers.find(container) {
            // What is gone has no place in any network.
            Err(_) if force => {
                found?;
                return Err(EngineError::not_found(format!("endpoint {container} not found")));
            }
            container => container?,
        };
        let _turn = container.turn.lock().await;
        let record = match found {
            Err(_) if force || !container.record().state.running => {
                return self.forget_place(&container, name).await;
            }
            found => found?,
        };
        if record.network.request.driver == Driver::Host {
            return Err(EngineError::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        let place = container.record().networks.get(record.name()).cloned();
        let running = container.record().state.running;
        let Some(place) = place else {
            let text =
                format!("container {} is not connected to the network {}", container.id, record.name());
            return Err(EngineError::said(Kind::Forbidden, text));
        };
        if place.endpoint.is_some() {
            self.shared().networks.disconnect(&container.id, record.id()).await?;
        }
        let key = record.name().to_owned();
        self.change(&container, |held| {
            held.networks.remove(&key);
        })
        .await;
        if running {
            self.refresh_hosts(&container).await?;
            self.tell_network("disconnect", record.id(), &container.id);
        }
        Ok(())
    }

    /// Takes a container out of a network that is gone.
    async fn forget_place(&self, container: &Arc<Container>, name: &str) -> Result<(), EngineError> {
        let known = |place: &Attachment| !name.is_empty() && place.network_id.starts_with(name);
        let key = {
            let held = container.record();
            let mut places = held.networks.iter();
            places.find(|(key, place)| *key == name || known(place)).map(|(key, _)| key.clone())
        };
        let Some(key) = key else {
            let text = format!("container {} is not connected to the network {name}", container.id);
            return Err(EngineError::said(Kind::Forbidden, text));
        };
        self.change(container, |held| drop(held.networks.remove(&key))).await;
        Ok(())
    }

    /// `POST /networks/prune`.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworkPruneResponse, EngineError> {
        filters.allow(&["until", "label", "label!"])?;
        let until = filters.until()?;
        let used = self.used_networks();
        let records: Vec<NetworkRecord> = self.network_table().values().cloned().collect();
        let mut deleted = Vec::new();
        for record in records {
            let old = until
                .is_none_or(|until| record.created.parse().is_ok_and(|made: jiff::Timestamp| made < until));
            let fits = filters.labels(|key| record.labels.get(key).map(String::as_str));
            if record.is_predefined() || used.contains(record.id()) || !old || !fits {
                continue;
            }
            match self.remove_network(record.id()).await {
                Ok(()) => deleted.push(record.name().to_owned()),
                Err(error) => tracing::warn!(network = record.name(), error = error.message(), "not pruned"),
            }
        }
        self.shared().events.pruned(EventMessageTypeEnum::NETWORK, 0);
        Ok(NetworkPruneResponse { networks_deleted: Some(deleted) })
    }
}

/// The place of a container that has no interface for it: in the host's network, or in none.
fn bare_resource(name: &str, id: String) -> EndpointResource {
    let none = || Some(String::new());
    EndpointResource {
        name: Some(name.to_owned()),
        endpoint_id: Some(id),
        mac_address: none(),
        ipv4_address: none(),
        ipv6_address: none(),
    }
}

/// What such a place is called: the same as long as it is there.
pub(crate) fn bare_endpoint_id(container: &str, network: &str) -> String {
    let text = format!("{container} {network}");
    hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()))
}

fn show(record: &NetworkRecord, containers: HashMap<String, EndpointResource>) -> NetworkInspect {
    let request = &record.network.request;
    let config = request.pools.iter().map(|pool| IpamConfig {
        subnet: Some(pool.subnet.to_string()),
        ip_range: pool.range.map(|range| range.to_string()),
        gateway: pool.gateway.map(|gateway| gateway.to_string()),
        auxiliary_addresses: (!pool.reserved.is_empty())
            .then(|| pool.reserved.iter().map(|(key, address)| (key.clone(), address.to_string())).collect()),
    });
    NetworkInspect {
        name: Some(request.name.clone()),
        id: Some(request.id.clone()),
        created: Some(record.created.clone()),
        scope: Some("local".to_owned()),
        driver: Some(driver_name(request.driver).to_owned()),
        enable_ipv4: Some(request.ipv4),
        enable_ipv6: Some(request.ipv6),
        ipam: Some(Ipam {
            driver: Some(
                record
                    .ipam
                    .driver
                    .clone()
                    .filter(|driver| !driver.is_empty())
                    .unwrap_or_else(|| "default".to_owned()),
            ),
            config: Some(config.collect()),
            options: record.ipam.options.clone(),
        }),
        internal: Some(request.internal),
        attachable: Some(record.attachable),
        ingress: Some(false),
        config_from: Some(ConfigReference { network: Some(String::new()) }),
        config_only: Some(false),
        options: Some(request.options.clone().into_iter().collect()),
        labels: Some(record.labels.clone()),
        containers: Some(containers),
        ..NetworkInspect::default()
    }
}

#[cfg(test)]
mod tests;
