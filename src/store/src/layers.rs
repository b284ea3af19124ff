//! Layers: opened as tarballs, and unpacked once for all images that share them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use knarr_base::{Digest, DigestReader};
use knarr_linux::overlay::stack_writable;
use knarr_oci::{Descriptor, media_type};
use knarr_tree::changeset::{apply, hidden_paths, leans, limits_of, unpack_for_overlay};
use knarr_tree::root::Root;

use crate::store::fail;
use crate::{Image, Store, StoreError};

/// Opens a layer's blob as a plain tarball.
pub fn open(store: &Store, layer: &Descriptor) -> Result<Box<dyn Read + Send>, StoreError> {
    let mut file = store.open_blob(layer.digest)?;
    let path = store.blob_path(layer.digest);
    let error = fail("read", &path);
    // Docker's tools call plain layers compressed, and the other way round: the bytes know.
    let mut head = Vec::new();
    (&mut file).take(4).read_to_end(&mut head).map_err(&error)?;
    io::Seek::rewind(&mut file).map_err(&error)?;
    let reader = BufReader::with_capacity(256 << 10, file);
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::Decoder::with_buffer(reader).map_err(&error)?));
    }
    let known = matches!(
        layer.media_type.as_str(),
        media_type::LAYER
            | media_type::LAYER_GZIP
            | media_type::LAYER_ZSTD
            | media_type::DOCKER_LAYER
            | media_type::DOCKER_LAYER_GZIP
    );
    if !known {
        return Err(StoreError::UnknownLayer { layer: layer.digest, media_type: layer.media_type.clone() });
    }
    Ok(Box::new(reader))
}

/// Brings all layers of an image onto a root, which should be empty.
pub fn unpack_image(store: &Store, image: &Image, root: &Root, rootless: bool) -> Result<(), StoreError> {
    for (layer, diff_id) in image.layers() {
        unpack_layer(store, layer, diff_id, root, rootless)?;
    }
    Ok(())
}

/// Brings one layer onto a root, and checks what it unpacks to.
pub fn unpack_layer(
    store: &Store,
    layer: &Descriptor,
    diff_id: Digest,
    root: &Root,
    rootless: bool,
) -> Result<(), StoreError> {
    let mut tar = DigestReader::new(open(store, layer)?);
    apply(root, &mut tar, rootless, &limits_of(layer.size))?;
    check_diff_id(layer, diff_id, tar.finish().1)
}

/// Where an image's layers lie unpacked for overlayfs, the lowest first. Those that are not there yet are unpacked
/// side by side, and appear when the disk has all of them. A layer that an image has several times is there once,
/// where it is highest: overlayfs takes none twice, and what it has lower it has higher, too.
///
/// A layer that leans on lower ones (see [`leans`]) is unpacked once more, onto those below it, and kept for that
/// chain of layers only.
pub fn for_overlay(store: &Store, image: &Image, rootless: bool) -> Result<Vec<PathBuf>, StoreError> {
    let _lock = store.lock_shared()?;
    let mut places = places(store, image);
    unpack_all(store, &mut places, rootless)?;
    unpack_leaning(store, &mut places, rootless)?;
    if places.iter().any(|place| matches!(place.state, State::Fresh(_))) {
        sync(store)?;
    }
    let all = places.into_iter().map(|place| place.appear(store)).collect::<Result<Vec<_>, _>>()?;
    let mut paths = stacked(all.into_iter().rev())?;
    paths.reverse();
    Ok(paths)
}

/// What overlayfs is to stack, the highest first: nothing twice, and nothing below what hides all. In the root itself
/// overlayfs does not obey that mark.
fn stacked(layers: impl Iterator<Item = PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
    let (mut seen, mut paths) = (HashSet::new(), Vec::new());
    for path in layers.filter(|path| seen.insert(path.clone())) {
        let hides_all = Root::open(&path)?.is_opaque("")?;
        paths.push(path);
        if hides_all {
            break;
        }
    }
    Ok(paths)
}

/// A layer at its place in an image.
struct Place<'a> {
    layer: &'a Descriptor,
    diff_id: Digest,
    chain_id: Digest,
    state: State,
}

enum State {
    There(PathBuf),
    Missing,
    /// It leans on those below, or could not be unpacked alone.
    Leaning,
    Fresh(Fresh),
}

