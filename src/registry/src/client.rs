//! The client: pulls, pushes and copies, with any registry.
//!
//! [`Client`] blocks its caller and does its transfers on a runtime of its own, each blob on a thread.
//! Progress is told through [`Progress`]. Blobs travel as they are: nothing is recompressed, digests are
//! the same everywhere.
//!
//! Spec: OCI distribution-spec 1.1, "Pull", "Push", "Content Discovery"; RFC 9110, range requests.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knarr_oci::{Descriptor, Reference};

use crate::RegistryError;
use crate::client::endpoint::Endpoint;
use crate::client::wire::Wire;
use crate::credentials::Credentials;

mod auth;
mod copy;
mod endpoint;
mod host;
mod list;
mod pull;
mod push;
mod repository;
mod tree;
mod upload;
mod wire;

pub use copy::Copied;
pub use host::{HostOptions, docker_certs_dirs};
pub use pull::{Pull, Pulled};
pub use push::{Push, Pushed};
pub use tree::Which;

/// How registries are asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is known about registries, by host.
    pub hosts: BTreeMap<String, HostOptions>,
    /// Plain HTTP and unknown certificates are good enough everywhere.
    pub insecure: bool,
    /// Certificates that may have signed every registry's own.
    pub ca: Option<PathBuf>,
    /// Directories with certificates by host, as docker has them.
    pub certs_dirs: Vec<PathBuf>,
    /// Who one is where.
    pub credentials: Credentials,
    /// Blobs at once.
    pub jobs: usize,
    /// How often something is tried again.
    pub retries: u32,
    /// A transfer in which nothing moves for this long is given up.
    pub stall: Duration,
    /// Blobs larger than this are sent in pieces, which can be gone on with.
    pub whole_bytes: u64,
    /// The size of such pieces, until one breaks.
    pub chunk_bytes: u64,
    /// Stops everything soon after it is set.
    pub cancel: &'static AtomicBool,
    /// The same, for one client alone.
    pub leave: Arc<AtomicBool>,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Options {
    /// Those that serve most people.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self {
            hosts: BTreeMap::new(),
            insecure: false,
            ca: None,
            certs_dirs: Vec::new(),
            credentials,
            jobs: 6,
            retries: 5,
            stall: Duration::from_secs(30),
            whole_bytes: 16 << 20,
            chunk_bytes: 512 << 20,
            cancel: &NEVER,
            leave: Arc::default(),
        }
    }
}

/// Is told how it goes.
pub trait Progress: Sync {
    /// So many bytes more are to be moved.
    fn expect_bytes(&self, bytes: u64);
    /// So many more are moved.
    fn bytes(&self, bytes: u64);
    /// Something happened that people may want to know.
    fn note(&self, text: &str);
    /// Something went wrong that stops nothing.
    fn warn(&self, text: &str);
    /// What is pulled or pushed, before any of its blobs is moved; of a pull those blobs alone that are not here.
    fn begin(&self, _root: &Descriptor, _blobs: &[Descriptor]) {}
    /// How it stands with one blob.
    fn blob(&self, _blob: &Descriptor, _step: BlobStep<'_>) {}
}

/// How it stands with one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobStep<'a> {
    /// It was where it is to be.
    Known,
    /// So many of its bytes are moved.
    Moved(u64),
    /// The registry had it in this other repository.
    Mounted(&'a str),
    /// All of it is moved.
    Done,
}

/// Speaks with registries.
pub struct Client {
    options: Options,
    runtime: tokio::runtime::Runtime,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
}

impl Client {
    /// A client that has asked nobody yet.
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().map_err(|source| {
            RegistryError::File { doing: "start threads for", path: "transfers".into(), source }
        })?;
        Ok(Self { options, runtime, endpoints: Mutex::default() })
    }

    fn wire(&self) -> Wire {
        let Options { stall, retries, cancel, .. } = self.options;
        let leave = Arc::clone(&self.options.leave);
        Wire { stall, retries, cancel, leave, stop: AtomicBool::new(false) }
    }

    fn host_options(&self, registry: &str) -> HostOptions {
        let mut known = self.options.hosts.get(registry).cloned().unwrap_or_default();
        known.insecure |= self.options.insecure;
        known.ca = self.options.ca.clone().or(known.ca);
        known
    }

    /// Whom to ask for a registry's or mirror's name.
    fn endpoint(&self, wire: &Wire, name: &str) -> Result<Arc<Endpoint>, RegistryError> {
        let lock = || self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(name) {
            return Ok(Arc::clone(known));
        }
        let host_options = self.host_options(name);
        let connect = Endpoint::connect(name, &host_options, &self.options, wire);
        let endpoint = Arc::new(self.runtime.block_on(connect)?);
        lock().insert(name.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Whom to ask for an image: the mirrors, then the registry itself.
    fn sources(
        &self,
        wire: &Wire,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Vec<Arc<Endpoint>>, RegistryError> {
        let mut found = Vec::new();
        for mirror in self.host_options(reference.registry()).mirrors {
            match self.endpoint(wire, &mirror) {
                Ok(endpoint) => found.push(endpoint),
                Err(RegistryError::Interrupted) => return Err(RegistryError::Interrupted),
                Err(error) => progress.warn(&format!("mirror {mirror}: {error}")),
            }
        }
        found.push(self.endpoint(wire, reference.registry())?);
        Ok(found)
    }

    /// Does the same with many things, several at once; the first error ends it all.
    fn in_parallel<T: Sync>(
        &self,
        wire: &Wire,
        items: &[T],
        work: impl Fn(&T) -> Result<(), RegistryError> + Sync,
    ) -> Result<(), RegistryError> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let one = || {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Err(error) = wire.check().and_then(|()| work(item)) else { continue };
                wire.stop.store(true, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                // Those that were only stopped have nothing to tell.
                if failed.is_none() || matches!(*failed, Some(RegistryError::Interrupted)) {
                    *failed = Some(error);
                }
                return;
            }
        };
        std::thread::scope(|scope| {
            (0..self.options.jobs.clamp(1, items.len().max(1))).for_each(|_| drop(scope.spawn(one)));
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;
