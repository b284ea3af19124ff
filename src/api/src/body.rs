//! Bodies: JSON that comes, JSON that goes, and streams of both.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::{StatusCode, header};
use knarr_engine::EngineError;
use knarr_engine::stream::{ByteStream, DEPTH, StreamReader, ValueStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{Answer, ApiError};
use crate::lenient::Lenient;

/// No document that clients send is larger than this.
const MAX_JSON_BYTES: usize = 8 << 20;

/// Reads a document; nothing at all is an empty one. Fields that are null are as if they were not there.
pub(crate) async fn read<T: DeserializeOwned>(request: http::Request<Body>) -> Result<T, ApiError> {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json =
        kind.is_empty() || kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    let kind = kind.to_owned();
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_JSON_BYTES as u64) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(request.into_body(), MAX_JSON_BYTES).await.map_err(|_| too_large())?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return typed(json!({}));
    }
    if !is_json {
        return Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({kind}): must be 'application/json'"
        )));
    }
    let value: Value =
        serde_json::from_slice(text).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    typed(without_nulls(value))
}

/// A document as what it should be.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    T::deserialize(Lenient(value)).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))
}

fn too_large() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {MAX_JSON_BYTES} bytes, or was cut off"),
    )
}

/// Go's clients write null for what is empty.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// A document.
pub(crate) fn json<T: Serialize>(value: &T) -> Answer {
    json_with(StatusCode::OK, value)
}

/// A document with a status.
pub(crate) fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let text = serde_json::to_string(value)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response())
}

/// Nothing, with 204.
pub(crate) fn nothing() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What comes, for a blocking reader. It is never held whole.
pub(crate) fn reader(body: Body) -> StreamReader {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece =
                piece.map_err(|error| EngineError::failed(format!("the client's body broke off: {error}")));
            let broken = piece.is_err();
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    StreamReader::new(receiver)
}

/// Bytes that go. A failure in their midst cuts the connection: the client sees that it has not all.
pub(crate) fn bytes(stream: ByteStream, kind: &'static str) -> Response {
    let stream = futures_util::stream::unfold(stream, |mut stream| async {
        let piece = stream.recv().await?;
        let piece = piece.map_err(|error| std::io::Error::other(error.message()));
        Some((piece, stream))
    });
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}

/// Documents that go, one a line. A failure before the first is the answer's status, a later one a line.
pub(crate) async fn lines(mut stream: ValueStream) -> Answer {
    let first = match stream.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(value)) => Some(value),
        None => None,
    };
    Ok(lines_now(first, stream))
}

/// The same, with the head of the answer sent at once.
pub(crate) fn lines_now(first: Option<Value>, stream: ValueStream) -> Response {
    let rest = futures_util::stream::unfold(stream, |mut stream| async {
        let line = match stream.recv().await? {
            Ok(value) => line(&value),
            Err(error) => {
                let message = error.message();
                line(&json!({ "errorDetail": { "message": message }, "error": message }))
            }
        };
        Some((line, stream))
    });
    let first = futures_util::stream::iter(first.map(|value| line(&value)));
    let all = first.chain(rest).map(Ok::<Bytes, std::convert::Infallible>);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(all)).into_response()
}

/// A stream that has but a failure.
pub(crate) async fn only(error: EngineError) -> ValueStream {
    let (sender, stream) = mpsc::channel(1);
    // There is room for one, and the receiver is here.
    let _ = sender.send(Err(error)).await;
    stream
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::without_nulls;

    #[test]
    fn nulls_are_as_nothing() {
        let value = json!({ "a": null, "b": [{ "c": null, "d": 1 }] });
        assert_eq!(without_nulls(value), json!({ "b": [{ "d": 1 }] }));
    }
}
