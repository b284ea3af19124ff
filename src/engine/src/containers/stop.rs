//! Ending, freezing, waiting and removing.
use bollard_stubs::models::{ContainerPruneResponse, ContainerWaitResponse};

use crate::filters::Filters;
use crate::{Engine, EngineError};

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run.
    NotRunning,
    /// Its next end.
    NextExit,
    /// It is gone.
    Removed,
}

impl Engine {
    /// `POST /containers/{id}/stop`; [`crate::Kind::NotModified`] when it does not run.
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/kill`.
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/pause`.
    pub async fn pause_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/unpause`.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/wait`: answers once the container is found with a future of the outcome, so that the
    /// client can be told at once that it is being waited for.
    pub async fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<tokio::sync::oneshot::Receiver<ContainerWaitResponse>, EngineError> {
        todo!()
    }
    /// `DELETE /containers/{id}`: `volumes` removes its anonymous volumes, `link` only the link of that name.
    pub async fn remove_container(
        &self,
        name: &str,
        force: bool,
        volumes: bool,
        link: bool,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /containers/prune`.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<ContainerPruneResponse, EngineError> {
        todo!()
    }
}
