//! Versions of the API: the prefix of a path, and what is told of ours.

use http::{HeaderValue, Response, Uri};

use crate::error::ApiError;

/// The newest version that is spoken.
pub(crate) const NEWEST: &str = "1.53";
/// The oldest.
pub(crate) const OLDEST: &str = "1.24";

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        (major == "1" && minor.len() < 4).then(|| minor.parse().ok().map(Self)).flatten()
    }
}

/// Takes `/v1.45` off a path.
pub(crate) fn strip(uri: &Uri) -> Result<(Version, Uri), ApiError> {
    let newest = Version::parse(NEWEST).unwrap_or(Version(0));
    let path = uri.path();
    let Some((text, rest)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else {
        return Ok((newest, uri.clone()));
    };
    let Some(version) = Version::parse(text) else {
        return Ok((newest, uri.clone()));
    };
    if version > newest {
        return Err(ApiError::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if Some(version) < Version::parse(OLDEST) {
        return Err(ApiError::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
        )));
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri = format!("/{rest}{query}").parse().map_err(|_| ApiError::invalid("the path cannot be read"))?;
    Ok((version, uri))
}

/// What every answer says of us.
pub(crate) fn mark<B>(response: &mut Response<B>) {
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(NEWEST));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers
        .insert("server", HeaderValue::from_static(concat!("Knarr/", env!("CARGO_PKG_VERSION"), " (linux)")));
}

#[cfg(test)]
mod tests {
    use super::{Version, strip};

    #[test]
    fn versions_are_taken_off_paths() {
        let strip =
            |path: &str| strip(&path.parse().unwrap()).map(|(version, uri)| (version.0, uri.to_string()));
        assert_eq!(strip("/v1.45/containers/json?all=1").unwrap(), (45, "/containers/json?all=1".to_owned()));
        assert_eq!(strip("/volumes").unwrap(), (53, "/volumes".to_owned()));
        assert!(strip("/v1.99/info").is_err() && strip("/v1.12/info").is_err());
        assert!(Version(24) < Version(40));
    }
}
