use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use knarr_base::Architecture;
use knarr_recipe::{Recipe, TargetName};
use knarr_tree::root::Root;

use super::{Plan, Scene, apply};
use crate::config::run_config;
use crate::inventory::{Inventory, Record};

/// A root of files; a content that starts with `->` is a link, one path that ends in `/` a directory.
struct Fixture {
    directory: tempfile::TempDir,
    root: Root,
    packages: BTreeMap<String, Vec<String>>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::create(&directory.path().join("root")).unwrap();
        let mut fixture = Self { directory, root, packages: BTreeMap::new() };
        for (path, content) in [
            ("usr/bin/", ""),
            ("usr/lib/", ""),
            ("usr/lib64/", ""),
            ("bin", "->usr/bin"),
            ("lib64", "->usr/lib64"),
            ("tmp/", ""),
            ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n"),
            ("usr/lib/os-release", "ID=test\n"),
            ("etc/os-release", "->../usr/lib/os-release"),
        ] {
            fixture = fixture.file("base", path, content);
        }
        fixture
    }

    fn file(mut self, package: &str, path: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        if let Some(directory) = path.strip_suffix('/') {
            self.root.create_dir_all(directory, 0o755).unwrap();
            return self;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.root.create_dir_all(parent, 0o755).unwrap();
        }
        match content.strip_prefix(b"->") {
            Some(target) => self.root.symlink(std::str::from_utf8(target).unwrap(), path).unwrap(),
            None => self.root.write(path, content, 0o755).unwrap(),
        }
        self.packages.entry(package.to_owned()).or_default().push(path.to_owned());
        self
    }

    fn compiled(self, package: &str, path: &str, arguments: &[&str]) -> Self {
        let made = compiled(self.directory.path(), arguments);
        self.file(package, path, made)
    }

    fn inventory(&self) -> Inventory {
        let record = |(name, files): (&String, &Vec<String>)| {
            let mut files = files.clone();
            files.sort();
            Record { name: name.clone(), source: name.clone(), files, ..Record::default() }
        };
        Inventory { version: 1, packages: self.packages.iter().map(record).collect() }
    }

    /// Makes it slim by a recipe, and answers with what was kept and what is left.
    fn slim(&self, recipe: &str) -> (Plan, Vec<String>) {
        let recipe = Recipe::parse("r", recipe).unwrap().for_target(TargetName::Production);
        let config = run_config(&recipe).unwrap();
        let inventory = self.inventory();
        let architecture = Architecture::native();
        let scene =
            Scene { recipe: &recipe, config: &config, inventory: &inventory, added: &[], architecture };
        let slimmed = apply(&scene, &self.root).unwrap();
        let left = super::Tree::of(&self.root).unwrap();
        let left = left.files().map(|(path, _)| path.to_owned()).collect();
        (slimmed.plan, left)
    }
}

fn compiled(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let (from, to) = (directory.join("source.c"), directory.join("made"));
    std::fs::write(&from, "int main(void) { return 0; }\n").unwrap();
    let mut gcc = Command::new("gcc");
    gcc.current_dir(directory)
        .arg(&from)
        .arg("-o")
        .arg(&to)
        .args(["-nostdlib", "-Wl,--unresolved-symbols=ignore-all"]);
    assert!(gcc.args(arguments).status().unwrap().success());
    std::fs::read(to).unwrap()
}

fn has(left: &[String], path: &str) -> bool {
    left.iter().any(|known| known == path)
}

fn runs(program: &str) -> String {
    format!("[image]\nentrypoint = [{program:?}]\n[production]\nmode = \"slim\"\n")
}

