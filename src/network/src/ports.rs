//! Ports of the host: which are free, who holds them, and a relay for what rules cannot forward.
//!
//! [`reserve`] binds real sockets, so that a port is never given out twice, not even by another program. [`relay`] then
//! answers on them: what the packet rules redirect never comes here, what they cannot redirect (`::1`, IPv6 for a
//! container without IPv6) does.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::rules::Protocol;
use crate::{NetworkError, Port, PublishedPort};

/// Where a container's ports are: its addresses in the network that has its default route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) ipv4: Option<IpAddr>,
    pub(crate) ipv6: Option<IpAddr>,
}

impl Target {
    /// The address for a client of this family; the other one when there is none.
    fn for_client(self, ipv6: bool) -> Option<IpAddr> {
        if ipv6 { self.ipv6.or(self.ipv4) } else { self.ipv4.or(self.ipv6) }
    }

    pub(crate) fn same_family(self, host: IpAddr) -> Option<IpAddr> {
        if host.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// A target that changes while others look at it.
pub(crate) type SharedTarget = Arc<RwLock<Target>>;

/// A port of the host that is ours.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) published: PublishedPort,
    socket: HeldSocket,
}

#[derive(Debug)]
enum HeldSocket {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
    /// The kernel has no sockets of this protocol.
    None,
}

/// What is known when ports are chosen.
pub(crate) struct Chooser<'a> {
    /// All that are published, by us.
    pub(crate) ours: Vec<&'a PublishedPort>,
    /// Where the next search for a free port begins.
    pub(crate) cursor: &'a mut u16,
    pub(crate) target: Target,
}

impl Chooser<'_> {
    /// Holds a port on all addresses that were asked for.
    pub(crate) fn reserve(&mut self, port: &Port) -> Result<Vec<Held>, NetworkError> {
        let protocol = Protocol::parse(&port.protocol).ok_or_else(|| NetworkError::Invalid {
            message: format!("invalid transport protocol: {}", port.protocol),
        })?;
        let (first, last) = port.host_ports.unwrap_or((0, 0));
        if first != 0 && first == last {
            return self.hold(protocol, port, first);
        }
        let range = if first == 0 { ephemeral() } else { (first, last) };
        self.search(protocol, port, range, first == 0)
    }

    fn search(
        &mut self,
        protocol: Protocol,
        port: &Port,
        (first, last): (u16, u16),
        round: bool,
    ) -> Result<Vec<Held>, NetworkError> {
        if first > last {
            return Err(NetworkError::Invalid { message: format!("invalid port range: {first}-{last}") });
        }
        let start = if round { (*self.cursor).clamp(first, last) } else { first };
        let mut refusal = None;
        for candidate in (start..=last).chain(first..start) {
            match self.hold(protocol, port, candidate) {
                Ok(held) => {
                    if round {
                        *self.cursor = candidate.checked_add(1).unwrap_or(first);
                    }
                    return Ok(held);
                }
                Err(NetworkError::Conflict { message }) => refusal = Some(message),
                Err(other) => return Err(other),
            }
        }
        let message = refusal.unwrap_or_default();
        Err(NetworkError::Conflict { message: format!("all ports are allocated: {message}") })
    }

    fn hold(&self, protocol: Protocol, port: &Port, number: u16) -> Result<Vec<Held>, NetworkError> {
        let everywhere = port.host_ip.is_none();
        let addresses = port.host_ip.map_or_else(
            || vec![IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)],
            |address| vec![address],
        );
        let mut held = Vec::new();
        for host_ip in addresses {
            let published = PublishedPort {
                protocol: port.protocol.clone(),
                container_port: port.container_port,
                host_ip,
                host_port: number,
            };
            match self.hold_one(protocol, published) {
                Err(NetworkError::Unsupported { .. }) if everywhere && host_ip.is_ipv6() => {}
                one => held.push(one?),
            }
        }
        Ok(held)
    }

    fn hold_one(&self, protocol: Protocol, published: PublishedPort) -> Result<Held, NetworkError> {
        let place = SocketAddr::new(published.host_ip, published.host_port);
        if self.ours.iter().any(|other| collide(other, &published)) {
            let message = format!("Bind for {place} failed: port is already allocated");
            return Err(NetworkError::Conflict { message });
        }
        let socket = match open(protocol, place) {
            Ok(socket) => socket,
            Err(error) => return Err(self.refused(&published, &error)),
        };
        Ok(Held { published, socket })
    }

    fn refused(&self, published: &PublishedPort, error: &io::Error) -> NetworkError {
        let PublishedPort { protocol, container_port, host_ip, host_port } = published;
        if host_ip.is_ipv6() && host_ip.is_unspecified() && error.kind() != io::ErrorKind::AddrInUse {
            return NetworkError::Unsupported { message: "this host has no IPv6".to_owned() };
        }
        let place = SocketAddr::new(*host_ip, *host_port);
        let target = self.target.for_client(host_ip.is_ipv6()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let to = SocketAddr::new(target, *container_port);
        let message = format!("failed to bind host port for {place}:{to}/{protocol}: {}", reason(error));
        NetworkError::Conflict { message }
    }
}

