//! The header that says who a client is at a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = knarr_api::try_auth(bytes);
});