#[test]
fn what_a_program_needs_is_kept_along_links_and_the_rest_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let library = compiled(directory.path(), &["-shared", "-fPIC", "-Wl,-soname,libown.so.1"]);
    std::fs::write(directory.path().join("libown.so.1"), &library).unwrap();
    let stub = directory.path().display().to_string();
    let fixture = Fixture::new()
        .file("library", "usr/lib/deep/libown.so.1.2", &library)
        .file("library", "usr/lib/deep/libown.so.1", "->libown.so.1.2")
        .file("library", "usr/lib/libown.so.1", "a text of the same name")
        .file("library", "usr/lib/libother.so", &library)
        .file("loader", "usr/lib64/loader", "the loader")
        .file("program", "usr/share/data", "data")
        .compiled(
            "program",
            "usr/bin/real",
            &[
                "-pie",
                "-fPIE",
                &format!("-L{stub}"),
                "-Wl,--no-as-needed",
                "-l:libown.so.1",
                "-Wl,--dynamic-linker,/lib64/loader",
                "-Wl,-rpath,$ORIGIN/../lib/deep",
            ],
        )
        .file("program", "usr/bin/program", "->real")
        .file("idle", "usr/bin/idle", "idle");
    let (plan, left) = fixture.slim(&runs("/bin/program"));
    for path in [
        "usr/bin/program",
        "usr/bin/real",
        "usr/lib/deep/libown.so.1",
        "usr/lib/deep/libown.so.1.2",
        "usr/lib64/loader",
        "lib64",
        "bin",
        "tmp",
        "etc/passwd",
        "usr/lib/os-release",
    ] {
        assert!(has(&left, path), "{path}: {left:?}");
    }
    for path in ["usr/lib/libown.so.1", "usr/lib/libother.so", "usr/share", "usr/bin/idle"] {
        assert!(!has(&left, path), "{path}: {left:?}");
    }
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    let chain: Vec<&str> =
        plan.chain("usr/lib/deep/libown.so.1.2").iter().map(|why| why.reason.as_str()).collect();
    assert_eq!(
        chain,
        [
            "the link leads there",
            "the program needs libown.so.1",
            "the link leads there",
            "the image runs it"
        ]
    );
}

#[test]
fn scripts_bring_their_interpreters_and_what_they_run() {
    let fixture = Fixture::new()
        .file("shell", "usr/bin/dash", "dash")
        .file("shell", "usr/bin/sh", "->dash")
        .file(
            "program",
            "usr/bin/serve",
            "#!/bin/sh\nset -e\n# idle is not meant\nprepare --now && exec /usr/bin/serverd\n",
        )
        .file("program", "usr/bin/prepare", "#!/usr/bin/env interpret\n")
        .file("program", "usr/bin/env", "env")
        .file("program", "usr/bin/interpret", "interpret")
        .file("program", "usr/bin/serverd", "serverd")
        .file("idle", "usr/bin/idle", "idle");
    let (_, left) = fixture.slim(&runs("serve"));
    for path in [
        "usr/bin/sh",
        "usr/bin/dash",
        "usr/bin/prepare",
        "usr/bin/env",
        "usr/bin/interpret",
        "usr/bin/serverd",
    ] {
        assert!(has(&left, path), "{path}: {left:?}");
    }
    assert!(!has(&left, "usr/bin/idle"));
}

