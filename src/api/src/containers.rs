//! `/containers`, `/commit`.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, header};
use knarr_engine::Engine;
use knarr_engine::containers::{AttachRequest, CommitRequest, ListQuery, WaitCondition};
use knarr_engine::logs::LogsRequest;
use knarr_engine::models::{ContainerConfig, ContainerCreateBody, ContainerUpdateBody};
use knarr_engine::stream::{DEPTH, ValueStream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::body;
use crate::error::{Answer, ApiError};
use crate::hijack;
use crate::legacy;
use crate::query::Query;
use crate::version::Version;
use crate::websocket;

/// A log is there at once: clients that read what comes with the head of an answer by other means would lose it.
const LOG_PAUSE: Duration = Duration::from_millis(20);
/// Between two samples of statistics.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer {
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let wanted = ListQuery {
        all: query.flag("all"),
        limit: limit.and_then(|limit| usize::try_from(limit).ok()),
        size: query.flag("size"),
        filters: query.filters()?,
    };
    let containers = engine.list_containers(&wanted).await?;
    body::json(&containers.iter().map(legacy::container_summary).collect::<Vec<_>>())
}

pub(crate) async fn create(State(engine): State<Engine>, query: Query, request: Request) -> Answer {
    let body: ContainerCreateBody = body::typed(with_mac_address(body::read(request).await?))?;
    let made = engine.create_container(query.get("name"), query.get("platform"), body).await?;
    body::json_with(StatusCode::CREATED, &made)
}

/// Before 1.44 a container had one MAC address: it is that of its place in the network of its mode.
fn with_mac_address(mut body: Value) -> Value {
    let Some(address) = body["MacAddress"].as_str().filter(|address| !address.is_empty()).map(str::to_owned)
    else {
        return body;
    };
    let mode = body["HostConfig"]["NetworkMode"].as_str().unwrap_or("default").to_owned();
    let endpoint = &mut body["NetworkingConfig"]["EndpointsConfig"][mode];
    if endpoint["MacAddress"].as_str().is_none_or(str::is_empty) {
        endpoint["MacAddress"] = Value::String(address);
    }
    body
}

pub(crate) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    body::json(&engine.inspect_container(&name, query.flag("size")).await?)
}

pub(crate) async fn top(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    body::json(&engine.top_container(&name, query.get("ps_args").unwrap_or_default()).await?)
}

pub(crate) async fn changes(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    body::json(&engine.changes_container(&name).await?)
}

pub(crate) async fn export(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    Ok(body::bytes(engine.export_container(&name).await?, "application/x-tar"))
}

pub(crate) async fn start(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    engine.start_container(&name).await?;
    body::nothing()
}

pub(crate) async fn stop(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.stop_container(&name, query.get("signal"), query.number("t")?).await?;
    body::nothing()
}

pub(crate) async fn restart(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.restart_container(&name, query.get("signal"), query.number("t")?).await?;
    body::nothing()
}

pub(crate) async fn kill(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.kill_container(&name, query.get("signal").unwrap_or_default()).await?;
    body::nothing()
}

pub(crate) async fn pause(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    engine.pause_container(&name).await?;
    body::nothing()
}

pub(crate) async fn unpause(State(engine): State<Engine>, Path(name): Path<String>) -> Answer {
    engine.unpause_container(&name).await?;
    body::nothing()
}

pub(crate) async fn rename(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.rename_container(&name, query.get("name").unwrap_or_default()).await?;
    body::nothing()
}

pub(crate) async fn update(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let body: ContainerUpdateBody = body::read(request).await?;
    body::json(&engine.update_container(&name, body).await?)
}

pub(crate) async fn resize(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    let (width, height) = size(&query)?;
    engine.resize_container(&name, width, height).await?;
    Ok(StatusCode::OK.into_response())
}

/// A terminal's size: columns, lines.
pub(crate) fn size(query: &Query) -> Result<(u16, u16), ApiError> {
    let number = |key: &str| -> Result<u16, ApiError> {
        let number = query.number(key)?.unwrap_or_default();
        u16::try_from(number)
            .map_err(|_| ApiError::invalid(format!("{key}: {number} is no size of a terminal")))
    };
    Ok((number("w")?, number("h")?))
}

pub(crate) async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    engine.remove_container(&name, query.flag("force"), query.flag("v"), query.flag("link")).await?;
    body::nothing()
}

/// Removes `CONTAINER/ALIAS`: a link.
pub(crate) async fn remove_link(
    State(engine): State<Engine>,
    Path((name, alias)): Path<(String, String)>,
    query: Query,
) -> Answer {
    if !query.flag("link") {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "page not found"));
    }
    engine.remove_container(&format!("{name}/{alias}"), query.flag("force"), query.flag("v"), true).await?;
    body::nothing()
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer {
    body::json(&engine.prune_containers(&query.filters()?).await?)
}

