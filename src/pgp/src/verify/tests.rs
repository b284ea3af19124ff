use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

const TEXT: &str = "Suite: test\nCodename: test\n- with a dash\n";

/// A key of its own, in a home of its own.
struct Key {
    home: TempDir,
}

impl Key {
    fn new() -> Self {
        Self::made(&[], "never")
    }

    fn made(when: &[&str], expires: &str) -> Self {
        let key = Self { home: tempfile::tempdir().unwrap() };
        let user = "Test Archive <test@example.org>";
        key.gpg(when, &["--quick-generate-key", user, "rsa2048", "sign", expires], b"");
        key
    }

    fn gpg(&self, when: &[&str], arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path()).args([
            "--batch",
            "--yes",
            "--quiet",
            "--passphrase",
            "",
        ]);
        command
            .args(when)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn public(&self, armoured: bool) -> Vec<u8> {
        self.gpg(&[], if armoured { &["--armor", "--export"] } else { &["--export"] }, b"")
    }

    fn keyring(&self) -> Keyring {
        Keyring::from_bytes("test.gpg", &self.public(false)).unwrap()
    }

    fn sign(&self, options: &[&str]) -> Vec<u8> {
        self.gpg(options, &["--clearsign"], TEXT.as_bytes())
    }

    fn fingerprint(&self) -> String {
        let listing = String::from_utf8(self.gpg(&[], &["--with-colons", "--list-keys"], b"")).unwrap();
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    fn revoke(&self) {
        let path = self.home.path().join("openpgp-revocs.d").join(format!("{}.rev", self.fingerprint()));
        let text = fs::read_to_string(path).unwrap().replace(":-----BEGIN", "-----BEGIN");
        self.gpg(&[], &["--import"], text.as_bytes());
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // Only the agent of this home.
        let _ =
            Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).output();
    }
}

fn check_malformed(signed: &[u8], expected: &str) {
    let error = verify_inline(&Keyring::default(), signed).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?} in {error:?}");
}

