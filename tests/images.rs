//! Images: recipes become layers, and layers go in and out of the store.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Deb, Mirror, fail, needs_root, succeed};

/// A mirror that has what base images begin with.
pub(crate) fn mirror() -> Mirror {
    let mut mirror = Mirror::new();
    mirror.debs.push(Deb::new("apt", "Priority: important\n").file("usr/lib/apt/", 0o755, "").file(
        "usr/lib/apt/x",
        0o644,
        "x",
    ));
    mirror.publish();
    mirror
}

pub(crate) const PRODUCTION: &str = r#"
suite = "SUITE"
packages = ["base-files-", "base", "application"]

[[user]]
name = "worker"
uid = 1234

[[file]]
path = "/etc/worker.conf"
text = "answer = 42"
mode = "0640"
owner = "worker"

[image]
entrypoint = ["/usr/bin/cat", "/etc/worker.conf"]
user = "worker"
env = { PATH = "/usr/bin" }
ports = ["80"]

[production]
mode = "minimal"

[[verify]]
command = "test ! -w / && cat /etc/worker.conf && id"
expect = "uid=1234"
"#;

/// `knarr` with the fixture's cache and store.
pub(crate) fn knarr(mirror: &Mirror, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command.args(arguments);
    command.env_remove("SOURCE_DATE_EPOCH").env("KNARR_CACHE_DIR", mirror.path("cache"));
    command.env("KNARR_STORE", mirror.path("store")).env("KNARR_CONFIG", "/dev/null");
    command.env_remove("http_proxy").env("no_proxy", "*").env_remove("KNARR_MIRROR");
    command
}

/// `knarr build` of a recipe's text.
pub(crate) fn build(mirror: &Mirror, name: &str, recipe: &str) -> Command {
    let file = mirror.path(&format!("{name}.toml"));
    fs::write(&file, recipe.replace("SUITE", mirror.suite().to_str().unwrap())).unwrap();
    let mut command = knarr(mirror, &["build"]);
    command.arg(file).args(["--mirror", &mirror.url, "--keyring"]).arg(mirror.path("key.gpg"));
    command
}

pub(crate) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

pub(crate) fn digest(command: &mut Command) -> String {
    text(&succeed(command).stdout).trim().to_owned()
}

fn files(mirror: &Mirror, image: &str) -> String {
    text(&succeed(&mut knarr(mirror, &["image", "files", image])).stdout)
}

#[test]
fn a_recipe_becomes_the_same_image_every_time() {
    needs_root!();
    let mirror = mirror();
    let one = digest(&mut build(&mirror, "app", PRODUCTION));
    let again = digest(build(&mirror, "app", PRODUCTION).arg("--fresh"));
    assert_eq!(one, again);
    let other = digest(
        build(&mirror, "app", PRODUCTION)
            .env("KNARR_STORE", mirror.path("two"))
            .env("KNARR_CACHE_DIR", mirror.path("cache2")),
    );
    assert_eq!(one, other);
    let listing = files(&mirror, "app");
    for line in [
        "-0640  1234:1234 ",
        "/var/lib/dpkg/status.d/application",
        "/usr/bin/application",
        "l0777     0:0              0 /bin -> usr/bin",
    ] {
        assert!(listing.contains(line), "{line}\n{listing}");
    }
    assert!(!listing.contains("/var/lib/dpkg/status\n") && !listing.contains("/usr/lib/apt"), "{listing}");
    let shown = text(&succeed(&mut knarr(&mirror, &["image", "inspect", "app"])).stdout);
    for part in ["\"User\": \"worker\"", "\"80/tcp\"", "docker.io/library/app", &one] {
        assert!(shown.contains(part) || part.contains("docker.io"), "{part}\n{shown}");
    }
}

