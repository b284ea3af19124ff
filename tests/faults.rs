//! Attacks and faults: each ends in a clear error with its own status, leaves nothing, and the next run succeeds.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tar::EntryType;

use crate::support::{Deb, Fault, Mirror, date, fail, needs_root, raw_tarball, succeed};

/// Breaks the mirror, sees the error, mends the mirror, sees success.
fn check(break_it: impl FnOnce(&mut Mirror), arguments: &[&str], status: i32, expected: &str) {
    needs_root!();
    let mut mirror = Mirror::new();
    break_it(&mut mirror);
    let text = fail(mirror.bootstrap("root").args(["--variant", "essential"]).args(arguments), status);
    assert!(text.contains(expected), "expected {expected:?} in:\n{text}");
    let incomplete = mirror.path("root.incomplete");
    if incomplete.exists() {
        assert!(incomplete.join("INCOMPLETE").exists());
        fs::remove_dir_all(incomplete).unwrap();
    }
    mirror.assert_clean("root");
    let mended = Mirror::new();
    succeed(
        mended
            .bootstrap("root")
            .env("KNARR_CACHE_DIR", mirror.path("cache2"))
            .args(["--variant", "essential"]),
    );
    assert!(mended.path("root/etc/passwd").exists());
}

fn edit_release(mirror: &mut Mirror, from: &str, to: &str) {
    mirror.release_edits.push((from.to_owned(), to.to_owned()));
    mirror.publish();
}

fn add(mirror: &mut Mirror, deb: Deb) {
    mirror.debs.push(deb);
    mirror.publish();
}

fn hostile(mirror: &mut Mirror, entries: &[(&str, EntryType, &str, &[u8])]) {
    let deb = Deb { data: Some(raw_tarball(entries)), ..Deb::new("hostile", "Essential: yes\n") };
    add(mirror, deb);
}

#[test]
fn a_changed_text_has_a_bad_signature() {
    let change = |mirror: &mut Mirror| {
        mirror.edit("InRelease", |bytes| {
            let at = bytes.windows(7).position(|window| window == b"Fixture").unwrap();
            bytes[at] = b'f';
        });
    };
    check(change, &[], 32, "changed after it was signed");
}

#[test]
fn a_foreign_key_is_refused() {
    let sign = |mirror: &mut Mirror| {
        mirror.make_key("other", "Somebody Else <else@example.org>", "never");
        mirror.publish_signed("other", &[]);
    };
    check(sign, &[], 33, "which the keyring does not hold");
}

#[test]
fn an_expired_key_is_refused() {
    let sign = |mirror: &mut Mirror| {
        mirror.make_key("old", "Old Archive <old@example.org>", "1y");
        mirror.publish_signed("old", &["--faked-system-time", "20200601T000000"]);
        fs::copy(mirror.path("old.gpg"), mirror.path("key.gpg")).unwrap();
    };
    check(sign, &[], 34, "expired");
}

#[test]
fn a_revoked_key_is_refused() {
    let revoke = |mirror: &mut Mirror| {
        let certificates = fs::read_dir(mirror.path("key/openpgp-revocs.d")).unwrap();
        let path = certificates.map(|entry| entry.unwrap().path()).next().unwrap();
        // gpg puts a colon before the block so that nobody imports it by mistake.
        let text = fs::read_to_string(path).unwrap().replace(":-----BEGIN", "-----BEGIN");
        fs::write(mirror.path("revocation"), text).unwrap();
        let gpg = |arguments: &[&str]| {
            let mut command = Command::new("gpg");
            command.arg("--homedir").arg(mirror.path("key")).args(["--batch", "--quiet"]).args(arguments);
            succeed(command.current_dir(mirror.dir.path()))
        };
        gpg(&["--import", "revocation"]);
        fs::write(mirror.path("key.gpg"), gpg(&["--export"]).stdout).unwrap();
    };
    check(revoke, &[], 35, "revoked");
}

