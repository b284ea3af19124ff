//! What a Python program imports.
//!
//! [`imports`] is pure: it reads a program's text and answers with the modules that it names, more rather than
//! fewer. [`Python`] knows where an interpreter looks for them.
//!
//! Spec: the Python language reference, "The import statement"; the `site` module.

use std::collections::BTreeSet;

use knarr_tree::unpack::Kind;

use super::tree::{Tree, join, name, parent};

/// A module that a program imports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Its name, with dots; empty in `from . import x`.
    pub module: String,
    /// How many packages up it is looked for; 0 means absolute.
    pub level: usize,
    /// What is taken out of it, each perhaps a module itself.
    pub names: Vec<String>,
}

/// All that a text imports.
#[must_use]
pub fn imports(text: &str) -> BTreeSet<Import> {
    let mut found = BTreeSet::new();
    for line in logical_lines(text) {
        let statements = line.split(';').map(str::trim);
        for statement in statements {
            // `try: import x` and `if y: import x` stand on one line.
            let starts = [statement, statement.split_once(": ").map_or("", |(_, rest)| rest.trim())];
            starts.into_iter().for_each(|statement| read_statement(statement, &mut found));
        }
        read_calls(&line, &mut found);
    }
    found
}

/// Lines with what follows a backslash or stands in parentheses of an import put behind them.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match lines.last_mut() {
            Some(last) if open => {
                last.push(' ');
                last.push_str(line.trim_end_matches('\\'));
            }
            _ => lines.push(line.trim_end_matches('\\').to_owned()),
        }
        let last = lines.last().map_or("", String::as_str);
        let in_parentheses = last.contains("import") && last.matches('(').count() > last.matches(')').count();
        open = (line.ends_with('\\') || in_parentheses) && last.len() < MAX_LINE_BYTES;
    }
    lines
}

const MAX_LINE_BYTES: usize = 1 << 16;

fn read_statement(statement: &str, found: &mut BTreeSet<Import>) {
    if let Some(rest) = statement.strip_prefix("import ") {
        for part in rest.split(',') {
            let module = part.split_whitespace().next().unwrap_or_default();
            add(found, module, 0, Vec::new());
        }
    } else if let Some(rest) = statement.strip_prefix("from ")
        && let Some((module, names)) = rest.split_once(" import")
    {
        let module = module.trim();
        let level = module.chars().take_while(|&c| c == '.').count();
        let separates = |c: char| c == ',' || c == '(' || c == ')';
        let names = names.split(separates).filter_map(|part| part.split_whitespace().next());
        let names = names.filter(|name| *name != "*" && is_module(name)).map(str::to_owned).collect();
        add(found, &module[level..], level, names);
    }
}

/// `import_module("x")` and `__import__("x")`.
fn read_calls(line: &str, found: &mut BTreeSet<Import>) {
    for call in ["import_module(", "__import__("] {
        for rest in line.split(call).skip(1) {
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
            if let Some(module) = quote.and_then(|quote| rest[1..].split(quote).next()) {
                add(found, module, 0, Vec::new());
            }
        }
    }
}

fn add(found: &mut BTreeSet<Import>, module: &str, level: usize, names: Vec<String>) {
    if is_module(module) || (level > 0 && module.is_empty()) {
        found.insert(Import { module: module.to_owned(), level, names });
    }
}

fn is_module(name: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !part.starts_with(|c: char| c.is_ascii_digit())
    };
    name.len() < 1024 && name.split('.').all(good)
}

/// An interpreter of one version.
#[derive(Clone, Debug)]
pub struct Python {
    /// Its standard library, such as `usr/lib/python3.13`.
    pub library: String,
    /// Where modules are looked for, in this order.
    pub path: Vec<String>,
}

/// Modules that the interpreter itself imports, or that its C code does.
pub const ALWAYS: [&str; 27] = [
    "site",
    "sitecustomize",
    "encodings",
    "codecs",
    "io",
    "abc",
    "os",
    "stat",
    "posixpath",
    "genericpath",
    "_collections_abc",
    "_sitebuiltins",
    "zipimport",
    "importlib",
    "importlib.machinery",
    "importlib.util",
    "runpy",
    "warnings",
    "linecache",
    "traceback",
    "copyreg",
    "types",
    "functools",
    "_weakrefset",
    "weakref",
    "threading",
    "keyword",
];

/// What modules made of C import, which no statement shows.
pub const HIDDEN: [(&str, &[&str]); 8] = [
    ("_datetime", &["_strptime"]),
    ("_decimal", &["numbers", "collections"]),
    ("_elementtree", &["copy", "xml.etree.ElementPath"]),
    ("_asyncio", &["asyncio"]),
    ("_zoneinfo", &["zoneinfo._common", "zoneinfo._tzpath"]),
    ("_curses", &["curses"]),
    ("_pickle", &["copyreg", "_compat_pickle"]),
    ("_ssl", &["socket"]),
];

