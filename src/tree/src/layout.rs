//! Writing an image as an OCI layout.
//!
//! [`LayoutWriter`] writes the layout of one image; a store of many is `store`'s work.
//!
//! Spec: OCI image-spec, "Image Layout Specification".

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use knarr_base::{Digest, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, ImageIndex, Manifest, annotation, media_type};

use crate::TreeError;
use crate::archive::{TarOptions, write_tar};
use crate::compress::Compression;
use crate::layer::{WrittenLayer, write_layer};
use crate::root::Root;

/// Writes a layout into a directory.
pub struct LayoutWriter {
    directory: PathBuf,
    layers: Vec<(WrittenLayer, String)>,
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
        let layer = write_layer(file, compression, write)?;
        fs::rename(&path, self.blob(layer.descriptor.digest)).map_err(fail("rename"))?;
        self.layers.push((layer, created_by.to_owned()));
        Ok(())
    }

    /// Writes configuration, manifest and index; answers with the manifest's digest.
    pub fn finish(self, mut config: ImageConfig, name: &str) -> Result<Digest, TreeError> {
        for (layer, created_by) in &self.layers {
            config.push_layer(layer.diff_id, created_by);
        }
        let blob = self.put_blob(media_type::CONFIG, &config.to_bytes())?;
        let layers = self.layers.iter().map(|(layer, _)| layer.descriptor.clone()).collect();
        let manifest = Manifest::of_image(blob, layers);
        let mut manifest = self.put_blob(media_type::MANIFEST, &manifest.to_bytes())?;
        let digest = manifest.digest;
        manifest.platform = Some(config.platform());
        manifest.annotations.insert(annotation::REF_NAME.to_owned(), name.to_owned());
        self.put("index.json", &ImageIndex::of(vec![manifest]).to_bytes())?;
        Ok(digest)
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