#[test]
fn a_python_program_brings_its_modules_and_no_others() {
    let fixture = Fixture::new()
        .file("python", "usr/bin/python3.13", "python")
        .file("python", "usr/bin/python3", "->python3.13")
        .file("python", "usr/lib/python3.13/site.py", "import os\n")
        .file("python", "usr/lib/python3.13/os.py", "import posixpath\n")
        .file("python", "usr/lib/python3.13/posixpath.py", "")
        .file("python", "usr/lib/python3.13/encodings/utf_8.py", "")
        .file("python", "usr/lib/python3.13/json/__init__.py", "from .decoder import X\n")
        .file("python", "usr/lib/python3.13/json/decoder.py", "")
        .file("python", "usr/lib/python3.13/idle.py", "")
        .file("python", "usr/lib/python3.13/lib-dynload/_json.cpython-313-x86_64-linux-gnu.so", "")
        .file("more", "usr/lib/python3/dist-packages/other/__init__.py", "import _json\n")
        .file("more", "usr/lib/python3/dist-packages/other/unused.py", "")
        .file("more", "usr/lib/python3/dist-packages/other/data.txt", "")
        .file("more", "usr/lib/python3/dist-packages/other-1.0.dist-info/METADATA", "")
        .file("more", "usr/lib/python3/dist-packages/third.py", "")
        .file("program", "usr/bin/program", "#!/usr/bin/python3\nimport json\nfrom other import thing\n");
    let (_, left) = fixture.slim(&runs("/usr/bin/program"));
    let library = "usr/lib/python3.13";
    for path in [
        "site.py",
        "posixpath.py",
        "encodings/utf_8.py",
        "json/decoder.py",
        "lib-dynload/_json.cpython-313-x86_64-linux-gnu.so",
    ] {
        assert!(has(&left, &format!("{library}/{path}")), "{path}: {left:?}");
    }
    let packages = "usr/lib/python3/dist-packages";
    assert!(has(&left, &format!("{packages}/other/data.txt")));
    assert!(has(&left, &format!("{packages}/other-1.0.dist-info/METADATA")));
    for path in
        [format!("{library}/idle.py"), format!("{packages}/third.py"), format!("{packages}/other/unused.py")]
    {
        assert!(!has(&left, &path), "{path}: {left:?}");
    }
}

#[test]
fn keeps_win_over_drops_and_directories_are_kept_whole() {
    let fixture = Fixture::new()
        .file("program", "usr/bin/program", "program")
        .file("program", "usr/share/program/a", "a")
        .file("program", "usr/share/program/deep/b", "b")
        .file("program", "usr/share/other/c.txt", "c")
        .file("program", "usr/share/other/d", "d")
        .file("program", "usr/bin/extra", "extra");
    let recipe = format!(
        "drop = [\"/usr/share/program/deep/*\", \"/usr/share/other/*\"]\n{}keep = [\"/usr/share/program\", \"/usr/share/other/*.txt\"]\n",
        runs("program")
    );
    let (_, left) = fixture.slim(&recipe);
    assert!(has(&left, "usr/share/program/a") && has(&left, "usr/share/other/c.txt"));
    assert!(!has(&left, "usr/share/other/d") && !has(&left, "usr/bin/extra"));
}

#[test]
fn what_is_missing_is_noted_and_nothing_to_begin_with_is_refused() {
    let fixture = Fixture::new().compiled(
        "program",
        "usr/bin/program",
        &["-pie", "-fPIE", "-Wl,--dynamic-linker,/lib64/none"],
    );
    let (plan, _) = fixture.slim(&runs("/usr/bin/program"));
    assert!(
        plan.notes.iter().any(|note| note.contains("its interpreter /lib64/none is not there")),
        "{:?}",
        plan.notes
    );
    let (plan, _) = Fixture::new().slim(&runs("/usr/bin/none"));
    assert!(plan.notes.iter().any(|note| note.contains("there is no /usr/bin/none")), "{:?}", plan.notes);
    let recipe =
        Recipe::parse("r", "[production]\nmode = \"slim\"\n").unwrap().for_target(TargetName::Production);
    let fixture = Fixture::new();
    let (config, inventory) = (run_config(&recipe).unwrap(), fixture.inventory());
    let scene = Scene {
        recipe: &recipe,
        config: &config,
        inventory: &inventory,
        added: &[],
        architecture: Architecture::native(),
    };
    assert!(apply(&scene, &fixture.root).unwrap_err().to_string().contains("add an entrypoint"));
}

#[test]
fn a_circle_of_links_leads_nowhere() {
    let fixture = Fixture::new()
        .file("program", "usr/bin/program", "program")
        .file("program", "usr/lib/a", "->b")
        .file("program", "usr/lib/b", "->a")
        .file("program", "usr/lib/c", "->../../../../etc/passwd");
    let recipe = format!("{}keep = [\"/usr/lib/a\", \"/usr/lib/c\"]\n", runs("program"));
    let (plan, left) = fixture.slim(&recipe);
    assert!(has(&left, "usr/lib/c") && has(&left, "etc/passwd"), "{plan:?}");
}
