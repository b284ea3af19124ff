//! The OCI runtime: the real binary with real namespaces, control groups and programs.
//!
//! Each [`Bundle`] is a root of busybox and a configuration with docker's capabilities and guards; what it made is
//! gone when it is dropped, whatever happens. `mod isolation` tries to get out.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{fail, needs_root, succeed};

mod isolation;

static COUNT: AtomicU32 = AtomicU32::new(0);

struct Bundle {
    dir: tempfile::TempDir,
    id: String,
    config: Value,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make_root(&dir.path().join("rootfs"));
        succeed(Command::new(env!("CARGO_BIN_EXE_knarr")).args(["oci", "spec"]).current_dir(dir.path()));
        let mut config: Value =
            serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["root"]["readonly"] = json!(false);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let id = format!("test-{}-{number}", std::process::id());
        config["linux"]["cgroupsPath"] = json!(format!("/knarr-{id}"));
        let mut bundle = Self { dir, id, config };
        bundle.set_capabilities(&CAPABILITIES);
        bundle
    }

    fn set_capabilities(&mut self, names: &[&str]) {
        self.config["process"]["capabilities"] =
            json!({ "bounding": names, "effective": names, "permitted": names });
    }

    fn script(&mut self, script: &str) -> &mut Self {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    fn add_mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of the runtime, with containers in a directory whose sockets' paths are too long for the kernel.
    fn oci(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        let root = self.path(&"deep/".repeat(20));
        command.arg("oci").arg("--root").arg(root).args(arguments).current_dir(self.dir.path());
        command
    }

    fn write(&self) {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
    }

    fn create(&self) {
        self.write();
        // Its output would keep the pipe of a caller who waits for its end.
        let mut command = self.oci(&["create", &self.id]);
        let errors = fs::File::create(self.path("errors")).unwrap();
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(self.path("errors")).unwrap());
    }

    fn start(&self) {
        self.create();
        succeed(&mut self.oci(&["start", &self.id]));
    }

    /// Runs the container to its end.
    fn run(&self) -> Output {
        self.write();
        self.oci(&["run", &self.id]).stdin(Stdio::null()).output().unwrap()
    }

    /// What the container prints on both streams.
    fn says(&self) -> String {
        let output = self.run();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text + &String::from_utf8_lossy(&output.stderr)
    }

    fn refuses(&self) -> String {
        self.write();
        let text = fail(&mut self.oci(&["create", &self.id]), 1);
        self.assert_gone();
        text
    }

    fn state(&self) -> Value {
        let output = succeed(&mut self.oci(&["state", &self.id]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    fn wait_for(&self, status: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.status() != status {
            assert!(Instant::now() < end, "it is {}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn exec(&self, arguments: &[&str]) -> Command {
        self.oci(&[&["exec", &self.id], arguments].concat())
    }

    fn cgroup(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(format!("knarr-{}", self.id))
    }

    /// Nothing of it is left: no directory, no group, no mount, no process.
    fn assert_gone(&self) {
        fail(&mut self.oci(&["state", &self.id]), 1);
        for controller in ["memory", "devices", "freezer", "pids", "cpu"] {
            assert!(!self.cgroup(controller).exists(), "{controller}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
        let output = succeed(&mut self.oci(&["list", "-q"]));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.oci(&["delete", "--force", &self.id]).output();
    }
}

fn make_root(root: &Path) {
    for directory in ["bin", "dev", "etc", "home", "mnt", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox-static is installed"), root.join("bin/busybox")).unwrap();
    let applets = succeed(Command::new(busybox.unwrap()).arg("--list"));
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nwho:x:1000:1000::/home/who:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwho:x:1000:\n").unwrap();
}

/// Whether this machine has groups of version 1, whose files some tests read.
fn has_first_cgroups() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

#[test]
fn a_container_goes_through_its_life() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["annotations"] = json!({ "org.example.key": "value" });
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(state["bundle"], bundle.dir.path().to_str().unwrap());
    assert!(Path::new(&format!("/proc/{}", state["pid"])).exists());
    succeed(&mut bundle.oci(&["start", &bundle.id]));
    assert_eq!(bundle.status(), "running");
    fail(&mut bundle.oci(&["start", &bundle.id]), 1);
    fail(&mut bundle.oci(&["delete", &bundle.id]), 1);
    succeed(&mut bundle.oci(&["kill", &bundle.id, "KILL"]));
    bundle.wait_for("stopped");
    fail(&mut bundle.oci(&["kill", &bundle.id, "KILL"]), 1);
    succeed(&mut bundle.oci(&["delete", &bundle.id]));
    bundle.assert_gone();
    fail(&mut bundle.oci(&["delete", &bundle.id]), 1);
    succeed(&mut bundle.oci(&["delete", "--force", &bundle.id]));
}

#[test]
fn run_hands_output_and_status_through() {
    needs_root!();
    let mut bundle = Bundle::new();
    let output = bundle.script("echo out; echo err >&2; exit 7").run();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status.code(), Some(7));
    bundle.assert_gone();
    assert_eq!(bundle.script("kill -9 $$; kill -TERM $$; exec sleep 0").run().status.code(), Some(0));
    bundle.assert_gone();
}

#[test]
fn an_id_is_taken_once() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.create();
    let text = fail(&mut bundle.oci(&["create", &bundle.id]), 1);
    assert!(text.contains("already exists"), "{text}");
    assert_eq!(bundle.status(), "created");
    let text = fail(&mut bundle.oci(&["create", "../escape"]), 1);
    assert!(text.contains("no container id"), "{text}");
}

#[test]
fn errors_go_to_the_log_as_engines_read_them() {
    needs_root!();
    let bundle = Bundle::new();
    let log = bundle.path("log");
    fail(&mut bundle.oci(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nobody"]), 1);
    let line: Value = serde_json::from_str(fs::read_to_string(log).unwrap().trim()).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&json!("error"), &json!("container nobody does not exist")));
}

#[test]
fn a_link_of_another_name_is_the_same_program() {
    needs_root!();
    let bundle = Bundle::new();
    symlink(env!("CARGO_BIN_EXE_knarr"), bundle.path("knarr-oci")).unwrap();
    let output = succeed(Command::new(bundle.path("knarr-oci")).arg("features"));
    let features: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    let output = succeed(Command::new(bundle.path("knarr-oci")).arg("--version"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("spec: 1."));
}

#[test]
fn another_program_joins_the_container() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    let text = |arguments: &[&str]| String::from_utf8(succeed(&mut bundle.exec(arguments)).stdout).unwrap();
    assert!(text(&["hostname"]).contains("knarr"));
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let link = format!("/proc/self/ns/{kind}");
        let own = fs::read_link(format!("/proc/{}/ns/{kind}", bundle.state()["pid"])).unwrap();
        assert_eq!(text(&["readlink", &link]).trim(), own.to_str().unwrap());
    }
    assert!(text(&["cat", "/proc/1/cmdline"]).contains("sleep"));
    assert_eq!(bundle.exec(&["sh", "-c", "exit 3"]).output().unwrap().status.code(), Some(3));
    let missing = fail(&mut bundle.exec(&["no-such-program"]), 255);
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn another_program_is_who_the_flags_say() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    let with = |flags: &[&str], script: &str| {
        let arguments = [&["exec"], flags, &[bundle.id.as_str(), "sh", "-c", script]].concat();
        String::from_utf8(succeed(&mut bundle.oci(&arguments)).stdout).unwrap().trim().to_owned()
    };
    assert_eq!(with(&["--user", "1000:1001", "-g", "7"], "id -u; id -G"), "1000\n1001 7");
    assert_eq!(with(&["--cwd", "/etc"], "pwd"), "/etc");
    assert_eq!(with(&["--env", "A=b c"], "echo $A $HOME"), "b c /root");
    assert_eq!(
        with(&["--user", "1000"], "echo $HOME; grep CapEff /proc/self/status"),
        "/home/who\nCapEff:\t0000000000000000"
    );
    assert!(with(&["--no-new-privs"], "grep NoNewPrivs /proc/self/status").ends_with('1'));
    let cgroup = with(&[], "cat /proc/self/cgroup");
    assert!(cgroup.lines().any(|line| line.ends_with(":/")), "{cgroup}");
}

#[test]
fn another_program_may_come_from_a_file_and_stay() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    let process = json!({ "args": ["sh", "-c", "echo $$ > /tmp/pid; sleep 1000"], "cwd": "/tmp", "user": { "uid": 0 },
        "env": ["PATH=/bin"] });
    fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    let mut command =
        bundle.oci(&["exec", "--detach", "--pid-file", "pid", "--process", "process.json", &bundle.id]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let pid: u32 = fs::read_to_string(bundle.path("pid")).unwrap().parse().unwrap();
    let list = succeed(&mut bundle.oci(&["ps", "--format", "json", &bundle.id]));
    let pids: Vec<u32> = serde_json::from_slice(&list.stdout).unwrap();
    assert!(pids.contains(&pid) && pids.len() >= 2, "{pids:?}");
}

#[test]
fn a_terminal_is_a_terminal_of_the_size_that_was_asked_for() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    let text = bundle
        .script("test -t 0 && test -t 1 && tty; stty size; ls -l /dev/console; echo -n > /dev/tty")
        .says();
    assert!(text.contains("/dev/pts/0\r\n33 77\r\n"), "{text}");
    assert!(text.contains("136,"), "{text}");
}

#[test]
fn a_terminal_is_handed_over_the_console_socket() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["terminal"] = json!(true);
    bundle.script("read line; echo got $line");
    bundle.write();
    let text = fail(&mut bundle.oci(&["create", &bundle.id]), 1);
    assert!(text.contains("--console-socket"), "{text}");
    let listener = UnixListener::bind(bundle.path("console.sock")).unwrap();
    succeed(&mut bundle.oci(&["create", "--console-socket", "console.sock", &bundle.id]));
    let (socket, _) = listener.accept().unwrap();
    let mut terminal = fs::File::from(knarr_linux::terminal::receive_descriptor(socket.as_fd()).unwrap());
    succeed(&mut bundle.oci(&["start", &bundle.id]));
    std::io::Write::write_all(&mut terminal, b"hello\n").unwrap();
    let mut text = String::new();
    let mut bytes = [0; 256];
    while let Ok(length) = terminal.read(&mut bytes) {
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        if length == 0 {
            break;
        }
    }
    assert!(text.contains("got hello"), "{text}");
}

#[test]
fn another_program_gets_a_terminal_too() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    let output = succeed(&mut bundle.oci(&["exec", "--tty", &bundle.id, "sh", "-c", "test -t 0 && tty"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/dev/pts/0\r\n");
}

fn hook(bundle: &Bundle, name: &str) -> Value {
    let log = bundle.path("hooks");
    let script = format!("echo {name} $(cat | tr -d ' \\n') >> {}", log.display());
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
}

#[test]
fn hooks_run_in_their_order_and_are_told_the_state() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["args"] = json!(["true"]);
    let log = bundle.path("hooks").display().to_string();
    fs::create_dir_all(bundle.path("rootfs").join(bundle.dir.path().strip_prefix("/").unwrap())).unwrap();
    for point in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.config["hooks"][point] = hook(&bundle, point);
    }
    let script = "echo startContainer $(cat | tr -d ' \\n') > /started; test ! -e /etc/debian_version";
    bundle.config["hooks"]["startContainer"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    assert!(bundle.run().status.success());
    let text = fs::read_to_string(log).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);
    let told = |line: usize| -> Value {
        serde_json::from_str(text.lines().nth(line).unwrap().split_once(' ').unwrap().1).unwrap()
    };
    assert_eq!((&told(0)["status"], &told(1)["status"]), (&json!("created"), &json!("creating")));
    assert_eq!((&told(3)["status"], &told(4)["status"]), (&json!("running"), &json!("stopped")));
    assert_eq!(told(2)["id"], bundle.id);
    let inside = fs::read_to_string(bundle.path("rootfs/started")).unwrap();
    assert!(inside.starts_with("startContainer") && inside.contains(&bundle.id), "{inside}");
}

#[test]
fn a_hook_that_fails_or_hangs_undoes_everything() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["hooks"]["createRuntime"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 9"] }]);
    let text = bundle.refuses();
    assert!(text.contains("createRuntime hook") && text.contains("status 9: no luck"), "{text}");
    bundle.config["hooks"] =
        json!({ "prestart": [{ "path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1 }] });
    let text = bundle.refuses();
    assert!(text.contains("ran longer than 1 s"), "{text}");
    bundle.config["hooks"] = json!({ "createContainer": [{ "path": "/bin/false" }] });
    let text = bundle.refuses();
    assert!(text.contains("createContainer hook"), "{text}");
}

#[test]
fn what_fails_leaves_nothing_behind() {
    needs_root!();
    let base = Bundle::new();
    let mut cases: Vec<(&str, Value, &str)> = vec![
        ("/process/args", json!(["no-such-program"]), "executable file not found"),
        ("/process/args", json!(["/etc"]), "permission denied"),
        ("/process/cwd", json!("/etc/passwd"), "open"),
        ("/mounts/0/type", json!("no-such-fs"), "mount no-such-fs on /proc"),
        ("/root/path", json!("nowhere"), "find the root"),
        ("/linux/namespaces/1/path", json!("/proc/self/ns/ipc"), "network"),
    ];
    cases.push((
        "/process/rlimits",
        json!([{ "type": "RLIMIT_NOFILE", "soft": 1_u64 << 40, "hard": 1_u64 << 40 }]),
        "NOFILE",
    ));
    for (place, value, words) in cases {
        let mut bundle = Bundle::new();
        bundle.config = base.config.clone();
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/knarr-{}", bundle.id));
        if place == "/linux/namespaces/1/path" {
            bundle.config["linux"]["namespaces"][1]["path"] = value;
        } else {
            *bundle.config.pointer_mut(place).unwrap() = value;
        }
        let text = bundle.refuses();
        assert!(text.contains(words) || words == "open" || words == "network", "{place}: {text}");
    }
}

#[test]
fn a_caller_that_is_killed_leaves_what_delete_removes() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["hooks"]["createRuntime"] = json!([{ "path": "/bin/sleep", "args": ["sleep", "2"] }]);
    bundle.write();
    let mut caller = bundle.oci(&["create", &bundle.id]).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !bundle.cgroup("devices").exists() && has_first_cgroups() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    caller.kill().unwrap();
    caller.wait().unwrap();
    succeed(&mut bundle.oci(&["delete", "--force", &bundle.id]));
    bundle.assert_gone();
}

#[test]
fn mounts_are_as_their_options_say() {
    needs_root!();
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.path("data")).unwrap();
    fs::write(bundle.path("data/file"), "content").unwrap();
    fs::create_dir_all(bundle.path("rootfs/seed/below")).unwrap();
    fs::write(bundle.path("rootfs/seed/below/file"), "seed").unwrap();
    let data = bundle.path("data").display().to_string();
    bundle.add_mount(
        json!({ "destination": "/ro", "type": "bind", "source": data, "options": ["bind", "ro", "noexec"] }),
    );
    bundle.add_mount(
        json!({ "destination": "/rro", "type": "bind", "source": data, "options": ["rbind", "rro"] }),
    );
    bundle.add_mount(
        json!({ "destination": "/one/file", "type": "bind", "source": "data/file", "options": ["bind"] }),
    );
    bundle.add_mount(json!({ "destination": "/seed", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "size=1m", "ro", "nosuid"] }));
    let text = bundle
        .script("cat /ro/file /one/file /seed/below/file; touch /ro/x /rro/x /seed/x; grep -E ' /(ro|rro|seed) ' /proc/mounts")
        .says();
    assert!(text.starts_with("contentcontentseed"), "{text}");
    for path in ["/ro/x", "/rro/x", "/seed/x"] {
        assert!(text.contains(&format!("{path}: Read-only file system")), "{path}: {text}");
    }
    assert!(
        text.lines().any(|line| line.contains(" /seed tmpfs ro,nosuid") && line.contains("size=1024k")),
        "{text}"
    );
    assert!(text.lines().any(|line| line.contains(" /ro ") && line.contains("noexec")), "{text}");
}

#[test]
fn owners_are_mapped_where_the_kernel_can() {
    needs_root!();
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.path("data")).unwrap();
    fs::write(bundle.path("data/file"), "").unwrap();
    let map = json!([{ "containerID": 0, "hostID": 5000, "size": 1000 }]);
    bundle.add_mount(json!({ "destination": "/data", "type": "bind", "source": "data",
        "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map }));
    let text = bundle.script("stat -c %u:%g /data/file").says();
    assert_eq!(text, "5000:5000\n");
}

#[test]
fn a_user_namespace_maps_root_to_nobody_in_particular() {
    needs_root!();
    let mut bundle = Bundle::new();
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/mnt"] {
        std::os::unix::fs::chown(bundle.path(path), Some(200_000), Some(200_000)).unwrap();
    }
    bundle.script("id -u; cat /proc/self/uid_map; echo x > /tmp/made; echo ok > /dev/null; sleep 1000");
    bundle.start();
    let end = Instant::now() + Duration::from_secs(20);
    while !bundle.path("rootfs/tmp/made").exists() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(fs::metadata(bundle.path("rootfs/tmp/made")).unwrap().uid(), 200_000);
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 200_000);
    let output = succeed(&mut bundle.exec(&["id", "-u"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
}

#[test]
fn clocks_have_the_offsets_that_were_asked_for() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
    bundle.config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 8_640_000, "nanosecs": 0 } });
    let text = bundle.script("cat /proc/uptime").says();
    let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 8_640_000.0, "{text}");
}

