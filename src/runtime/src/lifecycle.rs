//! What can be done with a container that is there.
//!
//! Each verb opens the container by its id, which locks it, and refuses what does not fit its status.
//!
//! Spec: OCI runtime-spec, `runtime.md` "Operations".

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use knarr_linux::process::{Namespace, Process};
use knarr_linux::terminal;

use crate::RuntimeError;
use crate::create::{apply_devices, apply_settings};
use crate::hooks::{self, Point};
use crate::plan::resources;
use crate::spec::{Resources, Spec};
use crate::state::{Container, Status};

/// How long a container may take to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets a container's program run. Comes back when it runs, with what hooks had to complain of after that.
pub fn start(container: &Container) -> Result<Vec<RuntimeError>, RuntimeError> {
    require(container, "start", &[Status::Created])?;
    let spec = container.spec_unless_plain()?;
    if spec.as_ref().is_some_and(|spec| spec.process.is_none()) {
        return Err(RuntimeError::invalid("process", "is missing, so there is nothing to start"));
    }
    let door = container.door();
    let knocked = terminal::connect(&door);
    let mut knock = knocked.map_err(|_| RuntimeError::Vanished)?;
    std::fs::remove_file(&door).map_err(RuntimeError::file("remove", &door))?;
    let mut answer = String::new();
    // The other side is closed by running the program; before that come only words of why it could not.
    knock.read_to_string(&mut answer).map_err(RuntimeError::step("hear from the first process"))?;
    if !answer.is_empty() {
        let (step, reason) = answer.split_once(": ").unwrap_or(("start", &answer));
        return Err(RuntimeError::Step { step: step.to_owned(), reason: reason.to_owned() });
    }
    Ok(run_hooks(container, spec, Point::Poststart, "running"))
}

/// Sends a signal to a container's first process, or to all of its processes.
pub fn kill(container: &Container, signal: i32, all: bool) -> Result<(), RuntimeError> {
    let status = container.status()?;
    if all && !container.state.cgroup().directories.is_empty() {
        let cgroup = container.state.cgroup();
        let sent = if signal == nix::libc::SIGKILL { cgroup.kill() } else { cgroup.signal(signal) };
        return Ok(sent?);
    }
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(wrong_status("kill", container, status));
    }
    let process = first_process(container)?;
    let sent = process.signal(signal);
    sent.map_err(RuntimeError::step(format!("send signal {signal} to {}", container.state.pid)))?;
    // Who stands still cannot even die.
    if status == Status::Paused && signal == nix::libc::SIGKILL {
        container.state.cgroup().thaw()?;
    }
    Ok(())
}

/// Takes a container away. With `force` its processes are ended before.
pub fn delete(container: &Container, force: bool) -> Result<Vec<RuntimeError>, RuntimeError> {
    let status = container.status()?;
    if status != Status::Stopped {
        if !force {
            return Err(wrong_status("delete", container, status));
        }
        end(container, status)?;
    }
    let cgroup = container.state.cgroup();
    if cgroup.directories.iter().any(|directory| directory.made.is_some()) {
        cgroup.kill()?;
        cgroup.remove()?;
    }
    let spec = container.spec_unless_plain();
    container.remove()?;
    Ok(spec.map_or_else(|error| vec![error], |spec| run_hooks(container, spec, Point::Poststop, "stopped")))
}

fn run_hooks(container: &Container, spec: Option<Spec>, point: Point, status: &str) -> Vec<RuntimeError> {
    spec.map_or_else(Vec::new, |spec| {
        hooks::run_all(&spec.hooks, point, &container.state.to_hook_json(status))
    })
}

fn end(container: &Container, status: Status) -> Result<(), RuntimeError> {
    if status == Status::Creating {
        // Its maker holds the lock while it lives, so it is dead.
        return Ok(());
    }
    let process = match first_process(container) {
        Err(RuntimeError::Vanished) => return Ok(()),
        other => other?,
    };
    match process.signal(nix::libc::SIGKILL) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
        other => other.map_err(RuntimeError::step("end the container"))?,
    }
    if status == Status::Paused {
        container.state.cgroup().thaw()?;
    }
    let ended = process.wait_end(Some(PATIENCE)).map_err(RuntimeError::step("wait for the container"))?;
    if ended {
        return Ok(());
    }
    Err(RuntimeError::Unkillable { id: container.state.id.clone(), seconds: PATIENCE.as_secs() })
}

/// The container's first process, and nobody who got its number later.
pub(crate) fn first_process(container: &Container) -> Result<Process, RuntimeError> {
    let process = Process::open(container.state.pid).map_err(|_| RuntimeError::Vanished)?;
    match container.status()? {
        Status::Stopped | Status::Creating => Err(RuntimeError::Vanished),
        _ => Ok(process),
    }
}

/// Lets all processes stand still.
pub fn pause(container: &Container) -> Result<(), RuntimeError> {
    require(container, "pause", &[Status::Running, Status::Created])?;
    Ok(container.state.cgroup().freeze()?)
}

/// Lets them go on.
pub fn resume(container: &Container) -> Result<(), RuntimeError> {
    require(container, "resume", &[Status::Paused])?;
    Ok(container.state.cgroup().thaw()?)
}

/// Changes limits of a container that is there.
pub fn update(container: &Container, resources: &Resources) -> Result<(), RuntimeError> {
    require(container, "update", &[Status::Running, Status::Created, Status::Paused])?;
    let cgroup = container.state.cgroup();
    let settings = resources::settings(resources, cgroup.unified)?;
    apply_settings(&cgroup, &settings)?;
    if resources.devices.is_empty() {
        return Ok(());
    }
    let rules = resources::devices(resources, false)?;
    apply_devices(&cgroup, &rules)
}

/// The numbers of all processes of a container.
pub fn processes(container: &Container) -> Result<Vec<i32>, RuntimeError> {
    let cgroup = container.state.cgroup();
    if !cgroup.directories.is_empty() {
        return Ok(cgroup.processes()?);
    }
    processes_of_namespace(container.state.pid)
}

/// Without a control group: those in the namespace of the first one.
fn processes_of_namespace(pid: i32) -> Result<Vec<i32>, RuntimeError> {
    let file = Namespace::Pid.file();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{file}"));
    let own = namespace(&pid.to_string()).map_err(|_| RuntimeError::Vanished)?;
    let entries = std::fs::read_dir("/proc").map_err(RuntimeError::file("list", "/proc"))?;
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let inside = names.filter(|name| namespace(name).is_ok_and(|other| other == own));
    Ok(inside.filter_map(|name| name.parse().ok()).collect())
}

fn require(container: &Container, verb: &'static str, wanted: &[Status]) -> Result<(), RuntimeError> {
    let status = container.status()?;
    if wanted.contains(&status) { Ok(()) } else { Err(wrong_status(verb, container, status)) }
}

fn wrong_status(verb: &'static str, container: &Container, status: Status) -> RuntimeError {
    RuntimeError::WrongStatus { verb, id: container.state.id.clone(), status: status.to_string() }
}

/// Takes away what a maker that was killed has left: a directory without a state.
pub fn delete_rest(root: &Path, id: &str) -> Result<bool, RuntimeError> {
    Container::check_id(id)?;
    let directory = root.join(id);
    match std::fs::remove_dir_all(&directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RuntimeError::file("remove", directory)(error)),
    }
}
