//! What may be asked of networks: names, addresses, filters; what is wrong is said in docker's words.
//!
//! [`pools_of`] is the part with the most rules. Which addresses are free is the crate `network`'s matter.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bollard_stubs::models::{EndpointSettings, Ipam, IpamConfig};
use ipnet::IpNet;
use knarr_network::Pool;

use super::{NetworkRecord, PREDEFINED};
use crate::filters::Filters;
use crate::{EngineError, Kind};

/// Longer names serve nobody.
const MAX_NAME_BYTES: usize = 255;

/// A network's name.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    if name.trim().is_empty() {
        return Err(EngineError::invalid("invalid name: name is empty"));
    }
    if PREDEFINED.iter().any(|(known, _)| *known == name) || name == "default" {
        let text = format!("operation is not permitted on predefined {name} network ");
        return Err(EngineError::said(Kind::Forbidden, text));
    }
    // A network's file is named by its id: its name may be almost any text.
    if name.len() > MAX_NAME_BYTES || name.contains(char::is_control) || name.starts_with("container:") {
        return Err(EngineError::invalid(format!("invalid name: {name:?}: choose a plain and shorter one")));
    }
    Ok(())
}

/// Whether a family of addresses is on: by the request, or by an option of the driver.
pub(super) fn family(
    asked: Option<bool>,
    options: &BTreeMap<String, String>,
    key: &str,
) -> Result<Option<bool>, EngineError> {
    match (asked, options.get(key).map(String::as_str)) {
        (Some(asked), _) => Ok(Some(asked)),
        (None, None) => Ok(None),
        (None, Some("1" | "t" | "T" | "true" | "True" | "TRUE")) => Ok(Some(true)),
        (None, Some("0" | "f" | "F" | "false" | "False" | "FALSE")) => Ok(Some(false)),
        (None, Some(_)) => Err(EngineError::invalid(format!("driver-opt \"{key}\" is not a valid bool"))),
    }
}

/// The filter `dangling`.
pub(super) fn dangling(filters: &Filters) -> Result<Option<bool>, EngineError> {
    let values: Vec<&str> = filters.get("dangling").collect();
    match values[..] {
        [] => Ok(None),
        ["1" | "true"] => Ok(Some(true)),
        ["0" | "false"] => Ok(Some(false)),
        [_] => Err(EngineError::invalid(
            "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")",
        )),
        _ => Err(EngineError::invalid("got more than one value for filter key \"dangling\"")),
    }
}

/// The pools of a request, and all that is wrong with them at once.
pub(super) fn pools_of(ipam: &Ipam) -> Result<Vec<Pool>, EngineError> {
    let (mut pools, mut wrong) = (Vec::new(), Vec::new());
    for config in ipam.config.iter().flatten() {
        match pool_of(config, &mut wrong) {
            Some(pool) if wrong.is_empty() => pools.push(pool),
            _ => {}
        }
    }
    if wrong.is_empty() {
        return Ok(pools);
    }
    Err(EngineError::invalid(format!("invalid network config:\n{}", wrong.join("\n"))))
}

/// One pool; without a subnet there is none.
fn pool_of(config: &IpamConfig, wrong: &mut Vec<String>) -> Option<Pool> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let reserved = config.auxiliary_addresses.iter().flatten();
    let Some(text) = given(&config.subnet) else {
        if given(&config.ip_range).is_some() || given(&config.gateway).is_some() || reserved.count() > 0 {
            wrong.push("every ip-range or gateway must have a corresponding subnet".to_owned());
        }
        return None;
    };
    let Ok(subnet) = text.parse::<IpNet>() else {
        wrong.push(format!("invalid subnet {text}: invalid CIDR block notation"));
        return None;
    };
    if subnet.trunc() != subnet {
        wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    let mut pool = Pool { subnet, range: None, gateway: None, reserved: BTreeMap::new() };
    pool.range = given(&config.ip_range).and_then(|text| range(&text, subnet, wrong));
    let gateway = given(&config.gateway);
    pool.gateway = gateway.and_then(|text| address(&format!("gateway {text}"), &text, subnet, wrong));
    for (name, text) in reserved {
        if let Some(one) = address(&format!("auxiliary address {name}"), text, subnet, wrong) {
            pool.reserved.insert(name.clone(), one);
        }
    }
    Some(pool)
}

fn range(text: &str, subnet: IpNet, wrong: &mut Vec<String>) -> Option<IpNet> {
    let Ok(range) = text.parse::<IpNet>() else {
        wrong.push(format!("invalid ip-range {text}: invalid CIDR block notation"));
        return None;
    };
    let mut say = |why: String| wrong.push(format!("invalid ip-range {range}: {why}"));
    if range.addr().is_ipv4() != subnet.addr().is_ipv4() {
        say(format!("parent subnet is an {} block", version(subnet)));
        return None;
    }
    if range.prefix_len() < subnet.prefix_len() {
        say(format!("CIDR block is bigger than its parent subnet {subnet}"));
    }
    if range.trunc() != range {
        say(format!("it should be {}", range.trunc()));
    }
    if !subnet.contains(&range.network()) && !range.contains(&subnet.network()) {
        say(format!("parent subnet {subnet} doesn't contain ip-range"));
    }
    Some(range)
}

fn address(what: &str, text: &str, subnet: IpNet, wrong: &mut Vec<String>) -> Option<IpAddr> {
    let mut say = |why: String| wrong.push(format!("invalid {what}: {why}"));
    let Ok(address) = text.parse::<IpAddr>() else {
        say("invalid address".to_owned());
        return None;
    };
    if address.is_ipv4() != subnet.addr().is_ipv4() {
        say(format!("parent subnet is an {} block", version(subnet)));
    } else if !subnet.contains(&address) {
        say(format!("parent subnet {subnet} doesn't contain this address"));
    }
    Some(address)
}

const fn version(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

/// Whether a container can have the place in a network that it asks for. Of a network that is not there yet, `None`, only
/// the form is looked at.
pub(super) fn check_endpoint(
    record: Option<&NetworkRecord>,
    asked: &EndpointSettings,
) -> Result<(), EngineError> {
    let mut wrong = Vec::new();
    let ipam = asked.ipam_config.clone().unwrap_or_default();
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (v4, v6) = (given(ipam.ipv4_address), given(ipam.ipv6_address));
    let fixed = v4.is_some();
    if record.is_some_and(NetworkRecord::is_predefined) {
        if v4.is_some() || v6.is_some() {
            wrong.push("user-specified IP address is supported on user-defined networks only".to_owned());
        }
        if asked.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()) {
            wrong.push("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
    }
    let in_range = |address: &IpAddr| {
        record.is_none_or(|record| {
            record.network.request.pools.iter().any(|pool| pool.subnet.contains(address))
        })
    };
    for (text, four, name) in [(v4, true, "IPv4"), (v6, false, "IPv6")] {
        let Some(text) = text else { continue };
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() == four && !address.is_unspecified() => {
                if !in_range(&address) {
                    wrong.push(format!("no configured subnet contains IP address {address}"));
                }
            }
            _ => wrong.push(format!("invalid {name} address: {text}")),
        }
    }
    if !wrong.is_empty() {
        return Err(EngineError::invalid(format!("invalid endpoint settings:\n{}", wrong.join("\n"))));
    }
    let chosen = |record: &NetworkRecord| record.ipam.config.as_ref().is_some_and(|pools| !pools.is_empty());
    if fixed && !record.is_none_or(chosen) {
        return Err(EngineError::invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ));
    }
    Ok(())
}
