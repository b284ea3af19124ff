use super::*;

const FULL: &str = "\
# Ours
Enabled: yes
Types: deb deb-src
URIs: http://one/debian/ https://two/debian
Suites: tool tool-$(ARCH)
Components: main extra
Architectures: amd64 arm64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQEN
 -----END PGP PUBLIC KEY BLOCK-----
By-Hash: force
Check-Valid-Until: no
X-Note: whatever

Types: deb
URIs: file:/srv/packages
Suites: ./
Signed-By: /usr/share/keyrings/a.gpg, near.asc 0123456789ABCDEF0123456789ABCDEF01234567!
";

fn amd64() -> Architecture {
    "amd64".parse().unwrap()
}

fn refused(text: &str, expected: &[&str]) {
    let error = parse_deb822("/x/mine.sources", text).unwrap_err().to_string();
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn every_field_of_a_stanza_is_obeyed() {
    let found = parse_deb822("/etc/mine.sources", FULL).unwrap();
    let [first, second] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((first.name.as_str(), first.by_hash), ("mine", ByHash::Always));
    assert!(first.ignore_valid_until && !second.ignore_valid_until);
    let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQEN\n-----END PGP PUBLIC KEY BLOCK-----\n";
    assert_eq!(first.signed_by.armoured.as_deref().map(str::trim_start), Some(key));
    let sources = first.sources(amd64(), &Keyring::default());
    let places: Vec<_> = sources.iter().map(|source| source.url(&source.mirrors[0])).collect();
    let expected =
        ["one/debian/dists/tool", "one/debian/dists/tool-amd64"].map(|end| format!("http://{end}"));
    assert_eq!(places[..2], expected);
    assert_eq!(places.len(), 4);
    assert!(first.sources("riscv64".parse().unwrap(), &Keyring::default()).is_empty());
    assert_eq!(second.signed_by.files, ["/usr/share/keyrings/a.gpg", "/etc/near.asc"].map(PathBuf::from));
    assert_eq!(second.signed_by.fingerprints.len(), 1);
    let flat = &second.sources(amd64(), &Keyring::default())[0];
    assert_eq!((flat.url(&flat.mirrors[0]).as_str(), flat.label()), ("file:/srv/packages", "mine"));
}

#[test]
fn a_line_says_the_same_as_a_stanza() {
    let line =
        "deb [arch=amd64,arm64 signed-by=/a.gpg by-hash=no] http://apt.example.org/tool/ stable main x # why";
    let found = load(line).unwrap();
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one.name, "apt.example.org_tool");
    assert_eq!((one.suites.as_slice(), one.components.len()), (["stable".to_owned()].as_slice(), 2));
    assert_eq!((one.architectures.only.len(), one.by_hash), (2, ByHash::Never));
    assert_eq!(one.signed_by.files, [PathBuf::from("/a.gpg")]);
    assert!(parse_lines("a.list", "# nothing\ndeb-src http://x y main\n").unwrap().is_empty());
    assert!(is_line("deb http://x y z") && is_line("deb[a=b] x y z") && !is_line("debian.sources"));
}

#[test]
fn what_gives_up_trust_is_refused_with_its_line() {
    let good = "Types: deb\nURIs: http://x\nSuites: s\nComponents: main\n";
    assert_eq!(parse_deb822("a", good).unwrap().len(), 1);
    refused(&format!("\n\n{good}Trusted: yes\n"), &["/x/mine.sources, line 3", "Trusted: yes", "refused"]);
    refused(&format!("{good}Allow-Weak: yes\n"), &["Allow-Weak"]);
    refused(&format!("{good}Signed-by-key: x\n"), &["Signed-by-key", "does not know"]);
    refused(&format!("{good}Architecture: x\n"), &["perhaps Architectures is meant"]);
    let error = load("deb [trusted=yes] http://x s main").unwrap_err().to_string();
    assert!(error.contains("Trusted"), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    refused("Types: deb\nSuites: s\nComponents: main\n", &["no URIs"]);
    refused("Types: deb\nURIs: cdrom:[x]/\nSuites: s\nComponents: main\n", &["cdrom:[x]/", "expected http"]);
    refused("Types: rpm\nURIs: http://x\nSuites: s\n", &["rpm"]);
    refused("Types: deb\nURIs: http://x\nSuites: s\n", &["no components"]);
    refused("Types: deb\nURIs: http://x\nSuites: s/\nComponents: main\n", &["is a directory"]);
    refused("Types: deb\nURIs: http://x\nSuites: s\nComponents: c\nEnabled: maybe\n", &["maybe"]);
}

#[test]
fn what_is_switched_off_is_left_out() {
    let text = "Enabled: no\nTypes: deb\nURIs: http://x\nSuites: s\nComponents: c\n";
    assert!(parse_deb822("a", text).unwrap().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("off.sources");
    std::fs::write(&path, text).unwrap();
    assert!(load(path.to_str().unwrap()).unwrap_err().to_string().contains("no repository"));
    assert!(matches!(load("/nonexistent.sources").unwrap_err(), MirrorError::SourcesFile { .. }));
}

#[test]
fn without_signed_by_the_fallback_counts_and_fingerprints_are_looked_up() {
    let mut one = load("deb http://x s main").unwrap().remove(0);
    let fallback = Keyring::from_bytes("k", &[0x99, 0, 0]).unwrap();
    assert_eq!(one.keyring(&fallback, &[]).unwrap(), fallback);
    // The key of Debian 13, which comes with Knarr.
    one.signed_by.fingerprints = vec!["41587F7DB8C774BCCF131416762F67A0B2C39DE4".to_owned()];
    let keyring = one.keyring(&fallback, &[]).unwrap();
    assert_eq!(keyring.pinned(), one.signed_by.fingerprints);
    assert!(keyring.as_bytes().len() > 100);
    one.signed_by.fingerprints = vec!["0".repeat(40)];
    assert!(one.keyring(&fallback, &[]).unwrap_err().to_string().contains("in none of the keyrings"));
}
