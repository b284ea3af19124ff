//! Points in time, as whole seconds.
//!
//! Spec: RFC 5322 section 3.3 with the `UTC` zone that Release files use, RFC 3339.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whole seconds since 1970-01-01 00:00:00 UTC. Displays as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A text that is no date of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no date: expected one like \"Sat, 21 Nov 2026 09:15:44 UTC\"")]
pub struct TimestampError {
    /// The text that was found.
    pub found: String,
}

impl Timestamp {
    /// Parses the form that Release files use: `Sat, 21 Nov 2026 09:15:44 UTC`.
    pub fn parse_release(text: &str) -> Result<Self, TimestampError> {
        let text = text.trim();
        let error = || TimestampError { found: text.chars().take(100).collect() };
        let numeric = text
            .strip_suffix("UTC")
            .or_else(|| text.strip_suffix('Z'))
            .map_or_else(|| text.to_owned(), |head| format!("{head}+0000"));
        let numeric = numeric.split_once(", ").map_or(numeric.as_str(), |(_, rest)| rest);
        let words = numeric.split_ascii_whitespace().map(padded).collect::<Vec<_>>().join(" ");
        let zoned =
            jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned_datetime(&words).map_err(|_| error())?;
        Ok(Self(zoned.timestamp().as_second()))
    }

    /// Days since the epoch, rounded down: what `/etc/shadow` counts in.
    #[must_use]
    pub const fn days(self) -> i64 {
        self.0.div_euclid(86_400)
    }

    /// `YYYYMMDDTHHMMSSZ`, the form that snapshot mirrors use in URLs.
    #[must_use]
    pub fn to_snapshot(self) -> String {
        self.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect()
    }
}

/// Ubuntu writes hours before ten with a blank, where RFC 2822 has two digits.
fn padded(word: &str) -> String {
    let is_short = word.as_bytes().get(1) == Some(&b':') && word.as_bytes()[0].is_ascii_digit();
    if is_short { format!("0{word}") } else { word.to_owned() }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn dates_of_release_files_are_read_as_debian_and_ubuntu_write_them() {
        let parse = |text: &str| Timestamp::parse_release(text).map(|time| time.0);
        for text in [
            "Sat, 21 Nov 2026 09:15:44 UTC",
            "Sat, 21 Nov 2026  9:15:44 UTC",
            "Sat, 21 Nov 2026 09:15:44 +0000",
            "21 Nov 2026 09:15:44 Z",
        ] {
            assert_eq!(parse(text), Ok(1_795_252_544), "{text}");
        }
        for text in ["", "yesterday", "Sat, 21 Nov 2026 99:15:44 UTC", "9:15:44 UTC"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
