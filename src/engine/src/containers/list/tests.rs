//! Tests of lists and of what is shown of a container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard_stubs::models::{Health, HealthStatusEnum, PortSummary, PortSummaryTypeEnum};

use super::inspect::describe;
use super::wanted::{PortsAsked, Wanted, exits, one_of, ports_asked};
use super::{human, status_text, status_word, summary};
use crate::containers::Record;
use crate::containers::record::{Attachment, MountRecord};
use crate::filters::Filters;

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
    for (status, text) in [
        (HealthStatusEnum::STARTING, "Up 10 seconds (health: starting)"),
        (HealthStatusEnum::HEALTHY, "Up 10 seconds (healthy)"),
        (HealthStatusEnum::UNHEALTHY, "Up 10 seconds (unhealthy)"),
        (HealthStatusEnum::NONE, "Up 10 seconds"),
    ] {
        record.state.health = Some(Health { status: Some(status), ..Health::default() });
        assert_eq!(status_text(&record, now), text);
    }
    record.state.paused = true;
    assert_eq!(status_text(&record, now), "Up 10 seconds (Paused)");
    (record.state.running, record.state.paused, record.state.restarting) = (false, false, true);
    assert_eq!(status_text(&record, now), "Restarting (3) 5 seconds ago");
    (record.state.restarting, record.state.removing) = (false, true);
    assert_eq!(status_text(&record, now), "Removal In Progress");
    (record.state.removing, record.state.dead) = (false, true);
    assert_eq!((status_word(&record.state), status_text(&record, now).as_str()), ("dead", "Dead"));
}

#[test]
fn less_than_a_second_is_not_rounded_up() {
    let mut record = Record::default();
    record.state.running = true;
    record.state.started_at = "2026-01-01T00:00:09.9Z".to_owned();
    let now = "2026-01-01T00:00:10.1Z".parse().unwrap();
    assert_eq!(status_text(&record, now), "Up Less than a second");
}

/// A container that runs, with a port, a volume and a network.
fn web() -> Record {
    let mut record = Record {
        id: "ab".repeat(32),
        name: "web-1".to_owned(),
        created: "2026-01-01T00:00:00.5Z".to_owned(),
        image: "sha256:00".to_owned(),
        layers: vec![PathBuf::from("/s/low"), PathBuf::from("/s/high")],
        ..Record::default()
    };
    record.config.image = Some("app:1".to_owned());
    record.config.cmd = Some(["sh", "-c", "sleep 1; exit"].map(str::to_owned).to_vec());
    record.config.labels = Some(HashMap::from([("tier".to_owned(), "front".to_owned())]));
    record.config.exposed_ports = Some(vec!["80/tcp".to_owned(), "90/udp".to_owned()]);
    record.state.running = true;
    record.state.started_at = "2026-01-01T00:00:01Z".to_owned();
    record.networks = BTreeMap::from([(
        "own".to_owned(),
        Attachment { network_id: "cd".repeat(32), ..Attachment::default() },
    )]);
    let mount = |kind: &str, target: &str| MountRecord {
        kind: kind.to_owned(),
        target: target.to_owned(),
        ..MountRecord::default()
    };
    record.mounts = vec![
        MountRecord { name: Some("data".to_owned()), source: "/v".to_owned(), ..mount("volume", "/data") },
        MountRecord { source: "/host".to_owned(), ..mount("bind", "/there") },
        mount("tmpfs", "/tmp"),
    ];
    record.ports = vec![knarr_network::PublishedPort {
        protocol: "tcp".to_owned(),
        container_port: 80,
        host_ip: "0.0.0.0".parse().unwrap(),
        host_port: 8080,
    }];
    record
}

/// Whether a list with filters has the container.
fn lists(record: &Record, text: &str) -> bool {
    let filters = Filters::parse(text).unwrap();
    let wanted = Wanted {
        filters: &filters,
        all: filters.has("status"),
        before: None,
        since: None,
        exits: exits(&filters).unwrap(),
        task: filters.flag("is-task").unwrap(),
        ancestors: None,
        ports: [ports_asked(&filters, "publish").unwrap(), ports_asked(&filters, "expose").unwrap()],
    };
    wanted.has(record)
}

#[test]
fn filters_choose_containers() {
    let record = web();
    for good in [
        "{}",
        r#"{"id":["abab"]}"#,
        r#"{"name":["eb"]}"#,
        r#"{"name":["^/web-[0-9]$"]}"#,
        r#"{"name":["^web"]}"#,
        r#"{"label":["tier=front"]}"#,
        r#"{"network":["own"]}"#,
        r#"{"network":["cdcd"]}"#,
        r#"{"volume":["data"]}"#,
        r#"{"volume":["/there"]}"#,
        r#"{"volume":["/host"]}"#,
        r#"{"publish":["8000-8100"]}"#,
        r#"{"expose":["90/udp"]}"#,
        r#"{"publish":["1"],"expose":["80"]}"#,
        r#"{"status":["exited","running"]}"#,
        r#"{"health":["none"]}"#,
        r#"{"is-task":["false"]}"#,
    ] {
        assert!(lists(&record, good), "{good}");
    }
    for bad in [
        r#"{"id":["ba"]}"#,
        r#"{"name":["^eb"]}"#,
        r#"{"label":["tier"],"label!":["tier"]}"#,
        r#"{"network":["other"]}"#,
        r#"{"volume":["/v"]}"#,
        r#"{"publish":["80"]}"#,
        r#"{"expose":["90"]}"#,
        r#"{"status":["exited"]}"#,
        r#"{"health":["healthy"]}"#,
        r#"{"exited":["0"]}"#,
        r#"{"is-task":["true"]}"#,
    ] {
        assert!(!lists(&record, bad), "{bad}");
    }
}