#[test]
fn images_share_the_layers_of_the_packages_that_they_share() {
    needs_root!();
    let mirror = mirror();
    let small = "suite = \"SUITE\"\ntarget = \"base\"\n";
    let large = "suite = \"SUITE\"\ntarget = \"base\"\npackages = [\"application\"]\n";
    succeed(&mut build(&mirror, "small", small));
    succeed(&mut build(&mirror, "large", large));
    let layers = |name: &str| -> Vec<String> {
        let shown = text(&succeed(&mut knarr(&mirror, &["image", "history", name, "--no-trunc"])).stdout);
        shown
            .lines()
            .rev()
            .filter(|line| !line.starts_with("LAYER"))
            .map(|line| line[..12].to_owned())
            .collect()
    };
    let (small, large) = (layers("small"), layers("large"));
    assert_eq!(small[0], large[0]);
    assert!(large.len() > 2 && small.len() >= 2);
    assert!(succeed(&mut knarr(&mirror, &["image", "check"])).stdout.is_empty());
}

#[test]
fn what_changed_is_built_and_nothing_else() {
    needs_root!();
    let mirror = mirror();
    let recipe = format!("{PRODUCTION}\n[[run]]\ncommand = \"echo made > /made\"\n");
    let said = |recipe: &str| text(&succeed(&mut build(&mirror, "app", recipe)).stderr);
    assert!(said(&recipe).contains("running echo"));
    let known = said(&recipe);
    assert!(
        !known.contains("running") && !known.contains("unpacking") && !known.contains("verifying"),
        "{known}"
    );
    let changed = said(&recipe.replace("answer = 42", "answer = 43"));
    assert!(changed.contains("running echo") && !changed.contains("unpacking"), "{changed}");
    let meta = said(&recipe.replace("ports = [\"80\"]", "ports = [\"81\"]"));
    assert!(!meta.contains("running") && !meta.contains("unpacking"), "{meta}");
}

#[test]
fn a_stage_makes_what_another_takes() {
    needs_root!();
    let mirror = mirror();
    let recipe = r#"
suite = "SUITE"
[stage.build]
[[stage.build.run]]
command = "mkdir /out && cat /etc/base.conf > /out/result && touch /secret"
[stage.unused]
packages = ["no-such-package"]
[[copy]]
stage = "build"
from = "/out/result"
path = "/result"
owner = "65532:65532"
[production]
mode = "scratch"
"#;
    succeed(&mut build(&mirror, "scratch", recipe));
    let listing = files(&mirror, "scratch");
    assert_eq!(listing.lines().count(), 1, "{listing}");
    assert!(listing.contains("65532:65532         10 /result"), "{listing}");
    let circle = recipe
        .replace("[stage.unused]", "[[stage.build.copy]]\nstage = \"build\"\nfrom = \"/x\"\n[stage.unused]");
    assert!(fail(&mut build(&mirror, "circle", &circle), 83).contains("it needs itself: build -> build"));
    let missing = recipe.replace("from = \"/out/result\"", "from = \"/nothing\"");
    assert!(fail(&mut build(&mirror, "missing", &missing), 83).contains("it has no \"/nothing\""));
}

#[test]
fn an_image_that_breaks_its_promise_gets_no_name() {
    needs_root!();
    let mirror = mirror();
    let broken = format!(
        "drop = [\"/usr/lib/library.so\"]\n{PRODUCTION}\n[[verify]]\ncommand = [\"/usr/bin/cat\", \"/usr/lib/library.so\"]\n"
    );
    let said = fail(&mut build(&mirror, "app", &broken), 82);
    assert!(said.contains("missing: /usr/lib/library.so (package library)"), "{said}");
    fail(&mut knarr(&mirror, &["image", "inspect", "app"]), 84);
    succeed(build(&mirror, "app", &broken).arg("--no-verify"));
    let wrong = PRODUCTION.replace("uid=1234", "uid=4321");
    assert!(fail(&mut build(&mirror, "wrong", &wrong), 82).contains("lacks \"uid=4321\""));
    let failing = format!("{PRODUCTION}\n[[run]]\ncommand = \"echo it breaks; false\"\n");
    assert!(fail(&mut build(&mirror, "failing", &failing), 81).contains("it breaks"));
}

