//! Images that lie, burst or break off: each ends in a clear error, and nothing half of them is visible.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::EntryType;

use crate::support::{fail, needs_root, raw_tarball, sha256, succeed};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A place with a store and a layout to be archived.
struct Scene {
    dir: tempfile::TempDir,
    blobs: Vec<(String, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), blobs: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn knarr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.args(arguments).env("KNARR_STORE", self.path("store")).env("KNARR_CONFIG", "/dev/null");
        command.env("KNARR_CACHE_DIR", self.path("cache"));
        command
    }

    /// Keeps a blob; answers with its descriptor.
    fn blob(&mut self, kind: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        self.blobs.push((digest.clone(), bytes.to_vec()));
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":{}}}"#, bytes.len())
    }

    /// Keeps an image of one layer; answers with its descriptor.
    fn image(&mut self, layer: &[u8], diff_id: &str) -> String {
        let layer = self.blob(LAYER, layer);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
        );
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let manifest =
            format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#);
        self.blob(MANIFEST, manifest.as_bytes())
    }

    /// Writes an archive that names `descriptor`.
    fn archive(&self, descriptor: &str) -> PathBuf {
        let named = descriptor.replacen(
            '{',
            r#"{"annotations":{"org.opencontainers.image.ref.name":"docker.io/library/evil:1"},"#,
            1,
        );
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#);
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        add("index.json", index.as_bytes());
        for (digest, bytes) in &self.blobs {
            add(&format!("blobs/sha256/{digest}"), bytes);
        }
        let path = self.path("archive.tar");
        fs::write(&path, builder.into_inner().unwrap()).unwrap();
        path
    }

    fn load(&self, archive: &Path) -> Command {
        let mut command = self.knarr(&["load", "-i"]);
        command.arg(archive);
        command
    }

    /// Loading is refused, and the store is as if it had never been tried.
    fn refuses(&self, archive: &Path, status: i32, expected: &str) {
        let said = fail(&mut self.load(archive), status);
        assert!(said.contains(expected), "{said}");
        self.assert_nothing_is_there();
    }

    fn assert_nothing_is_there(&self) {
        assert_eq!(self.output(&["images", "-q"]), "");
        self.output(&["image", "prune"]);
        assert_eq!(self.output(&["system", "check"]), "");
        for directory in ["store/tmp", "store/layers", "store/blobs/sha256"] {
            assert_eq!(fs::read_dir(self.path(directory)).unwrap().count(), 0, "{directory}");
        }
    }

    fn output(&self, arguments: &[&str]) -> String {
        String::from_utf8(succeed(&mut self.knarr(arguments)).stdout).unwrap()
    }
}

#[test]
fn layers_that_leave_the_root_are_refused() {
    needs_root!();
    for (name, kind, link) in [
        ("../escaped", EntryType::Regular, ""),
        ("a/../../escaped", EntryType::Regular, ""),
        ("hard", EntryType::Link, "../../../../etc/passwd"),
    ] {
        let mut scene = Scene::new();
        let tar = raw_tarball(&[(name, kind, link, b"")]);
        let image = scene.image(&tar, &sha256(&tar));
        let archive = scene.archive(&image);
        succeed(&mut scene.load(&archive));
        let out = scene.path("out");
        let said = fail(scene.knarr(&["export", "evil:1", "-o"]).arg(&out), 85);
        assert!(said.contains("archive holds"), "{name}: {said}");
        fs::create_dir(scene.path("mount")).unwrap();
        fail(scene.knarr(&["image", "mount", "evil:1"]).arg(scene.path("mount")), 85);
        assert!(!out.exists() && !scene.path("store/escaped").exists(), "{name}");
        scene.output(&["rmi", "evil:1"]);
        scene.assert_nothing_is_there();
        let root = scene.path("root.tar");
        fs::write(&root, &tar).unwrap();
        fail(scene.knarr(&["import"]).arg(&root).arg("evil:2"), 85);
        scene.assert_nothing_is_there();
    }
}

#[test]
fn a_link_in_a_layer_leads_nowhere_outside() {
    needs_root!();
    let mut scene = Scene::new();
    let outside = scene.path("outside");
    fs::create_dir(&outside).unwrap();
    let tar = raw_tarball(&[
        ("link", EntryType::Symlink, outside.to_str().unwrap(), b""),
        ("link/escaped", EntryType::Regular, "", b"x"),
    ]);
    let image = scene.image(&tar, &sha256(&tar));
    let archive = scene.archive(&image);
    succeed(&mut scene.load(&archive));
    // Whether it is refused or put inside: outside there is nothing.
    let _ = scene.knarr(&["export", "evil:1", "-o"]).arg(scene.path("out")).output().unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn bombs_are_defused() {
    needs_root!();
    let mut scene = Scene::new();
    let zeros = vec![0_u8; 1 << 20];
    let mut bomb = zstd_writer();
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    (0..8 << 10).for_each(|_| bomb.write_all(&zeros).unwrap());
    let bomb = bomb.finish().unwrap();
    let file = scene.path("bomb.tar.zst");
    fs::write(&file, &bomb).unwrap();
    let said = fail(scene.knarr(&["import"]).arg(&file).arg("bomb"), 85);
    assert!(said.contains("unpack to more than"), "{said}");
    scene.assert_nothing_is_there();
    let layer = scene.blob("application/vnd.oci.image.layer.v1.tar+zstd", &bomb);
    let image = scene.image(b"", &sha256(b"")).replace("null", "");
    drop(image);
    let config = scene.blobs[2].clone();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":{}}},"layers":[{layer}]}}"#,
        config.0,
        config.1.len()
    );
    let image = scene.blob(MANIFEST, manifest.as_bytes());
    let archive = scene.archive(&image);
    succeed(&mut scene.load(&archive));
    let said = fail(scene.knarr(&["export", "evil:1", "-o"]).arg(scene.path("out")), 85);
    assert!(said.contains("holds more than"), "{said}");
    assert!(!scene.path("out").exists());
}

