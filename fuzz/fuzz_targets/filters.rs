//! Filters, times and durations of requests.
#![no_main]

use knarr_engine::filters::{Filters, duration, moment};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (moment(text), duration(text));
    let Ok(filters) = Filters::parse(text) else { return };
    let _ = (filters.allow(&["name", "label"]), filters.flag("dangling"), filters.until());
    let _ = filters.matches("name", "a name") | filters.labels(|key| (key == "a").then_some("b"));
});