#[test]
fn a_weak_hash_is_refused() {
    let sign = |mirror: &mut Mirror| {
        mirror.publish_signed(
            "key",
            &["--digest-algo", "SHA1", "--allow-weak-digest-algos", "--weak-digest", "MD5"],
        );
    };
    check(sign, &[], 36, "proves nothing");
}

#[test]
fn an_unsigned_release_is_refused() {
    let strip = |mirror: &mut Mirror| {
        mirror.fault("InRelease", Fault::NotFound);
        mirror.fault("Release.gpg", Fault::NotFound);
    };
    check(strip, &[], 37, "no signature");
}

#[test]
fn text_outside_the_signature_is_refused() {
    check(
        |mirror| mirror.edit("InRelease", |bytes| bytes.splice(0..0, *b"Suite: evil\n").for_each(drop)),
        &[],
        37,
        "before the signed text",
    );
    check(
        |mirror| mirror.edit("InRelease", |bytes| bytes.extend(b"Suite: evil\n")),
        &[],
        37,
        "behind the signature",
    );
}

#[test]
fn an_expired_release_is_refused_unless_asked_for() {
    let expire = |mirror: &mut Mirror| {
        let text = format!("Architectures: amd64\nValid-Until: {}\n", date(-3600));
        edit_release(mirror, "Architectures: amd64\n", &text);
    };
    check(expire, &[], 38, "--insecure-allow-expired");
    needs_root!();
    let mut mirror = Mirror::new();
    expire(&mut mirror);
    succeed(mirror.bootstrap("root").args(["--variant", "essential", "--insecure-allow-expired"]));
}

#[test]
fn an_older_release_than_one_seen_before_is_refused() {
    let roll_back = |mirror: &mut Mirror| {
        succeed(mirror.bootstrap("first.tar").args(["--variant", "essential"]));
        fs::remove_file(mirror.path("first.tar")).unwrap();
        edit_release(mirror, &date(0)[..16], &date(-90_000)[..16]);
    };
    check(roll_back, &[], 39, "was seen before");
}

#[test]
fn a_release_from_the_future_is_refused() {
    check(|mirror| edit_release(mirror, &date(0)[..16], &date(172_800)[..16]), &[], 40, "clock");
}

#[test]
fn a_release_of_another_suite_is_refused() {
    check(
        |mirror| edit_release(mirror, "Suite: test\nCodename: test", "Suite: other\nCodename: another"),
        &[],
        41,
        "expected \"test\"",
    );
}

#[test]
fn missing_components_and_architectures_are_told() {
    check(|_| {}, &["--components", "main,contrib"], 42, "contrib");
    check(|_| {}, &["--arch", "arm64"], 43, "arm64");
}

#[test]
fn release_files_without_strong_sums_are_refused() {
    check(|mirror| edit_release(mirror, "SHA256:", "MD5Sum:"), &[], 45, "SHA256");
}

#[test]
fn a_swapped_index_is_refused() {
    let swap = |mirror: &mut Mirror| {
        mirror.edit("by-hash", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    };
    needs_root!();
    let mut mirror = Mirror::new();
    swap(&mut mirror);
    let output = mirror.bootstrap("root").args(["--variant", "essential"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(45 | 46)), "{output:?}");
    mirror.assert_clean("root");
}

#[test]
fn a_truncated_and_an_endless_index_are_refused() {
    check(
        |mirror| {
            mirror.edit("by-hash", |bytes| bytes.truncate(bytes.len() - 8));
            mirror.fault("Packages.xz", Fault::NotFound);
        },
        &[],
        48,
        "promised were",
    );
    check(|mirror| mirror.fault("by-hash", Fault::Endless), &[], 47, "longer than");
}

#[test]
fn a_swapped_deb_is_refused() {
    let swap = |mirror: &mut Mirror| {
        mirror.edit("base_1.0", |bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        });
    };
    check(swap, &[], 46, "promised was");
}

