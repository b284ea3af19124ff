//! Images that containers hold: what they are made of stays in the store for as long as they are there.

use bollard_stubs::models::OciDescriptor;
use knarr_store::Found;

use crate::containers::Record;
use crate::{Engine, EngineError};

impl Engine {
    /// A container holds its image, by a lease with its id.
    pub(crate) fn hold_image(&self, record: &Record) -> Result<(), EngineError> {
        let Found { descriptor, .. } = self.store().find(&record.image)?;
        Ok(knarr_store::lease::hold(self.store(), &record.id, &[descriptor.bare()])?)
    }

    /// It no longer does.
    pub(crate) fn release_image(&self, id: &str) -> Result<(), EngineError> {
        Ok(knarr_store::lease::release(self.store(), id)?)
    }
}

impl Engine {
    /// The manifest that a container's image has for it.
    pub(crate) async fn manifest_of(&self, digest: &str) -> Option<OciDescriptor> {
        let (store, name) = (self.store().clone(), digest.to_owned());
        let found = crate::containers::blocking(move || {
            let found = store.find(&name)?;
            Ok(crate::images::Entry::unnamed(&store, &found.descriptor)?.image)
        });
        found.await.ok().flatten().map(|image| crate::images::shown(&image.descriptor))
    }

    /// What the unpacked layers of an image hold; 0 when it is not there.
    pub(crate) async fn image_bytes(&self, digest: &str) -> u64 {
        let (store, name) = (self.store().clone(), digest.to_owned());
        let bytes = crate::containers::blocking(move || {
            let found = store.find(&name)?;
            Ok(crate::images::Entry::unnamed(&store, &found.descriptor)?.size_bytes(&store))
        });
        bytes.await.unwrap_or_default()
    }
}
