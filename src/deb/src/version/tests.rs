use std::process::Command;

use proptest::prelude::*;

use super::*;

fn check(a: &str, b: &str, expected: Ordering) {
    assert_eq!(compare(a, b), expected, "{a} against {b}");
    assert_eq!(compare(b, a), expected.reverse(), "{b} against {a}");
}

#[test]
fn epoch_orders_before_upstream_version() {
    check("1:0.1", "99", Ordering::Greater);
    check("0:1", "1", Ordering::Equal);
}

#[test]
fn tilde_sorts_before_everything_even_the_end() {
    check("1.0~rc1", "1.0", Ordering::Less);
    check("1.0~~", "1.0~", Ordering::Less);
    check("1.0~", "1.0a", Ordering::Less);
}

#[test]
fn letters_sort_before_other_characters_and_numbers_by_value() {
    check("1.0a", "1.0+", Ordering::Less);
    check("1.10", "1.9", Ordering::Greater);
    check("1.001", "1.1", Ordering::Equal);
    check("1.0-1", "1.0-1.1", Ordering::Less);
    check("1.0-0", "1.0", Ordering::Equal);
    check("18446744073709551617", "18446744073709551616", Ordering::Greater);
}

#[test]
fn versions_that_break_the_rules_are_refused() {
    for bad in ["", "a:1", ":1", "1:", "1-", "1_2", "1.0-a_b", "1 2"] {
        assert!(PackageVersion::parse(bad).is_err(), "{bad:?}");
    }
    assert_eq!(PackageVersion::parse("2:1.0-3").unwrap().without_epoch(), "1.0-3");
}

#[test]
fn dpkg_agrees_on_every_pair_of_a_hard_set() {
    let set = [
        "1",
        "1.0",
        "1.0~",
        "1.0~~a",
        "1.0a",
        "1.0+b",
        "1:0",
        "0:1",
        "1.0-1",
        "1.0-1~bpo1",
        "1.00",
        "1.0.0",
        "2a.3",
        "2+a",
    ];
    for a in set {
        for b in set {
            let holds = |operator| {
                Command::new("dpkg").args(["--compare-versions", a, operator, b]).status().unwrap().success()
            };
            let expected = if holds("lt") {
                Ordering::Less
            } else if holds("gt") {
                Ordering::Greater
            } else {
                Ordering::Equal
            };
            assert_eq!(compare(a, b), expected, "{a} against {b}");
        }
    }
}

proptest! {
    #[test]
    fn order_is_antisymmetric_and_transitive(a in "[0-9a-z.~+:-]{0,12}", b in "[0-9a-z.~+:-]{0,12}", c in "[0-9a-z.~+:-]{0,12}") {
        prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        let mut sorted = [a, b, c];
        sorted.sort_by(|x, y| compare(x, y));
        prop_assert!(compare(&sorted[0], &sorted[2]) != Ordering::Greater);
    }
}
