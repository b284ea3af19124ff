//! An ext4 image from a tarball: the same tarball and time give the same bytes, whoever writes it.
//!
//! [`write`] reads the tarball once and puts content into the image as it comes; what describes it
//! (inodes, bitmaps, groups) follows behind the content, where `flex_bg` allows it to be. mke2fs
//! copies change times, the order of directories and a random seed from the machine it runs on.
//!
//! Spec: Linux, Documentation/filesystems/ext4; the bytes themselves are [`format`]'s business.

mod attributes;
mod format;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use knarr_base::{Digest, Timestamp};

use self::format::{BLOCK_BYTES, BLOCKS_PER_GROUP, Extent, Group, INODE_BYTES, Inode, Superblock};
use self::stream::{Stream, StreamEntry};
use crate::TreeError;
use crate::unpack::Kind;

/// Writes the tarball that `tar` reads as an ext4 image into `out`, an empty file; `time` is when
/// the file system and everything in it came to be.
pub fn write(tar: impl Read, out: &File, time: Timestamp) -> Result<(), TreeError> {
    let mut image = Image::new(out, time.0);
    let mut stream = Stream::new(tar);
    while let Some(entry) = stream.next_entry()? {
        image.add(&entry, &mut stream)?;
    }
    image.finish()
}

const ROOT: u32 = 2;
const JOURNAL: u32 = 8;
const LOST_AND_FOUND: u32 = 11;
/// Kept free at the start of every group that holds a copy of the superblock: for that copy and
/// for as many blocks of group descriptors as the largest image needs.
const HEAD_BLOCKS: u64 = 64;
const MAX_GROUPS: u64 = (HEAD_BLOCKS - 1) * (BLOCK_BYTES / format::GROUP_BYTES) as u64;
/// Room for files that are made later: half of what is there, and this.
const SPARE_BLOCKS: u64 = (64 << 20) / BLOCK_BYTES as u64;
const MAX_DIRECTORY_LINKS: u32 = 65_000;

struct Image<'a> {
    out: &'a File,
    time: i64,
    /// The first block that nothing has been put into yet.
    next: u64,
    /// Blocks in use: start and length, in rising order.
    used: Vec<(u64, u64)>,
    /// By number, the first unused; those that were never made are empty.
    inodes: Vec<Inode>,
    /// What each directory holds, by its inode.
    directories: BTreeMap<u32, Vec<Name>>,
    paths: HashMap<String, u32>,
    /// What makes this file system differ from others: its id is made from it.
    identity: Vec<u8>,
    buffer: Vec<u8>,
}

#[derive(Clone)]
struct Name {
    name: String,
    inode: u32,
    kind: Kind,
}

impl<'a> Image<'a> {
    fn new(out: &'a File, time: i64) -> Self {
        let mut image = Self {
            out,
            time,
            next: HEAD_BLOCKS,
            used: Vec::new(),
            inodes: vec![Inode::default(); LOST_AND_FOUND as usize + 1],
            directories: BTreeMap::new(),
            paths: HashMap::new(),
            identity: time.to_le_bytes().to_vec(),
            buffer: vec![0; 256 * BLOCK_BYTES],
        };
        let directory = |mode| Inode { kind: Some(Kind::Directory), mode, mtime: time, ..Inode::default() };
        image.inodes[ROOT as usize] = Inode { links: 3, ..directory(0o755) };
        image.inodes[LOST_AND_FOUND as usize] = Inode { links: 2, ..directory(0o700) };
        image.paths.extend([(String::new(), ROOT), ("lost+found".to_owned(), LOST_AND_FOUND)]);
        let lost_and_found =
            Name { name: "lost+found".to_owned(), inode: LOST_AND_FOUND, kind: Kind::Directory };
        image.directories = BTreeMap::from([(ROOT, vec![lost_and_found]), (LOST_AND_FOUND, Vec::new())]);
        image
    }

