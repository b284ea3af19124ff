//! Images, as the Engine API sees the store.
use bollard_stubs::models::{
    AuthConfig, DistributionInspect, ImageDeleteResponseItem, ImageHistoryResponseItem, ImageInspect,
    ImagePruneResponse, ImageSummary,
};

use crate::filters::Filters;
use crate::stream::{ByteStream, StreamReader, ValueStream};
use crate::{Engine, EngineError};

/// What `GET /images/json` asks for.
#[derive(Clone, Debug, Default)]
pub struct ImageQuery {
    /// Those without a name, too.
    pub all: bool,
    /// With `RepoDigests`.
    pub digests: bool,
    /// With the number of containers.
    pub shared_size: bool,
    /// dangling, label, before, since, reference, until.
    pub filters: Filters,
}

impl Engine {
    /// `GET /images/json`, the newest first.
    pub async fn list_images(&self, query: &ImageQuery) -> Result<Vec<ImageSummary>, EngineError> {
        todo!()
    }
    /// `GET /images/{name}/json`.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        todo!()
    }
    /// `GET /images/{name}/history`.
    pub async fn history_image(&self, name: &str) -> Result<Vec<ImageHistoryResponseItem>, EngineError> {
        todo!()
    }
    /// `POST /images/create?fromImage`: progress, its failures too once the first line is out.
    pub async fn pull_image(
        &self,
        image: &str,
        tag: &str,
        platform: Option<&str>,
        auth: Option<AuthConfig>,
    ) -> Result<ValueStream, EngineError> {
        todo!()
    }
    /// `POST /images/create?fromSrc`: a root's tarball becomes an image.
    pub async fn import_image(
        &self,
        repository: &str,
        tag: &str,
        message: &str,
        changes: &[String],
        platform: Option<&str>,
        tarball: StreamReader,
    ) -> Result<ValueStream, EngineError> {
        todo!()
    }
    /// `POST /images/{name}/push`.
    pub async fn push_image(
        &self,
        name: &str,
        tag: &str,
        auth: Option<AuthConfig>,
    ) -> Result<ValueStream, EngineError> {
        todo!()
    }
    /// `POST /images/{name}/tag`.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// `DELETE /images/{name}`.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>, EngineError> {
        todo!()
    }
    /// `POST /images/prune`.
    pub async fn prune_images(&self, filters: &Filters) -> Result<ImagePruneResponse, EngineError> {
        todo!()
    }
    /// `GET /images/get`, `GET /images/{name}/get`: docker's archive.
    pub async fn save_images(&self, names: Vec<String>) -> Result<ByteStream, EngineError> {
        todo!()
    }
    /// `POST /images/load`.
    pub async fn load_images(&self, quiet: bool, tarball: StreamReader) -> Result<ValueStream, EngineError> {
        todo!()
    }
    /// `GET /distribution/{name}/json`.
    pub async fn inspect_distribution(
        &self,
        name: &str,
        auth: Option<AuthConfig>,
    ) -> Result<DistributionInspect, EngineError> {
        todo!()
    }
    /// `POST /auth`: the status line.
    pub async fn login(&self, auth: AuthConfig) -> Result<String, EngineError> {
        todo!()
    }
}
