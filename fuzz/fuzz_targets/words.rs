//! What is typed after `knarr create`: ports, mounts, limits, devices, variables. One word a line; files are not read.
#![no_main]

use knarr_cli::try_words;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words: Vec<&str> = text.lines().collect();
    let files = ["env-file", "label-file", "seccomp", "cidfile"];
    if words.len() > 64 || words.iter().any(|word| files.iter().any(|file| word.contains(file))) {
        return;
    }
    if let Some(body) = try_words(&words) {
        assert!(body.is_object());
    }
});
