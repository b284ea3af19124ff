//! Ranges: which part of a blob is wanted, and which part of an upload a chunk is.
//!
//! Spec: RFC 9110, "Range Requests"; OCI distribution-spec 1.1, "Pushing a blob in chunks".

/// What of a blob is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// From the first byte, so many.
    Part {
        start: u64,
        length: u64,
    },
    /// Nothing of the blob lies there.
    Outside,
}

impl Wanted {
    /// Reads a `Range` header. One that is not understood counts as none, and so do several ranges at once;
    /// one that ends before it begins lies nowhere.
    pub(crate) fn parse(header: &str, size: u64) -> Self {
        let Some(range) = header.strip_prefix("bytes=").map(str::trim) else { return Self::All };
        let Some((first, last)) = range.split_once('-') else { return Self::All };
        match (number(first), number(last), first.is_empty(), last.is_empty()) {
            (Some(first), Some(last), _, _) if first > last => Self::Outside,
            (Some(first), _, _, _) if first >= size => Self::Outside,
            (Some(first), Some(last), _, _) => {
                Self::Part { start: first, length: last.min(size - 1) - first + 1 }
            }
            (Some(first), None, _, true) => Self::Part { start: first, length: size - first },
            (None, Some(0), true, _) => Self::Outside,
            (None, Some(_), true, _) if size == 0 => Self::Outside,
            (None, Some(length), true, _) => {
                let length = length.min(size);
                Self::Part { start: size - length, length }
            }
            _ => Self::All,
        }
    }
}

/// Which bytes of an upload a chunk says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub start: u64,
    pub length: u64,
}

impl Chunk {
    /// Reads a `Content-Range` header: `FIRST-LAST`, and as other tools write it `bytes FIRST-LAST/TOTAL`.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let range = header.strip_prefix("bytes ").unwrap_or(header).trim();
        let range = range.split_once('/').map_or(range, |(range, _)| range);
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        Some(Self { start: first, length: last.checked_sub(first)?.checked_add(1)? })
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}
