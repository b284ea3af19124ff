//! Registries: images go to Debian's docker-registry and come back, with our client and with skopeo's.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{fail, needs_root, skipped, succeed};

/// A docker-registry of one test, and a place for stores.
struct Registry {
    dir: tempfile::TempDir,
    host: String,
    process: Child,
}

/// `me:right`, as htpasswd -B writes it.
const ACCOUNT: &str = "me:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n";

impl Registry {
    /// None where it is not installed.
    fn start(with_accounts: bool) -> Option<Self> {
        let is_there = |name: &str| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|dir| dir.join(name).exists())
        };
        if !is_there("docker-registry") || !is_there("skopeo") {
            skipped("docker-registry and skopeo are not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Somebody else may take the port in between: then the next one.
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let host = listener.local_addr().unwrap().to_string();
            drop(listener);
            let (root, accounts) = (dir.path().join("registry"), dir.path().join("htpasswd"));
            fs::write(&accounts, ACCOUNT).unwrap();
            let auth = if with_accounts {
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", accounts.display())
            } else {
                String::new()
            };
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n{auth}",
                root.display()
            );
            let file = dir.path().join("registry.yml");
            fs::write(&file, text).unwrap();
            let mut command = Command::new("docker-registry");
            let mut process =
                command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            for _ in 0..500 {
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(&host).is_ok() {
                    return Some(Self { dir, host, process });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("docker-registry does not start");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    /// `knarr` with a store of its own.
    fn knarr(&self, store: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.args(arguments).env("KNARR_STORE", self.path(store)).env("KNARR_CONFIG", "/dev/null");
        command.env("DOCKER_CONFIG", self.path("docker")).env("KNARR_CACHE_DIR", self.path("cache"));
        command.env_remove("http_proxy").env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// An image of one layer that holds `content`, under a name; answers with its digest.
    fn image(&self, store: &str, name: &str, content: &[u8]) -> String {
        let tar = self.path("root.tar");
        let mut builder = tar::Builder::new(fs::File::create(&tar).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, "file", content).unwrap();
        builder.finish().unwrap();
        let mut command = self.knarr(store, &["import"]);
        text(&succeed(command.env("SOURCE_DATE_EPOCH", "1700000000").arg(&tar).arg(self.name(name))).stdout)
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(arguments).env_remove("http_proxy");
        command.env("REGISTRY_AUTH_FILE", self.path("docker/config.json")).env("TMPDIR", self.dir.path());
        text(&succeed(&mut command).stdout)
    }

    fn check(&self, store: &str) {
        let said = text(&succeed(&mut self.knarr(store, &["image", "check"])).stdout);
        assert_eq!(said, "");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The digest of the only image in a layout.
fn layout_digest(path: &Path) -> String {
    let index = fs::read_to_string(path.join("index.json")).unwrap();
    let at = index.find("sha256:").unwrap();
    index[at..at + 71].to_owned()
}

#[test]
fn an_image_has_the_same_digest_wherever_it_goes() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("store", "team/app:1", &noise(3_000_000));
    let said = text(&succeed(&mut registry.knarr("store", &["push", &registry.name("team/app:1")])).stdout);
    assert!(said.ends_with(&digest), "{said}");
    // What we pushed skopeo fetches, and what skopeo pushed we fetch.
    let layout = registry.path("layout");
    let there = format!("docker://{}", registry.name("team/app:1"));
    registry.skopeo(&["copy", "--src-tls-verify=false", &there, &format!("oci:{}:x", layout.display())]);
    assert_eq!(layout_digest(&layout), digest);
    let back = format!("docker://{}", registry.name("by-skopeo:2"));
    registry.skopeo(&["copy", "--dest-tls-verify=false", &format!("oci:{}:x", layout.display()), &back]);
    let said = text(&succeed(&mut registry.knarr("second", &["pull", &registry.name("by-skopeo:2")])).stdout);
    assert!(said.contains(&digest), "{said}");
    registry.check("second");
    let pinned = registry.name(&format!("team/app@{digest}"));
    assert!(text(&succeed(&mut registry.knarr("third", &["-q", "pull", &pinned])).stdout).ends_with(&digest));
    let listed =
        text(&succeed(&mut registry.knarr("store", &["search", "tags", &registry.name("team/app")])).stdout);
    assert_eq!(listed, "1");
    let listed =
        text(&succeed(&mut registry.knarr("store", &["search", "repositories", &registry.host])).stdout);
    assert_eq!(listed, "by-skopeo\nteam/app");
}

#[test]
fn a_second_image_sends_only_what_is_its_own() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("store", "app:1", &noise(500_000));
    let push = |name: &str| {
        let output = succeed(&mut registry.knarr("store", &["push", &registry.name(name)]));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(push("app:1").contains("2 blobs sent"));
    let again = push("app:1");
    assert!(again.contains("already there") && again.contains("0 blobs sent"), "{again}");
    // Another repository borrows.
    succeed(&mut registry.knarr("store", &["tag", &registry.name("app:1"), &registry.name("other:1")]));
    let mounted = push("other:1");
    assert!(mounted.contains("0 blobs sent") && mounted.contains("2 mounted"), "{mounted}");
    // All tags at once.
    succeed(&mut registry.knarr("store", &["tag", &registry.name("app:1"), &registry.name("app:2")]));
    succeed(&mut registry.knarr("store", &["push", "--all-tags", &registry.name("app")]));
    let listed =
        text(&succeed(&mut registry.knarr("store", &["search", "tags", &registry.name("app")])).stdout);
    assert_eq!(listed, "1\n2");
}

#[test]
fn large_layers_go_as_uploads_that_can_be_gone_on_with() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("store", "large:1", &noise(20_000_000));
    succeed(&mut registry.knarr("store", &["push", &registry.name("large:1")]));
    let said = text(&succeed(&mut registry.knarr("second", &["pull", &registry.name("large:1")])).stdout);
    assert!(said.contains(&digest), "{said}");
    registry.check("second");
}

#[test]
fn images_are_copied_between_all_places_without_a_change() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("store", "app:1", &noise(200_000));
    let path = |name: &str| registry.path(name).display().to_string();
    let name = registry.name("app:1");
    let places = [
        format!("docker://{}", registry.name("first:1")),
        registry.name("second:1"),
        format!("oci:{}:tag", path("layout")),
        format!("oci-archive:{}", path("image.tar")),
        format!("store:{}", registry.name("third:1")),
    ];
    let mut from = format!("store:{name}");
    for place in &places {
        let copied = text(&succeed(&mut registry.knarr("store", &["image", "copy", &from, place])).stdout);
        assert_eq!(copied, digest, "{from} to {place}");
        from.clone_from(place);
    }
    // Somebody else's layout holds nothing of ours but the image.
    let mut names: Vec<_> =
        fs::read_dir(registry.path("layout")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
    registry.skopeo(&["inspect", &format!("oci-archive:{}", path("image.tar"))]);
    // Docker's old archive has plain layers: that is another image with the same files.
    let old = format!("docker-archive:{}", path("docker.tar"));
    succeed(&mut registry.knarr("store", &["image", "copy", &places[0], &old]));
    registry.skopeo(&["inspect", &old]);
    registry.check("store");
}

#[test]
fn of_an_image_for_several_machines_one_goes_into_a_layout() {
    let Some(registry) = Registry::start(false) else { return };
    let path = |name: &str| registry.path(name).display().to_string();
    let mut entries = Vec::new();
    for machine in ["amd64", "arm64"] {
        let name = registry.name(&format!("{machine}:1"));
        registry.image("store", &format!("{machine}:1"), machine.as_bytes());
        let layout = format!("oci:{}:{machine}", path("whole"));
        let copied =
            succeed(&mut registry.knarr("store", &["image", "copy", &format!("store:{name}"), &layout]));
        let digest = text(&copied.stdout);
        let file = registry.path("whole/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        entries.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{},"platform":{{"architecture":"{machine}","os":"linux"}}}}"#,
            fs::metadata(file).unwrap().len()
        ));
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.join(",")
    );
    let digest = crate::support::sha256(index.as_bytes());
    fs::write(registry.path("whole/blobs/sha256").join(&digest), &index).unwrap();
    fs::write(
        registry.path("whole/index.json"),
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"all"}}}}]}}"#,
            index.len()
        ),
    )
    .unwrap();
    let name = registry.name("both:1");
    let copied =
        registry.knarr("store", &["image", "copy", &format!("oci:{}:all", path("whole")), &name]).output();
    assert!(copied.unwrap().status.success());
    for place in [format!("oci:{}:one", path("one")), format!("oci-archive:{}:one", path("one.tar"))] {
        let arguments = ["image", "copy", &format!("docker://{name}"), &place, "--platform", "linux/arm64"];
        let copied = text(&succeed(&mut registry.knarr("store", &arguments)).stdout);
        assert!(entries[1].contains(&copied), "{place} got {copied}");
        // Whatever machine asks: there is one image, and all of it.
        registry.skopeo(&["inspect", &place]);
    }
    assert_eq!(fs::read_dir(registry.path("one/blobs/sha256")).unwrap().count(), 3);
}

