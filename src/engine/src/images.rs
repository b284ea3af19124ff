//! Images, as the Engine API sees the store.
//!
//! [`Engine::list_images`] and its neighbours read; what changes images lies one file per thing that is done. An image's
//! id is the digest of its manifest or index. Keeping images is `store`'s work, moving them `registry`'s.
//!
//! Spec: Docker Engine API, "Images".

mod archive;
mod change;
mod entry;
mod glob;
mod manifests;
mod pull;
mod push;
mod registry;
mod remove;
mod told;

use std::collections::HashMap;

pub use entry::name_fits;

use bollard_stubs::models::{
    DriverData, ImageHistoryResponseItem, ImageInspect, ImageInspectMetadata, ImageInspectRootFs,
    ImageSummary, OciDescriptor, OciPlatform,
};
use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageConfig, Platform};
use knarr_store::Store;

pub use registry::RegistryAuth;

pub(crate) use archive::put_image;
pub(crate) use change::{Changes, image_config, run_config};
pub(crate) use entry::{
    Entry, create_seconds, descriptor_of, entries, find, image_of, parse_reference, unpacked_bytes,
};

use crate::containers::blocking;
use crate::filters::Filters;
use crate::{Engine, EngineError};

/// The image that a commit was made on, in its configuration.
pub(crate) const PARENT: &str = "parent";

/// What `GET /images/json` asks for.
#[derive(Clone, Debug, Default)]
pub struct ImageQuery {
    /// Those without a name, too.
    pub all: bool,
    /// With `RepoDigests`.
    pub digests: bool,
    /// With what other images have, too.
    pub shared_size: bool,
    /// With their manifests.
    pub manifests: bool,
    /// dangling, label, before, since, reference, until.
    pub filters: Filters,
}

const FILTERS: [&str; 7] = ["dangling", "label", "label!", "before", "since", "reference", "until"];

impl Engine {
    /// `GET /images/json`, the newest first.
    ///
    /// # Errors
    /// A filter is wrong, or the store cannot be read.
    pub async fn list_images(&self, query: &ImageQuery) -> Result<Vec<ImageSummary>, EngineError> {
        query.filters.allow(&FILTERS)?;
        let (store, query) = (self.store().clone(), query.clone());
        let users = self.users_of_images();
        blocking(move || {
            let chosen = choose(&store, &query.filters)?;
            let shares = if query.shared_size { Some(Shares::of(&entries(&store)?)) } else { None };
            let show = |entry: &Entry| {
                let users = users.get(&entry.id()).map_or(&[][..], Vec::as_slice);
                let mut shown = summary(&store, entry, users.len());
                if let Some(shares) = &shares {
                    shown.shared_size = signed(shares.bytes(&store, entry));
                }
                shown.manifests = query.manifests.then(|| manifests::summaries(&store, entry, users));
                shown
            };
            Ok(chosen.iter().map(show).collect())
        })
        .await
    }

    /// The containers of each image.
    fn users_of_images(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.shared().containers.all() {
            let image = container.record().image.clone();
            users.entry(image).or_default().push(container.id.clone());
        }
        users
    }

    /// The image of each container.
    pub(crate) fn used_images(&self) -> Vec<String> {
        let containers = self.shared().containers.all();
        containers.iter().map(|container| container.record().image.clone()).collect()
    }

