//! The small files of a package: conffiles and triggers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = knarr_deb::conffiles::parse_conffiles(bytes);
    let _ = knarr_deb::triggers::parse_triggers(bytes);
});
