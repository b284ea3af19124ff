//! Locks: what was read is written and read again without a difference.
#![no_main]

use std::path::Path;

use knarr_bootstrap::lock::{Lock, diff};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(Path::new("lock"), text) else { return };
    let again = Lock::parse(Path::new("lock"), &lock.to_text().unwrap()).unwrap();
    assert!(diff(&lock, &again).is_empty());
});
