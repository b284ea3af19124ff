//! `/_ping`, `/version`, `/info`, `/events`, `/auth`, `/system/df`, and all that is not here.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use knarr_engine::Engine;
use knarr_engine::images::RegistryAuth;
use serde_json::{Value, json};

use crate::body;
use crate::error::{Answer, ApiError};
use crate::query::Query;

pub(crate) async fn ping() -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        (header::PRAGMA.as_str(), "no-cache"),
        ("builder-version", "1"),
        ("swarm", "inactive"),
    ];
    (headers, "OK").into_response()
}

pub(crate) async fn version(State(engine): State<Engine>) -> Answer {
    body::json(&engine.version().await?)
}

pub(crate) async fn info(State(engine): State<Engine>) -> Answer {
    body::json(&engine.info().await?)
}

pub(crate) async fn events(State(engine): State<Engine>, query: Query) -> Answer {
    let stream = engine.events(query.get("since"), query.get("until"), query.filters()?).await?;
    Ok(body::lines_now(None, stream))
}

pub(crate) async fn disk_usage(State(engine): State<Engine>, query: Query) -> Answer {
    body::json(&engine.disk_usage_document(&query.all("type")).await?)
}

pub(crate) async fn login(State(engine): State<Engine>, request: Request) -> Answer {
    let auth: RegistryAuth = body::read(request).await?;
    let status = engine.login(auth).await?;
    body::json(&json!({ "Status": status, "IdentityToken": "" }))
}

/// There are no plugins, and that is a full answer.
pub(crate) async fn plugins() -> Answer {
    body::json(&Value::Array(Vec::new()))
}

/// The engine keeps nothing of builds, so that there is nothing to remove: `docker system prune` asks for this, too.
pub(crate) async fn build_prune() -> Answer {
    body::json(&json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }))
}

pub(crate) async fn build() -> Answer {
    Err(ApiError::unsupported(
        "building images over the API is not supported yet: `knarr build` makes them from recipes",
    ))
}

pub(crate) async fn not_in_swarm() -> Answer {
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    ))
}

pub(crate) async fn no_swarm() -> Answer {
    Err(ApiError::unsupported("swarms are not supported yet"))
}

pub(crate) async fn no_plugins() -> Answer {
    Err(ApiError::unsupported("plugins are not supported"))
}

pub(crate) async fn no_checkpoints() -> Answer {
    Err(ApiError::unsupported("checkpoints are not supported"))
}

pub(crate) async fn no_search() -> Answer {
    Err(ApiError::unsupported(
        "searching an index of images is not supported: `knarr search tags NAME` lists a repository's tags",
    ))
}

pub(crate) async fn no_page() -> Answer {
    Err(ApiError::new(StatusCode::NOT_FOUND, "page not found"))
}
