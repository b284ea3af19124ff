//! Hooks: programs of others that are told the container's state on their standard input.
//!
//! Spec: OCI runtime-spec, `config.md` "POSIX-platform Hooks".

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use knarr_linux::process::Process;

use crate::RuntimeError;
use crate::spec::{Hook, Hooks};

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Point {
    const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn of(self, hooks: &Hooks) -> &[Hook] {
        match self {
            Self::Prestart => &hooks.prestart,
            Self::CreateRuntime => &hooks.create_runtime,
            Self::CreateContainer => &hooks.create_container,
            Self::StartContainer => &hooks.start_container,
            Self::Poststart => &hooks.poststart,
            Self::Poststop => &hooks.poststop,
        }
    }
}

/// Runs the hooks of a point, one after another, until one fails.
pub(crate) fn run(hooks: &Hooks, point: Point, state: &str) -> Result<(), RuntimeError> {
    point.of(hooks).iter().try_for_each(|hook| run_one(hook, point, state))
}

/// Runs all hooks of a point, even when some fail. Comes back with what went wrong.
pub(crate) fn run_all(hooks: &Hooks, point: Point, state: &str) -> Vec<RuntimeError> {
    point.of(hooks).iter().filter_map(|hook| run_one(hook, point, state).err()).collect()
}

fn run_one(hook: &Hook, point: Point, state: &str) -> Result<(), RuntimeError> {
    let fail = |reason: String| RuntimeError::Hook { point: point.name(), path: hook.path.clone(), reason };
    let mut child = command(hook, point).spawn().map_err(|error| fail(format!("cannot be run: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read what it is told.
        let _ = stdin.write_all(state.as_bytes());
    }
    let ended =
        wait(&mut child, hook.timeout).map_err(|error| fail(format!("cannot be waited for: {error}")))?;
    let Some((status, output)) = ended else {
        let seconds = hook.timeout.unwrap_or_default();
        return Err(fail(format!("ran longer than {seconds} s and was ended")));
    };
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (_, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    };
    let text = String::from_utf8_lossy(&output).trim().to_owned();
    Err(fail(if text.is_empty() { how } else { format!("{how}: {text}") }))
}

/// Without an environment of its own a hook has the caller's, as people came to count on; inside the container it has
/// none of that.
fn command(hook: &Hook, point: Point) -> Command {
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let is_inside = matches!(point, Point::CreateContainer | Point::StartContainer);
    if is_inside || !hook.env.is_empty() {
        command.env_clear();
    }
    for entry in &hook.env {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Waits for the end, and for the last of what it says; none when the time was over.
fn wait(child: &mut Child, timeout: Option<u64>) -> io::Result<Option<(std::process::ExitStatus, Vec<u8>)>> {
    const MOST_OUTPUT: usize = 4096;
    let end =
        timeout.filter(|seconds| *seconds > 0).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let process = Process::open(child.id() as i32)?;
    let mut output = Vec::new();
    let mut errors = child.stderr.take();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        let (readable, ended) = wait_for(errors.as_ref(), &process, left)?;
        if readable && read_some(&mut errors, &mut output, MOST_OUTPUT)? {
            continue;
        }
        if ended {
            return Ok(Some((child.wait()?, output)));
        }
    }
}

fn wait_for(
    errors: Option<&std::process::ChildStderr>,
    process: &Process,
    timeout: Option<Duration>,
) -> io::Result<(bool, bool)> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = timeout.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    let mut polled = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    polled.extend(errors.map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN)));
    match poll(&mut polled, timeout) {
        Err(nix::errno::Errno::EINTR) => return Ok((false, false)),
        other => other?,
    };
    let is_ready =
        |index: usize| polled.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
    Ok((is_ready(1), is_ready(0)))
}

/// Reads what is there; false when there will be no more.
fn read_some(
    errors: &mut Option<std::process::ChildStderr>,
    output: &mut Vec<u8>,
    most: usize,
) -> io::Result<bool> {
    let mut bytes = [0; 1024];
    let length = errors.as_mut().map_or(Ok(0), |errors| errors.read(&mut bytes))?;
    if length == 0 {
        *errors = None;
        return Ok(false);
    }
    output.extend(&bytes[..length]);
    let surplus = output.len().saturating_sub(most);
    output.drain(..surplus);
    Ok(true)
}
