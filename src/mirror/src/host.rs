//! The mirror that this machine's own apt uses.
//!
//! [`host_mirror`] looks for any suite of the distribution; [`find_mirror`] does so in given texts.
//!
//! Spec: sources.list(5).

use std::path::Path;

use knarr_deb::stanza::stanzas;

use crate::suite::{Role, Suite};

/// The address that this machine's apt sources name for the distribution of `suite`.
#[must_use]
pub fn host_mirror(suite: &Suite, role: Role, all: &[Suite]) -> Option<String> {
    let mut texts = Vec::new();
    let mut add = |path: &Path| {
        texts.extend(
            std::fs::read_to_string(path)
                .ok()
                .map(|text| (path.extension().is_some_and(|e| e == "sources"), text)),
        );
    };
    add(Path::new("/etc/apt/sources.list"));
    let mut files: Vec<_> = std::fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "list" || e == "sources"))
        .for_each(|path| add(path));
    find_mirror(&texts, suite, role, all)
}

/// The same for texts: whether each is deb822, and its content.
#[must_use]
pub fn find_mirror(texts: &[(bool, String)], suite: &Suite, role: Role, all: &[Suite]) -> Option<String> {
    let entries = texts
        .iter()
        .flat_map(|(deb822, text)| if *deb822 { deb822_entries(text) } else { line_entries(text) });
    let serves = |name: &str| {
        all.iter().filter(|known| known.distribution == suite.distribution).any(|known| {
            let names = std::iter::once(&known.name).chain(&known.aliases);
            let pocket = name.strip_suffix("-security").or_else(|| name.strip_suffix("/updates"));
            match (role, pocket) {
                (Role::Security, Some(base)) => names.into_iter().any(|known| known == base),
                (Role::Main, None) => {
                    let base = name.strip_suffix("-updates").unwrap_or(name);
                    names.into_iter().any(|known| known == base)
                }
                _ => false,
            }
        })
    };
    let usable = |uri: &str| ["http://", "https://", "file:"].iter().any(|scheme| uri.starts_with(scheme));
    let mut found = entries.filter(|(uri, name)| usable(uri) && serves(name));
    found.next().map(|(uri, _)| uri.trim_end_matches('/').to_owned())
}

fn deb822_entries(text: &str) -> Vec<(String, String)> {
    let mut entries = Vec::new();
    for stanza in stanzas(text.as_bytes()).map_while(Result::ok) {
        let words = |field: &str| stanza.get(field).unwrap_or_default().split_ascii_whitespace();
        let off = stanza.get("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if off || !words("Types").any(|word| word == "deb") {
            continue;
        }
        for uri in words("URIs") {
            entries.extend(words("Suites").map(|suite| (uri.to_owned(), suite.to_owned())));
        }
    }
    entries
}

fn line_entries(text: &str) -> Vec<(String, String)> {
    let entry = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_ascii_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(deb822: bool, text: &str, role: Role, expected: Option<&str>) {
        let all = Suite::all().unwrap();
        let found = find_mirror(&[(deb822, text.to_owned())], &Suite::find("trixie").unwrap(), role, &all);
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn any_suite_of_the_distribution_names_the_mirror() {
        let text = "# comment\nTypes: deb deb-src\nURIs: http://near/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://near/security\nSuites: bookworm-security\nComponents: main\n";
        check(true, text, Role::Main, Some("http://near/debian"));
        check(true, text, Role::Security, Some("http://near/security"));
        check(
            false,
            "deb [arch=amd64 signed-by=/x] http://near/debian stable main\n",
            Role::Main,
            Some("http://near/debian"),
        );
    }

    #[test]
    fn others_are_passed_over() {
        check(
            false,
            "deb http://else/repo nodistro main\n#deb http://near/debian trixie main\ndeb-src http://x trixie main\n",
            Role::Main,
            None,
        );
        check(true, "Types: deb\nURIs: http://near\nSuites: trixie\nEnabled: no\n", Role::Main, None);
        check(false, "deb cdrom:[x]/ trixie main\n", Role::Main, None);
    }
}
