//! Keys that sign images: ECDSA on P-256.
//!
//! [`PrivateKey`] is read from cosign's encrypted files and from plain PKCS#8, [`PublicKey`] from PEM. A file says how
//! its password becomes a key; what would take too much time or memory is refused.
//!
//! Spec: RFC 5958 (PKCS#8), RFC 5480 (P-256 public keys), RFC 7468 (PEM), RFC 7914 (scrypt); cosign's KEYS document.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::SignError;

/// A key that signs.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

/// A key that checks signatures: a point on P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

/// Asks for a password when one is needed.
pub type Ask<'a> = &'a mut dyn FnMut() -> Result<String, SignError>;

const ENCRYPTED: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// What cosign called it at first.
const OLD_ENCRYPTED: &str = "ENCRYPTED COSIGN PRIVATE KEY";
const PLAIN: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";
/// A key file is a few hundred bytes.
pub const MAX_KEY_BYTES: u64 = 64 << 10;
/// The head of a P-256 public key: algorithm and curve, then an uncompressed point of 65 bytes.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// The content of an encrypted key file.
#[derive(Serialize, Deserialize)]
struct Envelope {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: KdfParameters,
    salt: String,
}

#[derive(Serialize, Deserialize)]
struct KdfParameters {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// What cosign writes today.
const PARAMETERS: KdfParameters = KdfParameters { n: 65536, r: 8, p: 1 };
const KDF: &str = "scrypt";
const CIPHER: &str = "nacl/secretbox";
/// 1 GiB of memory at most: scrypt takes 128 · N · r bytes.
const MAX_KDF_BYTES: u64 = 1 << 30;
const MAX_KDF_P: u32 = 16;

impl PrivateKey {
    /// Makes a new one.
    pub fn generate() -> Result<Self, SignError> {
        let random = SignError::Random { doing: "make a key" };
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_pkcs8("(new key)", document.map_err(|_| random)?.as_ref())
    }

    fn from_pkcs8(name: &str, bytes: &[u8]) -> Result<Self, SignError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, bytes, &SystemRandom::new());
        let pair = pair.map_err(|error| SignError::BadKey {
            name: name.to_owned(),
            reason: format!("it is no ECDSA P-256 key in PKCS#8 with its public half ({error})"),
        })?;
        Ok(Self { pair, pkcs8: bytes.to_vec() })
    }

    /// Reads a key file named `name`; one that is encrypted asks for its password.
    pub fn parse(name: &str, text: &str, ask: Ask<'_>) -> Result<Self, SignError> {
        let bad = |reason: &str| SignError::BadKey { name: name.to_owned(), reason: reason.to_owned() };
        let (label, body) = pem(text).ok_or_else(|| bad("it is no PEM file"))?;
        match label.as_str() {
            PLAIN => Self::from_pkcs8(name, &body),
            ENCRYPTED | OLD_ENCRYPTED => Self::from_pkcs8(name, &open(name, &body, &ask()?)?),
            PUBLIC => Err(bad("it is the public half: the private one signs")),
            "EC PRIVATE KEY" => {
                Err(bad("it is of the old form: `openssl pkcs8 -topk8 -nocrypt` makes it PKCS#8"))
            }
            other => Err(bad(&format!("it holds a {other:?}, expected {PLAIN:?} or {ENCRYPTED:?}"))),
        }
    }

    /// The key file, encrypted with a password.
    pub fn to_encrypted(&self, password: &str) -> Result<String, SignError> {
        let random = SystemRandom::new();
        let (mut salt, mut nonce) = ([0; 32], [0; 24]);
        let failed = |_| SignError::Random { doing: "encrypt the key" };
        random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).map_err(failed)?;
        self.seal(password, &salt, &nonce)
    }

    fn seal(&self, password: &str, salt: &[u8], nonce: &[u8; 24]) -> Result<String, SignError> {
        let failed =
            |reason: &str| SignError::BadKey { name: "(new key)".to_owned(), reason: reason.to_owned() };
        let cipher =
            XSalsa20Poly1305::new(&derive(password, salt, &PARAMETERS).map_err(|error| failed(&error))?);
        let sealed = cipher.encrypt(Nonce::from_slice(nonce), self.pkcs8.as_slice());
        let envelope = Envelope {
            kdf: Kdf { name: KDF.to_owned(), params: PARAMETERS, salt: BASE64_STANDARD.encode(salt) },
            cipher: Cipher { name: CIPHER.to_owned(), nonce: BASE64_STANDARD.encode(nonce) },
            ciphertext: BASE64_STANDARD.encode(sealed.map_err(|_| failed("it is too long"))?),
        };
        let body = serde_json::to_vec(&envelope).map_err(|error| failed(&error.to_string()))?;
        Ok(to_pem(ENCRYPTED, &body))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().to_vec())
    }

    /// Signs; the answer is an ASN.1 structure.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.pair.sign(&SystemRandom::new(), bytes);
        Ok(signed.map_err(|_| SignError::Random { doing: "sign" })?.as_ref().to_vec())
    }
}

