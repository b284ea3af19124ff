//! Connections that become a program's streams.
//!
//! A client that asks for an upgrade gets the connection; one that does not gets the output as a body. Without a terminal the
//! output is framed: one byte for the stream, three of zero, four for the length, big-endian.
//!
//! Spec: Docker Engine API, "Attach to a container".

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use knarr_engine::stream::{Attached, Frame, FrameStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::peer::{self, Peer};
use crate::version::Version;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
const READ_BYTES: usize = 32 << 10;
/// A client has so long to close its side when all is over.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

/// Gives a client the streams.
pub(crate) async fn hijack(request: Request<Body>, attached: Attached, version: Version) -> Response {
    let tty = attached.tty;
    hijack_then(request, tty, version, std::future::ready(Some(attached))).await
}

/// Gives a client the connection, and then the streams of what is started only then.
pub(crate) async fn hijack_then(
    mut request: Request<Body>,
    tty: bool,
    version: Version,
    start: impl Future<Output = Option<Attached>> + Send + 'static,
) -> Response {
    let kind = content_type(tty, version);
    if !wants_upgrade(request.headers()) {
        return match start.await {
            Some(attached) => plain(attached, kind, request.into_body()),
            None => ([(header::CONTENT_TYPE, kind)], Body::empty()).into_response(),
        };
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let peer = request.extensions().get::<Peer>().cloned();
    tokio::spawn(async move {
        let connection = match upgrade.await {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "a client left before its connection was its own"),
        };
        if let Some(attached) = start.await {
            peer::has_read(peer.as_ref()).await;
            let (reader, writer) = tokio::io::split(TokioIo::new(connection));
            relay(attached, reader, writer, peer::left(peer)).await;
        }
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp"), (header::CONTENT_TYPE, kind)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

const fn content_type(tty: bool, version: Version) -> &'static str {
    if tty || version.0 < 42 { RAW } else { MULTIPLEXED }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"tcp"))
}

/// The output as a body; the request's body is the input.
fn plain(attached: Attached, kind: &'static str, body: Body) -> Response {
    let Attached { tty, output, input } = attached;
    if let Some(input) = input {
        tokio::spawn(async move {
            let mut pieces = body.into_data_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                if input.send(piece).await.is_err() {
                    return;
                }
            }
        });
    }
    // Some clients read until the connection ends, as docker's engine ends it.
    ([(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")], frames(output, tty)).into_response()
}

/// Output as a body.
pub(crate) fn frames(output: FrameStream, tty: bool) -> Body {
    let stream = futures_util::stream::unfold(output, move |mut output| async move {
        let frame = output.recv().await?.map_err(|error| std::io::Error::other(error.message()));
        Some((frame.map(|frame| encode(&frame, tty)), output))
    });
    Body::from_stream(stream)
}

/// The head of an answer with output as its body.
pub(crate) const fn kind_of(tty: bool, version: Version) -> &'static str {
    content_type(tty, version)
}

fn encode(frame: &Frame, tty: bool) -> Bytes {
    if tty {
        return frame.bytes.clone();
    }
    let mut bytes = Vec::with_capacity(8 + frame.bytes.len());
    bytes.extend_from_slice(&head(frame));
    bytes.extend_from_slice(&frame.bytes);
    bytes.into()
}

fn head(frame: &Frame) -> [u8; 8] {
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [frame.stream as u8, 0, 0, 0, length[0], length[1], length[2], length[3]]
}

/// Both ways, until the output is at its end or the client has left. The end of the client's side is the end of the input only.
async fn relay(
    attached: Attached,
    reader: impl AsyncRead + Unpin + Send + 'static,
    mut writer: impl AsyncWrite + Unpin,
    left: impl Future<Output = ()>,
) {
    let Attached { tty, mut output, input } = attached;
    let mut typing = tokio::spawn(take_input(reader, input));
    tokio::pin!(left);
    loop {
        let frame = tokio::select! {
            biased;
            frame = output.recv() => frame,
            () = &mut left => break,
        };
        let Some(Ok(frame)) = frame else { break };
        let sent = async {
            writer.write_all(&encode(&frame, tty)).await?;
            writer.flush().await
        };
        if sent.await.is_err() {
            break;
        }
    }
    // The client may have closed it before.
    let _ = writer.shutdown().await;
    // A connection that is closed with something unread in it is reset: the client would see that instead of the end.
    if tokio::time::timeout(FAREWELL, &mut typing).await.is_err() {
        typing.abort();
    }
}

/// Reads to the end, also what nobody takes any more.
async fn take_input(mut reader: impl AsyncRead + Unpin, mut input: Option<mpsc::Sender<Bytes>>) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count) = reader.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if let Some(open) = &input
            && open.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err()
        {
            input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use knarr_engine::stream::{Attached, Frame, Stdio};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::relay;

    #[tokio::test]
    async fn the_end_of_the_input_leaves_the_output_open() {
        let (output, frames) = mpsc::channel(4);
        let (typed, mut input) = mpsc::channel(4);
        let (client, server) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        let attached = Attached { tty: false, output: frames, input: Some(typed) };
        let relayed = tokio::spawn(relay(attached, reader, writer, std::future::pending()));
        let (mut from, mut to) = tokio::io::split(client);
        to.write_all(b"in").await.unwrap();
        to.shutdown().await.unwrap();
        assert_eq!(input.recv().await.unwrap(), "in");
        assert!(input.recv().await.is_none());
        output.send(Ok(Frame { stream: Stdio::Err, bytes: "out".into() })).await.unwrap();
        drop(output);
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\x02\0\0\0\0\0\0\x03out");
        relayed.await.unwrap();
    }
}
