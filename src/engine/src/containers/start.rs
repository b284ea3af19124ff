//! Starting, and starting again.
//!
//! [`Engine::launch`] is the way that all starts go: volumes, networks, files, configuration, shim. What it has
//! made it takes back when a later step fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard_stubs::models::{ContainerUpdateBody, ContainerUpdateResponse};
use knarr_network::{EndpointRequest, Port};
use knarr_runtime::shim::{ExtraOverlay, LogConfig, Overlay, ShimConfig};

use super::Container;
use super::record::{Attachment, Record};
use super::spec::{self, Facts};
use crate::engine::now;
use crate::meters::Action;
use crate::shim::{LaunchError, Prepared, Shim};
use crate::{Engine, EngineError, Kind};

impl Engine {
    /// `POST /containers/{id}/start`; [`crate::Kind::NotModified`] when it runs already.
    ///
    /// # Errors
    /// There is no such container, it cannot be started now, or its program cannot be run.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        self.start_in_turn(&container).await
    }

    /// Starts a container whose turn the caller holds.
    pub(crate) async fn start_in_turn(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        may_start(&container.record(), container)?;
        container.live.cancel_restart();
        container.live.lock().ended_by_hand = false;
        let started = self.launch(container).await;
        if started.is_err() && container.record().host.auto_remove == Some(true) {
            self.discard(container, true).await?;
        }
        started
    }

    /// Makes a container's program run, and stays with it.
    pub(crate) async fn launch(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        // Its last end may still be cleared up: what is made now must not be taken back by that.
        // The other side of it is the container's: it cannot be gone.
        let _timed = self.shared().meters.time(Action::Start);
        let _ = container.live.follow().wait_for(|phase| !phase.running).await;
        match self.try_launch(container).await {
            Ok((shim, pid)) => {
                self.note_start(container, &shim, pid).await;
                self.stay_with(container, shim);
                Ok(())
            }
            Err(failure) => {
                self.take_back(container).await;
                Err(self.note_failure(container, failure).await)
            }
        }
    }

    async fn try_launch(&self, container: &Arc<Container>) -> Result<(Shim, i32), Failure> {
        container.live.last_shim_gone().await;
        self.share_memory(container)?;
        self.prepare_volumes(container).await?;
        let sandbox = self.make_sandbox(container).await?;
        let prepared = self.prepare_all(container, sandbox).await?;
        let waiting = std::mem::take(&mut container.live.lock().waiting);
        for waiter in waiting {
            waiter.join(&prepared).await?;
        }
        Ok(prepared.start().await?)
    }

    /// Makes the container while its sandbox comes into its networks. Only what is written into the sandbox's own tables
    /// must find its links there.
    async fn prepare_all(
        &self,
        container: &Arc<Container>,
        sandbox: Option<PathBuf>,
    ) -> Result<Prepared, Failure> {
        if needs_links_first(&container.record()) {
            self.enter_networks(container).await?;
            return self.prepare_shim(container, sandbox).await;
        }
        let (entered, prepared) =
            tokio::join!(self.enter_networks(container), self.prepare_shim(container, sandbox));
        if let Err(error) = entered {
            if let Ok(prepared) = prepared {
                prepared.give_up().await;
            }
            return Err(error);
        }
        let prepared = prepared?;
        let has_addresses = container.record().networks.values().any(|place| place.endpoint.is_some());
        if has_addresses && let Err(error) = self.refresh_hosts(container).await {
            prepared.give_up().await;
            return Err(error.into());
        }
        Ok(prepared)
    }

    async fn prepare_shim(
        &self,
        container: &Arc<Container>,
        sandbox: Option<PathBuf>,
    ) -> Result<Prepared, Failure> {
        let config = self.write_bundle(container, sandbox).await?;
        Ok(self.shared().launcher.prepare(&config).await?)
    }

    async fn note_start(&self, container: &Arc<Container>, shim: &Shim, pid: i32) {
        {
            let mut live = container.live.lock();
            live.shim = Some(shim.clone());
            live.started = Some(std::time::Instant::now());
        }
        self.change(container, |record| {
            let state = &mut record.state;
            (state.running, state.paused, state.restarting, state.dead) = (true, false, false, false);
            (state.pid, state.exit_code, state.oom_killed) = (pid, 0, false);
            state.error.clear();
            state.started_at = now();
            record.stopped_by_hand = false;
        })
        .await;
        container.live.tell(|phase| phase.running = true);
        self.shared().events.container("start", &container.record(), &[]);
        self.watch_health(container);
    }

    async fn note_failure(&self, container: &Arc<Container>, failure: Failure) -> EngineError {
        let (code, error) = failure.explain();
        let message = error.message();
        self.change(container, |record| {
            let state = &mut record.state;
            (state.running, state.restarting, state.pid) = (false, false, 0);
            (state.exit_code, state.error) = (code, message.clone());
            state.finished_at = now();
        })
        .await;
        container.live.lock().waiting.clear();
        container.live.tell(|phase| {
            phase.running = false;
            phase.exits += 1;
            phase.code = code;
        });
        error
    }

    /// Gives back what a container has only while it runs.
    pub(crate) async fn take_back(&self, container: &Arc<Container>) {
        let shared = self.shared();
        let timed = shared.meters.time(Action::Release);
        let removed = shared.networks.remove_sandbox(&container.id).await;
        drop(timed);
        if let Err(error) = removed {
            tracing::warn!(
                container = container.id,
                error = &error as &dyn std::error::Error,
                "sandbox stays"
            );
        }
        self.forget_places(container);
        let memory = self.run_dir().join("shm").join(&container.id);
        match fs::remove_dir_all(&memory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(directory = %memory.display(), %error, "shared memory stays");
            }
            _ => {}
        }
        let volumes = volumes_of(&container.record());
        for name in volumes {
            match shared.volumes.release(&name, &container.id) {
                Ok(true) => shared.events.volume("unmount", &name, &[("container", container.id.as_str())]),
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    container = container.id,
                    volume = name,
                    error = error.message(),
                    "volume stays"
                ),
            }
        }
    }

    /// A container that does not run is in no network.
    fn forget_places(&self, container: &Arc<Container>) {
        let left: Vec<String> = {
            let mut record = container.record();
            record.ports.clear();
            let places = record.networks.values_mut();
            places.filter_map(|place| place.endpoint.take().map(|_| place.network_id.clone())).collect()
        };
        for network in left {
            self.tell_network("disconnect", &network, &container.id);
        }
    }

    /// Shared memory that others may join is a directory of a file system in memory, as `private` is a mount of its own.
    fn share_memory(&self, container: &Container) -> Result<(), EngineError> {
        if container.record().host.ipc_mode.as_deref() != Some("shareable") {
            return Ok(());
        }
        let path = self.run_dir().join("shm").join(&container.id);
        fs::create_dir_all(&path).map_err(EngineError::file("make", &path))?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(&path, open).map_err(EngineError::file("open up", &path))
    }

    async fn prepare_volumes(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let mounts = container.record().mounts.clone();
        for mount in mounts {
            let Some(name) = mount.name.as_deref().filter(|_| mount.kind == "volume") else { continue };
            self.shared().volumes.acquire(name, &container.id)?;
            let writable = mount.writable.to_string();
            let extra = [
                ("container", container.id.as_str()),
                ("destination", mount.target.as_str()),
                ("read/write", writable.as_str()),
                ("propagation", mount.propagation.as_str()),
            ];
            self.shared().events.volume("mount", name, &extra);
        }
        Ok(())
    }

    /// Makes the sandbox, and answers with the file that holds it.
    async fn make_sandbox(&self, container: &Arc<Container>) -> Result<Option<PathBuf>, EngineError> {
        let mode = container.record().network_mode().to_owned();
        if mode == "host" {
            return Ok(None);
        }
        if let Some(other) = mode.strip_prefix("container:") {
            return self.sandbox_of(other).map(Some);
        }
        self.find_places(container)?;
        Ok(Some(self.shared().networks.make_sandbox(&container.id).await?))
    }

    /// Makes the places in networks, and publishes ports.
    async fn enter_networks(&self, container: &Arc<Container>) -> Result<(), Failure> {
        let stays_out = {
            let record = container.record();
            !record.has_own_network()
                || record.config.network_disabled == Some(true)
                || record.networks.contains_key("none")
        };
        if stays_out {
            return Ok(());
        }
        let networks = &self.shared().networks;
        let _timed = self.shared().meters.time(Action::Connect);
        let places = places_of(&container.record());
        for (name, attachment) in places {
            let mut request = endpoint_request(&container.record(), &name, &attachment);
            request.links = self.links_of(&container.record(), &name, &attachment);
            let endpoint = networks.connect(&container.id, &attachment.network_id, request).await?;
            if let Some(place) = container.record().networks.get_mut(&name) {
                place.endpoint = Some(endpoint);
            }
            self.tell_network("connect", &attachment.network_id, &container.id);
        }
        if super::copy_up::asks_own_server(&container.record(), &self.shared().options) {
            self.serve_names(container).await?;
        }
        let wanted = ports_of(&container.record())?;
        if !wanted.is_empty() {
            let ports = networks.publish(&container.id, wanted).await?;
            container.record().ports = ports;
        }
        Ok(())
    }

    /// The sandbox of the container that another one joins.
    fn sandbox_of(&self, name: &str) -> Result<PathBuf, EngineError> {
        let other = self.shared().containers.find(name)?;
        let (running, pid) = {
            let record = other.record();
            (record.state.running, record.state.pid)
        };
        if !running {
            let id = &other.id;
            return Err(EngineError::conflict(format!(
                "cannot join network of a non running container: {id}"
            )));
        }
        Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// Writes the files that the container sees and its configuration.
    async fn write_bundle(
        &self,
        container: &Arc<Container>,
        sandbox: Option<PathBuf>,
    ) -> Result<ShimConfig, EngineError> {
        let record = container.record().clone();
        let directory = self.container_dir(&container.id);
        let joined = self.joined_pids(&record)?;
        let images = self.image_mounts(&record).await?;
        let linked = self.linked_hosts(&record);
        let links = self.link_variables(&record)?;
        let options = self.shared().options.clone();
        tokio::task::spawn_blocking(move || {
            let facts =
                Facts::gather(&record, &directory, sandbox, joined, &images, &options)?.with_links(links);
            forget_last_end(&directory)?;
            spec::write_files(&record, &directory, &options, &linked)?;
            let spec = spec::spec(&record, &facts)?;
            spec::write_config(&directory, &spec)?;
            shim_config(&record, &directory, &options.run, images)
        })
        .await
        .map_err(|error| EngineError::failed(error.to_string()))?
    }

    /// `POST /containers/{id}/restart`: `timeout` in seconds, -1 for ever, `None` for its own.
    ///
    /// # Errors
    /// There is no such container, or it cannot be stopped or started.
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        container.live.cancel_restart();
        let runs = container.record().state.running;
        if runs {
            container.live.lock().starts_again = true;
            let ended = self.end(&container, signal, timeout).await;
            container.live.lock().starts_again = false;
            ended?;
        }
        if container.record().state.restarting {
            self.change(&container, |record| record.state.restarting = false).await;
        }
        container.live.lock().ended_by_hand = false;
        self.launch(&container).await?;
        self.shared().events.container("restart", &container.record(), &[]);
        Ok(())
    }

    /// `POST /containers/{id}/rename`.
    ///
    /// # Errors
    /// The name is wrong or taken.
    pub async fn rename_container(&self, name: &str, new: &str) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        let new = new.strip_prefix('/').unwrap_or(new);
        let old = container.record().name.clone();
        if new == old {
            return Err(EngineError::invalid("Renaming a container with the same name as its current name"));
        }
        if new.is_empty() {
            return Err(EngineError::invalid("Neither old nor new names may be empty"));
        }
        self.shared().containers.reserve(new, &container.id)?;
        self.change(&container, |record| new.clone_into(&mut record.name)).await;
        self.shared().containers.release(&old);
        let places = places_of(&container.record());
        if container.record().state.running {
            for (network, attachment) in places.iter().filter(|(_, place)| place.endpoint.is_some()) {
                let names = endpoint_request(&container.record(), network, attachment).names;
                self.shared().networks.rename(&container.id, &attachment.network_id, names).await?;
            }
        }
        let old = format!("/{old}");
        self.shared().events.container("rename", &container.record(), &[("oldName", old.as_str())]);
        Ok(())
    }

    /// `POST /containers/{id}/update`.
    ///
    /// # Errors
    /// A value is wrong, or the kernel refuses it.
    pub async fn update_container(
        &self,
        name: &str,
        body: ContainerUpdateBody,
    ) -> Result<ContainerUpdateResponse, EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        let mut record = container.record().clone();
        if record.state.removing || record.state.dead {
            let id = &container.id;
            return Err(EngineError::conflict(format!(
                "Cannot update container {id}: Container is marked for removal and cannot be \"update\"."
            )));
        }
        let warnings = super::create::update(&mut record, body)?;
        if record.state.running {
            let resources = spec::resources(&record)?;
            let root = self.runtime_root();
            let id = container.id.clone();
            blocking(move || {
                let opened = knarr_runtime::state::Container::open(&root, &id)?;
                Ok(knarr_runtime::lifecycle::update(&opened, &resources)?)
            })
            .await
            .map_err(|error| {
                EngineError::failed(format!("Cannot update container {}: {}", container.id, error.message()))
            })?;
        }
        self.change(&container, |old| old.host = record.host).await;
        self.shared().events.container("update", &container.record(), &[]);
        Ok(ContainerUpdateResponse { warnings: Some(warnings) })
    }
}