#[test]
fn who_is_not_logged_in_is_told_so() {
    let Some(registry) = Registry::start(true) else { return };
    registry.image("store", "app:1", b"content");
    let name = registry.name("app:1");
    let push = || registry.knarr("store", &["push", &name]);
    let told = fail(&mut push(), 87);
    assert!(told.contains("knarr login"), "{told}");
    let login = |word: &str| {
        let words = ["login", "-u", "me", "-p", word, &registry.host];
        registry.knarr("store", &words)
    };
    fail(&mut login("wrong"), 87);
    assert!(!registry.path("docker/config.json").exists());
    assert_eq!(text(&succeed(&mut login("right")).stdout), "Login Succeeded");
    let mode = fs::metadata(registry.path("docker/config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    succeed(&mut push());
    // Skopeo reads the same file.
    registry.skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    succeed(&mut registry.knarr("store", &["logout", &registry.host]));
    fail(&mut registry.knarr("other", &["pull", &name]), 87);
}

#[test]
fn a_credential_helper_keeps_what_docker_would_let_it_keep() {
    let Some(registry) = Registry::start(true) else { return };
    let (bin, kept) = (registry.path("bin"), registry.path("kept"));
    fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in store) cat > {kept} ;; get) cat > /dev/null; test -e {kept} && cat {kept} || {{ echo credentials not found; exit 1; }} ;; erase) rm {kept} ;; esac\n",
        kept = kept.display()
    );
    let program = bin.join("docker-credential-test");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(registry.path("docker")).unwrap();
    let config = registry.path("docker/config.json");
    fs::write(&config, r#"{"credsStore": "test", "mine": true}"#).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    registry.image("store", "app:1", b"content");
    let name = registry.name("app:1");
    let knarr = |words: &[&str]| {
        let mut command = registry.knarr("store", words);
        command.env("PATH", &path);
        command
    };
    fail(&mut knarr(&["push", &name]), 87);
    succeed(&mut knarr(&["login", "-u", "me", "-p", "right", &registry.host]));
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("\"mine\": true") && !text.contains("right") && kept.exists(), "{text}");
    succeed(&mut knarr(&["push", &name]));
    succeed(&mut knarr(&["logout", &registry.host]));
    assert!(!kept.exists());
}