fn zstd_writer() -> zstd::Encoder<'static, Vec<u8>> {
    zstd::Encoder::new(Vec::new(), 1).unwrap()
}

#[test]
fn documents_that_lie_are_refused() {
    needs_root!();
    let tar = raw_tarball(&[("file", EntryType::Regular, "", b"x")]);
    let mut scene = Scene::new();
    let image = scene.image(&tar, &sha256(&tar));
    let last = scene.blobs.len() - 1;
    let size = scene.blobs[last].1.len();
    let archive = scene.archive(&image.replace(&format!("\"size\":{size}"), "\"size\":7"));
    scene.refuses(&archive, 85, "other bytes");
    let digest = scene.blobs[0].0.clone();
    let manifest = String::from_utf8(scene.blobs[last].1.clone()).unwrap();
    for (change, expected) in [
        (manifest.replace(&format!("\"size\":{}", tar.len()), "\"size\":9"), "other bytes"),
        (manifest.replace(&digest, &sha256(b"nothing")), "is missing"),
        (manifest.replace("\"schemaVersion\":2", "\"schemaVersion\":1"), "schemaVersion"),
        (manifest.replace('}', ""), "manifest"),
    ] {
        let mut lying = Scene::new();
        lying.blobs.clone_from(&scene.blobs);
        let image = lying.blob(MANIFEST, change.as_bytes());
        let archive = lying.archive(&image);
        lying.refuses(
            &archive,
            if expected == "schemaVersion" || expected == "manifest" { 86 } else { 85 },
            expected,
        );
    }
    // A blob with other bytes than its name says.
    let mut swapped = Scene::new();
    let image = swapped.image(&tar, &sha256(&tar));
    swapped.blobs[0].1[0] ^= 1;
    let archive = swapped.archive(&image);
    swapped.refuses(&archive, 85, "other bytes");
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_not_used() {
    needs_root!();
    let mut scene = Scene::new();
    let tar = raw_tarball(&[("file", EntryType::Regular, "", b"x")]);
    let image = scene.image(&tar, &sha256(b"something else"));
    let archive = scene.archive(&image);
    succeed(&mut scene.load(&archive));
    let said = fail(scene.knarr(&["export", "evil:1", "-o"]).arg(scene.path("out")), 85);
    assert!(said.contains("its image promises"), "{said}");
    assert!(!scene.path("out").exists());
}

#[test]
fn indexes_that_nest_or_swell_are_refused() {
    needs_root!();
    let mut scene = Scene::new();
    let tar = raw_tarball(&[("file", EntryType::Regular, "", b"x")]);
    let mut inner = scene.image(&tar, &sha256(&tar));
    for _ in 0..12 {
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{inner}]}}"#);
        inner = scene.blob(INDEX, index.as_bytes());
    }
    let archive = scene.archive(&inner);
    scene.refuses(&archive, 85, "nested too deep");
    let mut scene = Scene::new();
    let entry = scene.image(&tar, &sha256(&tar));
    let many = vec![entry; 40_000].join(",");
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{many}]}}"#);
    let index = scene.blob(INDEX, index.as_bytes());
    let archive = scene.archive(&index);
    scene.refuses(&archive, 85, "larger than");
}

#[test]
fn archives_that_break_off_or_hold_nothing_are_refused() {
    needs_root!();
    let mut scene = Scene::new();
    let tar = raw_tarball(&[("file", EntryType::Regular, "", &[7; 5000])]);
    let image = scene.image(&tar, &sha256(&tar));
    let archive = scene.archive(&image);
    let whole = fs::read(&archive).unwrap();
    for length in [0, 100, 700, 2048, whole.len() / 2] {
        fs::write(&archive, &whole[..length]).unwrap();
        let said = fail(&mut scene.load(&archive), 85);
        assert!(said.contains("archive"), "{length}: {said}");
        scene.assert_nothing_is_there();
    }
    fs::write(&archive, &whole).unwrap();
    succeed(&mut scene.load(&archive));
    assert_eq!(scene.output(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "evil:1\n");
}

#[test]
fn a_disk_that_fills_up_while_an_image_comes_in_is_told() {
    needs_root!();
    let mut scene = Scene::new();
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..3_000_000).map(|_| random()).collect();
    let tar = raw_tarball(&[("noise", EntryType::Regular, "", &noise)]);
    let image = scene.image(&tar, &sha256(&tar));
    let archive = scene.archive(&image);
    let root = scene.path("root.tar");
    fs::write(&root, &tar).unwrap();
    fs::create_dir(scene.path("store")).unwrap();
    let store = scene.path("store").display().to_string();
    let knarr = env!("CARGO_BIN_EXE_knarr");
    for verb in [format!("load -i {}", archive.display()), format!("import {} big", root.display())] {
        let script = format!(
            "mount -t tmpfs -o size=1m small {store}; {knarr} {verb}; status=$?; {knarr} images -q; {knarr} system check; umount {store}; exit $status"
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).env("KNARR_STORE", &store).env("KNARR_CONFIG", "/dev/null");
        let output = command.env("KNARR_CACHE_DIR", scene.path("cache")).output().unwrap();
        assert_eq!(output.status.code(), Some(13), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    // With room it works.
    succeed(&mut scene.load(&archive));
}
