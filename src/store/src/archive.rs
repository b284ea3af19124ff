//! Images in one file: OCI archives and docker's, written and read.
//!
//! [`save`] writes a layout as a tarball, with docker's `manifest.json` beside it, so that one file serves
//! every tool. [`load`] reads what any of them writes, in one pass.
//!
//! Spec: OCI image-spec, "Image Layout Specification"; Docker Image Specification 1.3, "Combined Image JSON".

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::rc::Rc;

use knarr_base::{Digest, DigestReader};
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, Manifest, Platform, Reference, annotation,
    media_type,
};
use knarr_tree::TreeError;
use knarr_tree::changeset::limits_of;
use knarr_tree::compress::Compression;
use serde::{Deserialize, Serialize};

use crate::gc::{Reach, check_complete};
use crate::store::{fail, familiar};
use crate::{Image, Ingest, Store, StoreError, layers};

/// Which archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A layout, and docker's manifest beside it: layers as they are in the store.
    Oci,
    /// Docker's own, for tools of before 2021: layers unpacked to plain tarballs.
    Docker,
}

/// One image of docker's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Writes images into one archive.
pub fn save(
    store: &Store,
    names: &[String],
    platform: &Platform,
    format: Format,
    out: impl Write,
) -> Result<(), StoreError> {
    let _lock = store.lock_shared()?;
    let mut writer = Writer {
        builder: tar::Builder::new(io::BufWriter::with_capacity(1 << 20, out)),
        seen: BTreeSet::new(),
    };
    let found = names.iter().map(|name| store.find(name)).collect::<Result<Vec<_>, _>>()?;
    match format {
        Format::Oci => save_layout(store, &found, platform, &mut writer)?,
        Format::Docker => save_docker(store, &found, platform, &mut writer)?,
    }
    let mut out = writer.builder.into_inner().map_err(TreeError::Write)?;
    out.flush().map_err(TreeError::Write)?;
    Ok(())
}

fn save_layout(
    store: &Store,
    found: &[crate::Found],
    platform: &Platform,
    writer: &mut Writer<impl Write>,
) -> Result<(), StoreError> {
    let (mut reach, mut index, mut images) =
        (Reach::default(), Vec::new(), BTreeMap::<Digest, DockerImage>::new());
    for found in found {
        reach.add(store, &found.descriptor)?;
        let mut entry = found.descriptor.clone();
        if let Some(name) = &found.name {
            entry.annotations.insert(annotation::REF_NAME.to_owned(), name.clone());
            entry.annotations.insert(annotation::CONTAINERD_NAME.to_owned(), name.clone());
        }
        index.push(entry);
        // Docker's manifest knows one platform only; an image without ours is in the layout alone.
        if let Ok(image) = store.image(&found.descriptor, platform) {
            let known = images.entry(image.descriptor.digest).or_insert_with(|| DockerImage {
                config: blob_name(image.manifest.config.digest),
                repo_tags: Vec::new(),
                layers: image.manifest.layers.iter().map(|layer| blob_name(layer.digest)).collect(),
            });
            known.repo_tags.extend(found.name.as_deref().map(familiar));
        }
    }
    writer.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    writer.bytes("index.json", &ImageIndex::of(index).to_bytes())?;
    writer.bytes("manifest.json", &json(&images.into_values().collect::<Vec<_>>()))?;
    for digest in reach.blobs.keys() {
        writer.file(&blob_name(*digest), store.open_blob(*digest)?)?;
    }
    Ok(())
}

