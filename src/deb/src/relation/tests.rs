use super::*;

fn check(text: &str, expected: &str) {
    let groups = parse_relations(text).unwrap();
    let shown: Vec<String> = groups
        .iter()
        .map(|group| group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
        .collect();
    assert_eq!(shown.join(", "), expected);
}

#[test]
fn spacing_does_not_matter() {
    check("a(>=1),b|c ( << 2 )", "a (>= 1), b | c (<< 2)");
    check("a,\n b,", "a, b");
    check("", "");
}

#[test]
fn qualifiers_and_old_operators_are_understood() {
    check("python3:any (>= 3.11~), gcc:amd64 | x (< 1)", "python3:any (>= 3.11~), gcc:amd64 | x (<= 1)");
}

#[test]
fn broken_relations_are_refused_with_the_text() {
    for bad in ["(>= 1)", "a (>= 1", "a (1)", "a (>=)", "a b", "a | | b", "ä"] {
        let error = parse_relations(bad).unwrap_err().to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[test]
fn operators_hold_by_debian_order() {
    assert!(Operator::Earlier.holds("1.0~rc1", "1.0"));
    assert!(!Operator::Later.holds("1.0", "1.0"));
    assert!(Operator::LaterEqual.holds("1:0", "9"));
}
