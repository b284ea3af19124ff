//! What the caller and the container's first process tell each other while the container is made.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::RuntimeError;

/// One side of the conversation. Each message arrives whole.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// From inside: the user namespace is there, its ids are missing.
    MapIds,
    /// From outside: they are there.
    IdsMapped,
    /// From the process in between: the first process has this number.
    Born(i32),
    /// From outside: the process has this number there.
    Known(i32),
    /// From inside: hooks may run.
    RunHooks,
    /// From outside: they ran well.
    HooksRan,
    /// From inside: the program can start.
    Ready,
    /// From inside: it cannot, because of this step, for this reason.
    Failed(String, String),
}

const MAX_MESSAGE_BYTES: usize = 16 << 10;

impl Channel {
    /// Both sides.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Says something. Nobody who listens is an error.
    pub(crate) fn say(&self, message: &Message) -> io::Result<()> {
        let bytes = message.encode();
        send(&self.0, &bytes[..bytes.len().min(MAX_MESSAGE_BYTES)], SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Hears the next message; none when the other side is gone.
    pub(crate) fn hear(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let (length, _) = loop {
            match recv(&self.0, bytes.as_mut_slice(), RecvFlags::empty()) {
                // The other side ended without hearing us out; what it said before is still there, behind this one error.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                other => break other?,
            }
        };
        if length == 0 {
            return Ok(None);
        }
        Message::decode(&bytes[..length])
            .map(Some)
            .ok_or_else(|| io::Error::other("a message makes no sense"))
    }

    /// Tells the other side why nothing more will come.
    pub(crate) fn say_failed(&self, error: &RuntimeError) {
        let (step, reason) = match error {
            RuntimeError::Step { step, reason } => (step.clone(), reason.clone()),
            other => ("prepare the container".to_owned(), crate::chain(other)),
        };
        // When nobody listens any more, nobody wants to know.
        let _ = self.say(&Message::Failed(step, reason));
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::MapIds => b"m".to_vec(),
            Self::IdsMapped => b"M".to_vec(),
            Self::Born(pid) => format!("b{pid}").into_bytes(),
            Self::Known(pid) => format!("c{pid}").into_bytes(),
            Self::RunHooks => b"h".to_vec(),
            Self::HooksRan => b"H".to_vec(),
            Self::Ready => b"r".to_vec(),
            Self::Failed(step, reason) => format!("f{step}\0{reason}").into_bytes(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let text = String::from_utf8_lossy(rest);
        Some(match kind {
            b'm' => Self::MapIds,
            b'M' => Self::IdsMapped,
            b'b' => Self::Born(text.parse().ok()?),
            b'c' => Self::Known(text.parse().ok()?),
            b'h' => Self::RunHooks,
            b'H' => Self::HooksRan,
            b'r' => Self::Ready,
            b'f' => {
                let (step, reason) = text.split_once('\0')?;
                Self::Failed(step.to_owned(), reason.to_owned())
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, Message};

    #[test]
    fn last_words_are_heard_even_of_one_who_did_not_listen() {
        let (one, other) = Channel::pair().unwrap();
        one.say(&Message::Known(7)).unwrap();
        other.say(&Message::Failed("step".into(), "reason".into())).unwrap();
        drop(other);
        assert_eq!(one.hear().unwrap(), Some(Message::Failed("step".into(), "reason".into())));
        assert_eq!(one.hear().unwrap(), None);
    }

    #[test]
    fn every_message_arrives_as_it_was_said() {
        let (one, other) = Channel::pair().unwrap();
        let failed = Message::Failed("mount proc on /proc".into(), "not permitted".into());
        let messages = [
            Message::MapIds,
            Message::IdsMapped,
            Message::Born(7),
            Message::Known(8),
            Message::RunHooks,
            Message::HooksRan,
            Message::Ready,
            failed,
        ];
        for message in messages {
            one.say(&message).unwrap();
            assert_eq!(other.hear().unwrap(), Some(message));
        }
        drop(one);
        assert_eq!(other.hear().unwrap(), None);
    }
}
