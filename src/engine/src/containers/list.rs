//! What containers there are, and what they are like.

use std::collections::HashMap;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryStateEnum,
    EndpointSettings, HealthStatusEnum, MountPoint, PortBinding, PortMap, PortSummary, PortSummaryTypeEnum,
};
use serde_json::{Value, json};

use super::Container;
use super::record::{Attachment, MountRecord, Record, State};
use crate::filters::Filters;
use crate::{Engine, EngineError};

/// What `ps` asks for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// With the sizes of their files.
    pub size: bool,
    /// ancestor, before, expose, exited, health, id, is-task, label, name, network, publish, since, status, volume.
    pub filters: Filters,
}

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATUSES: [&str; 8] =
    ["created", "restarting", "running", "removing", "paused", "exited", "dead", "stopping"];

impl Engine {
    /// `GET /containers/json`, the newest first.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list_containers(&self, query: &ListQuery) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = &query.filters;
        filters.allow(&FILTERS)?;
        if let Some(status) = filters.get("status").find(|status| !STATUSES.contains(status)) {
            return Err(EngineError::invalid(format!("invalid filter 'status={status}'")));
        }
        if let Some(health) = filters
            .get("health")
            .find(|health| !["none", "starting", "healthy", "unhealthy"].contains(health))
        {
            return Err(EngineError::invalid(format!("invalid filter 'health={health}'")));
        }
        let mut exits = Vec::new();
        for text in filters.get("exited") {
            exits.push(
                text.parse::<i64>()
                    .map_err(|_| EngineError::invalid(format!("invalid filter 'exited={text}'")))?,
            );
        }
        let made = |key: &str| -> Result<Option<String>, EngineError> {
            filters
                .get(key)
                .next()
                .map(|name| Ok(self.shared().containers.find(name)?.record().created.clone()))
                .transpose()
        };
        let (before, since) = (made("before")?, made("since")?);
        let ancestors = self.ancestors(filters)?;
        let mut found: Vec<(Arc<Container>, Record)> = self
            .shared()
            .containers
            .all()
            .into_iter()
            .map(|container| {
                let record = container.record().clone();
                (container, record)
            })
            .collect();
        found.sort_by(|(_, one), (_, other)| other.created.cmp(&one.created));
        let all = query.all || query.limit.is_some() || filters.has("status") || filters.has("exited");
        let is_one = |key: &str, fits: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(fits);
        let wanted = |record: &Record| {
            (all || record.state.running)
                && before.as_ref().is_none_or(|before| record.created < *before)
                && since.as_ref().is_none_or(|since| record.created > *since)
                && is_one("id", &|id| record.id.starts_with(id))
                && is_one("name", &|name| name_fits(&record.name, name))
                && is_one("status", &|status| status_word(&record.state) == status)
                && (exits.is_empty()
                    || (!record.state.running
                        && !record.state.started_at.is_empty()
                        && exits.contains(&record.state.exit_code)))
                && is_one("health", &|health| health_word(record) == health)
                && is_one("network", &|name| {
                    record
                        .networks
                        .iter()
                        .any(|(key, place)| key == name || place.network_id.starts_with(name))
                })
                && is_one("volume", &|name| {
                    record.mounts.iter().any(|mount| {
                        mount.name.as_deref() == Some(name) || mount.target == name || mount.source == name
                    })
                })
                && is_one("publish", &|port| {
                    record
                        .ports
                        .iter()
                        .any(|one| port_fits(&format!("{}/{}", one.host_port, one.protocol), port))
                })
                && is_one("expose", &|port| {
                    record.config.exposed_ports.iter().flatten().any(|one| port_fits(one, port))
                })
                && is_one("is-task", &|flag| flag != "true")
                && ancestors.as_ref().is_none_or(|images| images.contains(&record.image))
                && filters.labels(|key| {
                    record.config.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
                })
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        let mut summaries = Vec::new();
        for (container, record) in found.into_iter().filter(|(_, record)| wanted(record)).take(limit) {
            let mut summary = summary(&record);
            if query.size {
                let size = self.writable_bytes(&container).await;
                summary.size_rw = Some(signed(size));
                summary.size_root_fs = Some(signed(size + self.image_bytes(&record.image).await));
            }
            summaries.push(summary);
        }
        Ok(summaries)
    }

