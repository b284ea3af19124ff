//! A small signed mirror, served on the loopback, that can be broken in every way.

pub(crate) mod engine;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// What the server does instead of serving a path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    NotFound,
    /// Half of the bytes, then the end of the connection; once.
    CutOnce,
    /// Half of the bytes, then the end of the connection; always, and no resuming.
    CutAlways,
    Stall,
    Endless,
}

/// A package to be built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deb {
    pub name: String,
    /// Empty for 1.0.
    pub version: String,
    pub fields: String,
    /// Path, mode, content; a content that starts with `->` is a link.
    pub files: Vec<(String, u32, Vec<u8>)>,
    pub scripts: Vec<(String, String)>,
    /// Bytes of a data.tar of its own.
    pub data: Option<Vec<u8>>,
}

impl Deb {
    pub(crate) fn new(name: &str, fields: &str) -> Self {
        Self { name: name.to_owned(), fields: fields.to_owned(), ..Self::default() }
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), mode, content.into()));
        self
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    fn version_text(&self) -> &str {
        if self.version.is_empty() { "1.0" } else { &self.version }
    }

    pub(crate) fn script(mut self, name: &str, text: &str) -> Self {
        self.scripts.push((name.to_owned(), text.to_owned()));
        self
    }

    fn control(&self) -> String {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\n{}Description: a package\n",
            self.name,
            self.version_text(),
            self.fields
        )
    }

    fn build(&self) -> Vec<u8> {
        let mut control = vec![("control".to_owned(), 0o644, self.control().into_bytes())];
        control
            .extend(self.scripts.iter().map(|(name, text)| (name.clone(), 0o755, text.clone().into_bytes())));
        let data = self.data.clone().unwrap_or_else(|| tarball(&self.files));
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar.xz", xz(&tarball(&control))),
            ("data.tar.xz", xz(&data)),
        ];
        let mut builder = ar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
            builder.append(&header, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// A tarball of raw entries: nothing of a path is cleaned.
pub(crate) fn raw_tarball(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, link, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn tarball(files: &[(String, u32, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if let Some(target) = content.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, format!("./{path}"), String::from_utf8_lossy(target).as_ref())
                .unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("./{path}"), std::io::empty()).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, format!("./{path}"), content.as_slice()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    xz2::read::XzEncoder::new(bytes, 1).read_to_end(&mut out).unwrap();
    out
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;
type Faults = Arc<Mutex<BTreeMap<String, Fault>>>;

/// The mirror, its key, a cache and a place for targets.
pub(crate) struct Mirror {
    pub dir: tempfile::TempDir,
    pub files: Files,
    pub faults: Faults,
    pub url: String,
    pub debs: Vec<Deb>,
    /// Suite and code name.
    pub suite_name: String,
    /// Replaces texts of the Release file before it is signed.
    pub release_edits: Vec<(String, String)>,
}

impl Mirror {
    /// A mirror with an essential package that has a shell, an application and a library.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::default();
        let faults = Faults::default();
        let url = serve(Arc::clone(&files), Arc::clone(&faults));
        let mirror = Self {
            dir,
            files,
            faults,
            url,
            debs: standard_packages(),
            suite_name: "test".to_owned(),
            release_edits: Vec::new(),
        };
        mirror.make_key("key", "Fixture Archive <fixture@example.org>", "never");
        mirror.publish();
        mirror
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn gpg(&self, home: &str) -> Command {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.path(home)).args([
            "--batch",
            "--quiet",
            "--yes",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        command
    }

    /// Makes a key in a home of its own and writes its public half to `HOME.gpg`.
    pub(crate) fn make_key(&self, home: &str, user: &str, expires: &str) {
        fs::create_dir(self.path(home)).unwrap();
        Command::new("chmod").arg("700").arg(self.path(home)).status().unwrap();
        succeed(self.gpg(home).args([
            "--faked-system-time",
            "20200101T000000",
            "--quick-gen-key",
            user,
            "ed25519",
            "sign",
            expires,
        ]));
        fs::write(self.path(&format!("{home}.gpg")), succeed(self.gpg(home).arg("--export")).stdout).unwrap();
    }

    /// Writes packages, indices and the signed Release file.
    pub(crate) fn publish(&self) {
        self.publish_signed("key", &[]);
    }

    pub(crate) fn publish_signed(&self, home: &str, gpg_arguments: &[&str]) {
        let mut files = BTreeMap::new();
        let mut packages = String::new();
        for deb in &self.debs {
            let bytes = deb.build();
            let path = format!("pool/{}_{}_amd64.deb", deb.name, deb.version_text());
            packages += &format!(
                "{}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                deb.control(),
                bytes.len(),
                sha256(&bytes)
            );
            files.insert(format!("/{path}"), bytes);
        }
        let name = "main/binary-amd64/Packages";
        let packed = xz(packages.as_bytes());
        let line = |name: &str, bytes: &[u8]| format!(" {} {} {name}\n", sha256(bytes), bytes.len());
        let suite = &self.suite_name;
        let mut release = format!(
            "Origin: Fixture\nLabel: Fixture\nSuite: {suite}\nCodename: {suite}\nDate: {}\nArchitectures: amd64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n{}{}",
            date(0),
            line(name, packages.as_bytes()),
            line(&format!("{name}.xz"), &packed),
        );
        for (from, to) in &self.release_edits {
            assert!(release.contains(from.as_str()), "{from}");
            release = release.replace(from.as_str(), to);
        }
        files.insert(
            format!("/dists/{suite}/main/binary-amd64/by-hash/SHA256/{}", sha256(&packed)),
            packed.clone(),
        );
        files.insert(format!("/dists/{suite}/{name}.xz"), packed);
        let source = self.path("Release");
        fs::write(&source, release).unwrap();
        let inline =
            succeed(self.gpg(home).args(gpg_arguments).args(["--output", "-", "--clearsign"]).arg(&source))
                .stdout;
        let detached =
            succeed(self.gpg(home).args(gpg_arguments).args(["--output", "-", "--detach-sign"]).arg(&source))
                .stdout;
        files.insert(format!("/dists/{suite}/InRelease"), inline);
        files.insert(format!("/dists/{suite}/Release"), fs::read(&source).unwrap());
        files.insert(format!("/dists/{suite}/Release.gpg"), detached);
        *self.files.lock().unwrap() = files;
    }

    /// Changes the bytes of one served file.
    pub(crate) fn edit(&self, path_part: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut files = self.files.lock().unwrap();
        let (_, bytes) = files.iter_mut().find(|(path, _)| path.contains(path_part)).expect("a file to edit");
        change(bytes);
    }

    pub(crate) fn fault(&self, path_part: &str, fault: Fault) {
        self.faults.lock().unwrap().insert(path_part.to_owned(), fault);
    }

    /// `knarr bootstrap` of the fixture suite into `target`, not started yet.
    pub(crate) fn bootstrap(&self, target: &str) -> Command {
        let mut command = self.bootstrap_of(&self.suite(), target);
        command.arg(&self.url).arg("--keyring").arg(self.path("key.gpg"));
        command
    }

    /// `knarr bootstrap` of any suite, without a mirror and a keyring.
    pub(crate) fn bootstrap_of(&self, suite: &Path, target: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.arg("bootstrap").arg(suite).arg(self.target(target));
        command.args(["--timeout", "2s", "--retries", "1", "--resolv-conf", "none"]);
        command.env_remove("SOURCE_DATE_EPOCH").env("KNARR_CACHE_DIR", self.path("cache"));
        command.env_remove("http_proxy").env("no_proxy", "*");
        command.env_remove("KNARR_MIRROR").env("KNARR_CONFIG", "/dev/null");
        command
    }

    /// The file of the fixture suite.
    pub(crate) fn suite(&self) -> PathBuf {
        let path = self.path("suite.toml");
        fs::write(&path, SUITE).unwrap();
        path
    }

    /// The public key, armoured.
    pub(crate) fn armoured_key(&self) -> String {
        String::from_utf8(succeed(self.gpg("key").args(["--armor", "--export"])).stdout).unwrap()
    }

    /// The fingerprint of its key.
    pub(crate) fn fingerprint(&self) -> String {
        let text = succeed(self.gpg("key").args(["--with-colons", "--list-keys"])).stdout;
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    fn target(&self, target: &str) -> String {
        match target.split_once(':') {
            _ if target == "-" => target.to_owned(),
            Some((format, name)) => format!("{format}:{}", self.path(name).display()),
            None => self.path(target).display().to_string(),
        }
    }

    /// Nothing of a target, a stage or a mount is left.
    pub(crate) fn assert_clean(&self, target: &str) {
        assert!(!self.path(target).exists(), "{target} exists");
        let left: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(".knarr-")), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

/// A date so many seconds from now, as Release files write it.
pub(crate) fn date(offset_seconds: i64) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("{offset_seconds} seconds"), "+%a, %d %b %Y %H:%M:%S UTC"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a command that must succeed.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command that must end with this status, and answers with what it said.
pub(crate) fn fail(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{command:?}\n{text}");
    text
}

/// Whether this machine can do what root can; a test that cannot run says so.
pub(crate) fn privileged() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    let root = id.stdout == b"0\n"
        && Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    assert!(root || std::env::var_os("CI").is_none(), "CI must run privileged tests");
    root
}

/// Says why a test does not run; where everything is installed, it must.
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must not skip: {why}");
    println!("skipped: {why}");
}

macro_rules! needs_root {
    () => {
        if !crate::support::privileged() {
            return crate::support::skipped("needs root and mount namespaces");
        }
    };
}
pub(crate) use needs_root;

fn standard_packages() -> Vec<Deb> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| fs::read(path).ok())
        .expect("busybox-static is installed");
    let mut base = Deb::new("base", "Essential: yes\nPriority: required\nProvides: shell\n")
        .file("etc/", 0o755, "")
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:0::/:/bin/false\n")
        .file("etc/base.conf", 0o644, "answer=42\n")
        .file("usr/", 0o755, "")
        .file("usr/bin/", 0o755, "")
        .file("usr/bin/busybox", 0o755, busybox)
        .script("conffiles", "/etc/base.conf\n");
    for applet in ["sh", "cat", "touch", "mkdir", "sleep", "ln", "id", "test", "kill", "hostname"] {
        base = base.file(&format!("usr/bin/{applet}"), 0o777, "->busybox");
    }
    let library = Deb::new("library", "Priority: optional\n")
        .file("usr/lib/", 0o755, "")
        .file("usr/lib/library.so", 0o644, "library")
        .script("postinst", "#!/bin/sh\nset -e\ntest \"$1\" = configure\necho library >> /var/log/order\n")
        .script("triggers", "interest-noawait /usr/share/things\n");
    let application = Deb::new("application", "Priority: optional\nDepends: library (>= 1.0)\n")
        .file("usr/share/", 0o755, "")
        .file("usr/share/things/", 0o755, "")
        .file("usr/share/things/one", 0o644, "one")
        .file("usr/bin/application", 0o4755, "#!/bin/sh\necho running\n")
        .script("preinst", "#!/bin/sh\nset -e\ntest \"$1\" = install\ntest ! -e /usr/bin/application\necho preinst >> /var/log/order\n")
        .script("postinst", "#!/bin/sh\nset -e\necho application >> /var/log/order\n");
    vec![base, library, application]
}

const SUITE: &str = r#"
name = "test"
distribution = "debian"
mirror = "http://nowhere.invalid/debian"
components = ["main"]
architectures = ["amd64"]
keyrings = []
usr-merge = true
"#;

fn serve(files: Files, faults: Faults) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (files, faults) = (Arc::clone(&files), Arc::clone(&faults));
            std::thread::spawn(move || drop(answer(stream, &files, &faults)));
        }
    });
    url
}

