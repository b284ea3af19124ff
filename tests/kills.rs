//! kill -9 at a random moment of all that changes a store: what was finished is whole, what was not can be named and
//! cleared.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::images::{PRODUCTION, build, knarr, mirror, text};
use crate::registry_server::serve;
use crate::support::{Mirror, needs_root, succeed};

const ROUNDS: u64 = 200;

/// Something that changes the store, and how long it takes when nobody kills it.
struct Verb {
    make: Box<dyn Fn(u64) -> Command>,
    whole: Duration,
}

impl Verb {
    /// Runs it once to its end, to know how long it takes.
    fn new(make: impl Fn(u64) -> Command + 'static) -> Self {
        let start = Instant::now();
        succeed(&mut make(0));
        Self { make: Box::new(make), whole: start.elapsed() }
    }

    /// Runs it and kills it after a share of its time.
    fn kill(&self, round: u64, share: f64) {
        let mut command = (self.make)(round);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(self.whole.mul_f64(share));
        end(&mut child);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().unwrap();
}

/// Numbers between 0 and 1 that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
