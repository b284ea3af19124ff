//! Provenance: where every file of an image comes from, who signed for it, and what has become newer.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::registry_server::Serving;
use crate::support::{Deb, Mirror, fail, needs_root, succeed};

const RECIPE: &str = r#"
suite = "SUITE"
packages = ["base-files-", "base", "application"]

[[file]]
path = "/etc/worker.conf"
text = "answer = 42"

[[run]]
command = "echo changed > /usr/share/things/one; echo made > /made"

[production]
mode = "minimal"
"#;

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: somebody\nLicense: GPL-2+ or Expat\n\nFiles: x\nCopyright: somebody\nLicense: own-terms\n Do as you like.\n";

/// The fixture with a licence and a home for its application.
fn mirror() -> Mirror {
    let mut mirror = Mirror::new();
    let application = mirror.debs.iter_mut().find(|deb| deb.name == "application").unwrap();
    application.fields += "Homepage: https://example.org/app\n";
    let deb = application.clone().file("usr/share/doc/application/copyright", 0o644, COPYRIGHT);
    *application = deb;
    mirror.publish();
    mirror
}

fn knarr(mirror: &Mirror, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command.args(arguments);
    command.env_remove("SOURCE_DATE_EPOCH").env("KNARR_CACHE_DIR", mirror.path("cache"));
    command.env("KNARR_STORE", mirror.path("store")).env("KNARR_CONFIG", "/dev/null");
    command.env_remove("http_proxy").env("no_proxy", "*").env_remove("KNARR_MIRROR");
    command.env("COSIGN_PASSWORD", "secret");
    command
}

/// A command that asks the fixture's mirror.
fn asking(mirror: &Mirror, arguments: &[&str]) -> Command {
    let mut command = knarr(mirror, arguments);
    command.args(["--mirror", &mirror.url, "--keyring"]).arg(mirror.path("key.gpg"));
    command
}

fn build(mirror: &Mirror, recipe: &str) -> Command {
    let file = mirror.path("app.toml");
    fs::write(&file, recipe.replace("SUITE", mirror.suite().to_str().unwrap())).unwrap();
    let mut command = asking(mirror, &["build"]);
    command.arg(file);
    command
}

