//! `knarr registry serve`: a store that other tools push to and pull from.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

use crate::support::{fail, needs_root, skipped, succeed};

/// `knarr` without anybody's settings.
fn knarr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command.args(arguments).env("KNARR_CONFIG", "/dev/null").env_remove("KNARR_STORE");
    command
}

/// `knarr` with a store.
fn with_store(store: &Path, arguments: &[&str]) -> String {
    let output = succeed(knarr(arguments).arg("--store").arg(store));
    String::from_utf8(output.stdout).unwrap()
}

/// A server that ends with the test.
pub(crate) struct Serving {
    child: Child,
    /// Host and port.
    pub(crate) address: String,
}

impl Serving {
    pub(crate) fn start(store: &Path, arguments: &[&str]) -> Self {
        let mut command = knarr(&["registry", "serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).arg(store);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().split_once("://").map(|(_, address)| address.to_owned());
        Self { child, address: address.expect("the server says where it listens") }
    }

    /// What skopeo calls an image of it.
    fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    /// One request, and all of its answer.
    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{head} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn push_blob(&self, body: &[u8]) -> String {
        self.ask(&format!("POST /v2/app/blobs/uploads/?digest={}", digest(body)), body)
    }

    /// Asks it to end, and answers with its status and its log.
    fn end(mut self) -> (Option<i32>, String) {
        succeed(Command::new("kill").arg(self.child.id().to_string()));
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A store with the image `app`, and the image's digest.
fn store(directory: &Path) -> (PathBuf, String) {
    let tarball = directory.join("root.tar");
    let mut builder = tar::Builder::new(fs::File::create(&tarball).unwrap());
    let mut header = tar::Header::new_ustar();
    let content = vec![b'x'; 300_000];
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, "etc/content", content.as_slice()).unwrap();
    builder.into_inner().unwrap();
    let store = directory.join("store");
    with_store(&store, &["import", tarball.to_str().unwrap(), "app"]);
    let digest = shown(&store, "app", "{{.Digest}}");
    (store, digest)
}

fn shown(store: &Path, name: &str, template: &str) -> String {
    with_store(store, &["images", name, "--format", template]).trim().to_owned()
}

/// `skopeo copy` between servers on the loopback without TLS.
fn copy(from: &str, to: &str) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    command.args([from, to]);
    command
}

fn has_skopeo() -> bool {
    Command::new("skopeo").arg("--version").output().is_ok()
}

#[test]
fn images_go_through_skopeo_from_store_to_store_and_stay_the_same() {
    if !has_skopeo() {
        return skipped("skopeo is not installed");
    }
    let directory = tempfile::tempdir().unwrap();
    let (from, digest) = store(directory.path());
    let source = Serving::start(&from, &["--read-only"]);
    let layout = format!("oci:{}:app", directory.path().join("layout").display());
    succeed(&mut copy(&source.image("app"), &layout));
    succeed(&mut copy(&source.image("library/app:latest"), &layout));
    let to = directory.path().join("two");
    let target = Serving::start(&to, &[]);
    succeed(&mut copy(&layout, &target.image("team/app:v1")));
    succeed(&mut copy(&target.image("team/app:v1"), &target.image("app")));
    assert_eq!(
        shown(&to, "team/app", "{{.Repository}} {{.Tag}} {{.Digest}}"),
        format!("team/app v1 {digest}")
    );
    assert_eq!(shown(&to, "app", "{{.Repository}} {{.Tag}} {{.Digest}}"), format!("app latest {digest}"));
    assert_eq!(with_store(&to, &["image", "check"]), "");
    let tags = succeed(
        Command::new("skopeo").args(["list-tags", "--tls-verify=false"]).arg(target.image("team/app")),
    );
    assert!(String::from_utf8_lossy(&tags.stdout).contains("\"v1\""));
    succeed(Command::new("skopeo").args(["delete", "--tls-verify=false"]).arg(target.image("team/app:v1")));
    assert_eq!(shown(&to, "team/app", "{{.Tag}}"), "");
    assert_eq!(shown(&to, "app", "{{.Digest}}"), digest);
    let error = copy(&layout, &source.image("app:v2")).output().unwrap();
    assert!(!error.status.success() && String::from_utf8_lossy(&error.stderr).contains("read-only"));
}

#[test]
fn what_was_loaded_while_it_runs_is_served() {
    if !has_skopeo() {
        return skipped("skopeo is not installed");
    }
    let directory = tempfile::tempdir().unwrap();
    let (from, digest) = store(directory.path());
    let archive = directory.path().join("app.tar");
    with_store(&from, &["save", "app", "-o", archive.to_str().unwrap()]);
    let to = directory.path().join("two");
    let server = Serving::start(&to, &[]);
    assert!(server.ask("GET /v2/app/manifests/latest", b"").starts_with("HTTP/1.1 404 "));
    with_store(&to, &["load", "-i", archive.to_str().unwrap()]);
    let inspected = succeed(
        Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
            .arg(server.image("app")),
    );
    assert_eq!(String::from_utf8_lossy(&inspected.stdout).trim(), digest);
    with_store(&to, &["rmi", "app"]);
    assert!(server.ask("GET /v2/app/manifests/latest", b"").starts_with("HTTP/1.1 404 "));
}

#[test]
fn skopeo_logs_in_with_passwords_and_with_tokens() {
    if !has_skopeo() {
        return skipped("skopeo is not installed");
    }
    let directory = tempfile::tempdir().unwrap();
    let (from, digest) = store(directory.path());
    let users = directory.path().join("htpasswd");
    // `secret`, with the lowest cost that there is.
    fs::write(&users, "user:$2y$04$1ohMKmwGcHfVYiOS9rJ0pOKt/u2Xwaw9bRajQhOxLgHw.gTOaLcpC\n").unwrap();
    for scheme in ["basic", "token"] {
        let users = ["--htpasswd", users.to_str().unwrap(), "--auth", scheme, "--anonymous-pull"];
        let server = Serving::start(&from, &users);
        let layout = format!("oci:{}:app", directory.path().join(scheme).display());
        succeed(&mut copy(&server.image("app"), &layout));
        let to = server.image(&format!("team/{scheme}"));
        for credentials in [None, Some("user:wrong"), Some("nobody:secret")] {
            let mut command = copy(&layout, &to);
            if let Some(credentials) = credentials {
                command.args(["--dest-creds", credentials]);
            }
            assert!(!command.output().unwrap().status.success(), "{scheme} {credentials:?}");
        }
        succeed(copy(&layout, &to).args(["--dest-creds", "user:secret"]));
        assert_eq!(shown(&from, &format!("team/{scheme}"), "{{.Digest}}"), digest);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    needs_root!();
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m none \"$1\" && exec \"$0\" registry serve --listen 127.0.0.1:0 \"$1/store\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_knarr")]).arg(directory.path());
    let server = Serving::spawn(command.env("KNARR_CONFIG", "/dev/null"));
    let large = vec![7; 8 << 20];
    for _ in 0..2 {
        let answer = server.push_blob(&large);
        assert!(answer.starts_with("HTTP/1.1 507 "), "{answer}");
    }
    let head = server.ask(&format!("HEAD /v2/app/blobs/{}", digest(&large)), b"");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let answer = server.push_blob(&large[..1 << 20]);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let (status, log) = server.end();
    assert_eq!(status, Some(0));
    assert!(log.contains(" 507 ") && log.contains("No space left"), "{log}");
}

