//! The apt sources of the finished root: the mirrors that it was made from, in deb822.
//!
//! Spec: sources.list(5), "DEB822-STYLE FORMAT".

use std::fmt::Write;

/// One stanza to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// Base addresses.
    pub mirrors: Vec<String>,
    /// Suites that these addresses, components and keys serve.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Where the keyring lies in the root; empty leaves the choice to apt.
    pub signed_by: String,
}

/// Merges sources that differ in the suite only, and writes all as deb822.
#[must_use]
pub fn deb822(sources: &[AptSource]) -> String {
    let mut merged: Vec<AptSource> = Vec::new();
    for source in sources {
        let same = |other: &&mut AptSource| {
            (&other.mirrors, &other.components, &other.signed_by)
                == (&source.mirrors, &source.components, &source.signed_by)
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.suites.extend(source.suites.iter().cloned()),
            None => merged.push(source.clone()),
        }
    }
    merged.iter().map(stanza).collect::<Vec<_>>().join("\n")
}

fn stanza(source: &AptSource) -> String {
    let mut text = String::from("Types: deb\n");
    let _ = writeln!(text, "URIs: {}", source.mirrors.join(" "));
    let _ = writeln!(text, "Suites: {}", source.suites.join(" "));
    let _ = writeln!(text, "Components: {}", source.components.join(" "));
    if !source.signed_by.is_empty() {
        let _ = writeln!(text, "Signed-By: {}", source.signed_by);
    }
    text
}
