//! The engine as a whole: what it was opened with, and what it holds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use knarr_network::Networks;
use knarr_store::Store;

use crate::EngineError;
use crate::containers::{Container, Containers, Record, restarts, stands_still};
use crate::events::Events;
use crate::meters::Meters;
use crate::networks::NetworkTable;
use crate::reload::{Current, Reloadable};
use crate::shim::{Exit, Launcher, Shim};
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
    /// The log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Addresses of networks that name none: `172.17.0.0/12` and the length of one network's prefix.
    pub address_pools: Vec<(String, u8)>,
    /// Name servers of containers that name none.
    pub dns: Vec<String>,
    /// What can change while the engine lives; as it is at first.
    pub reloadable: Reloadable,
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
    /// Networks by id, with what the kernel does not know of them.
    pub(crate) network_table: NetworkTable,
    /// One network is made or removed at a time.
    pub(crate) network_turn: tokio::sync::Mutex<()>,
    /// What happened.
    pub(crate) events: Events,
    /// How often, and how long.
    pub(crate) meters: Meters,
    /// What can change, as it is now.
    pub(crate) current: Current,
    /// Starts shims.
    pub(crate) launcher: Launcher,
    /// It is about to leave: nothing is started again by itself.
    closing: AtomicBool,
    /// Held as long as we live: two engines on one root would each undo the other's work.
    _lock: File,
}

impl Engine {
    /// Opens the engine of a root: takes over what an engine before it left, running or not.
    ///
    /// # Errors
    /// Another engine has the root, or a record cannot be read.
    pub async fn open(options: Options) -> Result<Self, EngineError> {
        for directory in ["containers", "volumes", "networks"] {
            make_dir(&options.root.join(directory))?;
        }
        for directory in ["netns", "oci", "shim"] {
            make_dir(&options.run.join(directory))?;
        }
        let lock = lock(&options.root)?;
        let store = Store::open(&options.store)?;
        let pools = address_pools(&options.address_pools)?;
        let networks = Networks::open(knarr_network::Options { run: options.run.clone(), pools }).await?;
        let launcher = Launcher::start(&options.program)?;
        let shared = Shared {
            id: identity(&options.root)?,
            store,
            networks,
            volumes: Volumes::open(&options.root)?,
            containers: Containers::default(),
            network_table: NetworkTable::default(),
            network_turn: tokio::sync::Mutex::default(),
            events: Events::default(),
            meters: Meters::default(),
            current: Current::new(options.reloadable.clone()),
            launcher,
            closing: AtomicBool::new(false),
            _lock: lock,
            options,
        };
        let engine = Self { shared: Arc::new(shared) };
        engine.restore().await?;
        engine.sweep_store();
        Ok(engine)
    }