#[test]
fn a_server_that_is_told_to_end_takes_its_uploads_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Serving::start(directory.path(), &["--log", "json"]);
    assert!(server.ask("POST /v2/app/blobs/uploads/", b"").starts_with("HTTP/1.1 202 "));
    assert!(server.push_blob(b"content").starts_with("HTTP/1.1 201 "));
    let (status, log) = server.end();
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    let last = log.lines().last().unwrap();
    assert!(last.contains("\"status\":201") && last.contains("\"received\":7"), "{log}");
}

#[test]
fn what_a_killed_server_leaves_is_garbage() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Serving::start(directory.path(), &["--log", "none"]);
    assert!(server.ask("POST /v2/app/blobs/uploads/", b"").starts_with("HTTP/1.1 202 "));
    assert!(server.push_blob(b"content").starts_with("HTTP/1.1 201 "));
    with_store(directory.path(), &["image", "prune"]);
    assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 1);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    with_store(directory.path(), &["image", "prune"]);
    assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn a_server_that_others_reach_needs_tls() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |listen: &str| {
        let mut command = knarr(&["registry", "serve", "--listen", listen]);
        command.arg(directory.path());
        command
    };
    let said = fail(&mut serve("0.0.0.0:0"), 2);
    assert!(said.contains("there is no TLS") && said.contains("--insecure"), "{said}");
    let server = Serving::start(directory.path(), &[]);
    let said = fail(&mut serve(&server.address), 54);
    assert!(said.contains("cannot listen on"), "{said}");
}
