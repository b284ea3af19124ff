//! Links of the default network: what a container's programs are told of those that it is linked to.
//!
//! [`variables`] makes the environment of one link. Names are `copy_up`'s and the network's work.
//!
//! Spec: docker, "Legacy container links".

use std::net::IpAddr;

use super::record::Record;
use crate::{Engine, EngineError};

impl Engine {
    /// Whether all that a container is to be linked to are there.
    ///
    /// # Errors
    /// One is not, or has no network of its own.
    pub(super) fn check_links(&self, record: &Record) -> Result<(), EngineError> {
        for (name, _) in of_default_network(record) {
            // 404 would have clients fetch the image.
            let mut other = self.shared().containers.find(name).map_err(|error| {
                EngineError::invalid(format!("could not get container for {name}: {}", error.message()))
            })?;
            let joined = |other: &super::Container| {
                let record = other.record();
                record.network_mode().strip_prefix("container:").map(str::to_owned)
            };
            while let Some(id) = joined(&other) {
                other = self.joinable(&id)?;
            }
            if other.record().network_mode() == "host" {
                return Err(EngineError::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
                ));
            }
        }
        Ok(())
    }

    /// The environment that a container's links give it.
    ///
    /// # Errors
    /// One that it is linked to does not run.
    pub(super) fn link_variables(&self, record: &Record) -> Result<Vec<String>, EngineError> {
        let mut all = Vec::new();
        for (name, alias) in of_default_network(record) {
            let Ok(other) = self.shared().containers.find(name) else { continue };
            let other = other.record();
            let link = format!("/{}/{alias}", record.name);
            if !other.state.running {
                return Err(EngineError::failed(format!(
                    "Cannot link to a non running container: /{} AS {link}",
                    other.name
                )));
            }
            let place = other.networks.get("bridge").and_then(|place| place.endpoint.as_ref());
            let address = place.and_then(|place| place.ipv4).map(|net| net.addr());
            all.extend(variables(&link, alias, &other, address));
        }
        Ok(all)
    }
}

/// The links of a container, `(container, alias)`, when they are of the default network.
fn of_default_network(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let links = record.host.links.iter().flatten().filter(|_| record.network_mode() == "bridge");
    links.map(|link| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        (name, alias.rsplit('/').next().unwrap_or(alias))
    })
}

/// The variables of one link: where the ports are, what it is called, and the other one's own.
fn variables(link: &str, alias: &str, other: &Record, address: Option<IpAddr>) -> Vec<String> {
    let prefix = alias.to_ascii_uppercase().replace('-', "_");
    let mut all = Vec::new();
    if let Some(address) = address {
        all = ports(&prefix, &address.to_string(), other);
    }
    all.push(format!("{prefix}_NAME={link}"));
    let own = other.config.env.iter().flatten().filter_map(|entry| entry.split_once('='));
    let own = own.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    all.extend(own.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    all
}

/// Those of TCP come first, then by number.
fn exposed(other: &Record) -> Vec<(u16, String)> {
    let ports = other.config.exposed_ports.iter().flatten();
    let mut ports: Vec<(u16, String)> = ports
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol.to_owned()))
        })
        .collect();
    ports.sort_by_key(|(number, protocol)| (protocol != "tcp", protocol.clone(), *number));
    ports
}

fn ports(prefix: &str, address: &str, other: &Record) -> Vec<String> {
    let ports = exposed(other);
    let mut all = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        all.push(format!("{prefix}_PORT={protocol}://{address}:{number}"));
    }
    for (number, protocol) in &ports {
        let name = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        all.push(format!("{name}={protocol}://{address}:{number}"));
        all.push(format!("{name}_ADDR={address}"));
        all.push(format!("{name}_PORT={number}"));
        all.push(format!("{name}_PROTO={protocol}"));
    }
    for run in ports.chunk_by(|one, next| one.1 == next.1 && one.0.checked_add(1) == Some(next.0)) {
        if let [(first, protocol), .., (last, _)] = run {
            let name = format!("{prefix}_PORT_{first}_{}", protocol.to_ascii_uppercase());
            for (end, number) in [("START", first), ("END", last)] {
                all.push(format!("{name}_{end}={protocol}://{address}:{number}"));
                all.push(format!("{name}_PORT_{end}={number}"));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::ContainerConfig;

    use super::variables;
    use crate::containers::Record;

    fn told(ports: &[&str], env: &[&str]) -> Vec<String> {
        let list = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        let config =
            ContainerConfig { exposed_ports: list(ports), env: list(env), ..ContainerConfig::default() };
        let other = Record { config, ..Record::default() };
        variables("/web/my-db", "my-db", &other, Some("10.0.0.2".parse().unwrap()))
    }

    #[test]
    fn a_link_tells_where_the_other_ones_ports_are() {
        assert_eq!(
            told(&["53/udp", "80/tcp"], &["A=b=c", "PATH=/x", "HOME=/y", "EMPTY"]),
            [
                "MY_DB_PORT=tcp://10.0.0.2:80",
                "MY_DB_PORT_80_TCP=tcp://10.0.0.2:80",
                "MY_DB_PORT_80_TCP_ADDR=10.0.0.2",
                "MY_DB_PORT_80_TCP_PORT=80",
                "MY_DB_PORT_80_TCP_PROTO=tcp",
                "MY_DB_PORT_53_UDP=udp://10.0.0.2:53",
                "MY_DB_PORT_53_UDP_ADDR=10.0.0.2",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_A=b=c",
            ]
        );
    }

    #[test]
    fn ports_in_a_row_have_a_start_and_an_end() {
        let all = told(&["81/tcp", "80/tcp", "82/tcp", "90/tcp"], &[]);
        for variable in [
            "MY_DB_PORT_80_TCP_START=tcp://10.0.0.2:80",
            "MY_DB_PORT_80_TCP_PORT_START=80",
            "MY_DB_PORT_80_TCP_END=tcp://10.0.0.2:82",
            "MY_DB_PORT_80_TCP_PORT_END=82",
        ] {
            assert!(all.iter().any(|told| told == variable), "{variable}: {all:?}");
        }
        assert!(!all.iter().any(|told| told.contains("90_TCP_START")));
    }
}
