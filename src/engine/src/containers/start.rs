//! Starting, and starting again.
use bollard_stubs::models::{ContainerUpdateBody, ContainerUpdateResponse};

use crate::{Engine, EngineError};

impl Engine {
    /// `POST /containers/{id}/start`; [`crate::Kind::NotModified`] when it runs already.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/restart`: `timeout` in seconds, -1 for ever, `None` for its own.
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/update`.
    pub async fn update_container(
        &self,
        name: &str,
        body: ContainerUpdateBody,
    ) -> Result<ContainerUpdateResponse, EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/rename`.
    pub async fn rename_container(&self, name: &str, new: &str) -> Result<(), EngineError> {
        todo!()
    }
}
