//! A container's files: copied in and out, compared, exported, made an image of.
use bollard_stubs::models::{ContainerConfig, FilesystemChange};
use serde_json::Value;

use crate::stream::{ByteStream, StreamReader};
use crate::{Engine, EngineError};

/// What an image made of a container is to be.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Its container.
    pub container: String,
    /// `repository`, perhaps none.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// A remark.
    pub comment: String,
    /// Who.
    pub author: String,
    /// Stop its processes meanwhile.
    pub pause: bool,
    /// Instructions of a Dockerfile: `CMD …`, `ENV …`.
    pub changes: Vec<String>,
    /// Laid over the container's own.
    pub config: Option<ContainerConfig>,
}

impl Engine {
    /// `HEAD /containers/{id}/archive`: name, size, mode (Go's), mtime, linkTarget.
    pub async fn stat_path(&self, name: &str, path: &str) -> Result<Value, EngineError> {
        todo!()
    }
    /// `GET /containers/{id}/archive`: a tarball, and what [`Self::stat_path`] says of it.
    pub async fn copy_out(&self, name: &str, path: &str) -> Result<(Value, ByteStream), EngineError> {
        todo!()
    }
    /// `PUT /containers/{id}/archive`: a tarball, plain or compressed, into a directory.
    pub async fn copy_in(
        &self,
        name: &str,
        path: &str,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
        tarball: StreamReader,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// `GET /containers/{id}/changes`.
    pub async fn changes_container(&self, name: &str) -> Result<Vec<FilesystemChange>, EngineError> {
        todo!()
    }
    /// `GET /containers/{id}/export`.
    pub async fn export_container(&self, name: &str) -> Result<ByteStream, EngineError> {
        todo!()
    }
    /// `POST /commit`: answers with the image's id.
    pub async fn commit_container(&self, request: CommitRequest) -> Result<String, EngineError> {
        todo!()
    }
}