impl PublicKey {
    /// Reads a PEM file named `name`.
    pub fn parse(name: &str, text: &str) -> Result<Self, SignError> {
        let bad = |reason: &str| SignError::BadKey { name: name.to_owned(), reason: reason.to_owned() };
        let (label, body) = pem(text).ok_or_else(|| bad("it is no PEM file"))?;
        if label != PUBLIC {
            return Err(bad(&format!("it holds a {label:?}, expected {PUBLIC:?}")));
        }
        let point = body.strip_prefix(&SPKI).filter(|point| point.len() == POINT_BYTES && point[0] == 4);
        Ok(Self(point.ok_or_else(|| bad("it is no ECDSA P-256 key"))?.to_vec()))
    }

    /// The PEM file.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_pem(PUBLIC, &[SPKI.as_slice(), &self.0].concat())
    }

    /// Whether the key made this signature of these bytes.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(bytes, signature).is_ok()
    }
}

/// Opens an encrypted key.
fn open(name: &str, body: &[u8], password: &str) -> Result<Vec<u8>, SignError> {
    let bad = |reason: String| SignError::BadKey { name: name.to_owned(), reason };
    let envelope: Envelope = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    let (kdf, cipher) = (&envelope.kdf, &envelope.cipher);
    if (kdf.name.as_str(), cipher.name.as_str()) != (KDF, CIPHER) {
        return Err(bad(format!("it uses {} and {}, expected {KDF} and {CIPHER}", kdf.name, cipher.name)));
    }
    let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| bad(error.to_string()));
    let (salt, nonce, sealed) = (decode(&kdf.salt)?, decode(&cipher.nonce)?, decode(&envelope.ciphertext)?);
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| bad("its nonce has not 24 bytes".to_owned()))?;
    let cipher = XSalsa20Poly1305::new(&derive(password, &salt, &kdf.params).map_err(bad)?);
    let opened = cipher.decrypt(Nonce::from_slice(&nonce), sealed.as_slice());
    opened.map_err(|_| SignError::WrongPassword { name: name.to_owned() })
}

fn derive(password: &str, salt: &[u8], parameters: &KdfParameters) -> Result<Key, String> {
    let KdfParameters { n, r, p } = *parameters;
    let bytes = n.saturating_mul(u64::from(r)).saturating_mul(128);
    if !n.is_power_of_two() || n < 2 || r == 0 || p == 0 || p > MAX_KDF_P || bytes > MAX_KDF_BYTES {
        return Err(format!("scrypt with N={n} r={r} p={p} is not what keys are made with"));
    }
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|error| error.to_string())?;
    let parameters = scrypt::Params::new(log_n, r, p).map_err(|error| error.to_string())?;
    let mut key = [0; 32];
    scrypt::scrypt(password.as_bytes(), salt, &parameters, &mut key).map_err(|error| error.to_string())?;
    Ok(Key::from(key))
}

/// Label and content of the first block of a PEM file.
fn pem(text: &str) -> Option<(String, Vec<u8>)> {
    let start = text.find("-----BEGIN ")? + "-----BEGIN ".len();
    let (label, rest) = text[start..].split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Some((label.to_owned(), BASE64_STANDARD.decode(body).ok()?))
}

pub(super) fn to_pem(label: &str, body: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(body);
    let lines = encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}