#[test]
fn a_deb_that_is_another_package_is_refused() {
    let swap = |mirror: &mut Mirror| {
        let lock = mirror.path("lock");
        succeed(mirror.bootstrap("first.tar").args(["--variant", "essential", "--lock"]).arg(&lock));
        fs::remove_file(mirror.path("first.tar")).unwrap();
        let text = fs::read_to_string(&lock).unwrap().replace("version = \"1.0\"", "version = \"2.0\"");
        fs::write(&lock, text).unwrap();
    };
    needs_root!();
    let mut mirror = Mirror::new();
    swap(&mut mirror);
    let text = fail(
        mirror.bootstrap("root").args(["--variant", "essential", "--lock"]).arg(mirror.path("lock")),
        18,
    );
    assert!(text.contains("promises base 2.0 amd64"), "{text}");
}

#[test]
fn truncated_and_endless_debs_are_refused() {
    check(|mirror| mirror.fault("base_1.0", Fault::CutAlways), &[], 51, "base_1.0");
    check(|mirror| mirror.fault("base_1.0", Fault::Endless), &[], 47, "longer than");
}

#[test]
fn a_missing_deb_and_a_stalled_one_are_told() {
    check(|mirror| mirror.fault("base_1.0", Fault::NotFound), &[], 49, "404");
    check(
        |mirror| mirror.fault("base_1.0", Fault::Stall),
        &["--timeout", "1s", "--retries", "0"],
        50,
        "nothing came for 1 seconds",
    );
}

#[test]
fn a_cut_connection_is_resumed() {
    needs_root!();
    let mirror = Mirror::new();
    mirror.fault("base_1.0", Fault::CutOnce);
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
}

#[test]
fn nobody_listening_is_told() {
    needs_root!();
    let mut mirror = Mirror::new();
    mirror.url = "http://127.0.0.1:1".to_owned();
    let text = fail(mirror.bootstrap("root").args(["--variant", "essential"]), 51);
    assert!(text.contains("hint"), "{text}");
}

#[test]
fn bombs_are_refused() {
    // An index that unpacks to more than its Release file says.
    let index = |mirror: &mut Mirror| {
        mirror.debs.push(Deb::new("long", &format!("Comment: {}\n", "x".repeat(50_000_000))));
        mirror.publish();
        let release = String::from_utf8(fs::read(mirror.path("Release")).unwrap()).unwrap();
        let line = release.lines().find(|line| line.ends_with("Packages")).unwrap().to_owned();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        edit_release(mirror, &line, &format!(" {} 1000 {}", words[0], words[2]));
    };
    check(index, &[], 47, "longer than");
    // A package of 15 kB that unpacks to 100 MB.
    let zeros = vec![0; 100 << 20];
    let package = |mirror: &mut Mirror| hostile(mirror, &[("zeros", EntryType::Regular, "", &zeros)]);
    check(package, &[], 18, "more than");
    // A control member that never ends.
    let control = |mirror: &mut Mirror| {
        add(mirror, Deb::new("control", "Essential: yes\n").script("config", &"#".repeat(70 << 20)));
    };
    check(control, &[], 18, "control");
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    use EntryType as T;
    check(|mirror| hostile(mirror, &[("../escape", T::Regular, "", b"x")]), &[], 18, "..");
    check(|mirror| hostile(mirror, &[("x", T::Link, "../../etc/passwd", b"")]), &[], 18, "..");
}