fn places<'a>(store: &Store, image: &'a Image) -> Vec<Place<'a>> {
    let chain_ids = chain_ids(&image.config.rootfs.diff_ids);
    let place = |((layer, diff_id), chain_id)| {
        let state = known_path(store, diff_id, chain_id).map_or(State::Missing, State::There);
        Place { layer, diff_id, chain_id, state }
    };
    image.layers().zip(chain_ids).map(place).collect()
}

/// What each layer is together with all below it.
///
/// Spec: OCI image-spec, "Layer ChainID".
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut below = None;
    let above = |diff_id: &Digest| {
        let chain_id =
            below.map_or(*diff_id, |below: Digest| Digest::of(format!("{below} {diff_id}").as_bytes()));
        below = Some(chain_id);
        chain_id
    };
    diff_ids.iter().map(above).collect()
}

/// Where the highest of some layers, the lowest first, lies unpacked, if it does.
#[must_use]
pub fn unpacked_path(store: &Store, diff_ids: &[Digest]) -> Option<PathBuf> {
    let chain_id = chain_ids(diff_ids).pop()?;
    known_path(store, *diff_ids.last()?, chain_id)
}

fn known_path(store: &Store, diff_id: Digest, chain_id: Digest) -> Option<PathBuf> {
    [overlay_path(store, diff_id), chain_path(store, chain_id)].into_iter().find(|path| path.exists())
}

impl Place<'_> {
    fn unpack_alone(&mut self, store: &Store, rootless: bool) -> Result<(), StoreError> {
        self.state = match Fresh::unpack(store, self.layer, self.diff_id, rootless) {
            // What it lacks may lie below.
            Err(StoreError::Tree(_)) => State::Leaning,
            outcome => outcome?.map_or(State::Leaning, State::Fresh),
        };
        Ok(())
    }

    fn may_lean(&self) -> bool {
        match &self.state {
            State::Leaning => true,
            State::Fresh(fresh) => !fresh.hides.is_empty(),
            State::There(_) | State::Missing => false,
        }
    }

    /// Where it lies now, be it for good or not.
    fn path(&self) -> Option<PathBuf> {
        match &self.state {
            State::There(path) => Some(path.clone()),
            State::Fresh(fresh) => Some(fresh.path()),
            State::Missing | State::Leaning => None,
        }
    }

    fn appear(self, store: &Store) -> Result<PathBuf, StoreError> {
        match self.state {
            State::There(path) => Ok(path),
            State::Fresh(fresh) => fresh.appear(),
            State::Missing | State::Leaning => Ok(overlay_path(store, self.diff_id)),
        }
    }
}

