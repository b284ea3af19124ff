//! A daemon of its own for a test: own root, own socket, own network namespace. What it made is gone with it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::succeed;

/// How long a daemon may take to answer, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that runs.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts one, with an image of busybox that is called `bb`.
    pub(crate) fn start() -> Self {
        Self::start_on(|_| {})
    }

    /// Starts one whose root is a file system of its own in memory, of so many MiB.
    pub(crate) fn start_on_disk_of(size_mib: u32) -> Self {
        Self::start_on(|dir| {
            let root = dir.join("root");
            fs::create_dir(&root).unwrap();
            let options = format!("size={size_mib}m,mode=755");
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        })
    }

    /// Starts one with a configuration.
    pub(crate) fn start_with(config: &str) -> Self {
        Self::start_on(|dir| fs::write(dir.join("config.toml"), config).unwrap())
    }

    /// Gives it another configuration, and tells it so.
    pub(crate) fn reload(&self, config: &str) {
        fs::write(self.dir.path().join("config.toml"), config).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    fn start_on(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-engine-").tempdir().unwrap();
        fs::create_dir(dir.path().join("docker")).unwrap();
        prepare(dir.path());
        let child = spawn(dir.path());
        let daemon = Self { dir, child };
        daemon.await_socket();
        daemon.import();
        daemon
    }

    /// Where it keeps all that it has.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/knarr.sock")
    }

    /// Its directory: what else a test needs may lie there, too.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its API, without a client in between.
    pub(crate) fn api(&self) -> Api {
        Api { socket: self.socket() }
    }

    fn await_socket(&self) {
        let begun = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the daemon has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn import(&self) {
        let root = self.dir.path().join("bb");
        for directory in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        succeed(Command::new("chroot").arg(&root).args(["/bin/busybox", "--install", "-s", "/bin"]));
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/tmp:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
        let tarball = self.dir.path().join("bb.tar");
        succeed(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tarball).arg("."));
        succeed(self.docker_command(&["import", "-c", "CMD [\"sh\"]"]).arg(&tarball).arg("bb"));
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments).env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.dir.path().join("docker")).env("HOME", self.dir.path());
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// The real docker CLI against it.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Output {
        self.docker_command(arguments).output().unwrap()
    }

    /// What docker prints, which must succeed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "docker {arguments:?}: {out}{err}\n{}", self.log());
        out.trim().to_owned()
    }

    /// Our own CLI against it.
    pub(crate) fn knarr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.arg("-H").arg(format!("unix://{}", self.socket().display())).args(arguments);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// Sends bytes to its socket, and answers with what comes back until the connection is closed.
    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// Runs a program of busybox in the daemon's network namespace: what a neighbour of its containers sees.
    pub(crate) fn outside(&self, arguments: &[&str]) -> Output {
        let net = format!("--net=/proc/{}/ns/net", self.child.id());
        Command::new("nsenter").arg(net).arg("busybox").args(arguments).output().unwrap()
    }

    /// Serves an empty registry in the daemon's network namespace.
    pub(crate) fn serve_registry(&self, address: &str) -> Holder {
        let net = format!("--net=/proc/{}/ns/net", self.child.id());
        let mut command = Command::new("nsenter");
        command.args([&net, env!("CARGO_BIN_EXE_knarr"), "registry", "serve", "--listen", address]);
        command.arg(self.dir.path().join("registry")).stdin(Stdio::null()).stdout(Stdio::null());
        let registry = Holder(command.spawn().unwrap());
        let url = format!("http://{address}/v2/");
        let begun = Instant::now();
        while !self.outside(&["wget", "-qO-", &url]).status.success() {
            assert!(begun.elapsed() < PATIENCE, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Ends it without a word, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It was killed from elsewhere: its end is waited for.
    pub(crate) fn kill_is_done(&mut self) {
        self.child.wait().unwrap();
    }

    /// Starts it again, in the network namespace that it had: the machine has not changed.
    pub(crate) fn restart(&mut self, holder: &Holder) {
        self.start_again(holder);
        self.await_socket();
    }

    /// Keeps its network namespace while it is not there.
    pub(crate) fn hold(&self) -> Holder {
        let net = format!("--net=/proc/{}/ns/net", self.child.id());
        let holder = Holder(Command::new("nsenter").args([&net, "sleep", "100000"]).spawn().unwrap());
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        while namespace(holder.0.id()) != namespace(self.child.id()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        holder
    }

    /// Starts it again without waiting for it to answer.
    pub(crate) fn start_again(&mut self, holder: &Holder) {
        self.child =
            spawn_in(self.dir.path(), &["nsenter", &format!("--net=/proc/{}/ns/net", holder.0.id())]);
    }

    /// Waits until it answers.
    pub(crate) fn is_ready(&self) {
        self.await_socket();
    }

    /// Processes that it or one before it started, itself, its launcher and the one shim that waits for work left out:
    /// what it gives to each in its environment is how they are known.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.dir.path().display());
        let parent = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).map(str::to_owned)
        };
        let own = self.child.id().to_string();
        let is_launchers =
            |pid: &str| parent(pid).and_then(|launcher| parent(&launcher)).as_ref() == Some(&own);
        let mut found = Vec::new();
        let mut spare = false;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            if marked && !spare && is_launchers(&pid) {
                spare = true;
            } else if marked && pid != own && parent(&pid).as_ref() != Some(&own) {
                let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("process {pid} {}", String::from_utf8_lossy(&words).replace('\0', " ")));
            }
        }
        found
    }

    /// A number of what the kernel tells about its process: `VmRSS`, `VmHWM`, in KiB.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Holds until something is true.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "it does not come true: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Links in its network namespace, its loopback left out.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = self.outside(&["ip", "-o", "link"]).stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        let names = names.map(|name| name.split('@').next().unwrap_or(name).to_owned());
        names.filter(|name| name != "lo").collect()
    }

    /// How many rules of nf_tables are in its network namespace.
    pub(crate) fn rules(&self) -> usize {
        let net = fs::File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        let count = std::thread::spawn(move || {
            let flag = knarr_linux::process::Namespace::Network.flag();
            knarr_linux::process::join_namespace(std::os::fd::AsFd::as_fd(&net), flag).unwrap();
            count_rules()
        });
        count.join().unwrap()
    }

    /// Mounts, sandboxes and control groups that are left of its containers.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path().display().to_string();
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap_or_default();
        let mut all: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains(&here) && !line.contains("/root rw"))
            .map(str::to_owned)
            .collect();
        for directory in ["run/netns", "run/oci", "run/shim", "root/containers"] {
            let entries = fs::read_dir(self.dir.path().join(directory)).into_iter().flatten().flatten();
            all.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        all
    }
}

