//! What clients and the machine do to the engine.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::engine::Daemon;

#[test]
fn a_second_daemon_on_a_root_is_refused() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let output = daemon.knarr(&[
        "daemon",
        "--root",
        &daemon.root().display().to_string(),
        "--run-dir",
        "/tmp/knarr-none",
    ]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("another engine has"), "{text}");
}

#[test]
fn a_body_without_end_is_refused_at_once() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let mut stream = daemon.connect();
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    daemon.ask(&["ps"]);
}

#[test]
fn clients_that_vanish_or_stall_hold_nobody() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&[
        "run",
        "-d",
        "--name",
        "talker",
        "bb",
        "sh",
        "-c",
        "while :; do echo some text that is written; sleep 0.01; done",
    ]);
    let ask = |path: &str| {
        let mut stream = daemon.connect();
        let head = format!(
            "{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let stalled: Vec<_> = (0..3).map(|_| ask("GET /containers/talker/logs?follow=1&stdout=1")).collect();
    for _ in 0..5 {
        let mut attached = ask("POST /containers/talker/attach?stream=1&stdout=1");
        let mut bytes = [0; 64];
        attached.read_exact(&mut bytes).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let lines = |_: ()| daemon.ask(&["logs", "talker"]).lines().count();
    let before = lines(());
    std::thread::sleep(Duration::from_millis(300));
    assert!(lines(()) > before, "the program stands still");
    daemon.ask(&["rm", "-f", "talker"]);
    drop(stalled);
}

#[test]
fn many_requests_at_once_are_answered() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let mut streams = Vec::new();
    for _ in 0..400 {
        let mut stream = daemon.connect();
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        streams.push(stream);
    }
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("OK"), "{answer}");
    }
}

#[test]
fn an_image_in_use_stays() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--name", "user", "bb", "sleep", "1000"]);
    let output = daemon.docker(&["rmi", "bb"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("is using its referenced image"), "{text}");
    daemon.docker(&["rmi", "-f", "bb"]);
    daemon.ask(&["image", "prune", "-a", "-f"]);
    daemon.ask(&["restart", "-t", "0", "user"]);
    daemon.ask(&["exec", "user", "ls", "/bin/busybox"]);
}

#[test]
fn an_exec_into_a_container_that_stands_still_is_refused_and_holds_nobody() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let id = daemon.ask(&["run", "-d", "--name", "still", "bb", "sleep", "1000"]);
    let state = std::fs::File::open(daemon.dir().join("run/oci").join(&id)).unwrap();
    // As long as somebody changes the container, nobody enters it.
    state.lock().unwrap();
    let output = std::thread::scope(|scope| {
        let entered = scope.spawn(|| daemon.docker(&["exec", "still", "true"]));
        std::thread::sleep(Duration::from_millis(300));
        freeze(&id, true);
        state.unlock().unwrap();
        entered.join().unwrap()
    });
    assert!(!output.status.success(), "it ran before its turn");
    daemon.ask(&["logs", "still"]);
    freeze(&id, false);
    daemon.ask(&["exec", "still", "true"]);
}

/// Does to a container what an engine does that is killed before it has written it down.
fn freeze(id: &str, frozen: bool) {
    let old = std::path::Path::new("/sys/fs/cgroup/freezer/knarr").join(id).join("freezer.state");
    let new = std::path::Path::new("/sys/fs/cgroup/knarr").join(id).join("cgroup.freeze");
    match old.exists() {
        true => std::fs::write(old, if frozen { "FROZEN" } else { "THAWED" }).unwrap(),
        false => std::fs::write(new, if frozen { "1" } else { "0" }).unwrap(),
    }
}

#[test]
fn what_a_killed_daemon_did_not_write_down_is_seen_by_the_next() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start();
    let still = daemon.ask(&["run", "-d", "--name", "still", "bb", "sleep", "1000"]);
    let moving = daemon.ask(&["run", "-d", "--name", "moving", "bb", "sleep", "1000"]);
    daemon.ask(&["pause", "moving"]);
    let holder = daemon.hold();
    daemon.kill();
    freeze(&still, true);
    freeze(&moving, false);
    daemon.restart(&holder);
    let paused = |name: &str| daemon.ask(&["inspect", name, "--format", "{{.State.Paused}}"]);
    assert_eq!((paused("still"), paused("moving")), ("true".to_owned(), "false".to_owned()));
    // Who is frozen dies, too.
    daemon.ask(&["rm", "-f", "still", "moving"]);
}

#[test]
fn a_container_that_was_to_remove_itself_is_gone_after_a_crash() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--rm", "--name", "brief", "-v", "/data", "bb", "sleep", "0.5"]);
    daemon.ask(&["create", "--rm", "--name", "waiting", "bb", "true"]);
    let holder = daemon.hold();
    daemon.kill();
    std::thread::sleep(Duration::from_secs(1));
    daemon.restart(&holder);
    let begun = std::time::Instant::now();
    while !daemon.ask(&["ps", "-aq"]).is_empty() || !daemon.ask(&["volume", "ls", "-q"]).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
