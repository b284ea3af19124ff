//! Logs of both kinds: whole, damaged or cut off, never a panic, and the last lines are no more than were asked for.
#![no_main]

use std::sync::OnceLock;

use knarr_engine::logs::try_read;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let Some((first, bytes)) = bytes.split_first() else { return };
    let local = first & 1 == 1;
    let directory = DIRECTORY.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let name = if local { "local.log" } else { "json.log" };
    std::fs::write(directory.join(name), bytes).unwrap();
    let all = try_read(directory, local, None);
    let tail = u64::from(first >> 1);
    if let Ok(last) = try_read(directory, local, Some(tail)) {
        assert!(last as u64 <= tail);
        assert!(all.is_err() || all.unwrap() >= last);
    }
});
