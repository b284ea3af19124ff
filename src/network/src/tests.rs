//! Networks in the kernel: each test has a host of its own, a namespace that ends with it. They need root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use knarr_linux::namespace::is_unprivileged;
use knarr_linux::process::{Namespace, unshare};
use nix::mount::{MsFlags, mount};

use crate::link::{Links, Veth};
use crate::sandbox::{self, Space};
use crate::{
    Driver, Endpoint, EndpointRequest, Left, Network, NetworkError, NetworkRequest, Networks, Options, Pool,
    Port, PublishedPort,
};

const PATIENCE: Duration = Duration::from_secs(3);
/// How long something is tried that must not succeed.
const NEVER: Duration = Duration::from_millis(400);

/// A host with a neighbour.
struct World {
    networks: Networks,
    run: PathBuf,
    /// Another machine on the host's network: the host is 192.0.2.1, this one 192.0.2.9.
    neighbour: PathBuf,
    _held: Space,
    _folder: tempfile::TempDir,
}

/// Runs a test on a host of its own; without root there is none, and nothing is tested.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send + 'static) {
    if is_unprivileged() {
        return;
    }
    let ended = thread::spawn(move || {
        unshare(Namespace::Network.flag() | Namespace::Mount.flag()).expect("namespaces");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private mounts");
        let runtime = runtime();
        runtime.block_on(async { test(world().await).await });
    });
    if let Err(panic) = ended.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let neighbour = folder.path().join("neighbour");
    let mut held = sandbox::make().expect("a namespace");
    sandbox::hold(&held, &neighbour).expect("a file that holds it");
    let mut links = Links::open().expect("links");
    links.up(1).expect("the loopback");
    let lan = links.add_bridge("lan0", "a stranger's", [2, 0, 0, 0, 0, 1], None).expect("a bridge");
    links.add_address(lan, net("192.0.2.1/24")).expect("an address");
    let veth = Veth {
        host: "lan1",
        alias: "a stranger's",
        inside: "eth0",
        mac: [2, 0, 0, 0, 0, 9],
        bridge: lan,
        mtu: None,
        namespace: held.file.as_fd(),
        isolated: false,
        hairpin: false,
    };
    links.add_veth(&veth).expect("a cable");
    let index = held.links.index("eth0").expect("its end");
    held.links.configure(index, &[net("192.0.2.9/24")]).expect("an address");
    held.links.set_default_route(index, false, Some(ip("192.0.2.1"))).expect("a route");
    let run = folder.path().join("run");
    World { networks: open(&run).await, run, neighbour, _held: held, _folder: folder }
}

async fn open(run: &Path) -> Networks {
    let pools = vec![(net("172.17.0.0/16"), 16), (net("172.18.0.0/15"), 16), (net("10.64.0.0/10"), 24)];
    Networks::open(Options { run: run.to_owned(), pools }).await.expect("networks")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn request(name: &str, digit: char) -> NetworkRequest {
    NetworkRequest {
        id: digit.to_string().repeat(64),
        name: name.to_owned(),
        driver: Driver::Bridge,
        internal: false,
        ipv4: true,
        ipv6: false,
        pools: Vec::new(),
        options: BTreeMap::new(),
    }
}

fn named(names: &[&str]) -> EndpointRequest {
    EndpointRequest {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..EndpointRequest::default()
    }
}

fn port(container_port: u16, host_port: Option<u16>) -> Port {
    let host_ports = host_port.map(|port| (port, port));
    Port { protocol: "tcp".to_owned(), container_port, host_ip: None, host_ports }
}

impl World {
    async fn network(&self, name: &str, digit: char) -> Network {
        self.networks.create(request(name, digit)).await.expect("a network")
    }

    async fn container(&self, name: &str, network: &Network) -> (PathBuf, Endpoint) {
        let sandbox = self.networks.make_sandbox(name).await.expect("a sandbox");
        let endpoint = self.networks.connect(name, &network.request.id, named(&[name])).await;
        (sandbox, endpoint.expect("an endpoint"))
    }
}

fn inside<T: Send>(sandbox: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(sandbox).expect("a sandbox");
    sandbox::inside(file.as_fd(), work).expect("to be inside")
}

/// A server in a sandbox that tells each client where it sees it come from.
fn serve(sandbox: &Path, place: &str) {
    let listener = inside(sandbox, || TcpListener::bind(place)).expect("a listener");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Ok(client) = stream.peer_addr() else { continue };
            let _ = stream.write_all(client.ip().to_string().as_bytes());
        }
    });
}