    /// `GET /images/{name}/json`, with its manifests when they are asked for.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn inspect_image(&self, name: &str, manifests: bool) -> Result<ImageInspect, EngineError> {
        let (store, name) = (self.store().clone(), name.to_owned());
        let users = self.users_of_images();
        blocking(move || {
            let found = find(&store, &name)?;
            let all = entries(&store)?;
            let entry = all.into_iter().find(|entry| entry.descriptor.digest == found.descriptor.digest);
            let entry = entry.map_or_else(|| Entry::unnamed(&store, &found.descriptor), Ok)?;
            let users = users.get(&entry.id()).map_or(&[][..], Vec::as_slice);
            let manifests = manifests.then(|| manifests::summaries(&store, &entry, users));
            Ok(ImageInspect { manifests, ..inspected(&store, &entry) })
        })
        .await
    }

    /// The image that one was committed on, as long as it is here; else nothing.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn parent_of_image(&self, name: &str) -> Result<String, EngineError> {
        let (store, name) = (self.store().clone(), name.to_owned());
        blocking(move || {
            let found = find(&store, &name)?;
            let config = Entry::unnamed(&store, &found.descriptor)?.image.map(|image| image.config);
            let parent = config.and_then(|config| Some(config.other.get(PARENT)?.as_str()?.to_owned()));
            Ok(parent.filter(|parent| descriptor_of(&store, parent).is_ok()).unwrap_or_default())
        })
        .await
    }

    /// `GET /images/{name}/history`, the newest first.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn history_image(&self, name: &str) -> Result<Vec<ImageHistoryResponseItem>, EngineError> {
        let (store, name) = (self.store().clone(), name.to_owned());
        blocking(move || {
            let found = find(&store, &name)?;
            let all = entries(&store)?;
            let entry = all.into_iter().find(|entry| entry.descriptor.digest == found.descriptor.digest);
            let entry = entry.map_or_else(|| Entry::unnamed(&store, &found.descriptor), Ok)?;
            Ok(history(&store, &entry))
        })
        .await
    }

    /// `POST /images/{name}/tag`.
    ///
    /// # Errors
    /// There is no such image, or the new name is none.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        let target = new_name(repository, tag)?;
        let (store, name) = (self.store().clone(), name.to_owned());
        let (id, shown) = blocking(move || {
            let found = find(&store, &name)?;
            store.tag(&found.descriptor.bare(), &target)?;
            Ok((found.descriptor.digest.to_string(), knarr_store::store::familiar(&target)))
        })
        .await?;
        self.shared().events.image("tag", &id, &shown);
        Ok(())
    }
}

/// The full name that an image is to get.
pub(crate) fn new_name(repository: &str, tag: &str) -> Result<String, EngineError> {
    let text = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
    let reference = parse_reference(&text)?;
    if reference.digest().is_some() {
        return Err(EngineError::invalid("refusing to create a tag with a digest reference"));
    }
    if reference.familiar_name() == "sha256" {
        return Err(EngineError::invalid(
            "refusing to create an ambiguous tag using digest algorithm as name",
        ));
    }
    Ok(reference.to_string())
}

/// Images that filters let through, the newest first.
fn choose(store: &Store, filters: &Filters) -> Result<Vec<Entry>, EngineError> {
    let dangling = filters.flag("dangling")?;
    let until = filters.until()?.map(jiff::Timestamp::as_second);
    let moment = |key: &str| -> Result<Option<i64>, EngineError> {
        let Some(name) = filters.get(key).next() else { return Ok(None) };
        let found = find(store, name)?;
        Ok(Some(Entry::unnamed(store, &found.descriptor)?.created()))
    };
    let (before, since) = (moment("before")?, moment("since")?);
    let mut chosen = entries(store)?;
    chosen.retain(|entry| {
        let created = entry.created();
        dangling.is_none_or(|dangling| dangling == entry.names.is_empty())
            && until.is_none_or(|until| created < until)
            && before.is_none_or(|before| created < before)
            && since.is_none_or(|since| created > since)
            && filters.labels(|key| entry.label(key))
            && (!filters.has("reference") || filters.get("reference").any(|pattern| entry.fits(pattern)))
    });
    for entry in chosen.iter_mut().filter(|_| filters.has("reference")) {
        entry.names.retain(|name| filters.get("reference").any(|pattern| name_fits(name, pattern)));
    }
    chosen.sort_by(|one, other| {
        other.created().cmp(&one.created()).then_with(|| one.descriptor.digest.cmp(&other.descriptor.digest))
    });
    Ok(chosen)
}

/// In how many images each layer is.
struct Shares(HashMap<Digest, usize>);

impl Shares {
    fn of(entries: &[Entry]) -> Self {
        let mut counts = HashMap::new();
        for image in entries.iter().filter_map(|entry| entry.image.as_ref()) {
            let layers: std::collections::BTreeSet<Digest> =
                image.layers().map(|(_, diff_id)| diff_id).collect();
            layers.into_iter().for_each(|layer| *counts.entry(layer).or_default() += 1);
        }
        Self(counts)
    }

