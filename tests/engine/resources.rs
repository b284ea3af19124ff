//! What the machine runs out of: disk, processes, memory; and what its clock does.

use std::fs;
use std::io::Write;

use crate::support::engine::Daemon;

/// What docker prints of a failure.
fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.docker(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "docker {arguments:?} succeeded");
    text
}

/// Fills the daemon's disk up to the last byte.
fn fill(daemon: &Daemon) {
    let mut file = fs::File::options().create(true).append(true).open(daemon.root().join("filler")).unwrap();
    for size in [1 << 20, 1 << 12, 1 << 9, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_runs() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start_on_disk_of(24);
    let talk = "while :; do echo one whole line; sleep 0.01; done";
    daemon.ask(&["run", "-d", "--name", "talker", "bb", "sh", "-c", talk]);
    let leave = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    daemon.ask(&["run", "-d", "--name", "leaver", "bb", "sh", "-c", leave]);
    daemon.until("the leaver listens", || daemon.ask(&["logs", "leaver"]) == "ready");
    fill(&daemon);
    let full = "no space left on device";
    let tarball = daemon.dir().join("bb.tar").display().to_string();
    for arguments in [
        &["run", "-d", "--name", "late", "bb", "true"][..],
        &["create", "--name", "late", "bb", "true"],
        &["volume", "create", "late"],
        &["network", "create", "late"],
        &["import", &tarball, "late"],
        &["commit", "talker", "late"],
        &["exec", "talker", "sh", "-c", "echo a > /file"],
    ] {
        let text = refused(&daemon, arguments).to_lowercase();
        assert!(text.contains(full), "{arguments:?}: {text}");
    }
    assert_eq!(daemon.ask(&["exec", "talker", "echo", "inside"]), "inside");
    // How it ended is told, though it cannot be written down.
    daemon.ask(&["kill", "-s", "TERM", "leaver"]);
    assert_eq!(daemon.ask(&["wait", "leaver"]), "7");
    assert_eq!(daemon.ask(&["ps", "--format", "{{.Names}}"]), "talker");
    fs::remove_file(daemon.root().join("filler")).unwrap();
    let lines = || daemon.ask(&["logs", "talker"]);
    let before = lines().len();
    daemon.until("its lines are kept again", || lines().len() > before);
    assert!(lines().lines().all(|line| line == "one whole line"), "half a line is in the log");
    // And an engine can be opened where there is no room.
    fill(&daemon);
    let holder = daemon.hold();
    daemon.kill();
    daemon.restart(&holder);
    assert_eq!(daemon.ask(&["ps", "--format", "{{.Names}}"]), "talker");
    daemon.ask(&["rm", "-f", "talker", "leaver"]);
    fs::remove_file(daemon.root().join("filler")).unwrap();
    daemon.ask(&["volume", "create", "late"]);
    daemon.ask(&["network", "create", "late"]);
    daemon.ask(&["run", "--rm", "--name", "late", "-v", "late:/data", "--network", "late", "bb", "true"]);
    daemon.ask(&["network", "rm", "late"]);
    daemon.until("nothing is left", || daemon.leftovers().is_empty());
    let tmp = fs::read_dir(daemon.root().join("store/tmp")).unwrap().count();
    let leases = fs::read_dir(daemon.root().join("store/leases")).unwrap().count();
    assert_eq!((tmp, leases), (0, 0), "something half made is left in the store");
}

#[test]
fn a_container_without_room_for_processes_holds_nobody_else() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let fork = "(while :; do sleep 1000 & done); echo full; read line";
    daemon.ask(&["run", "-d", "-i", "--name", "few", "--pids-limit", "6", "bb", "sh", "-c", fork]);
    daemon.until("it is full", || daemon.ask(&["logs", "few"]).ends_with("full"));
    // Who comes in may come in, and make no more.
    let text = refused(&daemon, &["exec", "few", "sh", "-c", "true & wait"]);
    assert!(text.contains("fork"), "{text}");
    assert_eq!(daemon.ask(&["run", "--rm", "bb", "echo", "others"]), "others");
    assert!(daemon.ask(&["top", "few"]).contains("sleep 1000"));
    daemon.ask(&["stop", "-t", "0", "few"]);
    assert_eq!(daemon.ask(&["wait", "few"]), "137");
    daemon.ask(&["rm", "few"]);
    daemon.until("nothing is left", || daemon.leftovers().is_empty() && daemon.processes().is_empty());
}

