//! Frames between engine and shim, in pieces of any size: none goes beyond its bytes, and what was read is written the same.
#![no_main]

use knarr_runtime::shim::frame::{frame, parse};
use knarr_runtime::shim::{Answer, Request};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((kind, place))) = parse(rest) {
        let payload = &rest[place.clone()];
        assert_eq!(frame(kind, payload), rest[..place.end]);
        if let Ok(request) = serde_json::from_slice::<Request>(payload) {
            let text = serde_json::to_vec(&request).unwrap();
            assert!(serde_json::from_slice::<Request>(&text).is_ok());
        }
        if let Ok(answer) = serde_json::from_slice::<Answer>(payload) {
            let text = serde_json::to_vec(&answer).unwrap();
            assert_eq!(serde_json::from_slice::<Answer>(&text).unwrap(), answer);
        }
        rest = &rest[place.end..];
    }
});