fn save_docker(
    store: &Store,
    found: &[crate::Found],
    platform: &Platform,
    writer: &mut Writer<impl Write>,
) -> Result<(), StoreError> {
    let mut images = BTreeMap::<Digest, DockerImage>::new();
    for found in found {
        let image = store.image(&found.descriptor, platform)?;
        let config = image.manifest.config.digest;
        let layers =
            image.config.rootfs.diff_ids.iter().map(|diff_id| format!("{}.tar", diff_id.hex())).collect();
        let known = images.entry(config).or_insert_with(|| DockerImage {
            config: format!("{}.json", config.hex()),
            repo_tags: Vec::new(),
            layers,
        });
        known.repo_tags.extend(found.name.as_deref().map(familiar));
        for (layer, diff_id) in image.layers() {
            writer.plain_layer(store, layer, diff_id)?;
        }
        writer.bytes(
            &format!("{}.json", config.hex()),
            &store.read(&image.manifest.config, MAX_CONFIG_BYTES)?,
        )?;
    }
    writer.bytes("manifest.json", &json(&images.into_values().collect::<Vec<_>>()))
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // These types have string keys and nothing that can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

struct Writer<W: Write> {
    builder: tar::Builder<W>,
    /// What is in the archive already.
    seen: BTreeSet<String>,
}

impl<W: Write> Writer<W> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.entry(name, bytes.len() as u64, bytes)
    }

    fn file(&mut self, name: &str, file: File) -> Result<(), StoreError> {
        let size = file.metadata().map_err(TreeError::Read)?.len();
        self.entry(name, size, file)
    }

    fn plain_layer(&mut self, store: &Store, layer: &Descriptor, diff_id: Digest) -> Result<(), StoreError> {
        let name = format!("{}.tar", diff_id.hex());
        if self.seen.contains(&name) {
            return Ok(());
        }
        // A tarball's entries need their size first: unpack once to know it, once more to write.
        let bound = limits_of(layer.size).bytes;
        let mut tar = DigestReader::new(layers::open(store, layer)?.take(bound));
        io::copy(&mut tar, &mut io::sink()).map_err(TreeError::Read)?;
        let (_, found, size) = tar.finish();
        if found != diff_id {
            return Err(StoreError::WrongDiffId { layer: layer.digest, promised: diff_id, found });
        }
        self.entry(&name, size, layers::open(store, layer)?.take(size))
    }

    fn entry(&mut self, name: &str, size: u64, content: impl Read) -> Result<(), StoreError> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(TreeError::Write)?;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        Ok(self.builder.append(&header, content).map_err(TreeError::Write)?)
    }
}

/// An image that was brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// Its name, if the archive had one for it.
    pub name: Option<String>,
}

/// Files that are held in memory: indexes, manifests, docker's configurations.
const MAX_SMALL_BYTES: u64 = MAX_CONFIG_BYTES;
const MAX_SMALL_FILES: usize = 4096;
const MAX_ENTRIES: usize = 200_000;

/// Brings the images of an archive into the store; the archive may be compressed. `label` names it in errors.
pub fn load(store: &Store, label: &str, input: impl Read) -> Result<Vec<Loaded>, StoreError> {
    let ingest = store.ingest()?;
    let mut archive = tar::Archive::new(decompressed(input).map_err(TreeError::Read)?);
    let mut parts =
        Parts { label, ingest: &ingest, small: HashMap::new(), blobs: HashMap::new(), links: HashMap::new() };
    for (count, entry) in archive.entries().map_err(TreeError::Read)?.enumerate() {
        let entry = entry.map_err(TreeError::Read)?;
        if knarr_linux::signals::interrupted().load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Interrupted);
        }
        if count > MAX_ENTRIES {
            return Err(parts.bad(format!("it holds more than {MAX_ENTRIES} files")));
        }
        parts.take(entry)?;
    }
    parts.finish()
}

/// Looks at the first bytes and unpacks what they say. More than a layer of so many bytes may unpack to does not
/// come out.
pub fn decompressed<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let taken = Rc::new(Cell::new(0));
    let mut reader = BufReader::with_capacity(1 << 20, Counted { input, taken: Rc::clone(&taken) });
    let head = io::BufRead::fill_buf(&mut reader)?;
    let unpacked: Box<dyn Read + 'a> = match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(reader)),
        [b'B', b'Z', b'h', ..] => {
            return Err(io::Error::other(
                "it is compressed with bzip2, which is not supported: gzip, xz and zstd are",
            ));
        }
        _ => return Ok(Box::new(reader)),
    };
    Ok(Box::new(Bounded { unpacked, taken, given: 0 }))
}

/// Counts what is taken from a reader.
struct Counted<R> {
    input: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

/// Ends with an error where a bomb goes on.
struct Bounded<'a> {
    unpacked: Box<dyn Read + 'a>,
    taken: Rc<Cell<u64>>,
    given: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacked.read(buffer)?;
        self.given += read as u64;
        let (taken, limit) = (self.taken.get(), limits_of(self.taken.get()).bytes);
        if self.given > limit {
            return Err(io::Error::other(format!("{taken} bytes unpack to more than {limit}")));
        }
        Ok(read)
    }
}

/// What the archive held, by name.
struct Parts<'a, 'b> {
    label: &'a str,
    ingest: &'a Ingest<'b>,
    small: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, (Digest, u64)>,
    /// Docker's archives have links where two images share a layer.
    links: HashMap<String, String>,
}

impl Parts<'_, '_> {
    fn bad(&self, reason: String) -> StoreError {
        StoreError::BadArchive { archive: self.label.to_owned(), reason }
    }

