//! The engine: the real daemon, driven by the real docker CLI and by our own.
//!
//! Each test has a daemon of its own in its own network namespace. `docker` is the long conversation, `bollard` that of
//! Rust's SDK, `survival` and `churn` what a crash must not lose, `faults` and `resources` what clients and the machine do
//! to it, `starts` what is done beside a start, `observed` what it tells of itself.

mod bollard;
mod churn;
mod docker;
mod faults;
mod knarr;
mod observed;
mod resources;
mod starts;
mod survival;

use crate::support::engine::has_docker;

/// Whether these tests can run here; says so when not.
fn ready() -> bool {
    if !crate::support::privileged() {
        crate::support::skipped("needs root and mount namespaces");
        return false;
    }
    if !has_docker() {
        crate::support::skipped("needs the docker CLI");
        return false;
    }
    true
}
