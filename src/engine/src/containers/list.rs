//! What containers there are, and what they are like.
use bollard_stubs::models::{
    ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, ContainerTopResponse,
};

use crate::filters::Filters;
use crate::{Engine, EngineError};

/// What `ps` asks for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// With the sizes of their files.
    pub size: bool,
    /// id, name, label, exited, status, ancestor, before, since, volume, network, publish, expose, health, is-task.
    pub filters: Filters,
}

impl Engine {
    /// `GET /containers/json`, the newest first.
    pub async fn list_containers(&self, query: &ListQuery) -> Result<Vec<ContainerSummary>, EngineError> {
        todo!()
    }
    /// `GET /containers/{id}/json`.
    pub async fn inspect_container(
        &self,
        name: &str,
        size: bool,
    ) -> Result<ContainerInspectResponse, EngineError> {
        todo!()
    }
    /// `GET /containers/{id}/top`.
    pub async fn top_container(
        &self,
        name: &str,
        ps_args: &str,
    ) -> Result<ContainerTopResponse, EngineError> {
        todo!()
    }
    /// One sample for `GET /containers/{id}/stats`; zeroes when it does not run. The caller keeps the sample before.
    pub async fn stats_container(&self, name: &str) -> Result<ContainerStatsResponse, EngineError> {
        todo!()
    }
}
