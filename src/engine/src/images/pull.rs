//! Pulls: an image comes from a registry, and is unpacked.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use knarr_oci::{Platform, Reference, media_type};
use knarr_registry::client::{Client, Pull, Which};
use knarr_store::store::familiar;
use knarr_store::{Store, layers};
use serde_json::{Value, json};

use super::parse_reference;
use super::registry::{RegistryAuth, refused};
use super::told::{Told, Way};
use crate::containers::platform_of;
use crate::stream::ValueStream;
use crate::{Engine, EngineError};

impl Engine {
    /// `POST /images/create?fromImage`: progress, its failures too once the first line is out.
    ///
    /// # Errors
    /// The name is none, or the registry does not have it.
    pub async fn pull_image(
        &self,
        image: &str,
        tag: &str,
        platform: Option<&str>,
        auth: Option<RegistryAuth>,
    ) -> Result<ValueStream, EngineError> {
        let platform = platform_of(platform)?;
        if tag.is_empty() && !is_whole(image) {
            return self.pull_all(parse_reference(image)?, platform, auth).await;
        }
        let reference = asked(image, tag)?;
        let first = pulling(&reference);
        let engine = self.clone();
        Told::run(Way::Pull, first, move |told, leave| engine.pull(&reference, &platform, auth, told, leave))
            .await
    }

    /// All tags of a repository, one after the other.
    async fn pull_all(
        &self,
        repository: Reference,
        platform: Platform,
        auth: Option<RegistryAuth>,
    ) -> Result<ValueStream, EngineError> {
        let first = json!({ "status": format!("Pulling all tags of {}", repository.familiar_name()) });
        let engine = self.clone();
        Told::run(Way::Pull, first, move |told, leave| {
            let client = Client::new(engine.client_options(repository.registry(), auth.clone(), leave))?;
            let tags = client.tags(&repository).map_err(|error| refused(error, &repository))?;
            told.start();
            for tag in tags {
                let reference = repository.with_tag(&tag).map_err(|error| {
                    EngineError::failed(format!("the registry has a tag that is none: {error}"))
                })?;
                told.say(pulling(&reference));
                engine
                    .pull(&reference, &platform, auth.clone(), told, leave)?
                    .into_iter()
                    .for_each(|line| told.say(line));
            }
            Ok(Vec::new())
        })
        .await
    }

    fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<RegistryAuth>,
        told: &Told,
        leave: &Arc<AtomicBool>,
    ) -> Result<Vec<Value>, EngineError> {
        let client = Client::new(self.client_options(reference.registry(), auth, leave))?;
        let how = Pull { which: Which::One(platform.clone()), referrers: false, name: None };
        let pulled = client.pull(self.store(), reference, &how, told);
        let pulled = pulled.map_err(|error| refused(error, reference))?;
        told.start();
        unpack(self.store(), &pulled.descriptor, platform, told)?;
        let shown = familiar(&pulled.name);
        self.shared().events.image("pull", &shown, &reference.familiar_name());
        let news = match pulled.is_known && pulled.fetched == 0 {
            true => format!("Status: Image is up to date for {shown}"),
            false => format!("Status: Downloaded newer image for {shown}"),
        };
        let digest = format!("Digest: {}", pulled.descriptor.digest);
        Ok(vec![json!({ "status": digest }), json!({ "status": news })])
    }
}

fn pulling(reference: &Reference) -> Value {
    json!({ "status": format!("Pulling from {}", reference.repository()), "id": reference.version() })
}

/// Unpacks now what the first container would have to wait for.
fn unpack(
    store: &Store,
    root: &knarr_oci::Descriptor,
    platform: &Platform,
    told: &Told,
) -> Result<(), EngineError> {
    // What is for other machines is kept as it came, and so is what is no image.
    let Ok(image) = store.image(root, platform) else { return Ok(()) };
    let missing: Vec<_> = image
        .layers()
        .filter(|(_, diff_id)| !layers::overlay_path(store, *diff_id).exists())
        .map(|(layer, _)| layer.clone())
        .collect();
    missing.iter().for_each(|layer| told.layer(layer, "Extracting"));
    layers::for_overlay(store, &image, false)?;
    missing.iter().for_each(|layer| told.layer(layer, "Pull complete"));
    Ok(())
}

/// The one image that is to be pulled: `tag` may be a digest, and wins over a tag of the name.
pub(super) fn asked(image: &str, tag: &str) -> Result<Reference, EngineError> {
    let reference = parse_reference(image)?;
    if tag.starts_with("sha256:") {
        return parse_reference(&format!("{}@{tag}", reference.name()));
    }
    if !tag.is_empty() {
        return reference.with_tag(tag).map_err(|_| EngineError::invalid("invalid tag format"));
    }
    Ok(reference)
}

/// Whether a name has a tag or a digest.
pub(super) fn is_whole(name: &str) -> bool {
    name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// Whether a descriptor is of several images.
pub(super) fn is_index(descriptor: &knarr_oci::Descriptor) -> bool {
    media_type::is_index(&descriptor.media_type)
}

#[cfg(test)]
mod tests {
    use super::asked;
    use crate::Kind;

    #[test]
    fn tags_and_digests_come_beside_the_name_or_in_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, tag, full) in [
            ("alpine", "3", "docker.io/library/alpine:3".to_owned()),
            ("alpine:3", "", "docker.io/library/alpine:3".to_owned()),
            ("localhost:5000/a", "b", "localhost:5000/a:b".to_owned()),
            ("a:1", digest.as_str(), format!("docker.io/library/a@{digest}")),
        ] {
            assert_eq!(asked(image, tag).unwrap().to_string(), full);
        }
        for (image, tag) in [("Alpine", "1"), ("a b", "1"), ("a", "b/c")] {
            assert_eq!(asked(image, tag).unwrap_err().kind(), Kind::Invalid, "{image} {tag}");
        }
    }
}
