//! What containers there are.
//!
//! [`ListQuery`] is what is asked for; `wanted` chooses, `inspect` shows one with all that is known of it.

mod inspect;
mod wanted;

use std::collections::HashMap;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHealth, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings,
    ContainerSummaryStateEnum, EndpointSettings, HealthStatusEnum, MountPoint, PortBinding, PortMap,
    PortSummary, PortSummaryTypeEnum,
};

use super::Container;
use super::record::{Attachment, MountRecord, Record, State};
use crate::filters::Filters;
use crate::networks::bare_endpoint_id;
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

impl Engine {
    /// `GET /containers/json`, the newest first.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list_containers(&self, query: &ListQuery) -> Result<Vec<ContainerSummary>, EngineError> {
        let wanted = self.wanted(query)?;
        let mut found: Vec<(Arc<Container>, Record)> = self
            .shared()
            .containers
            .all()
            .into_iter()
            .map(|container| {
                let record = container.record().clone();
                (container, record)
            })
            .filter(|(_, record)| wanted.has(record))
            .collect();
        found.sort_by_key(|(_, record)| std::cmp::Reverse(made_at(record)));
        found.truncate(query.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX));
        let mut names = HashMap::new();
        let mut summaries = Vec::new();
        for (container, record) in found {
            let mut summary = summary(&record);
            summary.image = Some(self.shown_image(&record, &mut names));
            if query.size {
                let size = self.writable_bytes(&container).await;
                summary.size_rw = Some(signed(size));
                summary.size_root_fs = Some(signed(size + self.image_bytes(&record.image).await));
            }
            summaries.push(summary);
        }
        Ok(summaries)
    }

    /// The name that a container's image was asked for by, as long as it leads there.
    fn shown_image(&self, record: &Record, names: &mut HashMap<String, String>) -> String {
        let asked = record.config.image.clone().unwrap_or_default();
        let digest = names.entry(asked.clone()).or_insert_with(|| {
            let found = self.shared().store.find(&asked);
            found.map(|found| found.descriptor.digest.to_string()).unwrap_or_default()
        });
        if *digest == record.image { asked } else { record.image.clone() }
    }

    /// How many bytes a container has written.
    pub(crate) async fn writable_bytes(&self, container: &Arc<Container>) -> u64 {
        let upper = self.container_dir(&container.id).join("upper");
        tokio::task::spawn_blocking(move || crate::volumes::tree_bytes(&upper)).await.unwrap_or_default()
    }
}

/// Whether it runs in a network that gives it no interface.
fn is_bare(record: &Record) -> bool {
    record.networks.contains_key("host") || record.networks.contains_key("none")
}

/// A container's place in a network, as it is.
fn endpoint(record: &Record, place: &Attachment) -> EndpointSettings {
    let mut settings = place.asked.clone();
    settings.network_id = Some(place.network_id.clone());
    if place.endpoint.is_none() && record.state.running && is_bare(record) {
        settings.endpoint_id = Some(bare_endpoint_id(&record.id, &place.network_id));
    }
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

/// All that is mounted, but for what `--tmpfs` asked for.
fn mount_points(record: &Record) -> Vec<MountPoint> {
    let shown = |mount: &&MountRecord| mount.kind != "tmpfs" || mount.asked.is_some();
    record.mounts.iter().filter(shown).map(mount_point).collect()
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

fn made_at(record: &Record) -> jiff::Timestamp {
    record.created.parse().unwrap_or_default()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn summary(record: &Record) -> ContainerSummary {
    let networks =
        record.networks.iter().map(|(name, place)| (name.clone(), endpoint(record, place))).collect();
    let health = record.state.health.as_ref();
    ContainerSummary {
        id: Some(record.id.clone()),
        names: Some(vec![format!("/{}", record.name)]),
        image: record.config.image.clone(),
        image_id: Some(record.image.clone()),
        command: Some(command_line(record)),
        created: Some(made_at(record).as_second()),
        ports: Some(port_summaries(record)),
        labels: Some(record.config.labels.clone().unwrap_or_default()),
        state: status_word(&record.state).parse::<ContainerSummaryStateEnum>().ok(),
        status: Some(status_text(record, jiff::Timestamp::now())),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(record.network_mode().to_owned()),
            annotations: record.host.annotations.clone(),
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
        mounts: Some(mount_points(record)),
        health: health.map(|health| ContainerSummaryHealth {
            status: health.status.and_then(|status| status.to_string().parse().ok()),
            failing_streak: health.failing_streak,
        }),
        ..ContainerSummary::default()
    }
}

/// The program and its arguments, those with spaces in quotes.
fn command_line(record: &Record) -> String {
    let (program, arguments) = record.command();
    let quoted =
        arguments.into_iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    std::iter::once(program).chain(quoted).collect::<Vec<_>>().join(" ")
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
        _ if state.paused => "paused",
        _ if state.restarting => "restarting",
        _ if state.running => "running",
        _ if state.removing => "removing",
        _ if state.dead => "dead",
        _ if state.started_at.is_empty() => "created",
        _ => "exited",
    }
}

fn health_word(record: &Record) -> &'static str {
    match record.state.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => "starting",
        Some(HealthStatusEnum::HEALTHY) => "healthy",
        Some(HealthStatusEnum::UNHEALTHY) => "unhealthy",
        _ => "none",
    }
}

/// What `ps` shows: `Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`.
fn status_text(record: &Record, now: jiff::Timestamp) -> String {
    let state = &record.state;
    let ago = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .map(|then| human(now.duration_since(then).as_secs()))
            .unwrap_or_default()
    };
    match status_word(state) {
        "restarting" => format!("Restarting ({}) {} ago", state.exit_code, ago(&state.finished_at)),
        "paused" => format!("Up {} (Paused)", ago(&state.started_at)),
        "running" => {
            let health = match health_word(record) {
                "none" => String::new(),
                "starting" => " (health: starting)".to_owned(),
                word => format!(" ({word})"),
            };
            format!("Up {}{health}", ago(&state.started_at))
        }
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        "created" => "Created".to_owned(),
        _ if state.finished_at.is_empty() => String::new(),
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
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests;
