//! Licences of a package, from its machine-readable copyright file.
//!
//! [`read`] answers with one SPDX expression over all that the file speaks of. Names that SPDX has are its own;
//! for every other the text goes along, under a name that the text decides.
//!
//! Spec: Debian's machine-readable copyright format 1.0; SPDX 2.3, annexes A and D.

use std::collections::{BTreeMap, BTreeSet};

use knarr_base::Digest;
use knarr_deb::stanza::{Stanza, stanzas};

/// What a copyright file declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// The expression.
    pub expression: String,
    /// Texts of licences that SPDX does not list, by their names in the expression.
    pub texts: BTreeMap<String, String>,
}

/// Longer texts are cut: the file itself is in the package.
const MAX_TEXT_BYTES: usize = 32 << 10;
/// A file that names more licences than this says nothing anybody reads.
const MAX_LICENCES: usize = 200;

/// Reads a copyright file; `None` when it is not machine-readable.
#[must_use]
pub fn read(text: &str) -> Option<Declared> {
    let paragraphs: Vec<Stanza<'_>> = stanzas(text.as_bytes()).map_while(Result::ok).collect();
    let format =
        paragraphs.first()?.get("Format").or_else(|| paragraphs.first()?.get("Format-Specification"));
    if !format?.contains("copyright-format") && !format?.contains("dep5") && !format?.contains("dep.debian") {
        return None;
    }
    let texts = texts(&paragraphs);
    let mut declared = Declared::default();
    let mut terms = BTreeSet::new();
    let named = paragraphs.iter().enumerate().filter(|(at, one)| *at == 0 || one.get("Files").is_some());
    for (_, paragraph) in named {
        let Some(short) = paragraph.get("License").map(first_line).filter(|short| !short.is_empty()) else {
            continue;
        };
        if terms.len() < MAX_LICENCES {
            let term = expression(short, &texts, &mut declared.texts, 0);
            match term.contains(" OR ") {
                true => drop(terms.insert(term)),
                false => terms.extend(term.replace(['(', ')'], "").split(" AND ").map(str::to_owned)),
            }
        }
    }
    if terms.is_empty() {
        return None;
    }
    let many = terms.len() > 1;
    let terms: Vec<String> = terms.into_iter().map(|term| enclosed(term, many)).collect();
    declared.expression = terms.join(" AND ");
    Some(declared)
}

fn first_line(value: &str) -> &str {
    value.lines().next().unwrap_or_default().trim()
}

/// The text of each licence by its short name in lower case; the first that has one.
fn texts<'a>(paragraphs: &[Stanza<'a>]) -> BTreeMap<String, &'a str> {
    let mut texts = BTreeMap::new();
    for value in paragraphs.iter().filter_map(|paragraph| paragraph.get("License")) {
        if let Some((short, text)) = value.split_once('\n') {
            texts.entry(short.trim().to_ascii_lowercase()).or_insert(text);
        }
    }
    texts
}

/// A part of a larger expression, in parentheses where it needs them.
fn enclosed(term: String, inside: bool) -> String {
    if inside && (term.contains(" OR ") || term.contains(" AND ")) { format!("({term})") } else { term }
}

/// `A or B, and C`: a comma binds less than what it parts, `or` less than `and`.
fn expression(
    text: &str,
    texts: &BTreeMap<String, &str>,
    used: &mut BTreeMap<String, String>,
    depth: usize,
) -> String {
    const SEPARATORS: [(&str, &str); 6] = [
        (", and ", " AND "),
        (", or ", " OR "),
        (" or ", " OR "),
        (" | ", " OR "),
        (" and ", " AND "),
        (", ", " AND "),
    ];
    let text = text.trim().trim_end_matches(',');
    let lower = text.to_ascii_lowercase();
    let found = SEPARATORS.iter().find(|(separator, _)| lower.contains(separator));
    let Some((separator, operator)) = found.filter(|_| depth < 8) else { return one(text, texts, used) };
    let mut parts: Vec<String> = Vec::new();
    let mut start = 0;
    for (at, _) in lower.match_indices(separator).chain([(text.len(), "")]) {
        let part = expression(&text[start..at], texts, used, depth + 1);
        let part = enclosed(part, true);
        if !parts.contains(&part) {
            parts.push(part);
        }
        start = (at + separator.len()).min(text.len());
    }
    let joined = parts.join(operator);
    if parts.len() == 1 { joined.trim_matches(['(', ')']).to_owned() } else { joined }
}