fn unpack_all(store: &Store, places: &mut [Place<'_>], rootless: bool) -> Result<(), StoreError> {
    let missing: Vec<_> = places.iter_mut().filter(|place| matches!(place.state, State::Missing)).collect();
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(missing.len());
    let queue = Mutex::new(missing.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<(), StoreError> {
        while let Some(place) = next() {
            place.unpack_alone(store, rootless)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Unpacks layers that lean on lower ones, the lowest first, as each may lean on the last.
fn unpack_leaning(store: &Store, places: &mut [Place<'_>], rootless: bool) -> Result<(), StoreError> {
    for number in 0..places.len() {
        let (below, rest) = places.split_at_mut(number);
        let [place, ..] = rest else { break };
        if !place.may_lean() {
            continue;
        }
        let lowers = stacked(below.iter().rev().filter_map(Place::path))?;
        let leans = match &place.state {
            State::Leaning => true,
            State::Fresh(fresh) => fresh.hides_nothing(store, &lowers, rootless)?,
            State::There(_) | State::Missing => false,
        };
        if leans {
            place.state = State::Fresh(Fresh::unpack_onto(store, place, &lowers, rootless)?);
        }
    }
    Ok(())
}

/// A layer that is unpacked and that nobody sees yet; dropped, it is gone.
struct Fresh {
    target: PathBuf,
    /// What it hides of lower ones.
    hides: Vec<String>,
    holder: tempfile::TempDir,
    /// Who removes leftovers can see by it that this one is none.
    _lock: fs::File,
}

impl Fresh {
    fn empty(store: &Store, target: PathBuf) -> Result<Self, StoreError> {
        let tmp = store.path().join("tmp");
        let holder = tempfile::Builder::new()
            .prefix("layer-")
            .tempdir_in(&tmp)
            .map_err(fail("create a directory in", &tmp))?;
        let lock = holder.path().join("lock");
        let lock = fs::File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(fail("lock", &lock))?;
        Ok(Self { target, hides: Vec::new(), holder, _lock: lock })
    }

    /// Unpacks a layer alone; `None` when it leans on others.
    fn unpack(
        store: &Store,
        layer: &Descriptor,
        diff_id: Digest,
        rootless: bool,
    ) -> Result<Option<Self>, StoreError> {
        let mut fresh = Self::empty(store, overlay_path(store, diff_id))?;
        let root = Root::create(&fresh.path())?;
        let mut tar = DigestReader::new(open(store, layer)?);
        let entries = unpack_for_overlay(&root, &mut tar, rootless, &limits_of(layer.size))?;
        check_diff_id(layer, diff_id, tar.finish().1)?;
        fresh.hides = hidden_paths(&entries);
        Ok((!leans(&entries)).then_some(fresh))
    }

    /// Unpacks a layer onto those below it, the highest first: the kernel keeps apart what is new, and takes up
    /// from below what the layer gives another name or has something in.
    fn unpack_onto(
        store: &Store,
        place: &Place<'_>,
        lowers: &[PathBuf],
        rootless: bool,
    ) -> Result<Self, StoreError> {
        let fresh = Self::empty(store, chain_path(store, place.chain_id))?;
        let stack = Stack::make(&fresh.holder, lowers, rootless)?;
        unpack_layer(store, place.layer, place.diff_id, &stack.root, rootless)?;
        Ok(fresh)
    }

    /// Whether a mark stands where nothing is to be hidden: in a directory that is only here, overlayfs shows it.
    fn hides_nothing(&self, store: &Store, lowers: &[PathBuf], rootless: bool) -> Result<bool, StoreError> {
        let below = Self::empty(store, PathBuf::new())?;
        let stack = Stack::make(&below.holder, lowers, rootless)?;
        for path in &self.hides {
            if !stack.root.exists(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn path(&self) -> PathBuf {
        self.holder.path().join("fresh")
    }

    fn appear(self) -> Result<PathBuf, StoreError> {
        match fs::rename(self.path(), &self.target) {
            // Another process was faster, with the same layer; or this image has the layer twice.
            Err(_) if self.target.exists() => {}
            outcome => outcome.map_err(fail("create", &self.target))?,
        }
        Ok(self.target.clone())
    }
}

/// Layers with an empty directory `fresh` on top, that takes what is changed.
struct Stack {
    root: Root,
    /// It is mounted as long as this is open.
    _mount: Option<OwnedFd>,
}

impl Stack {
    fn make(holder: &tempfile::TempDir, lowers: &[PathBuf], rootless: bool) -> Result<Self, StoreError> {
        let (upper, work) = (holder.path().join("fresh"), holder.path().join("work"));
        for directory in [&upper, &work] {
            fs::create_dir(directory).map_err(fail("create", directory))?;
        }
        if lowers.is_empty() {
            return Ok(Self { root: Root::open(&upper)?, _mount: None });
        }
        let mount = stack_writable(lowers, &upper, &work, rootless)?;
        Ok(Self { root: Root::of_mount(mount.as_fd(), &upper)?, _mount: Some(mount) })
    }
}

/// Waits until the disk has all that was unpacked: a layer that a power cut made shorter would be used for ever.
fn sync(store: &Store) -> Result<(), StoreError> {
    let error = fail("sync", store.path());
    let directory = fs::File::open(store.path()).map_err(&error)?;
    rustix::fs::syncfs(&directory).map_err(|errno| error(errno.into()))
}

/// Where a layer lies unpacked that leans on no other, whether it is there or not.
#[must_use]
pub fn overlay_path(store: &Store, diff_id: Digest) -> PathBuf {
    store.path().join("layers").join(diff_id.hex())
}

/// Where a layer lies unpacked that leans on those below it.
fn chain_path(store: &Store, chain_id: Digest) -> PathBuf {
    store.path().join("layers").join(format!("{CHAIN}{}", chain_id.hex()))
}

/// What the name of a layer that leans on others begins with.
pub(crate) const CHAIN: &str = "chain-";

fn check_diff_id(layer: &Descriptor, promised: Digest, found: Digest) -> Result<(), StoreError> {
    if promised == found {
        return Ok(());
    }
    Err(StoreError::WrongDiffId { layer: layer.digest, promised, found })
}
