//! Bodies of requests that make containers: refused with words, or a record that is written and read again the same.
#![no_main]

use knarr_engine::containers::{Record, try_request};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match try_request(bytes) {
        Ok(record) => {
            let text = serde_json::to_vec(&record).unwrap();
            let again: Record = serde_json::from_slice(&text).unwrap();
            assert_eq!(serde_json::to_vec(&again).unwrap(), text);
        }
        Err(error) => assert!(!error.message().is_empty()),
    }
});
