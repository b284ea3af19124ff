//! What of an engine's options can change while it lives.
//!
//! [`Engine::reload`] takes new ones over: from the next request on they hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use bollard_stubs::models::EventMessageTypeEnum;
use knarr_registry::client::HostOptions;

use crate::Engine;

/// What can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloadable {
    /// Labels of the engine, as `info` shows them.
    pub labels: Vec<String>,
    /// Registries, by host.
    pub registries: BTreeMap<String, HostOptions>,
    /// So many blobs of one image are fetched at once; `None` for the usual number.
    pub max_downloads: Option<usize>,
    /// So many are sent at once.
    pub max_uploads: Option<usize>,
}

/// What holds now.
#[derive(Debug, Default)]
pub(crate) struct Current(RwLock<Arc<Reloadable>>);

impl Current {
    pub(crate) fn new(first: Reloadable) -> Self {
        Self(RwLock::new(Arc::new(first)))
    }

    pub(crate) fn get(&self) -> Arc<Reloadable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, new: Reloadable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }
}

impl Engine {
    /// Takes new settings over, and tells those who listen.
    pub fn reload(&self, new: Reloadable) {
        let shared = self.shared();
        let number = |number: Option<usize>| number.map(|number| number.to_string()).unwrap_or_default();
        let attributes = HashMap::from([
            ("name".to_owned(), crate::system::host_name()),
            ("labels".to_owned(), format!("{:?}", new.labels)),
            ("max-concurrent-downloads".to_owned(), number(new.max_downloads)),
            ("max-concurrent-uploads".to_owned(), number(new.max_uploads)),
        ]);
        shared.current.set(new);
        shared.events.emit(EventMessageTypeEnum::DAEMON, "reload", &shared.id, attributes);
    }

    /// What holds now of what can change.
    pub(crate) fn current(&self) -> Arc<Reloadable> {
        self.shared().current.get()
    }
}
