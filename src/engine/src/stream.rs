//! Streams of bytes and documents between blocking workers and asynchronous clients.
//!
//! All channels are bounded: a client that does not read holds its producer, and nobody else.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::EngineError;

/// Bytes that come piece by piece.
pub type ByteStream = mpsc::Receiver<Result<Bytes, EngineError>>;
/// JSON documents that come one by one: progress of pulls, events, statistics.
pub type ValueStream = mpsc::Receiver<Result<Value, EngineError>>;
/// What a program writes, piece by piece.
pub type FrameStream = mpsc::Receiver<Result<Frame, EngineError>>;

/// Pieces that wait in a channel.
pub const DEPTH: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// Which of a program's streams: the number is that of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stdio {
    /// 0
    In = 0,
    /// 1
    Out = 1,
    /// 2
    Err = 2,
}

/// A piece of what a program wrote, or a line of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// On which stream; a terminal has only [`Stdio::Out`].
    pub stream: Stdio,
    /// What.
    pub bytes: Bytes,
}

/// A connection to a program's streams.
#[derive(Debug)]
pub struct Attached {
    /// Whether the program has a terminal: then frames go to the client unframed.
    pub tty: bool,
    /// What it writes; the end is the program's, or its streams'.
    pub output: FrameStream,
    /// What it reads; dropped, it is at the end of its input. `None` when input was not asked for.
    pub input: Option<mpsc::Sender<Bytes>>,
}

/// Runs blocking work that writes, and answers with what it writes.
pub fn produce(
    work: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), EngineError> + Send + 'static,
) -> ByteStream {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut writer = ChannelWriter { sender: sender.clone(), held: Vec::with_capacity(PIECE_BYTES) };
        let outcome = work(&mut writer).and_then(|()| {
            writer.flush().map_err(|source| EngineError::failed(format!("cannot write: {source}")))
        });
        if let Err(error) = outcome {
            // Nobody listens any more when this fails.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

struct ChannelWriter {
    sender: mpsc::Sender<Result<Bytes, EngineError>>,
    held: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if self.held.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.held, Vec::with_capacity(PIECE_BYTES)));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A stream as blocking workers read it; only for threads that may block.
#[derive(Debug)]
pub struct StreamReader {
    stream: ByteStream,
    held: Bytes,
}

impl StreamReader {
    /// Reads a stream.
    #[must_use]
    pub const fn new(stream: ByteStream) -> Self {
        Self { stream, held: Bytes::new() }
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.stream.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.held = piece,
                Some(Err(error)) => return Err(io::Error::other(error.message())),
            }
        }
        let length = buffer.len().min(self.held.len());
        buffer[..length].copy_from_slice(&self.held.split_to(length));
        Ok(length)
    }
}
