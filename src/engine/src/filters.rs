//! Filters of lists: `{"label": ["a=b"], "status": ["running"]}`.
//!
//! [`Filters::parse`] reads both forms that clients send: values as a list, and as an object of trues.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::EngineError;

/// What was asked for, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads the query parameter `filters`; empty text means no filters.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        let bad = || EngineError::invalid(format!("invalid filter: {text}"));
        if text.is_empty() {
            return Ok(Self::default());
        }
        let table: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| bad())?;
        let mut filters = Self::default();
        for (key, values) in table {
            let values: BTreeSet<String> = match values {
                Value::Array(list) => {
                    list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<_>>()
                }
                Value::Object(set) => Some(
                    set.into_iter().filter(|(_, on)| on != &Value::Bool(false)).map(|(key, _)| key).collect(),
                ),
                Value::Null => Some(BTreeSet::new()),
                _ => None,
            }
            .ok_or_else(bad)?;
            filters.0.insert(key, values);
        }
        Ok(filters)
    }

    /// Refuses keys that a list does not know.
    pub fn allow(&self, known: &[&str]) -> Result<(), EngineError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(EngineError::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The values of a key.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether a key was given with a value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// The only value of a key that is true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, EngineError> {
        let mut values = self.get(key);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some("1" | "true" | "True" | "TRUE" | "t" | "T"), None) => Ok(Some(true)),
            (Some("0" | "false" | "False" | "FALSE" | "f" | "F"), None) => Ok(Some(false)),
            (Some(value), _) => Err(EngineError::invalid(format!("invalid filter '{key}=[{value}]'"))),
        }
    }

    /// Whether labels satisfy `label` and `label!`.
    pub fn labels<'a>(&self, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => find(key) == Some(value),
            None => find(wanted).is_some(),
        };
        self.get("label").all(holds) && !self.get("label!").any(holds)
    }
}
