//! Suite files.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = knarr_mirror::suite::Suite::parse("input", text);
});
