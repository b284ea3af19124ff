//! Patterns of names, as Go's `path.Match` understands them.

/// Whether the whole of `text` fits; `*` and `?` stand for anything but `/`. A pattern that is none fits nothing.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    matches(&pattern, &text)
}

/// After a `*` that did not fit it is enough to give the last one more: it takes quadratic time at most.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = if t < text.len() { one(&pattern[p..], text[t]) } else { None };
        match (step, star) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            _ if t == text.len() && p == pattern.len() => return true,
            (None, Some((after, from))) if from < text.len() && text[from] != '/' => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// How many characters of the pattern stand for this one of the text.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => (character != '/').then_some(1),
        '\\' => (*pattern.get(1)? == character).then_some(2),
        '[' => class(pattern, character),
        plain => (plain == character).then_some(1),
    }
}

fn class(pattern: &[char], character: char) -> Option<usize> {
    let negated = pattern.get(1) == Some(&'^');
    let mut at = if negated { 2 } else { 1 };
    let (mut found, mut first) = (false, true);
    loop {
        match *pattern.get(at)? {
            ']' if !first => break,
            _ => {
                let low = literal(pattern, &mut at)?;
                let high = if pattern.get(at) == Some(&'-') {
                    at += 1;
                    literal(pattern, &mut at)?
                } else {
                    low
                };
                found |= (low..=high).contains(&character);
            }
        }
        first = false;
    }
    (found != negated).then_some(at + 1)
}

fn literal(pattern: &[char], at: &mut usize) -> Option<char> {
    if pattern.get(*at) == Some(&'\\') {
        *at += 1;
    }
    *at += 1;
    pattern.get(*at - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn stars_stop_at_slashes() {
        for (pattern, text) in [
            ("*", "alpine"),
            ("al*", "alpine"),
            ("a*e", "alpine"),
            ("*/app", "team/app"),
            ("app:*", "app:1.2"),
            ("app:?", "app:1"),
            ("[a-c]pp", "app"),
            ("[^x]pp", "app"),
            (r"a\*", "a*"),
            ("a*b*c", "aXbXbc"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*", "team/app"),
            ("a?", "a/"),
            ("alp", "alpine"),
            ("[", "["),
            ("", "a"),
            ("a*", "ba"),
            ("*a", "ab"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }
}
