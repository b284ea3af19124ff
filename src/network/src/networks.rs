//! The networks of an engine, in the kernel.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{Endpoint, EndpointRequest, Left, Network, NetworkError, NetworkRequest, Port, PublishedPort};

/// What networks are opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What ends with the machine; sandboxes lie below it in `netns/`.
    pub run: PathBuf,
    /// Pools for networks that name none, with the prefix length of one network.
    pub pools: Vec<(IpNet, u8)>,
}

/// All networks of an engine. Clones are the same.
#[derive(Clone, Debug)]
pub struct Networks {
    shared: Arc<()>,
}

impl Networks {
    /// Connects to the kernel. Nothing is changed before a network is made or restored.
    pub async fn open(options: Options) -> Result<Self, NetworkError> {
        todo!()
    }
    /// Takes over what an engine before this one left: makes what is missing of `networks` and of the running
    /// containers' endpoints and ports, and removes what of ours is in neither list.
    pub async fn restore(&self, networks: Vec<Network>, left: Vec<Left>) -> Result<(), NetworkError> {
        todo!()
    }
    /// Makes a network: chooses its addresses, makes its link and its rules.
    pub async fn create(&self, request: NetworkRequest) -> Result<Network, NetworkError> {
        todo!()
    }
    /// Removes a network that has no endpoints.
    pub async fn remove(&self, id: &str) -> Result<(), NetworkError> {
        todo!()
    }
    /// Makes a container's network namespace, with its loopback up, and answers with the file that holds it.
    pub async fn make_sandbox(&self, container: &str) -> Result<PathBuf, NetworkError> {
        todo!()
    }
    /// Removes it with all endpoints and ports of the container; one that is not there is no error.
    pub async fn remove_sandbox(&self, container: &str) -> Result<(), NetworkError> {
        todo!()
    }
    /// Connects a container, also one that runs. Name servers of the container's own are asked instead of the host's.
    pub async fn connect(
        &self,
        container: &str,
        network: &str,
        request: EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        todo!()
    }
    /// Disconnects it.
    pub async fn disconnect(&self, container: &str, network: &str) -> Result<(), NetworkError> {
        todo!()
    }
    /// Changes the names by which others find a container (after a rename).
    pub async fn rename(
        &self,
        container: &str,
        network: &str,
        names: Vec<String>,
    ) -> Result<(), NetworkError> {
        todo!()
    }
    /// Serves names in the sandbox at 127.0.0.11; `upstream` are the name servers for all others, the host's when empty.
    pub async fn serve_names(&self, container: &str, upstream: Vec<IpAddr>) -> Result<(), NetworkError> {
        todo!()
    }
    /// Publishes ports, all or none.
    pub async fn publish(
        &self,
        container: &str,
        ports: Vec<Port>,
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        todo!()
    }
    /// Takes them back.
    pub async fn unpublish(&self, container: &str) -> Result<(), NetworkError> {
        todo!()
    }
}
