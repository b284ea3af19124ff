//! Names that somebody may have meant.
//!
//! [`near`] answers with those that differ by few letters.
//!
//! Spec: none.

/// Up to five of `names` that differ from `name` by few letters.
#[must_use]
pub fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let most = 1 + name.len() / 4;
    let mut close: Vec<(usize, &str)> = names
        .filter(|other| other.len().abs_diff(name.len()) <= most)
        .map(|other| (distance(name.as_bytes(), other.as_bytes()), other))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    close.sort_unstable();
    close.into_iter().take(5).map(|(_, other)| other.to_owned()).collect()
}

/// The number of letters to add, drop or change.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_the_far_never() {
        let names = ["mirrors", "cache", "keyrings", "mirror"];
        assert_eq!(near("miror", names.into_iter()), ["mirror", "mirrors"]);
        assert!(near("xyz", names.into_iter()).is_empty());
    }
}
