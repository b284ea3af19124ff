//! Layers: opened as tarballs, and unpacked once for all images that share them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use knarr_base::{Digest, DigestReader};
use knarr_oci::{Descriptor, media_type};
use knarr_tree::changeset::{apply, limits_of, unpack_for_overlay};
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
pub fn for_overlay(store: &Store, image: &Image, rootless: bool) -> Result<Vec<PathBuf>, StoreError> {
    let _lock = store.lock_shared()?;
    let missing: Vec<_> =
        image.layers().filter(|(_, diff_id)| !overlay_path(store, *diff_id).exists()).collect();
    let mut fresh = unpack_all(store, &missing, rootless)?;
    if !fresh.is_empty() {
        sync(store)?;
    }
    fresh.drain(..).try_for_each(|layer| layer.appear(store))?;
    let mut seen = HashSet::new();
    let diff_ids: Vec<Digest> = image.layers().map(|(_, diff_id)| diff_id).collect();
    let highest = diff_ids.into_iter().rev().filter(|diff_id| seen.insert(*diff_id));
    let mut paths: Vec<PathBuf> = highest.map(|diff_id| overlay_path(store, diff_id)).collect();
    paths.reverse();
    Ok(paths)
}

fn unpack_all(
    store: &Store,
    missing: &[(&Descriptor, Digest)],
    rootless: bool,
) -> Result<Vec<Fresh>, StoreError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Fresh>, StoreError> {
        let mut done = Vec::new();
        while let Some((layer, diff_id)) = missing.get(next.fetch_add(1, Ordering::SeqCst)) {
            done.push(Fresh::unpack(store, layer, *diff_id, rootless)?);
        }
        Ok(done)
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(missing.len())).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let outcome = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.append(&mut outcome?);
        }
        Ok(all)
    })
}

/// A layer that is unpacked and that nobody sees yet; dropped, it is gone.
struct Fresh {
    diff_id: Digest,
    holder: tempfile::TempDir,
    /// Who removes leftovers can see by it that this one is none.
    _lock: fs::File,
}

impl Fresh {
    fn unpack(
        store: &Store,
        layer: &Descriptor,
        diff_id: Digest,
        rootless: bool,
    ) -> Result<Self, StoreError> {
        let tmp = store.path().join("tmp");
        let holder = tempfile::Builder::new()
            .prefix("layer-")
            .tempdir_in(&tmp)
            .map_err(fail("create a directory in", &tmp))?;
        let lock = holder.path().join("lock");
        let lock = fs::File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(fail("lock", &lock))?;
        let root = Root::create(&holder.path().join("fresh"))?;
        let mut tar = DigestReader::new(open(store, layer)?);
        unpack_for_overlay(&root, &mut tar, rootless, &limits_of(layer.size))?;
        check_diff_id(layer, diff_id, tar.finish().1)?;
        Ok(Self { diff_id, holder, _lock: lock })
    }

    fn appear(self, store: &Store) -> Result<(), StoreError> {
        let path = overlay_path(store, self.diff_id);
        match fs::rename(self.holder.path().join("fresh"), &path) {
            // Another process was faster, with the same layer; or this image has the layer twice.
            Err(_) if path.exists() => Ok(()),
            outcome => outcome.map_err(fail("create", &path)),
        }
    }
}

/// Waits until the disk has all that was unpacked: a layer that a power cut made shorter would be used for ever.
fn sync(store: &Store) -> Result<(), StoreError> {
    let error = fail("sync", store.path());
    let directory = fs::File::open(store.path()).map_err(&error)?;
    rustix::fs::syncfs(&directory).map_err(|errno| error(errno.into()))
}

/// Where a layer lies unpacked, whether it is there or not.
#[must_use]
pub fn overlay_path(store: &Store, diff_id: Digest) -> PathBuf {
    store.path().join("layers").join(diff_id.hex())
}

fn check_diff_id(layer: &Descriptor, promised: Digest, found: Digest) -> Result<(), StoreError> {
    if promised == found {
        return Ok(());
    }
    Err(StoreError::WrongDiffId { layer: layer.digest, promised, found })
}