    /// Images that `ancestor` names, by digest.
    fn ancestors(&self, filters: &Filters) -> Result<Option<Vec<String>>, EngineError> {
        if !filters.has("ancestor") {
            return Ok(None);
        }
        let mut images = Vec::new();
        for name in filters.get("ancestor") {
            match self.shared().store.find(name) {
                Ok(found) => images.push(found.descriptor.digest.to_string()),
                // No container has an image that is not there by that name.
                Err(knarr_store::StoreError::NoImage { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(images))
    }

    /// How many bytes a container has written.
    pub(crate) async fn writable_bytes(&self, container: &Arc<Container>) -> u64 {
        let upper = self.container_dir(&container.id).join("upper");
        tokio::task::spawn_blocking(move || crate::volumes::tree_bytes(&upper)).await.unwrap_or_default()
    }

    /// `GET /containers/{id}/json`.
    ///
    /// # Errors
    /// There is none.
    pub async fn inspect_container(&self, name: &str, size: bool) -> Result<Value, EngineError> {
        let container = self.shared().containers.find(name)?;
        let record = container.record().clone();
        let mut value = self.describe(&record)?;
        let execs = self.shared().containers.execs_of(&record.id);
        if !execs.is_empty() {
            value["ExecIDs"] = json!(execs);
        }
        if size {
            let bytes = self.writable_bytes(&container).await;
            value["SizeRw"] = json!(bytes);
            value["SizeRootFs"] = json!(bytes + self.image_bytes(&record.image).await);
        }
        Ok(value)
    }

    fn describe(&self, record: &Record) -> Result<Value, EngineError> {
        let directory = self.container_dir(&record.id);
        let path = |name: &str| directory.join(name).display().to_string();
        let (program, arguments) = record.command();
        let never = "0001-01-01T00:00:00Z";
        let or_never = |text: &str| if text.is_empty() { never.to_owned() } else { text.to_owned() };
        let state = &record.state;
        let mut shown = json!({
            "Status": status_word(state),
            "Running": state.running || state.restarting,
            "Paused": state.paused,
            "Restarting": state.restarting,
            "OOMKilled": state.oom_killed,
            "Dead": state.dead,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": or_never(&state.started_at),
            "FinishedAt": or_never(&state.finished_at),
        });
        if let Some(health) = &state.health {
            shown["Health"] = to_value(health)?;
        }
        let log = match record.host.log_config.as_ref().and_then(|log| log.typ.as_deref()) {
            None | Some("json-file" | "") => path(knarr_runtime::shim::log::JSON_FILE),
            _ => String::new(),
        };
        let lowers: Vec<String> =
            record.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        Ok(json!({
            "Id": record.id,
            "Created": record.created,
            "Path": program,
            "Args": arguments,
            "State": shown,
            "Image": record.image,
            "ResolvConfPath": path("resolv.conf"),
            "HostnamePath": path("hostname"),
            "HostsPath": path("hosts"),
            "LogPath": log,
            "Name": format!("/{}", record.name),
            "RestartCount": record.restart_count,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": null,
            "HostConfig": host_config(record)?,
            "GraphDriver": {
                "Name": "overlay2",
                "Data": {
                    "LowerDir": lowers.join(":"),
                    "MergedDir": path("rootfs"),
                    "UpperDir": path("upper"),
                    "WorkDir": path("work"),
                },
            },
            "Mounts": to_value(&record.mounts.iter().filter(|mount| mount.kind != "tmpfs" || mount.asked.is_some()).map(mount_point).collect::<Vec<_>>())?,
            "Config": config(record)?,
            "NetworkSettings": network_settings(record, &self.sandbox_path(record))?,
        }))
    }

    fn sandbox_path(&self, record: &Record) -> String {
        if !record.state.running || record.network_mode() == "host" {
            return String::new();
        }
        self.run_dir().join("netns").join(&record.id).display().to_string()
    }
}

fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, EngineError> {
    serde_json::to_value(value).map_err(|error| EngineError::failed(error.to_string()))
}

/// Adds to an object what it lacks.
fn fill(value: &mut Value, usual: Value) {
    if let (Some(object), Value::Object(usual)) = (value.as_object_mut(), usual) {
        for (key, value) in usual {
            object.entry(key).or_insert(value);
        }
    }
}

fn config(record: &Record) -> Result<Value, EngineError> {
    let mut value = to_value(&record.config)?;
    fill(
        &mut value,
        json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
            "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null, "Image": "", "Volumes": null,
            "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        }),
    );
    Ok(value)
}

fn host_config(record: &Record) -> Result<Value, EngineError> {
    let mut value = to_value(&record.host)?;
    value["NetworkMode"] = json!(record.network_mode());
    fill(
        &mut value,
        json!({
            "Binds": null, "ContainerIDFile": "", "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null,
            "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null,
            "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
            "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
        }),
    );
    fill(
        &mut value,
        json!({
            "ShmSize": 67_108_864, "Runtime": "knarr", "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0,
            "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
            "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": null, "OomKillDisable": null, "PidsLimit": null, "Ulimits": [], "CpuCount": 0,
            "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0, "MaskedPaths": null, "ReadonlyPaths": null,
        }),
    );
    Ok(value)
}

fn network_settings(record: &Record, sandbox: &str) -> Result<Value, EngineError> {
    let networks: HashMap<&String, EndpointSettings> =
        record.networks.iter().map(|(name, place)| (name, endpoint(place))).collect();
    let mut shown = serde_json::Map::new();
    for (name, settings) in &networks {
        let mut value = to_value(settings)?;
        fill(
            &mut value,
            json!({
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "GwPriority": 0,
                "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
            }),
        );
        shown.insert((*name).clone(), value);
    }
    // What was at the top when there was but one network.
    let bridge = record.networks.get("bridge").map(endpoint).unwrap_or_default();
    Ok(json!({
        "Bridge": "",
        "SandboxID": if sandbox.is_empty() { "" } else { &record.id },
        "SandboxKey": sandbox,
        "Ports": to_value(&ports(record))?,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id.unwrap_or_default(),
        "Gateway": bridge.gateway.unwrap_or_default(),
        "GlobalIPv6Address": bridge.global_ipv6_address.unwrap_or_default(),
        "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len.unwrap_or_default(),
        "IPAddress": bridge.ip_address.unwrap_or_default(),
        "IPPrefixLen": bridge.ip_prefix_len.unwrap_or_default(),
        "IPv6Gateway": bridge.ipv6_gateway.unwrap_or_default(),
        "MacAddress": bridge.mac_address.unwrap_or_default(),
        "Networks": shown,
    }))
}

/// A container's place in a network, as it is.
fn endpoint(place: &Attachment) -> EndpointSettings {
    let mut settings = place.asked.clone();
    settings.network_id = Some(place.network_id.clone());
    if let Some(endpoint) = &place.endpoint {
        let text = |address: Option<std::net::IpAddr>| {
            Some(address.map(|address| address.to_string()).unwrap_or_default())
        };
        let of = |net: Option<ipnet::IpNet>| {
            (text(net.map(|net| net.addr())), Some(net.map_or(0, |net| i64::from(net.prefix_len()))))
        };
        settings.endpoint_id = Some(endpoint.id.clone());
        settings.mac_address = Some(endpoint.mac.clone());
        (settings.ip_address, settings.ip_prefix_len) = of(endpoint.ipv4);
        (settings.global_ipv6_address, settings.global_ipv6_prefix_len) = of(endpoint.ipv6);
        (settings.gateway, settings.ipv6_gateway) = (text(endpoint.gateway4), text(endpoint.gateway6));
        settings.dns_names = (!endpoint.request.names.is_empty()).then(|| endpoint.request.names.clone());
    }
    settings
}

/// Ports: those that are published with where, those that are exposed without.
fn ports(record: &Record) -> PortMap {
    let mut map = PortMap::new();
    if !record.state.running {
        return map;
    }
    for name in record.config.exposed_ports.iter().flatten() {
        map.entry(name.clone()).or_insert(None);
    }
    for port in &record.ports {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.to_string()),
            host_port: Some(port.host_port.to_string()),
        };
        map.entry(format!("{}/{}", port.container_port, port.protocol))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    map
}

fn mount_point(mount: &MountRecord) -> MountPoint {
    MountPoint {
        typ: Some(mount.kind.clone()),
        name: mount.name.clone(),
        source: Some(mount.source.clone()),
        destination: Some(mount.target.clone()),
        driver: mount.driver.clone(),
        mode: Some(mount.mode.clone()),
        rw: Some(mount.writable),
        propagation: Some(mount.propagation.clone()),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn summary(record: &Record) -> ContainerSummary {
    let networks = record.networks.iter().map(|(name, place)| (name.clone(), endpoint(place))).collect();
    let created: Option<jiff::Timestamp> = record.created.parse().ok();
    let (program, arguments) = record.command();
    let command = std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ");
    ContainerSummary {
        id: Some(record.id.clone()),
        names: Some(vec![format!("/{}", record.name)]),
        image: record.config.image.clone(),
        image_id: Some(record.image.clone()),
        command: Some(command),
        created: created.map(jiff::Timestamp::as_second),
        ports: Some(port_summaries(record)),
        labels: Some(record.config.labels.clone().unwrap_or_default()),
        state: status_word(&record.state).parse::<ContainerSummaryStateEnum>().ok(),
        status: Some(status_text(record, jiff::Timestamp::now())),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(record.network_mode().to_owned()),
            annotations: record.host.annotations.clone(),
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
        mounts: Some(record.mounts.iter().filter(|mount| mount.kind != "tmpfs").map(mount_point).collect()),
        ..ContainerSummary::default()
    }
}

fn port_summaries(record: &Record) -> Vec<PortSummary> {
    if !record.state.running {
        return Vec::new();
    }
    let typ = |protocol: &str| protocol.parse::<PortSummaryTypeEnum>().ok();
    let mut all: Vec<PortSummary> = record
        .ports
        .iter()
        .map(|port| PortSummary {
            ip: Some(port.host_ip.to_string()),
            private_port: port.container_port,
            public_port: Some(port.host_port),
            typ: typ(&port.protocol),
        })
        .collect();
    for name in record.config.exposed_ports.iter().flatten() {
        let (number, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
        let Ok(number) = number.parse() else { continue };
        let published =
            record.ports.iter().any(|port| port.container_port == number && port.protocol == protocol);
        if !published {
            all.push(PortSummary { ip: None, private_port: number, public_port: None, typ: typ(protocol) });
        }
    }
    all
}

/// docker's word for a state.
#[must_use]
pub(crate) fn status_word(state: &State) -> &'static str {
    match state {
        _ if state.removing => "removing",
        _ if state.paused => "paused",
        _ if state.restarting => "restarting",
        _ if state.running => "running",
        _ if state.dead => "dead",
        _ if state.started_at.is_empty() && state.error.is_empty() => "created",
        _ if state.started_at.is_empty() => "created",
        _ => "exited",
    }
}

fn health_word(record: &Record) -> String {
    let status = record.state.health.as_ref().and_then(|health| health.status);
    status.map_or_else(|| "none".to_owned(), |status| status.to_string())
}

/// What `ps` shows: `Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`.
fn status_text(record: &Record, now: jiff::Timestamp) -> String {
    let state = &record.state;
    let ago = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .map(|then| human(now.as_second() - then.as_second()))
            .unwrap_or_default()
    };
    match status_word(state) {
        "restarting" => format!("Restarting ({}) {} ago", state.exit_code, ago(&state.finished_at)),
        "paused" => format!("Up {} (Paused)", ago(&state.started_at)),
        "running" => {
            let health = match state.health.as_ref().and_then(|health| health.status) {
                Some(HealthStatusEnum::STARTING) => " (health: starting)",
                Some(HealthStatusEnum::HEALTHY) => " (healthy)",
                Some(HealthStatusEnum::UNHEALTHY) => " (unhealthy)",
                _ => "",
            };
            format!("Up {}{health}", ago(&state.started_at))
        }
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        "created" => "Created".to_owned(),
        _ => format!("Exited ({}) {} ago", state.exit_code, ago(&state.finished_at)),
    }
}

/// A duration in docker's words.
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// docker's names are regular expressions; people write parts of names, with `^` and `$` at most.
fn name_fits(name: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let (start, wanted) = wanted
        .strip_prefix('^')
        .map_or((false, wanted), |rest| (true, rest.strip_prefix('/').unwrap_or(rest)));
    let (end, wanted) = wanted.strip_suffix('$').map_or((false, wanted), |rest| (true, rest));
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    match (start, end) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

/// `80`, `80/tcp`, `80-90/tcp` against `80/tcp`.
fn port_fits(one: &str, wanted: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (number, own) = one.split_once('/').unwrap_or((one, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let inside =
        || Some((first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?).contains(&number.parse().ok()?));
    protocol == own && inside().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::{human, name_fits, port_fits, status_text, status_word};
    use crate::containers::Record;

    #[test]
    fn durations_are_dockers_words() {
        let words = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3600 * 48, "2 days"),
            (86400 * 15, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
        ];
        for (seconds, text) in words {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn a_status_tells_the_state() {
        let mut record = Record::default();
        let now: jiff::Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!((status_word(&record.state), status_text(&record, now).as_str()), ("created", "Created"));
        record.state.started_at = "2026-01-01T00:00:00Z".to_owned();
        record.state.finished_at = "2026-01-01T00:00:05Z".to_owned();
        record.state.exit_code = 3;
        assert_eq!(status_text(&record, now), "Exited (3) 5 seconds ago");
        record.state.running = true;
        assert_eq!(status_text(&record, now), "Up 10 seconds");
        record.state.paused = true;
        assert_eq!(status_text(&record, now), "Up 10 seconds (Paused)");
    }

    #[test]
    fn names_and_ports_fit() {
        assert!(name_fits("web-1", "web") && name_fits("web-1", "^/web-1$") && !name_fits("web-1", "^eb"));
        assert!(
            port_fits("80/tcp", "80") && port_fits("85/tcp", "80-90/tcp") && !port_fits("80/tcp", "80/udp")
        );
    }
}