fn fetch(place: &str, patience: Duration) -> io::Result<String> {
    let place: SocketAddr = place.parse().expect("an address with a port");
    let mut stream = TcpStream::connect_timeout(&place, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
}

fn fetch_from(sandbox: &Path, place: &str) -> String {
    inside(sandbox, || fetch(place, PATIENCE)).expect("an answer")
}

fn cannot_reach(sandbox: &Path, place: &str) {
    let answer = inside(sandbox, || fetch(place, NEVER));
    assert!(answer.is_err(), "{place} answered: {answer:?}");
}

fn address(endpoint: &Endpoint) -> IpAddr {
    endpoint.ipv4.expect("an address").addr()
}

fn at(endpoint: &Endpoint, port: u16) -> String {
    SocketAddr::new(address(endpoint), port).to_string()
}

fn ask(sandbox: &Path, name: &str, kind: RecordType, stream: bool) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let question = message.to_vec().expect("a message");
    let answer = inside(sandbox, || if stream { ask_tcp(&question) } else { ask_udp(&question) });
    Message::from_vec(&answer.expect("an answer")).expect("a message")
}

fn ask_udp(question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE * 3))?;
    socket.connect("127.0.0.11:53")?;
    socket.send(question)?;
    let mut buffer = vec![0; 4096];
    let size = socket.recv(&mut buffer)?;
    buffer.truncate(size);
    Ok(buffer)
}

