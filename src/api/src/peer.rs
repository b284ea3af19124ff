//! Clients of unix sockets that go away while nothing is sent to them.
//!
//! A client may close its sending half and still listen, so the end of what it sends says nothing. [`Peer`] knows whether
//! the other half is closed, too: an answer that goes on for long, and has nothing to say now, ends by that.
//!
//! Spec: poll(2), `POLLHUP`.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// So often who has nothing to say looks whether the client is there.
const LOOK: Duration = Duration::from_secs(1);
/// A client has so long to read the head of an answer.
const HEAD_PATIENCE: Duration = Duration::from_secs(1);
/// So often it is looked whether it has.
const GLANCE: Duration = Duration::from_millis(1);

/// A connection that can be asked whether its client is there. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<UnixStream>);

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Whether the client has closed both halves.
    pub(crate) fn has_left(&self) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let hung_up = |flags: PollFlags| flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].revents().is_some_and(hung_up)
    }

    /// Whether the client has yet to read something; never when the kernel does not tell.
    fn has_unread(&self) -> bool {
        knarr_linux::socket::has_unread(self.0.as_fd()).unwrap_or(false)
    }
}

/// Comes back when the client has left; never when that cannot be told.
pub(crate) async fn left(peer: Option<Peer>) {
    let Some(peer) = peer else { return std::future::pending().await };
    while !peer.has_left() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the client has read all that was written, for as long as that may take. What comes then must not come in one
/// piece with the head of the answer: there are clients that read that by other means, and would lose it.
pub(crate) async fn has_read(peer: Option<&Peer>) {
    let Some(peer) = peer else { return };
    let begun = tokio::time::Instant::now();
    while peer.has_unread() && begun.elapsed() < HEAD_PATIENCE {
        tokio::time::sleep(GLANCE).await;
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Peer, has_read};

    #[tokio::test]
    async fn who_only_stops_sending_is_still_there() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut peer = Peer::new(tokio::net::UnixStream::from_std(ours).unwrap());
        assert!(!peer.has_left());
        std::io::Write::write_all(&mut &theirs, b"asked").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), peer.has_left()), ("asked", false));
        peer.write_all(b"told").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut &theirs, &mut text).unwrap();
        assert_eq!(text, "told");
        drop(theirs);
        assert!(peer.has_left());
    }

    #[tokio::test]
    async fn what_was_written_is_waited_for_until_it_is_read() {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours);
        peer.write_all(b"head").await.unwrap();
        let waiting = tokio::spawn(async move { has_read(Some(&peer)).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        waiting.await.unwrap();
    }
}
