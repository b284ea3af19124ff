//! Checking signatures with gpg, in a home that is made for each check and thrown away.

use std::io;
use std::sync::Once;

use gpgme::{Context, HashAlgorithm, Protocol, SignatureSummary, VerificationResult};

use crate::{Keyring, PgpError, armor};

/// A text that a trusted key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    text: Vec<u8>,
    fingerprints: Vec<String>,
}

impl Signed {
    /// The bytes that were signed: no others may be read.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Of the keys whose signatures are good.
    #[must_use]
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }
}

/// Checks a text that carries its signature around it (`InRelease`).
pub fn verify_inline(keyring: &Keyring, signed: &[u8]) -> Result<Signed, PgpError> {
    check_text(signed)?;
    armor::signatures(check_frame(signed)?)?;
    let mut text = Vec::new();
    let fingerprints = with_context(keyring, |context| context.verify_opaque(signed, &mut text))?;
    Ok(Signed { text, fingerprints })
}

/// Checks a text whose signature lies beside it (`Release` and `Release.gpg`).
pub fn verify_detached(keyring: &Keyring, text: &[u8], signature: &[u8]) -> Result<Signed, PgpError> {
    check_text(text)?;
    if signature.iter().all(u8::is_ascii_whitespace) {
        return Err(PgpError::NoSignature);
    }
    let signature = armor::signatures(signature)?;
    let fingerprints = with_context(keyring, |context| context.verify_detached(signature, text))?;
    Ok(Signed { text: text.to_vec(), fingerprints })
}

/// Far more than any Release file has.
const MAX_TEXT_BYTES: usize = 64 << 20;
/// gpg cuts longer lines of a signed text.
const MAX_LINE_BYTES: usize = 16 << 10;

fn check_text(text: &[u8]) -> Result<(), PgpError> {
    let bad = |reason| Err(PgpError::Malformed { reason });
    if text.len() > MAX_TEXT_BYTES {
        bad("it is longer than 64 MiB")
    } else if text.contains(&0) {
        bad("it holds a NUL byte")
    } else if text.split(|byte| *byte == b'\n').any(|line| line.len() > MAX_LINE_BYTES) {
        bad("it has a line longer than 16 KiB")
    } else {
        Ok(())
    }
}

const BEGIN_TEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";

/// The armoured signature of a text that is framed as section 7 says and in no other way: whatever
/// stood before, between or behind could lead another reader, or gpg, to read something else.
fn check_frame(signed: &[u8]) -> Result<&[u8], PgpError> {
    let bad = |reason| Err(PgpError::Malformed { reason });
    let mut at = 0;
    let mut lines = signed.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let start = at;
        at += line.len();
        (start, line.trim_ascii_end())
    });
    if lines.next().is_none_or(|(_, line)| line != BEGIN_TEXT.as_bytes()) {
        let framed = signed.windows(14).any(|window| window == b"-----BEGIN PGP");
        return if framed {
            bad("something stands before the signed text")
        } else {
            Err(PgpError::NoSignature)
        };
    }
    for (_, line) in lines.by_ref().take_while(|(_, line)| !line.is_empty()) {
        if !line.starts_with(b"Hash: ") {
            return bad("its head holds something else than names of hashes");
        }
    }
    let start = loop {
        match lines.next() {
            None => return Err(PgpError::NoSignature),
            Some((start, line)) if line == BEGIN_SIGNATURE.as_bytes() => break start,
            Some((_, line)) if line.starts_with(b"-") && !line.starts_with(b"- ") && line != b"-" => {
                return bad("a line of it begins with an unescaped dash");
            }
            Some(_) => {}
        }
    };
    let end = loop {
        match lines.next() {
            None => return bad("its signature never ends"),
            Some((start, line)) if line == END_SIGNATURE.as_bytes() => break start + END_SIGNATURE.len(),
            Some((_, line)) if line.starts_with(b"-") => return bad("its signature is damaged"),
            Some(_) => {}
        }
    };
    if signed[end..].iter().any(|byte| !byte.is_ascii_whitespace()) {
        return bad("something stands behind the signature");
    }
    Ok(&signed[start..end])
}

fn with_context(
    keyring: &Keyring,
    verify: impl FnOnce(&mut Context) -> gpgme::Result<VerificationResult>,
) -> Result<Vec<String>, PgpError> {
    let (_home, mut context) = open_context(keyring)?;
    match verify(&mut context) {
        Ok(result) => {
            let good = judge(&result)?;
            check_pins(&mut context, &keyring.pinned, good)
        }
        Err(error) if error.code() == gpgme::Error::NO_DATA.code() => Err(PgpError::NoSignature),
        Err(error) => Err(PgpError::Engine(error)),
    }
}

/// The keys of these fingerprints alone, in binary form.
pub(crate) fn export(keyring: &Keyring, fingerprints: &[String]) -> Result<Vec<u8>, PgpError> {
    let (_home, mut context) = open_context(keyring)?;
    let mut keys = Vec::new();
    for fingerprint in fingerprints {
        let mut key = Vec::new();
        let found = context.export([fingerprint.as_str()], gpgme::ExportMode::empty(), &mut key);
        found.map_err(PgpError::Engine)?;
        if key.is_empty() {
            return Err(PgpError::NoSuchKey { fingerprint: fingerprint.clone() });
        }
        keys.extend(key);
    }
    Ok(keys)
}