/// Holds again what was published before; the error says who cannot be held.
pub(crate) fn hold_again(published: &PublishedPort) -> io::Result<Held> {
    let protocol = Protocol::parse(&published.protocol).ok_or(io::ErrorKind::InvalidInput)?;
    let place = SocketAddr::new(published.host_ip, published.host_port);
    Ok(Held { published: published.clone(), socket: open(protocol, place)? })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        _ => error.to_string(),
    }
}

fn collide(one: &PublishedPort, other: &PublishedPort) -> bool {
    let same_family = one.host_ip.is_ipv4() == other.host_ip.is_ipv4();
    let overlap =
        one.host_ip == other.host_ip || one.host_ip.is_unspecified() || other.host_ip.is_unspecified();
    one.protocol == other.protocol && one.host_port == other.host_port && same_family && overlap
}

/// The kernel's own range of ports for those who name none.
fn ephemeral() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => (32_768, 60_999),
    }
}

fn open(protocol: Protocol, place: SocketAddr) -> io::Result<HeldSocket> {
    match protocol {
        Protocol::Tcp => {
            let socket = bound(SocketType::STREAM, place)?;
            listen(&socket, BACKLOG)?;
            Ok(HeldSocket::Tcp(socket.into()))
        }
        Protocol::Udp => Ok(HeldSocket::Udp(bound(SocketType::DGRAM, place)?.into())),
        Protocol::Sctp => Ok(HeldSocket::None),
    }
}

fn bound(kind: SocketType, place: SocketAddr) -> io::Result<OwnedFd> {
    let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, Some(protocol))?;
    if place.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        // Connections that ended a moment ago do not keep the port; two that listen still collide.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &place)?;
    Ok(socket)
}

/// Answers on a held port until it is dropped.
pub(crate) async fn relay(held: Held, target: SharedTarget) {
    let port = held.published.container_port;
    let ended = match held.socket {
        HeldSocket::Tcp(listener) => relay_tcp(listener, target, port).await,
        HeldSocket::Udp(socket) => relay_udp(socket, target, port).await,
        HeldSocket::None => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, published = ?held.published, "a published port is no longer relayed");
    }
}

fn address_of(target: &SharedTarget, client: SocketAddr, port: u16) -> Option<SocketAddr> {
    let target = *target.read().unwrap_or_else(PoisonError::into_inner);
    target.for_client(client.is_ipv6()).map(|address| SocketAddr::new(address, port))
}

async fn relay_tcp(listener: std::net::TcpListener, target: SharedTarget, port: u16) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    if let Some(to) = address_of(&target, client, port) {
                        connections.spawn(carry(stream, to));
                    }
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr) {
    let carried = async {
        let mut server = TcpStream::connect(to).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, %to, "a relayed connection ended");
    }
}

async fn relay_udp(socket: std::net::UdpSocket, target: SharedTarget, port: u16) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((size, client)) = received else { continue };
                let Some(to) = address_of(&target, client, port) else { continue };
                if !clients.contains_key(&client) {
                    if clients.len() >= MOST_CLIENTS {
                        continue;
                    }
                    let Ok(own) = connected(to).await else { continue };
                    answers.spawn(carry_answers(Arc::clone(&socket), Arc::clone(&own), client));
                    clients.insert(client, own);
                }
                if let Err(error) = clients[&client].send(&buffer[..size]).await {
                    tracing::debug!(%error, %to, "a relayed datagram was not sent");
                }
            }
            Some(ended) = answers.join_next(), if !answers.is_empty() => {
                if let Ok(client) = ended {
                    clients.remove(&client);
                }
            }
        }
    }
}

