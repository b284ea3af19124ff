//! Images in files: saved, loaded, and made of a root's tarball.

use std::io::Read;

use knarr_oci::{Descriptor, History, ImageConfig, Manifest, Reference, media_type};
use knarr_store::store::familiar;
use knarr_store::{Ingest, Store, archive, layers};
use knarr_tree::TreeError;
use knarr_tree::changeset::{Listing, limits_of};
use knarr_tree::compress::Compression;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::pull::is_whole;
use super::{Changes, find, new_name};
use crate::containers::{blocking, platform_of};
use crate::engine::now;
use crate::stream::{ByteStream, StreamReader, ValueStream, produce};
use crate::{Engine, EngineError};

impl Engine {
    /// `GET /images/get`, `GET /images/{name}/get`: a layout with docker's manifest beside it.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn save_images(&self, names: Vec<String>) -> Result<ByteStream, EngineError> {
        if names.is_empty() {
            return Err(EngineError::invalid("no image is named"));
        }
        let store = self.store().clone();
        let looked = store.clone();
        let names = blocking(move || to_save(&looked, &names)).await?;
        let platform = platform_of(None)?;
        for name in &names {
            self.shared().events.image("save", name, name);
        }
        Ok(produce(move |out| Ok(archive::save(&store, &names, &platform, archive::Format::Oci, out)?)))
    }

    /// `POST /images/load`: all of it is read before the first line.
    ///
    /// # Errors
    /// The archive is none, or holds a broken image.
    pub async fn load_images(&self, quiet: bool, tarball: StreamReader) -> Result<ValueStream, EngineError> {
        // What `quiet` leaves out is progress, and there is none.
        let _ = quiet;
        let store = self.store().clone();
        let loaded = blocking(move || {
            archive::load(&store, "the input", tarball).map_err(|error| match error {
                error @ knarr_store::StoreError::BadArchive { .. } => EngineError::invalid(error.to_string()),
                error => error.into(),
            })
        })
        .await?;
        let mut lines = Vec::new();
        for image in loaded {
            let id = image.descriptor.digest.to_string();
            let line = match &image.name {
                Some(name) => format!("Loaded image: {}\n", familiar(name)),
                None => format!("Loaded image ID: {id}\n"),
            };
            let name = image.name.as_deref().map_or_else(|| id.clone(), familiar);
            self.shared().events.image("load", &id, &name);
            lines.push(json!({ "stream": line }));
        }
        Ok(told(lines))
    }

    /// `POST /images/create?fromSrc`: a root's tarball becomes an image.
    ///
    /// # Errors
    /// The name or a change is wrong, or the tarball is none.
    pub async fn import_image(
        &self,
        repository: &str,
        tag: &str,
        message: &str,
        changes: &[String],
        platform: Option<&str>,
        tarball: StreamReader,
    ) -> Result<ValueStream, EngineError> {
        let name = match repository {
            "" => None,
            repository => Some(new_name(repository, tag)?),
        };
        let changes = Changes::parse(changes)?;
        let platform = platform_of(platform)?;
        let message = if message.is_empty() { "Imported from -" } else { message }.to_owned();
        let mut config = ImageConfig {
            created: Some(now()),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            ..ImageConfig::default()
        };
        changes.apply(&mut config.config)?;
        let store = self.store().clone();
        let given = name.clone();
        let image = blocking(move || import(&store, given.as_deref(), config, message, tarball)).await?;
        let id = image.digest.to_string();
        let shown = name.as_deref().map_or_else(|| id.clone(), familiar);
        self.shared().events.image("import", &id, &shown);
        Ok(told(vec![json!({ "status": id })]))
    }
}

/// Names that are to be saved: a repository's name alone means all its tags.
fn to_save(store: &Store, names: &[String]) -> Result<Vec<String>, EngineError> {
    let mut all = Vec::new();
    for name in names {
        let repository = Reference::parse(name).ok().filter(|_| !is_whole(name)).map(|full| full.name());
        let entries = store.entries()?;
        let tags = entries.iter().filter_map(|entry| entry.ref_name()).filter(|known| {
            let known = Reference::parse(known).ok().filter(|known| known.digest().is_none());
            repository.is_some() && known.map(|known| known.name()) == repository
        });
        let before = all.len();
        all.extend(tags.map(str::to_owned));
        if all.len() == before {
            find(store, name)?;
            all.push(name.clone());
        }
    }
    all.dedup();
    Ok(all)
}

fn import(
    store: &Store,
    name: Option<&str>,
    mut config: ImageConfig,
    message: String,
    input: impl Read,
) -> Result<Descriptor, EngineError> {
    let ingest = store.ingest()?;
    let mut tar = archive::decompressed(input)
        .map_err(|error| EngineError::invalid(format!("the tarball cannot be read: {error}")))?;
    let layer = ingest
        .layer(Compression::Zstd(3), |out| std::io::copy(&mut tar, out).map(drop).map_err(TreeError::Read))?;
    // What cannot be unpacked is no image, and is told of now.
    let mut listing = Listing::default();
    let mut plain = layers::open(store, &layer.descriptor)?;
    listing.add_layer(&mut plain, &limits_of(layer.descriptor.size), &mut |_, _| Ok(()))?;
    if listing.files.is_empty() {
        return Err(EngineError::invalid("the tarball holds no file"));
    }
    config.rootfs.diff_ids.push(layer.diff_id);
    config.history.push(History {
        created: config.created.clone(),
        comment: Some(message),
        ..History::default()
    });
    put_image(&ingest, &config, vec![layer.descriptor], name)
}

/// Puts an image of layers that are there.
pub(crate) fn put_image(
    ingest: &Ingest<'_>,
    config: &ImageConfig,
    layers: Vec<Descriptor>,
    name: Option<&str>,
) -> Result<Descriptor, EngineError> {
    let blob = ingest.put(media_type::CONFIG, &config.to_bytes())?;
    let mut image = ingest.put(media_type::MANIFEST, &Manifest::of_image(blob, layers).to_bytes())?;
    image.platform = Some(config.platform());
    ingest.add(name, &image)?;
    Ok(image)
}

/// A stream of what is known already.
fn told(lines: Vec<Value>) -> ValueStream {
    let (sender, receiver) = mpsc::channel(lines.len().max(1));
    for line in lines {
        // There is room for all of them.
        let _ = sender.try_send(Ok(line));
    }
    receiver
}
