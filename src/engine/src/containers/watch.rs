//! What containers do by themselves: they end, are started again, and their health is asked for.

use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{
    Health, HealthConfig, HealthStatusEnum, HealthcheckResult, RestartPolicyNameEnum,
};

use super::Container;
use super::record::Record;
use crate::engine::now;
use crate::shim::{Exit, Shim};
use crate::{Engine, EngineError};

/// What docker asks with when nothing is said: every 30 s, for at most 30 s, three times.
const INTERVAL: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// So many answers are kept, with so many bytes each.
const KEPT_RESULTS: usize = 5;
const KEPT_BYTES: usize = 4096;

impl Engine {
    /// Waits for a container's end, in the background.
    pub(crate) fn stay_with(&self, container: &Arc<Container>, shim: Shim) {
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let exit = shim.exit().await;
            engine.note_exit(&container, &exit).await;
        });
    }

    /// A container has ended: what it had is given back, and what its policy wants is done.
    pub(crate) async fn note_exit(&self, container: &Arc<Container>, exit: &Exit) {
        let ended_by_hand = {
            let mut live = container.live.lock();
            live.last_shim = live.shim.take();
            if let Some(health) = live.health.take() {
                health.abort();
            }
            live.ended_by_hand
        };
        self.shared().containers.end_execs_of(&container.id);
        let again = !ended_by_hand && !self.is_closing() && restarts(&container.record(), exit.code);
        let starts_again = again || container.live.lock().starts_again;
        let removes_itself = !starts_again && container.record().host.auto_remove == Some(true);
        self.change_and(container, !removes_itself, |record| {
            let state = &mut record.state;
            (state.running, state.paused, state.restarting, state.pid) = (false, false, again, 0);
            (state.exit_code, state.oom_killed) = (i64::from(exit.code), exit.oom);
            state.finished_at.clone_from(&exit.at);
            if let Some(health) = state.health.as_mut().filter(|_| !again) {
                health.status = Some(HealthStatusEnum::UNHEALTHY);
            }
        })
        .await;
        if exit.oom {
            self.shared().events.container("oom", &container.record(), &[]);
        }
        let code = exit.code.to_string();
        let lived = lived_s(&container.record()).to_string();
        let extra = [("exitCode", code.as_str()), ("execDuration", lived.as_str())];
        self.shared().events.container("die", &container.record(), &extra);
        self.take_back(container).await;
        container.live.tell(|phase| {
            phase.running = false;
            phase.exits += 1;
            phase.code = i64::from(exit.code);
        });
        if again {
            self.start_later(container);
        } else if removes_itself {
            self.remove_by_itself(container).await;
        }
    }

    /// Removes a container that asked for it, with its anonymous volumes.
    pub(crate) async fn remove_by_itself(&self, container: &Arc<Container>) {
        match self.remove_container(&container.id, true, true, false).await {
            Ok(()) => {}
            // A user was faster.
            Err(error) if matches!(error.kind(), crate::Kind::NotFound | crate::Kind::Conflict) => {}
            Err(error) => {
                tracing::warn!(
                    container = container.id,
                    error = error.message(),
                    "cannot be removed by itself"
                );
            }
        }
    }

    /// Starts a container again after a pause, unless a user was faster.
    pub(crate) fn start_later(&self, container: &Arc<Container>) {
        let pause = container.live.next_pause();
        let (engine, waiting) = (self.clone(), container.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // From here on it is not to be cut off.
            let engine = engine.clone();
            tokio::spawn(async move { engine.start_again(&waiting).await });
        });
        container.live.lock().restart = Some(task.abort_handle());
    }

    async fn start_again(&self, container: &Arc<Container>) {
        let _turn = container.turn.lock().await;
        if !container.record().state.restarting || container.live.phase().removed {
            return;
        }
        self.change(container, |record| record.restart_count += 1).await;
        if let Err(error) = self.launch(container).await {
            tracing::warn!(container = container.id, error = error.message(), "cannot be started again");
        }
    }

    /// Asks for a container's health as its configuration says, as long as it runs.
    pub(crate) fn watch_health(&self, container: &Arc<Container>) {
        let Some(check) = HealthCheck::of(&container.record()) else { return };
        let (engine, watched) = (self.clone(), container.clone());
        let task = tokio::spawn(async move {
            engine
                .set_health(&watched, |health| {
                    health.status = Some(HealthStatusEnum::STARTING);
                    health.failing_streak = Some(0);
                    health.log = Some(Vec::new());
                })
                .await;
            let started = tokio::time::Instant::now();
            loop {
                let starting = started.elapsed() < check.start_period;
                let unproven = is_starting(&watched.record());
                tokio::time::sleep(if starting && unproven { check.start_interval } else { check.interval })
                    .await;
                if watched.record().state.paused {
                    continue;
                }
                let result = engine.check_health(&watched, &check).await;
                engine.note_health(&watched, &check, result, started.elapsed() < check.start_period).await;
            }
        });
        container.live.lock().health = Some(task.abort_handle());
    }

    async fn check_health(&self, container: &Arc<Container>, check: &HealthCheck) -> HealthcheckResult {
        let start = now();
        let answer =
            tokio::time::timeout(check.timeout, self.run_inside(container, &check.command, KEPT_BYTES)).await;
        let (code, output) = match answer {
            Ok(Ok((code, output))) => (code, String::from_utf8_lossy(&output).into_owned()),
            Ok(Err(error)) => (-1, error.message()),
            Err(_) => (-1, format!("Health check exceeded timeout ({:?})", check.timeout)),
        };
        HealthcheckResult {
            start: Some(start),
            end: Some(now()),
            exit_code: Some(code),
            output: Some(output),
        }
    }

    async fn note_health(
        &self,
        container: &Arc<Container>,
        check: &HealthCheck,
        result: HealthcheckResult,
        starting: bool,
    ) {
        let healthy = result.exit_code == Some(0);
        self.shared().meters.checked(healthy);
        let before = health_status(&container.record());
        self.set_health(container, |health| {
            let log = health.log.get_or_insert_default();
            log.push(result);
            log.drain(..log.len().saturating_sub(KEPT_RESULTS));
            if healthy {
                (health.status, health.failing_streak) = (Some(HealthStatusEnum::HEALTHY), Some(0));
                return;
            }
            if starting && health.status == Some(HealthStatusEnum::STARTING) {
                return;
            }
            let streak = health.failing_streak.unwrap_or_default() + 1;
            health.failing_streak = Some(streak);
            if streak >= check.retries {
                health.status = Some(HealthStatusEnum::UNHEALTHY);
            }
        })
        .await;
        let after = health_status(&container.record());
        if before != after
            && let Some(status) = after
        {
            self.shared().events.container(&format!("health_status: {status}"), &container.record(), &[]);
        }
    }

    async fn set_health(&self, container: &Arc<Container>, change: impl FnOnce(&mut Health)) {
        self.change(container, |record| change(record.state.health.get_or_insert_default())).await;
    }
}