fn ask_tcp(question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect("127.0.0.11:53")?;
    stream.set_read_timeout(Some(PATIENCE * 3))?;
    stream.write_all(&u16::try_from(question.len()).expect("short").to_be_bytes())?;
    stream.write_all(question)?;
    let mut size = [0; 2];
    stream.read_exact(&mut size)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(size))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn addresses_of(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn two_containers_of_a_network_reach_each_other_and_the_neighbour() {
    on_a_host(|world| async move {
        let network = world.network("front", 'a').await;
        assert_eq!(network.interface, "br-aaaaaaaaaaaa");
        let (one, first) = world.container("one", &network).await;
        let (two, _) = world.container("two", &network).await;
        assert_eq!(first.ipv4, Some(net("172.17.0.2/16")));
        assert_eq!((first.mac.as_str(), first.interface.as_str()), ("02:42:ac:11:00:02", "eth0"));
        serve(&one, "0.0.0.0:80");
        assert_eq!(fetch_from(&two, &at(&first, 80)), "172.17.0.3");
        serve(&world.neighbour, "0.0.0.0:80");
        assert_eq!(fetch_from(&two, "192.0.2.9:80"), "192.0.2.1");
        cannot_reach(&world.neighbour, &at(&first, 80));
    });
}

#[test]
fn networks_do_not_reach_each_other_until_a_container_is_in_both() {
    on_a_host(|world| async move {
        let (front, back) = (world.network("front", 'a').await, world.network("back", 'b').await);
        let (one, first) = world.container("one", &front).await;
        let (two, _) = world.container("two", &back).await;
        serve(&one, "0.0.0.0:80");
        cannot_reach(&two, &at(&first, 80));
        let second =
            world.networks.connect("two", &front.request.id, named(&["two"])).await.expect("connect");
        assert_eq!(second.interface, "eth1");
        assert_eq!(fetch_from(&two, &at(&first, 80)), address(&second).to_string());
        world.networks.disconnect("two", &front.request.id).await.expect("disconnect");
        cannot_reach(&two, &at(&first, 80));
    });
}

#[test]
fn an_internal_network_is_closed_whatever_its_id_is() {
    on_a_host(|world| async move {
        let open = world.network("open", 'm').await;
        let (outer, other) = world.container("outer", &open).await;
        serve(&world.neighbour, "0.0.0.0:80");
        serve(&outer, "0.0.0.0:80");
        for digit in ['a', 'z'] {
            let mut closed = request(&format!("closed{digit}"), digit);
            closed.internal = true;
            let closed = world.networks.create(closed).await.expect("a network");
            let (one, first) = world.container(&format!("one{digit}"), &closed).await;
            let (two, _) = world.container(&format!("two{digit}"), &closed).await;
            assert_eq!(first.gateway4, None);
            serve(&one, "0.0.0.0:80");
            fetch_from(&two, &at(&first, 80));
            inside(&two, || default_route(&closed)).expect("a route that must not help");
            cannot_reach(&two, "192.0.2.9:80");
            cannot_reach(&two, &at(&other, 80));
            cannot_reach(&outer, &at(&first, 80));
        }
    });
}

/// What a container with rights over its network could do.
fn default_route(network: &Network) -> Result<(), NetworkError> {
    let mut links = Links::open().expect("links");
    let index = links.index("eth0")?;
    links.set_default_route(index, false, network.request.pools[0].gateway)
}

#[test]
fn containers_without_icc_reach_the_outside_only() {
    on_a_host(|world| async move {
        let mut apart = request("apart", 'a');
        apart.options.insert("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned());
        let apart = world.networks.create(apart).await.expect("a network");
        let (one, first) = world.container("one", &apart).await;
        let (two, _) = world.container("two", &apart).await;
        serve(&one, "0.0.0.0:80");
        serve(&world.neighbour, "0.0.0.0:80");
        cannot_reach(&two, &at(&first, 80));
        fetch_from(&two, "192.0.2.9:80");
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_a_host(|world| async move {
        let (front, back) = (world.network("front", 'a').await, world.network("back", 'b').await);
        let (one, first) = world.container("one", &front).await;
        let (two, _) = world.container("two", &front).await;
        let (three, _) = world.container("three", &back).await;
        serve(&one, "0.0.0.0:80");
        let published = world.networks.publish("one", vec![port(80, Some(8080))]).await.expect("publish");
        let places: Vec<String> = published.iter().map(|port| port.host_ip.to_string()).collect();
        assert_eq!(places, ["0.0.0.0", "::"]);
        assert_eq!(fetch_from(&world.neighbour, "192.0.2.1:8080"), "192.0.2.9");
        let gateway = first.gateway4.expect("a gateway").to_string();
        assert_eq!(fetch("127.0.0.1:8080", PATIENCE).expect("the loopback"), gateway);
        assert_eq!(fetch("[::1]:8080", PATIENCE).expect("the loopback of IPv6"), gateway);
        fetch("192.0.2.1:8080", PATIENCE).expect("the host's address");
        fetch_from(&two, "192.0.2.1:8080");
        fetch_from(&three, "192.0.2.1:8080");
        fetch_from(&one, "192.0.2.1:8080");
        fetch_from(&one, &format!("{gateway}:8080"));
        world.networks.unpublish("one").await.expect("unpublish");
        assert!(fetch("127.0.0.1:8080", NEVER).is_err());
        cannot_reach(&world.neighbour, "192.0.2.1:8080");
        TcpListener::bind("0.0.0.0:8080").expect("the port is free");
    });
}

#[test]
fn a_port_on_the_loopback_is_not_for_others() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let (one, _) = world.container("one", &front).await;
        serve(&one, "0.0.0.0:80");
        let mut local = port(80, Some(8080));
        local.host_ip = Some(ip("127.0.0.1"));
        world.networks.publish("one", vec![local]).await.expect("publish");
        fetch("127.0.0.1:8080", PATIENCE).expect("the loopback");
        cannot_reach(&world.neighbour, "192.0.2.1:8080");
    });
}

#[test]
fn udp_is_published_too() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let (one, _) = world.container("one", &front).await;
        let server = inside(&one, || UdpSocket::bind("0.0.0.0:53")).expect("port 53 is the container's own");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((size, client)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..size], client);
            }
        });
        let mut udp = port(53, Some(5353));
        udp.protocol = "udp".to_owned();
        world.networks.publish("one", vec![udp]).await.expect("publish");
        for place in ["127.0.0.1:5353", "192.0.2.1:5353", "[::1]:5353"] {
            let own = if place.starts_with('[') { "[::1]:0" } else { "0.0.0.0:0" };
            let client = UdpSocket::bind(own).expect("a socket");
            client.set_read_timeout(Some(PATIENCE)).expect("a limit");
            client.send_to(b"hello", place).expect("sent");
            let mut buffer = [0; 64];
            let (size, from) =
                client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!((&buffer[..size], from.to_string().as_str()), (&b"hello"[..], place));
        }
    });
}