    /// What an engine before this one had begun to put into the store goes, in the background.
    fn sweep_store(&self) {
        let store = self.shared.store.clone();
        tokio::task::spawn_blocking(move || match knarr_store::gc::sweep(&store) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "what was left unfinished in the store is gone"),
            Err(error) => {
                let error = EngineError::from(error);
                tracing::warn!(error = error.message(), "something unfinished stays in the store");
            }
        });
    }

    /// Takes over containers and networks of an engine before this one.
    async fn restore(&self) -> Result<(), EngineError> {
        let mut found = Vec::new();
        for record in self.load_records()? {
            let container = Arc::new(Container::new(record));
            self.shared.containers.insert(container.clone());
            let directory = self.container_dir(&container.id);
            let (was_running, tty) = {
                let record = container.record();
                (record.state.running, record.config.tty == Some(true))
            };
            let shim = match was_running {
                true => find_shim(&self.shim_socket(&container.id), &directory, tty).await,
                false => {
                    self.end_unfinished_start(&container.id, tty).await;
                    None
                }
            };
            found.push((container, was_running, shim));
        }
        let left = found
            .iter()
            .filter(|(container, _, shim)| shim.is_some() && container.record().has_own_network())
            .map(|(container, ..)| left_of(container));
        let networks = self.load_networks()?;
        self.shared.networks.restore(networks, left.collect()).await?;
        self.ensure_default_networks().await?;
        for (container, was_running, shim) in found {
            self.restore_container(&container, was_running, shim).await?;
        }
        self.shared.volumes.settle();
        Ok(())
    }

    /// A start that an engine before this one did not live to finish, and told nobody of, is taken back.
    async fn end_unfinished_start(&self, id: &str, tty: bool) {
        let socket = self.shim_socket(id);
        if !socket.exists() {
            return;
        }
        if let Some((shim, pid)) = find_shim(&socket, &self.container_dir(id), tty).await {
            let killed = knarr_linux::process::Process::open(pid)
                .and_then(|process| process.signal(nix::libc::SIGKILL));
            if let Err(error) = killed {
                tracing::warn!(container = id, %error, "a program that nobody knows of cannot be ended");
            }
            if tokio::time::timeout(UNFINISHED_PATIENCE, shim.exit()).await.is_err() {
                tracing::warn!(container = id, "a program that nobody knows of does not end");
            }
        }
        self.clear_runtime(id).await;
    }

    async fn restore_container(
        &self,
        container: &Arc<Container>,
        was_running: bool,
        shim: Option<(Shim, i32)>,
    ) -> Result<(), EngineError> {
        match shim {
            Some((shim, pid)) => {
                container.live.lock().shim = Some(shim.clone());
                container.live.tell(|phase| phase.running = true);
                // An engine that was killed may not have written down what it had done.
                let paused = stands_still(self.runtime_root(), container.id.clone()).await;
                self.change(container, |record| {
                    record.state.pid = pid;
                    record.state.paused = paused.unwrap_or(record.state.paused);
                })
                .await;
                for name in crate::containers::volumes_of(&container.record().clone()) {
                    self.shared.volumes.acquire(&name, &container.id)?;
                }
                self.watch_health(container);
                self.stay_with(container, shim);
            }
            None if was_running => {
                let exit = Exit::load(&self.container_dir(&container.id)).unwrap_or_else(Exit::unknown);
                self.clear_runtime(&container.id).await;
                container.live.tell(|phase| phase.running = true);
                self.note_exit(container, &exit).await;
            }
            None => {
                let starts = {
                    let record = container.record();
                    let always = record.host.restart_policy.as_ref().and_then(|policy| policy.name)
                        == Some(bollard_stubs::models::RestartPolicyNameEnum::ALWAYS);
                    let was_up = record.state.restarting
                        || (!record.state.started_at.is_empty() && (always || !record.stopped_by_hand));
                    was_up
                        && restarts(&record, i32::try_from(record.state.exit_code).unwrap_or(1))
                        && (always || !record.stopped_by_hand)
                };
                if starts {
                    self.change(container, |record| record.state.restarting = true).await;
                    self.start_later(container);
                } else if container.record().host.auto_remove == Some(true) {
                    // Its end was seen, and then there was no time to remove it; or who made it is gone.
                    self.remove_by_itself(container).await;
                }
            }
        }
        Ok(())
    }

    /// Removes what the runtime keeps of a container whose shim died without a word.
    async fn clear_runtime(&self, id: &str) {
        let (root, name) = (self.runtime_root(), id.to_owned());
        let cleared = crate::containers::blocking(move || {
            match knarr_runtime::state::Container::open(&root, &name) {
                Ok(container) => drop(knarr_runtime::lifecycle::delete(&container, true)?),
                Err(knarr_runtime::RuntimeError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        });
        // One that is not there is as good.
        let _ = fs::remove_file(self.shim_socket(id));
        if let Err(error) = cleared.await {
            tracing::warn!(container = id, error = error.message(), "the runtime keeps something of it");
        }
    }

    /// The records of all containers; what a removal left is removed.
    fn load_records(&self) -> Result<Vec<Record>, EngineError> {
        let parent = self.shared.options.root.join("containers");
        let mut records = Vec::new();
        for entry in fs::read_dir(&parent).map_err(EngineError::file("list", &parent))? {
            let entry = entry.map_err(EngineError::file("list", &parent))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || !path.join("container.json").exists() {
                if let Err(error) = self.release_image(name.trim_start_matches(REMOVED)) {
                    tracing::warn!(name, error = error.message(), "an image is held for nobody");
                }
                self.sweep(path);
                continue;
            }
            match Record::load(&path) {
                Ok(record) => records.push(record),
                // One that cannot be read must not keep all others from running.
                Err(error) => tracing::error!(error = error.message(), "a container is left out"),
            }
        }
        Ok(records)
    }

    /// Changes a container's record, and writes it down.
    pub(crate) async fn change(&self, container: &Arc<Container>, change: impl FnOnce(&mut Record)) {
        self.change_and(container, true, change).await;
    }

    /// The same; `keeps` says whether it is written down: not when the container is about to be removed, and an engine
    /// that comes later would find that out by itself.
    pub(crate) async fn change_and(
        &self,
        container: &Arc<Container>,
        keeps: bool,
        change: impl FnOnce(&mut Record),
    ) {
        let directory = self.container_dir(&container.id);
        let saved = {
            let mut record = container.record();
            change(&mut record);
            if keeps { record.save(&directory, false) } else { Ok(()) }
        };
        if let Err(error) = saved
            && directory.exists()
        {
            tracing::error!(
                container = container.id,
                error = error.message(),
                "its state is not written down"
            );
        }
    }

    /// Ends what belongs to this process: containers go on running.
    pub async fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
    }

    /// Whether it is about to leave.
    pub(crate) fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

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

    /// Where a container's files lie.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.shared.options.root.join("containers").join(id)
    }

    /// Where they lie when it is removed, until they are gone.
    pub(crate) fn removed_dir(&self, id: &str) -> PathBuf {
        self.shared.options.root.join("containers").join(format!("{REMOVED}{id}"))
    }

    /// Where the runtime keeps its states.
    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.shared.options.run.join("oci")
    }

    /// Where a container's shim listens. Short: such a path has room for 107 bytes.
    pub(crate) fn shim_socket(&self, id: &str) -> PathBuf {
        self.shared.options.run.join("shim").join(&id[..24])
    }
}

