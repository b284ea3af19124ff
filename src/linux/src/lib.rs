//! The kernel: namespaces, mounts, sandboxes, signals. All `unsafe` of the project lives here.
//!
//! Start with [`sandbox::Session`], in which programs of a root run without seeing the host. What
//! those programs are is for others to know.
//!
//! Spec: namespaces(7), user_namespaces(7), pid_namespaces(7), mount_namespaces(7).
//!
//! JUSTIFICATION for `unsafe`: mapping a file ([`mapped`]), giving memory back ([`memory`]), resetting signals ([`signals`]) and system calls that no
//! library wraps (clone3, mount_setattr, capset, seccomp, bpf and their kin) have no safe form.

pub mod capability;
pub mod cgroup;
pub mod emulator;
pub mod error;
pub mod first;
pub mod mapped;
pub mod memory;
pub mod mounts;
pub mod namespace;
pub mod overlay;
pub mod process;
pub mod sandbox;
pub mod seal;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod space;
pub mod terminal;
mod trace;

pub use error::LinuxError;

/// Must be the first thing in `main`: some of this crate's work is done by this same program,
/// started again under another name. Returns when this is not such a start.
pub fn init_if_requested() {
    let name = std::env::args_os().next().unwrap_or_default();
    match name.to_str() {
        Some(sandbox::SUPERVISOR_NAME) => std::process::exit(sandbox::supervise()),
        Some(namespace::MAPPER_NAME) => std::process::exit(namespace::map_ids()),
        _ => {}
    }
}
