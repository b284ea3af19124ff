//! What a crash of the daemon must not lose: containers, log lines, exit codes; and what it must not leave.

use std::time::{Duration, Instant};

use crate::support::engine::Daemon;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn containers_outlive_a_daemon_that_is_killed() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start();
    let script =
        "i=0; while [ ! -e /tmp/stop ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo last $i; exit 42";
    daemon.ask(&["network", "create", "near"]);
    daemon.ask(&[
        "run",
        "-d",
        "--name",
        "teller",
        "--network",
        "near",
        "-p",
        "8082:80",
        "bb",
        "sh",
        "-c",
        script,
    ]);
    daemon.ask(&["run", "-d", "--name", "brief", "bb", "sh", "-c", "sleep 0.5; echo gone; exit 7"]);
    daemon.ask(&["run", "-d", "--name", "again", "--restart", "always", "bb", "sleep", "1000"]);
    let pid = daemon.ask(&["inspect", "teller", "--format", "{{.State.Pid}}"]);
    let holder = daemon.hold();
    daemon.kill();
    std::thread::sleep(Duration::from_secs(1));
    daemon.restart(&holder);
    assert_eq!(daemon.ask(&["inspect", "teller", "--format", "{{.State.Pid}}"]), pid, "it is another one");
    assert_eq!(daemon.ask(&["inspect", "brief", "--format", "{{.State.ExitCode}}"]), "7");
    assert_eq!(daemon.ask(&["logs", "brief"]), "gone");
    assert_eq!(daemon.ask(&["inspect", "again", "--format", "{{.State.Running}}"]), "true");
    assert!(daemon.ask(&["port", "teller"]).contains("0.0.0.0:8082"));
    daemon.ask(&["run", "--rm", "--network", "near", "bb", "ping", "-c", "1", "-w", "5", "teller"]);
    daemon.ask(&["exec", "teller", "touch", "/tmp/stop"]);
    assert_eq!(daemon.ask(&["wait", "teller"]), "42");
    let log = daemon.ask(&["logs", "teller"]);
    let lines: Vec<&str> = log.lines().collect();
    for (number, line) in lines[..lines.len() - 1].iter().enumerate() {
        assert_eq!(*line, format!("line {number}"), "a line is missing");
    }
    assert_eq!(lines[lines.len() - 1], format!("last {}", lines.len() - 1));
}

#[test]
fn a_daemon_killed_at_work_leaves_nothing_behind() {
    if !super::ready() {
        return;
    }
    let mut daemon = Daemon::start();
    let holder = daemon.hold();
    for round in 0_u64..12 {
        let names: Vec<String> = (0..4).map(|number| format!("c{round}-{number}")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                let daemon = &daemon;
                scope.spawn(move || {
                    // The daemon may be killed in the midst of any of these.
                    daemon.docker(&["run", "-d", "--name", name, "bb", "sleep", "1000"]);
                    daemon.docker(&["exec", name, "true"]);
                    daemon.docker(&["rm", "-f", name]);
                });
            }
            std::thread::sleep(Duration::from_millis(20 + round * 37 % 400));
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        daemon.kill_is_done();
        daemon.restart(&holder);
    }
    let ids = daemon.ask(&["ps", "-aq"]);
    for id in ids.split_whitespace() {
        daemon.ask(&["rm", "-f", id]);
    }
    let begun = Instant::now();
    while !daemon.leftovers().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "left: {:?}\n{}", daemon.leftovers(), daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Links go a moment later: the kernel takes its time.
    let begun = Instant::now();
    loop {
        let links = daemon.outside(&["ip", "link"]);
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        if !links.contains("veth") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "links are left: {links}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let known = daemon.docker(&["ps", "-aq", "--no-trunc"]);
    assert!(known.stdout.is_empty(), "containers are left");
    daemon.ask(&["run", "--rm", "bb", "true"]);
}
