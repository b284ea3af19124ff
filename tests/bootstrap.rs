//! What a bootstrap makes, from the fixture mirror.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::{Mirror, fail, listing, needs_root, succeed};

#[test]
fn a_directory_has_files_scripts_and_database() {
    needs_root!();
    let mirror = Mirror::new();
    succeed(mirror.bootstrap("root").args(["--variant", "essential", "--include", "application"]));
    let root = mirror.path("root");
    assert_eq!(fs::read_link(root.join("bin")).unwrap().to_str(), Some("usr/bin"));
    assert_eq!(fs::read_to_string(root.join("var/log/order")).unwrap(), "preinst\nlibrary\napplication\n");
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    assert_eq!(status.matches("Status: install ok installed").count(), 3, "{status}");
    assert!(status.contains(" /etc/base.conf 6a6ea8a8") || status.contains(" /etc/base.conf "), "{status}");
    assert_eq!(fs::metadata(root.join("usr/bin/application")).unwrap().permissions().mode() & 0o7777, 0o4755);
    assert!(!root.join("usr/sbin/policy-rc.d").exists());
    assert_eq!(fs::metadata(root.join("dev/null")).unwrap().rdev(), 0x103);
    assert!(
        fs::read_to_string(root.join("var/lib/dpkg/info/library.list"))
            .unwrap()
            .contains("/usr/lib/library.so\n")
    );
    let verify = Command::new("dpkg").arg("--root").arg(&root).arg("--audit").output().unwrap();
    assert!(verify.status.success() && verify.stdout.is_empty(), "{verify:?}");
}

#[test]
fn two_runs_of_one_lock_give_the_same_bytes_in_every_format() {
    needs_root!();
    let mirror = Mirror::new();
    for target in ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst", "a.squashfs", "a.ext4", "oci-archive:a.oci"]
    {
        let run = |name: &str| {
            let mut command = mirror.bootstrap(&target.replace("a.", &format!("{name}.")));
            succeed(
                command
                    .args(["--variant", "essential", "--include", "application", "--lock"])
                    .arg(mirror.path("lock")),
            );
            let file = target.rsplit(':').next().unwrap().replace("a.", &format!("{name}."));
            fs::read(mirror.path(&file)).unwrap()
        };
        assert!(run("one") == run("two"), "{target}");
    }
    let names: Vec<String> = listing(&mirror.path("one.tar")).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"./dev/null".to_owned()) && names.contains(&"./usr/bin/application".to_owned()));
    assert!(names.is_sorted_by_key(|name| name.trim_end_matches('/').replace('/', "\0")), "{names:?}");
}

#[test]
fn an_ext4_image_passes_its_own_check_and_holds_the_files() {
    needs_root!();
    let mirror = Mirror::new();
    succeed(mirror.bootstrap("root.ext4").args(["--variant", "essential"]));
    succeed(Command::new("e2fsck").arg("-fn").arg(mirror.path("root.ext4")));
    let passwd =
        succeed(Command::new("debugfs").args(["-R", "cat /etc/passwd"]).arg(mirror.path("root.ext4"))).stdout;
    assert!(passwd.starts_with(b"root:"));
}

#[test]
fn an_image_layout_is_complete_and_its_blobs_are_what_they_say() {
    needs_root!();
    let mirror = Mirror::new();
    succeed(mirror.bootstrap("oci:image").args(["--variant", "essential"]));
    let blobs = mirror.path("image/blobs/sha256");
    let mut count = 0;
    for entry in fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let sum = succeed(Command::new("sha256sum").arg(&path)).stdout;
        assert!(String::from_utf8(sum).unwrap().starts_with(path.file_name().unwrap().to_str().unwrap()));
        count += 1;
    }
    assert_eq!(count, 3, "layer, config, manifest");
    assert!(mirror.path("image/oci-layout").exists() && mirror.path("image/index.json").exists());
}

