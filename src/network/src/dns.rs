//! The name server of a sandbox.
//!
//! [`serve`] answers what [`Directory`] knows and hands everything else on, byte for byte, to other name servers. Its
//! sockets were made in the sandbox; those to other servers are the host's.
//!
//! Spec: RFC 1035, RFC 7766.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::directory::{Directory, Member};

/// Whose names are asked for, and who knows all others.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    pub(crate) container: String,
    pub(crate) directory: Arc<RwLock<Directory>>,
    /// The host's when empty.
    pub(crate) upstream: Vec<IpAddr>,
}

/// Answers on both sockets until it is dropped.
pub(crate) async fn serve(resolver: Resolver, udp: UdpSocket, tcp: TcpListener) {
    let resolver = Arc::new(resolver);
    tokio::join!(serve_udp(Arc::clone(&resolver), Arc::new(udp)), serve_tcp(resolver, tcp));
}

async fn serve_udp(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    let mut questions = JoinSet::new();
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((size, from)) = received else { continue };
                if questions.len() >= MOST_QUESTIONS {
                    send_failure(&socket, &buffer[..size], from).await;
                    continue;
                }
                let question = buffer[..size].to_vec();
                questions.spawn(answer_udp(Arc::clone(&resolver), Arc::clone(&socket), question, from));
            }
            Some(_) = questions.join_next(), if !questions.is_empty() => {}
        }
    }
}

async fn send_failure(socket: &UdpSocket, question: &[u8], to: SocketAddr) {
    if let Some(answer) = failure(question, ResponseCode::ServFail) {
        send(socket, &answer, to).await;
    }
}

async fn answer_udp(resolver: Arc<Resolver>, socket: Arc<UdpSocket>, question: Vec<u8>, from: SocketAddr) {
    if let Some(answer) = resolver.answer(&question, false).await {
        send(&socket, &answer, from).await;
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, "an answer about a name was not sent");
    }
}

