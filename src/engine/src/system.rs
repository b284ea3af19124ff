//! The engine itself: info, version, disk usage.
use bollard_stubs::models::{SystemDataUsageResponse, SystemInfo, SystemVersion};

use crate::{Engine, EngineError};

impl Engine {
    /// `GET /info`.
    pub async fn info(&self) -> Result<SystemInfo, EngineError> {
        todo!()
    }
    /// `GET /version`.
    pub async fn version(&self) -> Result<SystemVersion, EngineError> {
        todo!()
    }
    /// `GET /system/df`; `kinds` of container, image, volume, build-cache, all when empty.
    pub async fn disk_usage(&self, kinds: &[String]) -> Result<SystemDataUsageResponse, EngineError> {
        todo!()
    }
    /// How many containers run: an engine that started by itself ends when none does.
    pub async fn running(&self) -> usize {
        todo!()
    }
}
