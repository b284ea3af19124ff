//! .debs, unpacked for real: nothing may appear outside the root.
#![no_main]

use std::io::Read;

use knarr_deb::DebError;
use knarr_deb::package_file::with_package;
use knarr_tree::root::Root;
use knarr_tree::unpack::{Everything, Limits, unpack};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let holder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = holder.path().join("root");
    std::fs::create_dir(&path).unwrap();
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let _ = with_package(bytes, |_, data: &mut dyn Read| {
        let root = Root::open(&path).unwrap();
        let _ = unpack(&root, data, &Everything, &limits);
        Ok::<_, DebError>(())
    });
    assert_eq!(std::fs::read_dir(holder.path()).unwrap().count(), 1);
});
