//! What a daemon tells of itself, and what it can be told while it runs.

use crate::support::engine::Daemon;

/// The value of a line of the page of figures.
fn figure(daemon: &Daemon, line: &str) -> Option<f64> {
    let page = daemon.outside(&["wget", "-q", "-O", "-", "http://127.0.0.1:9323/metrics"]);
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.lines().all(|line| line.starts_with("# ") || line.rsplit_once(' ').is_some()), "{page}");
    let found = page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

#[test]
fn figures_follow_what_happens() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start_with("[daemon]\nmetrics_addr = \"127.0.0.1:9323\"\n");
    let is = |line: &str, value: f64| {
        daemon.until(line, || figure(&daemon, line) == Some(value));
    };
    let at_least = |line: &str, value: f64| {
        daemon.until(line, || figure(&daemon, line).is_some_and(|found| found >= value));
    };
    is("engine_daemon_container_states_containers{state=\"running\"}", 0.0);
    is("knarr_images", 1.0);
    let ill = ["--health-cmd", "false", "--health-interval", "100ms"];
    daemon.ask(&[&["run", "-d", "--name", "one"][..], &ill, &["bb", "sleep", "1000"]].concat());
    daemon.ask(&["run", "-d", "--name", "two", "bb", "sleep", "1000"]);
    daemon.ask(&["pause", "two"]);
    daemon.ask(&["create", "--name", "three", "bb", "true"]);
    for state in ["running", "paused", "stopped"] {
        is(&format!("engine_daemon_container_states_containers{{state=\"{state}\"}}"), 1.0);
    }
    daemon.ask(&["diff", "one"]);
    daemon.ask(&["commit", "one", "copy"]);
    daemon.ask(&["network", "create", "near"]);
    daemon.ask(&["rm", "-f", "two"]);
    let count =
        |action: &str| format!("engine_daemon_container_actions_seconds_count{{action=\"{action}\"}}");
    for (action, value) in
        [("create", 3.0), ("start", 2.0), ("delete", 1.0), ("commit", 1.0), ("changes", 1.0)]
    {
        is(&count(action), value);
    }
    is("engine_daemon_container_actions_seconds_bucket{action=\"start\",le=\"+Inf\"}", 2.0);
    at_least("engine_daemon_network_actions_seconds_count{action=\"allocate\"}", 4.0);
    is("engine_daemon_network_actions_seconds_count{action=\"connect\"}", 2.0);
    at_least("engine_daemon_network_actions_seconds_count{action=\"release\"}", 1.0);
    at_least("engine_daemon_health_checks_failed_total", 3.0);
    at_least("engine_daemon_health_checks_total", 3.0);
    at_least("engine_daemon_events_total", 8.0);
    is("knarr_images", 2.0);
    is("knarr_networks", 4.0);
    at_least("process_resident_memory_bytes", 1e6);
    is(&format!("knarr_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
    let elsewhere = daemon.outside(&["wget", "-q", "-O", "-", "http://127.0.0.1:9323/containers/json"]);
    assert!(!elsewhere.status.success(), "more than figures is shown");
}

#[test]
fn a_changed_configuration_is_taken_over_whole_or_not_at_all() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start_with("[daemon]\nlabels = [\"a=1\"]\nlog_level = \"info\"\n");
    let info = |format: &str| daemon.ask(&["info", "--format", format]);
    assert_eq!(info("{{json .Labels}}"), "[\"a=1\"]");
    assert!(!daemon.log().contains("DEBUG"));
    daemon.reload(
        "[daemon]\nlabels = [\"b=2\"]\nlog_level = \"debug\"\nroot = \"/elsewhere\"\nmax_concurrent_downloads = 1\n\
         [registries.\"docker.io\"]\nmirrors = [\"mirror.example\"]\n[registries.\"r.example\"]\ninsecure = true\n",
    );
    daemon.until("labels are others", || info("{{json .Labels}}") == "[\"b=2\"]");
    assert_eq!(info("{{json .RegistryConfig.Mirrors}}"), "[\"mirror.example\"]");
    assert!(info("{{json .RegistryConfig.IndexConfigs}}").contains("r.example"));
    daemon.until("more is written", || daemon.log().contains("DEBUG"));
    daemon.until("what does not change is told", || daemon.log().contains("daemon.root has changed"));
    let events =
        ["events", "--since", "1h", "--until", "0s", "--filter", "type=daemon", "--format", "{{.Action}}"];
    daemon.until("it is told of", || daemon.ask(&events) == "reload");
    daemon.reload("[daemon]\nlabels = [\"c=3\"]\nlog_levle = \"info\"\n");
    daemon.until("what is wrong is told", || {
        let log = daemon.log();
        log.contains("the configuration is not taken over") && log.contains("log_levle")
    });
    assert_eq!(info("{{json .Labels}}"), "[\"b=2\"]");
    daemon.reload("[daemon]\nlabels = [\"c=3\"]\nlog_level = \"x=y=z\"\n");
    daemon.until("what is wrong is told", || daemon.log().contains("x=y=z"));
    assert_eq!(info("{{json .Labels}}"), "[\"b=2\"]");
    // Told so often, it is not interrupted.
    let archive = daemon.dir().join("saved.tar").display().to_string();
    daemon.ask(&["save", "-o", &archive, "bb"]);
    daemon.ask(&["load", "-i", &archive]);
}
