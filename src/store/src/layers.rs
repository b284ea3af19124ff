//! Layers: opened as tarballs, and unpacked once for all images that share them.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

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

/// Where a layer lies unpacked for overlayfs; it is unpacked when it is not yet there.
pub fn for_overlay(
    store: &Store,
    layer: &Descriptor,
    diff_id: Digest,
    rootless: bool,
) -> Result<PathBuf, StoreError> {
    let path = overlay_path(store, diff_id);
    if path.exists() {
        return Ok(path);
    }
    let tmp = store.path().join("tmp");
    let holder = tempfile::Builder::new()
        .prefix("layer-")
        .tempdir_in(&tmp)
        .map_err(fail("create a directory in", &tmp))?;
    let lock = holder.path().join("lock");
    let lock =
        fs::File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(fail("lock", &lock))?;
    let fresh = holder.path().join("fresh");
    let root = Root::create(&fresh)?;
    let mut tar = DigestReader::new(open(store, layer)?);
    unpack_for_overlay(&root, &mut tar, rootless, &limits_of(layer.size))?;
    check_diff_id(layer, diff_id, tar.finish().1)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail("create", parent))?;
    }
    match fs::rename(&fresh, &path) {
        // Another process was faster, with the same layer.
        Err(_) if path.exists() => {}
        outcome => outcome.map_err(fail("create", &path))?,
    }
    drop(lock);
    Ok(path)
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