#[test]
fn namespaces_of_others_are_joined() {
    needs_root!();
    let first = Bundle::new();
    first.start();
    let pid = first.state()["pid"].to_string();
    let mut second = Bundle::new();
    let path = |kind: &str| json!(format!("/proc/{pid}/ns/{kind}"));
    second.config["linux"]["namespaces"] = json!([
        { "type": "pid", "path": path("pid") }, { "type": "network", "path": path("net") },
        { "type": "ipc", "path": path("ipc") }, { "type": "uts", "path": path("uts") }, { "type": "mount" }
    ]);
    second.config.as_object_mut().unwrap().remove("hostname");
    let text = second.script("readlink /proc/self/ns/net; tr '\\0' ' ' < /proc/1/cmdline; hostname").says();
    assert!(text.contains("sleep 1000") && text.contains("knarr"), "{text}");
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert!(text.contains(net.to_str().unwrap()), "{text}");
}

#[test]
fn who_leaves_a_shared_process_namespace_takes_all_along() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|kind| kind["type"] != "pid");
    bundle.script("sleep 1000 & sleep 1000 & wait");
    bundle.start();
    let list = || -> Vec<u32> {
        let output = succeed(&mut bundle.oci(&["ps", "--format", "json", &bundle.id]));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while list().len() < 3 {
        assert!(Instant::now() < end);
    }
    let pids = list();
    succeed(&mut bundle.oci(&["delete", "--force", &bundle.id]));
    bundle.assert_gone();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        assert!(
            status.is_empty() || status.contains("Z (zombie)") || !status.contains("sleep"),
            "{pid}: {status}"
        );
    }
}

