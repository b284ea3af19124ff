//! Extended attributes as ext4 keeps them: in what is left of an inode, else in a block.
//!
//! Spec: Linux, Documentation/filesystems/ext4/attributes.rst.

use super::format::{ATTRIBUTE_BYTES, BLOCK_BYTES, Fields};

const MAGIC: u32 = 0xea02_0000;
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;

/// An attribute with the prefix of its name as a number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attribute<'a> {
    prefix: u8,
    name_length: usize,
    name: &'a str,
    value: &'a [u8],
}

/// The attributes in the order that a block must have; `None` when a prefix is not known.
pub(super) fn sorted(attributes: &[(String, Vec<u8>)]) -> Option<Vec<Attribute<'_>>> {
    let mut listed = Vec::new();
    for (name, value) in attributes {
        let (prefix, name) = PREFIXES
            .iter()
            .find_map(|(prefix, number)| Some((*number, name.strip_prefix(prefix)?)))
            .filter(|(_, name)| !name.is_empty() && name.len() < 256)?;
        listed.push(Attribute { prefix, name_length: name.len(), name, value });
    }
    listed.sort();
    Some(listed)
}

const PREFIXES: [(&str, u8); 3] = [("user.", 1), ("trusted.", 4), ("security.", 6)];

/// What an inode holds behind its fields, when all attributes fit there.
pub(super) fn in_inode(attributes: &[Attribute<'_>]) -> Option<Vec<u8>> {
    let packed = pack(attributes, ATTRIBUTE_BYTES - 4, 0)?;
    Some([&MAGIC.to_le_bytes()[..], &packed].concat())
}

/// A block that holds all attributes, when they fit into one.
pub(super) fn block(attributes: &[Attribute<'_>]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend(pack(attributes, BLOCK_BYTES - HEADER_BYTES, HEADER_BYTES)?);
    let hash = attributes.iter().fold(0_u32, |hash, attribute| hash.rotate_left(16) ^ attribute.hash());
    let mut put = Fields(&mut bytes);
    put.u32(0, MAGIC);
    put.u32(4, 1);
    put.u32(8, 1);
    put.u32(12, hash);
    Some(bytes)
}

/// Entries from the front, values from the back, at least four zeros between; offsets count from
/// `base` bytes before.
fn pack(attributes: &[Attribute<'_>], room: usize, base: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; room];
    let (mut front, mut back) = (0, room);
    for attribute in attributes {
        let Attribute { prefix, name_length, name, value } = attribute;
        let length = ENTRY_BYTES + name_length.next_multiple_of(4);
        back = back.checked_sub(value.len().next_multiple_of(4))?;
        if front + length + 4 > back {
            return None;
        }
        let offset = if value.is_empty() { 0 } else { base + back };
        let mut put = Fields(&mut bytes);
        put.bytes(front, &[*name_length as u8, *prefix]);
        put.u16(front + 2, offset as u16);
        put.u32(front + 8, value.len() as u32);
        put.u32(front + 12, attribute.hash());
        put.bytes(front + ENTRY_BYTES, name.as_bytes());
        put.bytes(back, value);
        front += length;
    }
    Some(bytes)
}

impl Attribute<'_> {
    fn hash(&self) -> u32 {
        let hash = self.name.bytes().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(hash, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}
