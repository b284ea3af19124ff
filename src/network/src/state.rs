//! All that an engine's networks are, in one place behind one lock.
//!
//! [`State`] decides with [`crate::ipam`] and [`crate::rules`] and does it with [`crate::link`] and [`crate::nft`].
//! Nothing of it is asynchronous. The life of a network is in [`bridge`], of an endpoint in [`endpoint`], what a dead
//! engine left in [`restore`].

mod bridge;
mod endpoint;
mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::conntrack;
use crate::directory::Directory;
use crate::dns::{self, Resolver};
use crate::error::kernel;
use crate::ipam::Ipam;
use crate::link::Links;
use crate::nft::Table;
use crate::ports::{self, Chooser, Held, SharedTarget, Target};
use crate::reaper::Reaper;
use crate::rules::{self, Bridge, Chain, Forward, Protocol};
use crate::sandbox::{self, Space, Spare};
use crate::{Driver, Endpoint, Network, NetworkError, Options, Port, PublishedPort};

/// Everything.
#[derive(Debug)]
pub(crate) struct State {
    run: PathBuf,
    /// Begins the alias of every link that is ours.
    tag: String,
    links: Links,
    table: Table,
    ipam: Ipam,
    networks: BTreeMap<String, Placed>,
    sandboxes: BTreeMap<String, Sandbox>,
    directory: Arc<RwLock<Directory>>,
    /// Where the search for a free port begins.
    cursor: u16,
    reaper: Reaper,
    pub(crate) spare: Spare,
}

/// A network with its link.
#[derive(Debug)]
struct Placed {
    network: Network,
    index: u32,
    /// Whether the link was made by us, and goes with the network.
    owned: bool,
}

/// A container's namespace and what is in it.
#[derive(Debug)]
struct Sandbox {
    space: Space,
    endpoints: BTreeMap<String, Endpoint>,
    ports: Vec<Publication>,
    target: SharedTarget,
    names: Option<Task>,
}