#[test]
fn standard_output_carries_the_tarball_and_nothing_else() {
    needs_root!();
    let mirror = Mirror::new();
    let output = succeed(mirror.bootstrap("-").args([
        "--variant",
        "essential",
        "--hook-customize",
        "echo a hook speaks",
    ]));
    fs::write(mirror.path("out.tar"), &output.stdout).unwrap();
    assert!(listing(&mirror.path("out.tar")).iter().any(|(name, _)| name == "./etc/passwd"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a hook speaks"));
}

#[test]
fn hooks_run_where_and_when_they_should() {
    needs_root!();
    let mirror = Mirror::new();
    fs::write(mirror.path("in"), "carried").unwrap();
    let mut command = mirror.bootstrap("root");
    command.args(["--variant", "essential"]);
    command.arg("--hook-setup").arg("test -d \"$1\" && touch \"$1/setup\"");
    command.arg("--hook-extract").arg("run echo unpacked > /extract");
    command.arg("--hook-essential").arg("run cat /etc/passwd > /essential");
    command.arg("--hook-customize").arg(format!("upload {} /etc/uploaded", mirror.path("in").display()));
    command.arg("--hook-customize").arg(format!("copy-in {} /usr", mirror.path("in").display()));
    command.arg("--hook-customize").arg(format!("download /etc/passwd {}", mirror.path("out").display()));
    succeed(&mut command);
    for (path, content) in [
        ("root/etc/uploaded", "carried"),
        ("root/usr/in", "carried"),
        ("root/setup", ""),
        ("root/extract", "unpacked\n"),
    ] {
        assert_eq!(fs::read_to_string(mirror.path(path)).unwrap(), content, "{path}");
    }
    assert!(fs::read_to_string(mirror.path("out")).unwrap().starts_with("root:"));
    assert!(fs::read_to_string(mirror.path("root/essential")).unwrap().starts_with("root:"));
}

#[test]
fn a_lock_is_obeyed_and_locked_refuses_to_differ() {
    needs_root!();
    let mut mirror = Mirror::new();
    let lock = mirror.path("knarr.lock");
    succeed(mirror.bootstrap("one.tar").args(["--variant", "essential", "--lock"]).arg(&lock));
    let before = fs::read_to_string(&lock).unwrap();
    mirror.debs[0].files.push(("etc/new".to_owned(), 0o644, b"new".to_vec()));
    mirror.publish();
    succeed(mirror.bootstrap("two.tar").args(["--variant", "essential", "--lock"]).arg(&lock));
    assert_eq!(fs::read_to_string(&lock).unwrap(), before);
    assert!(fs::read(mirror.path("one.tar")).unwrap() == fs::read(mirror.path("two.tar")).unwrap());
    let text = fail(
        mirror.bootstrap("three.tar").args(["--variant", "essential", "--locked", "--lock"]).arg(&lock),
        17,
    );
    assert!(text.contains("base 1.0 (other bytes)"), "{text}");
}

#[test]
fn the_cache_serves_offline_and_a_simulation_makes_nothing() {
    needs_root!();
    let mirror = Mirror::new();
    succeed(mirror.bootstrap("gone").args(["--variant", "essential", "--download-only"]));
    mirror.files.lock().unwrap().clear();
    succeed(mirror.bootstrap("root").args(["--variant", "essential", "--offline"]));
    let listed =
        succeed(mirror.bootstrap("gone").args(["--variant", "essential", "--offline", "--dry-run"])).stdout;
    assert_eq!(String::from_utf8(listed).unwrap(), "base 1.0 amd64\n");
    assert!(!mirror.path("gone").exists());
}

#[test]
fn excluded_paths_stay_out_and_their_directories_stay() {
    needs_root!();
    let mirror = Mirror::new();
    let mut command = mirror.bootstrap("root");
    succeed(command.args([
        "--variant",
        "essential",
        "--include",
        "application",
        "--path-exclude",
        "/usr/share/things/*",
    ]));
    assert!(mirror.path("root/usr/share/things").is_dir());
    assert!(!mirror.path("root/usr/share/things/one").exists());
}

#[test]
fn what_was_made_before_is_not_made_again() {
    needs_root!();
    let mirror = Mirror::new();
    let run = |target: &str, more: &[&str]| {
        let mut command = mirror.bootstrap(target);
        command.args(["--variant", "essential", "--lock"]).arg(mirror.path("lock")).args(more);
        String::from_utf8(succeed(&mut command).stderr).unwrap()
    };
    assert!(run("oci:one", &[]).contains("unpacking"));
    assert!(!run("oci:two", &[]).contains("unpacking"));
    assert!(!run("oci-archive:three.oci", &[]).contains("unpacking"));
    assert!(run("oci:four", &["--fresh"]).contains("unpacking"));
    assert!(run("oci:five", &["--path-exclude", "/usr/share/doc/*"]).contains("unpacking"));
    assert!(run("oci:six", &["--hook-customize", "run true"]).contains("unpacking"));
    for other in ["two", "four"] {
        succeed(Command::new("diff").arg("-r").arg(mirror.path("one")).arg(mirror.path(other)));
    }
    succeed(Command::new("tar").arg("xf").arg(mirror.path("three.oci")).arg("-C").arg(mirror.path("two")));
    succeed(Command::new("diff").arg("-r").arg(mirror.path("one")).arg(mirror.path("two")));
}

#[test]
fn pins_forbid_packages_and_order_suites() {
    needs_root!();
    let mirror = Mirror::new();
    let with = |pin: &str| {
        let mut command = mirror.bootstrap("root");
        command.args(["--dry-run", "--variant", "essential", "--include", "application", "--pin", pin]);
        command
    };
    assert!(fail(&mut with("application=-1"), 16).contains("application"));
    succeed(&mut with("test=900"));
    assert!(fail(&mut with("application"), 2).contains("NAME=PRIORITY"));
}