/// A gpg that knows these keys, in a home that goes when the first of the two is dropped.
fn open_context(keyring: &Keyring) -> Result<(tempfile::TempDir, Context), PgpError> {
    let home = make_home(keyring).map_err(PgpError::Home)?;
    static START: Once = Once::new();
    START.call_once(|| {
        // Without this gpgme starts six processes to ask where things are.
        gpgme::set_flag("disable-gpgconf", "1").unwrap_or_default();
    });
    gpgme::init();
    let mut context = Context::from_protocol(Protocol::OpenPgp).map_err(PgpError::Engine)?;
    let path =
        home.path().to_str().ok_or_else(|| PgpError::Home(io::Error::other("its path is no UTF-8 text")))?;
    context.set_engine_home_dir(path).map_err(PgpError::Engine)?;
    context.set_offline(true);
    Ok((home, context))
}

fn make_home(keyring: &Keyring) -> io::Result<tempfile::TempDir> {
    let home = tempfile::Builder::new().prefix("knarr-gpg-").tempdir()?;
    std::fs::write(home.path().join("pubring.gpg"), &keyring.keys)?;
    std::fs::write(home.path().join("gpg.conf"), OPTIONS)?;
    Ok(home)
}

const OPTIONS: &str =
    "trust-model always\nno-autostart\nno-auto-key-retrieve\nno-auto-check-trustdb\nlock-never\n";

/// One good signature by a known, living key is enough, whatever keys others beside it are of: archives
/// change keys and algorithms. But one that does not fit its text means that the text was changed; gpg
/// itself looks no further then. Without a good one the gravest fault is told.
fn judge(result: &VerificationResult) -> Result<Vec<String>, PgpError> {
    let mut good = Vec::new();
    let mut unknown = Vec::new();
    let mut faults = Vec::new();
    for signature in result.signatures() {
        let fingerprint = signature.fingerprint().unwrap_or("of unknown fingerprint").to_owned();
        match fault_of(&signature, &fingerprint) {
            None => good.push(fingerprint),
            Some(PgpError::UnknownKey { .. }) => unknown.push(fingerprint),
            Some(fault) => faults.push(fault),
        }
    }
    let changed = faults.iter().any(|fault| matches!(fault, PgpError::BadSignature));
    if !good.is_empty() && !changed {
        return Ok(good);
    }
    match faults.into_iter().min_by_key(rank) {
        Some(fault) => Err(fault),
        None if unknown.is_empty() => Err(PgpError::NoSignature),
        None => Err(PgpError::UnknownKey { fingerprints: unknown }),
    }
}

fn fault_of(signature: &gpgme::Signature<'_>, fingerprint: &str) -> Option<PgpError> {
    let fingerprint = fingerprint.to_owned();
    let hash = weak_hash(signature.hash_algorithm());
    let Err(status) = signature.status() else {
        if signature.summary().contains(SignatureSummary::KEY_REVOKED) {
            return Some(PgpError::KeyRevoked { fingerprint });
        }
        return hash.map(|hash| PgpError::WeakDigest { hash });
    };
    let code = status.code();
    let is = |error: gpgme::Error| code == error.code();
    Some(if is(gpgme::Error::NO_PUBKEY) {
        PgpError::UnknownKey { fingerprints: vec![fingerprint] }
    } else if is(gpgme::Error::BAD_SIGNATURE) {
        PgpError::BadSignature
    } else if is(gpgme::Error::KEY_EXPIRED) {
        PgpError::KeyExpired { fingerprint }
    } else if is(gpgme::Error::CERT_REVOKED) {
        PgpError::KeyRevoked { fingerprint }
    } else if is(gpgme::Error::SIG_EXPIRED) {
        PgpError::SignatureExpired { fingerprint }
    } else if let Some(hash) = hash {
        PgpError::WeakDigest { hash }
    } else {
        PgpError::Unsupported { fingerprint, reason: status.to_string() }
    })
}

/// A signature that does not fit its text tells more than one that is merely too old.
const fn rank(fault: &PgpError) -> u8 {
    match fault {
        PgpError::BadSignature => 0,
        PgpError::KeyRevoked { .. } => 1,
        PgpError::KeyExpired { .. } => 2,
        PgpError::SignatureExpired { .. } => 3,
        PgpError::WeakDigest { .. } => 4,
        _ => 5,
    }
}

/// Signatures come from subkeys, people write down primary keys: either may be pinned.
fn check_pins(context: &mut Context, pinned: &[String], good: Vec<String>) -> Result<Vec<String>, PgpError> {
    if pinned.is_empty() {
        return Ok(good);
    }
    let mut is_pinned = |fingerprint: &String| {
        let holds = |fingerprint: &str| pinned.iter().any(|pin| pin.eq_ignore_ascii_case(fingerprint));
        let exactly = holds(&format!("{fingerprint}!"));
        let primary = |key: &gpgme::Key| key.fingerprint().is_ok_and(holds);
        exactly || holds(fingerprint) || context.get_key(fingerprint.as_str()).is_ok_and(|key| primary(&key))
    };
    let (allowed, others): (Vec<_>, Vec<_>) = good.into_iter().partition(|good| is_pinned(good));
    if allowed.is_empty() {
        return Err(PgpError::NotPinned { fingerprints: others, pinned: pinned.to_vec() });
    }
    Ok(allowed)
}

fn weak_hash(hash: HashAlgorithm) -> Option<String> {
    matches!(
        hash,
        HashAlgorithm::Md5
            | HashAlgorithm::Sha1
            | HashAlgorithm::RipeMd160
            | HashAlgorithm::Md2
            | HashAlgorithm::Md4
    )
    .then(|| format!("{hash:?}").to_uppercase())
}

#[cfg(test)]
mod tests;