/// Blocking work of the engine.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| EngineError::failed(error.to_string()))?
}

/// Whether tables of the sandbox are set that may speak of its links.
fn needs_links_first(record: &Record) -> bool {
    record.host.sysctls.iter().flatten().any(|(name, _)| name.starts_with("net"))
}

fn may_start(record: &Record, container: &Container) -> Result<(), EngineError> {
    let state = &record.state;
    if state.paused {
        return Err(EngineError::conflict("cannot start a paused container, try unpause instead"));
    }
    if state.running {
        return Err(EngineError::said(
            Kind::NotModified,
            format!("container {} is running already", record.name),
        ));
    }
    if state.removing || state.dead || container.live.lock().removing {
        return Err(EngineError::conflict("container is marked for removal and cannot be started"));
    }
    Ok(())
}

/// Volumes that a container uses, by name.
pub(crate) fn volumes_of(record: &Record) -> Vec<String> {
    let volumes = record.mounts.iter().filter(|mount| mount.kind == "volume");
    volumes.filter_map(|mount| mount.name.clone()).collect()
}

/// A container's networks, in the order in which they get their interfaces.
pub(crate) fn places_of(record: &Record) -> Vec<(String, Attachment)> {
    let mut places: Vec<_> =
        record.networks.iter().map(|(name, place)| (name.clone(), place.clone())).collect();
    places.sort_by_key(|(_, place)| std::cmp::Reverse(place.asked.gw_priority.unwrap_or_default()));
    places
}

