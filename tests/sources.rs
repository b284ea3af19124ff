//! Repositories beside a suite's own, and sources files that stand for a suite.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Deb, Mirror, fail, needs_root, succeed};

/// A second mirror with a key of its own and one package that needs one of the first mirror's.
fn second() -> Mirror {
    let mut mirror = Mirror::new();
    mirror.debs = vec![Deb::new("tool", "Priority: optional\nDepends: library\n").file(
        "usr/bin/tool",
        0o755,
        "#!/bin/sh\n",
    )];
    mirror.publish();
    mirror
}

fn stanza(mirror: &Mirror, signed_by: &str) -> String {
    format!("Types: deb\nURIs: {}\nSuites: test\nComponents: main\n{signed_by}", mirror.url)
}

/// The key in the stanza itself, folded as apt wants it.
fn inline_key(mirror: &Mirror) -> String {
    let folded = |line: &str| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") };
    format!("Signed-By:\n{}", mirror.armoured_key().lines().map(folded).collect::<String>())
}

fn write(mirror: &Mirror, name: &str, text: &str) -> PathBuf {
    let path = mirror.path(name);
    fs::write(&path, text).unwrap();
    path
}

/// What `apt-get` would fetch by the sources of a root.
fn targets_of_apt(root: &std::path::Path) -> String {
    for directory in ["etc/apt/preferences.d", "etc/apt/apt.conf.d", "var/lib/apt/lists/partial"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let mut command = Command::new("apt-get");
    command.arg("-o").arg(format!("Dir={}", root.display())).args(["-o", "APT::Architecture=amd64"]);
    String::from_utf8(succeed(command.args(["update", "--print-uris"])).stdout).unwrap()
}

#[test]
fn a_repository_is_resolved_from_and_written_with_its_key() {
    needs_root!();
    let (mirror, other) = (Mirror::new(), second());
    for (number, signed_by) in
        [inline_key(&other), format!("Signed-By: {}\n", other.path("key.gpg").display())].iter().enumerate()
    {
        let file = write(&mirror, "tool.sources", &stanza(&other, signed_by));
        let (target, lock) = (format!("root{number}"), mirror.path(&format!("lock{number}")));
        let mut command = mirror.bootstrap(&target);
        command.args(["--variant", "essential", "--include", "tool", "--sources"]).arg(&file);
        command.args(["--hook-setup", "mkdir -p \"$1/etc/apt\"", "--lock"]).arg(&lock);
        succeed(&mut command);
        let root = mirror.path(&target);
        assert!(root.join("usr/bin/tool").exists() && root.join("usr/lib/library.so").exists());
        let written = fs::read_to_string(root.join("etc/apt/sources.list.d/tool.sources")).unwrap();
        assert_eq!(written, stanza(&other, "Signed-By: /etc/apt/keyrings/tool.gpg\n"));
        let key = fs::read(root.join("etc/apt/keyrings/tool.gpg")).unwrap();
        assert_eq!(key, fs::read(other.path("key.gpg")).unwrap());
        assert!(root.join("etc/apt/sources.list.d/debian.sources").exists());
        let targets = targets_of_apt(&root);
        assert!(targets.contains(&format!("{}/dists/test/InRelease", other.url)), "{targets}");
        let text = fs::read_to_string(&lock).unwrap();
        assert!(text.contains("repository = \"tool\"") && text.contains("keyring = \""), "{text}");
        // The lock is of this repository, and of no other request.
        fs::remove_dir_all(&root).unwrap();
        succeed(&mut command);
        let mut without = mirror.bootstrap("other.tar");
        without.args(["--variant", "essential", "--include", "tool", "--lock"]).arg(&lock);
        assert!(fail(&mut without, 17).contains("tool/test"));
    }
}

#[test]
fn each_repository_is_held_against_its_own_key_alone() {
    let (mirror, other) = (Mirror::new(), second());
    let run = |signed_by: &str| {
        let file = write(&mirror, "tool.sources", &stanza(&other, signed_by));
        let mut command = mirror.bootstrap("root");
        command.args(["--dry-run", "--variant", "essential", "--include", "tool", "--sources"]).arg(file);
        command
    };
    let wrong = format!("Signed-By: {}\n", mirror.path("key.gpg").display());
    assert!(fail(&mut run(&wrong), 33).contains("which the keyring does not hold"));
    // Without Signed-By the suite's own keys are the ones that count, and they did not sign.
    fail(&mut run(""), 33);
    let key = other.path("key.gpg").display().to_string();
    succeed(&mut run(&format!("Signed-By: {key} {}\n", other.fingerprint())));
    fail(&mut run(&format!("Signed-By: {key} {}\n", mirror.fingerprint())), 31);
    assert!(fail(&mut run("Trusted: yes\n"), 30).contains("Trusted"));
    assert!(fail(&mut run("Signed-By: /nonexistent.gpg\n"), 31).contains("/nonexistent.gpg"));
    // A foreign key in an added repository opens no door into the suite itself.
    let mut swapped = mirror.bootstrap_of(&mirror.suite(), "root");
    swapped.arg(&other.url).arg("--keyring").arg(mirror.path("key.gpg")).arg("--sources");
    let file = write(&mirror, "tool.sources", &stanza(&other, &inline_key(&other)));
    fail(swapped.arg(file).args(["--dry-run", "--variant", "essential"]), 33);
}

#[test]
fn a_line_adds_a_repository_too() {
    let (mirror, other) = (Mirror::new(), second());
    let line =
        format!("deb [arch=amd64 signed-by={}] {} test main", other.path("key.gpg").display(), other.url);
    let run = |words: &[&str]| {
        let mut command = mirror.bootstrap("root");
        command.args(["--dry-run", "--variant", "essential", "--include", "tool"]).args(words);
        command
    };
    let listed = String::from_utf8(succeed(&mut run(&["--sources", &line])).stdout).unwrap();
    assert!(listed.contains("tool 1.0 amd64") && listed.contains("library 1.0 amd64"), "{listed}");
    let foreign = line.replace("arch=amd64", "arch=riscv64");
    assert!(fail(&mut run(&["--sources", &foreign]), 16).contains("tool"));
    assert!(fail(&mut run(&["--sources", "deb [signed-by=x http://y z main"]), 30).contains("never closed"));
}

#[test]
fn a_directory_of_packages_is_a_repository() {
    let (mirror, mut other) = (Mirror::new(), second());
    let pool = other.files.lock().unwrap().clone();
    other.release_edits = vec![
        ("main/binary-amd64/Packages".to_owned(), "Packages".to_owned()),
        ("Suite: test\nCodename: test\n".to_owned(), String::new()),
        ("Components: main\n".to_owned(), String::new()),
    ];
    other.publish();
    {
        let mut files = other.files.lock().unwrap();
        let release = files["/dists/test/InRelease"].clone();
        let flat = |path: &str| {
            path.strip_prefix("/dists/test/main/binary-amd64/").map(|name| format!("/flat/{name}"))
        };
        files.extend(pool.iter().filter_map(|(path, bytes)| Some((flat(path)?, bytes.clone()))));
        files.insert("/flat/InRelease".to_owned(), release);
    }
    let line = format!("deb [signed-by={}] {} flat/", other.path("key.gpg").display(), other.url);
    let mut command = mirror.bootstrap("root");
    command.args(["--dry-run", "--variant", "essential", "--include", "tool", "--sources", &line]);
    assert!(String::from_utf8(succeed(&mut command).stdout).unwrap().contains("tool 1.0"));
}

#[test]
fn a_sources_file_stands_for_a_suite() {
    needs_root!();
    let (mirror, other) = (Mirror::new(), second());
    let text = format!("{}\n{}", stanza(&mirror, &inline_key(&mirror)), stanza(&other, &inline_key(&other)));
    let file = write(&mirror, "mine.sources", &text);
    let mut command = mirror.bootstrap_of(&file, "root");
    command.args(["--variant", "essential", "--include", "tool"]);
    succeed(command.args(["--hook-setup", "mkdir -p \"$1/etc/apt\""]));
    let root = mirror.path("root");
    assert!(root.join("usr/bin/tool").exists() && root.join("bin").is_symlink());
    let names: Vec<_> = fs::read_dir(root.join("etc/apt/sources.list.d")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let written = fs::read_to_string(root.join("etc/apt/sources.list.d/mine.sources")).unwrap();
    let parts = ["/etc/apt/keyrings/mine.gpg", "/etc/apt/keyrings/mine-2.gpg", &other.url];
    assert!(parts.iter().all(|part| written.contains(part)), "{written}");
    // A suite's own switches have nothing to switch.
    let mut switched = mirror.bootstrap_of(&file, "root2");
    assert!(fail(switched.args(["--components", "main"]), 2).contains("--components"));
    // Nobody said which keys count.
    let bare = write(&mirror, "bare.sources", &stanza(&mirror, ""));
    assert!(fail(&mut mirror.bootstrap_of(&bare, "root2"), 33).contains("no Signed-By"));
    succeed(
        mirror
            .bootstrap_of(&bare, "root2.tar")
            .arg("--keyring")
            .arg(mirror.path("key.gpg"))
            .args(["--variant", "essential"]),
    );
}

#[test]
fn sources_in_place_of_a_mirror_replace_the_suite_s_own() {
    let mirror = Mirror::new();
    let line = format!("deb [signed-by={}] {} test main", mirror.path("key.gpg").display(), mirror.url);
    let mut command = mirror.bootstrap_of(&mirror.suite(), "root");
    let listed = succeed(command.arg(&line).args(["--dry-run", "--variant", "essential"])).stdout;
    assert!(String::from_utf8(listed).unwrap().contains("base 1.0 amd64"));
}
