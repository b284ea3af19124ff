//! `/images`, `/distribution`.

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use http::{HeaderMap, StatusCode};
use knarr_engine::Engine;
use knarr_engine::images::{ImageQuery, RegistryAuth};
use serde_json::Value;

use crate::body;
use crate::error::{Answer, ApiError};
use crate::legacy;
use crate::query::Query;
use crate::version::Version;

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer {
    let wanted = ImageQuery {
        all: query.flag("all"),
        digests: query.flag("digests"),
        shared_size: query.flag("shared-size"),
        manifests: query.flag("manifests"),
        filters: query.filters()?,
    };
    body::json(&engine.list_images(&wanted).await?)
}

/// Pulls with `fromImage`, imports with `fromSrc`.
pub(crate) async fn create(State(engine): State<Engine>, query: Query, request: Request) -> Answer {
    let platform = query.get("platform");
    if let Some(image) = query.get("fromImage") {
        let auth = auth(request.headers())?;
        return body::lines(
            engine.pull_image(image, query.get("tag").unwrap_or_default(), platform, auth).await?,
        )
        .await;
    }
    match query.get("fromSrc") {
        Some("-") => {}
        Some(_) => {
            return Err(ApiError::unsupported(
                "importing from an address is not supported: download it, and import the file",
            ));
        }
        None => return Err(ApiError::invalid("fromImage or fromSrc must be given")),
    }
    let text = |key: &str| query.get(key).unwrap_or_default();
    let changes = query.all("changes");
    let tarball = body::reader(request.into_body());
    let stream =
        engine.import_image(text("repo"), text("tag"), text("message"), &changes, platform, tarball).await?;
    body::lines(stream).await
}

/// Who the client is at a registry: base64 of JSON, in either alphabet.
pub(crate) fn auth(headers: &HeaderMap) -> Result<Option<RegistryAuth>, ApiError> {
    let Some(text) =
        headers.get("x-registry-auth").and_then(|text| text.to_str().ok()).filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url = GeneralPurpose::new(&base64::alphabet::URL_SAFE, lenient);
    let bytes = url.decode(text).or_else(|_| STANDARD.decode(text));
    let bytes = bytes.map_err(|_| ApiError::invalid("invalid X-Registry-Auth header: it is not base64"))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::invalid(format!("invalid X-Registry-Auth header: {error}")))?;
    let auth: RegistryAuth = body::typed(body::without_nulls(value))?;
    Ok(auth.is_given().then_some(auth))
}

/// Reads the header of a registry's user. For fuzzing.
#[doc(hidden)]
#[must_use]
pub fn try_auth(text: &[u8]) -> bool {
    let value = http::HeaderValue::from_bytes(text);
    value.is_ok_and(|value| {
        auth(&HeaderMap::from_iter([(http::HeaderName::from_static("x-registry-auth"), value)])).is_ok()
    })
}

pub(crate) async fn load(State(engine): State<Engine>, query: Query, request: Request) -> Answer {
    let tarball = body::reader(request.into_body());
    // Clients look for what is wrong with an archive among the lines.
    let lines = match engine.load_images(query.flag("quiet"), tarball).await {
        Ok(lines) => lines,
        Err(error) => body::only(error).await,
    };
    Ok(body::lines_now(None, lines))
}

pub(crate) async fn save(State(engine): State<Engine>, query: Query) -> Answer {
    let names = query.all("names").iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    Ok(body::bytes(engine.save_images(names).await?, "application/x-tar"))
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer {
    body::json(&engine.prune_images(&query.filters()?).await?)
}

/// Names have slashes: what is done stands behind the last one.
pub(crate) async fn get(
    State(engine): State<Engine>,
    Extension(version): Extension<Version>,
    Path(rest): Path<String>,
    query: Query,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "json")) => inspect(&engine, name, query.flag("manifests"), version).await,
        Some((name, "history")) => body::json(&engine.history_image(name).await?),
        Some((name, "get")) => {
            Ok(body::bytes(engine.save_images(vec![name.to_owned()]).await?, "application/x-tar"))
        }
        _ => Err(ApiError::new(StatusCode::NOT_FOUND, "page not found")),
    }
}

async fn inspect(engine: &Engine, name: &str, manifests: bool, version: Version) -> Answer {
    let image = serde_json::to_value(engine.inspect_image(name, manifests).await?).unwrap_or_default();
    let parent = engine.parent_of_image(name).await?;
    body::json(&legacy::image(image, parent, version))
}

pub(crate) async fn post(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "push")) => {
            let auth = auth(&headers)?;
            body::lines(engine.push_image(name, query.get("tag").unwrap_or_default(), auth).await?).await
        }
        Some((name, "tag")) => {
            let (repository, tag) =
                (query.get("repo").unwrap_or_default(), query.get("tag").unwrap_or_default());
            engine.tag_image(name, repository, tag).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        _ => Err(ApiError::new(StatusCode::NOT_FOUND, "page not found")),
    }
}

pub(crate) async fn remove(State(engine): State<Engine>, Path(name): Path<String>, query: Query) -> Answer {
    body::json(&engine.remove_image(&name, query.flag("force"), query.flag("noprune")).await?)
}

pub(crate) async fn distribution(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "json")) => body::json(&engine.inspect_distribution(name, auth(&headers)?).await?),
        _ => Err(ApiError::new(StatusCode::NOT_FOUND, "page not found")),
    }
}
