//! The launcher: a small process with one thread that forks shims.
//!
//! A daemon has many threads and must not fork; starting this large program anew for each container takes longer than
//! the container itself. So the daemon starts it once, as [`NAME`], and sends it one end of a socket for each shim.
//! The launcher ends when the daemon's side of its own socket is closed; the shims stay.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use knarr_linux::process::{self, Cloned};
use knarr_linux::seal::{SEALED_NAME, start_again_read_only};
use knarr_linux::terminal::receive_descriptor;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::serve;

/// The program's name when it is to be a launcher; its standard input is the socket.
pub const NAME: &str = "knarr-launcher";

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
        Ok(Some(connection)) => serve::run(connection),
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
fn launch() -> io::Result<Option<UnixStream>> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    process::duplicate_to(null.as_fd(), 0)?;
    process::duplicate_to(null.as_fd(), 1)?;
    loop {
        let connection = match receive_descriptor(socket.as_fd()) {
            Ok(connection) => connection,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A message without a descriptor is the end: there are no others.
            Err(error) if error.kind() == io::ErrorKind::Other => return Ok(None),
            Err(error) => return Err(error),
        };
        match process::clone(0, false, None)? {
            Cloned::Child => return Ok(Some(UnixStream::from(connection))),
            Cloned::Parent(_) => reap(),
        }
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