fn make_dir(path: &Path) -> Result<(), EngineError> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(EngineError::file("make", path))
}

fn lock(root: &Path) -> Result<File, EngineError> {
    let path = root.join("engine.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(EngineError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(EngineError::failed(format!(
            "another engine has {}: stop it, or give this one another root",
            root.display()
        ))),
        Err(fs::TryLockError::Error(source)) => Err(EngineError::File { doing: "lock", path, source }),
    }
}

/// The engine's identity: made once, kept with its root.
fn identity(root: &Path) -> Result<String, EngineError> {
    let path = root.join("engine.id");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::File { doing: "read", path, source: error });
        }
        _ => {}
    }
    let id = new_id()?;
    let id = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..32]);
    crate::containers::record::write_file(&path, id.as_bytes(), true)
        .map_err(EngineError::file("write", &path))?;
    Ok(id)
}

/// What a container's directory is called when it is removed begins so.
const REMOVED: &str = ".removed-";
/// How long a shim that was there before may take to answer.
const SHIM_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a program of a start that was not finished may take to end.
const UNFINISHED_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Where networks that name none get their addresses from: docker's places.
const POOLS: [(&str, u8); 6] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/15", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/13", 16),
    ("192.168.0.0/16", 20),
    ("fd6b:6e61:7272::/48", 64),
];

fn address_pools(texts: &[(String, u8)]) -> Result<Vec<(ipnet::IpNet, u8)>, EngineError> {
    let parse = |(text, size): &(String, u8)| match text.parse() {
        Ok(base) => Ok((base, *size)),
        Err(_) => Err(EngineError::invalid(format!(
            "address pool {text}: expected an address and a prefix, such as 10.10.0.0/16"
        ))),
    };
    if texts.is_empty() {
        return POOLS.iter().map(|(text, size)| parse(&((*text).to_owned(), *size))).collect();
    }
    texts.iter().map(parse).collect()
}

/// The shim of a container; one that does not answer must not keep the engine from all others.
async fn find_shim(socket: &Path, directory: &Path, tty: bool) -> Option<(Shim, i32)> {
    match tokio::time::timeout(SHIM_PATIENCE, Shim::connect(socket, directory, tty)).await {
        Ok(found) => found,
        Err(_) => {
            tracing::error!(socket = %socket.display(), "a container's shim does not answer: the container is given up");
            None
        }
    }
}

fn left_of(container: &Container) -> knarr_network::Left {
    let record = container.record();
    knarr_network::Left {
        container: record.id.clone(),
        endpoints: record.networks.values().filter_map(|place| place.endpoint.clone()).collect(),
        ports: record.ports.clone(),
    }
}

/// 64 hexadecimal digits that nobody had before.
pub(crate) fn new_id() -> Result<String, EngineError> {
    let mut bytes = [0; 32];
    loop {
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut bytes)
            .map_err(|_| EngineError::failed("the machine has no random numbers"))?;
        let id = hex::encode(bytes);
        // A short id of digits only would be taken for a number by some tools.
        if id[..12].bytes().any(|digit| !digit.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

/// This moment, RFC 3339 with nanoseconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}