#[test]
fn a_udp_client_that_goes_on_sending_follows_a_port_to_another_container() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let client = inside(&world.neighbour, || UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        client.set_read_timeout(Some(PATIENCE)).expect("a limit");
        for name in ["one", "two"] {
            let (sandbox, _) = world.container(name, &front).await;
            let server = inside(&sandbox, || UdpSocket::bind("0.0.0.0:7")).expect("a socket");
            thread::spawn(move || {
                while let Ok((_, client)) = server.recv_from(&mut [0; 64]) {
                    let _ = server.send_to(name.as_bytes(), client);
                }
            });
            let mut udp = port(7, Some(7007));
            udp.protocol = "udp".to_owned();
            world.networks.publish(name, vec![udp]).await.expect("publish");
            client.send_to(b"who?", "192.0.2.1:7007").expect("sent");
            let mut buffer = [0; 64];
            let size = client.recv(&mut buffer).expect("an answer");
            assert_eq!(&buffer[..size], name.as_bytes());
            world.networks.unpublish(name).await.expect("unpublish");
        }
    });
}

#[test]
fn two_publishers_collide_and_all_or_none_is_published() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        world.container("one", &front).await;
        world.container("two", &front).await;
        world.networks.publish("one", vec![port(80, Some(8080))]).await.expect("publish");
        let both = vec![port(80, Some(8081)), port(80, Some(8080))];
        let error = world.networks.publish("two", both).await.expect_err("taken");
        assert_eq!(error.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
        TcpListener::bind("0.0.0.0:8081").expect("the other is not held");
        let free = world.networks.publish("two", vec![port(80, None)]).await.expect("a free one");
        assert!(free[0].host_port >= 32_768 && free[0].host_port == free[1].host_port);
    });
}

#[test]
fn ipv6_networks_have_addresses_routes_and_ports() {
    on_a_host(|world| async move {
        let mut six = request("six", 'a');
        six.ipv6 = true;
        six.pools =
            vec![Pool { subnet: net("fd00:9::/64"), range: None, gateway: None, reserved: BTreeMap::new() }];
        let six = world.networks.create(six).await.expect("a network");
        let (one, first) = world.container("one", &six).await;
        let (two, _) = world.container("two", &six).await;
        assert_eq!(first.ipv6, Some(net("fd00:9::2/64")));
        assert_eq!(first.gateway6, Some(ip("fd00:9::1")));
        serve(&one, "[::]:80");
        assert_eq!(fetch_from(&two, "[fd00:9::2]:80"), "fd00:9::3");
        world.networks.publish("one", vec![port(80, Some(8080))]).await.expect("publish");
        fetch("[::1]:8080", PATIENCE).expect("the loopback");
        fetch_from(&two, "[fd00:9::1]:8080");
    });
}