#[test]
fn who_wants_more_memory_than_there_is_is_ended_and_told_of() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let hungry = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M"];
    let run = ["run", "--name", "hungry", "-m", "16m", "--memory-swap", "16m", "bb"];
    let output = daemon.docker(&[&run[..], &hungry].concat());
    assert_eq!(output.status.code(), Some(137));
    let state = daemon.ask(&["inspect", "hungry", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}"]);
    assert_eq!(state, "true 137");
    let events =
        ["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}} {{.Actor.Attributes.name}}"];
    let events = [&events[..], &["--filter", "event=oom"]].concat();
    daemon.until("it is told of", || daemon.ask(&events) == "oom hungry");
    // One that has enough is not told of by what another one did.
    daemon.ask(&["run", "--name", "modest", "-m", "16m", "bb", "true"]);
    assert_eq!(daemon.ask(&["inspect", "modest", "--format", "{{.State.OOMKilled}}"]), "false");
    daemon.ask(&["rm", "hungry", "modest"]);
    daemon.until("nothing is left", || daemon.leftovers().is_empty());
}

/// The clock of the machine cannot be set in a test: what it would have left is written instead. All that waits does so by
/// the monotonic clock.
#[test]
fn times_of_the_future_hold_nobody_when_the_clock_went_back() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start();
    let id = daemon.ask(&["run", "-d", "--name", "ahead", "bb", "sh", "-c", "echo now; sleep 1000"]);
    let ended = daemon.ask(&["create", "--name", "ended", "bb", "true"]);
    daemon.ask(&["start", "-a", "ended"]);
    daemon.until("it has spoken", || daemon.ask(&["logs", "ahead"]) == "now");
    let holder = daemon.hold();
    daemon.kill();
    for id in [&id, &ended] {
        let path = daemon.root().join("containers").join(id).join("container.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["created"] = "2999-01-01T00:00:00Z".into();
        record["state"]["startedAt"] = "2999-01-01T00:00:00Z".into();
        fs::write(&path, record.to_string()).unwrap();
    }
    let log = daemon.root().join("containers").join(&id).join("json.log");
    let mut log = fs::File::options().append(true).open(log).unwrap();
    log.write_all(b"{\"log\":\"later\\n\",\"stream\":\"stdout\",\"time\":\"2999-01-01T00:00:00Z\"}\n")
        .unwrap();
    log.write_all(b"{\"log\":\"again\\n\",\"stream\":\"stdout\",\"time\":\"2020-01-01T00:00:00Z\"}\n")
        .unwrap();
    daemon.restart(&holder);
    assert!(daemon.ask(&["ps", "-a"]).contains("ahead"));
    assert_eq!(daemon.ask(&["logs", "ahead"]), "now\nlater\nagain");
    assert_eq!(daemon.ask(&["logs", "--tail", "1", "ahead"]), "again");
    assert!(daemon.ask(&["logs", "--since", "1h", "ahead"]).starts_with("now\nlater"));
    daemon.ask(&["stop", "-t", "1", "ahead"]);
    assert_eq!(daemon.ask(&["wait", "ahead"]), "137");
    daemon.ask(&["start", "ahead", "ended"]);
    daemon.ask(&["restart", "-t", "0", "ahead"]);
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format"];
    let events = [&events[..], &["{{.Actor.Attributes.execDuration}}"]].concat();
    daemon.until("who ended before it began has lived for nothing", || {
        daemon.ask(&events).lines().next().is_some_and(|seconds| seconds == "0")
    });
    daemon.ask(&["rm", "-f", "ahead", "ended"]);
    daemon.until("nothing is left", || daemon.leftovers().is_empty());
}
