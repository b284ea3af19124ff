//! `/containers/{id}/exec`, `/exec`.

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use http::StatusCode;
use knarr_engine::Engine;
use knarr_engine::containers::ExecRequest;
use knarr_engine::models::{ExecConfig, ExecStartConfig};
use knarr_engine::stream::Attached;
use serde_json::json;

use crate::body;
use crate::containers::size;
use crate::error::Answer;
use crate::hijack;
use crate::query::Query;
use crate::version::Version;

pub(crate) async fn create(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let config: ExecConfig = body::read(request).await?;
    let id = engine.create_exec(&name, config).await?;
    body::json_with(StatusCode::CREATED, &json!({ "Id": id }))
}

/// The body is read before the connection becomes the program's.
pub(crate) async fn start(
    State(engine): State<Engine>,
    Extension(version): Extension<Version>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let (parts, sent) = request.into_parts();
    let mut asked = Request::new(sent);
    *asked.headers_mut() = parts.headers.clone();
    let config: ExecStartConfig = body::read(asked).await?;
    let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let size = match config.console_size.as_deref() {
        Some([height, width]) => Some((narrow(*width), narrow(*height))),
        _ => None,
    };
    let wanted = ExecRequest { detach: config.detach == Some(true), size };
    if wanted.detach {
        engine.start_exec(&id, wanted).await?;
        return Ok(StatusCode::OK.into_response());
    }
    engine.claim_exec(&id)?;
    // What the start says counts for the frames, whatever the program has.
    let tty = config.tty == Some(true);
    let request = Request::from_parts(parts, axum::body::Body::empty());
    let start = async move {
        let attached = engine.start_claimed_exec(&id, wanted).await;
        attached.ok().flatten().map(|attached| Attached { tty, ..attached })
    };
    Ok(hijack::hijack_then(request, tty, version, start).await)
}

pub(crate) async fn resize(State(engine): State<Engine>, Path(id): Path<String>, query: Query) -> Answer {
    let (width, height) = size(&query)?;
    engine.resize_exec(&id, width, height).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn inspect(State(engine): State<Engine>, Path(id): Path<String>) -> Answer {
    let mut value = serde_json::to_value(engine.inspect_exec(&id).await?).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.entry("ExitCode").or_insert(serde_json::Value::Null);
    }
    body::json(&value)
}
