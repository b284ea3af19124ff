//! What older versions of the API have in answers, beside what the newest has.
//!
//! Spec: Docker Engine API, its version history.

use knarr_engine::models::ContainerSummary;
use serde_json::{Map, Value, json};

use crate::version::Version;

/// An image as it is inspected. `parent` is the image that it was committed on, if any.
pub(crate) fn image(mut value: Value, parent: String, version: Version) -> Value {
    if version < Version(44) {
        value["VirtualSize"] = value["Size"].clone();
        fill(&mut value, json!({ "Created": "0001-01-01T00:00:00Z" }));
    }
    if version < Version(45) {
        fill(&mut value, json!({ "Container": "", "ContainerConfig": null }));
    }
    if version < Version(48)
        && let Some(object) = value.as_object_mut()
    {
        object.remove("Descriptor");
    }
    if version < Version(52) {
        fill(&mut value, json!({ "Parent": parent, "Comment": "", "DockerVersion": "", "Author": "" }));
        fill(&mut value["Config"], image_config(version));
    } else if !parent.is_empty() {
        value["Parent"] = parent.into();
    }
    value
}

/// What an image's configuration had whether it was set or not.
fn image_config(version: Version) -> Value {
    let mut usual = json!({
        "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "", "Volumes": null,
        "WorkingDir": "",
    });
    if version < Version(50) {
        let of_containers = json!({
            "AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "",
            "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false,
        });
        fill(&mut usual, of_containers);
    }
    usual
}

/// A container as it is listed. What its places in networks lack is null or nothing, as in Go's documents.
pub(crate) fn container_summary(summary: &ContainerSummary) -> Value {
    let mut value = serde_json::to_value(summary).unwrap_or_default();
    let networks = value["NetworkSettings"]["Networks"].as_object_mut();
    for place in networks.into_iter().flat_map(|networks| networks.values_mut()) {
        let usual = json!({
            "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "GwPriority": 0,
            "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
        });
        fill(place, usual);
    }
    value
}

/// Adds what is not there.
fn fill(value: &mut Value, usual: Value) {
    let (Value::Object(object), Value::Object(usual)) = (value, usual) else { return };
    let absent = |(key, _): &(String, Value)| !object.contains_key(key);
    let absent: Map<String, Value> = usual.into_iter().filter(absent).collect();
    object.extend(absent);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::image;
    use crate::version::Version;

    #[test]
    fn a_place_in_a_network_has_all_that_go_writes() {
        let text =
            json!({ "Id": "i", "NetworkSettings": { "Networks": { "own": { "IPAddress": "10.0.0.2" } } } });
        let shown = super::container_summary(&serde_json::from_value(text).unwrap());
        let place = &shown["NetworkSettings"]["Networks"]["own"];
        assert_eq!((&place["IPAddress"], &place["IPPrefixLen"]), (&json!("10.0.0.2"), &json!(0)));
        assert!(place.as_object().unwrap().contains_key("DNSNames"));
    }

    #[test]
    fn an_older_client_finds_what_it_knows_of_an_image() {
        let now = json!({ "Id": "i", "Size": 5, "Descriptor": {}, "Config": { "Env": ["A=b"] } });
        let shown = |version| image(now.clone(), "p".to_owned(), Version(version));
        assert_eq!((&shown(43)["VirtualSize"], &shown(44)["VirtualSize"]), (&json!(5), &json!(null)));
        assert!(shown(44).as_object().unwrap().contains_key("ContainerConfig"));
        assert!(shown(47).get("Descriptor").is_none() && shown(48).get("Descriptor").is_some());
        assert_eq!(shown(49)["Config"]["Hostname"], "");
        let config = &shown(51)["Config"];
        assert!(config.get("Hostname").is_none() && config["Env"] == json!(["A=b"]));
        assert!(config.as_object().unwrap().contains_key("Cmd"));
        assert_eq!(
            shown(52),
            json!({ "Id": "i", "Size": 5, "Descriptor": {}, "Config": { "Env": ["A=b"] }, "Parent": "p" })
        );
    }
}