#[test]
fn the_default_route_is_the_best_endpoints_and_goes_to_the_next() {
    on_a_host(|world| async move {
        let (a, b) = (world.network("alpha", 'b').await, world.network("beta", 'a').await);
        let (one, _) = world.container("one", &b).await;
        let route = || inside(&one, default_route_link);
        assert_eq!(route(), "eth0");
        world.networks.connect("one", &a.request.id, named(&[])).await.expect("connect");
        assert_eq!(route(), "eth1");
        world.networks.disconnect("one", &a.request.id).await.expect("disconnect");
        assert_eq!(route(), "eth0");
        let low = EndpointRequest { priority: -1, ..named(&[]) };
        world.networks.connect("one", &a.request.id, low).await.expect("connect");
        assert_eq!(route(), "eth0");
        world.networks.disconnect("one", &b.request.id).await.expect("disconnect");
        assert_eq!(route(), "eth1");
        world.networks.disconnect("one", &a.request.id).await.expect("disconnect");
        assert_eq!(route(), "");
    });
}

fn default_route_link() -> String {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").expect("routes");
    let found = table.lines().find(|line| line.split('\t').nth(1) == Some("00000000"));
    found.and_then(|line| line.split('\t').next()).unwrap_or_default().to_owned()
}

#[test]
fn names_are_served_to_members_only() {
    on_a_host(|world| async move {
        let (front, back) = (world.network("front", 'a').await, world.network("back", 'b').await);
        let (one, _) = world.container("one", &front).await;
        let (two, _) = world.container("two", &front).await;
        world.container("three", &back).await;
        for name in ["one", "two"] {
            world.networks.serve_names(name, vec![ip("192.0.2.1")]).await.expect("names");
        }
        for stream in [false, true] {
            assert_eq!(addresses_of(&ask(&two, "one.", RecordType::A, stream)), ["172.17.0.2"]);
        }
        let none = ask(&two, "one.", RecordType::AAAA, false);
        assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
        let back_name = ask(&two, "2.0.17.172.in-addr.arpa.", RecordType::PTR, false);
        assert_eq!(addresses_of(&back_name), ["one.front."]);
        world.networks.rename("one", &front.request.id, vec!["uno".to_owned()]).await.expect("rename");
        assert_eq!(addresses_of(&ask(&one, "uno.", RecordType::A, false)), ["172.17.0.2"]);
        // Nobody answers at 192.0.2.1, so that what is not known here is not known at all.
        for name in ["one.", "three."] {
            let unknown = ask(&two, name, RecordType::A, false);
            assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
        }
    });
}

#[test]
fn other_names_are_asked_of_the_servers_by_udp_and_tcp() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let (one, _) = world.container("one", &front).await;
        serve_upstream();
        world.networks.serve_names("one", vec![ip("192.0.2.77"), ip("127.0.0.1")]).await.expect("names");
        let short = ask(&one, "example.org.", RecordType::A, false);
        assert!(short.metadata.truncation);
        let whole = ask(&one, "example.org.", RecordType::A, true);
        assert_eq!(whole.metadata.response_code, ResponseCode::NXDomain);
    });
}

/// A server that says "too long" by UDP and "no such name" by TCP.
fn serve_upstream() {
    let udp = UdpSocket::bind("127.0.0.1:53").expect("a socket");
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((size, client)) = udp.recv_from(&mut buffer) {
            buffer[2] |= 0x82;
            let _ = udp.send_to(&buffer[..size], client);
        }
    });
    let tcp = TcpListener::bind("127.0.0.1:53").expect("a listener");
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let mut buffer = [0; 512];
            let Ok(size) = stream.read(&mut buffer) else { continue };
            buffer[4] |= 0x80;
            buffer[5] |= 3;
            let _ = stream.write_all(&buffer[..size]);
        }
    });
}

