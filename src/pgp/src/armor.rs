//! ASCII armour, as far as keyrings need it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::PgpError;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Binary keys from a file that may hold them armoured, perhaps several blocks.
pub(crate) fn keys(name: &str, bytes: &[u8]) -> Result<Vec<u8>, PgpError> {
    let bad = |reason| PgpError::BadKeyring { name: name.to_owned(), reason };
    // The first byte of a binary packet has its top bit set; text never has.
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Ok(bytes.to_vec());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is neither binary nor text"))?;
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (block, after) = after.split_once(END).ok_or_else(|| bad("an armoured block never ends"))?;
        keys.extend(block_keys(block).ok_or_else(|| bad("an armoured block is damaged"))?);
        rest = after;
    }
    if keys.is_empty() { Err(bad("it holds no key")) } else { Ok(keys) }
}

fn block_keys(block: &str) -> Option<Vec<u8>> {
    let lines = block.lines().map(str::trim).skip_while(|line| line.is_empty() || line.contains(": "));
    let mut body = String::new();
    let mut sum = None;
    for line in lines.filter(|line| !line.is_empty()) {
        match line.strip_prefix('=') {
            Some(encoded) if encoded.len() == 4 => sum = Some(STANDARD.decode(encoded).ok()?),
            _ => body.push_str(line),
        }
    }
    let keys = STANDARD.decode(body).ok()?;
    let promised = sum.is_none_or(|sum| sum == crc24(&keys).to_be_bytes()[1..]);
    promised.then_some(keys)
}

fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x00b7_04ce, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 16, |crc, _| {
            let shifted = crc << 1;
            (if shifted & 0x0100_0000 == 0 { shifted } else { shifted ^ 0x0186_4cfb }) & 0x00ff_ffff
        })
    })
}