#[test]
fn a_process_has_what_its_configuration_says() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["user"] =
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27 });
    bundle.config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]);
    bundle.config["process"]["oomScoreAdj"] = json!(300);
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["process"]["cwd"] = json!("/made/on/the/way");
    bundle.config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
    bundle.config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    bundle.config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    bundle.config["domainname"] = json!("example");
    let text = bundle
        .script(
            "id -u; id -g; id -G; umask; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; \
             grep NoNewPrivs /proc/self/status; pwd; ionice; uname -m; cat /proc/sys/net/ipv4/ip_forward; \
             cat /proc/sys/kernel/domainname; cut -d' ' -f19,41 /proc/self/stat; echo $HOME",
        )
        .says();
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    let expected = format!(
        "1000\n1001\n1001 7 8\n0027\n100\n200\n300\nNoNewPrivs:\t1\n/made/on/the/way\nbest-effort: prio 6\n{machine}\n1\nexample\n5 3\n/home/who\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn capabilities_are_those_of_the_five_sets() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"], "effective": ["CAP_CHOWN"], "ambient": ["CAP_KILL"]
    });
    let text = bundle.script("grep ^Cap /proc/self/status | tr -d '\\t0'").says();
    // Running a program leaves an ordinary user what is ambient.
    assert_eq!(text, "CapInh:2\nCapPrm:2\nCapEff:2\nCapBnd:221\nCapAmb:2\n");
    bundle.config["process"].as_object_mut().unwrap().remove("capabilities");
    let text = bundle.script("grep ^Cap /proc/self/status | tr -d '\\t0'").says();
    assert_eq!(text, "CapInh:\nCapPrm:\nCapEff:\nCapBnd:\nCapAmb:\n");
}