    fn add(&mut self, entry: &StreamEntry, content: &mut impl Read) -> Result<(), TreeError> {
        self.identify(entry);
        if entry.kind == Kind::HardLink {
            return self.link(entry);
        }
        let known = self.paths.get(&entry.path).copied();
        let mut inode = Inode {
            kind: Some(entry.kind),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            links: 1,
            size_bytes: entry.size_bytes,
            ..Inode::default()
        };
        match entry.kind {
            Kind::File => {
                let extents = self.content(entry, content)?;
                self.set_extents(&mut inode, &extents)?;
            }
            Kind::Symlink => self.symlink(&mut inode, &entry.link)?,
            Kind::CharDevice | Kind::BlockDevice => inode.set_device(entry.device),
            _ => {}
        }
        self.set_attributes(&mut inode, entry)?;
        if let (Some(number), Kind::Directory) = (known, entry.kind) {
            inode.links = self.inodes[number as usize].links;
            self.inodes[number as usize] = inode;
            return Ok(());
        }
        if known.is_some() {
            return Err(unfit(&entry.path, "the path is there twice"));
        }
        let number =
            u32::try_from(self.inodes.len()).map_err(|_| unfit(&entry.path, "there are too many files"))?;
        if entry.kind == Kind::Directory {
            inode.links = 2;
            self.directories.insert(number, Vec::new());
        }
        self.inodes.push(inode);
        self.paths.insert(entry.path.clone(), number);
        self.name(entry, number, entry.kind)
    }

    fn identify(&mut self, entry: &StreamEntry) {
        let StreamEntry { path, mode, mtime, size_bytes, link, .. } = entry;
        self.identity
            .extend_from_slice(format!("{path}\0{mode}\0{mtime}\0{size_bytes}\0{link}\0").as_bytes());
    }

    fn link(&mut self, entry: &StreamEntry) -> Result<(), TreeError> {
        let number = self.paths.get(&entry.link).copied();
        let number = number.ok_or_else(|| unfit(&entry.path, "it links to a file that comes later"))?;
        let inode = &mut self.inodes[number as usize];
        let kind = inode.kind.filter(|kind| *kind != Kind::Directory);
        let kind = kind.ok_or_else(|| unfit(&entry.path, "it links to a directory"))?;
        inode.links += 1;
        if inode.links > MAX_DIRECTORY_LINKS {
            return Err(unfit(&entry.path, "its file has more than 65000 names"));
        }
        self.name(entry, number, kind)
    }

    /// Enters a file into the directory that its path names.
    fn name(&mut self, entry: &StreamEntry, inode: u32, kind: Kind) -> Result<(), TreeError> {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        let parent = self.paths.get(parent).copied();
        let parent = parent.ok_or_else(|| unfit(&entry.path, "its directory does not come before it"))?;
        let names = self
            .directories
            .get_mut(&parent)
            .ok_or_else(|| unfit(&entry.path, "it lies in something that is no directory"))?;
        names.push(Name { name: name.to_owned(), inode, kind });
        if kind == Kind::Directory {
            self.inodes[parent as usize].links += 1;
        }
        Ok(())
    }

    fn symlink(&mut self, inode: &mut Inode, target: &str) -> Result<(), TreeError> {
        inode.size_bytes = target.len() as u64;
        if inode.set_short_link(target) {
            return Ok(());
        }
        let extents = self.put(target.as_bytes())?;
        self.set_extents(inode, &extents)
    }

