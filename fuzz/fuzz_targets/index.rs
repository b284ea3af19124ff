//! Package indices: a text that is taken in can be read back from its compact form; a compact form
//! that was damaged is refused or gives other texts, but never panics.
#![no_main]

use std::sync::Arc;

use knarr_base::Digest;
use knarr_deb::packages::{IndexBuilder, PackagesIndex};

fn read(bytes: Vec<u8>) {
    let Ok(index) = PackagesIndex::open(Arc::new(bytes)) else { return };
    for number in index.iter().take(64) {
        let record = index.record(number);
        let _ = (record.name(), record.version(), record.depends(), record.size_bytes(), record.digest());
        let _ = index.named(record.name()).chain(index.providers(record.name())).count();
    }
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    read(text.to_vec());
    let mut builder = IndexBuilder::new();
    if builder.push_text(text).is_err() {
        return;
    }
    let Ok(bytes) = builder.finish(Digest::of(text)) else { return };
    read(bytes.clone());
    let mut damaged = bytes;
    for (position, byte) in text.iter().enumerate().take(8) {
        let place = (usize::from(*byte) << 3 | position) % damaged.len().max(1);
        if let Some(target) = damaged.get_mut(place) {
            *target ^= byte | 1;
        }
    }
    read(damaged);
});
