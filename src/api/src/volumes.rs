//! `/volumes`.

use axum::extract::{Path, Request, State};
use http::StatusCode;
use knarr_engine::Engine;
use knarr_engine::models::{Volume, VolumeCreateRequest};
use serde_json::{Value, json};

use crate::body;
use crate::error::Answer;
use crate::query::Query;

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer {
    let found = engine.list_volumes(&query.filters()?).await?;
    let volumes: Vec<Value> = found.volumes.iter().flatten().map(show).collect();
    body::json(&json!({ "Volumes": volumes, "Warnings": [] }))
}

/// What was not said is null in Go's documents.
fn show(volume: &Volume) -> Value {
    let mut value = serde_json::to_value(volume).unwrap_or_default();
    for key in ["Options", "Labels"] {
        if value[key].as_object().is_some_and(serde_json::Map::is_empty) {
            value[key] = Value::Null;
        }
    }
    value
}

pub(crate) async fn create(State(engine): State<Engine>, request: Request) -> Answer {
    let wanted: VolumeCreateRequest = body::read(request).await?;
    let volume = engine.create_volume(wanted).await?;
    body::json_with(StatusCode::CREATED, &show(&volume))
}

pub(crate) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    body::json(&show(&engine.inspect_volume(&name).await?))
}

pub(crate) async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.remove_volume(&name, query.flag("force")).await?;
    body::nothing()
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer {
    body::json(&engine.prune_volumes(&query.filters()?).await?)
}