fn answer(stream: TcpStream, files: &Files, faults: &Faults) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut start = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                start = range.trim().trim_end_matches('-').parse().unwrap_or(0);
            }
        }
        let fault = {
            let mut faults = faults.lock().unwrap();
            let found = faults
                .iter()
                .find(|(part, _)| path.contains(part.as_str()))
                .map(|(part, fault)| (part.clone(), *fault));
            if let Some((part, Fault::CutOnce)) = &found {
                faults.remove(part);
            }
            found.map(|(_, fault)| fault)
        };
        let body = files.lock().unwrap().get(&path).cloned();
        let Some(body) = body.filter(|_| !matches!(fault, Some(Fault::NotFound))) else {
            write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let ranged = start > 0 && start < body.len() && !matches!(fault, Some(Fault::CutAlways));
        let part = if ranged { &body[start..] } else { &body[..] };
        let status = if ranged { "206 Partial Content" } else { "200 OK" };
        match fault {
            Some(Fault::Endless) => {
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                for _ in 0..100_000 {
                    stream.write_all(&[b'x'; 4096])?;
                }
                return Ok(());
            }
            _ => write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", part.len())?,
        }
        match fault {
            Some(Fault::CutOnce | Fault::CutAlways) => return stream.write_all(&part[..part.len() / 2]),
            Some(Fault::Stall) => {
                stream.write_all(&part[..part.len() / 2])?;
                std::thread::sleep(Duration::from_secs(20));
                return Ok(());
            }
            _ => stream.write_all(part)?,
        }
    }
}

/// The names in a tarball with their modes.
pub(crate) fn listing(path: &Path) -> Vec<(String, u32)> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), entry.header().mode().unwrap())
    });
    entries.collect()
}