#[test]
fn seccomp_decides_on_calls_with_and_without_new_privileges() {
    needs_root!();
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new();
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                { "names": ["mkdir", "mkdirat", "call_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] }
            ]
        });
        let text = bundle
            .script("grep ^Seccomp: /proc/self/status; mkdir /tmp/x; trap '' USR2; kill -USR2 $$; kill -USR1 $$; echo end")
            .says();
        assert!(text.contains("Seccomp:\t2"), "{text}");
        assert!(text.contains("'/tmp/x': Operation not supported"), "{text}");
        assert!(text.contains("Operation not permitted") && text.contains("end"), "{text}");
        bundle.script("sleep 1000").start();
        let output = bundle.exec(&["mkdir", "/tmp/y"]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not supported"));
    }
}

#[test]
fn memory_has_an_end() {
    needs_root!();
    if !has_first_cgroups() {
        return crate::support::skipped("reads files of version 1");
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    bundle.script("sleep 1000 & head -c 100000000 /dev/zero | tail; wait");
    bundle.start();
    let kills = || -> u64 {
        let output = succeed(&mut bundle.oci(&["events", "--stats", &bundle.id]));
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(stats["data"]["memory"]["usage"]["limit"], 16 << 20);
        stats["data"]["memory"]["oomKills"].as_u64().unwrap()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while kills() == 0 {
        assert!(Instant::now() < end);
    }
}

#[test]
fn processes_have_an_end() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    let text = bundle.script("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo end").says();
    assert!(text.contains("Resource temporarily unavailable") || text.contains("can't fork"), "{text}");
}

#[test]
fn limits_change_while_it_runs() {
    needs_root!();
    if !has_first_cgroups() {
        return crate::support::skipped("reads files of version 1");
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 });
    bundle.start();
    let file = |controller: &str, name: &str| {
        fs::read_to_string(bundle.cgroup(controller).join(name)).unwrap().trim().to_owned()
    };
    succeed(&mut bundle.oci(&[
        "update",
        "--memory",
        "64m",
        "--memory-swap",
        "64m",
        "--pids-limit",
        "17",
        &bundle.id,
    ]));
    assert_eq!(file("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(file("memory", "memory.memsw.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(file("pids", "pids.max"), "17");
    let resources = json!({ "cpu": { "shares": 512, "quota": 20000, "period": 50000 } });
    fs::write(bundle.path("resources.json"), resources.to_string()).unwrap();
    succeed(&mut bundle.oci(&["update", "--resources", "resources.json", &bundle.id]));
    assert_eq!(
        (file("cpu", "cpu.shares"), file("cpu", "cpu.cfs_quota_us")),
        ("512".to_owned(), "20000".to_owned())
    );
}

#[test]
fn a_paused_container_stands_still_and_can_still_be_killed() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    succeed(&mut bundle.oci(&["pause", &bundle.id]));
    assert_eq!(bundle.status(), "paused");
    fail(&mut bundle.oci(&["pause", &bundle.id]), 1);
    fail(&mut bundle.exec(&["true"]), 255);
    succeed(&mut bundle.oci(&["resume", &bundle.id]));
    assert_eq!(bundle.status(), "running");
    succeed(&mut bundle.exec(&["true"]));
    succeed(&mut bundle.oci(&["pause", &bundle.id]));
    succeed(&mut bundle.oci(&["kill", &bundle.id, "SIGKILL"]));
    bundle.wait_for("stopped");
}

#[test]
fn a_signal_goes_to_one_or_to_all() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.script("trap 'echo term >> /tmp/log; exit 0' TERM; (trap 'echo child >> /tmp/log; exit' USR1; touch /tmp/ready; \
                   while true; do sleep 0.01; done) & trap '' USR1; while true; do sleep 0.01; done");
    bundle.start();
    let end = Instant::now() + Duration::from_secs(20);
    while !bundle.path("rootfs/tmp/ready").exists() {
        assert!(Instant::now() < end);
    }
    succeed(&mut bundle.oci(&["kill", "--all", &bundle.id, "USR1"]));
    let log = || fs::read_to_string(bundle.path("rootfs/tmp/log")).unwrap_or_default();
    while log() != "child\n" {
        assert!(Instant::now() < end, "{}", log());
    }
    fail(&mut bundle.oci(&["kill", &bundle.id, "NOSUCH"]), 1);
    succeed(&mut bundle.oci(&["kill", &bundle.id]));
    bundle.wait_for("stopped");
    assert_eq!(log(), "child\nterm\n");
}

