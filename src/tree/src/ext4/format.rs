//! The bytes of ext4's structures: superblock, groups, inodes, extents, directories, journal.
//!
//! Everything here is pure: numbers in, bytes out.
//!
//! Spec: Linux, Documentation/filesystems/ext4; include/linux/jbd2.h.

use crate::unpack::Kind;

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK_BYTES as u64;
pub(super) const INODE_BYTES: usize = 256;
pub(super) const GROUP_BYTES: usize = 32;
pub(super) const EXTENTS_IN_INODE: usize = 4;
pub(super) const EXTENTS_IN_BLOCK: usize = (BLOCK_BYTES - 12) / 12;
pub(super) const MAX_EXTENT_BLOCKS: u32 = 32_768;
/// Of an inode's bytes, those that lie behind its fields: a magic number and attributes.
pub(super) const ATTRIBUTE_BYTES: usize = INODE_BYTES - ATTRIBUTES_AT;
const ATTRIBUTES_AT: usize = 128 + EXTRA_BYTES as usize;
const EXTRA_BYTES: u16 = 32;

/// Blocks of a file that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub logical: u32,
    pub start: u64,
    pub length: u32,
}

/// Adds an extent, as part of the last one where it continues that.
pub(super) fn extend(extents: &mut Vec<Extent>, new: Extent) {
    match extents.last_mut() {
        Some(last)
            if last.logical + last.length == new.logical
                && last.start + u64::from(last.length) == new.start
                && last.length + new.length <= MAX_EXTENT_BLOCKS =>
        {
            last.length += new.length;
        }
        _ => extents.push(new),
    }
}

/// A node of an extent tree: extents at depth 0, else the nodes below.
pub(super) fn extent_node(extents: &[Extent], depth: u16, most: usize, size_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; size_bytes];
    let mut put = Fields(&mut bytes);
    put.u16(0, 0xf30a);
    put.u16(2, extents.len() as u16);
    put.u16(4, most as u16);
    put.u16(6, depth);
    for (number, extent) in extents.iter().enumerate() {
        let at = 12 + number * 12;
        put.u32(at, extent.logical);
        if depth == 0 {
            put.u16(at + 4, extent.length as u16);
            put.u16(at + 6, (extent.start >> 32) as u16);
            put.u32(at + 8, extent.start as u32);
        } else {
            put.u32(at + 4, extent.start as u32);
            put.u16(at + 8, (extent.start >> 32) as u16);
        }
    }
    bytes
}

/// A file's inode; without a kind it is unused.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub kind: Option<Kind>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub links: u32,
    pub size_bytes: u64,
    /// Blocks of content, map and attributes.
    pub blocks: u64,
    pub attribute_block: u64,
    pub attributes: Vec<u8>,
    pub(super) map: Vec<u8>,
    pub(super) has_extents: bool,
}

impl Inode {
    /// Sets the root of the extent tree.
    pub(super) fn set_map(&mut self, node: &[u8]) {
        self.map = node.to_vec();
        self.has_extents = true;
    }

    /// Keeps a link's target in the inode itself, when it is short.
    pub(super) fn set_short_link(&mut self, target: &str) -> bool {
        let fits = target.len() < 60;
        if fits {
            self.map = target.as_bytes().to_vec();
        }
        fits
    }

    pub(super) fn set_device(&mut self, (major, minor): (u32, u32)) {
        let mut map = vec![0; 8];
        if major < 256 && minor < 256 {
            Fields(&mut map).u32(0, major << 8 | minor);
        } else {
            Fields(&mut map).u32(4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
        }
        self.map = map;
    }

    pub(super) fn encode(&self, created: i64, bytes: &mut [u8]) {
        let Some(kind) = self.kind else { return };
        let mut put = Fields(bytes);
        put.u16(0, kind_bits(kind) | self.mode as u16 & 0o7777);
        put.u16(2, self.uid as u16);
        put.u32(4, self.size_bytes as u32);
        put.time(8, 140, self.mtime);
        put.time(12, 132, created);
        put.time(16, 136, self.mtime);
        put.u16(24, self.gid as u16);
        put.u16(26, self.links as u16);
        let sectors = self.blocks * (BLOCK_BYTES / 512) as u64;
        put.u32(28, sectors as u32);
        put.u32(32, if self.has_extents { 0x8_0000 } else { 0 });
        put.bytes(40, &self.map);
        put.u32(104, self.attribute_block as u32);
        put.u32(108, (self.size_bytes >> 32) as u32);
        put.u16(116, (sectors >> 32) as u16);
        put.u16(118, (self.attribute_block >> 32) as u16);
        put.u16(120, (self.uid >> 16) as u16);
        put.u16(122, (self.gid >> 16) as u16);
        put.u16(128, EXTRA_BYTES);
        put.time(144, 148, created);
        put.bytes(ATTRIBUTES_AT, &self.attributes);
    }
}

const fn kind_bits(kind: Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice => 0o020_000,
        Kind::Directory => 0o040_000,
        Kind::BlockDevice => 0o060_000,
        Kind::File | Kind::HardLink => 0o100_000,
        Kind::Symlink => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

const fn kind_in_directory(kind: Kind) -> u8 {
    match kind {
        Kind::File | Kind::HardLink => 1,
        Kind::Directory => 2,
        Kind::CharDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
    }
}

/// The blocks of a directory: entries one after the other, none across two blocks.
pub(super) fn directory<'a>(
    own: u32,
    parent: u32,
    names: impl Iterator<Item = (&'a str, u32, Kind)>,
) -> Vec<u8> {
    let own = [(".", own, Kind::Directory), ("..", parent, Kind::Directory)];
    let mut bytes = Vec::new();
    let mut last = 0;
    for (name, inode, kind) in own.into_iter().chain(names) {
        let length = 8 + name.len().next_multiple_of(4);
        if bytes.len() / BLOCK_BYTES != (bytes.len() + length - 1) / BLOCK_BYTES {
            stretch(&mut bytes, last);
        }
        last = bytes.len();
        bytes.resize(last + length, 0);
        let mut put = Fields(&mut bytes[last..]);
        put.u32(0, inode);
        put.u16(4, length as u16);
        put.bytes(6, &[name.len() as u8, kind_in_directory(kind)]);
        put.bytes(8, name.as_bytes());
    }
    stretch(&mut bytes, last);
    bytes
}

/// The last entry of a block reaches to its end.
fn stretch(bytes: &mut Vec<u8>, last: usize) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let length = bytes.len() - last;
    Fields(&mut bytes[last..]).u16(4, length as u16);
}

/// Adds a block in which nothing is entered.
pub(super) fn add_empty_directory_block(bytes: &mut Vec<u8>) {
    let last = bytes.len();
    bytes.resize(last + BLOCK_BYTES, 0);
    Fields(&mut bytes[last..]).u16(4, BLOCK_BYTES as u16);
}

/// A group's descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    pub free_blocks: u64,
    pub free_inodes: u64,
    pub directories: u64,
}

