//! Networks of containers: bridges, addresses, rules of nf_tables, names.
//!
//! [`Networks`] is the one that touches the kernel; [`ipam`] decides addresses, [`rules`] decides packets.
//! Who has which container is for the engine to know.
//!
//! Spec: docs/decisions/010-network.md.
#![forbid(unsafe_code)]

mod error;
mod networks;
mod types;

pub use error::NetworkError;
pub use networks::{Networks, Options};
pub use types::{
    Driver, Endpoint, EndpointRequest, Left, Network, NetworkRequest, Pool, Port, PublishedPort,
};
