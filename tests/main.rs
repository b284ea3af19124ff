//! The integration tests: the real binary against a small signed mirror, and against the real one.
//!
//! One binary, one module per noun. [`support`] makes the mirror.

mod support;

mod bootstrap;
mod cli;
mod engine;
mod faults;
mod image_faults;
mod images;
mod kills;
mod provenance;
mod real_mirror;
mod recipes;
mod registry;
mod registry_server;
mod rootless;
mod runtime;
mod sources;