impl Group {
    pub(super) fn encode(&self) -> [u8; GROUP_BYTES] {
        let mut bytes = [0; GROUP_BYTES];
        let mut put = Fields(&mut bytes);
        put.u32(0, self.block_bitmap as u32);
        put.u32(4, self.inode_bitmap as u32);
        put.u32(8, self.inode_table as u32);
        put.u16(12, self.free_blocks as u16);
        put.u16(14, self.free_inodes as u16);
        put.u16(16, self.directories as u16);
        bytes
    }
}

/// What the file system says of itself.
pub(super) struct Superblock<'a> {
    pub inodes: u64,
    pub blocks: u64,
    pub free_blocks: u64,
    pub free_inodes: u64,
    pub inodes_per_group: u64,
    pub time: i64,
    pub uuid: [u8; 16],
    pub hash_seed: [u8; 16],
    pub journal: &'a Inode,
}

/// `has_journal`, `ext_attr`, `dir_index`.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// `filetype`, `extent`, `flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;

impl Superblock<'_> {
    /// The copy that lies in `group`.
    pub(super) fn encode(&self, group: u64) -> [u8; 1024] {
        let mut bytes = [0; 1024];
        let mut put = Fields(&mut bytes);
        let time = self.time as u32;
        put.u32(0, self.inodes as u32);
        put.u32(4, self.blocks as u32);
        put.u32(8, (self.blocks / 20) as u32);
        put.u32(12, self.free_blocks as u32);
        put.u32(16, self.free_inodes as u32);
        put.u32(24, 2);
        put.u32(28, 2);
        put.u32(32, BLOCKS_PER_GROUP as u32);
        put.u32(36, BLOCKS_PER_GROUP as u32);
        put.u32(40, self.inodes_per_group as u32);
        put.u32(48, time);
        // Never checked because of its age or of how often it was mounted.
        put.u16(54, u16::MAX);
        put.u16(56, 0xef53);
        put.u16(58, 1);
        put.u16(60, 1);
        put.u32(64, time);
        put.u32(76, 1);
        put.u32(84, super::LOST_AND_FOUND);
        put.u16(88, INODE_BYTES as u16);
        put.u16(90, group as u16);
        put.u32(92, COMPATIBLE);
        put.u32(96, INCOMPATIBLE);
        put.u32(100, READ_ONLY_COMPATIBLE);
        put.bytes(104, &self.uuid);
        put.u32(224, super::JOURNAL);
        put.bytes(236, &self.hash_seed);
        // Half MD4; the journal's inode is repeated below; attributes and lists are allowed.
        put.bytes(252, &[1, 1]);
        put.u32(256, 0xc);
        put.u32(264, time);
        put.bytes(268, &self.journal.map);
        put.u32(332, self.journal.size_bytes as u32);
        put.u16(348, EXTRA_BYTES);
        put.u16(350, EXTRA_BYTES);
        put.u32(352, 1);
        // Sixteen groups share the places of their bitmaps and tables.
        put.bytes(372, &[4]);
        bytes
    }
}

/// The first block of an empty journal of so many blocks.
pub(super) fn journal(blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let fields =
        [(0, 0xc03b_3998), (4, 4), (12, BLOCK_BYTES as u32), (16, blocks), (20, 1), (24, 1), (64, 1)];
    for (at, value) in fields {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// Little-endian numbers at offsets.
pub(super) struct Fields<'a>(pub(super) &'a mut [u8]);

impl Fields<'_> {
    pub(super) fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A time: 32 bits with a sign, and two more bits elsewhere for what lies beyond 2038.
    fn time(&mut self, at: usize, extra_at: usize, time: i64) {
        let low = time as i32;
        self.u32(at, low.cast_unsigned());
        self.u32(extra_at, ((time - i64::from(low)) >> 32) as u32 & 3);
    }
}
