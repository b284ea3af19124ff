//! Names and documents of images: what was read is written and read again without a difference.
#![no_main]

use knarr_oci::{ImageConfig, ImageIndex, Manifest, Platform, Reference};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
    }
    if let Ok(index) = ImageIndex::parse(bytes) {
        assert_eq!(ImageIndex::parse(&index.to_bytes()).unwrap(), index);
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        assert_eq!(ImageConfig::parse(&config.to_bytes()).unwrap(), config);
    }
    let _ = knarr_oci::manifest::sniff(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        assert!(!reference.repository().contains(".."));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
    }
});
