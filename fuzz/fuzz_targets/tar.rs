//! Tarballs, unpacked for real: nothing may appear outside the root.
#![no_main]

use knarr_tree::root::Root;
use knarr_tree::unpack::{Everything, Limits, unpack};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let holder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = holder.path().join("root");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(holder.path().join("victim"), b"whole").unwrap();
    let root = Root::open(&path).unwrap();
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    if let Ok(entries) = unpack(&root, &mut &*bytes, &Everything, &limits) {
        assert!(entries.len() <= 100);
    }
    assert_eq!(std::fs::read_dir(holder.path()).unwrap().count(), 2);
    assert_eq!(std::fs::read(holder.path().join("victim")).unwrap(), b"whole");
});
