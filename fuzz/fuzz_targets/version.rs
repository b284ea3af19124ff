//! Versions: the order is total, whatever is compared.
#![no_main]

use std::cmp::Ordering;

use knarr_deb::version::compare;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\n');
    let (a, b, c) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    assert_eq!(compare(a, a), Ordering::Equal);
    assert_eq!(compare(a, b), compare(b, a).reverse());
    if compare(a, b) != Ordering::Greater && compare(b, c) != Ordering::Greater {
        assert_ne!(compare(a, c), Ordering::Greater, "{a:?} {b:?} {c:?}");
    }
    if let Ok(version) = knarr_deb::version::PackageVersion::parse(a) {
        assert_eq!(version.as_str().trim(), a.trim());
    }
});
