//! Events: what happened, for those who listen and for a while after.
use bollard_stubs::models::EventMessage;

use crate::filters::Filters;
use crate::stream::ValueStream;
use crate::{Engine, EngineError};

/// What happened lately, and who listens.
#[derive(Debug)]
pub(crate) struct Events {}

impl Engine {
    /// `GET /events`: from `since` on, up to `until` or for ever; times as RFC 3339, Unix seconds or durations ago.
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: Filters,
    ) -> Result<ValueStream, EngineError> {
        todo!()
    }
}
