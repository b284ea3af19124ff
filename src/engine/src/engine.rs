//! The engine as a whole: what it was opened with, and what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_network::Networks;
use knarr_registry::client::HostOptions;
use knarr_store::Store;

use crate::EngineError;
use crate::containers::Containers;
use crate::events::Events;
use crate::shim::Launcher;
use crate::volumes::Volumes;

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where containers, volumes and networks lie: `/var/lib/knarr`.
    pub root: PathBuf,
    /// What ends with the machine: `/run/knarr`.
    pub run: PathBuf,
    /// Where images lie.
    pub store: PathBuf,
    /// Our own program, for shims.
    pub program: PathBuf,
    /// Registries, by host.
    pub registries: BTreeMap<String, HostOptions>,
    /// The log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Labels of the engine, as `info` shows them.
    pub labels: Vec<String>,
    /// Addresses of networks that name none: `172.17.0.0/12` and the length of one network's prefix.
    pub address_pools: Vec<(String, u8)>,
    /// Name servers of containers that name none.
    pub dns: Vec<String>,
}

/// Containers, images, volumes, networks. Clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What all of an engine's methods see.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What it was opened with.
    pub(crate) options: Options,
    /// Its identity, made once for a root.
    pub(crate) id: String,
    /// Images.
    pub(crate) store: Store,
    /// Networks in the kernel.
    pub(crate) networks: Networks,
    /// Volumes on the disk.
    pub(crate) volumes: Volumes,
    /// Containers.
    pub(crate) containers: Containers,
    /// What happened.
    pub(crate) events: Events,
    /// Starts shims.
    pub(crate) launcher: Launcher,
    /// Held as long as we live: two engines on one root would each undo the other's work.
    _lock: std::fs::File,
}

impl Engine {
    /// Opens the engine of a root: takes over what an engine before it left, running or not.
    ///
    /// # Errors
    /// Another engine has the root, or a record cannot be read.
    pub async fn open(options: Options) -> Result<Self, EngineError> {
        let _ = options;
        todo!()
    }

    /// Ends what belongs to this process: containers go on running.
    pub async fn close(&self) {}

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Where what ends with the machine lies.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.shared.options.run
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
