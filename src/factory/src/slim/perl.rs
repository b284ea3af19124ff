//! What a Perl program uses.
//!
//! [`uses`] is pure; [`Perl`] knows where an interpreter looks for modules and what is made of C in them.
//!
//! Spec: perlfunc, `use` and `require`; Debian Perl policy for the directories.

use std::collections::BTreeSet;

use knarr_tree::unpack::Kind;

use super::tree::{Tree, join, name, parent};

/// The files of modules that a text names, relative to a directory of `@INC`, such as `IO/File.pm`.
#[must_use]
pub fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().take_while(|line| *line != "__END__") {
        let line = line.split(" #").next().unwrap_or_default().trim();
        for statement in line.split([';', '{']).map(str::trim) {
            read_statement(statement, &mut found);
        }
    }
    found
}

fn read_statement(statement: &str, found: &mut BTreeSet<String>) {
    let rest = ["use ", "require ", "no "].iter().find_map(|word| statement.strip_prefix(word));
    let rest = rest.or_else(|| statement.split_once(" require ").map(|(_, rest)| rest));
    let Some(rest) = rest.map(str::trim) else { return };
    let first = rest.split_whitespace().next().unwrap_or_default();
    if let Some(file) = quoted(rest) {
        found.insert(file.to_owned());
    } else if is_module(first) {
        found.insert(file_of(first));
    }
    if matches!(first, "parent" | "base") {
        let is_separator = |c: char| !c.is_alphanumeric() && c != ':' && c != '_';
        let names = rest[first.len()..].split(is_separator).filter(|word| is_module(word) && *word != "qw");
        found.extend(names.map(file_of));
    }
}

fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let file = text[1..].split(quote).next()?;
    (file.ends_with(".pl") || file.ends_with(".pm")).then_some(file)
}

fn is_module(word: &str) -> bool {
    let good = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.len() < 1024 && word.split("::").all(good)
}

fn file_of(module: &str) -> String {
    format!("{}.pm", module.replace("::", "/"))
}

/// What the interpreter itself asks for.
pub const ALWAYS: [&str; 8] = [
    "strict.pm",
    "warnings.pm",
    "utf8.pm",
    "Config.pm",
    "Carp.pm",
    "feature.pm",
    "Exporter.pm",
    "XSLoader.pm",
];

/// The directories in which an interpreter looks.
#[derive(Clone, Debug)]
pub struct Perl {
    /// `@INC`.
    pub path: Vec<String>,
}

impl Perl {
    /// The directories that a root has.
    #[must_use]
    pub fn of(tree: &Tree<'_>) -> Self {
        let is_library = |path: &&str| {
            let (above, last) = (parent(path), name(path));
            tree.kind(path) == Some(Kind::Directory)
                && (*path == "etc/perl"
                    || *path == "usr/share/perl5"
                    || last == "perl-base"
                    || (matches!(name(above), "perl" | "perl5")
                        && last.starts_with(|c: char| c.is_ascii_digit())))
        };
        Self { path: tree.files().map(|(path, _)| path).filter(is_library).map(str::to_owned).collect() }
    }

    /// The files of a module: its text and what of it is made of C.
    #[must_use]
    pub fn files(&self, tree: &Tree<'_>, module: &str) -> Vec<String> {
        let stem = module.strip_suffix(".pm").unwrap_or(module);
        let library = join(&format!("auto/{stem}"), &format!("{}.so", name(stem)));
        let wanted = [module.to_owned(), library];
        let all = self.path.iter().flat_map(|directory| wanted.iter().map(move |file| join(directory, file)));
        all.filter(|path| matches!(tree.kind(path), Some(Kind::File | Kind::Symlink))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::uses;

    #[test]
    fn modules_are_found_by_their_files() {
        let text = "use strict;\nuse IO::File qw(x); # use None\nrequire \"lib.pl\";\nuse parent qw(A::B C);\nuse 5.010;\n\
                    eval { require Text::Wrap };\n__END__\nuse Never;\n";
        let found: Vec<String> = uses(text).into_iter().collect();
        assert_eq!(
            found,
            ["A/B.pm", "C.pm", "IO/File.pm", "Text/Wrap.pm", "lib.pl", "parent.pm", "strict.pm"]
        );
    }
}
