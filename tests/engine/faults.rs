//! What clients and the machine do to the engine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::engine::Daemon;

#[test]
fn a_second_daemon_on_a_root_is_refused_and_leaves_the_first_alone() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let name = |part: &str| daemon.dir().join(part).display().to_string();
    for run in ["other-run", "run"] {
        let output = daemon.knarr(&["daemon", "--root", &name("root"), "--run-dir", &name(run)]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("another engine has"), "{text}");
        assert!(text.contains(&name("root")), "which one is not told: {text}");
    }
    let pid = std::fs::read_to_string(daemon.dir().join("run/knarr.pid")).unwrap();
    assert_eq!(pid.trim(), daemon.pid().to_string());
    daemon.ask(&["run", "--rm", "bb", "true"]);
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

/// Sends a body of 1 GiB in pieces, for as long as it is taken, and answers with what came back.
fn send_without_end(daemon: &Daemon, path: &str) -> String {
    let mut stream = daemon.connect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut piece = b"100000\r\n".to_vec();
    piece.extend(vec![b' '; 1 << 20]);
    piece.extend(b"\r\n");
    for _ in 0..1024 {
        // Who has heard enough closes.
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[test]
fn a_body_of_a_gibibyte_in_pieces_costs_no_memory() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let before = daemon.status("VmRSS");
    for (path, status, told) in [
        ("/containers/create", "413", "the body is larger than"),
        ("/networks/create", "413", "the body is larger than"),
        ("/images/load", "200", "errorDetail"),
        ("/images/create?fromSrc=-&repo=big", "500", "message"),
    ] {
        let answer = send_without_end(&daemon, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains(told), "{path}: {answer}");
    }
    let grown = daemon.status("VmHWM").saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
    let tmp = std::fs::read_dir(daemon.root().join("store/tmp")).unwrap().count();
    assert_eq!(tmp, 0, "something is left of it in the store");
    daemon.ask(&["run", "--rm", "bb", "true"]);
}

/// Asks for a stream, and leaves it to the caller.
fn ask_for_stream(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = daemon.connect();
    let head = format!(
        "{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn readers_that_stall_hold_nobody_and_cost_no_memory() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let talk = "while :; do dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' '\\n'; echo whole; done";
    let options = ["run", "-d", "--name", "talker", "--log-opt", "max-size=20m", "--log-opt", "max-file=2"];
    daemon.ask(&[&options[..], &["bb", "sh", "-c", talk]].concat());
    let before = daemon.status("VmRSS");
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = ask_for_stream(&daemon, "GET /containers/talker/logs?follow=1&stdout=1");
            let mut bytes = [0; 64];
            stream.read_exact(&mut bytes).unwrap();
            stream
        })
        .collect();
    let log = daemon.root().join("containers").join(daemon.ask(&["inspect", "-f", "{{.Id}}", "talker"]));
    daemon.until("the program goes on", || log.join("json.log.1").exists());
    let grown = daemon.status("VmHWM").saturating_sub(before);
    assert!(grown < 64 << 10, "it has grown by {grown} KiB");
    daemon.ask(&["rm", "-f", "talker"]);
    drop(stalled);
}

#[test]
fn clients_that_vanish_leave_nothing_open() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "-i", "--name", "echo", "bb", "cat"]);
    daemon.ask(&[
        "run",
        "-d",
        "--name",
        "talker",
        "bb",
        "sh",
        "-c",
        "while :; do echo text; sleep 0.01; done",
    ]);
    let descriptors = daemon.descriptors();
    for path in [
        "POST /containers/echo/attach?stream=1&stdin=1&stdout=1",
        "POST /containers/echo/attach?stream=1&stdout=1",
        "POST /containers/talker/attach?stream=1&stdout=1&logs=1",
        "GET /containers/talker/logs?follow=1&stdout=1",
        "GET /events",
        "GET /containers/talker/stats",
        "POST /containers/talker/wait",
    ] {
        for _ in 0..10 {
            let mut stream = ask_for_stream(&daemon, path);
            if path.contains("stdin") {
                stream.write_all(b"typed\n").unwrap();
            }
            let mut bytes = [0; 16];
            stream.read_exact(&mut bytes).unwrap();
        }
    }
    let exec = serde_json::json!({ "Cmd": ["sleep", "1000"], "AttachStdout": true });
    for _ in 0..10 {
        let made = daemon.api().ask("POST", "/containers/talker/exec", &exec.to_string()).unwrap();
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let mut bytes = [0; 16];
        ask_for_stream(&daemon, &format!("POST /exec/{id}/start")).read_exact(&mut bytes).unwrap();
    }
    // Programs go on without who started them: an exec's connection to the shim tells of its end.
    daemon.until("all is closed", || daemon.descriptors() <= descriptors + 10);
    daemon.until("what was typed has come", || daemon.ask(&["logs", "echo"]).lines().count() == 10);
    daemon.ask(&["rm", "-f", "echo", "talker"]);
    daemon.until("nothing is left", || {
        daemon.descriptors() < descriptors && daemon.leftovers().is_empty() && daemon.processes().is_empty()
    });
}

#[test]
fn ten_thousand_requests_of_five_hundred_clients_are_answered() {
    const CLIENTS: usize = 500;
    const EACH: usize = 20;
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["create", "--name", "one", "bb", "true"]);
    let descriptors = daemon.descriptors();
    let asked = [
        ("GET /_ping", 200),
        ("GET /containers/json?all=1", 200),
        ("GET /containers/nobody/json", 404),
        ("GET /containers/one/json", 200),
        ("POST /containers/one/kill", 409),
        ("GET /version", 200),
        ("GET /nowhere", 404),
    ];
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut stream = daemon.connect();
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || {
                    for number in 0..EACH {
                        let (what, status) = asked[(client + number) % asked.len()];
                        let head = format!("{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
                        stream.write_all(head.as_bytes()).unwrap();
                        assert_eq!(read_answer(&mut stream), status, "{what}");
                    }
                })
                .unwrap();
        }
    });
    daemon.until("all is closed", || daemon.descriptors() <= descriptors);
    daemon.ask(&["rm", "one"]);
}

/// Reads one answer to its end: its status.
fn read_answer(stream: &mut UnixStream) -> u16 {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
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
    for path in ["/images/bb", "/images/bb?force=1"] {
        let answer = daemon.api().ask("DELETE", path, "").unwrap();
        let forced = path.ends_with('1');
        assert_eq!(answer.status, if forced { 200 } else { 409 }, "{answer:?}");
    }
    let id = daemon.ask(&["inspect", "user", "--format", "{{.Image}}"]);
    let answer = daemon.api().ask("DELETE", &format!("/images/{id}?force=1"), "").unwrap();
    assert_eq!(answer.status, 409, "{answer:?}");
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