#[derive(Debug)]
struct Publication {
    published: PublishedPort,
    /// Holds the port; none when another program took it while no engine ran.
    relay: Option<Task>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(Option<JoinHandle<()>>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Handle::current().spawn(work)))
    }

    /// Ends it, and returns when its sockets are closed.
    fn end(mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            // That it was cancelled is what was wanted.
            let _ = Handle::current().block_on(task);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl State {
    pub(crate) fn open(options: Options) -> Result<Self, NetworkError> {
        let mark = mark_of(&options.run);
        let table = format!("knarr{}", mark.as_ref().map_or_else(String::new, |mark| format!("-{mark}")));
        Ok(Self {
            tag: format!("{table}:"),
            links: Links::open().map_err(kernel("talk to the kernel about links"))?,
            table: Table::open(&table, &Chain::ALL).map_err(kernel("talk to the kernel about rules"))?,
            ipam: Ipam::new(options.pools),
            run: options.run,
            networks: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            directory: Arc::default(),
            cursor: 0,
            reaper: Reaper::default(),
            spare: Spare::default(),
        })
    }

    pub(crate) fn make_sandbox(&mut self, container: &str) -> Result<PathBuf, NetworkError> {
        let path = self.sandbox_path(container)?;
        if self.sandboxes.contains_key(container) {
            return Ok(path);
        }
        sandbox::remove(&path).map_err(kernel(format!("remove the old namespace {}", path.display())))?;
        let space = self.spare.take().map_err(kernel("make a network namespace"))?;
        sandbox::hold(&space, &path)
            .map_err(kernel(format!("let {} hold a network namespace", path.display())))?;
        self.sandboxes.insert(container.to_owned(), Sandbox::new(space));
        Ok(path)
    }

    pub(crate) fn remove_sandbox(&mut self, container: &str) -> Result<(), NetworkError> {
        let path = self.sandbox_path(container)?;
        let Some(mut sandbox) = self.sandboxes.remove(container) else {
            return sandbox::remove(&path).map_err(kernel(format!("remove {}", path.display())));
        };
        let ports = sandbox.published();
        let names = sandbox.names.take().into_iter();
        let relays = sandbox.ports.drain(..).filter_map(|port| port.relay);
        names.chain(relays).for_each(Task::end);
        for endpoint in sandbox.endpoints.values() {
            self.forget_endpoint(container, endpoint);
        }
        self.take_away(&sandbox);
        let _ = fs::remove_file(self.names_path(container));
        let removed = sandbox::remove(&path).map_err(kernel(format!("remove {}", path.display())));
        self.ports_changed(&ports).and(removed)
    }

    /// The kernel takes its time to take links away: that is done beside.
    fn take_away(&mut self, sandbox: &Sandbox) {
        let mut cables = Vec::new();
        for endpoint in sandbox.endpoints.values().filter(|endpoint| !endpoint.host_interface.is_empty()) {
            // One that is not found went with the container's namespace.
            if let Ok(Some(link)) = self.links.find(&endpoint.host_interface) {
                self.links.silence(link.index);
                cables.push(link.index);
            }
        }
        self.reaper.take_cables_away(cables);
    }

    /// Said before each call: links that are to go wait until nobody calls.
    pub(crate) fn used(&self) {
        self.reaper.used();
    }

    pub(crate) fn serve_names(&mut self, container: &str, upstream: &[IpAddr]) -> Result<(), NetworkError> {
        let directory = Arc::clone(&self.directory);
        let sandbox = self.sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        if let Some(names) = sandbox.names.take() {
            names.end();
        }
        let (udp, tcp) = name_sockets(sandbox)?;
        let resolver = Resolver { container: container.to_owned(), directory, upstream: upstream.to_vec() };
        sandbox.names = Some(Task::spawn(async move {
            match (tokio::net::UdpSocket::from_std(udp), tokio::net::TcpListener::from_std(tcp)) {
                (Ok(udp), Ok(tcp)) => dns::serve(resolver, udp, tcp).await,
                (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "names are not served"),
            }
        }));
        self.remember_names(container, upstream)
    }

    /// An engine that comes later must know that names were served, and by whom others are.
    fn remember_names(&self, container: &str, upstream: &[IpAddr]) -> Result<(), NetworkError> {
        let path = self.names_path(container);
        let text: String = upstream.iter().map(|server| format!("{server}\n")).collect();
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(kernel(format!("write {}", path.display())))
    }

    pub(crate) fn publish(
        &mut self,
        container: &str,
        ports: &[Port],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let held = self.reserve(container, ports)?;
        let published: Vec<PublishedPort> = held.iter().map(|held| held.published.clone()).collect();
        let sandbox = self.sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
        let before = sandbox.ports.len();
        for held in held {
            sandbox.hold(held);
        }
        if let Err(error) = self.ports_changed(&published) {
            let sandbox = self.sandboxes.get_mut(container).ok_or_else(|| no_sandbox(container))?;
            sandbox.ports.truncate(before);
            return Err(error);
        }
        Ok(published)
    }

    fn reserve(&mut self, container: &str, ports: &[Port]) -> Result<Vec<Held>, NetworkError> {
        let sandbox = self.sandboxes.get(container).ok_or_else(|| no_sandbox(container))?;
        let target = *sandbox.target.read().unwrap_or_else(PoisonError::into_inner);
        let all = self.sandboxes.values().flat_map(|sandbox| &sandbox.ports);
        let ours: Vec<&PublishedPort> = all.map(|port| &port.published).collect();
        let mut held: Vec<Held> = Vec::new();
        for port in ports {
            let ours = ours.iter().copied().chain(held.iter().map(|held| &held.published)).collect();
            let mut chooser = Chooser { ours, cursor: &mut self.cursor, target };
            let mut more = chooser.reserve(port)?;
            held.append(&mut more);
        }
        Ok(held)
    }

    pub(crate) fn unpublish(&mut self, container: &str) -> Result<(), NetworkError> {
        let Some(sandbox) = self.sandboxes.get_mut(container) else { return Ok(()) };
        let ports = sandbox.published();
        sandbox.ports.drain(..).filter_map(|port| port.relay).for_each(Task::end);
        self.ports_changed(&ports)
    }

    /// The rules follow the ports; so do clients that go on sending to one of them.
    fn ports_changed(&mut self, ports: &[PublishedPort]) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        self.apply_rules()?;
        let udp = ports.iter().filter(|port| port.protocol == "udp").map(|port| port.host_port);
        conntrack::forget_udp(&udp.collect()).map_err(kernel("forget what was sent to a port before"))
    }

    /// Hands the kernel all rules anew.
    fn apply_rules(&mut self) -> Result<(), NetworkError> {
        let bridges: Vec<Bridge> = self.networks.values().filter_map(bridge::as_rules_see_it).collect();
        let forwards: Vec<Forward> = self.sandboxes.values().flat_map(Sandbox::forwards).collect();
        self.table.replace(&rules::plan(&bridges, &forwards))
    }

    fn directory(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandbox_path(&self, container: &str) -> Result<PathBuf, NetworkError> {
        if container.is_empty() || container.starts_with('.') || container.contains(['/', '\0']) {
            return Err(NetworkError::Invalid { message: format!("invalid container id: {container:?}") });
        }
        Ok(self.run.join("netns").join(container))
    }

    fn names_path(&self, container: &str) -> PathBuf {
        self.run.join("names").join(container)
    }
}

impl Sandbox {
    fn new(space: Space) -> Self {
        let target = SharedTarget::default();
        Self { space, endpoints: BTreeMap::new(), ports: Vec::new(), target, names: None }
    }

    fn hold(&mut self, held: Held) {
        let published = held.published.clone();
        let relay = Some(Task::spawn(ports::relay(held, Arc::clone(&self.target))));
        self.ports.push(Publication { published, relay });
    }

    fn published(&self) -> Vec<PublishedPort> {
        self.ports.iter().map(|port| port.published.clone()).collect()
    }

    fn target(&self) -> Target {
        *self.target.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn forwards(&self) -> Vec<Forward> {
        let target = self.target();
        let ports = self.ports.iter().map(|port| &port.published);
        ports.filter_map(|published| forward_of(published, target)).collect()
    }
}

fn forward_of(published: &PublishedPort, target: Target) -> Option<Forward> {
    let address = target.same_family(published.host_ip)?;
    Some(Forward {
        protocol: Protocol::parse(&published.protocol)?,
        host: (published.host_ip, published.host_port).into(),
        container: (address, published.container_port).into(),
    })
}

/// Two sockets in the sandbox, and the rules that lead port 53 to them.
fn name_sockets(sandbox: &Sandbox) -> Result<(std::net::UdpSocket, std::net::TcpListener), NetworkError> {
    let opened = sandbox::inside(sandbox.space.file.as_fd(), || -> io::Result<_> {
        let udp = std::net::UdpSocket::bind((NAME_SERVER, 0))?;
        let tcp = std::net::TcpListener::bind((NAME_SERVER, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp, Table::open("knarr", &[Chain::Output])?))
    });
    let doing = "open the name server's sockets in a container";
    let (udp, tcp, mut table) = opened.and_then(|opened| opened).map_err(kernel(doing))?;
    let udp_address = udp.local_addr().map_err(kernel(doing))?;
    let tcp_address = tcp.local_addr().map_err(kernel(doing))?;
    table.replace(&rules::names(udp_address, tcp_address))?;
    Ok((udp, tcp))
}

/// Engines at other places than the usual one leave each other's links and rules alone.
fn mark_of(run: &Path) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    run.hash(&mut hasher);
    (run != Path::new("/run/knarr")).then(|| format!("{:08x}", hasher.finish() & 0xffff_ffff))
}

fn no_sandbox(container: &str) -> NetworkError {
    NetworkError::NotFound { message: format!("no network namespace for container {container}") }
}

fn no_network(id: &str) -> NetworkError {
    NetworkError::NotFound { message: format!("network {id} not found") }
}

const fn has_link(driver: Driver) -> bool {
    matches!(driver, Driver::Bridge | Driver::Macvlan | Driver::Ipvlan)
}

const NAME_SERVER: &str = "127.0.0.11";
