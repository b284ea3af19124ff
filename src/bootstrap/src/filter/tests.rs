use super::*;

fn check(patterns: &[(&str, bool)], path: &str, expected: bool) {
    let mut filter = PathFilter::default();
    for (pattern, out) in patterns {
        if *out { filter.exclude(pattern) } else { filter.include(pattern) }
    }
    assert_eq!(filter.excludes(path, false), expected, "{patterns:?} on {path}");
}

#[test]
fn the_last_matching_pattern_decides() {
    let docs = [("/usr/share/doc/*", true), ("/usr/share/doc/*/copyright", false)];
    check(&docs, "usr/share/doc/apt/changelog.gz", true);
    check(&docs, "usr/share/doc/apt/copyright", false);
    check(&docs, "usr/bin/apt", false);
}

#[test]
fn a_star_matches_across_slashes_and_classes_match_ranges() {
    check(&[("/usr/share/man/*", true)], "usr/share/man/de/man1/ls.1.gz", true);
    check(&[("/usr/share/man/[a-z]*", true)], "usr/share/man/man1", true);
    check(&[("/usr/share/man/[!m]*", true)], "usr/share/man/man1", false);
    check(&[("/a?c", true)], "abc", true);
    check(&[("/a?c", true)], "abbc", false);
}

#[test]
fn directories_always_stay() {
    let mut filter = PathFilter::default();
    filter.exclude("/usr/share/man/*");
    assert!(!filter.excludes("usr/share/man/man1", true));
}
