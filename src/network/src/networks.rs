//! The networks of an engine, in the kernel.
//!
//! [`Networks`] is the door: each call is done as a whole behind one lock, on a thread that may wait for the kernel, also
//! when its caller goes away. What is done is in [`crate::state`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::task::spawn_blocking;

use crate::error::kernel;
use crate::state::State;
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
    shared: Arc<Mutex<State>>,
}

impl Networks {
    /// Connects to the kernel. Nothing is changed before a network is made or restored.
    pub async fn open(options: Options) -> Result<Self, NetworkError> {
        let state = spawn_blocking(move || State::open(options)).await;
        let state = state.map_err(|error| kernel("open the networks")(error.into()))??;
        state.spare.make_later();
        Ok(Self { shared: Arc::new(Mutex::new(state)) })
    }
    /// Takes over what an engine before this one left: makes what is missing of `networks` and of the running
    /// containers' endpoints and ports, and removes what of ours is in neither list.
    pub async fn restore(&self, networks: Vec<Network>, left: Vec<Left>) -> Result<(), NetworkError> {
        self.with(move |state| state.restore(networks, left)).await
    }
    /// Makes a network: chooses its addresses, makes its link and its rules.
    pub async fn create(&self, request: NetworkRequest) -> Result<Network, NetworkError> {
        self.with(move |state| state.create(request)).await
    }
    /// Removes a network that has no endpoints.
    pub async fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let id = id.to_owned();
        self.with(move |state| state.remove(&id)).await
    }
    /// Makes a container's network namespace, with its loopback up, and answers with the file that holds it.
    pub async fn make_sandbox(&self, container: &str) -> Result<PathBuf, NetworkError> {
        let container = container.to_owned();
        self.with(move |state| state.make_sandbox(&container)).await
    }
    /// Removes it with all endpoints and ports of the container; one that is not there is no error.
    pub async fn remove_sandbox(&self, container: &str) -> Result<(), NetworkError> {
        let container = container.to_owned();
        self.with(move |state| state.remove_sandbox(&container)).await
    }
    /// Connects a container, also one that runs. Name servers of the container's own are asked instead of the host's.
    pub async fn connect(
        &self,
        container: &str,
        network: &str,
        request: EndpointRequest,
    ) -> Result<Endpoint, NetworkError> {
        let (container, network) = (container.to_owned(), network.to_owned());
        self.with(move |state| state.connect(&container, &network, request)).await
    }
    /// Disconnects it.
    pub async fn disconnect(&self, container: &str, network: &str) -> Result<(), NetworkError> {
        let (container, network) = (container.to_owned(), network.to_owned());
        self.with(move |state| state.disconnect(&container, &network)).await
    }
    /// Changes the names by which others find a container (after a rename).
    pub async fn rename(
        &self,
        container: &str,
        network: &str,
        names: Vec<String>,
    ) -> Result<(), NetworkError> {
        let (container, network) = (container.to_owned(), network.to_owned());
        self.with(move |state| state.rename(&container, &network, names)).await
    }
    /// Serves names in the sandbox at 127.0.0.11; `upstream` are the name servers for all others, the host's when empty.
    pub async fn serve_names(&self, container: &str, upstream: Vec<IpAddr>) -> Result<(), NetworkError> {
        let container = container.to_owned();
        self.with(move |state| state.serve_names(&container, &upstream)).await
    }
    /// Publishes ports, all or none.
    pub async fn publish(
        &self,
        container: &str,
        ports: Vec<Port>,
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let container = container.to_owned();
        self.with(move |state| state.publish(&container, &ports)).await
    }
    /// Takes them back.
    pub async fn unpublish(&self, container: &str) -> Result<(), NetworkError> {
        let container = container.to_owned();
        self.with(move |state| state.unpublish(&container)).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let shared = Arc::clone(&self.shared);
        let done = spawn_blocking(move || {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.used();
            let done = work(&mut state);
            state.used();
            done
        });
        done.await.map_err(|error| kernel("finish a change of the networks")(error.into()))?
    }
}