#[test]
fn bad_recipes_are_explained() {
    needs_root!();
    let mirror = mirror();
    let base = "suite = \"SUITE\"\npackages = [\"base-files-\", \"base\"]\n[production]\n";
    let outside = mirror.path("outside");
    fs::write(&outside, "secret").unwrap();
    fs::create_dir(mirror.path("context")).unwrap();
    std::os::unix::fs::symlink(&outside, mirror.path("context/link")).unwrap();
    for (name, recipe, status, expected) in [
        (
            "key",
            "siute = \"x\"\n".to_owned(),
            80,
            "key.toml:1:1: there is no key \"siute\"; did you mean \"suite\"?",
        ),
        ("type", "packages = \"x\"\n".to_owned(), 80, "type.toml:1:12"),
        ("package", base.replace("\"base\"", "\"bsae\""), 16, "bsae"),
        ("suite", base.replace("SUITE", "trixei"), 30, "trixie"),
        (
            "file",
            format!("[[file]]\npath = \"/x\"\nfrom = \"none\"\n{base}").replace("[production]", ""),
            83,
            "none",
        ),
        ("link", format!("{base}[[file]]\npath = \"/x\"\nfrom = \"link\"\n"), 83, "out of the context"),
        (
            "user",
            format!("{base}[[file]]\npath = \"/x\"\ntext = \"\"\nowner = \"who\"\n"),
            83,
            "there is no user \"who\"",
        ),
        ("zone", format!("timezone = \"Mars/Base\"\n{base}"), 16, "tzdata"),
        ("nothing", "[production]\n".to_owned(), 83, "names no suite"),
        ("base", "extends = \"prod-bas\"\n".to_owned(), 80, "did you mean prod-base"),
    ] {
        let mut recipe = recipe;
        if name == "file" {
            recipe = format!("{base}[[file]]\npath = \"/x\"\nfrom = \"none\"\n");
        }
        let mut command = build(&mirror, name, &recipe);
        command.arg("--context").arg(mirror.path("context"));
        let said = fail(&mut command, status);
        assert!(said.contains(expected), "{name}: {said}");
    }
    assert!(fail(&mut knarr(&mirror, &["build", "no-such"]), 1).contains("knarr recipe ls"));
}

#[test]
fn what_is_no_file_is_refused_and_not_left_out() {
    needs_root!();
    let mirror = mirror();
    fs::create_dir_all(mirror.path("context/things/inside")).unwrap();
    for pipe in ["context/pipe", "context/things/inside/pipe"] {
        succeed(Command::new("mkfifo").arg(mirror.path(pipe)));
    }
    let _socket = std::os::unix::net::UnixListener::bind(mirror.path("context/socket")).unwrap();
    for (from, expected) in [
        ("pipe", "\"pipe\": it is a named pipe"),
        ("things", "\"things/inside/pipe\": it is a named pipe"),
        ("socket", "\"socket\": it is a socket"),
    ] {
        let recipe = format!(
            "suite = \"SUITE\"\npackages = [\"base-files-\", \"base\"]\n[production]\n[[file]]\npath = \"/x\"\nfrom = \"{from}\"\n"
        );
        let mut command = build(&mirror, "app", &recipe);
        let said = fail(command.arg("--context").arg(mirror.path("context")), 83);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_user_without_a_number_leaves_others_theirs() {
    needs_root!();
    let mirror = mirror();
    let recipe = "suite = \"SUITE\"\npackages = [\"base-files-\", \"base\"]\n[production]\n[[user]]\nname = \"free\"\n\
        [[user]]\nname = \"fixed\"\nuid = 1000\n";
    digest(&mut build(&mirror, "app", recipe));
    let exported = succeed(&mut knarr(&mirror, &["export", "app"])).stdout;
    let mut passwd = String::new();
    for entry in tar::Archive::new(exported.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("etc/passwd") {
            std::io::Read::read_to_string(&mut entry, &mut passwd).unwrap();
        }
    }
    assert!(passwd.contains("fixed:x:1000:") && passwd.contains("free:x:1001:"), "{passwd}");
}

#[test]
fn archives_go_to_other_tools_and_back() {
    needs_root!();
    let mirror = mirror();
    let built = digest(&mut build(&mirror, "app", PRODUCTION));
    let archive = mirror.path("app.tar");
    succeed(knarr(&mirror, &["save", "app", "-o"]).arg(&archive));
    let load = |archive: &Path, store: &str| {
        succeed(knarr(&mirror, &["load", "-i"]).arg(archive).env("KNARR_STORE", mirror.path(store)));
        let shown = succeed(
            knarr(&mirror, &["images", "--format", "{{.Digest}} {{.Repository}}:{{.Tag}}"])
                .env("KNARR_STORE", mirror.path(store)),
        );
        text(&shown.stdout)
    };
    assert_eq!(load(&archive, "two"), format!("{built} app:latest\n"));
    succeed(knarr(&mirror, &["save", "app", "--format", "docker", "-o"]).arg(mirror.path("app.tar.gz")));
    assert!(load(&mirror.path("app.tar.gz"), "three").ends_with(" app:latest\n"));
    if Command::new("skopeo").arg("--version").output().is_err() {
        return crate::support::skipped("skopeo is not installed");
    }
    let store = format!("oci:{}:docker.io/library/app:latest", mirror.path("store").display());
    let out = format!("docker-archive:{}:app:latest", mirror.path("skopeo.tar").display());
    succeed(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &store, &out]));
    assert!(load(&mirror.path("skopeo.tar"), "four").ends_with(" app:latest\n"));
    let shown = succeed(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &store]));
    assert_eq!(text(&shown.stdout).trim(), built);
}