#[test]
fn who_restarts_is_listed_as_running_and_who_ended_is_not() {
    let mut record = web();
    (record.state.running, record.state.restarting) = (false, true);
    assert!(lists(&record, "{}") && lists(&record, r#"{"status":["restarting"]}"#));
    record.state.restarting = false;
    assert!(!lists(&record, "{}") && lists(&record, r#"{"status":["exited"],"exited":["0"]}"#));
    assert!(!lists(&record, r#"{"status":["exited"],"exited":["1"]}"#));
}

#[test]
fn values_of_filters_are_checked_with_dockers_words() {
    let filters = Filters::parse(r#"{"status":["gone"],"exited":["x"],"publish":["a:1"]}"#).unwrap();
    assert_eq!(
        one_of(&filters, "status", "state", &["created", "dead"]).unwrap_err().message(),
        "invalid filter 'status=gone': invalid value for state (gone): must be one of created, dead"
    );
    assert!(exits(&filters).unwrap_err().message().starts_with("invalid filter 'exited=x'"));
    assert_eq!(
        ports_asked(&filters, "publish").unwrap_err().message(),
        "filter for 'publish' should not contain ':': a:1"
    );
    assert!(PortsAsked::parse("expose", "9-1").is_err() && PortsAsked::parse("expose", "70000").is_err());
    assert!(PortsAsked::parse("expose", "1-9/UDP").unwrap().has(9, "udp"));
}

#[test]
fn a_summary_has_what_ps_shows() {
    let shown = summary(&web());
    assert_eq!(shown.command.unwrap(), "sh -c 'sleep 1; exit'");
    assert_eq!(shown.names.unwrap(), ["/web-1"]);
    assert_eq!(shown.created, Some(1_767_225_600));
    assert_eq!(shown.state.unwrap().to_string(), "running");
    let targets = shown.mounts.unwrap().into_iter().map(|mount| mount.destination.unwrap());
    assert_eq!(targets.collect::<Vec<_>>(), ["/data", "/there"]);
    assert_eq!(
        shown.ports.unwrap(),
        [
            PortSummary {
                ip: Some("0.0.0.0".to_owned()),
                private_port: 80,
                public_port: Some(8080),
                typ: Some(PortSummaryTypeEnum::TCP),
            },
            PortSummary {
                ip: None,
                private_port: 90,
                public_port: None,
                typ: Some(PortSummaryTypeEnum::UDP)
            },
        ]
    );
}

/// What inspect shows of a container, by its path in the document.
fn shown(record: &Record) -> impl Fn(&str) -> serde_json::Value + use<> {
    let document = describe(record, Path::new("/c"), "/run/netns/x").unwrap();
    move |path| document.pointer(path).unwrap_or_else(|| panic!("{path} is not there")).clone()
}

#[test]
fn inspect_has_all_that_clients_read() {
    let shown = shown(&web());
    assert_eq!(shown("/Path"), "sh");
    assert_eq!(shown("/Args/1"), "sleep 1; exit");
    assert_eq!(shown("/Name"), "/web-1");
    assert_eq!(shown("/State/Status"), "running");
    assert_eq!(shown("/State/FinishedAt"), "0001-01-01T00:00:00Z");
    assert_eq!(shown("/HostsPath"), "/c/hosts");
    assert_eq!(shown("/GraphDriver/Data/LowerDir"), "/s/high:/s/low");
    assert_eq!(shown("/NetworkSettings/SandboxKey"), "/run/netns/x");
    assert_eq!(shown("/NetworkSettings/Ports/80~1tcp/0/HostPort"), "8080");
    assert!(shown("/NetworkSettings/Ports/90~1udp").is_null());
    assert_eq!(shown("/NetworkSettings/Networks/own/NetworkID"), "cd".repeat(32));
    assert_eq!(shown("/NetworkSettings/Networks/own/IPAddress"), "");
    assert_eq!(shown("/Mounts/1/Source"), "/host");
    for path in
        ["/HostConfig/Links", "/HostConfig/Binds", "/HostConfig/CapAdd", "/Config/Volumes", "/ExecIDs"]
    {
        assert!(shown(path).is_null(), "{path}");
    }
    for path in ["/HostConfig/Dns", "/HostConfig/Devices", "/Config/Env"] {
        assert!(shown(path).is_array(), "{path}");
    }
    assert_eq!(shown("/HostConfig/NetworkMode"), "bridge");
    assert_eq!(shown("/HostConfig/RestartPolicy/Name"), "no");
    assert!(shown("/HostConfig/MaskedPaths").as_array().unwrap().contains(&"/proc/kcore".into()));
}

#[test]
fn inspect_tells_what_was_asked_for_and_not_what_is_usual() {
    let mut record = web();
    record.host.privileged = Some(true);
    record.host.memory = Some(7);
    record.host.links = Some(vec!["/a:/web-1/b".to_owned()]);
    record.config.env = Some(vec!["A=b".to_owned()]);
    record.state.running = false;
    let shown = shown(&record);
    assert!(shown("/HostConfig/MaskedPaths").is_null());
    assert_eq!(shown("/HostConfig/Memory"), 7);
    assert_eq!(shown("/HostConfig/Links/0"), "/a:/web-1/b");
    assert_eq!(shown("/Config/Env/0"), "A=b");
    assert_eq!(shown("/State/Status"), "exited");
    assert_eq!(shown("/NetworkSettings/Ports"), serde_json::json!({}));
}