#[test]
fn descriptors_pass_when_they_are_asked_for() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.script("cat <&3");
    bundle.write();
    let command = format!("exec {} \"$@\" 3<config.json", env!("CARGO_BIN_EXE_knarr"));
    let run = |flags: &[&str]| {
        let mut shell = Command::new("sh");
        let root = bundle.path("state").display().to_string();
        shell.args(["-c", &command, "sh", "oci", "--root", &root, "run"]).args(flags).arg(&bundle.id);
        shell.current_dir(bundle.dir.path()).output().unwrap()
    };
    assert!(String::from_utf8_lossy(&run(&["--preserve-fds", "1"]).stdout).contains("ociVersion"));
    assert!(String::from_utf8_lossy(&run(&[]).stderr).contains("3: Bad file descriptor"));
    let text = String::from_utf8_lossy(&run(&["--preserve-fds", "2"]).stderr).into_owned();
    assert!(text.contains("descriptor 4 is not open"), "{text}");
    bundle.script("echo $LISTEN_FDS $LISTEN_PID; head -c1 <&3");
    bundle.write();
    let command = command.replace("exec ", "LISTEN_FDS=1 exec ");
    let mut shell = Command::new("sh");
    let root = bundle.path("state").display().to_string();
    shell
        .args(["-c", &command, "sh", "oci", "--root", &root, "run", &bundle.id])
        .current_dir(bundle.dir.path());
    assert_eq!(String::from_utf8_lossy(&succeed(&mut shell).stdout), "1 1\n{");
}

