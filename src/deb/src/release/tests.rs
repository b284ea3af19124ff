use super::*;

const HEAD: &str = "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nArchitectures: all amd64\nComponents: main contrib\nAcquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\n";
const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn sums_dates_and_flags_are_read() {
    let text = format!(
        "{HEAD}Valid-Until: Sat, 28 Nov 2026 09:15:44 UTC\nMD5Sum:\n x 1 y\nSHA256:\n {SUM}        0 main/binary-amd64/Packages\n"
    );
    let release = Release::parse(text.as_bytes()).unwrap();
    assert_eq!(release.date.to_string(), "2026-11-21T09:15:44Z");
    assert_eq!(release.valid_until.unwrap().0 - release.date.0, 7 * 86_400);
    assert!(release.acquire_by_hash && release.no_support_for_architecture_all && !release.not_automatic);
    assert_eq!(
        release.files["main/binary-amd64/Packages"],
        FileSum { size_bytes: 0, digest: SUM.parse().unwrap() }
    );
}

#[test]
fn md5_sums_alone_are_refused() {
    let text = format!("{HEAD}MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 main/binary-amd64/Packages\n");
    assert!(matches!(Release::parse(text.as_bytes()), Err(DebError::WeakDigests)));
}

#[test]
fn names_that_leave_the_suite_and_broken_sums_are_refused() {
    for line in [
        format!("{SUM} 0 ../x"),
        format!("{SUM} 0 /etc/x"),
        format!("{SUM} x main"),
        "abc 0 main".to_owned(),
        SUM.to_owned(),
    ] {
        let text = format!("{HEAD}SHA256:\n {line}\n");
        assert!(Release::parse(text.as_bytes()).is_err(), "{line}");
    }
    assert!(Release::parse(b"Suite: x\nSHA256:\n").is_err());
}