async fn connected(to: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(Arc::new(socket))
}

/// Carries what the container answers until it has been silent for long.
async fn carry_answers(socket: Arc<UdpSocket>, own: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while let Ok(Ok(size)) = tokio::time::timeout(SILENCE, own.recv(&mut buffer)).await {
        if socket.send_to(&buffer[..size], client).await.is_err() {
            break;
        }
    }
    client
}

const BACKLOG: i32 = 128;
const DATAGRAM_BYTES: usize = 65_535;
const MOST_CLIENTS: usize = 1024;
const SILENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    use super::{Chooser, Target, collide};
    use crate::{NetworkError, Port, PublishedPort};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn port(host_ports: Option<(u16, u16)>) -> Port {
        Port { protocol: "tcp".to_owned(), container_port: 80, host_ip: Some(LOCAL), host_ports }
    }

    fn published(host_ip: &str, host_port: u16) -> PublishedPort {
        let host_ip = host_ip.parse().expect("an address");
        PublishedPort { protocol: "tcp".to_owned(), container_port: 80, host_ip, host_port }
    }

    fn chooser<'a>(ours: Vec<&'a PublishedPort>, cursor: &'a mut u16) -> Chooser<'a> {
        let target = Target { ipv4: Some(IpAddr::from([172, 17, 0, 2])), ipv6: None };
        Chooser { ours, cursor, target }
    }

    #[test]
    fn all_addresses_collide_with_one_of_the_same_family() {
        assert!(collide(&published("0.0.0.0", 80), &published("127.0.0.1", 80)));
        assert!(!collide(&published("127.0.0.2", 80), &published("127.0.0.1", 80)));
        assert!(!collide(&published("::", 80), &published("127.0.0.1", 80)));
        assert!(!collide(&published("0.0.0.0", 81), &published("127.0.0.1", 80)));
    }

    #[test]
    fn a_port_of_ours_is_already_allocated() {
        let mine = published("0.0.0.0", 8080);
        let error = chooser(vec![&mine], &mut 0).reserve(&port(Some((8080, 8080)))).expect_err("taken");
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:8080 failed: port is already allocated");
    }

    #[test]
    fn a_port_of_a_stranger_is_in_use() {
        let stranger = TcpListener::bind((LOCAL, 0)).expect("a socket");
        let number = stranger.local_addr().expect("its address").port();
        let error = chooser(vec![], &mut 0).reserve(&port(Some((number, number)))).expect_err("taken");
        let expected = format!(
            "failed to bind host port for 127.0.0.1:{number}:172.17.0.2:80/tcp: address already in use"
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_none_when_all_are_taken() {
        let stranger = TcpListener::bind((LOCAL, 0)).expect("a socket");
        let number = stranger.local_addr().expect("its address").port();
        let range = Some((number, number.saturating_add(9)));
        let held = chooser(vec![], &mut 0).reserve(&port(range)).expect("one is free");
        assert!(held[0].published.host_port > number);
        let mine: Vec<PublishedPort> = (1..=3).map(|number| published("0.0.0.0", number)).collect();
        let error = chooser(mine.iter().collect(), &mut 0).reserve(&port(Some((1, 3)))).expect_err("none");
        assert!(matches!(error, NetworkError::Conflict { .. }));
    }

    #[test]
    fn a_free_port_is_held_while_it_is_reserved() {
        let mut cursor = 0;
        let held = chooser(vec![], &mut cursor).reserve(&port(None)).expect("a free port");
        let number = held[0].published.host_port;
        assert!(number > 0 && cursor > number);
        TcpListener::bind((LOCAL, number)).expect_err("it is held");
        drop(held);
        TcpListener::bind((LOCAL, number)).expect("it is free again");
    }

    #[test]
    fn a_relay_prefers_the_clients_family() {
        let target = Target { ipv4: Some(LOCAL), ipv6: None };
        assert_eq!(target.for_client(true), Some(LOCAL));
        assert_eq!(target.same_family("::1".parse().expect("an address")), None);
    }
}
