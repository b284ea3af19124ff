//! Files that a container sees of us: its name, its hosts, its name servers; and the bundle's configuration.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::record::{Record, write_file};
use crate::{EngineError, Options};

/// Where a sandbox's own name server answers.
const OWN_SERVER: &str = "127.0.0.11";

/// Writes `config.json`.
pub(crate) fn write_config(directory: &Path, spec: &Value) -> Result<(), EngineError> {
    let path = directory.join("config.json");
    write_file(&path, spec.to_string().as_bytes(), false).map_err(EngineError::file("write", &path))
}

/// Writes `hostname`, `hosts` and `resolv.conf`. They are written in place: a running container has them mounted.
pub(crate) fn write_files(
    record: &Record,
    directory: &Path,
    options: &Options,
    linked: &[(String, Vec<String>)],
) -> Result<(), EngineError> {
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(EngineError::file("write", path))
    };
    let of_host = |name: &str| fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
    put("hostname", format!("{}\n", record.hostname()))?;
    if record.network_mode() == "host" {
        put("hosts", hosts_of_host(&of_host("hosts"), record, options))?;
        return put("resolv.conf", resolv_conf(&of_host("resolv.conf"), record, options, true));
    }
    put("hosts", hosts(record, linked))?;
    put("resolv.conf", resolv_conf(&of_host("resolv.conf"), record, options, false))
}

fn extra_hosts(record: &Record, text: &mut String) {
    let gateway = record.networks.values().filter_map(|place| place.endpoint.as_ref()?.gateway4).next();
    for entry in record.host.extra_hosts.iter().flatten() {
        let Some((name, address)) = entry.split_once([':', '=']) else { continue };
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = match (address, gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => "127.0.0.1".to_owned(),
            _ => address.to_owned(),
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
}

fn hosts_of_host(own: &str, record: &Record, _options: &Options) -> String {
    let mut text = own.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    extra_hosts(record, &mut text);
    text
}

fn hosts(record: &Record, linked: &[(String, Vec<String>)]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    extra_hosts(record, &mut text);
    for (address, names) in linked {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    let name = record.hostname();
    let domain = record.config.domainname.as_deref().unwrap_or_default();
    let name = if domain.is_empty() { name } else { format!("{name}.{domain} {name}") };
    for endpoint in record.networks.values().filter_map(|place| place.endpoint.as_ref()) {
        for net in endpoint.ipv4.iter().chain(&endpoint.ipv6) {
            let _ = writeln!(text, "{}\t{name}", net.addr());
        }
    }
    text
}

/// Name servers of a `resolv.conf`.
fn servers(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim).collect()
}

/// Whether a container asks the server in its own sandbox: in networks that users made, and where the host's servers
/// are out of its reach.
pub(crate) fn asks_own_server(record: &Record, host: &str, options: &Options) -> bool {
    let named = record.networks.keys().any(|name| name != "bridge");
    let given = record.host.dns.as_ref().is_some_and(|dns| !dns.is_empty()) || !options.dns.is_empty();
    named
        || (!given
            && record.networks.contains_key("bridge")
            && servers(host).iter().all(|server| is_loopback(server)))
}

fn is_loopback(server: &str) -> bool {
    server.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn resolv_conf(host: &str, record: &Record, options: &Options, as_host: bool) -> String {
    let line = |key: &str| {
        let lines = host.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.map(str::trim).map(str::to_owned).next_back()
    };
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let own = asks_own_server(record, host, options);
    let names: Vec<String> = match given(&record.host.dns) {
        _ if own && !as_host => vec![OWN_SERVER.to_owned()],
        Some(dns) => dns,
        None if !options.dns.is_empty() => options.dns.clone(),
        None => servers(host)
            .into_iter()
            .filter(|server| as_host || !is_loopback(server))
            .map(str::to_owned)
            .collect(),
    };
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "nameserver {name}");
    }
    let search = given(&record.host.dns_search).map(|list| list.join(" ")).or_else(|| line("search"));
    if let Some(search) = search.filter(|search| search != ".") {
        let _ = writeln!(text, "search {search}");
    }
    let mut words = given(&record.host.dns_options)
        .map(|list| list.join(" "))
        .or_else(|| line("options"))
        .unwrap_or_default();
    if own && !as_host && !words.contains("ndots:") {
        words = format!("{words} ndots:0").trim().to_owned();
    }
    if !words.is_empty() {
        let _ = writeln!(text, "options {words}");
    }
    text
}
