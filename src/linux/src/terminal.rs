//! Terminals: a pair of which one side is a container's, and descriptors handed over sockets.
//!
//! [`Terminal::open`] makes a pair; [`send_descriptor`] gives the master to whoever listens on the console socket.
//!
//! Spec: pty(7), unix(7) `SCM_RIGHTS`, ioctl_tty(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// The magic number of a devpts file system.
const DEVPTS: i64 = 0x1cd1;

/// Both sides of a new terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What the one who types holds.
    pub master: OwnedFd,
    /// What programs see as their terminal.
    pub slave: OwnedFd,
    /// The slave's path.
    pub name: String,
}

impl Terminal {
    /// Makes a pair in the devpts that is mounted on `dev/pts` of a root, or on this process's own when there is none.
    pub fn open(root: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let own = || openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let master = match root.and_then(|root| open_in(root).ok()) {
            Some(master) => master,
            None => own()?,
        };
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        Ok(Self { master, slave, name })
    }

    /// Sets how many characters fit.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        resize(self.master.as_fd(), columns, rows)
    }
}

fn open_in(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat2(root, "dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    if fstatfs(&master)?.f_type as i64 != DEVPTS {
        return Err(io::Error::other("dev/pts/ptmx is no terminal"));
    }
    Ok(master)
}

/// Sets how many characters fit on the terminal behind a descriptor.
pub fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// Gives the terminal behind `from` the size of the one behind `like`.
pub fn copy_size(like: BorrowedFd<'_>, from: BorrowedFd<'_>) -> io::Result<()> {
    Ok(tcsetwinsize(from, rustix::termios::tcgetwinsize(like)?)?)
}

/// The terminal becomes the one that controls this process, which must lead a session.
pub fn take_control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// A terminal that passes every byte on, until this is dropped.
#[derive(Debug)]
pub struct RawMode<'t> {
    terminal: BorrowedFd<'t>,
    before: Termios,
}

impl<'t> RawMode<'t> {
    /// Makes the terminal raw.
    pub fn enter(terminal: BorrowedFd<'t>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // The terminal may be gone by now; then nobody types on it.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Connects to the socket at `path`, however long its path is.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(short(path)?.1)
}

/// Paths of sockets are short; this is another one to the same place, through the directory's descriptor.
pub(crate) fn short(path: &Path) -> io::Result<(Option<OwnedFd>, std::path::PathBuf)> {
    const LONGEST: usize = 100;
    if path.as_os_str().len() <= LONGEST {
        return Ok((None, path.to_owned()));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let path = Path::new("/proc/self/fd").join(number.to_string()).join(name);
    Ok((Some(directory), path))
}

/// Listens on a new socket at `path`, however long its path is.
pub fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let (_directory, path) = short(path)?;
    std::os::unix::net::UnixListener::bind(path)
}

/// Sends a message with a descriptor.
pub fn send_descriptor(socket: BorrowedFd<'_>, message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one descriptor that was sent with a message.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let first = descriptors.next().and_then(|mut descriptors| descriptors.next());
    first.ok_or_else(|| io::Error::other("the other side sent no descriptor"))
}
