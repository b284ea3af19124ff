//! A running program's streams, for clients that come and go.
use crate::stream::Attached;
use crate::{Engine, EngineError};

/// Which streams of a container a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// What was logged before.
    pub logs: bool,
    /// What comes from now on.
    pub stream: bool,
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
}

impl Engine {
    /// `POST /containers/{id}/attach`; also before it is started: then the streams are those of its next start.
    /// `detach_keys` as `ctrl-p,ctrl-q`; the keys are taken out of the input and end the stream.
    pub async fn attach_container(
        &self,
        name: &str,
        request: AttachRequest,
        detach_keys: Option<&str>,
    ) -> Result<Attached, EngineError> {
        todo!()
    }
    /// `POST /containers/{id}/resize`, in characters.
    pub async fn resize_container(&self, name: &str, width: u16, height: u16) -> Result<(), EngineError> {
        todo!()
    }
}