async fn serve_tcp(resolver: Arc<Resolver>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(answer_tcp(Arc::clone(&resolver), stream));
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn answer_tcp(resolver: Arc<Resolver>, mut stream: TcpStream) {
    while let Ok(Ok(question)) = timeout(IDLE, read_framed(&mut stream)).await {
        let Some(answer) = resolver.answer(&question, true).await else { return };
        if !matches!(timeout(IDLE, write_framed(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let size = stream.read_u16().await?;
    let mut message = vec![0; usize::from(size)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let size = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = size.to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await
}

/// What a container in a closed network is answered. For fuzzing.
#[doc(hidden)]
#[must_use]
pub fn try_question(question: &[u8], stream: bool) -> Option<Vec<u8>> {
    static READY: OnceLock<Option<(Runtime, Resolver)>> = OnceLock::new();
    let make = || {
        let mut directory = Directory::default();
        directory.add_network("n", "near", true, true);
        let addresses = vec![IpAddr::from([172, 18, 0, 2]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2])];
        directory.add("c", "n", Member { names: vec!["one".to_owned()], links: BTreeMap::new(), addresses });
        let directory = Arc::new(RwLock::new(directory));
        let resolver = Resolver { container: "c".to_owned(), directory, upstream: Vec::new() };
        Some((tokio::runtime::Builder::new_current_thread().build().ok()?, resolver))
    };
    let (runtime, resolver) = READY.get_or_init(make).as_ref()?;
    runtime.block_on(resolver.answer(question, stream))
}

impl Resolver {
    /// The answer to a message; none to what is no question.
    async fn answer(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let Ok(message) = Message::from_vec(question) else {
            return failure(question, ResponseCode::FormErr);
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        if let Some(answer) = self.own(&message, stream) {
            return Some(answer);
        }
        if self.is_closed() {
            return failure(question, ResponseCode::ServFail);
        }
        let forwarded = self.forward(question, stream).await;
        forwarded.or_else(|| failure(question, ResponseCode::ServFail))
    }

    fn is_closed(&self) -> bool {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).is_closed(&self.container)
    }

    fn own(&self, message: &Message, stream: bool) -> Option<Vec<u8>> {
        let [query] = message.queries.as_slice() else { return None };
        if message.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
            return None;
        }
        let records = self.records(query)?;
        let mut answer = reply(message, ResponseCode::NoError);
        answer.add_query(query.clone());
        answer.add_answers(records);
        let bytes = answer.to_vec().ok()?;
        let most = usize::from(message.max_payload());
        if stream || bytes.len() <= most { Some(bytes) } else { answer.truncate().to_vec().ok() }
    }

    /// What the directory knows; `None` when the name is nobody's.
    fn records(&self, query: &Query) -> Option<Vec<Record>> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        let name = query.name();
        let record = |data| Record::from_rdata(name.clone(), TTL_SECONDS, data);
        if query.query_type() == RecordType::PTR {
            let address = name.parse_arpa_name().ok()?.addr();
            let found = directory.name_of(&self.container, address)?;
            return Some(vec![record(RData::PTR(PTR(Name::from_ascii(found + ".").ok()?)))]);
        }
        let plain = name.to_ascii();
        let addresses = directory.find(&self.container, plain.trim_end_matches('.'))?;
        let wanted = |address: &&IpAddr| match query.query_type() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            kind => kind == RecordType::ANY,
        };
        let mut records: Vec<Record> =
            addresses.iter().filter(wanted).map(|address| record(data_of(*address))).collect();
        turn(&mut records);
        Some(records)
    }

    /// Asks one server after the other. What a server refuses, the next may know.
    async fn forward(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let mut refused = None;
        for server in self.servers() {
            let server = SocketAddr::new(server, PORT);
            let asked = async {
                if stream { ask_tcp(server, question).await } else { ask_udp(server, question).await }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) if !is_refusal(&answer) => return Some(answer),
                Ok(Ok(answer)) => refused = Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server did not answer"),
                Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
            }
        }
        refused
    }

    fn servers(&self) -> Vec<IpAddr> {
        let mut servers = if self.upstream.is_empty() { host_servers() } else { self.upstream.clone() };
        servers.truncate(MOST_SERVERS);
        servers
    }
}

/// The name servers of the host's resolv.conf. They are asked from the host's namespace, so that one on its loopback
/// is as good as any.
pub(crate) fn host_servers() -> Vec<IpAddr> {
    fs::read_to_string("/etc/resolv.conf").map(|text| name_servers(&text)).unwrap_or_default()
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    lines.filter_map(|server| server.parse().ok()).collect()
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let size = socket.recv(&mut buffer).await?;
        if answers(&buffer[..size], question) {
            buffer.truncate(size);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, question).await?;
    let answer = read_framed(&mut stream).await?;
    if answers(&answer, question) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether it is an answer, and to this question: the number and the question's own bytes are the same.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_response && answer.len() >= HEADER_BYTES && answer.get(..2) == question.get(..2)
}

fn is_refusal(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(0, |flags| flags & 0x0f);
    code == SERVER_FAILED || code == SERVER_REFUSED
}

const SERVER_FAILED: u8 = 2;
const SERVER_REFUSED: u8 = 5;

/// An answer that says only what is wrong. Made of the question's bytes, which may be no message at all.
fn failure(question: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    if let Ok(message) = Message::from_vec(question) {
        let mut answer = reply(&message, code);
        answer.add_queries(message.queries.iter().cloned());
        return answer.to_vec().ok();
    }
    let header = question.get(..HEADER_BYTES)?;
    let is_question = header[2] & 0x80 == 0;
    let id = u16::from_be_bytes([header[0], header[1]]);
    is_question.then(|| Message::error_msg(id, OpCode::Query, code).to_vec().ok())?
}

fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer
}

fn data_of(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// Another record comes first each time, so that those behind one name share the work.
fn turn(records: &mut [Record]) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if records.len() > 1 {
        let by = TURN.fetch_add(1, Ordering::Relaxed) % records.len();
        records.rotate_left(by);
    }
}

const PORT: u16 = 53;
const TTL_SECONDS: u32 = 600;
const MESSAGE_BYTES: usize = 65_535;
const HEADER_BYTES: usize = 12;
const MOST_QUESTIONS: usize = 256;
const MOST_CONNECTIONS: usize = 64;
const MOST_SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
