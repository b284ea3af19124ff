//! Filters of lists: `{"label": ["a=b"], "status": ["running"]}`.
//!
//! [`Filters::parse`] reads both forms that clients send: values as a list, and as an object of trues.

use std::collections::{BTreeMap, BTreeSet};

use regex::RegexBuilder;
use serde_json::Value;

use crate::EngineError;

/// A pattern may take so much memory once compiled.
const MAX_PATTERN_BYTES: usize = 256 << 10;

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

    /// Whether a key was not given, or one of its values is the text or, as a regular expression, finds something in it.
    #[must_use]
    pub fn matches(&self, key: &str, text: &str) -> bool {
        !self.has(key) || self.get(key).any(|wanted| wanted == text || finds(wanted, text))
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

/// A pattern that is none finds nothing.
fn finds(pattern: &str, text: &str) -> bool {
    let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
    built.is_ok_and(|pattern| pattern.is_match(text))
}

impl Filters {
    /// The moment of `until`: what is younger stays.
    pub fn until(&self) -> Result<Option<jiff::Timestamp>, EngineError> {
        let mut values = self.get("until");
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => moment(text).map(Some),
            (Some(_), Some(_)) => Err(EngineError::invalid("more than one until filter specified")),
        }
    }
}

/// A moment: RFC 3339 (a date alone will do), Unix seconds with a fraction, or a duration before now (`10m`, `1h30m`).
pub fn moment(text: &str) -> Result<jiff::Timestamp, EngineError> {
    let bad = || EngineError::invalid(format!("failed to parse value as time or duration: \"{text}\""));
    if let Some((seconds, fraction)) = unix(text) {
        return jiff::Timestamp::new(seconds, fraction).map_err(|_| bad());
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(moment);
    }
    if let Some(ago) = duration(text) {
        return jiff::Timestamp::now().checked_sub(ago).map_err(|_| bad());
    }
    let local =
        text.parse::<jiff::civil::DateTime>().or_else(|_| text.parse::<jiff::civil::Date>().map(Into::into));
    local.and_then(|local| jiff::tz::Offset::UTC.to_timestamp(local)).map_err(|_| bad())
}

/// `1700000000.5` in seconds and nanoseconds.
fn unix(text: &str) -> Option<(i64, i32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds.strip_prefix('-').unwrap_or(seconds)) || !digits(fraction) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}");
    Some((seconds.parse().ok()?, nanoseconds.get(..9)?.parse().ok()?))
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `300ms`.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    let mut left = text;
    let mut nanoseconds = 0.0;
    while !left.is_empty() {
        let number = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, rest) = left.split_at(number);
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanoseconds += value.parse::<f64>().ok()? * scale;
        left = rest;
    }
    (!text.is_empty() && nanoseconds < 9.0e18).then(|| std::time::Duration::from_nanos(nanoseconds as u64))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Filters, duration, moment};

    #[test]
    fn both_forms_of_filters_are_read() {
        let list = Filters::parse(r#"{"status":["a","b"]}"#).unwrap();
        let set = Filters::parse(r#"{"status":{"a":true,"b":true,"c":false}}"#).unwrap();
        assert_eq!(list, set);
        assert!(Filters::parse("{").is_err() && Filters::parse(r#"{"a":3}"#).is_err());
        assert!(list.allow(&["status"]).is_ok() && list.allow(&["x"]).is_err());
    }

    #[test]
    fn labels_must_all_fit() {
        let filters = Filters::parse(r#"{"label":["a","b=1"],"label!":["c"]}"#).unwrap();
        let fits = |labels: &[(&str, &'static str)]| {
            filters.labels(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
        };
        assert!(fits(&[("a", ""), ("b", "1")]));
        assert!(!fits(&[("a", ""), ("b", "2")]) && !fits(&[("a", ""), ("b", "1"), ("c", "")]));
    }

    #[test]
    fn names_are_regular_expressions() {
        let fits = |pattern: &str, text: &str| {
            let filters = Filters::parse(&serde_json::json!({ "name": [pattern] }).to_string()).unwrap();
            filters.matches("name", text)
        };
        assert!(fits("eb", "web-1") && fits("^web-[0-9]+$", "web-12") && fits("^(a|web-1)$", "web-1"));
        assert!(!fits("^eb", "web-1") && !fits("web-2", "web-1"));
        // A pattern that is none is a name at most; one that would take too much memory is none.
        assert!(fits("we(b", "we(b") && !fits("we(b", "web") && !fits("a{9}{9}{9}{9}{9}{9}", "a"));
        assert!(Filters::default().matches("name", "anything"));
    }

    #[test]
    fn moments_come_in_many_forms() {
        assert_eq!(moment("1700000000.5").unwrap().as_nanosecond(), 1_700_000_000_500_000_000);
        assert_eq!(moment("2026-01-02T03:04:05Z").unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(moment("2026-01-02").unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert!(moment("10m").unwrap() < jiff::Timestamp::now());
        assert!(moment("soon").is_err());
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!((duration("5"), duration(""), duration("x")), (None, None, None));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,60}") {
            // Whatever it is, it is understood or refused.
            let _ = Filters::parse(&text);
            let _ = moment(&text);
            let _ = duration(&text);
        }
    }
}
