//! Writing an image as an OCI layout.
//!
//! [`LayoutWriter`] streams a layer through hash, compression and hash again, side by side.
//!
//! Spec: OCI image-spec, "Image Layout Specification".

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use knarr_base::{Digest, DigestWriter, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, Layer, index_bytes, manifest_bytes, media_type};

use crate::TreeError;
use crate::archive::{TarOptions, write_tar};
use crate::compress::{Compression, writer};
use crate::root::Root;

/// Writes a layout into a directory.
pub struct LayoutWriter {
    directory: PathBuf,
    layers: Vec<Layer>,
}

impl LayoutWriter {
    /// Starts a layout in an existing, empty directory.
    pub fn create(directory: &Path) -> Result<Self, TreeError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|source| TreeError::File {
            doing: "create",
            path: blobs,
            source,
        })?;
        let writer = Self { directory: directory.to_owned(), layers: Vec::new() };
        writer.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(writer)
    }

    /// Writes one layer; `write` gives its tarball.
    pub fn add_layer(
        &mut self,
        compression: Compression,
        created_by: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let path = self.directory.join("blobs/sha256/.layer");
        let fail = |doing: &'static str| {
            let path = path.clone();
            move |source| TreeError::File { doing, path, source }
        };
        let file = fs::File::create(&path).map_err(fail("create"))?;
        let blob = SharedDigest(Arc::new(Mutex::new(Some(DigestWriter::new(io::BufWriter::with_capacity(
            256 << 10,
            file,
        ))))));
        let mut hashed = Fork::new(writer(compression, blob.clone()).map_err(TreeError::Write)?);
        write(&mut hashed)?;
        let diff_id = hashed.finish().map_err(TreeError::Write)?;
        let (mut inner, digest, size) = blob.take().map_err(TreeError::Write)?;
        inner.flush().map_err(fail("write"))?;
        fs::rename(&path, self.blob(digest)).map_err(fail("rename"))?;
        let descriptor = Descriptor {
            media_type: layer_type(compression).to_owned(),
            digest,
            size,
            annotations: std::collections::BTreeMap::new(),
        };
        self.layers.push(Layer { descriptor, diff_id, created_by: created_by.to_owned() });
        Ok(())
    }

    /// Writes configuration, manifest and index; answers with the manifest's digest.
    pub fn finish(self, config: &ImageConfig, name: &str) -> Result<Digest, TreeError> {
        let config_bytes = config.to_bytes(&self.layers);
        let config_blob = self.put_blob(media_type::CONFIG, &config_bytes)?;
        let manifest = self.put_blob(media_type::MANIFEST, &manifest_bytes(&config_blob, &self.layers))?;
        self.put("index.json", &index_bytes(&manifest, name, config.architecture))?;
        Ok(manifest.digest)
    }

    fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, TreeError> {
        let descriptor = Descriptor::of(media_type, bytes);
        self.put(&format!("blobs/sha256/{}", descriptor.digest.hex()), bytes)?;
        Ok(descriptor)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), TreeError> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).map_err(|source| TreeError::File { doing: "write", path, source })
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}

/// Packs a layout directory into one tarball, as tools with an `oci-archive:` transport read it.
pub fn pack_archive(directory: &Path, out: impl Write, time: Timestamp) -> Result<(), TreeError> {
    let root = Root::open(directory)?;
    let options = TarOptions { newest: time, started: Timestamp(0), skip: &|_| false, extra: &[] };
    write_tar(&root, out, &options).map(drop)
}

const fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip(_) => media_type::LAYER_GZIP,
        Compression::Zstd(_) => media_type::LAYER_ZSTD,
        Compression::None | Compression::Xz(_) => media_type::LAYER,
    }
}

type Blob = DigestWriter<io::BufWriter<fs::File>>;

/// The end of the compressor's pipe, which is wanted back when the compressor is done.
#[derive(Clone)]
struct SharedDigest(Arc<Mutex<Option<Blob>>>);

impl SharedDigest {
    fn take(&self) -> io::Result<(io::BufWriter<fs::File>, Digest, u64)> {
        let blob = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        blob.map(DigestWriter::finish).ok_or_else(|| io::Error::other("the blob was taken twice"))
    }
}

impl Write for SharedDigest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut blob = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blob.as_mut().ok_or_else(|| io::Error::other("the blob is finished"))?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut blob = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blob.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Hashes on a thread of its own what it passes to the compressor.
struct Fork<'a> {
    inner: Box<dyn crate::compress::FinishWrite + 'a>,
    hashing: Option<(SyncSender<Vec<u8>>, JoinHandle<Digest>)>,
}

impl<'a> Fork<'a> {
    fn new(inner: Box<dyn crate::compress::FinishWrite + 'a>) -> Self {
        let (sender, receiver) = sync_channel::<Vec<u8>>(16);
        let thread = std::thread::spawn(move || {
            let mut hash = DigestWriter::new(io::sink());
            for bytes in receiver {
                // A sink takes everything.
                let _ = hash.write_all(&bytes);
            }
            hash.finish().1
        });
        Self { inner, hashing: Some((sender, thread)) }
    }

    fn finish(mut self) -> io::Result<Digest> {
        self.inner.finish()?;
        let (sender, thread) =
            self.hashing.take().ok_or_else(|| io::Error::other("the layer was finished twice"))?;
        drop(sender);
        thread.join().map_err(|_| io::Error::other("the hashing thread panicked"))
    }
}

impl Write for Fork<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((sender, _)) = &self.hashing {
            sender.send(bytes.to_vec()).map_err(|_| io::Error::other("the hashing thread ended early"))?;
        }
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
