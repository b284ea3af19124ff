//! Configurations of containers: planned or refused for every kind of host, never a panic.
#![no_main]

use knarr_runtime::plan::{Facts, Plan};
use knarr_runtime::spec::Spec;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = Spec::parse(bytes) else { return };
    for (unified, rootless) in [(false, false), (false, true), (true, false), (true, true)] {
        let (id, bundle) = ("x".to_owned(), "/bundle".into());
        let _ = Plan::new(&spec, &Facts { id, bundle, unified, rootless, ..Facts::default() });
    }
});