#[test]
fn roots_come_in_and_go_out_as_tarballs() {
    needs_root!();
    let mirror = mirror();
    succeed(&mut build(&mirror, "app", PRODUCTION));
    let tar = mirror.path("root.tar.zst");
    succeed(knarr(&mirror, &["export", "app", "-o"]).arg(&tar));
    succeed(knarr(&mirror, &["import"]).arg(&tar).args(["copy:1", "-c", "CMD [\"sh\"]", "-c", "ENV A=b"]));
    assert_eq!(text(&succeed(&mut knarr(&mirror, &["image", "diff", "app", "copy:1"])).stdout), "");
    let shown = text(&succeed(&mut knarr(&mirror, &["image", "inspect", "copy:1"])).stdout);
    assert!(shown.contains("\"A=b\"") && shown.contains("\"sh\""), "{shown}");
    let mount = mirror.path("mount");
    fs::create_dir(&mount).unwrap();
    succeed(knarr(&mirror, &["image", "mount", "app"]).arg(&mount));
    let seen = fs::read_to_string(mount.join("etc/worker.conf"));
    succeed(knarr(&mirror, &["image", "unmount"]).arg(&mount));
    assert_eq!(seen.unwrap(), "answer = 42");
}

#[test]
fn names_come_and_go() {
    needs_root!();
    let mirror = mirror();
    succeed(&mut build(&mirror, "app", PRODUCTION));
    succeed(&mut knarr(&mirror, &["tag", "app", "registry.example:5000/team/app:1"]));
    let names =
        || text(&succeed(&mut knarr(&mirror, &["images", "--format", "{{.Repository}}:{{.Tag}}"])).stdout);
    assert_eq!(names().lines().count(), 2);
    assert!(text(&succeed(&mut knarr(&mirror, &["rmi", "app"])).stdout).contains("Untagged: app:latest"));
    assert_eq!(names(), "registry.example:5000/team/app:1\n");
    // One that is not there does not keep the others.
    fail(&mut knarr(&mirror, &["rmi", "nope", "registry.example:5000/team/app:1"]), 84);
    assert_eq!(fs::read_dir(mirror.path("store/blobs/sha256")).unwrap().count(), 0);
    assert!(fail(&mut knarr(&mirror, &["rmi", "app"]), 84).contains("there is no image app"));
}

