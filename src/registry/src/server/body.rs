//! Bodies: what a reply consists of, and how it reaches the client without being held in memory.
//!
//! [`Content`] is read from its file block by block as the client takes it; [`Watched`] counts what was sent
//! and tells the log at the end, however the request ends.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::log::Line;

/// An answer.
pub(crate) type Reply = Response<Content>;

/// What an answer consists of.
#[derive(Debug, Default)]
pub(crate) enum Content {
    #[default]
    Empty,
    Whole(Bytes),
    File(FileContent),
    /// Only its length is told: the answer to HEAD.
    Length(u64),
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Whole(Bytes::from(text))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(Bytes::from(bytes))
    }
}

/// A file's next bytes, read one block ahead of the client.
#[derive(Debug)]
pub(crate) struct FileContent {
    remaining: u64,
    reading: JoinHandle<(File, io::Result<Bytes>)>,
}

/// Large enough to make the hop between threads cheap, small enough for hundreds of clients.
const BLOCK_BYTES: u64 = 256 << 10;

impl FileContent {
    /// The next `length` bytes of a file. Must be called within the runtime.
    pub(crate) fn new(file: File, length: u64) -> Self {
        Self { remaining: length, reading: read(file, length) }
    }
}

fn read(mut file: File, remaining: u64) -> JoinHandle<(File, io::Result<Bytes>)> {
    tokio::task::spawn_blocking(move || {
        let wanted = remaining.min(BLOCK_BYTES);
        let mut block = Vec::with_capacity(wanted as usize);
        let outcome = match (&mut file).take(wanted).read_to_end(&mut block) {
            Ok(_) if (block.len() as u64) < wanted => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Bytes::from(block)),
            Err(error) => Err(error),
        };
        (file, outcome)
    })
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this {
            Self::Empty | Self::Length(_) => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::File(content) if content.remaining == 0 => Poll::Ready(None),
            Self::File(content) => {
                let (file, block) = ready!(Pin::new(&mut content.reading).poll(context))
                    .map_err(|_| io::Error::other("a task died"))?;
                let block = block?;
                content.remaining -= block.len() as u64;
                if content.remaining > 0 {
                    content.reading = read(file, content.remaining);
                }
                Poll::Ready(Some(Ok(Frame::data(block))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Length(_) => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::File(content) => content.remaining == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::File(content) => content.remaining,
            Self::Length(length) => *length,
        })
    }
}

/// A body whose bytes are counted for the log.
pub(crate) struct Watched {
    pub content: Content,
    /// Writes itself when it is dropped.
    pub line: Line,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.content).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.line.access.sent_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