fn health_status(record: &Record) -> Option<HealthStatusEnum> {
    record.state.health.as_ref().and_then(|health| health.status)
}

fn is_starting(record: &Record) -> bool {
    health_status(record) == Some(HealthStatusEnum::STARTING)
}

/// Whether a container that ended by itself is started again.
pub(crate) fn restarts(record: &Record, code: i32) -> bool {
    let policy = record.host.restart_policy.clone().unwrap_or_default();
    let tries = policy.maximum_retry_count.unwrap_or_default();
    match policy.name {
        Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED) => true,
        Some(RestartPolicyNameEnum::ON_FAILURE) => code != 0 && (tries <= 0 || record.restart_count < tries),
        _ => false,
    }
}

fn lived_s(record: &Record) -> i64 {
    let at = |text: &str| text.parse::<jiff::Timestamp>().ok();
    match (at(&record.state.started_at), at(&record.state.finished_at)) {
        (Some(start), Some(end)) => (end.as_second() - start.as_second()).max(0),
        _ => 0,
    }
}

/// How a container's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: i64,
}

impl HealthCheck {
    /// Of a container that has one.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let config = record.config.healthcheck.clone()?;
        let shell = record.config.shell.clone().filter(|shell| !shell.is_empty());
        Self::new(config, shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]))
    }

    fn new(config: HealthConfig, shell: Vec<String>) -> Option<Self> {
        let test = config.test?;
        let command = match test.split_first()? {
            (kind, rest) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
            (kind, rest) if kind == "CMD-SHELL" => [shell, rest.to_vec()].concat(),
            _ => return None,
        };
        let or = |nanos: Option<i64>, usual: Duration| match nanos.unwrap_or_default() {
            ..=0 => usual,
            nanos => Duration::from_nanos(nanos.unsigned_abs()),
        };
        Some(Self {
            command,
            interval: or(config.interval, INTERVAL),
            timeout: or(config.timeout, INTERVAL),
            start_period: or(config.start_period, Duration::ZERO),
            start_interval: or(config.start_interval, START_INTERVAL),
            retries: config.retries.filter(|retries| *retries > 0).unwrap_or(RETRIES),
        })
    }
}

impl Engine {
    /// Runs a program in a container to its end, and answers with its exit code and the beginning of what it wrote.
    /// Dropped, it kills the program.
    async fn run_inside(
        &self,
        container: &Arc<Container>,
        command: &[String],
        limit_bytes: usize,
    ) -> Result<(i64, Vec<u8>), EngineError> {
        let config = bollard_stubs::models::ExecConfig {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let mut running = self.run_exec(container, &config).await.map_err(|(_, error)| error)?;
        let mut output = Vec::new();
        if let Some(streams) = &mut running.exec.streams {
            while let Some(frame) = streams.output.recv().await {
                let bytes = frame?.bytes;
                let room = limit_bytes.saturating_sub(output.len()).min(bytes.len());
                output.extend_from_slice(&bytes[..room]);
            }
        }
        let exit = running.exec.exit().await;
        running.done = true;
        Ok((i64::from(exit.code), output))
    }
}