    fn set_attributes(&mut self, inode: &mut Inode, entry: &StreamEntry) -> Result<(), TreeError> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let too_large = || unfit(&entry.path, "its extended attributes are too large or of an unknown kind");
        let listed = attributes::sorted(&entry.xattrs).ok_or_else(too_large)?;
        if let Some(bytes) = attributes::in_inode(&listed) {
            inode.attributes = bytes;
            return Ok(());
        }
        let block = attributes::block(&listed).ok_or_else(too_large)?;
        inode.attribute_block = self.put(&block)?[0].start;
        inode.blocks += 1;
        Ok(())
    }

    /// Puts a file's content into the image; blocks of zeros become holes.
    fn content(&mut self, entry: &StreamEntry, content: &mut impl Read) -> Result<Vec<Extent>, TreeError> {
        let mut extents = Vec::new();
        let (mut left, mut logical) = (entry.size_bytes, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        while left > 0 {
            let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            content.read_exact(&mut buffer[..length]).map_err(TreeError::Read)?;
            let is_hole = |block: &[u8]| block.iter().all(|&byte| byte == 0);
            let blocks: Vec<&[u8]> = buffer[..length].chunks(BLOCK_BYTES).collect();
            for run in blocks.chunk_by(|a, b| is_hole(a) == is_hole(b)) {
                if !is_hole(run[0]) {
                    let from = logical as usize % 256 * BLOCK_BYTES;
                    let bytes = run.iter().map(|block| block.len()).sum::<usize>();
                    self.put_at(&mut extents, logical, &buffer[from..from + bytes])?;
                }
                logical += run.len() as u32;
            }
            left -= length as u64;
            if entry.size_bytes > u64::from(u32::MAX) * BLOCK_BYTES as u64 {
                return Err(unfit(&entry.path, "it is larger than 16 TiB"));
            }
        }
        self.buffer = buffer;
        Ok(extents)
    }

    /// Puts bytes into blocks of their own.
    fn put(&mut self, bytes: &[u8]) -> Result<Vec<Extent>, TreeError> {
        let mut extents = Vec::new();
        self.put_at(&mut extents, 0, bytes)?;
        Ok(extents)
    }

    fn put_at(&mut self, extents: &mut Vec<Extent>, mut logical: u32, bytes: &[u8]) -> Result<(), TreeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (start, length) = self.allocate(rest.len().div_ceil(BLOCK_BYTES) as u64);
            let (now, later) = rest.split_at(rest.len().min(length as usize * BLOCK_BYTES));
            self.write(start, now)?;
            format::extend(extents, Extent { logical, start, length: length as u32 });
            logical += length as u32;
            rest = later;
        }
        Ok(())
    }

    /// Takes up to `count` blocks in one piece.
    fn allocate(&mut self, count: u64) -> (u64, u64) {
        if in_head(self.next) {
            self.next = self.next / BLOCKS_PER_GROUP * BLOCKS_PER_GROUP + HEAD_BLOCKS;
        }
        let group_end = (self.next / BLOCKS_PER_GROUP + 1) * BLOCKS_PER_GROUP;
        let length = count.min(group_end - self.next);
        (self.take(length), length)
    }

    /// Takes `count` blocks in one piece that no copy of the superblock interrupts.
    fn allocate_together(&mut self, count: u64) -> u64 {
        while let Some(head) = (self.next..self.next + count).find(|&block| in_head(block)) {
            self.next = head / BLOCKS_PER_GROUP * BLOCKS_PER_GROUP + HEAD_BLOCKS;
        }
        self.take(count)
    }

    fn take(&mut self, length: u64) -> u64 {
        let start = self.next;
        self.next += length;
        self.used.push((start, length));
        start
    }

    fn write(&self, block: u64, bytes: &[u8]) -> Result<(), TreeError> {
        self.out.write_all_at(bytes, block * BLOCK_BYTES as u64).map_err(TreeError::Write)
    }

    /// Gives the inode its map of blocks; what does not fit into it gets blocks of its own.
    fn set_extents(&mut self, inode: &mut Inode, extents: &[Extent]) -> Result<(), TreeError> {
        inode.blocks += extents.iter().map(|extent| u64::from(extent.length)).sum::<u64>();
        let mut level: Vec<Extent> = extents.to_vec();
        let mut depth = 0;
        while level.len() > format::EXTENTS_IN_INODE {
            let mut above = Vec::new();
            for part in level.chunks(format::EXTENTS_IN_BLOCK) {
                let block = format::extent_node(part, depth, format::EXTENTS_IN_BLOCK, BLOCK_BYTES);
                let start = self.put(&block)?[0].start;
                above.push(Extent { logical: part[0].logical, start, length: 0 });
                inode.blocks += 1;
            }
            level = above;
            depth += 1;
        }
        inode.set_map(&format::extent_node(&level, depth, format::EXTENTS_IN_INODE, 60));
        Ok(())
    }

    fn finish(mut self) -> Result<(), TreeError> {
        self.write_directories()?;
        self.write_journal()?;
        let layout = Layout::new(self.next, self.inodes.len() as u64)?;
        let count = layout.groups;
        let block_bitmaps = self.allocate_together(count);
        let inode_bitmaps = self.allocate_together(count);
        let tables: Vec<u64> = (0..count).map(|_| self.allocate_together(layout.table_blocks())).collect();
        let mut groups: Vec<Group> = Vec::new();
        for (number, &inode_table) in (0..).zip(&tables) {
            let block_bitmap = self.block_bitmap(&layout, number);
            let inode_bitmap = self.inode_bitmap(&layout, number);
            self.write(block_bitmaps + number, &block_bitmap)?;
            self.write(inode_bitmaps + number, &inode_bitmap)?;
            self.write(inode_table, &self.inode_table(&layout, number))?;
            groups.push(Group {
                block_bitmap: block_bitmaps + number,
                inode_bitmap: inode_bitmaps + number,
                inode_table,
                free_blocks: zeros(&block_bitmap),
                free_inodes: zeros(&inode_bitmap),
                directories: self.directories_in(&layout, number),
            });
        }
        self.write_superblocks(&layout, &groups)?;
        self.out.set_len(layout.blocks * BLOCK_BYTES as u64).map_err(TreeError::Write)
    }

    fn write_directories(&mut self) -> Result<(), TreeError> {
        let mut parents: HashMap<u32, u32> = HashMap::from([(ROOT, ROOT)]);
        for (number, names) in self.directories.clone() {
            let below = names.iter().filter(|name| name.kind == Kind::Directory);
            parents.extend(below.map(|name| (name.inode, number)));
            let parent = parents.get(&number).copied().unwrap_or(ROOT);
            let listed = names.iter().map(|name| (name.name.as_str(), name.inode, name.kind));
            let mut bytes = format::directory(number, parent, listed);
            if number == LOST_AND_FOUND {
                // Room for what a check finds without having to look for room first.
                (1..4).for_each(|_| format::add_empty_directory_block(&mut bytes));
            }
            let extents = self.put(&bytes)?;
            let mut inode = std::mem::take(&mut self.inodes[number as usize]);
            inode.size_bytes = bytes.len() as u64;
            if inode.links >= MAX_DIRECTORY_LINKS {
                inode.links = 1;
            }
            self.set_extents(&mut inode, &extents)?;
            self.inodes[number as usize] = inode;
        }
        Ok(())
    }

    fn write_journal(&mut self) -> Result<(), TreeError> {
        let blocks = match Layout::blocks_for(self.next, self.inodes.len() as u64) {
            0..32_768 => 1024,
            32_768..262_144 => 4096,
            262_144..524_288 => 8192,
            524_288..4_194_304 => 16_384,
            _ => 32_768,
        };
        let mut extents = Vec::new();
        let mut taken = 0;
        while taken < blocks {
            let (start, length) = self.allocate(blocks - taken);
            format::extend(&mut extents, Extent { logical: taken as u32, start, length: length as u32 });
            taken += length;
        }
        self.write(extents[0].start, &format::journal(blocks as u32))?;
        let size_bytes = blocks * BLOCK_BYTES as u64;
        let kind = Some(Kind::File);
        let mut inode =
            Inode { kind, mode: 0o600, links: 1, mtime: self.time, size_bytes, ..Inode::default() };
        self.set_extents(&mut inode, &extents)?;
        self.inodes[JOURNAL as usize] = inode;
        Ok(())
    }

    fn block_bitmap(&self, layout: &Layout, group: u64) -> Vec<u8> {
        let (start, end) = (group * BLOCKS_PER_GROUP, (group + 1) * BLOCKS_PER_GROUP);
        let mut bitmap = vec![0; BLOCK_BYTES];
        let mut set = |from: u64, to: u64| {
            (from.max(start)..to.min(end)).for_each(|block| set_bit(&mut bitmap, block - start));
        };
        if has_superblock(group) {
            set(start, start + 1 + layout.descriptor_blocks());
        }
        self.used.iter().for_each(|&(from, length)| set(from, from + length));
        set(layout.blocks, end);
        bitmap
    }

    fn inode_bitmap(&self, layout: &Layout, group: u64) -> Vec<u8> {
        let first = group * layout.inodes_per_group;
        let used = (self.inodes.len() as u64 - 1).saturating_sub(first).min(layout.inodes_per_group);
        let mut bitmap = vec![0; BLOCK_BYTES];
        let beyond = layout.inodes_per_group..8 * BLOCK_BYTES as u64;
        (0..used).chain(beyond).for_each(|bit| set_bit(&mut bitmap, bit));
        bitmap
    }

    /// The group's inodes, as far as they are used: what follows them in the image is zeros.
    fn inode_table(&self, layout: &Layout, group: u64) -> Vec<u8> {
        let first = (group * layout.inodes_per_group + 1) as usize;
        let last = (first + layout.inodes_per_group as usize).min(self.inodes.len());
        let inodes = self.inodes.get(first..last).unwrap_or_default();
        let mut table = vec![0; inodes.len() * INODE_BYTES];
        for (bytes, inode) in table.chunks_exact_mut(INODE_BYTES).zip(inodes) {
            inode.encode(self.time, bytes);
        }
        table
    }

    fn directories_in(&self, layout: &Layout, group: u64) -> u64 {
        let first = group * layout.inodes_per_group + 1;
        let range = first..first + layout.inodes_per_group;
        self.directories.keys().filter(|&&number| range.contains(&u64::from(number))).count() as u64
    }

    fn write_superblocks(&self, layout: &Layout, groups: &[Group]) -> Result<(), TreeError> {
        let descriptors: Vec<u8> = groups.iter().flat_map(Group::encode).collect();
        let superblock = Superblock {
            inodes: layout.inodes_per_group * layout.groups,
            blocks: layout.blocks,
            free_blocks: groups.iter().map(|group| group.free_blocks).sum(),
            free_inodes: groups.iter().map(|group| group.free_inodes).sum(),
            inodes_per_group: layout.inodes_per_group,
            time: self.time,
            uuid: uuid(&self.identity, "file system"),
            hash_seed: uuid(&self.identity, "directories"),
            journal: &self.inodes[JOURNAL as usize],
        };
        for group in (0..layout.groups).filter(|&group| has_superblock(group)) {
            let start = group * BLOCKS_PER_GROUP;
            let mut block = vec![0; BLOCK_BYTES];
            // The first block leaves room for a boot sector.
            let offset = if group == 0 { 1024 } else { 0 };
            block[offset..offset + 1024].copy_from_slice(&superblock.encode(group));
            self.write(start, &block)?;
            self.write(start + 1, &descriptors)?;
        }
        Ok(())
    }
}

