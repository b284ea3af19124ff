//! Chores: benchmarks and comparisons with peers.
//!
//! `cargo xtask bench bootstrap|image|engine|run [ROUNDS]`, `bench size`, `recipes [NAME…]`, `resolve [N] [SEED]`, `compare [SUITE]`.

mod bench;
mod bench_engine;
mod bench_image;
mod bench_run;
mod compare;
mod nearby;
mod resolve;
mod size;
mod twice;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bench", "bootstrap", rest @ ..] => {
            bench::bootstrap(rest.first().map_or(Ok(3), |rounds| rounds.parse())?)
        }
        ["bench", "image", rest @ ..] => {
            bench_image::run(rest.first().map_or(Ok(3), |rounds| rounds.parse())?)
        }
        ["bench", "engine", rest @ ..] => {
            bench_engine::run(rest.first().map_or(Ok(30), |rounds| rounds.parse())?)
        }
        ["bench", "run", rest @ ..] => bench_run::run(rest.first().map_or(Ok(40), |rounds| rounds.parse())?),
        ["bench", "size"] => size::run(),
        ["recipes", names @ ..] => twice::run(names),
        ["resolve", rest @ ..] => {
            let number =
                |position: usize, default| rest.get(position).map_or(Ok(default), |word: &&str| word.parse());
            resolve::run(number(0, 300)?, number(1, 1)? as u64)
        }
        ["compare", rest @ ..] => compare::run(rest.first().unwrap_or(&"trixie")),
        _ => bail!(
            "usage: cargo xtask bench bootstrap|image|engine|run [ROUNDS] | bench size | recipes [NAME…] | resolve [N] [SEED] | compare [SUITE]"
        ),
    }
}

/// The release binary, which must be built.
fn knarr() -> Result<std::path::PathBuf> {
    let named = std::env::var_os("KNARR_BINARY")
        .map_or_else(|| "target/release/knarr".into(), std::path::PathBuf::from);
    let path = std::path::absolute(named)?;
    if path.exists() {
        Ok(path)
    } else {
        bail!("{} is missing: run `cargo build --release` first", path.display())
    }
}

const MIRROR: &str = "http://deb.debian.org/debian";

/// Prints a line of a report.
#[expect(clippy::print_stdout, reason = "reports are what this program is for")]
fn report(text: &str) {
    println!("{text}");
}

/// Runs a command that must succeed and answers with its output.
fn output(command: &mut std::process::Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
