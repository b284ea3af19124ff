use std::sync::Arc;

use knarr_base::Digest;

use super::*;
use crate::packages::IndexBuilder;

/// Short stanzas: `name version; Field: value; …` one a line.
fn index(text: &str) -> PackagesIndex {
    let mut builder = IndexBuilder::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.split(';').map(str::trim);
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        let fields: Vec<&str> = parts.collect();
        let architecture = if fields.iter().any(|field| field.starts_with("Architecture")) {
            ""
        } else {
            "Architecture: amd64\n"
        };
        let stanza = format!(
            "Package: {name}\nVersion: {version}\n{architecture}{}\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {}\n\n",
            fields.join("\n"),
            "ab".repeat(32)
        );
        builder.push_text(stanza.replace("\n\nF", "\nF").as_bytes()).unwrap();
    }
    PackagesIndex::open(Arc::new(builder.finish(Digest::of(b"")).unwrap())).unwrap()
}

fn solve(text: &str, request: &Request) -> Result<Vec<String>, String> {
    let index = index(text);
    let mut universe = Universe::new("amd64".parse().unwrap());
    universe.add(&index, 500, "test/main");
    let solution = resolve(&universe, request).map_err(|error| error.to_string())?;
    Ok(solution.packages.iter().map(|chosen| universe.record(chosen.id).name().to_owned()).collect())
}

fn check(text: &str, include: &[&str], expected: &[&str]) {
    let request =
        Request { include: include.iter().map(|name| (*name).to_owned()).collect(), ..Request::default() };
    assert_eq!(solve(text, &request).unwrap(), expected, "{text}");
}

fn check_fails(text: &str, include: &[&str], expected: &str) {
    let request =
        Request { include: include.iter().map(|name| (*name).to_owned()).collect(), ..Request::default() };
    let error = solve(text, &request).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_first_alternative_wins_unless_another_is_chosen() {
    let text = "a 1; Depends: b | c\nb 1\nc 1\n";
    check(text, &["a"], &["a", "b"]);
    check(text, &["a", "c"], &["a", "c"]);
}

#[test]
fn the_highest_version_is_chosen_and_versions_are_checked() {
    check("a 1; Depends: b (>= 2)\nb 1\nb 3\n", &["a"], &["a", "b"]);
    check_fails(
        "a 1; Depends: b (>= 4)\nb 1\nb 3\n",
        &["a"],
        "a depends on b (>= 4), but there is only b 1 (test/main), b 3 (test/main)",
    );
    check_fails("a 1; Depends: b\n", &["a"], "a depends on b, which no index has");
}

#[test]
fn unversioned_provides_never_meet_a_versioned_relation() {
    check("a 1; Depends: v\np 1; Provides: v\n", &["a"], &["a", "p"]);
    check("a 1; Depends: v (>= 2)\np 1; Provides: v (= 2)\n", &["a"], &["a", "p"]);
    check_fails("a 1; Depends: v (>= 2)\np 1; Provides: v\n", &["a"], "a depends on v (>= 2)");
}

#[test]
fn a_real_package_wins_over_one_that_provides_its_name() {
    check("a 1; Depends: v\nb 1; Provides: v; Priority: required\nv 1\n", &["a"], &["a", "v"]);
    check(
        "a 1; Depends: v\np 1; Provides: v; Priority: optional\nq 1; Provides: v; Priority: important\n",
        &["a"],
        &["a", "q"],
    );
}

#[test]
fn a_conflict_leads_to_the_next_alternative() {
    check("a 1; Depends: b | c\nb 1; Depends: d\nd 1; Conflicts: a\nc 1\n", &["a"], &["a", "c"]);
    check(
        "exim 1; Provides: mta; Conflicts: mta\nsendmail 1; Provides: mta; Conflicts: mta\na 1; Depends: exim | mta\n",
        &["a", "sendmail"],
        &["a", "sendmail"],
    );
    check_fails(
        "a 1\nb 1; Breaks: a (<< 2)\n",
        &["a", "b"],
        "b 1 (test/main) conflicts with a 1 (test/main) (a (<< 2))",
    );
}

#[test]
fn essential_packages_and_priorities_are_asked_for_together() {
    let text = "a 1; Essential: yes; Depends: l\nb 1; Priority: required\nc 1; Priority: optional\nl 1\n";
    let request = Request { essential: true, priorities: vec!["required".to_owned()], ..Request::default() };
    assert_eq!(solve(text, &request).unwrap(), ["a", "b", "l"]);
}

#[test]
fn recommendations_come_along_only_when_asked_and_possible() {
    let text = "a 1; Recommends: b, gone\nb 1\n";
    check(text, &["a"], &["a"]);
    let request = Request { include: vec!["a".to_owned()], recommends: true, ..Request::default() };
    assert_eq!(solve(text, &request).unwrap(), ["a", "b"]);
}

#[test]
fn unknown_names_are_answered_with_similar_ones() {
    check_fails("nginx 1\nnginy 1\nzsh 1\n", &["ngin"], "similar are nginx, nginy");
    check_fails("a 1\n", &["a=2"], "there is no a of 2; there is a 1 (test/main)");
    check_fails("a 1; Provides: v\nb 1; Provides: v\n", &["v"], "virtual");
}

#[test]
fn a_chain_of_any_length_does_not_use_up_the_stack() {
    let text: String =
        (0..20_000).map(|n| format!("p{n} 1; Depends: p{}\n", n + 1)).collect::<String>() + "p20000 1\n";
    let request = Request { include: vec!["p0".to_owned()], ..Request::default() };
    assert_eq!(solve(&text, &request).unwrap().len(), 20_001);
}

#[test]
fn a_pin_decides_before_the_version() {
    let (old, new) = (index("a 1\n"), index("a 2\n"));
    let mut universe = Universe::new("amd64".parse().unwrap());
    universe.add(&old, 500, "stable/main");
    universe.add(&new, 100, "backports/main");
    let versions = |spec: &str| {
        let request = Request { include: vec![spec.to_owned()], ..Request::default() };
        let solution = resolve(&universe, &request).unwrap();
        universe.record(solution.packages[0].id).version().to_owned()
    };
    assert_eq!(
        (versions("a"), versions("a/backports"), versions("a=2")),
        ("1".into(), "2".into(), "2".into())
    );
}

#[test]
fn a_relation_with_another_architecture_means_nobody_here() {
    check("a 1; Conflicts: b:i386\nb 1\n", &["a", "b"], &["a", "b"]);
    check_fails("a 1; Conflicts: b:amd64\nb 1\n", &["a", "b"], "conflicts");
}
