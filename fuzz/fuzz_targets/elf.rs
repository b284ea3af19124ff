//! Programs and libraries of packages: what they ask for is bounded, whatever they say.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(elf)) = knarr_factory::slim::elf::parse(bytes) {
        assert!(elf.needed.len() <= 1 << 14);
        assert!(elf.needed.iter().chain(&elf.soname).chain(&elf.interpreter).all(|name| name.len() <= 4096));
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = knarr_factory::slim::python::imports(&text);
    let _ = knarr_factory::slim::perl::uses(&text);
    let _ = knarr_factory::slim::words::shebang(bytes);
    for word in knarr_factory::slim::words::words(&text) {
        assert!(text.contains(word));
    }
    for path in knarr_factory::slim::words::paths(&text) {
        assert!(path.starts_with('/'));
    }
});