/// How large the image is and how it is divided.
struct Layout {
    blocks: u64,
    groups: u64,
    inodes_per_group: u64,
}

impl Layout {
    fn new(used_blocks: u64, inodes: u64) -> Result<Self, TreeError> {
        const INODES_PER_BLOCK: u64 = (BLOCK_BYTES / INODE_BYTES) as u64;
        let mut blocks = Self::blocks_for(used_blocks, inodes);
        let mut groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let wanted = (inodes + inodes / 2).max(blocks / 4);
        let mut inodes_per_group = wanted.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        while inodes_per_group > 8 * BLOCK_BYTES as u64 {
            groups += 1;
            blocks = groups * BLOCKS_PER_GROUP;
            inodes_per_group = wanted.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        }
        if groups > MAX_GROUPS {
            return Err(unfit("", "the image would be larger than 1007 GiB"));
        }
        Ok(Self { blocks, groups, inodes_per_group })
    }

    /// Blocks of an image in which so many are used before inodes get their tables.
    const fn blocks_for(used_blocks: u64, inodes: u64) -> u64 {
        const MIB_BLOCKS: u64 = (1 << 20) / BLOCK_BYTES as u64;
        (used_blocks + used_blocks / 2 + inodes / 8 + SPARE_BLOCKS).next_multiple_of(MIB_BLOCKS)
    }

