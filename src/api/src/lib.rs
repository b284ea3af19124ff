//! The Docker Engine API over HTTP: paths, parameters, statuses and streams.
//!
//! Start with [`serve`]; [`router`] has the list of what can be asked for. What requests do is the engine's work.
//!
//! Spec: Docker Engine API 1.24 to 1.53.
#![forbid(unsafe_code)]

mod body;
mod containers;
mod drain;
mod error;
mod exec;
mod hijack;
mod images;
mod legacy;
mod lenient;
pub mod metrics;
mod networks;
mod peer;
mod query;
mod router;
mod serve;
mod system;
mod version;
mod volumes;
mod websocket;

#[doc(hidden)]
pub use images::try_auth;
pub use serve::{Listen, Tls, serve};
