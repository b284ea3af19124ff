//! Checking signatures with gpg, in a home that is made for each check and thrown away.

use std::io;
use std::sync::Once;

use gpgme::{Context, HashAlgorithm, Protocol, SignatureSummary, VerificationResult};

use crate::{Keyring, PgpError};

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
    check_frame(signed)?;
    let mut text = Vec::new();
    let fingerprints = with_context(keyring, |context| context.verify_opaque(signed, &mut text))?;
    Ok(Signed { text, fingerprints })
}

/// Checks a text whose signature lies beside it (`Release` and `Release.gpg`).
pub fn verify_detached(keyring: &Keyring, text: &[u8], signature: &[u8]) -> Result<Signed, PgpError> {
    let fingerprints = with_context(keyring, |context| context.verify_detached(signature, text))?;
    Ok(Signed { text: text.to_vec(), fingerprints })
}

/// Nothing may stand before or behind the signed text: other readers could be led to read it.
fn check_frame(signed: &[u8]) -> Result<(), PgpError> {
    let bad = |reason| Err(PgpError::Malformed { reason });
    if signed.contains(&0) {
        return bad("it holds a NUL byte");
    }
    if !signed.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----\n") {
        return if find(signed, b"-----BEGIN PGP").is_none() {
            Err(PgpError::NoSignature)
        } else {
            bad("something stands before the signed text")
        };
    }
    let Some(end) = find(signed, b"\n-----END PGP SIGNATURE-----") else {
        return bad("its signature never ends");
    };
    if find(signed, b"\n-----BEGIN PGP SIGNATURE-----").is_none() {
        return Err(PgpError::NoSignature);
    }
    let behind = &signed[end + "\n-----END PGP SIGNATURE-----".len()..];
    if behind.iter().any(|byte| !byte.is_ascii_whitespace()) {
        bad("something stands behind the signature")
    } else {
        Ok(())
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn with_context(
    keyring: &Keyring,
    verify: impl FnOnce(&mut Context) -> gpgme::Result<VerificationResult>,
) -> Result<Vec<String>, PgpError> {
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
    match verify(&mut context) {
        Ok(result) => judge(&result),
        Err(error) if error.code() == gpgme::Error::NO_DATA.code() => Err(PgpError::NoSignature),
        Err(error) => Err(PgpError::Engine(error)),
    }
}

fn make_home(keyring: &Keyring) -> io::Result<tempfile::TempDir> {
    let home = tempfile::Builder::new().prefix("knarr-gpg-").tempdir()?;
    std::fs::write(home.path().join("pubring.gpg"), &keyring.keys)?;
    std::fs::write(home.path().join("gpg.conf"), OPTIONS)?;
    Ok(home)
}

const OPTIONS: &str =
    "trust-model always\nno-autostart\nno-auto-key-retrieve\nno-auto-check-trustdb\nlock-never\n";

/// One good signature by a known, living key is enough; without one the gravest fault is told.
fn judge(result: &VerificationResult) -> Result<Vec<String>, PgpError> {
    let mut good = Vec::new();
    let mut unknown = Vec::new();
    let mut fault = None;
    for signature in result.signatures() {
        let fingerprint = signature.fingerprint().unwrap_or("of unknown fingerprint").to_owned();
        let Err(status) = signature.status() else {
            if signature.summary().contains(SignatureSummary::KEY_REVOKED) {
                keep_gravest(&mut fault, PgpError::KeyRevoked { fingerprint });
                continue;
            }
            match weak_hash(signature.hash_algorithm()) {
                Some(hash) => keep_gravest(&mut fault, PgpError::WeakDigest { hash }),
                None => good.push(fingerprint),
            }
            continue;
        };
        let code = status.code();
        if code == gpgme::Error::NO_PUBKEY.code() {
            unknown.push(fingerprint);
        } else if code == gpgme::Error::KEY_EXPIRED.code() {
            keep_gravest(&mut fault, PgpError::KeyExpired { fingerprint });
        } else if code == gpgme::Error::CERT_REVOKED.code() {
            keep_gravest(&mut fault, PgpError::KeyRevoked { fingerprint });
        } else if code == gpgme::Error::SIG_EXPIRED.code() {
            keep_gravest(&mut fault, PgpError::SignatureExpired { fingerprint });
        } else {
            fault = Some(PgpError::BadSignature);
        }
    }
    match (good.is_empty(), fault, unknown.is_empty()) {
        // A signature that does not fit its text means that the text was changed.
        (_, Some(PgpError::BadSignature), _) => Err(PgpError::BadSignature),
        (false, ..) => Ok(good),
        (true, Some(fault), _) => Err(fault),
        (true, None, false) => Err(PgpError::UnknownKey { fingerprints: unknown }),
        (true, None, true) => Err(PgpError::NoSignature),
    }
}

fn keep_gravest(fault: &mut Option<PgpError>, new: PgpError) {
    if fault.is_none() {
        *fault = Some(new);
    }
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
