//! The integration tests: the real binary against a small signed mirror, and against the real one.
//!
//! One binary, one module per noun. [`support`] makes the mirror.

mod support;

mod bootstrap;
mod cli;
mod faults;
mod image_faults;
mod images;
mod real_mirror;
mod rootless;
mod runtime;
mod sources;
