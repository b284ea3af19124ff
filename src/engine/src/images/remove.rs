//! Images that go: names are taken away, and with the last one all that nobody else needs.
//!
//! Spec: docker's conflicts: what runs keeps its image, what is stopped keeps it unless forced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{EventMessageTypeEnum, ImageDeleteResponseItem, ImagePruneResponse};
use knarr_base::Digest;
use knarr_oci::{Descriptor, Reference};
use knarr_store::store::familiar;
use knarr_store::{Store, gc};

use super::{Entry, entries, find, signed, unpacked_bytes};
use crate::containers::{Container, blocking};
use crate::filters::Filters;
use crate::{Engine, EngineError};

/// The answer waits so long for the disk; what takes longer goes on by itself.
const PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// `DELETE /images/{name}`.
    ///
    /// # Errors
    /// There is no such image, or something needs it.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>, EngineError> {
        // Without parents there is nothing that `noprune` could keep.
        let _ = no_prune;
        let (engine, name) = (self.clone(), name.to_owned());
        let items = blocking(move || engine.remove(&name, force)).await?;
        if items.iter().any(|item| item.deleted.is_some()) {
            self.free_store().await;
        }
        Ok(items)
    }

    fn remove(&self, asked: &str, force: bool) -> Result<Vec<ImageDeleteResponseItem>, EngineError> {
        let store = self.store();
        let found = find(store, asked)?;
        let id = found.descriptor.digest.to_string();
        let names = names_of(store, found.descriptor.digest)?;
        let by_name = found.name.clone().or_else(|| digest_name(asked, &names));
        let mut items = Vec::new();
        if let Some(name) = by_name {
            let single = is_single(&names);
            if !force && single && names.len() == 1 {
                self.check_reference(asked, &id)?;
            }
            self.take_name(&found.descriptor, &name, &mut items)?;
            if names.iter().any(|other| *other != name) {
                return Ok(items);
            }
            // What is used goes on without a name.
            if self.user_of(&id, false).is_some() {
                store.ingest()?.add(None, &found.descriptor.bare())?;
                return Ok(items);
            }
        } else {
            self.check_id(&id, &names, force)?;
            for name in &names {
                self.take_name(&found.descriptor, name, &mut items)?;
            }
        }
        store.forget(found.descriptor.digest)?;
        self.shared().events.image("delete", &id, &id);
        items.push(ImageDeleteResponseItem { untagged: None, deleted: Some(id) });
        Ok(items)
    }

    /// A container that would be left with an image without a name keeps the name.
    fn check_reference(&self, asked: &str, id: &str) -> Result<(), EngineError> {
        let Some(user) = self.user_of(id, false) else { return Ok(()) };
        Err(EngineError::conflict(format!(
            "conflict: unable to remove repository reference \"{asked}\" (must force) - container {} is using its \
             referenced image {}",
            &user.id[..12],
            short(id)
        )))
    }

    fn check_id(&self, id: &str, names: &[String], force: bool) -> Result<(), EngineError> {
        let conflict = |how: &str, why: String| {
            Err(EngineError::conflict(format!("conflict: unable to delete {} ({how}) - {why}", short(id))))
        };
        if let Some(user) = self.user_of(id, true) {
            let why = format!("image is being used by running container {}", &user.id[..12]);
            return conflict("cannot be forced", why);
        }
        if !force && !is_single(names) {
            return conflict("must be forced", "image is referenced in multiple repositories".to_owned());
        }
        if !force && let Some(user) = self.user_of(id, false) {
            let why = format!("image is being used by stopped container {}", &user.id[..12]);
            return conflict("must be forced", why);
        }
        Ok(())
    }

    fn user_of(&self, id: &str, running: bool) -> Option<Arc<Container>> {
        self.shared().containers.all().into_iter().find(|container| {
            let record = container.record();
            record.image == id && (!running || record.state.running)
        })
    }

    fn take_name(
        &self,
        image: &Descriptor,
        name: &str,
        items: &mut Vec<ImageDeleteResponseItem>,
    ) -> Result<(), EngineError> {
        self.store().untag(name)?;
        let shown = familiar(name);
        self.shared().events.image("untag", &image.digest.to_string(), &shown);
        items.push(ImageDeleteResponseItem { untagged: Some(shown), deleted: None });
        Ok(())
    }

    /// Gives back the room of what nothing needs any more. Waits a moment only.
    async fn free_store(&self) {
        let store = self.store().clone();
        let work = tokio::task::spawn_blocking(move || {
            if let Err(error) = gc::prune(&store, gc::Which::None, true) {
                tracing::warn!(error = &error as &dyn std::error::Error, "removed images still take room");
            }
        });
        // What is not done by then goes on.
        let _ = tokio::time::timeout(PATIENCE, work).await;
    }

    /// `POST /images/prune`: those without a name, or with `dangling=false` all that no container uses.
    ///
    /// # Errors
    /// A filter is wrong, or the store cannot be changed.
    pub async fn prune_images(&self, filters: &Filters) -> Result<ImagePruneResponse, EngineError> {
        filters.allow(&["dangling", "label", "label!", "until"])?;
        let (engine, filters) = (self.clone(), filters.clone());
        let (items, bytes) = blocking(move || engine.prune(&filters)).await?;
        self.shared().events.pruned(EventMessageTypeEnum::IMAGE, bytes);
        Ok(ImagePruneResponse { images_deleted: Some(items), space_reclaimed: Some(signed(bytes)) })
    }

    fn prune(&self, filters: &Filters) -> Result<(Vec<ImageDeleteResponseItem>, u64), EngineError> {
        let only_unnamed = filters.flag("dangling")?.unwrap_or(true);
        let until = filters.until()?.map(jiff::Timestamp::as_second);
        let used = self.used_images();
        let goes = |entry: &Entry| {
            !used.contains(&entry.id())
                && (!only_unnamed || entry.names.is_empty())
                && until.is_none_or(|until| entry.created() < until)
                && filters.labels(|key| entry.label(key))
        };
        let store = self.store();
        let (mut items, mut layers) = (Vec::new(), BTreeSet::new());
        for entry in entries(store)?.into_iter().filter(goes) {
            for name in &entry.names {
                self.take_name(&entry.descriptor, name, &mut items)?;
            }
            store.forget(entry.descriptor.digest)?;
            self.shared().events.image("delete", &entry.id(), &entry.id());
            items.push(ImageDeleteResponseItem { untagged: None, deleted: Some(entry.id()) });
            layers.extend(entry.image.iter().flat_map(|image| image.config.rootfs.diff_ids.clone()));
        }
        let sizes: Vec<(Digest, u64)> =
            layers.into_iter().filter_map(|layer| Some((layer, unpacked_bytes(store, layer)?))).collect();
        let pruned = gc::prune(store, gc::Which::None, true)?.unwrap_or_default();
        let gone =
            sizes.iter().filter(|(layer, _)| !knarr_store::layers::overlay_path(store, *layer).exists());
        Ok((items, pruned.bytes + gone.map(|(_, bytes)| bytes).sum::<u64>()))
    }
}

