//! Networks of containers: bridges, addresses, rules of nf_tables, names.
//!
//! [`Networks`] is the one that touches the kernel; `ipam` decides addresses, `rules` decides packets.
//! Who has which container is for the engine to know.
//!
//! Spec: docs/decisions/010-network.md.
#![forbid(unsafe_code)]

mod conntrack;
mod directory;
mod dns;
mod error;
mod ipam;
mod link;
mod networks;
mod nft;
mod ports;
mod reaper;
mod rules;
mod sandbox;
mod state;
mod types;
mod wire;

#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use dns::try_question;
pub use error::NetworkError;
pub use networks::{Networks, Options};
pub use types::{
    Driver, Endpoint, EndpointRequest, Left, Network, NetworkRequest, Pool, Port, PublishedPort,
};