#[test]
fn recipes_are_listed_shown_begun_and_checked() {
    let mirror = Mirror::new();
    let listed = text(&succeed(&mut knarr(&mirror, &["recipe", "ls"])).stdout);
    assert!(listed.contains("prod-nginx") && listed.contains("dev-rust"), "{listed}");
    succeed(knarr(&mirror, &["recipe", "init"]).arg(mirror.path("new.toml")));
    succeed(
        knarr(&mirror, &["recipe", "check"]).arg(mirror.path("new.toml")).args(["prod-nginx", "dev-full"]),
    );
    let merged =
        text(&succeed(knarr(&mirror, &["recipe", "show", "--merged"]).arg(mirror.path("new.toml"))).stdout);
    assert!(merged.contains("certificates = true"), "{merged}");
    assert!(
        text(&succeed(&mut knarr(&mirror, &["recipe", "schema"])).stdout).contains("additionalProperties")
    );
}

const SLIM: &str = r#"
suite = "SUITE"
packages = ["base-files-", "base", "application"]

[image]
entrypoint = ["/usr/bin/application"]
env = { PATH = "/usr/bin" }

[production]
mode = "slim"

[[verify]]
command = ["/usr/bin/application"]
expect = "running"
"#;

fn paths(mirror: &Mirror, image: &str) -> Vec<String> {
    let listing = files(mirror, image);
    let path = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    listing.lines().filter_map(path).collect()
}

#[test]
fn a_slim_image_has_what_its_program_reaches_and_nothing_else() {
    needs_root!();
    let mirror = mirror();
    let one = digest(&mut build(&mirror, "app", SLIM));
    assert_eq!(one, digest(build(&mirror, "app", SLIM).arg("--fresh")));
    let other = digest(
        build(&mirror, "app", SLIM)
            .env("KNARR_STORE", mirror.path("two"))
            .env("KNARR_CACHE_DIR", mirror.path("cache2")),
    );
    assert_eq!(one, other);
    let left: Vec<String> = paths(&mirror, "app");
    let in_programs: Vec<&str> = left.iter().filter_map(|path| path.strip_prefix("/usr/bin/")).collect();
    // The script names `echo`, which the shell has in itself: busybox has no link of that name here.
    assert_eq!(in_programs, ["application", "busybox", "sh"]);
    for path in ["/bin", "/tmp", "/etc/passwd", "/etc/nsswitch.conf", "/var/lib/dpkg/status.d/base"] {
        assert!(left.iter().any(|known| known == path), "{path}: {left:?}");
    }
    for path in
        ["/usr/lib/library.so", "/etc/base.conf", "/usr/share/things", "/var/lib/dpkg/status.d/library"]
    {
        assert!(!left.iter().any(|known| known == path), "{path}: {left:?}");
    }
    let explained = text(&succeed(build(&mirror, "app", SLIM).arg("--explain")).stdout);
    let chain = "/usr/bin/busybox <- the link leads there: /usr/bin/sh <- it runs the script: /usr/bin/application <- the image runs it";
    assert!(explained.contains(chain), "{explained}");
}

#[test]
fn keeps_are_kept_and_drops_are_dropped_in_slim_images() {
    needs_root!();
    let mirror = mirror();
    let recipe = SLIM.replace(
        "mode = \"slim\"",
        "mode = \"slim\"\nkeep = [\"/usr/lib/*.so\", \"/usr/share/things\"]\ndrop = [\"/etc/base.*\"]",
    );
    let recipe = recipe.replace(
        "[image]",
        "[[file]]\npath = \"/etc/own.conf\"\ntext = \"see /usr/bin/cat and /etc/base.conf\"\n\n[image]",
    );
    succeed(&mut build(&mirror, "app", &recipe));
    let left = paths(&mirror, "app");
    for path in [
        "/usr/lib/library.so",
        "/usr/share/things/one",
        "/etc/own.conf",
        "/usr/bin/cat",
        "/var/lib/dpkg/status.d/library",
    ] {
        assert!(left.iter().any(|known| known == path), "{path}: {left:?}");
    }
    assert!(!left.iter().any(|path| path == "/etc/base.conf"), "{left:?}");
}

