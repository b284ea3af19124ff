//! Package versions and their order.
//!
//! [`compare`] orders two version texts; [`PackageVersion`] is one that was checked. Whether a
//! relation holds is [`crate::relation::Operator`]'s question.
//!
//! Spec: Debian Policy 5.6.12; deb-version(7).

use std::cmp::Ordering;
use std::fmt;

use crate::DebError;

/// A version that keeps to the rules.
#[derive(Clone, Debug, Eq)]
pub struct PackageVersion(String);

impl PackageVersion {
    /// Checks a version: an optional numeric epoch, an upstream part, an optional revision.
    pub fn parse(text: &str) -> Result<Self, DebError> {
        let bad = |reason| DebError::BadVersion { found: text.chars().take(100).collect(), reason };
        let (epoch, upstream, revision) = split(text);
        if !epoch.bytes().all(|byte| byte.is_ascii_digit()) || (text.starts_with(':')) {
            return Err(bad("the epoch before the colon must be a number"));
        }
        if upstream.is_empty() {
            return Err(bad("the upstream version is empty"));
        }
        if !upstream.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte)) {
            return Err(bad("the upstream version may hold only letters, digits and . + - ~ :"));
        }
        if text.ends_with('-') {
            return Err(bad("the revision after the dash is empty"));
        }
        if !revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+~".contains(&byte)) {
            return Err(bad("the revision may hold only letters, digits and . + ~"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The version's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text without its epoch, as file names have it.
    #[must_use]
    pub fn without_epoch(&self) -> &str {
        self.0.split_once(':').map_or(self.0.as_str(), |(_, rest)| rest)
    }
}

impl PartialEq for PackageVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Ord for PackageVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for PackageVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PackageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Orders two versions as dpkg does. Any text is accepted.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let ((epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b)) = (split(a), split(b));
    compare_numbers(epoch_a.as_bytes(), epoch_b.as_bytes())
        .then_with(|| compare_parts(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| compare_parts(revision_a.as_bytes(), revision_b.as_bytes()))
}

fn split(text: &str) -> (&str, &str, &str) {
    let (epoch, rest) = text.split_once(':').unwrap_or(("", text));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternates between runs of non-digits, by [`weight`], and runs of digits, by number.
fn compare_parts(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = a.split_at(a.iter().position(u8::is_ascii_digit).unwrap_or(a.len()));
        let (text_b, rest_b) = b.split_at(b.iter().position(u8::is_ascii_digit).unwrap_or(b.len()));
        let (number_a, next_a) = rest_a.split_at(digits(rest_a));
        let (number_b, next_b) = rest_b.split_at(digits(rest_b));
        let order = compare_texts(text_a, text_b).then_with(|| compare_numbers(number_a, number_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
    Ordering::Equal
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len())
}

fn compare_texts(a: &[u8], b: &[u8]) -> Ordering {
    for i in 0..a.len().max(b.len()) {
        let order = weight(a.get(i)).cmp(&weight(b.get(i)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// `~` sorts before the end, the end before letters, letters before everything else.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

/// Numbers of any length: without leading zeros the longer is the greater.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let significant = |bytes: &[u8]| bytes.iter().position(|&byte| byte != b'0').unwrap_or(bytes.len());
    let (a, b) = (&a[significant(a)..], &b[significant(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests;
