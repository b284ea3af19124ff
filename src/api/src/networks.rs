//! `/networks`.

use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use http::StatusCode;
use knarr_engine::Engine;
use knarr_engine::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect,
};
use serde_json::Value;

use crate::body;
use crate::error::Answer;
use crate::query::Query;

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer {
    let networks = engine.list_networks(&query.filters()?).await?;
    body::json(&networks.iter().map(show).collect::<Vec<_>>())
}

/// What was not said is null in Go's documents.
fn show(network: &NetworkInspect) -> Value {
    let mut value = serde_json::to_value(network).unwrap_or_default();
    if let Some(ipam) = value["IPAM"].as_object_mut() {
        ipam.entry("Options").or_insert(Value::Null);
    }
    value
}

pub(crate) async fn create(State(engine): State<Engine>, request: Request) -> Answer {
    let wanted: NetworkCreateRequest = body::read(request).await?;
    body::json_with(StatusCode::CREATED, &engine.create_network(wanted).await?)
}

pub(crate) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    body::json(&show(&engine.inspect_network(&name, query.get("scope")).await?))
}

pub(crate) async fn remove(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    engine.remove_network(&name).await?;
    body::nothing()
}

pub(crate) async fn connect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let wanted: NetworkConnectRequest = body::read(request).await?;
    engine.connect_network(&name, wanted).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn disconnect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let wanted: NetworkDisconnectRequest = body::read(request).await?;
    engine.disconnect_network(&name, &wanted.container, wanted.force == Some(true)).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer {
    body::json(&engine.prune_networks(&query.filters()?).await?)
}
