//! Pushes: images go to a registry.

use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Platform, Reference};
use knarr_registry::RegistryError;
use knarr_registry::client::{Client, Push};
use knarr_store::Store;
use serde_json::json;

use super::pull::{is_index, is_whole};
use super::registry::RegistryAuth;
use super::told::{Told, Way};
use super::{parse_reference, shown};
use crate::containers::blocking;
use crate::stream::ValueStream;
use crate::{Engine, EngineError};

/// So many blobs of an image are sent at once when nothing is said.
const USUAL_UPLOADS: usize = 6;

impl Engine {
    /// `POST /images/{name}/push`: of a name without a tag all tags go.
    ///
    /// # Errors
    /// The name is none, or nothing here has it.
    pub async fn push_image(
        &self,
        name: &str,
        tag: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<ValueStream, EngineError> {
        let reference = parse_reference(name)?;
        if reference.digest().is_some() {
            return Err(EngineError::invalid("cannot push a digest reference"));
        }
        let (store, text, tag) = (self.store().clone(), name.to_owned(), tag.to_owned());
        let wanted = reference.clone();
        let images = blocking(move || to_push(&store, &wanted, &tag, is_whole(&text))).await?;
        let first = json!({ "status": format!("The push refers to repository [{}]", reference.name()) });
        let engine = self.clone();
        Told::run(Way::Push, first, move |told, leave| {
            told.start();
            let mut options = engine.client_options(reference.registry(), auth, leave);
            options.jobs = engine.current().max_uploads.unwrap_or(USUAL_UPLOADS);
            let client = Client::new(options)?;
            for (reference, descriptor) in images {
                engine.push(&client, &reference, &descriptor, told)?;
            }
            Ok(Vec::new())
        })
        .await
    }

    fn push(
        &self,
        client: &Client,
        reference: &Reference,
        descriptor: &Descriptor,
        told: &Told,
    ) -> Result<(), EngineError> {
        let instead = only_here(self.store(), descriptor)?;
        let platform = instead.as_ref().and_then(|entry| entry.platform.clone());
        let how = Push { platform, referrers: false };
        let pushed = client.push(self.store(), descriptor, reference, &how, told);
        let pushed = pushed.map_err(|error| denied(error, reference))?.descriptor;
        if let Some(instead) = instead {
            told.say(json!({ "aux": {
                "manifestPushedInsteadOfIndex": true,
                "originalIndex": shown(descriptor),
                "selectedManifest": shown(&instead),
            }}));
        }
        let tag = reference.version();
        let (digest, size) = (pushed.digest.to_string(), pushed.size);
        told.say(json!({ "status": format!("{tag}: digest: {digest} size: {size}") }));
        told.say(json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } }));
        let name = reference.familiar_name();
        self.shared().events.image("push", &format!("{name}:{tag}"), &name);
        Ok(())
    }
}

/// What goes: the image of a tag, or of all tags of a repository.
fn to_push(
    store: &Store,
    reference: &Reference,
    tag: &str,
    whole: bool,
) -> Result<Vec<(Reference, Descriptor)>, EngineError> {
    let absent = |shown: String| {
        EngineError::not_found(format!("An image does not exist locally with the tag: {shown}"))
    };
    let entries = store.entries()?;
    let wanted = match (tag.is_empty(), whole) {
        (false, _) => {
            reference.with_tag(tag).map(Some).map_err(|_| EngineError::invalid("invalid tag format"))?
        }
        (true, true) => Some(reference.clone()),
        (true, false) => None,
    };
    let found: Vec<(Reference, Descriptor)> = entries
        .iter()
        .filter_map(|entry| Some((Reference::parse(entry.ref_name()?).ok()?, entry.clone())))
        .filter(|(name, _)| match &wanted {
            Some(wanted) => name == wanted,
            None => name.name() == reference.name() && name.digest().is_none(),
        })
        .collect();
    if found.is_empty() {
        return Err(absent(reference.familiar_name()));
    }
    Ok(found)
}

/// Of an index that is here in part: its only image that is here. A registry refuses an index that is not whole.
fn only_here(store: &Store, descriptor: &Descriptor) -> Result<Option<Descriptor>, EngineError> {
    if !is_index(descriptor) {
        return Ok(None);
    }
    let index = ImageIndex::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
    let here: Vec<&Descriptor> = index.manifests.iter().filter(|entry| store.has(entry)).collect();
    let is_image = |entry: &&&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform: &Platform| platform.os != "unknown")
    };
    let mut images = here.iter().filter(is_image);
    match (images.next(), images.next()) {
        (Some(only), None) if here.len() < index.manifests.len() => Ok(Some((*only).clone())),
        _ => Ok(None),
    }
}

fn denied(error: RegistryError, reference: &Reference) -> EngineError {
    match error {
        RegistryError::Refused { reason, .. } => EngineError::failed(match reason.is_empty() {
            true => format!(
                "push access denied for {}: denied: requested access to the resource is denied",
                reference.familiar_name()
            ),
            false => format!("denied: {reason}"),
        }),
        error => error.into(),
    }
}