fn edited(signed: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(signed.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn a_good_signature_gives_exactly_the_signed_text() {
    let key = Key::new();
    for armoured in [false, true] {
        let keyring = Keyring::from_bytes("test", &key.public(armoured)).unwrap();
        let signed = verify_inline(&keyring, &key.sign(&[])).unwrap();
        assert_eq!(String::from_utf8_lossy(signed.text()), TEXT);
        assert_eq!(signed.fingerprints(), [key.fingerprint()]);
    }
    let path = key.home.path().join("export.asc");
    fs::write(&path, key.public(true)).unwrap();
    let keyring = Keyring::from_files(&[path]).unwrap();
    assert_eq!(keyring, key.keyring());
    assert!(matches!(
        Keyring::from_files(&[PathBuf::from("/nowhere.gpg")]).unwrap_err(),
        PgpError::Keyring { .. }
    ));
}

#[test]
fn a_changed_text_has_a_bad_signature() {
    let key = Key::new();
    let changed = edited(&key.sign(&[]), "Suite: test", "Suite: evil");
    assert!(matches!(verify_inline(&key.keyring(), &changed).unwrap_err(), PgpError::BadSignature));
}

#[test]
fn a_key_that_the_keyring_lacks_is_named() {
    let (key, other) = (Key::new(), Key::new());
    match verify_inline(&other.keyring(), &key.sign(&[])).unwrap_err() {
        PgpError::UnknownKey { fingerprints } => assert_eq!(fingerprints, [key.fingerprint()]),
        error => panic!("{error}"),
    }
    let empty = verify_inline(&Keyring::default(), &key.sign(&[])).unwrap_err();
    assert!(matches!(empty, PgpError::UnknownKey { .. }), "{empty}");
}

/// What archives do when they change keys: old and new sign, each machine knows one of them.
#[test]
fn one_good_signature_among_several_is_enough() {
    let (known, unknown) = (Key::new(), Key::new());
    let detached = |key: &Key, text: &str| key.gpg(&[], &["--detach-sign"], text.as_bytes());
    let (good, foreign) = (detached(&known, TEXT), detached(&unknown, TEXT));
    let bad = detached(&known, "another text");
    let dated = known.gpg(
        &["--faked-system-time", "20200601T000000", "--default-sig-expire", "1d", "--ignore-time-conflict"],
        &["--detach-sign"],
        TEXT.as_bytes(),
    );
    let check = |signatures: &[&[u8]], accepted: bool| {
        let outcome = verify_detached(&known.keyring(), TEXT.as_bytes(), &signatures.concat());
        assert_eq!(outcome.is_ok(), accepted, "{outcome:?}");
    };
    check(&[&good], true);
    check(&[&foreign, &good], true);
    check(&[&good, &foreign], true);
    check(&[&good, &dated], true);
    check(&[&dated, &good], true);
    check(&[&foreign], false);
    check(&[&dated], false);
    // In either order: the text was changed after somebody had signed it.
    check(&[&bad, &good], false);
    check(&[&good, &bad], false);
    check(&[&bad], false);
    check(&[&bad, &foreign], false);
}

#[test]
fn an_expired_key_is_told() {
    let when = ["--faked-system-time", "20200601T000000!"];
    let key = Key::made(&when, "1y");
    let error = verify_inline(&key.keyring(), &key.sign(&when)).unwrap_err();
    assert!(matches!(error, PgpError::KeyExpired { .. }), "{error}");
}

#[test]
fn an_expired_signature_is_told() {
    let when = ["--faked-system-time", "20200601T000000!"];
    let key = Key::made(&when, "never");
    let signed = key.sign(&[when[0], when[1], "--default-sig-expire", "1d"]);
    let error = verify_inline(&key.keyring(), &signed).unwrap_err();
    assert!(matches!(error, PgpError::SignatureExpired { .. }), "{error}");
}

#[test]
fn a_revoked_key_is_told() {
    let key = Key::new();
    let signed = key.sign(&[]);
    key.revoke();
    let error = verify_inline(&key.keyring(), &signed).unwrap_err();
    assert!(matches!(error, PgpError::KeyRevoked { .. }), "{error}");
}

#[test]
fn weak_hashes_prove_nothing() {
    let key = Key::new();
    for hash in ["SHA1", "RIPEMD160", "MD5"] {
        let signed = key.sign(&["--digest-algo", hash, "--allow-weak-digest-algos"]);
        let error = verify_inline(&key.keyring(), &signed).unwrap_err();
        assert!(matches!(error, PgpError::WeakDigest { .. }), "{hash}: {error}");
    }
}

#[test]
fn only_pinned_keys_count() {
    let key = Key::new();
    key.gpg(&[], &["--quick-add-key", &key.fingerprint(), "rsa2048", "sign", "never"], b"");
    let signed = key.sign(&[]);
    let with_pin = |pin: &str| {
        let mut keyring = key.keyring();
        keyring.pin(pin).unwrap();
        verify_inline(&keyring, &signed)
    };
    let subkey = verify_inline(&key.keyring(), &signed).unwrap().fingerprints()[0].clone();
    assert_ne!(subkey, key.fingerprint());
    for pin in [&key.fingerprint(), &key.fingerprint().to_lowercase(), &subkey] {
        assert_eq!(with_pin(pin).unwrap().fingerprints(), std::slice::from_ref(&subkey));
    }
    let other = "0123456789ABCDEF0123456789ABCDEF01234567";
    let error = with_pin(other).unwrap_err();
    assert!(matches!(error, PgpError::NotPinned { .. }) && error.to_string().contains(other), "{error}");
    for bad in ["", "DEADBEEF", "0123456789ABCDEF0123456789ABCDEF0123456G"] {
        assert!(matches!(Keyring::default().pin(bad).unwrap_err(), PgpError::BadFingerprint { .. }));
    }
}

#[test]
fn a_narrowed_keyring_holds_the_pinned_keys_alone() {
    let (key, other) = (Key::new(), Key::new());
    let mut both = key.keyring();
    both.add_bytes("other", &other.public(true)).unwrap();
    both.pin(&key.fingerprint()).unwrap();
    let narrowed = both.narrowed().unwrap();
    assert_eq!(narrowed.as_bytes(), key.public(false));
    assert!(verify_inline(&narrowed, &key.sign(&[])).is_ok());
    assert!(matches!(verify_inline(&narrowed, &other.sign(&[])), Err(PgpError::UnknownKey { .. })));
    both.pin("0123456789ABCDEF0123456789ABCDEF01234567").unwrap();
    assert!(matches!(both.narrowed().unwrap_err(), PgpError::NoSuchKey { .. }));
}

#[test]
fn an_exclamation_mark_pins_the_very_key() {
    let key = Key::new();
    key.gpg(&[], &["--quick-add-key", &key.fingerprint(), "rsa2048", "sign", "never"], b"");
    let signed = key.sign(&[]);
    let subkey = verify_inline(&key.keyring(), &signed).unwrap().fingerprints()[0].clone();
    let check = |pin: String| {
        let mut keyring = key.keyring();
        keyring.pin(&pin).unwrap();
        verify_inline(&keyring, &signed).map(drop)
    };
    check(format!("{subkey}!")).unwrap();
    assert!(matches!(check(format!("{}!", key.fingerprint())).unwrap_err(), PgpError::NotPinned { .. }));
}

#[test]
fn a_detached_signature_may_hold_signatures_only() {
    let key = Key::new();
    // gpg would check the text that is packed inside, and never look at ours.
    let packed = key.gpg(&[], &["--compress-algo", "none", "--sign"], TEXT.as_bytes());
    let check = |signature: &[u8], expected: &str| {
        let error = verify_detached(&key.keyring(), b"Suite: evil\n", signature).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
    };
    check(&packed, "something else is packed");
    check(b"", "no signature");
    check(b" \n", "no signature");
    check(b"<html>not found</html>", "no armoured block");
    check(&key.gpg(&[], &["--detach-sign"], TEXT.as_bytes())[..20], "damaged");
    check(&key.gpg(&[], &["--armor", "--detach-sign"], TEXT.as_bytes()), "bad");
}

#[test]
fn the_frame_is_strict() {
    let key = Key::new();
    let signed = key.sign(&[]);
    let with = |before: &str, after: &str| [before.as_bytes(), &signed[..], after.as_bytes()].concat();
    check_malformed(TEXT.as_bytes(), "no signature");
    check_malformed(b"", "no signature");
    check_malformed(&with("Suite: evil\n", ""), "before the signed text");
    check_malformed(&with("\n", ""), "before the signed text");
    check_malformed(&with("", "Suite: evil\n"), "behind the signature");
    check_malformed(&[&signed[..], &signed[..]].concat(), "behind the signature");
    check_malformed(&edited(&signed, "Hash: ", "NotDashEscaped: x\nHash: "), "names of hashes");
    check_malformed(&edited(&signed, "Suite: test", "-Suite: test"), "unescaped dash");
    check_malformed(&edited(&signed, "-----END PGP SIGNATURE-----\n", ""), "never ends");
    check_malformed(&edited(&signed, "Suite: test", "Suite: \0test"), "NUL");
    check_malformed(&edited(&signed, "Suite", &"x".repeat(MAX_LINE_BYTES + 1)), "longer than 16 KiB");
    verify_inline(&key.keyring(), &with("", "\n\n")).unwrap();
}