/// One licence, perhaps with an exception.
fn one(name: &str, texts: &BTreeMap<String, &str>, used: &mut BTreeMap<String, String>) -> String {
    let lower = name.to_ascii_lowercase();
    if let Some(known) = known(&lower) {
        return known;
    }
    let text = texts
        .get(&lower)
        .copied()
        .map_or_else(|| format!("The licence is called {name:?} in the package's copyright file."), plain);
    let id = format!("LicenseRef-{}-{}", identifier(name), &Digest::of(text.as_bytes()).hex()[..8]);
    used.insert(id.clone(), text);
    id
}

/// The SPDX form of a name, in lower case, that means the same to Debian.
fn known(lower: &str) -> Option<String> {
    if let Some((licence, exception)) = lower.split_once(" with ") {
        let exception = exception.trim().trim_end_matches(" exception").trim();
        let exception = find(&EXCEPTIONS, exception)?;
        let licence = known(licence.trim()).filter(|licence| !licence.contains(' '))?;
        return Some(format!("{licence} WITH {exception}"));
    }
    if let Some(found) = find(&NAMES, lower) {
        return Some(found.to_owned());
    }
    // `GPL-2+`, `LGPL-2.1`, `GFDL-NIV-1.3+`.
    let (stem, later) = lower.strip_suffix('+').map_or((lower, false), |stem| (stem, true));
    let (family, version) = stem.rsplit_once('-')?;
    let family = match family {
        "gpl" => "GPL",
        "lgpl" => "LGPL",
        "agpl" => "AGPL",
        "gfdl" => "GFDL",
        "gfdl-niv" => "GFDL",
        _ => return None,
    };
    let versions: &[&str] = match family {
        "GPL" => &["1.0", "2.0", "3.0"],
        "LGPL" => &["2.0", "2.1", "3.0"],
        "AGPL" => &["1.0", "3.0"],
        _ => &["1.1", "1.2", "1.3"],
    };
    let version = if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
    let version = versions.iter().find(|known| **known == version)?;
    let kind = if stem.starts_with("gfdl-niv") { "-no-invariants" } else { "" };
    Some(format!("{family}-{version}{kind}-{}", if later { "or-later" } else { "only" }))
}

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(debian, _)| *debian == name).map(|(_, spdx)| *spdx)
}

/// What may stand in a `LicenseRef-`.
fn identifier(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' })
        .take(60)
        .collect();
    clean.trim_matches('-').to_owned()
}

/// A text as it was before it became a field: without the indent, and with its empty lines.
fn plain(text: &str) -> String {
    let line = |line: &str| {
        if line.trim() == "." { "" } else { line.strip_prefix(' ').unwrap_or(line).trim_end() }.to_owned()
    };
    let mut text = text.lines().map(line).collect::<Vec<_>>().join("\n");
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut]");
    }
    if text.trim().is_empty() { "See the package's copyright file.".to_owned() } else { text }
}

