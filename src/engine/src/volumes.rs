//! Volumes: directories that outlive containers.
use bollard_stubs::models::{Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse};

use crate::filters::Filters;
use crate::{Engine, EngineError};

/// All volumes of an engine.
#[derive(Debug, Default)]
pub(crate) struct Volumes {}

impl Engine {
    /// `GET /volumes`.
    pub async fn list_volumes(&self, filters: &Filters) -> Result<VolumeListResponse, EngineError> {
        todo!()
    }
    /// `POST /volumes/create`; one that is there already with the same driver is the answer.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<Volume, EngineError> {
        todo!()
    }
    /// `GET /volumes/{name}`.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, EngineError> {
        todo!()
    }
    /// `DELETE /volumes/{name}`.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /volumes/prune`.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<VolumePruneResponse, EngineError> {
        todo!()
    }
}
