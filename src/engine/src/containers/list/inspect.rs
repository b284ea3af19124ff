//! What a container is like: the whole document of `inspect`.
//!
//! [`describe`] makes it of the record alone. Clients read fields that the models leave out when they are empty: those are
//! filled in with what docker has there.

use std::collections::HashMap;
use std::path::Path;

use bollard_stubs::models::EndpointSettings;
use serde_json::{Value, json};

use super::{endpoint, mount_points, ports, status_word};
use crate::containers::record::Record;
use crate::containers::spec::{MASKED, READ_ONLY};
use crate::system::DEFAULT_RUNTIME;
use crate::{Engine, EngineError};

impl Engine {
    /// `GET /containers/{id}/json`.
    ///
    /// # Errors
    /// There is none.
    pub async fn inspect_container(&self, name: &str, size: bool) -> Result<Value, EngineError> {
        let container = self.shared().containers.find(name)?;
        let record = container.record().clone();
        let sandbox = self.sandbox_path(&record);
        let mut value = describe(&record, &self.container_dir(&record.id), &sandbox)?;
        let execs = self.shared().containers.execs_of(&record.id);
        if !execs.is_empty() {
            value["ExecIDs"] = json!(execs);
        }
        if let Some(manifest) = self.manifest_of(&record.image).await {
            value["ImageManifestDescriptor"] = to_value(&manifest)?;
        }
        if size {
            let bytes = self.writable_bytes(&container).await;
            value["SizeRw"] = json!(bytes);
            value["SizeRootFs"] = json!(bytes + self.image_bytes(&record.image).await);
        }
        Ok(value)
    }

    fn sandbox_path(&self, record: &Record) -> String {
        if !record.state.running || !record.has_own_network() {
            return String::new();
        }
        self.run_dir().join("netns").join(&record.id).display().to_string()
    }
}

/// The document, but for what only the engine knows.
pub(super) fn describe(record: &Record, directory: &Path, sandbox: &str) -> Result<Value, EngineError> {
    let path = |name: &str| directory.join(name).display().to_string();
    let file = |name: &str| record.files_in(directory).join(name).display().to_string();
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
    let lowers: Vec<String> = record.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    Ok(json!({
        "Id": record.id,
        "Created": record.created,
        "Path": program,
        "Args": arguments,
        "State": shown,
        "Image": record.image,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
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
        "Mounts": to_value(&mount_points(record))?,
        "Config": config(record)?,
        "NetworkSettings": network_settings(record, sandbox)?,
    }))
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
    value["Hostname"] = json!(record.hostname());
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
    if !record.is_privileged() {
        fill(&mut value, json!({ "MaskedPaths": MASKED, "ReadonlyPaths": READ_ONLY }));
    }
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
            "ShmSize": 67_108_864, "Runtime": DEFAULT_RUNTIME, "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0,
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
        record.networks.iter().map(|(name, place)| (name, endpoint(record, place))).collect();
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
    let bridge = record.networks.get("bridge").map(|place| endpoint(record, place)).unwrap_or_default();
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
