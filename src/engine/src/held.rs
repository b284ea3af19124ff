//! Images that containers hold: what they are made of stays in the store for as long as they are there.

use knarr_base::Digest;

use crate::containers::Record;
use crate::{Engine, EngineError};

impl Engine {
    /// A container holds its image, by a lease with its id.
    pub(crate) fn hold_image(&self, record: &Record) -> Result<(), EngineError> {
        let digest: Digest = record
            .image
            .parse()
            .map_err(|_| EngineError::failed(format!("{} is no digest", record.image)))?;
        Ok(knarr_store::lease::hold(self.store(), &record.id, &[digest])?)
    }

    /// It no longer does.
    pub(crate) fn release_image(&self, id: &str) -> Result<(), EngineError> {
        Ok(knarr_store::lease::release(self.store(), id)?)
    }
}
