//! The engine: containers, images, volumes, networks and what happened to them.
//!
//! Start with [`Engine`]. Its methods are what the Engine API can ask for, in the words of the generated models; one file
//! per noun. How requests come in is `api`'s work, how a process is made is `runtime`'s.
//!
//! Spec: Docker Engine API 1.53; docs/formats/container.md.
#![forbid(unsafe_code)]

pub mod containers;
mod engine;
mod error;
pub mod events;
pub mod filters;
mod held;
pub mod images;
pub mod logs;
pub mod meters;
pub mod networks;
mod reload;
pub mod shim;
pub mod stream;
pub mod system;
mod view;
pub mod volumes;

pub use engine::{Engine, Options};
pub use error::{EngineError, Kind};
pub use reload::Reloadable;

/// The models of the Engine API, as generated from its public description.
pub use bollard_stubs::models;
