//! Our own command line against the engine.

use std::process::Output;

use crate::support::engine::Daemon;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn says(daemon: &Daemon, arguments: &[&str], status: i32, expected: &[&str]) {
    let output = daemon.knarr(arguments);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(status), "knarr {arguments:?}: {text}\n{}", daemon.log());
    for part in expected {
        assert!(text.contains(part), "knarr {arguments:?} must say {part:?}: {text}");
    }
}

#[test]
fn dockers_verbs_are_ours() {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    says(&daemon, &["run", "--rm", "bb", "echo", "hello"], 0, &["hello"]);
    says(&daemon, &["run", "--rm", "bb", "sh", "-c", "exit 3"], 3, &[]);
    says(&daemon, &["run", "--rm", "bb", "no-such-program"], 127, &["executable file not found"]);
    says(&daemon, &["run", "--rm", "bb", "/etc"], 126, &["permission denied"]);
    says(&daemon, &["run", "--rm", "--memory", "1m", "bb", "true"], 125, &["Minimum memory limit"]);
    says(
        &daemon,
        &["run", "-d", "--name", "one", "-p", "8081:80", "-v", "kept:/data", "bb", "sleep", "1000"],
        0,
        &[],
    );
    says(&daemon, &["ps"], 0, &["CONTAINER ID", "one", "\"sleep 1000\"", "0.0.0.0:8081->80/tcp", "Up "]);
    says(&daemon, &["ps", "--format", "{{.Names}} {{.State}}"], 0, &["one running"]);
    says(&daemon, &["exec", "one", "sh", "-c", "echo in; exit 4"], 4, &["in"]);
    says(&daemon, &["inspect", "--format", "{{.State.Status}}", "one"], 0, &["running"]);
    says(&daemon, &["port", "one"], 0, &["80/tcp -> 0.0.0.0:8081"]);
    says(&daemon, &["top", "one"], 0, &["PID", "sleep 1000"]);
    says(&daemon, &["stats", "--no-stream", "one"], 0, &["CPU %", "one"]);
    says(&daemon, &["cp", "one:/etc/passwd", "passwd"], 0, &[]);
    says(&daemon, &["cp", "passwd", "one:/tmp/copy"], 0, &[]);
    says(&daemon, &["exec", "one", "cat", "/tmp/copy"], 0, &["www:x:33"]);
    says(&daemon, &["diff", "one"], 0, &["A /tmp/copy"]);
    says(&daemon, &["pause", "one"], 0, &["one"]);
    says(&daemon, &["unpause", "one"], 0, &["one"]);
    says(&daemon, &["rename", "one", "uno"], 0, &[]);
    says(&daemon, &["update", "--memory", "64m", "--memory-swap", "-1", "uno"], 0, &["uno"]);
    says(&daemon, &["stop", "-t", "0", "uno"], 0, &["uno"]);
    says(&daemon, &["wait", "uno"], 0, &["137"]);
    says(&daemon, &["logs", "uno"], 0, &[]);
    says(&daemon, &["rm", "uno"], 0, &["uno"]);
    says(&daemon, &["rm", "uno"], 1, &["No such container: uno"]);
    says(&daemon, &["volume", "ls"], 0, &["VOLUME NAME", "kept"]);
    says(&daemon, &["volume", "rm", "kept"], 0, &["kept"]);
    says(&daemon, &["network", "create", "--subnet", "10.78.0.0/24", "near"], 0, &[]);
    says(&daemon, &["network", "ls"], 0, &["NETWORK ID", "near", "bridge"]);
    says(&daemon, &["network", "inspect", "near"], 0, &["10.78.0.0/24"]);
    says(&daemon, &["network", "rm", "near"], 0, &["near"]);
    says(
        &daemon,
        &["events", "--since", "1h", "--until", "0s", "--filter", "event=die"],
        0,
        &["container die", "exitCode=137"],
    );
    says(&daemon, &["info"], 0, &["Storage Driver", "Cgroup Driver: cgroupfs"]);
    says(&daemon, &["version"], 0, &["Client: Knarr", "Server: Knarr"]);
    says(&daemon, &["images"], 1, &["works on this machine's own store"]);
    says(&daemon, &["container", "prune", "-f"], 0, &["Total reclaimed space"]);
}