#[test]
fn what_goes_wrong_at_a_registry_has_statuses_of_its_own() {
    let Some(registry) = Registry::start(false) else { return };
    let told = fail(&mut registry.knarr("store", &["pull", &registry.name("nothing:1")]), 88);
    assert!(told.contains("MANIFEST_UNKNOWN"), "{told}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = format!("{closed}/app:1");
    fail(&mut registry.knarr("store", &["pull", "--retries", "0", &away]), 90);
    fail(&mut registry.knarr("store", &["push", &registry.name("unknown:1")]), 84);
    fail(&mut registry.knarr("store", &["pull", "UPPER/case"]), 86);
    // What is not a registry at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().flatten().take(2) {
            let mut stream = stream;
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut head);
            let body = "<html>hello</html>";
            let _ = std::io::Write::write_all(
                &mut stream,
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
        }
    });
    let told = fail(&mut registry.knarr("store", &["pull", &format!("{host}/app:1")]), 89);
    assert!(told.contains("expected a manifest"), "{told}");
    server.join().unwrap();
}

#[test]
fn a_kill_at_any_moment_leaves_a_store_that_goes_on() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("store", "app:1", &noise(20_000_000));
    let name = registry.name("app:1");
    for round in 0..10_u64 {
        let words = if round % 2 == 0 { ["push", &name] } else { ["pull", &name] };
        let store = if round % 2 == 0 { "store" } else { "second" };
        let mut command = registry.knarr(store, &words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(10 + round * 13));
        let _ = child.kill();
        child.wait().unwrap();
        let said = text(&succeed(&mut registry.knarr(store, &["image", "check"])).stdout);
        assert!(!said.contains("broken"), "{said}");
    }
    succeed(&mut registry.knarr("store", &["push", &name]));
    let said = text(&succeed(&mut registry.knarr("second", &["pull", &name])).stdout);
    assert!(said.contains(&digest), "{said}");
    succeed(&mut registry.knarr("second", &["image", "prune"]));
    registry.check("second");
}

#[test]
fn an_ordinary_user_pulls_and_pushes() {
    needs_root!();
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("store", "app:1", b"content");
    succeed(&mut registry.knarr("store", &["push", &registry.name("app:1")]));
    let home = registry.path("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(4711), Some(4711)).unwrap();
    fs::set_permissions(registry.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_user = |words: &[&str]| {
        let knarr = registry.knarr("home/store", words);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=4711", "--regid=4711", "--clear-groups", "--"]).arg(knarr.get_program());
        command.args(knarr.get_args()).env("HOME", &home).env("KNARR_STORE", home.join("store"));
        command
            .env("KNARR_CONFIG", "/dev/null")
            .env("DOCKER_CONFIG", home.join(".docker"))
            .env_remove("http_proxy");
        command
    };
    let said = text(&succeed(&mut as_user(&["pull", &registry.name("app:1")])).stdout);
    assert!(said.contains(&digest), "{said}");
    succeed(&mut as_user(&["tag", &registry.name("app:1"), &registry.name("users:1")]));
    assert!(text(&succeed(&mut as_user(&["push", &registry.name("users:1")])).stdout).ends_with(&digest));
}