/// What a container's place in a network is to be.
pub(crate) fn endpoint_request(record: &Record, network: &str, attachment: &Attachment) -> EndpointRequest {
    let asked = &attachment.asked;
    let ipam = asked.ipam_config.clone().unwrap_or_default();
    let address = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let mut names = Vec::new();
    if network != "bridge" {
        names.push(record.name.clone());
        names.push(record.id[..12].to_owned());
        names.extend(asked.aliases.iter().flatten().cloned());
        names.extend(record.config.hostname.iter().filter(|name| !name.is_empty()).cloned());
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
    }
    EndpointRequest {
        ipv4: address(ipam.ipv4_address),
        ipv6: address(ipam.ipv6_address),
        mac: asked.mac_address.clone().filter(|mac| !mac.is_empty()),
        names,
        links: std::collections::BTreeMap::new(),
        priority: asked.gw_priority.unwrap_or_default(),
        options: asked.driver_opts.clone().unwrap_or_default().into_iter().collect(),
    }
}

/// Ports that are to be published: those that are bound, and with `publish_all_ports` all that are exposed.
pub(super) fn ports_of(record: &Record) -> Result<Vec<Port>, EngineError> {
    let mut ports = Vec::new();
    let mut bindings: Vec<_> = record.host.port_bindings.iter().flatten().collect();
    bindings.sort_by_key(|(name, _)| (*name).clone());
    for (name, bound) in bindings {
        for binding in bound.iter().flatten() {
            ports.push(port(name, binding.host_ip.as_deref(), binding.host_port.as_deref())?);
        }
    }
    if record.host.publish_all_ports == Some(true) {
        let bound =
            |name: &String| record.host.port_bindings.as_ref().is_some_and(|ports| ports.contains_key(name));
        for name in record.config.exposed_ports.iter().flatten().filter(|name| !bound(name)) {
            ports.push(port(name, None, None)?);
        }
    }
    Ok(ports)
}

