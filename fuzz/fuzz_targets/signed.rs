//! Signed texts: whatever comes, nothing is good without a key.
#![no_main]

use std::sync::LazyLock;

use knarr_pgp::{Keyring, verify_detached, verify_inline};

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    Keyring::from_bytes("debian", include_bytes!("../../keyrings/debian-archive-keyring.gpg")).unwrap()
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Keyring::from_bytes("input", bytes);
    assert!(verify_inline(&KEYRING, bytes).is_err());
    assert!(verify_detached(&KEYRING, b"text", bytes).is_err());
});