    const fn table_blocks(&self) -> u64 {
        self.inodes_per_group * INODE_BYTES as u64 / BLOCK_BYTES as u64
    }

    const fn descriptor_blocks(&self) -> u64 {
        (self.groups * format::GROUP_BYTES as u64).div_ceil(BLOCK_BYTES as u64)
    }
}

/// `sparse_super`: copies lie in groups 0, 1 and the powers of 3, 5 and 7.
fn has_superblock(group: u64) -> bool {
    let is_power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
}

fn in_head(block: u64) -> bool {
    block % BLOCKS_PER_GROUP < HEAD_BLOCKS && has_superblock(block / BLOCKS_PER_GROUP)
}

fn set_bit(bitmap: &mut [u8], bit: u64) {
    bitmap[bit as usize / 8] |= 1 << (bit % 8);
}

fn zeros(bitmap: &[u8]) -> u64 {
    bitmap.iter().map(|byte| u64::from(byte.count_zeros())).sum()
}

fn uuid(identity: &[u8], purpose: &str) -> [u8; 16] {
    let digest = Digest::of(&[purpose.as_bytes(), identity].concat());
    let mut uuid = [0; 16];
    let hex = digest.hex();
    for (byte, pair) in uuid.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte =
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    // RFC 9562: version 8 (made by a rule of one's own), variant 1.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn unfit(path: &str, reason: &'static str) -> TreeError {
    TreeError::Unfit { path: path.to_owned(), reason }
}

/// Runs `fill` with the near end of a pipe while the image is written from the far end.
pub(crate) fn write_through(
    out: &File,
    time: Timestamp,
    fill: impl FnOnce(io::PipeWriter) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let (reader, writer) = io::pipe().map_err(TreeError::Write)?;
    std::thread::scope(|scope| {
        let image = scope.spawn(move || write(reader, out, time));
        let filled = fill(writer);
        // When the image fails, the pipe breaks: its error is the one that tells more.
        image
            .join()
            .unwrap_or_else(|_| Err(TreeError::Write(io::Error::other("the image's writer ended"))))?;
        filled
    })
}

#[cfg(test)]
mod tests;