/// All names of an image.
fn names_of(store: &Store, digest: Digest) -> Result<Vec<String>, EngineError> {
    let entries = store.entries()?;
    let own = entries.iter().filter(|entry| entry.digest == digest);
    Ok(own.filter_map(|entry| entry.ref_name().map(str::to_owned)).collect())
}

/// Whether all names are of one repository, and at most one of them is a tag.
fn is_single(names: &[String]) -> bool {
    let parsed: Vec<Reference> = names.iter().filter_map(|name| Reference::parse(name).ok()).collect();
    let repositories: BTreeSet<String> = parsed.iter().map(Reference::name).collect();
    repositories.len() <= 1 && parsed.iter().filter(|name| name.tag().is_some()).count() <= 1
}

/// `name@sha256:…` of an image that has a tag of that repository means that tag.
fn digest_name(asked: &str, names: &[String]) -> Option<String> {
    let asked = Reference::parse(asked).ok().filter(|asked| asked.digest().is_some())?;
    let same = |name: &&String| Reference::parse(name).is_ok_and(|name| name.name() == asked.name());
    names.iter().find(same).cloned()
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::{digest_name, is_single};

    #[test]
    fn names_of_one_repository_are_single() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(is_single(&[]) && is_single(&names(&["docker.io/library/a:1"])));
        assert!(!is_single(&names(&["docker.io/library/a:1", "docker.io/library/a:2"])));
        assert!(!is_single(&names(&["docker.io/library/a:1", "localhost/b:1"])));
    }

    #[test]
    fn a_digest_of_a_repository_means_its_tag() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        let names = ["localhost/b:1".to_owned(), "docker.io/library/a:1".to_owned()];
        assert_eq!(digest_name(&digest, &names).as_deref(), Some("docker.io/library/a:1"));
        assert_eq!(digest_name("a:1", &names), None);
    }
}
