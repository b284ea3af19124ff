//! Release files.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let _ = knarr_deb::release::Release::parse(text);
});
