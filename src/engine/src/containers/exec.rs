//! Further programs in a running container.

use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{ExecConfig, ExecInspectResponse, ProcessConfig};
use knarr_runtime::spec::ProcessSpec;

use super::Container;
use super::attach::{Keys, not_running};
use super::spec;
use super::start::blocking;
use crate::shim::{Exec, LaunchError};
use crate::stream::{Attached, Frame, Stdio};
use crate::{Engine, EngineError};

/// How long what is known of an exec that has ended is kept.
const KEPT: std::time::Duration = std::time::Duration::from_secs(300);

/// How an exec is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Nobody listens.
    pub detach: bool,
    /// Its terminal's size: width, height.
    pub size: Option<(u16, u16)>,
}

/// An exec that was made.
#[derive(Debug)]
pub(crate) struct ExecRecord {
    pub(crate) id: String,
    pub(crate) container: String,
    config: ExecConfig,
    state: Mutex<ExecState>,
}

#[derive(Debug, Default)]
struct ExecState {
    started: bool,
    running: bool,
    pid: Option<i32>,
    code: Option<i64>,
    exec: Option<Exec>,
}

impl ExecRecord {
    fn lock(&self) -> std::sync::MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its program runs.
    pub(crate) fn is_running(&self) -> bool {
        self.lock().running
    }

    /// Its container has ended, and so has it.
    pub(crate) fn ended(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.running, false) && state.code.is_none() {
            let known = state.exec.as_ref().and_then(Exec::ended);
            state.code = Some(known.map_or(137, |exit| i64::from(exit.code)));
        }
    }
}

/// A program that was started inside; dropped before its end, it is killed.
pub(crate) struct Running {
    pub(crate) exec: Exec,
    pub(crate) done: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done
            && let Ok(process) = knarr_linux::process::Process::open(self.exec.pid)
        {
            // It may have ended by itself just now.
            let _ = process.signal(nix::libc::SIGKILL);
        }
    }
}

