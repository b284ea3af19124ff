//! A program's streams on this terminal: bytes both ways, the terminal raw, its size told, signals passed on.
//!
//! [`relay`] is what `run`, `start -a`, `attach` and `exec` share.

use std::io::Write;
use std::os::fd::AsFd;

use knarr_linux::terminal::RawMode;
use rustix::termios::isatty;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{Client, Upgraded, query};

const PIECE_BYTES: usize = 32 << 10;

/// How the streams are shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Session {
    /// The program has a terminal.
    pub(crate) tty: bool,
    /// What is typed here goes to it.
    pub(crate) stdin: bool,
}

/// Relays until the program's output is at its end.
pub(crate) async fn relay(connection: Upgraded, session: Session) -> anyhow::Result<()> {
    let raw = session.tty && session.stdin && isatty(std::io::stdin());
    let stdin = std::io::stdin();
    let _raw = raw.then(|| RawMode::enter(stdin.as_fd())).transpose()?;
    let (reader, writer) = tokio::io::split(connection);
    let typing = session.stdin.then(|| tokio::spawn(type_in(writer)));
    let shown = if session.tty { show_raw(reader).await } else { show_frames(reader).await };
    if let Some(typing) = typing {
        typing.abort();
    }
    shown
}

/// Standard input is read by a thread of its own: a terminal cannot be polled by all kernels alike, and nobody waits for it at
/// the end.
async fn type_in(mut writer: impl tokio::io::AsyncWrite + Unpin) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count) = std::io::Read::read(&mut stdin, &mut buffer) {
            if count == 0 || sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(bytes) = receiver.recv().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    // The program may have ended before.
    let _ = writer.shutdown().await;
}

pub(crate) async fn show_raw(mut reader: impl AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = read_some(&mut reader, &mut buffer).await?;
        if count == 0 || !put(false, &buffer[..count])? {
            return Ok(());
        }
    }
}

/// Without a terminal each piece says of which stream it is.
pub(crate) async fn show_frames(mut reader: impl AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut head = [0; 8];
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match reader.read_exact(&mut head).await {
            Err(error) if is_end(&error) => return Ok(()),
            other => drop(other?),
        }
        let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        while left > 0 {
            let most = left.min(buffer.len());
            let count = read_some(&mut reader, &mut buffer[..most]).await?;
            if count == 0 || !put(head[0] == 2, &buffer[..count])? {
                return Ok(());
            }
            left -= count;
        }
    }
}

/// What the other side did not read when it closed makes a reset of its end.
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset)
}

async fn read_some(reader: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> std::io::Result<usize> {
    match reader.read(buffer).await {
        Err(error) if is_end(&error) => Ok(0),
        other => other,
    }
}

/// Whether there is still somebody who reads.
fn put(errors: bool, bytes: &[u8]) -> anyhow::Result<bool> {
    let written = if errors {
        let mut out = std::io::stderr().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// This terminal's size: columns, lines.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Tells the daemon of this terminal's size, now and whenever it changes. `path` is that of the container or the exec.
pub(crate) async fn follow_size(client: &Client, path: &str) -> anyhow::Result<()> {
    let mut changes = signal(SignalKind::window_change())?;
    loop {
        if let Some((width, height)) = size() {
            let query = query(&[("h", Some(height.to_string())), ("w", Some(width.to_string()))]);
            // It may have ended by now.
            let _ = client.post(&format!("{path}/resize{query}"), None).await;
        }
        if changes.recv().await.is_none() {
            return Ok(());
        }
    }
}

/// Passes signals on to a container.
pub(crate) async fn pass_signals(client: &Client, id: &str) -> anyhow::Result<()> {
    let mut kinds = [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ]
    .map(|(kind, name)| signal(kind).map(|stream| (stream, name)))
    .into_iter()
    .collect::<std::io::Result<Vec<_>>>()?;
    loop {
        let received = futures_util::future::select_all(kinds.iter_mut().map(|(stream, name)| {
            Box::pin(async move {
                stream.recv().await;
                *name
            })
        }));
        let (name, ..) = received.await;
        // It may have ended by now.
        let _ = client.post(&format!("/containers/{id}/kill?signal={name}"), None).await;
    }
}
