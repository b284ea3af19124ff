//! Further programs in a running container.
use bollard_stubs::models::{ExecConfig, ExecInspectResponse};

use crate::stream::Attached;
use crate::{Engine, EngineError};

/// How an exec is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Nobody listens.
    pub detach: bool,
    /// Its terminal's size: width, height.
    pub size: Option<(u16, u16)>,
}

impl Engine {
    /// `POST /containers/{id}/exec`: answers with its id.
    pub async fn create_exec(&self, name: &str, config: ExecConfig) -> Result<String, EngineError> {
        todo!()
    }
    /// `POST /exec/{id}/start`; `None` when detached.
    pub async fn start_exec(&self, id: &str, request: ExecRequest) -> Result<Option<Attached>, EngineError> {
        todo!()
    }
    /// `POST /exec/{id}/resize`.
    pub async fn resize_exec(&self, id: &str, width: u16, height: u16) -> Result<(), EngineError> {
        todo!()
    }
    /// `GET /exec/{id}/json`.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspectResponse, EngineError> {
        todo!()
    }
}
