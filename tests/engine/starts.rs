//! What a start does beside, before or later than a reader of its steps would think, and must still be right.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::engine::Daemon;

#[test]
fn a_container_can_be_started_at_once_after_its_end() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["create", "--name", "brief", "bb", "echo", "here"]);
    for _ in 0..15 {
        assert_eq!(daemon.ask(&["start", "-a", "brief"]), "here");
    }
    daemon.ask(&["run", "-d", "--name", "long", "bb", "sleep", "1000"]);
    for _ in 0..5 {
        daemon.ask(&["restart", "-t", "0", "long"]);
    }
    assert_eq!(daemon.ask(&["inspect", "long", "--format", "{{.State.Running}}"]), "true");
}

#[test]
fn what_the_starter_of_the_daemon_had_open_stays_there() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--name", "one", "bb", "sleep", "1000"]);
    let config = daemon.dir().join("config.toml");
    let holders = |pid: &str| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == config)).count()
    };
    assert_eq!(holders(&daemon.pid().to_string()), 1, "the daemon should have been given the file");
    let program = daemon.ask(&["inspect", "one", "--format", "{{.State.Pid}}"]);
    assert_eq!(holders(&program), 0);
    let shims = daemon.processes();
    assert!(!shims.is_empty());
    for shim in shims {
        assert_eq!(holders(shim.split(' ').nth(1).unwrap()), 0, "{shim}");
    }
}

#[test]
fn a_container_whose_port_is_taken_starts_when_the_port_is_free() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--name", "first", "-p", "8099:80", "bb", "sleep", "1000"]);
    let second = daemon.docker(&["run", "-d", "--name", "second", "-p", "8099:80", "bb", "sleep", "1000"]);
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && text.contains("port is already allocated"), "{text}");
    daemon.ask(&["rm", "-f", "first"]);
    daemon.ask(&["start", "second"]);
    assert_eq!(daemon.ask(&["inspect", "second", "--format", "{{.State.Running}}"]), "true");
    daemon.ask(&["rm", "-f", "second"]);
    // Files go beside.
    until(|| daemon.leftovers().is_empty(), || daemon.leftovers().join(" "));
}

#[test]
fn a_network_that_is_not_there_takes_no_other_from_a_container() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["network", "create", "zzz"]);
    daemon.ask(&["create", "--name", "two", "--network", "aaa", "--network", "zzz", "bb", "true"]);
    assert!(!daemon.docker(&["start", "two"]).status.success());
    let networks = daemon.ask(&[
        "inspect",
        "two",
        "--format",
        "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}",
    ]);
    assert_eq!(networks.trim(), "aaa zzz");
    daemon.ask(&["network", "create", "aaa"]);
    daemon.ask(&["start", "-a", "two"]);
}

#[test]
fn a_container_has_its_address_in_hosts_and_its_links_before_its_sysctls() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let hosts = daemon.ask(&["run", "--rm", "--hostname", "me", "bb", "grep", "me$", "/etc/hosts"]);
    assert!(hosts.starts_with("172."), "{hosts}");
    let sysctl = "net.ipv4.conf.eth0.log_martians=1";
    let file = "/proc/sys/net/ipv4/conf/eth0/log_martians";
    assert_eq!(daemon.ask(&["run", "--rm", "--sysctl", sysctl, "bb", "cat", file]), "1");
}

#[test]
fn the_root_of_a_container_that_removes_itself_waits_for_no_disk() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let root = ["sh", "-c", "grep ' / ' /proc/mounts"];
    let mounted = |options: &[&str]| daemon.ask(&[&["run"], options, &["bb"], &root[..]].concat());
    assert!(mounted(&["--rm"]).contains("volatile"));
    assert!(!mounted(&[]).contains("volatile"));
    daemon.ask(&["run", "-d", "--rm", "--name", "again", "bb", "sleep", "1000"]);
    daemon.ask(&["restart", "-t", "0", "again"]);
    daemon.ask(&["restart", "-t", "0", "again"]);
    assert_eq!(daemon.ask(&["inspect", "again", "--format", "{{.State.Running}}"]), "true");
}

#[test]
fn a_shim_that_only_waits_becomes_small() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    daemon.ask(&["run", "-d", "--name", "still", "bb", "sh", "-c", "while :; do sleep 1000; done"]);
    let pid = daemon.ask(&["inspect", "still", "--format", "{{.State.Pid}}"]);
    let shim = parent_of(&pid);
    let before = resident_kb(&shim);
    // What the loader wrote into the program's tables stays; that is more in a program that is not optimized.
    until(|| resident_kb(&shim) * 5 < before * 4, || format!("{before} kB, now {} kB", resident_kb(&shim)));
    assert_eq!(daemon.ask(&["exec", "still", "echo", "awake"]), "awake");
}

#[test]
fn an_end_that_cannot_be_written_down_is_told_and_tidied_up() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let id = daemon.ask(&["run", "-d", "--name", "lost", "bb", "sh", "-c", "sleep 2; exit 9"]);
    let pid = daemon.ask(&["inspect", "lost", "--format", "{{.State.Pid}}"]);
    let group = group_of(&pid);
    assert!(group.exists(), "{}", group.display());
    // As on a disk that takes no more files.
    std::fs::rename(daemon.root().join("containers").join(&id), daemon.root().join("elsewhere")).unwrap();
    assert_eq!(daemon.ask(&["wait", "lost"]), "9");
    until(|| !group.exists(), || group.display().to_string());
}

/// The directory of a process's control group, in the hierarchy that counts processes.
fn group_of(pid: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |key: &str| text.lines().find_map(|line| line.split_once(key)).map(|(_, path)| path);
    let first = path(":pids:").map(|path| format!("/sys/fs/cgroup/pids{path}"));
    first.or_else(|| path("0::").map(|path| format!("/sys/fs/cgroup{path}"))).unwrap().into()
}

fn until(holds: impl Fn() -> bool, or_says: impl Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", or_says());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn parent_of(pid: &str) -> String {
    status_of(pid, "PPid:")
}

fn resident_kb(pid: &str) -> u64 {
    status_of(pid, "VmRSS:").parse().unwrap()
}

fn status_of(pid: &str, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").to_owned()
}
