//! Ending, freezing, waiting and removing.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{ContainerPruneResponse, ContainerWaitResponse, EventMessageTypeEnum};
use knarr_linux::signals;
use knarr_runtime::state::Status;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Container;
use super::start::blocking;
use crate::filters::Filters;
use crate::meters::Action;
use crate::{Engine, EngineError, Kind};

/// How long a container has to end when it is asked to, in seconds, unless it says otherwise.
const PATIENCE_S: i64 = 10;
/// How long the kernel may take to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a container's processes are frozen, as the kernel has it; `None` when it has ended.
pub(crate) async fn stands_still(root: PathBuf, id: String) -> Option<bool> {
    let asked = blocking(move || Ok(knarr_runtime::state::Container::open(&root, &id)?.status()?));
    asked.await.ok().map(|status| status == Status::Paused)
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run.
    NotRunning,
    /// Its next end.
    NextExit,
    /// It is gone.
    Removed,
}

impl Engine {
    /// `POST /containers/{id}/stop`; [`crate::Kind::NotModified`] when it does not run.
    ///
    /// # Errors
    /// There is no such container, or it does not end.
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        container.live.cancel_restart();
        container.live.lock().ended_by_hand = true;
        let (running, restarting) = {
            let record = container.record();
            (record.state.running, record.state.restarting)
        };
        if running {
            self.end(&container, signal, timeout).await?;
        } else if !restarting {
            return Err(EngineError::said(Kind::NotModified, format!("container {name} does not run")));
        }
        self.change(&container, |record| {
            record.stopped_by_hand = true;
            record.state.restarting = false;
        })
        .await;
        self.shared().events.container("stop", &container.record(), &[]);
        Ok(())
    }

    /// Asks a running container to end, and kills it when it does not: whoever calls holds its turn.
    pub(crate) async fn end(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout_s: Option<i64>,
    ) -> Result<(), EngineError> {
        container.live.lock().ended_by_hand = true;
        let (own_signal, own_timeout) = {
            let record = container.record();
            (record.config.stop_signal.clone(), record.config.stop_timeout)
        };
        let signal = signal.map(str::to_owned).or(own_signal).filter(|text| !text.is_empty());
        let signal = parse_signal(signal.as_deref().unwrap_or("SIGTERM"))?;
        let patience_s = timeout_s.or(own_timeout).unwrap_or(PATIENCE_S);
        self.signal(container, signal).await?;
        if patience_s < 0 {
            return self.await_end(container, Duration::MAX).await;
        }
        let patience = Duration::from_secs(patience_s.unsigned_abs());
        if patience_s > 0 && self.await_end(container, patience).await.is_ok() {
            return Ok(());
        }
        self.signal(container, nix::libc::SIGKILL).await?;
        self.await_end(container, KILL_PATIENCE).await
    }

    async fn await_end(&self, container: &Arc<Container>, patience: Duration) -> Result<(), EngineError> {
        let mut phase = container.live.follow();
        let ended = phase.wait_for(|phase| !phase.running);
        match timeout(patience, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::failed(format!(
                "container {} did not end within {} seconds",
                container.id,
                patience.as_secs()
            ))),
        }
    }

    /// Sends a signal to a container's init. One that has just ended is no error.
    async fn signal(&self, container: &Arc<Container>, signal: i32) -> Result<(), EngineError> {
        let (pid, paused) = {
            let record = container.record();
            (record.state.pid, record.state.paused)
        };
        // Without a number its end is known already, and is being cleared up.
        if !container.live.phase().running || pid == 0 {
            return Ok(());
        }
        match knarr_linux::process::Process::open(pid).and_then(|process| process.signal(signal)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => {
                let id = &container.id;
                return Err(EngineError::failed(format!("cannot kill container: {id}: {error}")));
            }
        }
        // Who stands still hears nothing.
        if paused {
            self.thaw(container).await?;
            self.change(container, |record| record.state.paused = false).await;
        }
        let text = signal.to_string();
        self.shared().events.container("kill", &container.record(), &[("signal", text.as_str())]);
        Ok(())
    }

    /// `POST /containers/{id}/kill`.
    ///
    /// # Errors
    /// It does not run, or there is no such signal.
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let signal = parse_signal(if signal.is_empty() { "SIGKILL" } else { signal })?;
        let (running, label, own) = {
            let record = container.record();
            (record.state.running, record.name.clone(), record.config.stop_signal.clone())
        };
        if !running {
            let id = &container.id;
            return Err(EngineError::conflict(format!(
                "cannot kill container: {name}: container {id} is not running"
            )));
        }
        let own = own.filter(|text| !text.is_empty()).and_then(|text| parse_signal(&text).ok());
        let kills = signal == nix::libc::SIGKILL;
        if kills || signal == own.unwrap_or(nix::libc::SIGTERM) {
            container.live.lock().ended_by_hand = true;
            self.change(&container, |record| record.stopped_by_hand = true).await;
        }
        tracing::debug!(container = label, signal, "kill");
        self.signal(&container, signal).await?;
        if kills {
            self.await_end(&container, KILL_PATIENCE).await?;
        }
        Ok(())
    }

    /// `POST /containers/{id}/pause`.
    ///
    /// # Errors
    /// It does not run, or is paused already.
    pub async fn pause_container(&self, name: &str) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        {
            let record = container.record();
            let (id, state) = (&container.id, &record.state);
            if !state.running {
                return Err(EngineError::conflict(format!("Container {id} is not running")));
            }
            if state.paused {
                return Err(EngineError::conflict(format!("Container {id} is already paused")));
            }
        }
        let (root, id) = (self.runtime_root(), container.id.clone());
        blocking(move || {
            let opened = knarr_runtime::state::Container::open(&root, &id)?;
            Ok(knarr_runtime::lifecycle::pause(&opened)?)
        })
        .await?;
        self.change(&container, |record| record.state.paused = true).await;
        self.shared().events.container("pause", &container.record(), &[]);
        Ok(())
    }

    /// `POST /containers/{id}/unpause`.
    ///
    /// # Errors
    /// It is not paused.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let _turn = container.turn.lock().await;
        if !container.record().state.paused {
            return Err(EngineError::conflict(format!("Container {} is not paused", container.id)));
        }
        self.thaw(&container).await?;
        self.change(&container, |record| record.state.paused = false).await;
        self.shared().events.container("unpause", &container.record(), &[]);
        Ok(())
    }

    /// Lets it go on. One that does so already, or has ended meanwhile, is no error.
    async fn thaw(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let (root, id) = (self.runtime_root(), container.id.clone());
        let thawed = blocking(move || {
            let opened = knarr_runtime::state::Container::open(&root, &id)?;
            Ok(knarr_runtime::lifecycle::resume(&opened)?)
        });
        match thawed.await {
            Err(_) if stands_still(self.runtime_root(), container.id.clone()).await != Some(true) => Ok(()),
            other => other,
        }
    }

    /// `POST /containers/{id}/wait`: answers once the container is found with a future of the outcome, so that the
    /// client can be told at once that it is being waited for.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<ContainerWaitResponse>, EngineError> {
        let container = self.shared().containers.find(name)?;
        let (sender, receiver) = oneshot::channel();
        let mut phase = container.live.follow();
        let seen = phase.borrow().exits;
        let mut sender = sender;
        tokio::spawn(async move {
            let done = phase.wait_for(|phase| match condition {
                _ if phase.removed => true,
                WaitCondition::NotRunning => !phase.running,
                WaitCondition::NextExit => phase.exits > seen,
                WaitCondition::Removed => false,
            });
            let ended = tokio::select! {
                ended = done => ended.map(|phase| phase.clone()).ok(),
                // The client is gone.
                () = sender.closed() => None,
            };
            if let Some(phase) = ended {
                // A client that is gone does not hear it.
                let _ = sender.send(outcome(&container, phase.exits, phase.code));
            }
        });
        Ok(receiver)
    }

    /// `DELETE /containers/{id}`: `volumes` removes its anonymous volumes, `link` only the link of that name.
    ///
    /// # Errors
    /// It runs and `force` is not set, or it is being removed already.
    pub async fn remove_container(
        &self,
        name: &str,
        force: bool,
        volumes: bool,
        link: bool,
    ) -> Result<(), EngineError> {
        if link {
            return self.remove_link(name).await;
        }
        let container = self.shared().containers.find(name)?;
        if std::mem::replace(&mut container.live.lock().removing, true) {
            return Err(EngineError::conflict(format!("removal of container {name} is already in progress")));
        }
        let _timed = self.shared().meters.time(Action::Delete);
        let removed = self.remove_in_turn(&container, name, force, volumes).await;
        if removed.is_err() {
            container.live.lock().removing = false;
        }
        removed
    }

    async fn remove_in_turn(
        &self,
        container: &Arc<Container>,
        name: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), EngineError> {
        if !force {
            may_remove(container, name)?;
        }
        let _turn = container.turn.lock().await;
        if container.live.phase().removed {
            return Err(EngineError::not_found(format!("No such container: {name}")));
        }
        container.live.cancel_restart();
        container.live.lock().ended_by_hand = true;
        let running = container.record().state.running;
        if running {
            if !force {
                may_remove(container, name)?;
            }
            self.signal(container, nix::libc::SIGKILL).await?;
            self.await_end(container, KILL_PATIENCE).await?;
        }
        self.discard(container, volumes).await
    }

    /// Removes a container that does not run: its files, its names, and when asked its anonymous volumes.
    pub(crate) async fn discard(&self, container: &Arc<Container>, volumes: bool) -> Result<(), EngineError> {
        container.live.lock().removing = true;
        self.take_back(container).await;
        let record = container.record().clone();
        let directory = self.container_dir(&container.id);
        let gone = self.removed_dir(&container.id);
        // By rename it is gone at once, whatever happens to its files after that.
        match fs::rename(&directory, &gone) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(EngineError::file("remove", &directory))?,
        }
        self.release_image(&container.id)?;
        self.shared().containers.remove(&container.id);
        self.sweep(gone);
        if volumes {
            self.remove_anonymous_volumes(&record).await;
        }
        self.shared().events.container("destroy", &record, &[]);
        container.live.tell(|phase| {
            phase.removed = true;
            phase.running = false;
        });
        Ok(())
    }

    /// Removes a directory that nobody looks into any more, in the background.
    pub(crate) fn sweep(&self, directory: PathBuf) {
        tokio::task::spawn_blocking(move || {
            if let Err(error) = fs::remove_dir_all(&directory)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(directory = %directory.display(), %error, "a removed container's files stay until the next start");
            }
        });
    }

    pub(super) async fn remove_anonymous_volumes(&self, record: &super::Record) {
        let volumes = record.mounts.iter().filter(|mount| mount.kind == "volume" && mount.anonymous);
        for name in volumes.filter_map(|mount| mount.name.as_deref()) {
            match self.remove_volume(name, true).await {
                Ok(()) => {}
                // Another container uses it, or it is gone: as it should be.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(error) => {
                    tracing::warn!(volume = name, error = error.message(), "an anonymous volume stays");
                }
            }
        }
    }

    /// Removes `PARENT/ALIAS`: the container keeps its name, another one no longer knows it by that.
    async fn remove_link(&self, name: &str) -> Result<(), EngineError> {
        let name = name.trim_start_matches('/');
        let (parent, alias) = name.split_once('/').ok_or_else(|| {
            EngineError::invalid(format!(
                "Conflict, cannot remove the default link name of the container: {name}"
            ))
        })?;
        let container = self.shared().containers.find(parent)?;
        let is_it = |link: &String| link.rsplit(':').next() == Some(alias);
        let known = container.record().host.links.iter().flatten().any(is_it);
        if !known {
            return Err(EngineError::not_found(format!("No such link: {name}")));
        }
        self.change(&container, |record| {
            if let Some(links) = &mut record.host.links {
                links.retain(|link| !is_it(link));
            }
        })
        .await;
        Ok(())
    }

    /// `POST /containers/prune`.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<ContainerPruneResponse, EngineError> {
        filters.allow(&["until", "label", "label!"])?;
        let until = filters.until()?;
        let mut removed = Vec::new();
        let mut reclaimed = 0;
        for container in self.shared().containers.all() {
            let wanted = {
                let record = container.record();
                let labels = record.config.labels.clone().unwrap_or_default();
                let fits = filters.labels(|key| labels.get(key).map(String::as_str));
                let old = until.is_none_or(|until| created(&record.created).is_some_and(|made| made < until));
                !record.state.running && !record.state.paused && !record.state.restarting && fits && old
            };
            if !wanted {
                continue;
            }
            let size = self.writable_bytes(&container).await;
            match self.remove_container(&container.id, false, false, false).await {
                Ok(()) => {
                    reclaimed += size;
                    removed.push(container.id.clone());
                }
                Err(error) => tracing::warn!(container = container.id, error = error.message(), "not pruned"),
            }
        }
        self.shared().events.pruned(EventMessageTypeEnum::CONTAINER, reclaimed);
        Ok(ContainerPruneResponse {
            containers_deleted: Some(removed),
            space_reclaimed: Some(i64::try_from(reclaimed).unwrap_or(i64::MAX)),
        })
    }
}

fn created(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

fn may_remove(container: &Container, name: &str) -> Result<(), EngineError> {
    let record = container.record();
    let state = &record.state;
    let why = match state {
        _ if state.paused => "container is paused and must be unpaused first",
        _ if state.running => "container is running: stop the container before removing or force remove",
        _ if state.restarting => {
            "container is restarting: stop the container before removing or force remove"
        }
        _ => return Ok(()),
    };
    Err(EngineError::conflict(format!("cannot remove container \"{name}\": {why}")))
}

/// A start that failed is told by the start: the wait only ends.
fn outcome(container: &Container, exits: u64, code: i64) -> ContainerWaitResponse {
    let known = container.record().state.exit_code;
    ContainerWaitResponse { status_code: if exits > 0 { code } else { known }, error: None }
}

/// A signal by number or name, with or without `SIG`, and `RTMIN+n`.
pub(crate) fn parse_signal(text: &str) -> Result<i32, EngineError> {
    let bad = || EngineError::invalid(format!("invalid signal: {text}"));
    signals::by_name(text).filter(|signal| (1..=64).contains(signal)).ok_or_else(bad)
}