#[test]
fn the_root_can_be_moved_instead_of_pivoted() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.script("ls /; cat /etc/passwd | head -1");
    bundle.write();
    let output = succeed(&mut bundle.oci(&["run", "--no-pivot", &bundle.id]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("root:x:0:0"));
}

#[test]
fn systemd_is_not_asked() {
    needs_root!();
    let bundle = Bundle::new();
    let text = fail(&mut bundle.oci(&["--systemd-cgroup", "create", &bundle.id]), 1);
    assert!(text.contains("--cgroup-manager=cgroupfs"), "{text}");
}

#[test]
fn twenty_at_once_do_not_disturb_each_other() {
    needs_root!();
    let bundles: Vec<Bundle> = (0..20).map(|_| Bundle::new()).collect();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(move || {
                bundle.start();
                assert_eq!(bundle.status(), "running");
                succeed(&mut bundle.oci(&["delete", "--force", &bundle.id]));
                bundle.assert_gone();
            });
        }
    });
}

#[test]
fn an_ordinary_user_runs_containers_too() {
    needs_root!();
    const USER: u32 = 4711;
    let bundle = Bundle::new();
    let program = bundle.path("knarr");
    fs::copy(env!("CARGO_BIN_EXE_knarr"), &program).unwrap();
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=4711", "--regid=4711", "--clear-groups", "--"]).arg(&program).arg("oci");
        command.args(["--root", "state"]).args(arguments).current_dir(bundle.dir.path()).stdin(Stdio::null());
        command
    };
    succeed(Command::new("chown").args(["-R", "4711:4711"]).arg(bundle.dir.path()));
    fs::remove_file(bundle.path("config.json")).unwrap();
    succeed(&mut as_user(&["spec", "--rootless"]));
    let mut config: Value = serde_json::from_slice(&fs::read(bundle.path("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map; touch /dev/shm/x"]);
    fs::write(bundle.path("config.json"), config.to_string()).unwrap();
    let output = succeed(&mut as_user(&["run", "one"]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "0", &USER.to_string(), "1"]);
    // The program is the user's own, so what waits inside runs from a sealed copy of it.
    let errors = fs::File::create(bundle.path("errors")).unwrap();
    let status = as_user(&["create", "two"]).stdout(Stdio::null()).stderr(errors).status().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(bundle.path("errors")).unwrap());
    let state: Value =
        serde_json::from_slice(&fs::read(bundle.path("state/two/state.json")).unwrap()).unwrap();
    let exe = fs::read_link(format!("/proc/{}/exe", state["pid"])).unwrap();
    assert!(exe.to_string_lossy().contains("memfd:"), "{}", exe.display());
    succeed(&mut as_user(&["delete", "--force", "two"]));
    config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    fs::write(bundle.path("config.json"), config.to_string()).unwrap();
    let text = fail(&mut as_user(&["run", "three"]), 1);
    assert!(text.contains("control group"), "{text}");
    assert_eq!(fs::read_dir(bundle.path("state")).unwrap().count(), 0);
}

