use super::*;
use crate::tests_support::{NOW, amd64, release_text, source};

const DAY: i64 = 86_400;

/// How dates look in a Release file: days before [`NOW`], which is Mon, 21 Sep 2026 14:13:20 UTC.
const TODAY: &str = "Mon, 21 Sep 2026 14:13:20 UTC";

fn check_with(
    edit: impl FnOnce(String) -> String,
    adjust: impl FnOnce(&mut Expect<'_>, &mut Option<Timestamp>),
) -> Result<Vec<String>, MirrorError> {
    let release = Release::parse(edit(release_text(TODAY, "", &[])).as_bytes()).unwrap();
    let source = source(&[], Keyring::default());
    let mut expect = Expect {
        source: &source,
        architecture: amd64(),
        now: NOW,
        max_age: None,
        lenient: Leniency::default(),
    };
    let mut seen = None;
    adjust(&mut expect, &mut seen);
    expect.check("http://mirror/InRelease", &release, seen)
}

fn after(seconds: i64) -> impl FnOnce(&mut Expect<'_>, &mut Option<Timestamp>) {
    move |expect, _| expect.now.0 += seconds
}

#[test]
fn a_fresh_release_passes_without_a_warning() {
    assert_eq!(check_with(|text| text, |_, _| {}).unwrap(), Vec::<String>::new());
}

#[test]
fn an_expired_release_is_refused_with_both_dates_unless_asked_for() {
    let valid = |text: String| text.replace("SHA256:", "Valid-Until: Mon, 28 Sep 2026 14:13:20 UTC\nSHA256:");
    check_with(valid, after(7 * DAY)).unwrap();
    let error = check_with(valid, after(7 * DAY + 1)).unwrap_err();
    assert!(matches!(error, MirrorError::Expired { .. }), "{error}");
    let text = error.to_string();
    assert!(
        ["2026-09-28", "14:13:21", "http://mirror/InRelease"].iter().all(|part| text.contains(part)),
        "{text}"
    );
    let warnings = check_with(valid, |expect, _| {
        expect.now.0 += 8 * DAY;
        expect.lenient.expired = true;
    });
    assert!(warnings.unwrap()[0].contains("expired at"));
}

#[test]
fn an_old_release_without_an_end_is_a_warning_and_an_error_on_request() {
    assert!(check_with(|text| text, after(149 * DAY)).unwrap().is_empty());
    assert!(check_with(|text| text, after(151 * DAY)).unwrap()[0].contains("may be frozen"));
    let limited = |expect: &mut Expect<'_>, _: &mut Option<Timestamp>| {
        expect.now.0 += 8 * DAY;
        expect.max_age = Some(Duration::from_secs(7 * 86_400));
    };
    let error = check_with(|text| text, limited).unwrap_err();
    assert!(matches!(error, MirrorError::TooOld { max_age_days: 7, .. }), "{error}");
}

#[test]
fn a_release_older_than_one_seen_is_refused_unless_asked_for() {
    let seen = |date: i64, rollback: bool| {
        check_with(
            |text| text,
            move |expect, seen| {
                *seen = Some(Timestamp(date));
                expect.lenient.rollback = rollback;
            },
        )
    };
    seen(NOW.0, false).unwrap();
    assert!(matches!(seen(NOW.0 + 1, false).unwrap_err(), MirrorError::Rollback { .. }));
    seen(NOW.0 + 1, true).unwrap();
}

#[test]
fn a_release_from_the_future_is_refused_but_clocks_may_differ() {
    check_with(|text| text, after(-600)).unwrap();
    let error = check_with(|text| text, after(-601)).unwrap_err();
    assert!(matches!(error, MirrorError::FromTheFuture { .. }), "{error}");
}

#[test]
fn suite_or_code_name_must_be_the_one_asked_for() {
    let named = |suite: &str, codename: &str| {
        let (suite, codename) = (format!("Suite: {suite}\n"), format!("Codename: {codename}\n"));
        let edit =
            move |text: String| text.replace("Suite: test\n", &suite).replace("Codename: test\n", &codename);
        check_with(edit, |_, _| {})
    };
    named("stable", "test").unwrap();
    named("test", "other").unwrap();
    // As Ubuntu's pockets say it: the same key signs them, and the code name is the same.
    for suite in ["test-updates", "test-proposed", "test/updates"] {
        let error = named(suite, "test").unwrap_err();
        assert!(
            matches!(error, MirrorError::WrongSuite { .. }) && error.to_string().contains(suite),
            "{error}"
        );
    }
    // Debian's suites have names of their own.
    named("testing", "test").unwrap();
    assert!(matches!(named("other", "another").unwrap_err(), MirrorError::WrongSuite { .. }));
}

#[test]
fn missing_components_and_architectures_are_told_with_what_there_is() {
    let components = |text: String| text.replace("Components: main", "Components: universe restricted");
    let error = check_with(components, |_, _| {}).unwrap_err();
    assert!(matches!(&error, MirrorError::MissingComponent { found, .. } if found.len() == 2), "{error}");
    // As the security suites of old write it.
    check_with(|text| text.replace("Components: main", "Components: updates/main"), |_, _| {}).unwrap();
    let architectures = |text: String| text.replace("Architectures: amd64", "Architectures: all arm64");
    let error = check_with(architectures, |_, _| {}).unwrap_err();
    assert!(matches!(&error, MirrorError::MissingArchitecture { found, .. } if found.len() == 2), "{error}");
}

#[test]
fn pins_are_those_of_apt() {
    let pin = |fields: &str| {
        let release = Release::parse(release_text(TODAY, fields, &[]).as_bytes()).unwrap();
        let source = source(&[], Keyring::default());
        let (digest, url) = (Digest::of(b""), String::new());
        VerifiedRelease { source, release, digest, url, rate: 0.0, keys: Vec::new(), warnings: Vec::new() }
            .pin()
    };
    assert_eq!(pin(""), 500);
    assert_eq!(pin("NotAutomatic: yes\n"), 1);
    assert_eq!(pin("NotAutomatic: yes\nButAutomaticUpgrades: yes\n"), 100);
}