    /// What an image has that others have, too.
    fn bytes(&self, store: &Store, entry: &Entry) -> u64 {
        let shared = |diff_id: &Digest| self.0.get(diff_id).is_some_and(|images| *images > 1);
        let layers = entry.image.iter().flat_map(knarr_store::Image::layers);
        let layers = layers.filter(|(_, diff_id)| shared(diff_id));
        let size =
            |(layer, diff_id): (&Descriptor, Digest)| unpacked_bytes(store, diff_id).unwrap_or(layer.size);
        layers.map(size).fold(0, u64::saturating_add)
    }
}

fn summary(store: &Store, entry: &Entry, users: usize) -> ImageSummary {
    ImageSummary {
        id: entry.id(),
        parent_id: String::new(),
        repo_tags: entry.repo_tags(),
        repo_digests: entry.repo_digests(),
        created: entry.created(),
        size: signed(entry.size_bytes(store)),
        shared_size: -1,
        labels: entry.labels().clone().into_iter().collect(),
        containers: i64::try_from(users).unwrap_or(-1),
        manifests: None,
        descriptor: Some(shown(&entry.descriptor)),
    }
}

fn inspected(store: &Store, entry: &Entry) -> ImageInspect {
    let config = entry.image.as_ref().map_or_else(ImageConfig::default, |image| image.config.clone());
    let layers = config.rootfs.diff_ids.iter().map(ToString::to_string).collect();
    let last = config.history.last().cloned().unwrap_or_default();
    ImageInspect {
        id: Some(entry.id()),
        descriptor: Some(shown(&entry.descriptor)),
        repo_tags: Some(entry.repo_tags()),
        repo_digests: Some(entry.repo_digests()),
        comment: Some(last.comment.unwrap_or_default()),
        created: config.created.clone(),
        author: Some(config.author.clone().unwrap_or_default()),
        config: Some(image_config(&config.config)),
        architecture: Some(config.architecture.clone()),
        variant: config.variant.clone(),
        os: Some(config.os.clone()),
        size: Some(signed(entry.size_bytes(store))),
        graph_driver: Some(DriverData { name: "overlayfs".to_owned(), ..DriverData::default() }),
        root_fs: Some(ImageInspectRootFs { typ: "layers".to_owned(), layers: Some(layers) }),
        metadata: Some(ImageInspectMetadata { last_tag_time: Some("0001-01-01T00:00:00Z".to_owned()) }),
        ..ImageInspect::default()
    }
}

fn history(store: &Store, entry: &Entry) -> Vec<ImageHistoryResponseItem> {
    let Some(image) = &entry.image else { return Vec::new() };
    let mut layers = image.layers();
    let mut items: Vec<ImageHistoryResponseItem> = Vec::new();
    for step in &image.config.history {
        let layer = if step.empty_layer { None } else { layers.next() };
        let size = layer.map_or(0, |(layer, diff_id)| unpacked_bytes(store, diff_id).unwrap_or(layer.size));
        items.push(ImageHistoryResponseItem {
            id: "<missing>".to_owned(),
            created: create_seconds(step.created.as_deref()),
            created_by: step.created_by.clone().unwrap_or_default(),
            tags: Vec::new(),
            size: signed(size),
            comment: step.comment.clone().unwrap_or_default(),
        });
    }
    items.reverse();
    if let Some(first) = items.first_mut() {
        first.id = entry.id();
        first.tags = entry.repo_tags();
    }
    items
}

/// A descriptor in the words of the API.
pub(crate) fn shown(descriptor: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        media_type: Some(descriptor.media_type.clone()),
        digest: Some(descriptor.digest.to_string()),
        size: Some(signed(descriptor.size)),
        platform: descriptor.platform.as_ref().map(shown_platform),
        ..OciDescriptor::default()
    }
}

/// A platform in the words of the API.
pub(crate) fn shown_platform(platform: &Platform) -> OciPlatform {
    OciPlatform {
        architecture: Some(platform.architecture.clone()),
        os: Some(platform.os.clone()),
        os_version: platform.os_version.clone(),
        os_features: None,
        variant: platform.variant.clone(),
    }
}

pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
