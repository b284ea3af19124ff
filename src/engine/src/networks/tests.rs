//! Tests of what is asked of networks and shown of them.

use std::collections::{BTreeMap, HashMap};

use bollard_stubs::models::{EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig};
use knarr_network::{Driver, Network, NetworkRequest, Pool};

use super::check::{check_endpoint, check_name, dangling, family, pools_of};
use super::{FORMAT, NetworkRecord, show};
use crate::Kind;
use crate::filters::Filters;

fn record(name: &str, subnet: &str) -> NetworkRecord {
    let pool = Pool {
        subnet: subnet.parse().unwrap(),
        range: None,
        gateway: Some("10.9.0.1".parse().unwrap()),
        reserved: BTreeMap::new(),
    };
    let request = NetworkRequest {
        id: "ab".repeat(32),
        name: name.to_owned(),
        driver: Driver::Bridge,
        internal: false,
        ipv4: true,
        ipv6: false,
        pools: vec![pool],
        options: BTreeMap::new(),
    };
    let config = IpamConfig { subnet: Some(subnet.to_owned()), ..IpamConfig::default() };
    NetworkRecord {
        format: FORMAT,
        created: "2026-01-01T00:00:00Z".to_owned(),
        attachable: false,
        labels: HashMap::new(),
        network: Network { request, interface: "br-ab".to_owned() },
        ipam: Ipam { config: Some(vec![config]), ..Ipam::default() },
    }
}

/// What is wrong with a pool; empty when nothing is.
fn said(subnet: &str, range: &str, gateway: &str, auxiliary: &[(&str, &str)]) -> String {
    let auxiliary = auxiliary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let config = IpamConfig {
        subnet: Some(subnet.to_owned()),
        ip_range: Some(range.to_owned()),
        gateway: Some(gateway.to_owned()),
        auxiliary_addresses: Some(auxiliary.collect()),
    };
    let ipam = Ipam { config: Some(vec![config]), ..Ipam::default() };
    pools_of(&ipam).err().map(|error| error.message()).unwrap_or_default()
}

#[test]
fn names_are_checked_with_dockers_words() {
    assert!(check_name("a_b-1.c").is_ok() && check_name("x").is_ok() && check_name("my net/1").is_ok());
    assert_eq!(check_name(" ").unwrap_err().message(), "invalid name: name is empty");
    let error = check_name("bridge").unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(error.message().starts_with("operation is not permitted on predefined bridge network"));
    for bad in ["a\nb", "container:x", &"x".repeat(256)] {
        assert_eq!(check_name(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
    }
}

#[test]
fn pools_are_checked_with_dockers_words() {
    assert_eq!(said("10.9.0.0/16", "10.9.1.0/24", "10.9.0.1", &[("a", "10.9.0.5")]), "");
    assert_eq!(said("", "", "", &[]), "");
    let of = |lines: &str| format!("invalid network config:\n{lines}");
    assert_eq!(said("10.9.0.1/16", "", "", &[]), of("invalid subnet 10.9.0.1/16: it should be 10.9.0.0/16"));
    assert_eq!(said("x", "", "", &[]), of("invalid subnet x: invalid CIDR block notation"));
    assert_eq!(
        said("10.9.0.0/16", "", "10.8.0.1", &[("a", "fd00::1")]),
        of("invalid gateway 10.8.0.1: parent subnet 10.9.0.0/16 doesn't contain this address\n\
            invalid auxiliary address a: parent subnet is an IPv4 block")
    );
    assert_eq!(
        said("10.9.0.0/16", "10.0.0.0/8", "", &[]),
        of("invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.9.0.0/16")
    );
    assert_eq!(
        said("10.9.0.0/16", "10.8.0.1/24", "", &[]),
        of("invalid ip-range 10.8.0.1/24: it should be 10.8.0.0/24\n\
            invalid ip-range 10.8.0.1/24: parent subnet 10.9.0.0/16 doesn't contain ip-range")
    );
    assert_eq!(
        said("", "", "10.0.0.1", &[]),
        of("every ip-range or gateway must have a corresponding subnet")
    );
}

#[test]
fn a_place_must_lie_in_the_network() {
    let asks = |v4: &str| EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(v4.to_owned()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let said = |name: &str, v4: &str| {
        let checked = check_endpoint(Some(&record(name, "10.9.0.0/16")), &asks(v4));
        checked.err().map(|error| error.message()).unwrap_or_default()
    };
    assert_eq!(said("own", "10.9.0.7"), "");
    assert_eq!(said("own", ""), "");
    assert!(said("own", "10.8.0.7").ends_with("no configured subnet contains IP address 10.8.0.7"));
    assert!(said("own", "x").ends_with("invalid IPv4 address: x"));
    assert!(said("bridge", "10.9.0.7").contains("supported on user-defined networks only"));
    assert!(check_endpoint(None, &asks("10.8.0.7")).is_ok() && check_endpoint(None, &asks("x")).is_err());
    let named = EndpointSettings { aliases: Some(vec!["x".to_owned()]), ..EndpointSettings::default() };
    let text = check_endpoint(Some(&record("bridge", "10.9.0.0/16")), &named).unwrap_err().message();
    assert!(text.ends_with("network-scoped aliases are only supported for user-defined networks"));
    let mut automatic = record("own", "10.9.0.0/16");
    automatic.ipam.config = None;
    let text = check_endpoint(Some(&automatic), &asks("10.9.0.7")).unwrap_err().message();
    assert!(text.contains("networks with user configured subnets"));
}

#[test]
fn families_come_from_the_request_or_an_option() {
    let options = BTreeMap::from([("v6".to_owned(), "true".to_owned()), ("bad".to_owned(), "x".to_owned())]);
    assert_eq!(family(None, &options, "v6").unwrap(), Some(true));
    assert_eq!(family(Some(false), &options, "v6").unwrap(), Some(false));
    assert_eq!(family(None, &options, "v4").unwrap(), None);
    assert!(family(None, &options, "bad").is_err());
}

#[test]
fn dangling_is_yes_or_no() {
    let read = |text: &str| dangling(&Filters::parse(text).unwrap());
    assert_eq!(read("{}").unwrap(), None);
    assert_eq!(read(r#"{"dangling":["1"]}"#).unwrap(), Some(true));
    assert!(read(r#"{"dangling":["perhaps"]}"#).is_err() && read(r#"{"dangling":["0","1"]}"#).is_err());
}

#[test]
fn a_network_is_shown_as_clients_read_it() {
    let shown = serde_json::to_value(show(&record("own", "10.9.0.0/16"), HashMap::new())).unwrap();
    let expected = serde_json::json!({
        "Name": "own", "Id": "ab".repeat(32), "Created": "2026-01-01T00:00:00Z", "Scope": "local",
        "Driver": "bridge", "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [{ "Subnet": "10.9.0.0/16", "Gateway": "10.9.0.1" }] },
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" },
        "ConfigOnly": false, "Options": {}, "Labels": {}, "Containers": {},
    });
    assert_eq!(shown, expected);
}

#[test]
fn a_record_comes_back_as_it_was() {
    let one = record("own", "10.9.0.0/16");
    let again: NetworkRecord = serde_json::from_slice(&serde_json::to_vec(&one).unwrap()).unwrap();
    assert_eq!(format!("{one:?}"), format!("{again:?}"));
}
