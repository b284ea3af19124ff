//! From a bundle to a process: what the OCI calls a runtime.
//!
//! [`create::create`] makes a container of a bundle, [`lifecycle`] has what can be done with it then, [`exec::exec`] runs
//! another program in it. [`plan::Plan`] decides what will be done; everything after it does only that. All of this
//! belongs in a process with one thread, which forks children that run ordinary Rust.
//!
//! Spec: OCI runtime-spec 1.3, `runtime.md`, `config.md`, `config-linux.md`.
#![forbid(unsafe_code)]

mod become_program;
mod channel;
pub mod create;
mod error;
pub mod example;
pub mod exec;
pub mod features;
pub mod foreground;
mod hooks;
mod init;
pub mod lifecycle;
pub mod plan;
mod rootfs;
pub mod shim;
pub mod spec;
pub mod state;
pub mod stats;
mod tend;

pub use become_program::check_preserved;
pub use error::{RuntimeError, chain};
pub use tend::ANNOTATION as INIT;
