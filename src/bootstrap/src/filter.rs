//! Path filters: which files of packages are left out.
//!
//! Spec: dpkg(1) `--path-exclude`, `--path-include`: the last pattern that matches decides.

/// An ordered list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathFilter {
    patterns: Vec<(bool, String)>,
}

impl PathFilter {
    /// Leaves out what `pattern` matches.
    pub fn exclude(&mut self, pattern: &str) {
        self.patterns.push((true, pattern.to_owned()));
    }

    /// Keeps what `pattern` matches, also when an earlier pattern left it out.
    pub fn include(&mut self, pattern: &str) {
        self.patterns.push((false, pattern.to_owned()));
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns as dpkg's configuration writes them.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.patterns.iter().map(|(out, p)| format!("path-{}={p}", if *out { "exclude" } else { "include" }))
    }

    /// Whether `path` (without leading `/`) is left out. A directory stays: alternatives and
    /// scripts put links into directories whose packaged files were all excluded.
    #[must_use]
    pub fn excludes(&self, path: &str, is_directory: bool) -> bool {
        if is_directory || self.patterns.is_empty() {
            return false;
        }
        let absolute = format!("/{path}");
        let last =
            self.patterns.iter().rev().find(|(_, pattern)| matches(pattern.as_bytes(), absolute.as_bytes()));
        last.is_some_and(|(out, _)| *out)
    }
}

/// Shell patterns as fnmatch(3) without flags reads them: `*` and `?` match `/` too.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') => {
                if let Some((true, next)) = class(&pattern[p..], text[t]) {
                    p += next;
                    t += 1;
                    continue;
                }
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((after_star, from)) = retry else { return false };
        p = after_star;
        t = from + 1;
        retry = Some((after_star, t));
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Whether `[…]` at the start of `pattern` holds `byte`, and the length of the class.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|&c| c == b']')?;
    let body = &pattern[start..end];
    let mut found = false;
    let mut i = 0;
    while i < body.len() {
        if i + 2 < body.len() && body[i + 1] == b'-' {
            found |= (body[i]..=body[i + 2]).contains(&byte);
            i += 3;
        } else {
            found |= body[i] == byte;
            i += 1;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests;