/// Debian's names in lower case, and SPDX's.
const NAMES: [(&str, &str); 56] = [
    ("0bsd", "0BSD"),
    ("afl-2.1", "AFL-2.1"),
    ("apache-1.1", "Apache-1.1"),
    ("apache-2", "Apache-2.0"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("artistic-2", "Artistic-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("beerware", "Beerware"),
    ("bsd-1-clause", "BSD-1-Clause"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-4-clause", "BSD-4-Clause"),
    ("bsd-4-clause-uc", "BSD-4-Clause-UC"),
    ("bsd-source-code", "BSD-Source-Code"),
    ("bsl-1", "BSL-1.0"),
    ("bsl-1.0", "BSL-1.0"),
    ("bzip2", "bzip2-1.0.6"),
    ("cc-by-3.0", "CC-BY-3.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc0", "CC0-1.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("cddl", "CDDL-1.0"),
    ("cddl-1.0", "CDDL-1.0"),
    ("curl", "curl"),
    ("expat", "MIT"),
    ("fsfap", "FSFAP"),
    ("fsful", "FSFUL"),
    ("fsfullr", "FSFULLR"),
    ("hpnd", "HPND"),
    ("icu", "ICU"),
    ("ijg", "IJG"),
    ("isc", "ISC"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("libpng", "Libpng"),
    ("mit", "MIT"),
    ("mit-0", "MIT-0"),
    ("mpl-1.1", "MPL-1.1"),
    ("mpl-2", "MPL-2.0"),
    ("mpl-2.0", "MPL-2.0"),
    ("ncsa", "NCSA"),
    ("ofl-1.1", "OFL-1.1"),
    ("openssl", "OpenSSL"),
    ("perl", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
    ("postgresql", "PostgreSQL"),
    ("psf-2", "PSF-2.0"),
    ("python-2.0", "Python-2.0"),
    ("ruby", "Ruby"),
    ("unicode", "Unicode-DFS-2016"),
    ("unicode-dfs-2016", "Unicode-DFS-2016"),
    ("unlicense", "Unlicense"),
    ("wtfpl", "WTFPL"),
    ("x11", "X11"),
    ("zlib", "Zlib"),
];

/// Exceptions whose name leaves no doubt which is meant.
const EXCEPTIONS: [(&str, &str); 9] = [
    ("autoconf-exception-3.0", "Autoconf-exception-3.0"),
    ("bison-exception", "Bison-exception-2.2"),
    ("bison", "Bison-exception-2.2"),
    ("classpath", "Classpath-exception-2.0"),
    ("font", "Font-exception-2.0"),
    ("gcc-exception-3.1", "GCC-exception-3.1"),
    ("gcc runtime library", "GCC-exception-3.1"),
    ("libtool", "Libtool-exception"),
    ("llvm", "LLVM-exception"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::read;

    const HEAD: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n";

    fn check(licences: &[&str], expected: &str) {
        let files = licences.iter().map(|name| format!("\nFiles: *\nCopyright: x\nLicense: {name}\n"));
        let text = format!("{HEAD}{}", files.collect::<String>());
        assert_eq!(read(&text).unwrap().expression, expected, "{licences:?}");
    }

    #[test]
    fn names_of_debian_become_those_of_spdx() {
        check(&["GPL-2+"], "GPL-2.0-or-later");
        check(&["LGPL-2.1"], "LGPL-2.1-only");
        check(&["GFDL-NIV-1.3+"], "GFDL-1.3-no-invariants-or-later");
        check(&["Expat", "BSD-3-clause", "expat"], "BSD-3-Clause AND MIT");
        check(&["GPL-2+ or Artistic"], "GPL-2.0-or-later OR Artistic-1.0-Perl");
        check(&["GPL-2+ or MIT, and Zlib", "ISC"], "((GPL-2.0-or-later OR MIT) AND Zlib) AND ISC");
        check(&["GPL-3+ with GCC-exception-3.1 exception"], "GPL-3.0-or-later WITH GCC-exception-3.1");
    }

    #[test]
    fn a_licence_that_spdx_does_not_list_brings_its_text() {
        let text = format!("{HEAD}\nFiles: *\nCopyright: x\nLicense: own terms\n First.\n .\n Second.\n");
        let declared = read(&text).unwrap();
        let (name, text) = declared.texts.iter().next().unwrap();
        assert_eq!((name, text.as_str()), (&declared.expression, "First.\n\nSecond."));
        assert!(name.starts_with("LicenseRef-own-terms-"), "{name}");
        // A version that does not exist is no licence of SPDX either.
        let text = format!("{HEAD}\nFiles: *\nCopyright: x\nLicense: GPL-9\n");
        assert!(read(&text).unwrap().expression.starts_with("LicenseRef-GPL-9-"));
    }

    #[test]
    fn other_files_say_nothing_to_machines() {
        assert_eq!(read("This package was debianized by hand.\n"), None);
        assert_eq!(read(HEAD), None);
        assert_eq!(read("\u{0}"), None);
    }

    /// Whether an SPDX expression is one: terms with operators between them, parentheses in pairs.
    fn is_expression(text: &str) -> bool {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let (mut depth, mut wants_term) = (0_i32, true);
        for word in spaced.split_whitespace() {
            match word {
                "(" if wants_term => depth += 1,
                ")" if !wants_term => depth -= 1,
                "AND" | "OR" | "WITH" if !wants_term => wants_term = true,
                "(" | ")" | "AND" | "OR" | "WITH" => return false,
                _ if !wants_term => return false,
                _ => wants_term = false,
            }
            if depth < 0 {
                return false;
            }
        }
        depth == 0 && !wants_term
    }

    proptest! {
        #[test]
        fn whatever_a_file_says_the_answer_is_an_expression(
            names in proptest::collection::vec("([a-zA-Z0-9.+,|() -]|GPL-2\\+|MIT| or | and |, and | with |ü){0,12}", 1..6)
        ) {
            let files = names.iter().map(|name| format!("\nFiles: *\nCopyright: x\nLicense: {name}\n"));
            if let Some(declared) = read(&format!("{HEAD}{}", files.collect::<String>())) {
                prop_assert!(is_expression(&declared.expression), "{:?}", declared.expression);
            }
        }

        #[test]
        fn any_text_is_read(text in ".{0,400}") {
            let _ = read(&text);
            let _ = read(&format!("{HEAD}{text}"));
        }
    }
}
