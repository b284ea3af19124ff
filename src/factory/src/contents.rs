//! What each layer holds: read once, and remembered by the layer's digest.
//!
//! [`listing`] stacks layers without reading again what any image's inventory was made of before, so that an image of
//! which one layer is new costs the reading of one layer.

use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use knarr_base::Digest;
use knarr_mirror::cache::Cache;
use knarr_store::{Store, layers};
use knarr_tree::changeset::{LayerEntries, Listed, Listing, limits_of};
use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use crate::FactoryError;
use crate::cache::{self, Key, KeyMaker, LayerRecord};

/// SHA-1 of contents by their digests.
pub(crate) type Sums = HashMap<Digest, String>;

/// One layer, as it is remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Held {
    /// Path, kind, target of a link, digest and SHA-1 of a file.
    entries: Vec<(String, char, String, Option<Digest>, String)>,
    hides: Vec<String>,
}

/// What layers come to, and the SHA-1 of each content.
pub(crate) fn listing(
    store: &Store,
    cache: &Cache,
    layers: &[LayerRecord],
) -> Result<(Listing, Sums), FactoryError> {
    let (mut listing, mut sums) = (Listing::default(), Sums::new());
    for held in read_all(store, cache, layers)? {
        let mut read = LayerEntries { entries: Vec::with_capacity(held.entries.len()), hides: held.hides };
        for (path, kind, link, digest, sum) in held.entries {
            if let Some(digest) = digest {
                sums.insert(digest, sum);
            }
            read.entries.push((path, listed(kind, link, digest)));
        }
        listing.stack(read)?;
    }
    Ok((listing, sums))
}

/// Reads all layers, as many at once as there are processors.
fn read_all(store: &Store, cache: &Cache, layers: &[LayerRecord]) -> Result<Vec<Held>, FactoryError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((number, layer)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            layers.get(number).map(|layer| (number, layer))
        } {
            let held = read(store, cache, layer);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, held));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        (1..processors.min(layers.len())).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, held)| held).collect()
}

fn key(diff_id: Digest) -> Key {
    KeyMaker::new("files of a layer").with(diff_id.as_bytes()).finish()
}

fn read(store: &Store, cache: &Cache, layer: &LayerRecord) -> Result<Held, FactoryError> {
    let key = key(layer.diff_id);
    if let Some(known) = cache::load(cache, key) {
        return Ok(known);
    }
    let mut tar = layers::open(store, &layer.descriptor)?;
    let mut sums: HashMap<String, String> = HashMap::new();
    let read = LayerEntries::read(&mut tar, &limits_of(layer.descriptor.size), &mut |path, content| {
        sums.insert(path.to_owned(), sha1_of(content)?);
        Ok(())
    })?;
    let entry = |(path, listed): (String, Listed)| {
        let sum = listed.digest.and_then(|_| sums.get(&path).cloned()).unwrap_or_default();
        (path, letter(listed.kind), listed.link, listed.digest, sum)
    };
    let held = Held { entries: read.entries.into_iter().map(entry).collect(), hides: read.hides };
    cache::save(cache, key, &held)?;
    Ok(held)
}

const KINDS: [(Kind, char); 4] =
    [(Kind::File, 'f'), (Kind::Directory, 'd'), (Kind::Symlink, 'l'), (Kind::HardLink, 'h')];
/// Devices and pipes: of them nothing is told but that they are there.
const OTHER: char = 'o';

fn letter(kind: Kind) -> char {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(OTHER, |(_, letter)| *letter)
}

fn listed(letter: char, link: String, digest: Option<Digest>) -> Listed {
    let kind = KINDS.iter().find(|(_, known)| *known == letter).map_or(Kind::Fifo, |(kind, _)| *kind);
    Listed {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        size_bytes: 0,
        mtime: 0,
        link,
        digest,
        xattrs: Vec::new(),
        device: (0, 0),
        layer: 0,
    }
}

fn sha1_of(content: &mut dyn Read) -> io::Result<String> {
    let mut hasher = Sha1::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