#[test]
fn a_link_out_of_the_root_leads_nowhere_outside() {
    use EntryType as T;
    needs_root!();
    let mut mirror = Mirror::new();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    hostile(&mut mirror, &[("out", T::Symlink, &target, b""), ("out/evil", T::Regular, "", b"x")]);
    let _ = mirror.bootstrap("root").args(["--variant", "essential"]).output().unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn two_packages_with_one_file_are_refused_unless_one_replaces_the_other() {
    check(
        |mirror| add(mirror, Deb::new("twin", "Essential: yes\n").file("etc/base.conf", 0o644, "mine")),
        &[],
        19,
        "both ship /etc/base.conf",
    );
    needs_root!();
    let mut mirror = Mirror::new();
    add(
        &mut mirror,
        Deb::new("heir", "Essential: yes\nReplaces: base\n").file("etc/base.conf", 0o644, "mine"),
    );
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
    assert_eq!(fs::read_to_string(mirror.path("root/etc/base.conf")).unwrap(), "mine");
    let list = fs::read_to_string(mirror.path("root/var/lib/dpkg/info/base.list")).unwrap();
    assert!(!list.contains("/etc/base.conf"), "{list}");
}

#[test]
fn a_failing_script_shows_its_package_step_and_output() {
    let deb = || {
        Deb::new("broken", "Essential: yes\n").script("postinst", "#!/bin/sh\necho it went wrong\nexit 3\n")
    };
    check(
        |mirror| add(mirror, deb()),
        &[],
        14,
        "postinst configure script of package broken ended with exit status 3; it printed:\nit went wrong",
    );
}

#[test]
fn a_hanging_script_is_ended() {
    let deb =
        || Deb::new("slow", "Essential: yes\n").script("postinst", "#!/bin/sh\nsleep 1000 &\nsleep 1000\n");
    check(|mirror| add(mirror, deb()), &["--script-timeout", "1s"], 14, "--script-timeout");
}

#[test]
fn scripts_have_no_network_and_see_no_other_process() {
    needs_root!();
    let mut mirror = Mirror::new();
    let script = "#!/bin/sh\nset -e\ncat /proc/net/dev > /net\nset -- /proc/[0-9]*\necho $# > /processes\n";
    add(&mut mirror, Deb::new("curious", "Essential: yes\n").script("postinst", script));
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
    let net = fs::read_to_string(mirror.path("root/net")).unwrap();
    assert_eq!(
        net.lines()
            .skip(2)
            .filter(|line| !line.trim_start().starts_with("lo:"))
            .filter(|line| line.contains("eth") || line.contains("en"))
            .count(),
        0,
        "{net}"
    );
    let processes: u32 = fs::read_to_string(mirror.path("root/processes")).unwrap().trim().parse().unwrap();
    assert!(processes <= 3, "{processes}");
}

#[test]
fn unknown_packages_and_impossible_ones_are_explained() {
    check(|_| {}, &["--include", "aplication"], 16, "similar are application");
    check(
        |mirror| add(mirror, Deb::new("needy", "Depends: library (>= 9)\n")),
        &["--include", "needy"],
        16,
        "needy depends on library (>= 9), but there is only library 1.0",
    );
}

#[test]
fn a_target_that_is_there_is_not_touched() {
    needs_root!();
    let mirror = Mirror::new();
    fs::create_dir(mirror.path("root")).unwrap();
    fs::write(mirror.path("root/precious"), "x").unwrap();
    fail(mirror.bootstrap("root").args(["--variant", "essential"]), 11);
    assert_eq!(fs::read_to_string(mirror.path("root/precious")).unwrap(), "x");
    fs::remove_file(mirror.path("root/precious")).unwrap();
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
}

/// A command with another around it, which is given it as its last words.
fn around(mirror: &Mirror, words: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(inner.get_program()).args(inner.get_args());
    command.env("KNARR_CACHE_DIR", mirror.path("cache")).env("no_proxy", "*").env_remove("http_proxy");
    command
}

#[test]
fn a_link_as_a_target_means_what_it_leads_to() {
    needs_root!();
    let mirror = Mirror::new();
    fs::create_dir(mirror.path("real")).unwrap();
    symlink("real", mirror.path("root")).unwrap();
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
    assert!(mirror.path("root").is_symlink() && mirror.path("real/etc/passwd").exists());
    symlink("nowhere", mirror.path("dangling")).unwrap();
    let text = fail(mirror.bootstrap("dangling").args(["--variant", "essential"]), 12);
    assert!(text.contains("cannot follow the link"), "{text}");
}

#[test]
fn a_mount_point_can_be_a_target() {
    needs_root!();
    let mirror = Mirror::new();
    let place = mirror.path("disk");
    fs::create_dir_all(&place).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64m disk {0} && mkdir {0}/lost+found {0}/.disk.knarr-999999999-x && \"$@\" && \
         ls -A {0} && stat -c %a {0}; status=$?; umount {0}; exit $status",
        place.display()
    );
    let mut inner = mirror.bootstrap("disk");
    inner.args(["--variant", "essential"]);
    let mut command = around(&mirror, &["unshare", "-m", "sh", "-c", &script, "sh"], &inner);
    let said = String::from_utf8(succeed(&mut command).stdout).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(
        words.contains(&"etc") && words.contains(&"lost+found") && words.last() == Some(&"755"),
        "{said}"
    );
    assert!(!said.contains(".knarr-"), "{said}");
}

