//! The launcher: a small process with one thread that forks shims.
//!
//! A daemon has many threads and must not fork; starting this large program anew for each container takes longer than
//! the container itself. So the daemon starts it once, as [`NAME`], and sends it one end of a socket for each shim.
//! The launcher ends when the daemon's side of its own socket is closed; the shims stay.
//!
//! One shim is always there before it is asked for: it takes what comes over the launcher's socket itself, and the launcher
//! makes the next one when nobody waits for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use knarr_linux::process::{self, Cloned};
use knarr_linux::seal::{SEALED_NAME, start_again_read_only};
use knarr_linux::terminal::receive_descriptor;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::serve;

/// The program's name when it is to be a launcher; its standard input is the socket.
pub const NAME: &str = "knarr-launcher";

/// So long nothing may have come before the next shim is made.
const LEISURE_MS: u16 = 8;

/// A shim's first connection, and the signals that it hears.
type Ready = (UnixStream, SignalFd);

/// Must be called early in `main`: when this program was started to be a launcher, this does not return.
pub fn init_if_requested() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let first = arguments.next().unwrap_or_default();
    if name == NAME {
        // Containers must not get a handle on our file that can be written to. (CVE-2019-5736)
        if let Err(error) = start_again_read_only(&[NAME.to_owned()]) {
            fail("start again from a read-only mount", &error);
        }
        launch_for_ever();
    }
    if name == SEALED_NAME && first == NAME {
        launch_for_ever();
    }
}

fn launch_for_ever() -> ! {
    match launch() {
        Ok(Some((connection, signals))) => serve::run(connection, signals),
        Ok(None) => process::end_now(0),
        Err(error) => fail("serve", &error),
    }
}

/// Standard error is the daemon's.
fn fail(doing: &str, error: &io::Error) -> ! {
    use std::io::Write;
    // There is nobody else to tell.
    let _ = writeln!(io::stderr(), "knarr-launcher: cannot {doing}: {error}");
    process::end_now(1)
}

/// Forks shims until the daemon is gone; in a shim, this comes back with its first connection.
fn launch() -> io::Result<Option<Ready>> {
    // What the daemon's starter had open is not for shims to keep: locks and pipes would outlive it.
    process::close_from(3)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    process::duplicate_to(null.as_fd(), 0)?;
    process::duplicate_to(null.as_fd(), 1)?;
    drop(null);
    serve::rehearse();
    let mut hurries = false;
    loop {
        // While it is open, the next shim waits.
        let (waits, waiting) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match process::clone(0, false, None)? {
            Cloned::Child => {
                drop(waits);
                return wait_for_work(&socket, &waiting, hurries);
            }
            Cloned::Parent(_) => drop(waiting),
        }
        if is_last_word(waits)? {
            return Ok(None);
        }
        reap();
        hurries = is_asked_again(socket.as_fd())?;
    }
}

/// In the shim: gets ready, and waits until it is needed.
fn wait_for_work(socket: &OwnedFd, waiting: &OwnedFd, hurries: bool) -> io::Result<Option<Ready>> {
    let signals = serve::get_ready()?;
    if !hurries {
        serve::own_pages();
    }
    loop {
        match receive_descriptor(socket.as_fd()) {
            Ok(connection) => return Ok(Some((UnixStream::from(connection), signals))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A message without a descriptor is the end: there are no others.
            Err(error) if error.kind() == io::ErrorKind::Other => {
                rustix::io::write(waiting, b"x")?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Comes back when the shim waits no more: with `true` when nothing will ever come.
fn is_last_word(waits: OwnedFd) -> io::Result<bool> {
    let mut word = [0];
    let read = io::Read::read(&mut std::fs::File::from(waits), &mut word)?;
    Ok(read > 0)
}

/// Whoever makes a container needs the processors more than the one who comes next, unless he is here already: then this
/// comes back at once, with `true`.
fn is_asked_again(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::POLLIN)];
    match poll(&mut polled, LEISURE_MS) {
        Ok(asked) => Ok(asked > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes note of shims that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
