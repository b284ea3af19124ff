use std::fs;

use knarr_base::{Architecture, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, Manifest, Reference, media_type};
use knarr_store::gc::{Which, prune};
use knarr_store::{Store, companions};

use super::{PrivateKey, PublicKey, SignError, sign, verify};
use crate::FactoryError;

/// Made with openssl, scrypt of Python's hashlib and libsodium's secretbox.
const ENCRYPTED: &str = include_str!("testdata/encrypted.key");
const PLAIN: &str = include_str!("testdata/plain.key");
const PUBLIC: &str = include_str!("testdata/public.pub");

fn parse(text: &str, password: &str) -> Result<PrivateKey, SignError> {
    PrivateKey::parse("test.key", text, &mut || Ok(password.to_owned()))
}

fn image(store: &Store, name: &str) -> Descriptor {
    let ingest = store.ingest().unwrap();
    let config = ImageConfig::new(Architecture::native(), Timestamp(0)).to_bytes();
    let config = ingest.put(media_type::CONFIG, &config).unwrap();
    let manifest = Manifest::of_image(config, Vec::new());
    let descriptor = ingest.put(media_type::MANIFEST, &manifest.to_bytes()).unwrap();
    ingest.add(Some(name), &descriptor).unwrap();
    descriptor
}

const NAME: &str = "registry.example/app:1";

fn store() -> (tempfile::TempDir, Store, Descriptor, Reference) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let image = image(&store, NAME);
    (directory, store, image, Reference::parse(NAME).unwrap())
}

#[test]
fn keys_of_other_programs_are_read_and_ours_are_read_again() {
    let (plain, encrypted) = (parse(PLAIN, "").unwrap(), parse(ENCRYPTED, "correct horse").unwrap());
    let public = PublicKey::parse("test.pub", PUBLIC).unwrap();
    assert_eq!((plain.public(), encrypted.public()), (public.clone(), public.clone()));
    assert_eq!(public.to_text(), PUBLIC);
    assert!(public.verifies(b"text", &plain.sign(b"text").unwrap()));
    assert!(!public.verifies(b"Text", &plain.sign(b"text").unwrap()));
    let new = PrivateKey::generate().unwrap();
    let text = new.to_encrypted("secret").unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    assert_eq!(parse(&text, "secret").unwrap().public(), new.public());
}

#[test]
fn bad_keys_are_explained() {
    let told = |text: &str, password: &str| parse(text, password).map(drop).unwrap_err().to_string();
    assert!(told(ENCRYPTED, "wrong").contains("does not open"));
    assert!(told("nothing", "").contains("no PEM file"));
    assert!(told(PUBLIC, "").contains("public half"));
    assert!(told(&PLAIN.replace("PRIVATE", "EC PRIVATE"), "").contains("openssl pkcs8"));
    assert!(PublicKey::parse("x", PLAIN).is_err());
    // scrypt that would take 8 GiB.
    let envelope = br#"{"kdf":{"name":"scrypt","params":{"N":8388608,"r":8,"p":1},"salt":""},"cipher":{"name":"nacl/secretbox","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"ciphertext":""}"#;
    let text = super::keys::to_pem("ENCRYPTED SIGSTORE PRIVATE KEY", envelope);
    assert!(told(&text, "").contains("N=8388608"));
}

#[test]
fn a_signature_is_good_with_its_key_and_image_only() {
    let (_directory, store, image, name) = store();
    let (key, other) = (parse(PLAIN, "").unwrap(), PrivateKey::generate().unwrap());
    let unsigned = verify(&store, image.digest, &key.public());
    assert!(matches!(unsigned, Err(FactoryError::Sign(SignError::NotSigned { .. }))));
    let one = sign(&store.ingest().unwrap(), &image, &name, &key).unwrap();
    assert_eq!(verify(&store, image.digest, &key.public()).unwrap().len(), 1);
    let wrong = verify(&store, image.digest, &other.public()).unwrap_err().to_string();
    assert!(wrong.contains("none of the 1 signatures") && wrong.contains("another key"), "{wrong}");
    // The same key once more changes nothing, another key adds its own.
    assert_eq!(sign(&store.ingest().unwrap(), &image, &name, &key).unwrap(), one);
    sign(&store.ingest().unwrap(), &image, &name, &other).unwrap();
    for key in [key.public(), other.public()] {
        assert_eq!(verify(&store, image.digest, &key).unwrap().len(), 1);
    }
}

#[test]
fn a_signature_of_another_image_is_not_taken() {
    let (_directory, store, image, name) = store();
    let key = parse(PLAIN, "").unwrap();
    let signed = sign(&store.ingest().unwrap(), &image, &name, &key).unwrap();
    let mut manifest: Manifest = Manifest::parse(&store.read(&signed, 1 << 20).unwrap()).unwrap();
    let ingest = store.ingest().unwrap();
    let config =
        ingest.put(media_type::CONFIG, b"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}").unwrap();
    let victim =
        ingest.put(media_type::MANIFEST, &Manifest::of_image(config, Vec::new()).to_bytes()).unwrap();
    ingest.add(Some("registry.example/victim:1"), &victim).unwrap();
    manifest.subject = Some(victim.bare());
    let forged = ingest.put(media_type::MANIFEST, &manifest.to_bytes()).unwrap();
    ingest.add(None, &forged).unwrap();
    let error = verify(&store, victim.digest, &key.public()).unwrap_err().to_string();
    assert!(error.contains(&format!("it is of image {}", image.digest)), "{error}");
}

#[test]
fn a_signature_belongs_to_its_image_and_goes_with_it() {
    let (_directory, store, image, name) = store();
    let key = parse(PLAIN, "").unwrap();
    let signed = sign(&store.ingest().unwrap(), &image, &name, &key).unwrap();
    let found = companions(&store, &image).unwrap();
    let tag = format!("sha256-{}.sig", image.digest.hex());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].descriptor.digest, found[0].tag.as_deref()), (signed.digest, Some(tag.as_str())));
    assert!(store.find(&format!("registry.example/app:{tag}")).is_ok());
    prune(&store, Which::None, true).unwrap();
    assert!(store.find(&format!("registry.example/app:{tag}")).is_ok());
    store.untag(NAME).unwrap();
    prune(&store, Which::Unnamed, true).unwrap();
    assert_eq!(fs::read_dir(store.path().join("blobs/sha256")).unwrap().count(), 0);
}