#[test]
fn a_hard_link_keeps_its_content_when_the_file_it_is_of_is_left_out() {
    needs_root!();
    let mut mirror = Mirror::new();
    let entries: &[(&str, EntryType, &str, &[u8])] = &[
        ("usr/bin/first", EntryType::Regular, "", b"content"),
        ("usr/bin/second", EntryType::Link, "usr/bin/first", b""),
        ("usr/bin/third", EntryType::Link, "usr/bin/first", b""),
    ];
    hostile(&mut mirror, entries);
    succeed(mirror.bootstrap("root").args(["--variant", "essential", "--path-exclude", "/usr/bin/first"]));
    let root = mirror.path("root/usr/bin");
    assert!(!root.join("first").exists());
    assert_eq!(fs::read_to_string(root.join("second")).unwrap(), "content");
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("second"), inode("third"));
}

#[test]
fn a_reader_that_leaves_and_a_full_device_are_told_apart() {
    needs_root!();
    let mirror = Mirror::new();
    let run = |end: &str| {
        let mut inner = mirror.bootstrap("-");
        inner.args(["--variant", "essential", "--quiet"]);
        let script =
            format!("{{ \"$@\"; echo $? >&3; }} 3>{0} {end}; cat {0}", mirror.path("status").display());
        let mut command = around(&mirror, &["sh", "-c", &script, "sh"], &inner);
        let output = succeed(&mut command);
        let said = String::from_utf8(output.stderr).unwrap();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), said)
    };
    let (status, said) = run("| head -c 1 >/dev/null");
    assert_eq!((status.as_str(), said.as_str()), ("141", ""));
    let (status, said) = run(">/dev/full");
    assert_eq!(status, "13");
    assert!(said.contains("No space left"), "{said}");
}

#[test]
fn a_request_that_cannot_be_meant_is_refused() {
    needs_root!();
    let mirror = Mirror::new();
    for (target, arguments, expected) in [
        ("root.zip", &[][..], "looks like a .zip file"),
        ("root", &["--exclude", "dpkg"][..], "dpkg cannot be left out"),
    ] {
        let text = fail(mirror.bootstrap(target).args(["--variant", "essential"]).args(arguments), 2);
        assert!(text.contains(expected), "{text}");
        mirror.assert_clean(target);
    }
    let text = fail(mirror.bootstrap("root").env("SOURCE_DATE_EPOCH", "-1"), 2);
    assert!(text.contains("expected seconds since 1970"), "{text}");
}

