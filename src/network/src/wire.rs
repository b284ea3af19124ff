//! Netlink messages and the sockets that carry them.
//!
//! [`Message`] is built attribute by attribute; [`Netlink`] sends many in one system call and reads the answers.
//! What a message means is for [`crate::link`] and [`crate::nft`] to know.
//!
//! The kernel works on a request while it is sent: when `send` returns, every answer lies in the socket already.
//! That is why nothing here waits.
//!
//! Spec: netlink(7).

use std::io;

use netlink_sys::{Socket, SocketAddr};

/// Routes, links and addresses.
pub(crate) const ROUTE: isize = 0;
/// Packet filters.
pub(crate) const NETFILTER: isize = 12;
/// What is asked for must not be there yet.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// What is there is replaced.
pub(crate) const REPLACE: u16 = 0x100;
/// What is not there is made.
pub(crate) const CREATE: u16 = 0x400;
/// It goes after what is there.
pub(crate) const APPEND: u16 = 0x800;
/// All there are.
pub(crate) const DUMP: u16 = 0x300;
/// An answer is wanted, also when all is well.
pub(crate) const ACK: u16 = 4;

const REQUEST: u16 = 1;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SEND_BUFFER_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;

/// One request.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        pad(&mut bytes);
        Self { bytes }
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend(length(value.len() + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        pad(&mut self.bytes);
        self
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// A number as this machine writes it: what links and routes use.
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(crate) fn number_if(&mut self, kind: u16, value: Option<u32>) -> &mut Self {
        if let Some(value) = value {
            self.number(kind, value);
        }
        self
    }

    /// A number with its highest byte first: what packet filters use.
    pub(crate) fn big(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inner(self);
        let size = length(self.bytes.len() - start).to_ne_bytes();
        self.bytes[start..start + 2].copy_from_slice(&size);
        self
    }

    /// Raw bytes: the fixed head of something nested.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        pad(&mut self.bytes);
        self
    }

    fn finish(&mut self, sequence: u32) {
        let size = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        self.bytes[..4].copy_from_slice(&size);
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Attributes are far below 64 KiB: names, addresses and one rule each.
fn length(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

/// An answer: its kind and what follows the header.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    sequence: u32,
    pub(crate) body: Vec<u8>,
}

/// A socket to the kernel, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 1 })
    }

    /// Room for a whole table of rules in one message.
    pub(crate) fn for_batches(self) -> io::Result<Self> {
        use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
        set_socket_send_buffer_size_force(&self.socket, SEND_BUFFER_BYTES)?;
        set_socket_recv_buffer_size_force(&self.socket, SEND_BUFFER_BYTES)?;
        Ok(self)
    }

    /// Sends all in one system call. The first that failed is the error, with its place among them.
    pub(crate) fn send(&mut self, messages: Vec<Message>) -> Result<(), (usize, io::Error)> {
        let first = self.write(messages).map_err(|error| (0, error))?;
        let answers = self.read().map_err(|error| (0, error))?;
        let failed = answers
            .iter()
            .filter_map(|answer| Some((answer.sequence.wrapping_sub(first) as usize, error_of(answer)?)))
            .min_by_key(|(place, _)| *place);
        failed.map_or(Ok(()), Err)
    }

    /// Sends one request and hands on what the kernel tells.
    pub(crate) fn ask(&mut self, message: Message) -> io::Result<Vec<Answer>> {
        let first = self.write(vec![message])?;
        let mut answers = self.read()?;
        answers.retain(|answer| answer.sequence == first);
        if let Some(error) = answers.iter().find_map(error_of) {
            return Err(error);
        }
        answers.retain(|answer| answer.kind != ERROR && answer.kind != DONE);
        Ok(answers)
    }

    fn write(&mut self, messages: Vec<Message>) -> io::Result<u32> {
        self.read()?;
        let first = self.sequence;
        let mut bytes = Vec::new();
        for mut message in messages {
            message.finish(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            bytes.append(&mut message.bytes);
        }
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        if sent != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(first)
    }

    /// Everything that lies in the socket.
    fn read(&self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(READ_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => answers.extend(split(&buffer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn error_of(answer: &Answer) -> Option<io::Error> {
    let code = i32::from_ne_bytes(answer.body.get(..4)?.try_into().ok()?);
    let failed = matches!(answer.kind, ERROR | DONE) && code < 0;
    failed.then(|| io::Error::from_raw_os_error(-code))
}

fn split(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((answer, size)) = first_answer(bytes) {
        answers.push(answer);
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn first_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let size = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEADER..size)?.to_vec();
    Some((Answer { kind, sequence, body }, size))
}

/// The attributes in `bytes`, in their order.
pub(crate) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((kind, value, size)) = first_attribute(bytes) {
        found.push((kind & KIND_MASK, value));
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn first_attribute(bytes: &[u8]) -> Option<(u16, &[u8], usize)> {
    let size = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
    Some((kind, bytes.get(4..size)?, size))
}

/// The text of an attribute, without the byte that ends it.
pub(crate) fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Message, attributes, split};

    #[test]
    fn what_is_nested_is_read_back() {
        let mut message = Message::new(16, 0, &[0; 4]);
        message.nested(18, |inner| {
            inner.text(1, "bridge").number(2, 7);
        });
        message.finish(9);
        let answers = split(&message.bytes);
        assert_eq!((answers.len(), answers[0].kind, answers[0].sequence), (1, 16, 9));
        let outer = attributes(&answers[0].body[4..]);
        assert_eq!(outer[0].0, 18);
        let inner = attributes(outer[0].1);
        assert_eq!(inner, vec![(1, &b"bridge\0"[..]), (2, &7_u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        assert!(split(&[255, 255, 0, 0, 1, 0]).is_empty());
        assert!(attributes(&[2, 0, 1, 0]).is_empty());
        assert!(attributes(&[0, 0, 0, 0, 0, 0]).is_empty());
    }
}
