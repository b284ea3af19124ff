//! ASCII armour and packet frames, as far as keyrings and signatures need them.
//!
//! gpg would take armour itself, but not in a keyring file; and a signature that it is handed must
//! hold signatures alone: gpg also follows a text that is packed beside them.
//!
//! Spec: RFC 9580, sections 6 (armour) and 4.2 (packet headers).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::PgpError;

/// Binary keys from a file that may hold them armoured, perhaps several blocks.
pub(crate) fn keys(name: &str, bytes: &[u8]) -> Result<Vec<u8>, PgpError> {
    let bad = |reason| PgpError::BadKeyring { name: name.to_owned(), reason };
    if is_binary(bytes) {
        return Ok(bytes.to_vec());
    }
    if bytes.get(8..12) == Some(b"KBXf") {
        return Err(bad("it is a keybox, which apt does not read either: export the keys with gpg --export"));
    }
    blocks("PUBLIC KEY BLOCK", bytes).map_err(bad)
}

/// Binary signatures, armoured or not, and nothing else.
pub(crate) fn signatures(bytes: &[u8]) -> Result<Vec<u8>, PgpError> {
    let bad = |reason| PgpError::Malformed { reason };
    let packets = if is_binary(bytes) { bytes.to_vec() } else { blocks("SIGNATURE", bytes).map_err(bad)? };
    let mut rest = packets.as_slice();
    while !rest.is_empty() {
        let (tag, after) = skip_packet(rest).ok_or_else(|| bad("its signature is damaged"))?;
        if tag != SIGNATURE_TAG {
            return Err(bad("something else is packed with its signature"));
        }
        rest = after;
    }
    Ok(packets)
}

const SIGNATURE_TAG: u8 = 2;

/// The first byte of a binary packet has its top bit set; text never has.
fn is_binary(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| byte & 0x80 != 0)
}

fn blocks(kind: &str, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut rest = std::str::from_utf8(bytes).map_err(|_| "it is neither binary nor text")?;
    let (begin, end) = (format!("-----BEGIN PGP {kind}-----"), format!("-----END PGP {kind}-----"));
    let mut packets = Vec::new();
    while let Some((_, after)) = rest.split_once(&begin) {
        let (block, after) = after.split_once(&end).ok_or("an armoured block never ends")?;
        packets.extend(unpack(block).ok_or("an armoured block is damaged")?);
        rest = after;
    }
    if packets.is_empty() { Err("it holds no armoured block") } else { Ok(packets) }
}

fn unpack(block: &str) -> Option<Vec<u8>> {
    let lines = block.lines().map(str::trim).skip_while(|line| line.is_empty() || line.contains(": "));
    let mut body = String::new();
    let mut sum = None;
    for line in lines.filter(|line| !line.is_empty()) {
        match line.strip_prefix('=') {
            Some(encoded) if encoded.len() == 4 => sum = Some(STANDARD.decode(encoded).ok()?),
            _ => body.push_str(line),
        }
    }
    let packets = STANDARD.decode(body).ok()?;
    let promised = sum.is_none_or(|sum| sum == crc24(&packets).to_be_bytes()[1..]);
    promised.then_some(packets)
}

fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x00b7_04ce, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 16, |crc, _| {
            let shifted = crc << 1;
            (if shifted & 0x0100_0000 == 0 { shifted } else { shifted ^ 0x0186_4cfb }) & 0x00ff_ffff
        })
    })
}

/// The first packet's tag, and what follows it. Lengths that only its content tells are refused.
fn skip_packet(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let number = |length: usize| {
        let digits = rest.get(..length)?;
        Some((digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit)), length))
    };
    let (tag, (size, header)) = match (first & 0xc0, first & 3) {
        (0x80, kind @ 0..=2) => (first >> 2 & 15, number(1 << kind)?),
        (0xc0, _) => {
            let size = match *rest.first()? {
                small @ 0..=191 => (usize::from(small), 1),
                large @ 192..=223 => {
                    (((usize::from(large) - 192) << 8) + usize::from(*rest.get(1)?) + 192, 2)
                }
                255 => {
                    let digits = rest.get(1..5)?;
                    (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), 5)
                }
                _ => return None,
            };
            (first & 63, size)
        }
        _ => return None,
    };
    Some((tag, rest.get(header..)?.get(size..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc24_is_that_of_rfc_9580() {
        assert_eq!(crc24(b"123456789"), 0x0021_cf02);
    }

    #[test]
    fn packets_are_skipped_by_their_own_lengths() {
        assert_eq!(skip_packet(&[0x88, 2, 9, 9, 7]), Some((2, &[7][..])));
        assert_eq!(skip_packet(&[0x89, 0, 2, 9, 9]), Some((2, &[][..])));
        assert_eq!(skip_packet(&[0xc2, 2, 9, 9, 7]), Some((2, &[7][..])));
        let long = [&[0xcb, 192, 1][..], &[0; 193]].concat();
        assert_eq!(skip_packet(&long), Some((11, &[][..])));
        // Cut short, of a length that is not told, in parts.
        for bad in [&[0x88, 3, 9, 9][..], &[0x8b, 9], &[0xc2, 230, 9], &[0xc2], &[0x10]] {
            assert_eq!(skip_packet(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_block_is_told() {
        let block = |sum: &str| {
            format!(
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\nmQEN\n={sum}\n-----END PGP PUBLIC KEY BLOCK-----\n"
            )
        };
        let right = STANDARD.encode(&crc24(&STANDARD.decode("mQEN").unwrap()).to_be_bytes()[1..]);
        assert_eq!(keys("a", block(&right).as_bytes()).unwrap(), STANDARD.decode("mQEN").unwrap());
        let error = keys("mine.asc", block("AAAA").as_bytes()).unwrap_err().to_string();
        assert!(error.contains("mine.asc") && error.contains("damaged"), "{error}");
        assert!(keys("a", b"").unwrap_err().to_string().contains("no armoured block"));
        assert!(
            keys("a", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
                .unwrap_err()
                .to_string()
                .contains("never ends")
        );
    }
}
