//! Frames: what an engine and a shim send each other.
//!
//! One byte says what a frame is, four its length (big-endian), then come so many bytes, at most [`MAX_BYTES`].
//!
//! Spec: docs/formats/shim.md.

/// The largest payload.
pub const MAX_BYTES: usize = 1 << 20;
/// Kind and length.
pub const HEADER_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`super::Request`] as JSON.
    Request = b'Q',
    /// An [`super::Answer`] as JSON.
    Answer = b'A',
    /// Bytes for a program's input.
    Input = b'I',
    /// A program's input is at its end.
    End = b'E',
    /// Bytes of its output.
    Output = b'O',
    /// Bytes of its errors.
    Errors = b'R',
}

impl Kind {
    /// The kind of a byte.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            b'Q' => Self::Request,
            b'A' => Self::Answer,
            b'I' => Self::Input,
            b'E' => Self::End,
            b'O' => Self::Output,
            b'R' => Self::Errors,
            _ => return None,
        })
    }
}

/// The bytes before a payload of so many.
#[must_use]
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind as u8, length[0], length[1], length[2], length[3]]
}

/// A whole frame.
#[must_use]
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len())[..], payload].concat()
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a frame: it begins with {kind:#04x} and promises {length_bytes} bytes, at most {MAX_BYTES} may come"
)]
pub struct BadFrame {
    /// Its first byte.
    pub kind: u8,
    /// Its length.
    pub length_bytes: usize,
}

/// Reads a header.
///
/// # Errors
/// The kind is unknown, or the payload too long.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Result<(Kind, usize), BadFrame> {
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    match Kind::of(header[0]) {
        Some(kind) if length <= MAX_BYTES => Ok((kind, length)),
        _ => Err(BadFrame { kind: header[0], length_bytes: length }),
    }
}

/// Takes the first whole frame off `bytes`: its kind, and where its payload lies. `None` when it is not whole yet.
///
/// # Errors
/// As [`parse_header`].
pub fn parse(bytes: &[u8]) -> Result<Option<(Kind, std::ops::Range<usize>)>, BadFrame> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (kind, length) = parse_header(*header)?;
    let end = HEADER_BYTES + length;
    Ok((bytes.len() >= end).then_some((kind, HEADER_BYTES..end)))
}

#[cfg(test)]
mod tests {
    use super::{BadFrame, Kind, frame, parse};

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let bytes = frame(Kind::Output, b"hello");
        assert_eq!(parse(&bytes).unwrap(), Some((Kind::Output, 5..10)));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]).unwrap(), None);
        }
    }

    #[test]
    fn unknown_kinds_and_great_lengths_are_refused() {
        assert_eq!(parse(b"x\0\0\0\0"), Err(BadFrame { kind: b'x', length_bytes: 0 }));
        assert!(parse(b"I\xff\0\0\0").is_err());
    }

    #[test]
    fn no_bytes_are_too_strange() {
        // Whatever comes is a frame, the beginning of one, or refused; a frame lies in its bytes.
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..16)
                .map(|_| {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 56) as u8 & 0x5f
                })
                .collect();
            if let Ok(Some((_, place))) = parse(&bytes) {
                assert!(place.end <= bytes.len());
            }
        }
    }
}
