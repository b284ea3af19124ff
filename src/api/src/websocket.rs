//! Attached streams over a websocket, for clients that can open nothing else.
//!
//! What the program writes, on either stream, goes out as binary messages; what the client sends in messages is the program's
//! input, wherever its messages begin and end.
//!
//! Spec: RFC 6455; Docker Engine API, "Attach to a container via a websocket".

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use knarr_engine::stream::Attached;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::error::{Answer, ApiError};

/// What the standard has clients' keys joined to.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// No message of a client is larger.
const MAX_BYTES: u64 = 1 << 20;
/// Answers that wait to be written.
const DEPTH: usize = 4;
/// A client has so long to close its side.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a side closes.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_LARGE: u16 = 1009;

/// Looks whether a request is one for a websocket; answers with what proves that it was understood.
pub(crate) fn accept_key(headers: &HeaderMap) -> Result<String, ApiError> {
    let has = |name: header::HeaderName, word: &str| {
        let text = headers.get(name).and_then(|text| text.to_str().ok()).unwrap_or_default();
        text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    match key {
        Some(key) if has(header::UPGRADE, "websocket") && has(header::SEC_WEBSOCKET_VERSION, "13") => {
            let joined = format!("{key}{GUID}");
            let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes());
            Ok(STANDARD.encode(digest))
        }
        _ => Err(ApiError::invalid("this path is for websockets of version 13: ask for an upgrade to one")),
    }
}

/// Gives a client the streams. `accept` is of [`accept_key`].
pub(crate) fn hijack(mut request: Request<Body>, accept: String, attached: Attached) -> Answer {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                let (reader, writer) = tokio::io::split(TokioIo::new(connection));
                relay(attached, reader, writer).await;
            }
            Err(error) => tracing::debug!(%error, "a client left before its connection was its own"),
        }
    });
    Ok(switching(accept))
}

