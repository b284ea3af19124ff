//! Logs, as `logs` shows them: what was written, filtered, followed.
use crate::stream::FrameStream;
use crate::{Engine, EngineError};

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogsRequest {
    /// Go on with what comes.
    pub follow: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
    /// Not before: RFC 3339, Unix seconds with fraction.
    pub since: Option<String>,
    /// Not after.
    pub until: Option<String>,
    /// Each line with its time.
    pub timestamps: bool,
    /// Each line with its attributes.
    pub details: bool,
    /// The last so many lines only.
    pub tail: Option<u64>,
}

impl Engine {
    /// `GET /containers/{id}/logs`: frames, and whether the container has a terminal.
    pub async fn logs_container(
        &self,
        name: &str,
        request: LogsRequest,
    ) -> Result<(bool, FrameStream), EngineError> {
        todo!()
    }
}