#[test]
fn a_network_with_endpoints_stays_and_one_without_goes() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let (_, endpoint) = world.container("one", &front).await;
        let error = world.networks.remove(&front.request.id).await.expect_err("it is used");
        let expected = format!(
            "error while removing network: network front has active endpoints (name:\"one\" id:\"{}\")",
            &endpoint.id[..12]
        );
        assert_eq!(error.to_string(), expected);
        world.networks.remove_sandbox("one").await.expect("removed");
        world.networks.remove_sandbox("one").await.expect("it is gone already");
        world.networks.remove(&front.request.id).await.expect("removed");
        let again = world.network("again", 'b').await;
        assert_eq!(again.request.pools[0].subnet, net("172.17.0.0/16"));
        gone("br-aaaaaaaaaaaa");
    });
}

/// Waits until a link that is removed beside is gone.
fn gone(name: &str) {
    let mut links = Links::open().expect("links");
    let end = Instant::now() + PATIENCE * 3;
    while links.find(name).expect("an answer").is_some() {
        assert!(Instant::now() < end, "{name} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_bridge_of_somebody_else_is_used_and_left_alone() {
    on_a_host(|world| async move {
        let mut theirs = request("theirs", 'a');
        theirs.options.insert("com.docker.network.bridge.name".to_owned(), "lan0".to_owned());
        let theirs = world.networks.create(theirs).await.expect("a network");
        assert_eq!(theirs.request.pools[0].gateway, Some(ip("192.0.2.1")));
        world.networks.remove(&theirs.request.id).await.expect("removed");
        assert!(Links::open().expect("links").find("lan0").expect("an answer").is_some());
    });
}

#[test]
fn networks_made_at_once_have_subnets_of_their_own() {
    on_a_host(|world| async move {
        let making = (0..12).map(|number| {
            let networks = world.networks.clone();
            let mut wanted = request(&format!("net{number}"), 'a');
            wanted.id = format!("{number:064x}").chars().rev().collect();
            tokio::spawn(async move { networks.create(wanted).await.expect("a network") })
        });
        let mut subnets = Vec::new();
        for made in making.collect::<Vec<_>>() {
            subnets.push(made.await.expect("made").request.pools[0].subnet);
        }
        subnets.sort();
        subnets.dedup();
        assert_eq!(subnets.len(), 12);
    });
}

#[test]
fn macvlan_containers_reach_each_other_without_a_bridge() {
    on_a_host(|world| async move {
        let mut macvlan = request("mac", 'a');
        macvlan.driver = Driver::Macvlan;
        macvlan.options.insert("parent".to_owned(), "lan0".to_owned());
        macvlan.pools = vec![Pool {
            subnet: net("198.51.100.0/24"),
            range: None,
            gateway: None,
            reserved: BTreeMap::new(),
        }];
        let macvlan = world.networks.create(macvlan).await.expect("a network");
        let (one, first) = world.container("one", &macvlan).await;
        let (two, _) = world.container("two", &macvlan).await;
        assert_eq!(first.host_interface, "");
        serve(&one, "0.0.0.0:80");
        assert_eq!(fetch_from(&two, &at(&first, 80)), "198.51.100.3");
        world.networks.remove_sandbox("one").await.expect("removed");
        world.networks.remove_sandbox("two").await.expect("removed");
        world.networks.remove(&macvlan.request.id).await.expect("removed");
        assert!(Links::open().expect("links").find("lan0").expect("an answer").is_some());
    });
}

#[test]
fn an_engine_that_comes_later_takes_over_and_tidies_up() {
    if is_unprivileged() {
        return;
    }
    on_a_host(|world| async move {
        let (front, old) = (world.network("front", 'a').await, world.network("old", 'b').await);
        let (one, first) = world.container("one", &front).await;
        let (two, second) = world.container("two", &front).await;
        let (left_over, third) = world.container("three", &old).await;
        serve(&one, "0.0.0.0:80");
        let ports: Vec<PublishedPort> =
            world.networks.publish("one", vec![port(80, Some(8080))]).await.expect("publish");
        world.networks.serve_names("two", Vec::new()).await.expect("names");
        let World { networks, run, neighbour, _held: held, _folder: folder } = world;
        drop(networks);
        released(8080);
        // One link is lost, too.
        let mut links = Links::open().expect("links");
        let lost = links.index(&second.host_interface).expect("a link");
        links.remove(lost).expect("removed");

        let later = open(&run).await;
        let left = vec![
            Left { container: "one".to_owned(), endpoints: vec![first.clone()], ports },
            Left { container: "two".to_owned(), endpoints: vec![second.clone()], ports: Vec::new() },
        ];
        later.restore(vec![front.clone()], left).await.expect("restored");
        fetch_from(&two, &at(&first, 80));
        fetch_from(&neighbour, "192.0.2.1:8080");
        fetch("[::1]:8080", PATIENCE).expect("the relay");
        assert_eq!(addresses_of(&ask(&two, "one.", RecordType::A, false)), ["172.17.0.2"]);
        gone("br-bbbbbbbbbbbb");
        gone(&third.host_interface);
        assert!(!left_over.exists());
        let new = later.make_sandbox("four").await.expect("a sandbox");
        let fourth = later.connect("four", &front.request.id, named(&["four"])).await.expect("connect");
        assert_eq!(fourth.ipv4, Some(net("172.17.0.4/16")));
        fetch_from(&new, &at(&first, 80));
        drop((held, folder));
    });
}

/// Waits until the tasks of an engine that ended let go of a port.
fn released(port: u16) {
    let end = Instant::now() + PATIENCE * 3;
    while TcpListener::bind(("0.0.0.0", port)).is_err() {
        assert!(Instant::now() < end, "port {port} is still held");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_bridge_that_is_made_again_under_its_name_stays() {
    on_a_host(|world| async move {
        for digit in ['a', 'b'] {
            let mut again = request("again", digit);
            again.options.insert("com.docker.network.bridge.name".to_owned(), "knarr0".to_owned());
            world.networks.create(again.clone()).await.expect("a network");
            if digit != 'b' {
                world.networks.remove(&again.id).await.expect("removed");
            }
        }
        // What is removed beside is removed in its order: when this one is gone, so is all before it.
        let last = world.network("last", 'd').await;
        world.networks.remove(&last.request.id).await.expect("removed");
        gone(&last.interface);
        assert!(Links::open().expect("links").find("knarr0").expect("an answer").is_some());
    });
}

#[test]
fn a_network_without_its_parent_keeps_no_other_from_coming_back() {
    on_a_host(|world| async move {
        let front = world.network("front", 'a').await;
        let (one, first) = world.container("one", &front).await;
        let mut lost = request("lost", 'b');
        lost.driver = Driver::Macvlan;
        lost.options.insert("parent".to_owned(), "lan7".to_owned());
        lost.pools = vec![Pool {
            subnet: net("198.51.100.0/24"),
            range: None,
            gateway: Some(ip("198.51.100.1")),
            reserved: BTreeMap::new(),
        }];
        let lost = Network { request: lost, interface: "lan7".to_owned() };
        let World { networks, run, neighbour, _held: held, _folder: folder } = world;
        drop(networks);
        let later = open(&run).await;
        let left = Left { container: "one".to_owned(), endpoints: vec![first.clone()], ports: Vec::new() };
        later.restore(vec![lost.clone(), front], vec![left]).await.expect("restored");
        serve(&neighbour, "0.0.0.0:80");
        fetch_from(&one, "192.0.2.9:80");
        later.connect("one", &lost.request.id, named(&[])).await.expect_err("there is no parent");
        Links::open()
            .expect("links")
            .add_bridge("lan7", "a stranger's", [2, 0, 0, 0, 0, 7], None)
            .expect("one");
        let second = later.connect("one", &lost.request.id, named(&[])).await.expect("there is one now");
        assert_eq!(second.ipv4, Some(net("198.51.100.2/24")));
        drop((held, folder));
    });
}
