//! The Docker Engine API over HTTP: paths, parameters, statuses and streams.
//!
//! Start with [`serve`]. What requests do is the engine's work.
//!
//! Spec: Docker Engine API 1.24 to 1.53.
#![forbid(unsafe_code)]

mod serve;

pub use serve::{Listen, Tls, serve};
