use super::*;

fn sample(name: &str, extra: &str) -> String {
    format!(
        "Package: {name}\nVersion: 1\nArchitecture: amd64\n{extra}Filename: pool/{name}.deb\nSize: 7\nSHA256: {}\n\n",
        "ab".repeat(32)
    )
}

fn build(text: &str, chunk: usize) -> Result<PackagesIndex, DebError> {
    let mut builder = IndexBuilder::new();
    for piece in text.as_bytes().chunks(chunk) {
        builder.push_text(piece)?;
    }
    PackagesIndex::open(Arc::new(builder.finish(Digest::of(b"x"))?))
}

#[test]
fn the_index_is_the_same_however_the_text_is_cut() {
    let text = sample("b", "Essential: yes\nDepends: c,\n d (>= 1)\nDescription: x\n y: z\n")
        + &sample("a", "Provides: v (= 2), w\n");
    let whole = build(&text, text.len()).unwrap();
    for chunk in 1..text.len() {
        let index = build(&text, chunk).unwrap();
        assert_eq!(index.all(), whole.all(), "cut every {chunk} bytes");
    }
    assert_eq!(whole.len(), 2);
    let b = whole.record(whole.named("b").next().unwrap());
    assert_eq!(
        (b.depends(), b.essential(), b.size_bytes(), b.filename()),
        ("c,\n d (>= 1)", true, 7, "pool/b.deb")
    );
    let providers: Vec<&str> = whole.providers("w").map(|number| whole.record(number).name()).collect();
    assert_eq!(providers, ["a"]);
    assert_eq!(whole.named("v").count(), 0);
}

#[test]
fn all_versions_of_a_name_are_found() {
    let text = sample("a", "") + &sample("ab", "") + &sample("a", "") + &sample("A", "");
    let index = build(&text, 10).unwrap();
    assert_eq!(index.named("a").count(), 2);
    assert_eq!(index.named("").count(), 0);
}

#[test]
fn broken_stanzas_are_refused() {
    for (from, to) in [
        ("Filename: pool", "Filename: /pool"),
        ("pool/", "../"),
        ("Size: 7", "Size: x"),
        ("SHA256", "SHA1"),
        ("Version: 1\n", ""),
        ("Version:", "Version"),
    ] {
        let text = sample("a", "").replacen(from, to, 1);
        assert!(build(&text, 1000).is_err(), "{text}");
    }
    let endless = format!("Package: a\nDescription: {}", "x".repeat(MAX_STANZA_BYTES));
    assert!(build(&endless, 4096).is_err());
}

#[test]
fn damaged_caches_are_refused_or_empty_but_never_panic() {
    let text = sample("a", "Provides: v\n");
    let good = build(&text, 1000).unwrap().all().to_vec();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        if let Ok(index) = PackagesIndex::open(Arc::new(bad)) {
            for number in index.iter() {
                let record = index.record(number);
                let _ = (record.name(), record.depends(), record.digest());
            }
            let _ = index.providers("v").map(|number| index.record(number).name().len()).sum::<usize>();
        }
        assert!(PackagesIndex::open(Arc::new(good[..at].to_vec())).is_err());
    }
}
