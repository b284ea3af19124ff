//! Layers: applied to a root nothing leaves it, and the listing tells what is there.
#![no_main]

use knarr_tree::changeset::{Listing, apply, unpack_for_overlay};
use knarr_tree::root::Root;
use knarr_tree::unpack::Limits;

libfuzzer_sys::fuzz_target!(|layers: (&[u8], &[u8])| {
    let holder = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::write(holder.path().join("victim"), b"whole").unwrap();
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let root = Root::create(&holder.path().join("root")).unwrap();
    let mut listing = Listing::default();
    for mut layer in [layers.0, layers.1] {
        let listed = listing.add_layer(&mut &*layer, &limits, &mut |_, _| Ok(()));
        let applied = apply(&root, &mut layer, false, &limits);
        if applied.is_err() || listed.is_err() {
            break;
        }
    }
    let overlay = Root::create(&holder.path().join("overlay")).unwrap();
    let _ = unpack_for_overlay(&overlay, &mut &*layers.1, false, &limits);
    assert_eq!(std::fs::read_dir(holder.path()).unwrap().count(), 3);
    assert_eq!(std::fs::read(holder.path().join("victim")).unwrap(), b"whole");
});
