use super::*;

fn parse(text: &str) -> Result<Vec<Stanza<'_>>, DebError> {
    stanzas(text.as_bytes()).collect()
}

#[test]
fn values_keep_their_continuation_lines() {
    let all = parse("Package: a\nDescription: short\n long\n .\n  more\n\n\n# note\nPackage: b\n").unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].get("description"), Some("short\n long\n .\n  more"));
    assert_eq!((all[1].get("Package"), all[1].line()), (Some("b"), 9));
}

#[test]
fn an_empty_first_line_keeps_the_lines_below() {
    let all = parse("Conffiles:\n /etc/a 1\n /etc/b 2\nX: y\n").unwrap();
    assert_eq!(all[0].get("Conffiles").unwrap().trim_start(), "/etc/a 1\n /etc/b 2");
    assert_eq!(all[0].get("X"), Some("y"));
}

#[test]
fn broken_text_is_refused_with_its_line() {
    let line_of = |text: &str| parse(text).unwrap_err().to_string();
    assert!(line_of("A: b\nnonsense\n").contains("line 2"));
    assert!(line_of(" stray\n").contains("line 1"));
    assert!(line_of("A: b\nA: c\n").contains("line 2"));
    assert!(line_of("A: b\n\nC: d\0\n").contains("line 3"));
    assert!(stanzas(b"A: b\nC: \xff\n").next().unwrap().unwrap_err().to_string().contains("line 2"));
}

#[test]
fn nothing_follows_an_error() {
    assert_eq!(stanzas(b"x\nA: b\n").count(), 1);
}