#[test]
fn a_broken_slim_image_names_file_and_package_and_can_be_fixed() {
    needs_root!();
    let mirror = mirror();
    let recipe = format!(
        "{SLIM}\n[[verify]]\ncommand = [\"/usr/bin/busybox\", \"cat\", \"/usr/share/things/one\", \"/usr/lib/library.so\"]\nexpect = \"library\"\n"
    );
    let said = fail(&mut build(&mirror, "app", &recipe), 82);
    assert!(said.contains("missing: /usr/share/things/one (package application)"), "{said}");
    assert!(said.contains("missing: /usr/lib/library.so (package library)"), "{said}");
    fail(&mut knarr(&mirror, &["image", "inspect", "app"]), 84);
    let fixed = succeed(build(&mirror, "app", &recipe).arg("--fix"));
    let said = text(&fixed.stderr);
    let proposed = "[production]\nkeep = [\n    \"/usr/lib/library.so\",\n    \"/usr/share/things/one\",\n]";
    assert!(said.contains(proposed), "{said}");
    assert!(!fs::read_to_string(mirror.path("app.toml")).unwrap().contains("keep"));
    succeed(build(&mirror, "app", &recipe).arg("--fix=write"));
    let written = fs::read_to_string(mirror.path("app.toml")).unwrap();
    assert!(written.contains("mode = \"slim\"\nkeep = [\n    \"/usr/lib/library.so\","), "{written}");
    let mut again = knarr(&mirror, &["build"]);
    again
        .arg(mirror.path("app.toml"))
        .args(["--mirror", &mirror.url, "--keyring"])
        .arg(mirror.path("key.gpg"));
    assert_eq!(digest(&mut again), text(&fixed.stdout).trim());
    let hopeless = SLIM.replace("expect = \"running\"", "expect = \"flying\"");
    assert!(fail(build(&mirror, "app", &hopeless).arg("--fix"), 82).contains("lacks \"flying\""));
}

#[test]
fn a_static_program_alone_weighs_little_more_than_itself() {
    needs_root!();
    let mut mirror = mirror();
    let certificate =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(220_000));
    mirror.debs.push(Deb::new("ca-certificates", "").file("usr/share/ca-certificates/", 0o755, "").file(
        "usr/share/ca-certificates/one.crt",
        0o644,
        certificate,
    ));
    mirror.publish();
    let program = fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox")).unwrap();
    let recipe = "suite = \"SUITE\"\npackages = [\"base-files-\", \"base\"]\ncertificates = true\n[image]\nentrypoint = [\"/usr/bin/busybox\"]\n[production]\nmode = \"slim\"\n";
    succeed(&mut build(&mirror, "app", recipe));
    let listing = files(&mirror, "app");
    assert!(
        listing.contains("/etc/ssl/certs/ca-certificates.crt") && !listing.contains("/usr/bin/sh"),
        "{listing}"
    );
    let sizes = listing.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<usize>().ok());
    let more = sizes.sum::<usize>() - program.len();
    assert!(more <= 300_000, "{more} bytes more than the program\n{listing}");
}

#[test]
fn tools_are_lent_to_a_test_and_not_shipped() {
    needs_root!();
    let mut mirror = mirror();
    let busybox = fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox")).unwrap();
    mirror.debs.push(Deb::new("busybox-static", "").file("usr/bin/", 0o755, "").file(
        "usr/bin/busybox",
        0o755,
        busybox,
    ));
    mirror.publish();
    let recipe = r#"
suite = "SUITE"
packages = ["base-files-", "library"]
[[file]]
path = "/data"
text = "shipped\n"
[production]
[[verify]]
command = "test ! -e /bin/sh && test ! -w /data && read word < /data && echo $word | sed s/shipped/tested/"
expect = "tested"
tools = true
"#;
    succeed(&mut build(&mirror, "app", recipe));
    let listing = files(&mirror, "app");
    assert!(!listing.contains("busybox") && !listing.contains(".knarr"), "{listing}");
    let without = recipe.replace("tools = true", "");
    assert!(fail(&mut build(&mirror, "app", &without), 82).contains("cannot run /bin/sh"));
}