/// What of the environment tells whose a process is.
pub(crate) const MARK: &str = "KNARR_TEST_OF";

/// Asks the kernel for all rules of the namespace that this thread is in.
fn count_rules() -> usize {
    const NETFILTER: isize = 12;
    const ASK: u16 = 0x0a07;
    const TOLD: u16 = 0x0a06;
    const DONE: u16 = 3;
    let mut socket = netlink_sys::Socket::new(NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&netlink_sys::SocketAddr::new(0, 0)).unwrap();
    let mut request = 20_u32.to_ne_bytes().to_vec();
    request.extend(ASK.to_ne_bytes());
    request.extend(0x301_u16.to_ne_bytes());
    request.extend([0; 12]);
    socket.send(&request, 0).unwrap();
    let mut count = 0;
    loop {
        let (bytes, _) = socket.recv_from_full().unwrap();
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            let kind = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
            if kind == DONE {
                return count;
            }
            count += usize::from(kind == TOLD);
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// The Engine API, without a client in between. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    socket: PathBuf,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Api {
    /// Asks, and waits for the end of the answer. The daemon may go away meanwhile.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{method} {path} {body}: no answer");
            return Err(error);
        }
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let promised = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if promised.is_some_and(|promised: usize| promised > body.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Answer { status, body: body.to_owned() })
    }
}

/// A process that ends with the test: it keeps a network namespace, or serves there.
pub(crate) struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have been ended by who looks for leftovers.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(dir: &Path) -> Child {
    spawn_in(dir, &["unshare", "-n"])
}

fn spawn_in(dir: &Path, around: &[&str]) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(around[0]);
    command.args(&around[1..]).args([
        "busybox",
        "sh",
        "-c",
        "ip link set lo up; exec 9>>\"$KNARR_CONFIG\" \"$0\" \"$@\"",
    ]);
    command.arg(env!("CARGO_BIN_EXE_knarr")).args(["daemon", "--root"]).arg(dir.join("root"));
    command.arg("--run-dir").arg(dir.join("run")).stdin(Stdio::null()).env(MARK, dir);
    // What this machine's configuration says is not to matter.
    let config = dir.join("config.toml");
    fs::File::options().create(true).append(true).open(&config).unwrap();
    command.env("KNARR_CONFIG", config);
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]);
        let ids = String::from_utf8_lossy(&ids.stdout).into_owned();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "-f", "-v"][..], &ids].concat());
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // It may have been killed by the test.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        // What a test that failed has left.
        for pid in self.processes().iter().filter_map(|text| text.split(' ').nth(1)?.parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        for entry in fs::read_dir(self.dir.path().join("run/netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        // Few have a disk of their own.
        let _ = nix::mount::umount2(&self.root(), nix::mount::MntFlags::MNT_DETACH);
        if std::thread::panicking() {
            io::stderr().write_all(self.log().as_bytes()).unwrap_or_default();
        }
    }
}

/// Whether the docker CLI is here.
pub(crate) fn has_docker() -> bool {
    Command::new("docker").arg("--version").output().is_ok_and(|output| output.status.success())
}
