//! Making a container: the request is checked and written down; nothing runs.

use bollard_stubs::models::{ContainerCreateBody, ContainerCreateResponse};

use crate::{Engine, EngineError};

impl Engine {
    /// `POST /containers/create`. `platform` is `os/arch`.
    pub async fn create_container(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse, EngineError> {
        todo!()
    }
}