fn switching(accept: String) -> Response {
    let headers = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// What the reading side has the writing side say.
enum Said {
    Pong(Bytes),
    Close(u16),
}

/// Both ways, until the output is at its end or the client leaves.
async fn relay(
    attached: Attached,
    reader: impl AsyncRead + Unpin + Send + 'static,
    mut writer: impl AsyncWrite + Unpin,
) {
    let Attached { mut output, input, .. } = attached;
    let (say, mut said) = mpsc::channel(DEPTH);
    let mut reading = tokio::spawn(listen(reader, input, say));
    let code = loop {
        let sent = tokio::select! {
            frame = output.recv() => match frame {
                Some(Ok(frame)) => send(&mut writer, BINARY, &frame.bytes).await,
                _ => break NORMAL,
            },
            said = said.recv() => match said {
                Some(Said::Pong(bytes)) => send(&mut writer, PONG, &bytes).await,
                Some(Said::Close(code)) => break code,
                None => break NORMAL,
            },
        };
        if sent.is_err() {
            return reading.abort();
        }
    };
    // The client may be gone already.
    let _ = send(&mut writer, CLOSE, &code.to_be_bytes()).await;
    let _ = writer.shutdown().await;
    drop(said);
    if tokio::time::timeout(FAREWELL, &mut reading).await.is_err() {
        reading.abort();
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> std::io::Result<()> {
    let mut head = vec![0x80 | kind];
    match (u8::try_from(bytes.len()), u16::try_from(bytes.len())) {
        (Ok(length), _) if length < 126 => head.push(length),
        (_, Ok(length)) => {
            head.push(126);
            head.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        }
    }
    writer.write_all(&head).await?;
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Takes a client's messages until it closes. Its end is the end of the input.
async fn listen(
    mut reader: impl AsyncRead + Unpin,
    mut input: Option<mpsc::Sender<Bytes>>,
    say: mpsc::Sender<Said>,
) {
    loop {
        let said = match receive(&mut reader).await {
            Ok((CONTINUATION | TEXT | BINARY, bytes)) => {
                if let Some(open) = &input
                    && open.send(bytes).await.is_err()
                {
                    input = None;
                }
                continue;
            }
            Ok((PING, bytes)) => Said::Pong(bytes),
            Ok((PONG, _)) => continue,
            Ok(_) => Said::Close(NORMAL),
            Err(Some(code)) => Said::Close(code),
            // It went without a word: nobody reads an answer.
            Err(None) => return,
        };
        let last = matches!(said, Said::Close(_));
        if say.send(said).await.is_err() || last {
            return;
        }
    }
}

/// One frame; else why the connection is to be closed, `None` when it is.
async fn receive(reader: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Bytes), Option<u16>> {
    let gone = |_: std::io::Error| None;
    let mut head = [0; 2];
    reader.read_exact(&mut head).await.map_err(gone)?;
    let (kind, masked, short) = (head[0] & 0x0f, head[1] & 0x80 != 0, u64::from(head[1] & 0x7f));
    let is_control = kind & 0x8 != 0;
    // No extension was agreed on, and clients mask what they send.
    if head[0] & 0x70 != 0 || !masked || (is_control && (short > 125 || head[0] & 0x80 == 0)) {
        return Err(Some(PROTOCOL_ERROR));
    }
    let length = match short {
        126 => u64::from(reader.read_u16().await.map_err(gone)?),
        127 => reader.read_u64().await.map_err(gone)?,
        short => short,
    };
    if length > MAX_BYTES {
        return Err(Some(TOO_LARGE));
    }
    let mut mask = [0; 4];
    reader.read_exact(&mut mask).await.map_err(gone)?;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Some(TOO_LARGE))?];
    reader.read_exact(&mut bytes).await.map_err(gone)?;
    for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    match kind {
        CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => Ok((kind, bytes.into())),
        _ => Err(Some(PROTOCOL_ERROR)),
    }
}

#[cfg(test)]
mod tests {
    use knarr_engine::stream::{Attached, Frame, Stdio};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::{accept_key, relay};

    #[test]
    fn the_standards_own_key_is_answered_as_it_says() {
        let mut headers = http::HeaderMap::new();
        assert!(accept_key(&headers).is_err());
        headers.insert("upgrade", "websocket".parse().unwrap());
        headers.insert("sec-websocket-version", "13".parse().unwrap());
        headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        assert_eq!(accept_key(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn messages_are_input_and_output_is_messages() {
        let (output, frames) = mpsc::channel(4);
        let (typed, mut input) = mpsc::channel(4);
        let (client, server) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        let attached = Attached { tty: false, output: frames, input: Some(typed) };
        let relayed = tokio::spawn(relay(attached, reader, writer));
        let (mut from, mut to) = tokio::io::split(client);
        // `in` as text, masked with 1 1 1 1; then a ping.
        to.write_all(&[0x81, 0x82, 1, 1, 1, 1, b'h', b'o', 0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(input.recv().await.unwrap(), "in");
        let mut pong = [0; 2];
        from.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8a, 0]);
        output.send(Ok(Frame { stream: Stdio::Err, bytes: "out".into() })).await.unwrap();
        drop(output);
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"\x82\x03out\x88\x02\x03\xe8");
        to.shutdown().await.unwrap();
        relayed.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_message_of_a_client_ends_it() {
        for (bytes, code) in
            [(vec![0x81, 0x02, b'h', b'o'], 1002_u16), (vec![0x82, 0xff, 1, 0, 0, 0, 0, 0, 0, 0], 1009)]
        {
            let (_output, frames) = mpsc::channel(4);
            let (client, server) = tokio::io::duplex(1024);
            let (reader, writer) = tokio::io::split(server);
            let attached = Attached { tty: false, output: frames, input: None };
            let relayed = tokio::spawn(relay(attached, reader, writer));
            let (mut from, mut to) = tokio::io::split(client);
            to.write_all(&bytes).await.unwrap();
            let mut all = Vec::new();
            from.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, [&[0x88, 0x02][..], &code.to_be_bytes()].concat());
            relayed.await.unwrap();
        }
    }
}
