//! Parameters of requests, read as docker's engine reads them.

use axum::extract::FromRequestParts;
use http::request::Parts;
use knarr_engine::filters::Filters;

use crate::error::ApiError;

/// What stands after the `?`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The value of a key; `None` when it is not there or empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a key.
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    /// Everything but a few words is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| {
            !matches!(value.trim().to_ascii_lowercase().as_str(), "0" | "no" | "false" | "none")
        })
    }

    /// A flag that is true when nothing is said.
    pub(crate) fn flag_or_true(&self, key: &str) -> bool {
        self.get(key).is_none() || self.flag(key)
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        let parse =
            |text: &str| text.parse().map_err(|_| ApiError::invalid(format!("{key}: {text:?} is no number")));
        self.get(key).map(parse).transpose()
    }

    /// The parameter `filters`.
    pub(crate) fn filters(&self) -> Result<Filters, ApiError> {
        Ok(Filters::parse(self.get("filters").unwrap_or_default())?)
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn words_are_true_but_for_a_few() {
        let query = Query::parse("a=1&b=0&c=False&d=&e=yes&f=none");
        let flags = ["a", "b", "c", "d", "e", "f", "g"].map(|key| query.flag(key));
        assert_eq!(flags, [true, false, false, false, true, false, false]);
        assert!(query.flag_or_true("g") && !query.flag_or_true("b"));
    }

    #[test]
    fn numbers_are_numbers() {
        assert_eq!(Query::parse("t=-1").number("t").unwrap(), Some(-1));
        assert!(Query::parse("t=x").number("t").is_err());
        assert_eq!(Query::parse("names=a&names=b%2Fc").all("names"), ["a", "b/c"]);
    }
}
