//! Java's store of trusted certificates, which its runtime reads instead of a PEM bundle.
//!
//! [`of_bundle`] is pure: a bundle's certificates in, the bytes of a store out. Debian makes the same with a script and
//! a Java program; production images run neither.
//!
//! Spec: the Java KeyStore format "JKS", version 2, as `sun.security.provider.JavaKeyStore` describes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// What everybody's store has; it keeps no secret.
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";

/// The store of all certificates of a PEM bundle. `time_ms` is when they were added, in milliseconds since the epoch.
#[must_use]
pub fn of_bundle(bundle: &str, time_ms: i64) -> Vec<u8> {
    let certificates: Vec<Vec<u8>> = certificates(bundle).collect();
    let mut store = Vec::new();
    for number in [MAGIC, VERSION, certificates.len() as u32] {
        store.extend_from_slice(&number.to_be_bytes());
    }
    for (position, certificate) in certificates.iter().enumerate() {
        store.extend_from_slice(&TRUSTED_CERTIFICATE.to_be_bytes());
        put_text(&mut store, &format!("debian:{position}"));
        store.extend_from_slice(&time_ms.to_be_bytes());
        put_text(&mut store, "X.509");
        store.extend_from_slice(&(certificate.len() as u32).to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let digest = digest(&store);
    store.extend_from_slice(digest.as_ref());
    store
}

fn certificates(bundle: &str) -> impl Iterator<Item = Vec<u8>> + '_ {
    let bodies = bundle.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = bodies.filter_map(|rest| rest.split("-----END CERTIFICATE-----").next());
    bodies.filter_map(|body| STANDARD.decode(body.split_whitespace().collect::<String>()).ok())
}

fn put_text(store: &mut Vec<u8>, text: &str) {
    store.extend_from_slice(&(text.len() as u16).to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

fn digest(store: &[u8]) -> ring::digest::Digest {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| context.update(&unit.to_be_bytes()));
    context.update(SALT);
    context.update(store);
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::of_bundle;

    #[test]
    fn a_store_holds_each_certificate_and_ends_with_its_digest() {
        let bundle = "# one\n-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBA\n==\n-----END CERTIFICATE-----\n";
        let store = of_bundle(bundle, 7);
        assert_eq!(&store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2]);
        assert!(store.windows(7).any(|window| window == [0, 0, 0, 3, 1, 2, 3]));
        assert_eq!(store[store.len() - 25..store.len() - 20], [0, 0, 0, 1, 4]);
        assert_eq!(of_bundle("", 7).len(), 12 + 20);
    }
}