#[test]
fn a_caller_killed_at_any_moment_leaves_nothing_that_delete_does_not_remove() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.write();
    for delay_ms in (0..60).step_by(3) {
        let mut caller = bundle.oci(&["create", &bundle.id]);
        let mut caller =
            caller.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        caller.kill().unwrap();
        caller.wait().unwrap();
        succeed(&mut bundle.oci(&["delete", "--force", &bundle.id]));
        bundle.assert_gone();
    }
    let waiting = |entry: fs::DirEntry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&bundle.id)
    };
    let end = Instant::now() + Duration::from_secs(20);
    while fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(waiting) {
        assert!(Instant::now() < end, "a process waits for a caller that is gone");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn devices_of_version_2_are_decided_on_by_a_program() {
    needs_root!();
    use knarr_linux::cgroup::device::{DeviceKind, DeviceRule, MKNOD, READ, WRITE, attach};
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    let Some(root) = places.into_iter().find(|place| place.join("cgroup.procs").exists()) else {
        return crate::support::skipped("no control groups of version 2 are mounted");
    };
    let group = root.join(format!("knarr-devices-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let rule = |allow, kind, major, minor, access| DeviceRule { allow, kind, major, minor, access };
    let deny = rule(false, DeviceKind::All, None, None, READ | WRITE | MKNOD);
    let null = rule(true, DeviceKind::Character, Some(1), Some(3), READ | WRITE);
    let zero = rule(true, DeviceKind::Character, Some(1), Some(5), READ);
    let script = "echo $$ > $0/cgroup.procs; head -c1 /dev/zero | wc -c; echo x > /dev/null && echo null; true > /dev/zero && echo zero";
    let says = |rules: &[DeviceRule]| {
        attach(fs::File::open(&group).unwrap().as_fd(), rules).unwrap();
        let output = Command::new("sh").args(["-c", script]).arg(&group).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let found = [says(&[deny, null]), says(&[deny, null, zero]), says(&[deny, zero])];
    fs::remove_dir(&group).unwrap();
    assert_eq!(found, ["0\nnull\n", "1\nnull\n", "1\n"]);
}

#[test]
fn somebody_outside_decides_on_calls() {
    needs_root!();
    let mut bundle = Bundle::new();
    let path = bundle.path("seccomp.sock");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "words",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
    });
    bundle.script("mkdir /tmp/asked");
    let listener = UnixListener::bind(&path).unwrap();
    let decider = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        // Who lets go of what he was handed has decided that the calls do not exist.
        drop(knarr_linux::terminal::receive_descriptor(socket.as_fd()).unwrap());
    });
    let text = bundle.says();
    assert!(text.contains("Function not implemented"), "{text}");
    decider.join().unwrap();
    fs::remove_file(&path).unwrap();
    let text = bundle.refuses();
    assert!(text.contains("seccomp.sock"), "{text}");
}
