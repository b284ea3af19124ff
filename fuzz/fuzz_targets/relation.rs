//! Relations: what is read is part of the text.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    for relation in knarr_deb::relation::parse_relations(text).into_iter().flatten().flatten() {
        assert!(!relation.name.is_empty() && text.contains(relation.name));
    }
});