/// The head of the answer goes at once: a client knows by it that its waiting has begun.
pub(crate) async fn wait(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    let condition = match query.get("condition").unwrap_or("not-running") {
        "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let outcome = engine.wait_container(&name, condition).await?;
    let text = async move {
        let value = match outcome.await {
            Ok(outcome) => json!({ "StatusCode": outcome.status_code, "Error": outcome.error }),
            Err(_) => json!({ "StatusCode": -1, "Error": { "Message": "the engine is leaving" } }),
        };
        Ok::<_, std::convert::Infallible>(without_null(value).to_string() + "\n")
    };
    let body = Body::from_stream(futures_util::stream::once(text));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn without_null(mut value: Value) -> Value {
    if value["Error"].is_null()
        && let Some(object) = value.as_object_mut()
    {
        object.remove("Error");
    }
    value
}

pub(crate) async fn attach(
    State(engine): State<Engine>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Answer {
    let wanted = wanted_streams(&query);
    let attached = engine.attach_container(&name, wanted, query.get("detachKeys")).await?;
    if !wanted.logs {
        return Ok(hijack::hijack(request, attached, version).await);
    }
    let tty = attached.tty;
    let start = async {
        tokio::time::sleep(LOG_PAUSE).await;
        Some(attached)
    };
    Ok(hijack::hijack_then(request, tty, version, start).await)
}

fn wanted_streams(query: &Query) -> AttachRequest {
    AttachRequest {
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
    }
}

/// Before 1.42 a websocket had all streams, whatever was asked for.
pub(crate) async fn attach_websocket(
    State(engine): State<Engine>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Answer {
    let accept = websocket::accept_key(request.headers())?;
    let mut wanted = wanted_streams(&query);
    if version < Version(42) {
        (wanted.stdin, wanted.stdout, wanted.stderr) = (true, true, true);
    }
    let attached = engine.attach_container(&name, wanted, query.get("detachKeys")).await?;
    websocket::hijack(request, accept, attached)
}

pub(crate) async fn logs(
    State(engine): State<Engine>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
    query: Query,
) -> Answer {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let wanted = LogsRequest {
        follow: query.flag("follow"),
        stdout,
        stderr,
        since: query.get("since").filter(|text| *text != "0").map(str::to_owned),
        until: query.get("until").filter(|text| *text != "0").map(str::to_owned),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        // What is no number means all of it, as `all` does.
        tail: query.get("tail").and_then(|text| text.parse().ok()),
    };
    let (tty, frames) = engine.logs_container(&name, wanted).await?;
    let kind = hijack::kind_of(tty, version);
    Ok(([(header::CONTENT_TYPE, kind)], hijack::frames(frames, tty)).into_response())
}

pub(crate) async fn stats(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    let first = engine.stats_container(&name).await?;
    let (stream, once) = (query.flag_or_true("stream"), query.flag("one-shot"));
    if stream && once {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    if stream {
        return Ok(body::lines_now(None, sampled(engine, name, first)));
    }
    if once {
        return body::json(&first);
    }
    tokio::time::sleep(SAMPLE_EVERY).await;
    let second = engine.stats_container(&name).await?;
    body::json(&after(second, &first))
}

/// Samples, one a second, each with what the one before found of the processor.
fn sampled(engine: Engine, name: String, first: Value) -> ValueStream {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let mut last = first.clone();
        let mut next = first;
        while sender.send(Ok(next)).await.is_ok() {
            tokio::time::sleep(SAMPLE_EVERY).await;
            next = match engine.stats_container(&name).await {
                Ok(sample) => {
                    let shown = after(sample.clone(), &last);
                    last = sample;
                    shown
                }
                // It is gone, and so is what there was to tell.
                Err(_) => return,
            };
        }
    });
    receiver
}

fn after(mut sample: Value, before: &Value) -> Value {
    sample["precpu_stats"] = before["cpu_stats"].clone();
    sample["preread"] = before["read"].clone();
    sample
}

const STAT: &str = "x-docker-container-path-stat";

pub(crate) async fn stat_path(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
) -> Answer {
    let stat = engine.stat_path(&name, path_of(&query)?).await?;
    Ok([(STAT, STANDARD.encode(stat.to_string()))].into_response())
}

fn path_of(query: &Query) -> Result<&str, ApiError> {
    query.get("path").ok_or_else(|| ApiError::invalid("missing parameter: path"))
}

pub(crate) async fn copy_out(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    let (stat, tarball) = engine.copy_out(&name, path_of(&query)?).await?;
    Ok(([(STAT, STANDARD.encode(stat.to_string()))], body::bytes(tarball, "application/x-tar"))
        .into_response())
}

pub(crate) async fn copy_in(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Answer {
    let (keep, owners) = (query.flag("noOverwriteDirNonDir"), query.flag("copyUIDGID"));
    let tarball = body::reader(request.into_body());
    engine.copy_in(&name, path_of(&query)?, keep, owners, tarball).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn commit(State(engine): State<Engine>, query: Query, request: Request) -> Answer {
    let config: ContainerConfig = body::read(request).await?;
    let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
    let wanted = CommitRequest {
        container: query
            .get("container")
            .ok_or_else(|| ApiError::invalid("missing parameter: container"))?
            .to_owned(),
        repository: text("repo"),
        tag: text("tag"),
        comment: text("comment"),
        author: text("author"),
        pause: query.flag_or_true("pause"),
        changes: query.all("changes").iter().flat_map(|changes| changes.lines()).map(str::to_owned).collect(),
        config: (config != ContainerConfig::default()).then_some(config),
    };
    let id = engine.commit_container(wanted).await?;
    body::json_with(StatusCode::CREATED, &json!({ "Id": id }))
}
