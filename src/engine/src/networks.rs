//! Networks, as the Engine API sees them.
use bollard_stubs::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkInspect, NetworkPruneResponse,
};

use crate::filters::Filters;
use crate::{Engine, EngineError};

impl Engine {
    /// `GET /networks`: as inspected, without containers.
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkInspect>, EngineError> {
        todo!()
    }
    /// `POST /networks/create`.
    pub async fn create_network(
        &self,
        request: NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse, EngineError> {
        todo!()
    }
    /// `GET /networks/{id}`.
    pub async fn inspect_network(
        &self,
        name: &str,
        scope: Option<&str>,
    ) -> Result<NetworkInspect, EngineError> {
        todo!()
    }
    /// `DELETE /networks/{id}`.
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /networks/{id}/connect`, of a container that runs or not.
    pub async fn connect_network(
        &self,
        name: &str,
        request: NetworkConnectRequest,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /networks/{id}/disconnect`.
    pub async fn disconnect_network(
        &self,
        name: &str,
        container: &str,
        force: bool,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `POST /networks/prune`.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworkPruneResponse, EngineError> {
        todo!()
    }
}
