//! What the kernel tells of a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use crate::process::check;

/// Whether the other side of a unix socket has yet to read something that was written here.
pub fn has_unread(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut left: libc::c_int = 0;
    // SAFETY: the kernel writes one number there.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) }))?;
    Ok(left > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::has_unread;

    #[test]
    fn what_was_read_is_no_longer_there() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        assert!(!has_unread(one.as_fd()).unwrap());
        one.write_all(b"ab").unwrap();
        other.read_exact(&mut [0]).unwrap();
        assert!(has_unread(one.as_fd()).unwrap());
        other.read_exact(&mut [0]).unwrap();
        assert!(!has_unread(one.as_fd()).unwrap());
    }
}
