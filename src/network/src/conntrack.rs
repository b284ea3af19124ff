//! Connections that the kernel remembers.
//!
//! [`forget_udp`] is needed where ports change hands: a client that goes on sending would be led by what is remembered,
//! not by the new rules. TCP needs none of this, since its connections end.
//!
//! Spec: linux/netfilter/nfnetlink_conntrack.h.

use std::collections::BTreeSet;
use std::io;

use crate::wire::{ACK, Answer, DUMP, Message, NETFILTER, Netlink, attributes};

/// Forgets all that is sent by UDP to these ports of the host.
pub(crate) fn forget_udp(ports: &BTreeSet<u16>) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open(NETFILTER)?.for_batches()?;
    let flows = netlink.ask(Message::new(GET, DUMP, &[0; 4]))?;
    for flow in flows.iter().filter_map(|flow| deletion(flow, ports)) {
        match netlink.send(vec![flow]) {
            // It ended by itself meanwhile.
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            sent => sent.map_err(|(_, error)| error)?,
        }
    }
    Ok(())
}

/// The request that forgets a flow, when it is one to these ports.
fn deletion(flow: &Answer, ports: &BTreeSet<u16>) -> Option<Message> {
    let head = flow.body.get(..4)?;
    let found = attributes(flow.body.get(4..)?);
    let of = |wanted| found.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let original = of(ORIGINAL)?;
    if !is_to(original, ports)? {
        return None;
    }
    let mut message = Message::new(DELETE, ACK, &[head[0], 0, 0, 0]);
    message.attribute(ORIGINAL | NESTED, original);
    if let Some(zone) = of(ZONE) {
        message.attribute(ZONE, zone);
    }
    Some(message)
}

fn is_to(tuple: &[u8], ports: &BTreeSet<u16>) -> Option<bool> {
    let tuple = attributes(tuple);
    let (_, protocol) = tuple.iter().find(|(kind, _)| *kind == TUPLE_PROTOCOL)?;
    let protocol = attributes(protocol);
    let of = |wanted| protocol.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let port = u16::from_be_bytes(of(DESTINATION_PORT)?.try_into().ok()?);
    Some(of(PROTOCOL_NUMBER)? == [UDP] && ports.contains(&port))
}

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const NESTED: u16 = 0x8000;
const ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;