    fn take<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), StoreError> {
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = normal(&raw);
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let target =
                if kind.is_symlink() { normal(&format!("{parent}/{target}")) } else { normal(&target) };
            self.links.insert(name, target);
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            let digest: Digest =
                hex.parse().map_err(|_| self.bad(format!("{raw:?} is no name of a blob")))?;
            let promised = Descriptor::new("", digest, entry.size());
            if !self.ingest.store().has(&promised) {
                self.ingest.copy(&promised, &mut entry)?;
            }
            self.blobs.insert(name, (digest, promised.size));
            return Ok(());
        }
        if name.ends_with(".json")
            || name == "oci-layout"
            || name == "repositories"
            // So crane, kaniko and Bazel name configurations.
            || name.starts_with("sha256:")
            || name.ends_with("VERSION")
        {
            if self.small.len() >= MAX_SMALL_FILES || entry.size() > MAX_SMALL_BYTES {
                return Err(
                    self.bad(format!("{raw:?} has {} bytes: too many to be read whole", entry.size()))
                );
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(TreeError::Read)?;
            self.small.insert(name, bytes);
            return Ok(());
        }
        if name.ends_with(".tar") || name.ends_with(".tar.gz") {
            let mut blob = self.ingest.blob()?;
            io::copy(&mut entry, &mut blob).map_err(|source| blob.error(source))?;
            self.blobs.insert(name, blob.finish(None)?);
        }
        Ok(())
    }

    fn finish(&self) -> Result<Vec<Loaded>, StoreError> {
        if let Some(index) = self.small.get("index.json") {
            return self.finish_layout(index);
        }
        match self.small.get("manifest.json") {
            Some(images) => self.finish_docker(images),
            None => Err(self.bad("it holds neither index.json (OCI) nor manifest.json (docker)".to_owned())),
        }
    }

    fn finish_layout(&self, index: &[u8]) -> Result<Vec<Loaded>, StoreError> {
        let index: ImageIndex =
            serde_json::from_slice(index).map_err(|error| self.bad(format!("its index.json: {error}")))?;
        if index.manifests.is_empty() {
            return Err(self.bad("its index.json lists no image".to_owned()));
        }
        // One that is not whole keeps the others from being named, too.
        index.manifests.iter().try_for_each(|entry| check_complete(self.ingest.store(), entry))?;
        // Docker's own layouts name images in containerd's way, podman's by the name alone.
        let mut loaded = Vec::new();
        for entry in index.manifests {
            let known = [annotation::CONTAINERD_NAME, annotation::REF_NAME].into_iter();
            let name = known.filter_map(|key| entry.annotations.get(key)).find_map(|name| full_name(name));
            let mut bare = entry.bare();
            bare.artifact_type.clone_from(&entry.artifact_type);
            self.ingest.add(name.as_deref(), &bare)?;
            loaded.push(Loaded { descriptor: bare, name });
        }
        Ok(loaded)
    }

    fn finish_docker(&self, images: &[u8]) -> Result<Vec<Loaded>, StoreError> {
        let images: Vec<DockerImage> = serde_json::from_slice(images)
            .map_err(|error| self.bad(format!("its manifest.json: {error}")))?;
        if images.is_empty() {
            return Err(self.bad("its manifest.json lists no image".to_owned()));
        }
        let mut loaded = Vec::new();
        for image in images {
            let descriptor = self.docker_image(&image)?;
            if image.repo_tags.is_empty() {
                loaded.push(Loaded { descriptor: descriptor.clone(), name: None });
            }
            for tag in &image.repo_tags {
                let name = Some(Reference::parse(tag)?.to_string());
                loaded.push(Loaded { descriptor: descriptor.clone(), name });
            }
        }
        // One that is not whole keeps the others from being named, too.
        for image in &loaded {
            self.ingest.add(image.name.as_deref(), &image.descriptor)?;
        }
        Ok(loaded)
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Descriptor, StoreError> {
        let bytes = self.document(&image.config)?;
        let config = ImageConfig::parse(&bytes)?;
        if config.rootfs.diff_ids.len() != image.layers.len() {
            return Err(self.bad(format!(
                "{} names {} layers, manifest.json {}",
                image.config,
                config.rootfs.diff_ids.len(),
                image.layers.len()
            )));
        }
        let layers = image.layers.iter().zip(&config.rootfs.diff_ids);
        let layers =
            layers.map(|(name, diff_id)| self.docker_layer(name, *diff_id)).collect::<Result<_, _>>()?;
        let blob = self.ingest.put(media_type::CONFIG, &bytes)?;
        let mut manifest =
            self.ingest.put(media_type::MANIFEST, &Manifest::of_image(blob, layers).to_bytes())?;
        manifest.platform = Some(config.platform());
        Ok(manifest)
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let name = self.target(&normal(name));
        if let Some(bytes) = self.small.get(&name) {
            return Ok(bytes.clone());
        }
        let (digest, size) =
            self.blobs.get(&name).ok_or_else(|| self.bad(format!("it does not hold {name}")))?;
        self.ingest.store().read(&Descriptor::new(media_type::CONFIG, *digest, *size), MAX_CONFIG_BYTES)
    }

    /// A layer as a blob: plain ones are compressed now, once, and not at each push.
    fn docker_layer(&self, name: &str, diff_id: Digest) -> Result<Descriptor, StoreError> {
        let name = self.target(&normal(name));
        let (digest, size) =
            *self.blobs.get(&name).ok_or_else(|| self.bad(format!("it does not hold {name}")))?;
        let store = self.ingest.store();
        let mut head = [0_u8; 4];
        let mut file = store.open_blob(digest)?;
        let read = file.read(&mut head).map_err(TreeError::Read)?;
        file.rewind().map_err(TreeError::Read)?;
        let plain = Descriptor::new(media_type::LAYER, digest, size);
        let compressed = match &head[..read] {
            [0x1f, 0x8b, ..] => Some(media_type::LAYER_GZIP),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(media_type::LAYER_ZSTD),
            _ => None,
        };
        if let Some(kind) = compressed {
            let layer = Descriptor::new(kind, digest, size);
            let mut tar = DigestReader::new(layers::open(store, &layer)?.take(limits_of(size).bytes));
            io::copy(&mut tar, &mut io::sink()).map_err(TreeError::Read)?;
            let found = tar.finish().1;
            return if found == diff_id { Ok(layer) } else { Err(wrong(digest, diff_id, found)) };
        }
        if digest != diff_id {
            return Err(wrong(digest, diff_id, digest));
        }
        let layer = self
            .ingest
            .layer(Compression::Zstd(3), |out| io::copy(&mut file, out).map(drop).map_err(TreeError::Read))?;
        // The plain form is nobody's now; the next prune removes it, unless it was there before.
        drop(plain);
        Ok(layer.descriptor)
    }

    fn target(&self, name: &str) -> String {
        let mut name = name;
        // Docker makes no chains of links; a few steps are enough, and a loop ends.
        for _ in 0..8 {
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        name.to_owned()
    }
}

const fn wrong(layer: Digest, promised: Digest, found: Digest) -> StoreError {
    StoreError::WrongDiffId { layer, promised, found }
}

/// A name of another tool's layout as ours; a bare tag names nothing.
fn full_name(name: &str) -> Option<String> {
    let is_name = name.contains('/') || name.contains(':');
    is_name.then(|| Reference::parse(name).ok()).flatten().map(|reference| reference.to_string())
}

/// A path without `.`, `..` and empty parts.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Makes an image of one layer from a root's tarball, which may be compressed.
pub fn import(
    store: &Store,
    name: Option<&str>,
    mut config: ImageConfig,
    created_by: &str,
    input: impl Read,
) -> Result<Descriptor, StoreError> {
    let ingest = store.ingest()?;
    let mut tar = decompressed(input).map_err(TreeError::Read)?;
    let layer = ingest
        .layer(Compression::Zstd(3), |out| io::copy(&mut tar, out).map(drop).map_err(TreeError::Read))?;
    let mut listing = knarr_tree::changeset::Listing::default();
    let mut plain = layers::open(store, &layer.descriptor)?;
    listing.add_layer(&mut plain, &limits_of(layer.descriptor.size), &mut |_, _| Ok(()))?;
    if listing.files.is_empty() {
        return Err(StoreError::BadArchive {
            archive: "the input".to_owned(),
            reason: "it holds no file".to_owned(),
        });
    }
    config.push_layer(layer.diff_id, created_by);
    let blob = ingest.put(media_type::CONFIG, &config.to_bytes())?;
    let manifest = Manifest::of_image(blob, vec![layer.descriptor]);
    let mut descriptor = ingest.put(media_type::MANIFEST, &manifest.to_bytes())?;
    descriptor.platform = Some(config.platform());
    ingest.add(name, &descriptor)?;
    Ok(descriptor)
}

/// Writes an image's files as one plain tarball.
pub fn export(store: &Store, image: &Image, rootless: bool, out: impl Write) -> Result<(), StoreError> {
    let tmp = store.path().join("tmp");
    let holder = tempfile::Builder::new()
        .prefix("export-")
        .tempdir_in(&tmp)
        .map_err(fail("create a directory in", &tmp))?;
    let path = holder.path().join("lock");
    let lock =
        File::create(&path).and_then(|file| file.lock().map(|()| file)).map_err(fail("lock", &path))?;
    let root = knarr_tree::root::Root::create(&holder.path().join("root"))?;
    layers::unpack_image(store, image, &root, rootless)?;
    let newest = knarr_base::Timestamp(i64::MAX);
    let options = knarr_tree::archive::TarOptions { newest, started: newest, skip: &|_| false, extra: &[] };
    knarr_tree::archive::write_tar(&root, out, &options)?;
    drop(lock);
    Ok(())
}