fn out(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

/// A command that says something on standard output and ends with a status.
fn answer(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{command:?}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Digests of everything that a store's index lists.
fn entries(store: &Path) -> BTreeSet<String> {
    let index = fs::read_to_string(store.join("index.json")).unwrap();
    index.split('"').filter(|part| part.starts_with("sha256:")).map(str::to_owned).collect()
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn an_image_says_the_same_of_itself_every_time() {
    needs_root!();
    let mirror = mirror();
    succeed(&mut build(&mirror, RECIPE));
    let first = entries(&mirror.path("store"));
    assert_eq!(first.len(), 5, "an image, its build, two bills, its provenance");
    let mut other = build(&mirror, RECIPE);
    other.env("KNARR_STORE", mirror.path("two")).env("KNARR_CACHE_DIR", mirror.path("cache2"));
    succeed(&mut other);
    assert_eq!(entries(&mirror.path("two")), first);
    succeed(build(&mirror, RECIPE).arg("--fresh"));
    assert_eq!(entries(&mirror.path("store")), first);
    // What is known is not written again; what was lost is.
    let said = |command: &mut Command| String::from_utf8_lossy(&succeed(command).stderr).into_owned();
    assert!(!said(&mut build(&mirror, RECIPE)).contains("provenance"));
    fs::remove_dir_all(mirror.path("store")).unwrap();
    assert!(said(&mut build(&mirror, RECIPE)).contains("writing provenance"));
    assert_eq!(entries(&mirror.path("store")), first);
    // Another recipe that makes the same bytes takes the place of the first, and the first takes it back.
    let other = format!("{RECIPE}\n[[verify]]\ncommand = \"test -e /made\"\n");
    succeed(&mut build(&mirror, &other));
    let second = entries(&mirror.path("store"));
    assert!(second != first && second.len() == 5, "{second:?}");
    succeed(&mut build(&mirror, RECIPE));
    assert_eq!(entries(&mirror.path("store")), first);
}

#[test]
fn bills_and_provenance_are_printed() {
    needs_root!();
    let mirror = mirror();
    succeed(&mut build(&mirror, RECIPE));
    let purl = "pkg:deb/debian/application@1.0?arch=amd64&distro=debian-test";
    let spdx = out(&mut knarr(&mirror, &["image", "sbom", "app"]));
    contains(&spdx, &["SPDX-2.3", purl, "http://nowhere.invalid/debian/pool/application_1.0_amd64.deb"]);
    contains(&spdx, &["\"./etc/worker.conf\"", "\"./usr/bin/application\"", "https://example.org/app"]);
    contains(&spdx, &["(GPL-2.0-or-later OR MIT) AND LicenseRef-own-terms-", "Do as you like."]);
    let cyclonedx = out(&mut knarr(&mirror, &["image", "sbom", "app", "--format", "cyclonedx"]));
    contains(&cyclonedx, &["CycloneDX", purl, "/etc/worker.conf", "knarr: files of the recipe"]);
    let table = out(&mut knarr(&mirror, &["image", "sbom", "app", "--format", "table"]));
    contains(&table, &["application", "GPL-2.0-or-later OR MIT"]);
    let provenance = out(&mut knarr(&mirror, &["image", "provenance", "app"]));
    contains(&provenance, &["https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"]);
    contains(&provenance, &["http://nowhere.invalid/debian/dists/test/Release", "knarr.lock"]);
    contains(&provenance, &["application 1.0 amd64", &mirror.fingerprint()]);
    assert!(!provenance.contains(&mirror.url) && !provenance.contains(mirror.dir.path().to_str().unwrap()));
    succeed(build(&mirror, RECIPE).args(["--no-attest", "-t", "silent", "--squash"]));
    assert!(
        fail(&mut knarr(&mirror, &["image", "sbom", "silent"]), 95).contains("not made by `knarr build`")
    );
}

#[test]
fn why_leads_from_a_file_to_a_signed_release() {
    needs_root!();
    let mirror = mirror();
    succeed(&mut build(&mirror, RECIPE));
    let why = |path: &str| out(&mut knarr(&mirror, &["image", "why", "app", path]));
    let deb = mirror.files.lock().unwrap()["/pool/application_1.0_amd64.deb"].clone();
    let release = mirror.files.lock().unwrap()["/dists/test/Release"].clone();
    let sum =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for path in ["/usr/bin/application", "/bin/application", "bin/../bin/application"] {
        let told = why(path);
        contains(
            &told,
            &["package    application 1.0 amd64", &sum(&deb), "main/binary-amd64/Packages sha256:"],
        );
        contains(&told, &[&mirror.fingerprint(), &mirror.url, "knarr: packages of", "/usr/bin/application"]);
        // The release is known by the digest of its signed text.
        contains(&told, &[&format!("sha256:{}", sum(&release))]);
    }
    contains(&why("/usr/bin/sh"), &["/usr/bin/sh -> busybox", "\n/usr/bin/busybox\n", "package    base 1.0"]);
    contains(
        &why("/etc/worker.conf"),
        &["made by    knarr: files of the recipe", "[[file]] path = \"/etc/worker.conf\""],
    );
    contains(&why("/made"), &["made by    RUN echo changed"]);
    contains(&why("/usr/share/things/one"), &["changed by RUN echo changed", "package    application"]);
    contains(&why("/var/lib/dpkg/status.d/library"), &["record of  library 1.0"]);
    contains(&why("/etc/passwd"), &["changed by knarr: configuration of", "package    base"]);
    contains(
        &out(&mut knarr(&mirror, &["image", "why", "app", "/made", "--format", "json"])),
        &["\"step\": \"RUN echo"],
    );
    assert!(
        fail(&mut knarr(&mirror, &["image", "why", "app", "/nothing"]), 84).contains("there is no /nothing")
    );
    assert!(fail(&mut knarr(&mirror, &["image", "why", "app", "/usr/bin"]), 1).contains("is a directory"));
    // In one layer it is still known which step made what.
    succeed(build(&mirror, RECIPE).args(["--squash", "-t", "flat"]));
    let flat = out(&mut knarr(&mirror, &["image", "why", "flat", "/usr/share/things/one"]));
    contains(&flat, &["changed by RUN echo changed", "(knarr: everything)"]);
}

#[test]
fn what_is_left_out_or_removed_is_in_no_inventory() {
    needs_root!();
    let mirror = mirror();
    let recipe = format!(
        "drop = [\"/usr/lib/library.so\"]\n{RECIPE}\n[[run]]\ncommand = [\"/usr/bin/busybox\", \"rm\", \"/usr/bin/kill\"]\n"
    );
    succeed(&mut build(&mirror, &recipe));
    let files = out(&mut knarr(&mirror, &["image", "files", "app"]));
    let spdx = out(&mut knarr(&mirror, &["image", "sbom", "app"]));
    for path in ["usr/lib/library.so", "usr/bin/kill"] {
        assert!(!files.contains(path) && !spdx.contains(path), "{path}");
        fail(&mut knarr(&mirror, &["image", "why", "app", path]), 84);
    }
    contains(&out(&mut asking(&mirror, &["image", "verify", "app"])), &["0 are not accounted for"]);
}

#[test]
fn what_a_slim_image_says_is_what_is_in_it() {
    needs_root!();
    let mirror = mirror();
    let recipe = RECIPE
        .replace("\"minimal\"", "\"slim\"")
        .replace("[production]", "[image]\nentrypoint = [\"/usr/bin/application\"]\n[production]");
    succeed(&mut build(&mirror, &recipe));
    let files = out(&mut knarr(&mirror, &["image", "files", "app"]));
    let listed: BTreeSet<&str> = files
        .lines()
        .filter(|line| line.starts_with('-'))
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    let spdx = out(&mut knarr(&mirror, &["image", "sbom", "app"]));
    let told: BTreeSet<&str> =
        spdx.split("\"fileName\":\".").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(told, listed);
    contains(&out(&mut asking(&mirror, &["image", "verify", "app"])), &["0 are not accounted for"]);
    let why = out(&mut knarr(&mirror, &["image", "why", "app", "/usr/bin/application"]));
    contains(&why, &["package    application 1.0", &mirror.fingerprint()]);
    contains(
        &out(&mut knarr(&mirror, &["image", "why", "app", "/etc/worker.conf"])),
        &["knarr: files of the recipe"],
    );
}

/// Replaces bytes of a blob by as many others, and everything that names it by its digest, up to the index.
fn plant(store: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    // In the order of the changes: what names a blob that changed twice follows it twice.
    let mut changes = VecDeque::from([(from.to_vec(), to.to_vec())]);
    while let Some((from, to)) = changes.pop_front() {
        let blobs = fs::read_dir(store.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        for blob in blobs.collect::<Vec<_>>() {
            let mut bytes = fs::read(&blob).unwrap();
            // What the packages promise is not the forger's to change.
            let is_record =
                bytes.starts_with(b"# Written by knarr") || bytes.starts_with(b"{\"version\":1,\"layers\"");
            let hits: Vec<usize> = (0..bytes.len().saturating_sub(from.len()))
                .filter(|at| bytes[*at..].starts_with(&from))
                .collect();
            if hits.is_empty() || is_record {
                continue;
            }
            hits.iter().for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(&to));
            let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::remove_file(&blob).unwrap();
            fs::write(blob.with_file_name(&hex), bytes).unwrap();
            let old = blob.file_name().unwrap().to_str().unwrap().to_owned();
            let index = fs::read_to_string(store.join("index.json")).unwrap();
            fs::write(store.join("index.json"), index.replace(&old, &hex)).unwrap();
            changes.push_back((old.into_bytes(), hex.into_bytes()));
        }
    }
}

#[test]
fn verify_finds_what_nobody_accounts_for() {
    needs_root!();
    let mirror = mirror();
    succeed(build(&mirror, RECIPE).args(["--compression", "none"]));
    let told = out(&mut asking(&mirror, &["image", "verify", "app"]));
    contains(
        &told,
        &["changed: /usr/share/things/one of application by RUN echo", "0 are not accounted for"],
    );
    plant(&mirror.path("store"), b"#!/bin/sh\necho running\n", b"#!/bin/sh\necho hacking\n");
    assert_eq!(out(&mut knarr(&mirror, &["image", "check"])), "");
    let told = answer(&mut asking(&mirror, &["image", "verify", "app"]), 92);
    contains(&told, &["foreign: /usr/bin/application of application\n", "1 are not accounted for"]);
    plant(&mirror.path("store"), b"answer = 42", b"answer = 43");
    let told = answer(&mut asking(&mirror, &["image", "verify", "app"]), 92);
    contains(&told, &["foreign: /etc/worker.conf by knarr: files", "2 are not accounted for"]);
}

#[test]
fn signatures_are_those_of_cosign() {
    needs_root!();
    let mirror = mirror();
    let digest = out(&mut build(&mirror, RECIPE)).trim().to_owned();
    let store = mirror.path("store");
    let key = mirror.path("cosign");
    let generate = || {
        let mut command = knarr(&mirror, &["image", "key", "generate", "--output"]);
        command.arg(&key);
        command
    };
    succeed(&mut generate());
    assert!(fail(&mut generate(), 11).contains("is there already"));
    let (private, public) = (mirror.path("cosign.key"), mirror.path("cosign.pub"));
    let verify = |key: &Path| {
        let mut command = knarr(&mirror, &["image", "verify", "app", "--signature-only", "--key"]);
        command.arg(key);
        command
    };
    assert!(fail(&mut verify(&public), 93).contains("is not signed"));
    let mut sign = knarr(&mirror, &["image", "sign", "app", "--key"]);
    sign.arg(&private);
    assert!(fail(sign.env("COSIGN_PASSWORD", "wrong"), 94).contains("does not open"));
    let signature = out(sign.env("COSIGN_PASSWORD", "secret")).trim().to_owned();
    succeed(&mut verify(&public));
    succeed(asking(&mirror, &["image", "verify", "app"]).arg("--key").arg(&public));
    // The name that cosign looks for, in the layout as skopeo reads it; people do not see it among their images.
    let index = fs::read_to_string(store.join("index.json")).unwrap();
    let name = format!("docker.io/library/app:{}.sig", digest.replace(':', "-"));
    assert!(index.contains(&name), "{name}\n{index}");
    assert_eq!(out(&mut knarr(&mirror, &["images", "--format", "{{.Repository}}"])), "app\n");
    let manifest = fs::read_to_string(blob(&store, &signature)).unwrap();
    let part = |text: &str, after: &str| {
        let rest = &text[text.find(after).unwrap() + after.len()..];
        rest[..rest.find('"').unwrap()].to_owned()
    };
    let layer = &manifest[manifest.find("\"layers\"").unwrap()..];
    let payload = blob(&store, &part(layer, "\"digest\":\""));
    contains(
        &fs::read_to_string(&payload).unwrap(),
        &[&digest, "index.docker.io/library/app", "\"optional\":null"],
    );
    check_with_openssl(&mirror, &part(layer, "\"dev.cosignproject.cosign/signature\":\""), &payload, &public);
    // Another key, made by openssl; and a text that was changed.
    let other = mirror.path("other.pem");
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        other.to_str().unwrap(),
    ]);
    let other_public = mirror.path("other.pub");
    openssl(&["pkey", "-in", other.to_str().unwrap(), "-pubout", "-out", other_public.to_str().unwrap()]);
    assert!(fail(&mut verify(&other_public), 93).contains("another key"));
    succeed(knarr(&mirror, &["image", "sign", "app", "--key"]).arg(&other));
    succeed(&mut verify(&other_public));
    succeed(&mut verify(&public));
    plant(&store, b"cosign container image signature", b"cosign container image signaturE");
    assert!(fail(&mut verify(&public), 93).contains("the text was changed"));
    // With its image a signature goes, and so does all else that was said of it.
    succeed(&mut knarr(&mirror, &["rmi", "app"]));
    assert_eq!(fs::read_dir(store.join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(entries(&store), BTreeSet::new());
}

fn blob(store: &Path, digest: &str) -> std::path::PathBuf {
    store.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn openssl(arguments: &[&str]) {
    succeed(Command::new("openssl").args(arguments).stdin(Stdio::null()));
}

fn check_with_openssl(mirror: &Mirror, signature: &str, payload: &Path, public: &Path) {
    let (encoded, raw) = (mirror.path("signature.b64"), mirror.path("signature.der"));
    fs::write(&encoded, format!("{signature}\n")).unwrap();
    openssl(&["base64", "-d", "-A", "-in", encoded.to_str().unwrap(), "-out", raw.to_str().unwrap()]);
    let [public, raw, payload] = [public, &raw, payload].map(|path| path.to_str().unwrap());
    openssl(&["dgst", "-sha256", "-verify", public, "-signature", raw, payload]);
}

/// Layers of an image as its history tells them, the lowest first: digest and what made it.
fn layers(mirror: &Mirror, image: &str) -> Vec<(String, String)> {
    let history = out(&mut knarr(mirror, &["image", "history", image, "--no-trunc"]));
    let lines = history.lines().filter(|line| !line.starts_with("LAYER")).rev();
    lines.map(|line| (line[..12].to_owned(), line[line.find("knarr:").unwrap_or(0)..].to_owned())).collect()
}

#[test]
fn an_older_package_is_found_and_a_rebuild_replaces_its_layer_alone() {
    needs_root!();
    let mut mirror = mirror();
    // Large enough for a layer of its own.
    let library = Deb::new("library", "Priority: optional\n").file("usr/lib/library.so", 0o644, noise(1));
    let at = mirror.debs.iter().position(|deb| deb.name == "library").unwrap();
    mirror.debs[at] = library;
    mirror.publish();
    succeed(&mut build(&mirror, RECIPE));
    let before = layers(&mirror, "app");
    assert_eq!(out(&mut asking(&mirror, &["image", "updates", "app"])), "");
    let digest = out(&mut asking(&mirror, &["image", "rebuild", "app"]));
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(layers(&mirror, "app"), before);

    mirror.debs[at] = Deb::new("library", "Priority: optional\n").version("1.1").file(
        "usr/lib/library.so",
        0o644,
        noise(2),
    );
    mirror.publish();
    let told = answer(&mut asking(&mirror, &["image", "updates", "app"]), 91);
    let row: Vec<&str> = told.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["library", "1.0", "1.1", "test"]);
    assert_eq!(out(&mut asking(&mirror, &["image", "updates", "app", "--security"])), "");
    contains(
        &answer(&mut asking(&mirror, &["image", "updates", "app", "--format", "json"]), 91),
        &["\"candidate\": \"1.1\"", "\"security\": false"],
    );

    let told = out(&mut asking(&mirror, &["image", "rebuild", "app"]));
    contains(
        &told,
        &["library 1.0", "1.1", "C /usr/lib/library.so (content)", "C /var/lib/dpkg/status.d/library"],
    );
    assert!(told.lines().last().unwrap().starts_with("sha256:"), "{told}");
    let after = layers(&mirror, "app");
    assert_eq!(after.len(), before.len());
    for (old, new) in before.iter().zip(&after).filter(|(old, _)| old.1.starts_with("knarr: packages of")) {
        assert_eq!(old == new, old.1 != "knarr: packages of library", "{old:?} {new:?}");
    }
    contains(&out(&mut knarr(&mirror, &["image", "why", "app", "/usr/lib/library.so"])), &["library 1.1"]);
    assert_eq!(out(&mut asking(&mirror, &["image", "updates", "app"])), "");
    contains(&out(&mut asking(&mirror, &["image", "verify", "app"])), &["0 are not accounted for"]);
}

/// Two MiB that do not compress away to nothing, by a seed.
fn noise(seed: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut block = vec![seed];
    while bytes.len() < 2 << 20 {
        block = Sha256::digest(&block).to_vec();
        bytes.extend_from_slice(&block);
    }
    bytes
}

#[test]
fn security_updates_are_told_from_others_and_taken_alone() {
    needs_root!();
    let mut mirror = mirror();
    let mut security = Mirror::new();
    security.suite_name = "test-security".to_owned();
    security.debs = vec![Deb::new("nothing", "")];
    security.publish();
    let suite = format!(
        "name = \"test\"\ndistribution = \"fixture\"\nmirror = \"{}\"\nsecurity-mirror = \"{}\"\ncomponents = [\"main\"]\n\
         architectures = [\"amd64\"]\nkeyrings = []\nusr-merge = true\n\
         [[pocket]]\nname = \"security\"\nsuite = \"test-security\"\nmirror = \"security\"\n",
        mirror.url, security.url
    );
    fs::write(mirror.path("with-security.toml"), suite).unwrap();
    let recipe = mirror.path("app.toml");
    let text = RECIPE.replace("SUITE", mirror.path("with-security.toml").to_str().unwrap());
    fs::write(&recipe, text).unwrap();
    let keys = [mirror.path("key.gpg"), security.path("key.gpg")];
    succeed(&mut with_keys(&mirror, &keys, &["build", recipe.to_str().unwrap()]));
    assert_eq!(out(&mut with_keys(&mirror, &keys, &["image", "updates", "app"])), "");

    let library = Deb::new("library", "Priority: optional\n").version("1.0+deb1u1");
    security.debs.push(library.file("usr/lib/library.so", 0o644, "fixed"));
    security.publish();
    let index = mirror.debs.iter().position(|deb| deb.name == "application").unwrap();
    mirror.debs[index] = mirror.debs[index].clone().version("2.0");
    mirror.publish();
    let told = answer(&mut with_keys(&mirror, &keys, &["image", "updates", "app"]), 91);
    contains(&told, &["application", "2.0", "library", "1.0+deb1u1", "test-security (security)"]);
    let told = answer(&mut with_keys(&mirror, &keys, &["image", "updates", "app", "--security"]), 91);
    assert!(told.contains("library") && !told.contains("application"), "{told}");

    let told = out(&mut with_keys(
        &mirror,
        &keys,
        &["image", "rebuild", "app", "--security-only", "-t", "app:fixed"],
    ));
    assert!(told.contains("library") && !told.contains("application"), "{told}");
    let why = |image: &str, path: &str| out(&mut knarr(&mirror, &["image", "why", image, path]));
    contains(
        &why("app:fixed", "/usr/lib/library.so"),
        &["library 1.0+deb1u1", "test-security of", &security.fingerprint()],
    );
    contains(&why("app:fixed", "/usr/bin/application"), &["application 1.0", "release    test of"]);
    contains(&why("app", "/usr/lib/library.so"), &["library 1.0 "]);
    let told = answer(&mut with_keys(&mirror, &keys, &["image", "updates", "app:fixed"]), 91);
    assert!(told.contains("application") && !told.contains("library"), "{told}");
    assert_eq!(out(&mut with_keys(&mirror, &keys, &["image", "updates", "app:fixed", "--security"])), "");
}

fn with_keys(mirror: &Mirror, keys: &[std::path::PathBuf], arguments: &[&str]) -> Command {
    let mut command = knarr(mirror, arguments);
    for key in keys {
        command.arg("--keyring").arg(key);
    }
    command
}

#[test]
fn a_rebuild_takes_the_context_as_it_was_or_not_at_all() {
    needs_root!();
    let mut mirror = mirror();
    let recipe = RECIPE.replace("text = \"answer = 42\"", "from = \"worker.conf\"");
    fs::write(mirror.path("worker.conf"), "answer = 42").unwrap();
    succeed(&mut build(&mirror, &recipe));
    let at = mirror.debs.iter().position(|deb| deb.name == "library").unwrap();
    mirror.debs[at] = mirror.debs[at].clone().version("1.1");
    mirror.publish();
    fs::write(mirror.path("worker.conf"), "answer = 43").unwrap();
    let rebuild = || asking(&mirror, &["image", "rebuild", "app"]);
    assert!(fail(&mut rebuild(), 83).contains("worker.conf: changed since the image was built"));
    // On another machine nobody knows where the context was.
    let said = fail(rebuild().env("KNARR_CACHE_DIR", mirror.path("cache2")), 83);
    assert!(said.contains("--context names it"), "{said}");
    fs::create_dir(mirror.path("elsewhere")).unwrap();
    fs::write(mirror.path("elsewhere/worker.conf"), "answer = 42").unwrap();
    let told = out(rebuild().arg("--context").arg(mirror.path("elsewhere")));
    contains(&told, &["library 1.0", "1.1"]);
}

#[test]
fn what_is_said_of_an_image_travels_with_it() {
    needs_root!();
    let mirror = mirror();
    let digest = out(&mut build(&mirror, RECIPE)).trim().to_owned();
    let key = mirror.path("cosign");
    succeed(knarr(&mirror, &["image", "key", "generate", "--output"]).arg(&key));
    let registry = Serving::start(&mirror.path("registry"), &[]);
    let name = format!("{}/team/app:1", registry.address);
    succeed(&mut knarr(&mirror, &["tag", "app", &name]));
    let mut sign = knarr(&mirror, &["image", "sign", &name, "--key"]);
    succeed(sign.arg(mirror.path("cosign.key")).env("COSIGN_PASSWORD", "secret"));
    succeed(&mut knarr(&mirror, &["push", &name]));
    // Where cosign looks for it.
    let tags = out(&mut knarr(&mirror, &["search", "tags", &format!("{}/team/app", registry.address)]));
    contains(&tags, &["1\n", &format!("{}.sig\n", digest.replace(':', "-"))]);
    let elsewhere = |words: &[&str]| {
        let mut command = knarr(&mirror, words);
        command.env("KNARR_STORE", mirror.path("elsewhere"));
        command
    };
    succeed(&mut elsewhere(&["pull", "--referrers", &name]));
    succeed(
        elsewhere(&["image", "verify", &name, "--signature-only", "--key"]).arg(mirror.path("cosign.pub")),
    );
    contains(&out(&mut elsewhere(&["image", "sbom", &name, "--format", "table"])), &["application"]);
    contains(&out(&mut elsewhere(&["image", "why", &name, "/usr/bin/application"])), &["application"]);
}