#[test]
fn a_place_without_permission_or_existence_is_told() {
    needs_root!();
    let mirror = Mirror::new();
    let text = fail(mirror.bootstrap("no/such/place/root").args(["--variant", "essential"]), 12);
    assert!(text.contains("no/such/place"), "{text}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    needs_root!();
    let mirror = Mirror::new();
    let small = mirror.path("small");
    fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=256k small {0} && \"$@\"; status=$?; ls -A {0}; umount {0}; exit $status",
        small.display()
    );
    let mut inner = mirror.bootstrap("small/root");
    inner.args(["--variant", "essential"]);
    let mut command = around(&mirror, &["unshare", "-m", "sh", "-c", &script, "sh"], &inner);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    assert!(output.stdout.is_empty(), "left behind: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_interrupt_ends_cleanly() {
    needs_root!();
    let mut mirror = Mirror::new();
    add(
        &mut mirror,
        Deb::new("slow", "Essential: yes\n").script("postinst", "#!/bin/sh\ntouch /started\nsleep 1000\n"),
    );
    let mut child =
        mirror.bootstrap("root").args(["--variant", "essential"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for_script(&mirror);
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    mirror.assert_clean("root");
}

#[test]
fn a_kill_leaves_no_mount_and_the_next_run_clears_up() {
    needs_root!();
    let mut mirror = Mirror::new();
    add(
        &mut mirror,
        Deb::new("slow", "Essential: yes\n").script("postinst", "#!/bin/sh\ntouch /started\nsleep 1000\n"),
    );
    let mut child = mirror
        .bootstrap("root")
        .args(["--variant", "essential"])
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    wait_for_script(&mirror);
    child.kill().unwrap();
    child.wait().unwrap();
    mirror.debs.pop();
    mirror.publish();
    succeed(mirror.bootstrap("root").args(["--variant", "essential"]));
    fs::rename(mirror.path("root"), mirror.dir.path().join("done")).unwrap();
    mirror.assert_clean("root");
}

#[test]
fn a_kill_while_fetching_or_writing_leaves_nothing() {
    needs_root!();
    for held in ["InRelease", "by-hash", "base_1.0"] {
        let mirror = Mirror::new();
        mirror.fault(held, Fault::Stall);
        let mut command = mirror.bootstrap("root.tar.zst");
        kill_later(command.args(["--variant", "essential", "--timeout", "1h"]));
        mirror.faults.lock().unwrap().clear();
        mirror.assert_clean("root.tar.zst");
        succeed(mirror.bootstrap("root.tar.zst").args(["--variant", "essential"]));
    }
    // Standard output is a pipe that nobody reads: the run is held while it writes.
    let mirror = Mirror::new();
    let mut command = mirror.bootstrap("-");
    kill_later(command.args(["--variant", "essential"]).stdout(Stdio::piped()));
    mirror.assert_clean("root.tar");
    succeed(mirror.bootstrap("root.tar").args(["--variant", "essential"]));
}

/// Starts a command that cannot end, and kills it when it has had time to get to where it is held.
fn kill_later(command: &mut Command) {
    let mut child = command.stderr(Stdio::null()).process_group(0).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn wait_for_script(mirror: &Mirror) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stages = fs::read_dir(mirror.dir.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains(".knarr-"));
        if stages.into_iter().any(|stage| stage.path().join("root/started").exists()) {
            return;
        }
        assert!(Instant::now() < deadline, "the script never started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_runs_share_one_cache() {
    needs_root!();
    let mirror = Mirror::new();
    let mut children: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|name| {
            mirror.bootstrap(name).args(["--variant", "essential"]).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
}

#[test]
fn a_damaged_cache_is_fetched_again() {
    needs_root!();
    let mirror = Mirror::new();
    succeed(mirror.bootstrap("one").args(["--variant", "essential"]));
    let files = succeed(
        Command::new("find").arg(mirror.path("cache")).args(["-name", "*.deb", "-o", "-name", "*.idx"]),
    )
    .stdout;
    for path in String::from_utf8(files).unwrap().lines() {
        let mut bytes = fs::read(path).unwrap();
        bytes[8] ^= 0xff;
        fs::write(path, bytes).unwrap();
    }
    succeed(mirror.bootstrap("two").args(["--variant", "essential"]));
}

#[test]
fn a_damaged_lock_is_told_with_its_line() {
    needs_root!();
    let mirror = Mirror::new();
    fs::write(mirror.path("lock"), "version = 1\nsuite = 7\n").unwrap();
    let text = fail(
        mirror.bootstrap("root").args(["--variant", "essential", "--lock"]).arg(mirror.path("lock")),
        17,
    );
    assert!(text.contains("line 2"), "{text}");
}
