//! Archives of images: whatever is loaded is whole, and nothing that was refused has a name.
#![no_main]

use knarr_store::{Store, archive, gc};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let holder = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::open(&holder.path().join("store")).unwrap();
    let loaded = archive::load(&store, "archive", bytes);
    let findings = gc::check(&store).unwrap();
    assert!(findings.iter().all(|finding| !finding.broken), "{findings:?}");
    if loaded.is_err() {
        return;
    }
    gc::prune(&store, gc::Which::All, true).unwrap();
    assert_eq!(gc::check(&store).unwrap(), []);
});