impl Python {
    /// The version of a program or library such as `usr/bin/python3.13` or `libpython3.13.so.1.0`.
    #[must_use]
    pub fn of(path: &str, tree: &Tree<'_>, env: &[String]) -> Option<Self> {
        let file = name(path);
        let rest = file.strip_prefix("python3.").or_else(|| file.strip_prefix("libpython3."))?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let library = format!("usr/lib/python3.{digits}");
        (!digits.is_empty() && tree.kind(&library) == Some(Kind::Directory)).then(|| {
            let given = env.iter().find_map(|pair| pair.strip_prefix("PYTHONPATH="));
            let mut path: Vec<String> = given
                .into_iter()
                .flat_map(|paths| paths.split(':'))
                .map(|path| path.trim_matches('/').to_owned())
                .collect();
            path.extend([
                library.clone(),
                format!("{library}/lib-dynload"),
                format!("usr/local/lib/python3.{digits}/dist-packages"),
                "usr/lib/python3/dist-packages".to_owned(),
            ]);
            Self { library, path }
        })
    }

    /// The files of a module and of the packages above it; `from` is the file that asks.
    #[must_use]
    pub fn files(&self, tree: &Tree<'_>, from: &str, import: &Import) -> Vec<String> {
        let mut files = Vec::new();
        for base in self.bases(from, import) {
            let before = files.len();
            self.module(tree, &base, &import.module, &mut files);
            let package = join(&base, &import.module.replace('.', "/"));
            let package = package.trim_matches('/').to_owned();
            import.names.iter().for_each(|name| self.module(tree, &package, name, &mut files));
            if files.len() > before {
                break;
            }
        }
        files
    }

    fn bases(&self, from: &str, import: &Import) -> Vec<String> {
        let mut here = parent(from);
        if import.level > 0 {
            (1..import.level).for_each(|_| here = parent(here));
            return vec![here.to_owned()];
        }
        // A program's own directory comes first; for a module of a library it is a guess that does no harm.
        let is_library = self.path.iter().any(|path| from.starts_with(path.as_str()));
        let own = (!is_library).then(|| here.to_owned());
        own.into_iter().chain(self.path.iter().cloned()).collect()
    }

    fn module(&self, tree: &Tree<'_>, base: &str, module: &str, files: &mut Vec<String>) {
        let mut here = base.to_owned();
        for part in module.split('.').filter(|part| !part.is_empty()) {
            let stem = join(&here, part);
            let is_link_or_file = |path: &String| matches!(tree.kind(path), Some(Kind::File | Kind::Symlink));
            let package = format!("{stem}/__init__.py");
            let plain = format!("{stem}.py");
            files.extend([package, plain].into_iter().filter(is_link_or_file));
            let native = tree.below(&here).filter(|path| is_native(path, &here, part));
            files.extend(native.map(str::to_owned));
            here = stem;
        }
    }
}

/// `PART.cpython-313-x86_64-linux-gnu.so`, `PART.abi3.so`, `PART.so`.
fn is_native(path: &str, directory: &str, part: &str) -> bool {
    let file = name(path);
    parent(path) == directory
        && file.strip_prefix(part).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".so"))
}

#[cfg(test)]
mod tests {
    use super::{Import, imports};

    fn check(text: &str, expected: &[(&str, usize, &[&str])]) {
        let found: Vec<Import> = imports(text).into_iter().collect();
        let mut expected: Vec<Import> = expected
            .iter()
            .map(|(module, level, names)| Import {
                module: (*module).to_owned(),
                level: *level,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
            .collect();
        expected.sort();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_way_to_import_is_seen() {
        check("import a.b as c, d\n", &[("a.b", 0, &[]), ("d", 0, &[])]);
        check("    from x.y import (z,\n  w as v)\n", &[("x.y", 0, &["z", "w"])]);
        check("from . import one\nfrom ..two import three\n", &[("", 1, &["one"]), ("two", 2, &["three"])]);
        check("try: import fast\nexcept ImportError: import slow\n", &[("fast", 0, &[]), ("slow", 0, &[])]);
        check("import a; import b\n", &[("a", 0, &[]), ("b", 0, &[])]);
        check(
            "m = importlib.import_module('deep.er')\n__import__(\"q\")\n",
            &[("deep.er", 0, &[]), ("q", 0, &[])],
        );
        check("from x import *\n", &[("x", 0, &[])]);
        check("import long, \\\n  line\n", &[("long", 0, &[]), ("line", 0, &[])]);
    }

    #[test]
    fn what_is_no_module_is_no_import() {
        check("# import a\nimportant = 1\nimport 9x\nfrom here to there\n__import__(name)\n", &[]);
    }
}
