//! Stanzas: no text may panic, and each field lies in the text that it was read from.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    for stanza in knarr_deb::stanza::stanzas(text).flatten() {
        for (name, value) in stanza.fields() {
            assert!(!name.is_empty() && name.len() + value.len() <= text.len());
            assert!(stanza.get(name).is_some());
        }
    }
});
