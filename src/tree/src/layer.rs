//! Writing one layer: hashed, compressed and hashed again, side by side.
//!
//! [`write_layer`] streams a tarball into a file and answers with what descriptors need.
//!
//! Spec: OCI image-spec, "Image Layer Filesystem Changeset".

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use knarr_base::{Digest, DigestWriter};
use knarr_oci::{Descriptor, media_type};

use crate::TreeError;
use crate::compress::{Compression, writer};

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the tarball before compression.
    pub diff_id: Digest,
}

/// Writes one layer into `file`; `write` gives its tarball.
pub fn write_layer(
    file: File,
    compression: Compression,
    write: impl FnOnce(&mut dyn Write) -> Result<(), TreeError>,
) -> Result<WrittenLayer, TreeError> {
    let out = DigestWriter::new(io::BufWriter::with_capacity(256 << 10, file));
    let blob = SharedDigest(Arc::new(Mutex::new(Some(out))));
    let mut hashed = Fork::new(writer(compression, blob.clone()).map_err(TreeError::Write)?);
    write(&mut hashed)?;
    let diff_id = hashed.finish().map_err(TreeError::Write)?;
    let (mut inner, digest, size) = blob.take().map_err(TreeError::Write)?;
    inner.flush().map_err(TreeError::Write)?;
    Ok(WrittenLayer { descriptor: Descriptor::new(layer_type(compression), digest, size), diff_id })
}

const fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip(_) => media_type::LAYER_GZIP,
        Compression::Zstd(_) => media_type::LAYER_ZSTD,
        Compression::None | Compression::Xz(_) => media_type::LAYER,
    }
}

type Blob = DigestWriter<io::BufWriter<File>>;

/// The end of the compressor's pipe, which is wanted back when the compressor is done.
#[derive(Clone)]
struct SharedDigest(Arc<Mutex<Option<Blob>>>);

impl SharedDigest {
    fn take(&self) -> io::Result<(io::BufWriter<File>, Digest, u64)> {
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