fn port(name: &str, host_ip: Option<&str>, host_port: Option<&str>) -> Result<Port, EngineError> {
    let bad = |what: &str| EngineError::invalid(format!("invalid port specification: {what}"));
    let (number, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
    let host_ip = match host_ip.unwrap_or_default() {
        "" | "0.0.0.0" if host_ip.is_none_or(str::is_empty) => None,
        text => Some(text.parse().map_err(|_| bad(text))?),
    };
    let host_ports = match host_port.unwrap_or_default() {
        "" | "0" => None,
        text => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some((first.parse().map_err(|_| bad(text))?, last.parse().map_err(|_| bad(text))?))
        }
    };
    Ok(Port {
        protocol: protocol.to_ascii_lowercase(),
        container_port: number.parse().map_err(|_| bad(name))?,
        host_ip,
        host_ports,
    })
}

/// How it ended last is not how it ends next: a machine that goes down meanwhile must not be told by it.
fn forget_last_end(directory: &Path) -> Result<(), EngineError> {
    let path = directory.join(knarr_runtime::shim::EXIT_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::File { doing: "remove", path, source: error })
        }
        _ => Ok(()),
    }
}

/// What a container's shim is told.
fn shim_config(
    record: &Record,
    directory: &Path,
    run: &Path,
    images: Vec<ExtraOverlay>,
) -> Result<ShimConfig, EngineError> {
    let target = directory.join("rootfs");
    fs::create_dir_all(&target).map_err(EngineError::file("make", &target))?;
    let sockets = run.join("shim");
    let log = record.host.log_config.clone().unwrap_or_default();
    Ok(ShimConfig {
        id: record.id.clone(),
        directory: directory.to_owned(),
        socket: sockets.join(&record.id[..24]),
        bundle: directory.to_owned(),
        runtime_root: run.join("oci"),
        overlay: Some(Overlay {
            lowers: record.layers.clone(),
            upper: directory.join("upper"),
            work: directory.join("work"),
            target,
            volatile: record.host.auto_remove == Some(true),
        }),
        extra: images,
        terminal: record.config.tty == Some(true),
        console_size: record.host.console_size.clone().and_then(|size| match size[..] {
            [height, width] => Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?)),
            _ => None,
        }),
        open_stdin: record.config.open_stdin == Some(true),
        stdin_once: record.config.stdin_once == Some(true),
        log: LogConfig {
            driver: log.typ.unwrap_or_else(|| "json-file".to_owned()),
            options: log.config.unwrap_or_default().into_iter().collect(),
            attributes: std::collections::BTreeMap::new(),
        },
        name: record.name.clone(),
    })
}

/// Why a container did not start.
enum Failure {
    /// Before its program was tried.
    Engine(EngineError),
    /// Its program.
    Launch(LaunchError),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::Launch(error)
    }
}

impl From<knarr_network::NetworkError> for Failure {
    fn from(error: knarr_network::NetworkError) -> Self {
        Self::Engine(error.into())
    }
}

impl Failure {
    /// The exit code that the container has by it, and the error: docker's clients look for these words.
    fn explain(self) -> (i64, EngineError) {
        let told = |why: &str| {
            format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                 unable to start container process: {why}: unknown"
            )
        };
        match self {
            Self::Engine(error) => (128, error),
            Self::Launch(LaunchError::NotFound(why)) => (127, EngineError::invalid(told(&why))),
            Self::Launch(LaunchError::NotExecutable(why)) => (126, EngineError::invalid(told(&why))),
            Self::Launch(LaunchError::Failed(why)) => (128, EngineError::failed(told(&why))),
        }
    }
}
