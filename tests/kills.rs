//! kill -9 at a random moment of all that changes a store: what was finished is whole, and what was not can be named
//! and cleared.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::images::{PRODUCTION, build, digest, knarr, mirror, text};
use crate::registry_server::Serving;
use crate::support::{Mirror, needs_root, succeed};

const ROUNDS: u64 = 200;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f64 {
        self.next() as f64 / f64::from(1_u32 << 31)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// A store with a finished image, an archive of it, and a registry that has a larger one.
struct Scene {
    mirror: Mirror,
    registry: Serving,
    finished: String,
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Build,
    Load,
    Import,
    Push,
    Pull,
    Prune,
}

const VERBS: [Verb; 6] = [Verb::Build, Verb::Load, Verb::Import, Verb::Push, Verb::Pull, Verb::Prune];

impl Scene {
    fn new() -> Self {
        let mirror = mirror();
        let finished = digest(&mut build(&mirror, "app", PRODUCTION));
        succeed(knarr(&mirror, &["save", "app", "-o"]).arg(mirror.path("app.tar")));
        let root = mirror.path("root.tar");
        let mut builder = tar::Builder::new(fs::File::create(&root).unwrap());
        let mut header = tar::Header::new_ustar();
        let content = Random(1).bytes(6 << 20);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "content", content.as_slice()).unwrap();
        builder.finish().unwrap();
        let registry = Serving::start(&mirror.path("registry"), &[]);
        let large = format!("{}/large:1", registry.address);
        succeed(knarr(&mirror, &["import"]).arg(&root).arg(&large));
        succeed(&mut knarr(&mirror, &["push", &large]));
        Self { mirror, registry, finished }
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.address)
    }

    /// What is to be killed, after what it needs was done whole.
    fn command(&self, verb: Verb, round: u64) -> Command {
        let mirror = &self.mirror;
        let arguments = |words: &[&str]| knarr(mirror, words);
        match verb {
            Verb::Build => {
                let recipe = PRODUCTION.replace("answer = 42", &format!("answer = {round}"));
                build(mirror, &format!("built{round}"), &recipe)
            }
            Verb::Load => {
                let mut load = arguments(&["load", "-i"]);
                load.arg(mirror.path("app.tar"))
                    .env("KNARR_STORE", mirror.path(&format!("loaded{}", round % 5)));
                load
            }
            Verb::Import => {
                let mut import = arguments(&["import"]);
                import.arg(mirror.path("root.tar")).arg(format!("imported:{round}"));
                import.env("SOURCE_DATE_EPOCH", round.to_string());
                import
            }
            Verb::Push => {
                let name = self.name(&format!("pushed{round}:1"));
                succeed(&mut arguments(&["tag", "app", &name]));
                arguments(&["push", &name])
            }
            Verb::Pull => {
                let mut pull = arguments(&["pull", &self.name("large:1")]);
                pull.env("KNARR_STORE", mirror.path(&format!("pulled{}", round % 5)));
                pull
            }
            Verb::Prune => arguments(&["system", "prune", "--max-age", "1s"]),
        }
    }

    /// Nothing in any store is broken, and the finished image is what it was.
    fn check(&self, store: &str, what: &str) {
        let said = knarr(&self.mirror, &["image", "check"])
            .env("KNARR_STORE", self.mirror.path(store))
            .output()
            .unwrap();
        let said = format!("{}{}", text(&said.stdout), text(&said.stderr));
        assert!(!said.contains("broken") && !said.contains("error"), "{what}: {said}");
    }

    /// After a prune there is nothing left to be named.
    fn clear(&self, store: &str) {
        let run = |words: &[&str]| {
            text(&succeed(knarr(&self.mirror, words).env("KNARR_STORE", self.mirror.path(store))).stdout)
        };
        run(&["system", "prune"]);
        assert_eq!(run(&["system", "check"]), "", "{store}");
        assert_eq!(fs::read_dir(self.mirror.path(store).join("tmp")).unwrap().count(), 0, "{store}");
    }
}

#[test]
fn kills_at_any_moment_lose_nothing_that_was_finished() {
    needs_root!();
    let scene = Scene::new();
    let mut random = Random(7);
    let whole: Vec<Duration> = VERBS
        .iter()
        .map(|verb| {
            let mut command = scene.command(*verb, 100_000);
            let start = Instant::now();
            succeed(&mut command);
            start.elapsed()
        })
        .collect();
    for round in 0..ROUNDS {
        let which = (round % VERBS.len() as u64) as usize;
        let mut command = scene.command(VERBS[which], round);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole[which].mul_f64(random.share()));
        // It may have ended already.
        let _ = child.kill();
        child.wait().unwrap();
        let store = match VERBS[which] {
            Verb::Load => format!("loaded{}", round % 5),
            Verb::Pull => format!("pulled{}", round % 5),
            _ => "store".to_owned(),
        };
        if scene.mirror.path(&store).join("index.json").exists() {
            scene.check(&store, &format!("round {round}, {:?}", VERBS[which]));
        }
        if matches!(VERBS[which], Verb::Load | Verb::Pull) && round % 3 == 0 {
            // The next one begins anew; the others go on with what is there.
            let _ = fs::remove_dir_all(scene.mirror.path(&store));
        }
    }
    let shown = text(&succeed(&mut knarr(&scene.mirror, &["image", "inspect", "app"])).stdout);
    assert!(shown.contains(&scene.finished), "{shown}");
    scene.check("registry", "the registry");
    for number in 0..5 {
        for (kind, verb) in [("loaded", Verb::Load), ("pulled", Verb::Pull)] {
            // What was cut off works when it is tried again.
            succeed(&mut scene.command(verb, number));
            scene.clear(&format!("{kind}{number}"));
        }
    }
    scene.clear("store");
}