impl Engine {
    /// `POST /containers/{id}/exec`: answers with its id.
    ///
    /// # Errors
    /// The container does not run, or there is no command.
    pub async fn create_exec(&self, name: &str, config: ExecConfig) -> Result<String, EngineError> {
        let container = self.shared().containers.find(name)?;
        may_exec(&container)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(EngineError::invalid("No exec command specified"));
        }
        Keys::parse(config.detach_keys.as_deref())?;
        let id = crate::engine::new_id()?;
        let command = config.cmd.clone().unwrap_or_default().join(" ");
        let record =
            ExecRecord { id: id.clone(), container: container.id.clone(), config, state: Mutex::default() };
        self.shared().containers.add_exec(Arc::new(record));
        let action = format!("exec_create: {command}");
        self.shared().events.container(&action, &container.record(), &[("execID", id.as_str())]);
        Ok(id)
    }

    /// `POST /exec/{id}/start`; `None` when detached.
    ///
    /// # Errors
    /// It was started before, its container does not run, or its program cannot be run.
    pub async fn start_exec(&self, id: &str, request: ExecRequest) -> Result<Option<Attached>, EngineError> {
        self.claim_exec(id)?;
        self.start_claimed_exec(id, request).await
    }

    /// Whether an exec can be started; from now on nobody else can. Answers whether it has a terminal.
    ///
    /// # Errors
    /// It was started before, or its container does not run.
    pub fn claim_exec(&self, id: &str) -> Result<bool, EngineError> {
        let record = self.shared().containers.exec(id)?;
        let container = self.shared().containers.find(&record.container)?;
        may_exec(&container)?;
        let mut state = record.lock();
        if state.started {
            let what = if state.running { "is already running" } else { "has already run" };
            return Err(EngineError::conflict(format!("Error: Exec command {id} {what}")));
        }
        state.started = true;
        Ok(record.config.tty == Some(true))
    }

    /// Starts an exec that was claimed.
    ///
    /// # Errors
    /// Detached, its program cannot be run; else its streams say so.
    pub async fn start_claimed_exec(
        &self,
        id: &str,
        request: ExecRequest,
    ) -> Result<Option<Attached>, EngineError> {
        let record = self.shared().containers.exec(id)?;
        let container = self.shared().containers.find(&record.container)?;
        let config = ExecConfig {
            attach_stdin: Some(record.config.attach_stdin == Some(true) && !request.detach),
            console_size: request.size.map(|(width, height)| vec![usize::from(height), usize::from(width)]),
            ..record.config.clone()
        };
        let command = config.cmd.clone().unwrap_or_default().join(" ");
        let action = format!("exec_start: {command}");
        self.shared().events.container(&action, &container.record(), &[("execID", id)]);
        let mut running = match self.run_exec(&container, &config).await {
            Ok(running) => running,
            Err((code, error)) => {
                record.lock().code = Some(code);
                // Who has the connection already reads there why nothing runs.
                return if request.detach { Err(error) } else { Ok(Some(told(&error))) };
            }
        };
        running.done = true;
        let streams = running.exec.streams.take();
        {
            let mut state = record.lock();
            (state.running, state.pid) = (true, Some(running.exec.pid));
            state.exec = Some(running.exec.handle());
        }
        self.await_exec(&container, &record, running.exec.handle());
        let tty = config.tty == Some(true);
        let keys = Keys::parse(config.detach_keys.as_deref())?;
        Ok(streams.filter(|_| !request.detach).map(|streams| keys.part(Attached { tty, ..streams })))
    }

    fn await_exec(&self, container: &Arc<Container>, record: &Arc<ExecRecord>, exec: Exec) {
        let (engine, container, record) = (self.clone(), container.clone(), record.clone());
        tokio::spawn(async move {
            let exit = exec.exit().await;
            {
                let mut state = record.lock();
                (state.running, state.code) = (false, Some(i64::from(exit.code)));
                state.exec = None;
            }
            let code = exit.code.to_string();
            let extra = [("execID", record.id.as_str()), ("exitCode", code.as_str())];
            engine.shared().events.container("exec_die", &container.record(), &extra);
            tokio::time::sleep(KEPT).await;
            engine.shared().containers.forget_exec(&record.id);
        });
    }

    /// Starts a program in a container.
    pub(crate) async fn run_exec(
        &self,
        container: &Arc<Container>,
        config: &ExecConfig,
    ) -> Result<Running, (i64, EngineError)> {
        let shim = container.live.shim().ok_or_else(|| (137, not_running(container)))?;
        let process = self.exec_process(container, config).await.map_err(|error| (126, error))?;
        let (stdin, attach) = (
            config.attach_stdin == Some(true),
            config.attach_stdout == Some(true)
                || config.attach_stderr == Some(true)
                || config.attach_stdin == Some(true),
        );
        let id = crate::engine::new_id().map_err(|error| (126, error))?;
        let exec = shim.exec(&id, process, stdin, attach).await.map_err(explain)?;
        Ok(Running { exec, done: false })
    }

    async fn exec_process(
        &self,
        container: &Arc<Container>,
        config: &ExecConfig,
    ) -> Result<ProcessSpec, EngineError> {
        let record = container.record().clone();
        let directory = self.container_dir(&container.id);
        let config = config.clone();
        // Those that have ended meanwhile are no reason against it.
        let links = self.link_variables(&record).unwrap_or_default();
        blocking(move || spec::exec_process(&record, &directory, &links, &config)).await
    }

    /// `POST /exec/{id}/resize`.
    ///
    /// # Errors
    /// There is no such exec, or it does not run.
    pub async fn resize_exec(&self, id: &str, width: u16, height: u16) -> Result<(), EngineError> {
        let record = self.shared().containers.exec(id)?;
        let exec = record.lock().exec.as_ref().map(Exec::handle);
        let exec = exec.ok_or_else(|| EngineError::conflict(format!("exec {id} is not running")))?;
        exec.resize(width, height).await
    }

    /// `GET /exec/{id}/json`.
    ///
    /// # Errors
    /// There is no such exec.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspectResponse, EngineError> {
        let record = self.shared().containers.exec(id)?;
        let state = record.lock();
        let config = &record.config;
        // A client that saw the streams end asks at once: by then it is known how the program ended, if not yet written down.
        let ended = state.exec.as_ref().and_then(Exec::ended);
        let code = state.code.or_else(|| ended.as_ref().map(|exit| i64::from(exit.code)));
        let (entrypoint, arguments) = config
            .cmd
            .as_deref()
            .and_then(<[String]>::split_first)
            .map(|(first, rest)| (first.clone(), rest.to_vec()))
            .unwrap_or_default();
        Ok(ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: Some(config.detach_keys.clone().unwrap_or_default()),
            id: Some(record.id.clone()),
            running: Some(state.running && ended.is_none()),
            exit_code: code,
            process_config: Some(ProcessConfig {
                privileged: Some(config.privileged == Some(true)),
                user: config.user.clone(),
                tty: Some(config.tty == Some(true)),
                entrypoint: Some(entrypoint),
                arguments: Some(arguments),
            }),
            open_stdin: Some(config.attach_stdin == Some(true)),
            open_stderr: Some(config.attach_stderr == Some(true)),
            open_stdout: Some(config.attach_stdout == Some(true)),
            container_id: Some(record.container.clone()),
            pid: Some(i64::from(state.pid.unwrap_or_default())),
        })
    }
}

fn may_exec(container: &Container) -> Result<(), EngineError> {
    let record = container.record();
    if record.state.restarting {
        return Err(EngineError::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        )));
    }
    if !record.state.running {
        return Err(not_running(container));
    }
    if record.state.paused {
        return Err(EngineError::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            record.name
        )));
    }
    Ok(())
}

/// The exit code and the error of a program that cannot be run inside: docker's clients look for these words.
fn explain(error: LaunchError) -> (i64, EngineError) {
    let told = |why: &str| {
        format!("OCI runtime exec failed: exec failed: unable to start container process: {why}: unknown")
    };
    match error {
        LaunchError::NotFound(why) => (127, EngineError::invalid(told(&why))),
        LaunchError::NotExecutable(why) => (126, EngineError::invalid(told(&why))),
        LaunchError::Failed(why) => (126, EngineError::failed(told(&why))),
    }
}

/// Streams that say why nothing runs, and end.
fn told(error: &EngineError) -> Attached {
    let (sender, output) = tokio::sync::mpsc::channel(1);
    let bytes = format!("{}\r\n", error.message()).into();
    // There is room for one, and the receiver is here.
    let _ = sender.try_send(Ok(Frame { stream: Stdio::Out, bytes }));
    Attached { tty: false, output, input: None }
}
