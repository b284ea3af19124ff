//! What an engine before this one left: taken over, completed, or removed.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::{Publication, Sandbox, State, has_link};
use crate::error::kernel;
use crate::ports;
use crate::sandbox;
use crate::{Endpoint, Left, Network, NetworkError, PublishedPort};

impl State {
    pub(crate) fn restore(&mut self, networks: Vec<Network>, left: Vec<Left>) -> Result<(), NetworkError> {
        for network in networks {
            self.adopt_network(network);
        }
        for left in left {
            let container = left.container.clone();
            // One that is broken must not keep the engine from all others.
            if let Err(error) = self.adopt_container(left) {
                tracing::error!(container, %error, source = ?error.source(), "a container's network is not whole");
            }
        }
        self.apply_rules()?;
        self.remove_leftover_files("netns", sandbox::remove)?;
        self.remove_leftover_files("names", |path| fs::remove_file(path))?;
        self.remove_leftover_links()
    }

    /// A network whose link cannot be made, as when its parent is gone, is kept: [`State::mend`] tries again.
    fn adopt_network(&mut self, network: Network) {
        let request = &network.request;
        if !has_link(request.driver) {
            self.place(network, 0, false);
            return;
        }
        self.ipam.adopt(&request.id, &request.name, &request.pools);
        let network = self.place(network, 0, false);
        if let Err(error) = self.mend(&network.request.id) {
            let name = network.request.name;
            tracing::error!(name, %error, source = ?error.source(), "a network's link is not there");
        }
    }

    fn adopt_container(&mut self, left: Left) -> Result<(), NetworkError> {
        let path = self.sandbox_path(&left.container)?;
        let opened = sandbox::open(&path);
        let Some(space) = opened.map_err(kernel(format!("open the namespace {}", path.display())))? else {
            tracing::warn!(container = left.container, "the namespace of a running container is gone");
            return Ok(());
        };
        self.sandboxes.insert(left.container.clone(), Sandbox::new(space));
        for endpoint in left.endpoints {
            self.adopt_endpoint(&left.container, endpoint)?;
        }
        self.settle(&left.container)?;
        if let Some(sandbox) = self.sandboxes.get_mut(&left.container) {
            left.ports.into_iter().for_each(|published| sandbox.adopt_port(published));
        }
        match read_servers(&self.names_path(&left.container)) {
            Some(upstream) => self.serve_names(&left.container, &upstream),
            None => Ok(()),
        }
    }

    fn adopt_endpoint(&mut self, container: &str, endpoint: Endpoint) -> Result<(), NetworkError> {
        if !self.networks.contains_key(&endpoint.network) {
            tracing::warn!(container, network = endpoint.network, "the network of a container is gone");
            return Ok(());
        }
        for address in endpoint.ipv4.iter().chain(&endpoint.ipv6) {
            let taken = self.ipam.take(&endpoint.network, address.addr().is_ipv6(), Some(address.addr()));
            if let Err(error) = taken {
                tracing::warn!(container, %error, "two containers have the address {address}");
            }
        }
        if !endpoint.interface.is_empty() && !self.is_plugged(container, &endpoint)? {
            self.plug(container, &endpoint)?;
        }
        self.add_endpoint(container, endpoint);
        Ok(())
    }

    /// Whether both ends are there, and the host's end is at the bridge.
    fn is_plugged(&mut self, container: &str, endpoint: &Endpoint) -> Result<bool, NetworkError> {
        let bridge = self.networks.get(&endpoint.network).map_or(0, |placed| placed.index);
        let Some(sandbox) = self.sandboxes.get_mut(container) else { return Ok(false) };
        let inside = sandbox.space.links.find(&endpoint.interface)?;
        if endpoint.host_interface.is_empty() {
            return Ok(inside.is_some());
        }
        let host = self.links.find(&endpoint.host_interface)?;
        let whole = inside.is_some() && host.as_ref().is_some_and(|link| link.master == bridge);
        if let (false, Some(half)) = (whole, host) {
            self.links.remove(half.index)?;
        }
        Ok(whole)
    }

    /// Files of containers that do not run.
    fn remove_leftover_files(
        &self,
        folder: &str,
        remove: fn(&Path) -> io::Result<()>,
    ) -> Result<(), NetworkError> {
        let folder = self.run.join(folder);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(kernel(format!("list {}", folder.display())))?,
        };
        for entry in entries {
            let entry = entry.map_err(kernel(format!("list {}", folder.display())))?;
            let runs = entry.file_name().to_str().is_some_and(|name| self.sandboxes.contains_key(name));
            if !runs {
                remove(&entry.path()).map_err(kernel(format!("remove {}", entry.path().display())))?;
            }
        }
        Ok(())
    }

    /// Links with our mark that belong to nothing we know.
    fn remove_leftover_links(&mut self) -> Result<(), NetworkError> {
        let networks = self.networks.keys().cloned();
        let sandboxes = self.sandboxes.values();
        let endpoints =
            sandboxes.flat_map(|sandbox| sandbox.endpoints.values().map(|endpoint| endpoint.id.clone()));
        let known: BTreeSet<String> = networks.chain(endpoints).collect();
        for link in self.links.all()? {
            let ours = link.alias.strip_prefix(&self.tag);
            if ours.is_some_and(|id| !known.contains(id)) {
                self.links.remove(link.index)?;
            }
        }
        Ok(())
    }
}

impl Sandbox {
    /// Holds a port that was published before. Its rules stand even when another program has its socket now.
    fn adopt_port(&mut self, published: PublishedPort) {
        match ports::hold_again(&published) {
            Ok(held) => self.hold(held),
            Err(error) => {
                tracing::warn!(%error, ?published, "a published port is held by another program");
                self.ports.push(Publication { published, relay: None });
            }
        }
    }
}

/// The name servers that were in use; `None` when names were not served.
fn read_servers(path: &Path) -> Option<Vec<IpAddr>> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().filter_map(|line| line.parse().ok()).collect())
}
