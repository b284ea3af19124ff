//! From file to file: what each one that is kept needs beside it.
//!
//! [`Walk::keep`] keeps a path with all links that lead to it; [`Walk::finish`] looks into every file that was kept
//! until there is nothing new, and answers with a [`Plan`] in which each file has its reason.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use knarr_tree::unpack::Kind;
use serde::{Deserialize, Serialize};

use super::elf::Elf;
use super::libraries::{Libraries, Read};
use super::perl::{self, Perl};
use super::python::{self, Import, Python};
use super::tree::{Tree, join, name, parent};
use super::words;
use crate::FactoryError;

/// Which files are kept, and what was looked for and is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Paths without leading `/`.
    pub kept: BTreeMap<String, Why>,
    /// What could not be followed, in words.
    pub notes: BTreeSet<String>,
}

/// Why a file is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// In words.
    pub reason: String,
    /// The file that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Why {
    /// The recipe or a rule says so.
    #[must_use]
    pub fn said(reason: &str) -> Self {
        Self { reason: reason.to_owned(), from: None }
    }

    fn of(reason: &str, from: &str) -> Self {
        Self { reason: reason.to_owned(), from: Some(from.to_owned()) }
    }
}

impl Plan {
    /// The files that led to a path, the path's own reason first.
    #[must_use]
    pub fn chain(&self, path: &str) -> Vec<&Why> {
        let mut chain: Vec<&Why> = Vec::new();
        let mut next = self.kept.get(path);
        while let Some(why) = next.filter(|_| chain.len() < MAX_CHAIN) {
            chain.push(why);
            next = why.from.as_deref().and_then(|from| self.kept.get(from));
        }
        chain
    }
}

const MAX_CHAIN: usize = 64;
/// Scripts and configurations are smaller.
const MAX_TEXT_BYTES: u64 = 4 << 20;
/// Debian's `PATH`, for scripts of an image that has none.
const PATH: &str = "usr/local/sbin:usr/local/bin:usr/sbin:usr/bin:sbin:bin";

/// A walk through a root.
pub struct Walk<'a> {
    tree: &'a Tree<'a>,
    env: &'a [String],
    libraries: Libraries,
    plan: Plan,
    queue: VecDeque<String>,
    python: Option<Python>,
    perl: Option<Perl>,
    unfound: BTreeMap<String, BTreeSet<String>>,
    /// Imports that were seen before the interpreter was, with the files that import.
    waiting: Vec<(String, Import)>,
}

impl<'a> Walk<'a> {
    /// A walk that has seen nothing yet.
    pub fn new(tree: &'a Tree<'a>, env: &'a [String]) -> Result<Self, FactoryError> {
        let libraries = Libraries::of(tree, env)?;
        let (plan, queue) = (Plan::default(), VecDeque::new());
        Ok(Self {
            tree,
            env,
            libraries,
            plan,
            queue,
            python: None,
            perl: None,
            unfound: BTreeMap::new(),
            waiting: Vec::new(),
        })
    }

    /// Keeps what a path leads to, and each link on the way; says whether it leads anywhere.
    pub fn keep(&mut self, path: &str, why: &Why) -> Result<bool, FactoryError> {
        let Some(found) = self.tree.resolve(path)? else {
            // A link that leads nowhere in the image may lead somewhere in a container.
            let dangling = self.tree.kind(path) == Some(Kind::Symlink);
            if dangling {
                self.note_kept(path.to_owned(), why);
            }
            return Ok(dangling);
        };
        let mut from = why.clone();
        for (link, is_last) in found.links {
            // An alias of a directory is on the way to much, and the reason for nothing.
            let next = if is_last { Why::of("the link leads there", &link) } else { from.clone() };
            self.note_kept(link, &from);
            from = next;
        }
        self.note_kept(found.path, &from);
        Ok(true)
    }

    fn note_kept(&mut self, path: String, why: &Why) {
        // A link that leads to itself in its own chain is no reason.
        if why.from.as_ref() == Some(&path) || self.plan.kept.contains_key(&path) {
            return;
        }
        self.plan.kept.insert(path.clone(), why.clone());
        self.queue.push_back(path);
    }

    /// Keeps a file, or a directory with all that is in it.
    pub fn keep_tree(&mut self, path: &str, why: &Why) -> Result<bool, FactoryError> {
        if !self.keep(path, why)? {
            return Ok(false);
        }
        let Some(found) = self.tree.resolve(path)? else { return Ok(true) };
        if self.tree.kind(&found.path) == Some(Kind::Directory) {
            let tree = self.tree;
            for below in tree.below(&found.path) {
                self.keep(below, why)?;
            }
        }
        Ok(true)
    }

    /// Keeps what a pattern of the recipe names; says whether it names anything.
    pub fn keep_pattern(&mut self, pattern: &str, why: &Why) -> Result<bool, FactoryError> {
        if !pattern.contains(['*', '?', '[']) {
            return self.keep_tree(pattern.trim_matches('/'), why);
        }
        let matching = self.tree.matching(pattern);
        matching.iter().try_for_each(|path| self.keep(path, why).map(drop))?;
        Ok(!matching.is_empty())
    }

    /// Keeps what a command of the image runs and names.
    pub fn keep_command(&mut self, argv: &[String], why: &Why) -> Result<(), FactoryError> {
        let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
        let Some(path) = self.program(program)? else {
            self.plan.notes.insert(format!("{}: there is no {program}", why.reason));
            return Ok(());
        };
        self.keep(&path, why)?;
        self.keep_arguments(&path, arguments, why)
    }

    fn keep_arguments(&mut self, program: &str, arguments: &[String], why: &Why) -> Result<(), FactoryError> {
        let real = self.tree.resolve(program)?.map(|found| found.path).unwrap_or_default();
        let file = name(&real).to_owned();
        let words = [name(program), &file];
        if words.contains(&"env") {
            return self.keep_command(words::behind_env(arguments), why);
        }
        if words.iter().any(|word| SHELLS.contains(word)) {
            let script = arguments.windows(2).find(|pair| pair[0].starts_with('-') && pair[0].ends_with('c'));
            if let Some([_, script]) = script {
                return self.keep_words(script, &why.reason, None);
            }
        }
        if Python::of(&real, self.tree, self.env).is_some() {
            self.keep_python_arguments(&real, arguments)?;
        }
        if file.starts_with("perl") && arguments.iter().all(|word| word.starts_with('-')) {
            self.keep_all_perl(&real)?;
        }
        for argument in arguments {
            let value = argument.split_once('=').map_or(argument.as_str(), |(_, value)| value);
            if value.starts_with('/') {
                self.keep_file(value, why)?;
            }
        }
        Ok(())
    }

    /// Keeps a file; a directory that is only named is no reason to keep all that is in it.
    fn keep_file(&mut self, path: &str, why: &Why) -> Result<(), FactoryError> {
        let found = self.tree.resolve(path)?;
        let is_directory = found.is_some_and(|found| self.tree.kind(&found.path) == Some(Kind::Directory));
        if path.trim_matches('/').is_empty() || (is_directory && parent(path.trim_matches('/')).is_empty()) {
            return Ok(());
        }
        self.keep(path, why).map(drop)
    }

    /// The path of a program that a command names.
    fn program(&self, word: &str) -> Result<Option<String>, FactoryError> {
        if word.contains('/') {
            return Ok(self.tree.resolve(word)?.map(|_| word.to_owned()));
        }
        let path = self.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(PATH);
        for directory in path.split(':').map(|directory| directory.trim_matches('/')) {
            let candidate = join(directory, word);
            if self.is_program(&candidate)? {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn is_program(&self, path: &str) -> Result<bool, FactoryError> {
        let found = self.tree.resolve(path)?;
        let meta = found.as_ref().and_then(|found| self.tree.meta(&found.path));
        Ok(meta.is_some_and(|meta| meta.kind == Kind::File && meta.mode & 0o111 != 0))
    }

    /// Keeps the programs and files that a shell script names.
    fn keep_words(&mut self, script: &str, reason: &str, from: Option<&str>) -> Result<(), FactoryError> {
        for word in words::words(script) {
            let why = Why { reason: format!("{reason} names {word}"), from: from.map(str::to_owned) };
            match self.program(word)? {
                Some(path) if word.contains('/') => self.keep_file(&path, &why)?,
                Some(path) => drop(self.keep(&path, &why)?),
                None => {}
            }
        }
        Ok(())
    }

    /// Keeps files that a text of the recipe names.
    pub fn keep_named_in(&mut self, path: &str) -> Result<(), FactoryError> {
        let Some(text) = self.text(path)? else { return Ok(()) };
        for named in words::paths(&text) {
            let why = Why::of("the file names it", path);
            if named.contains('*') {
                for matching in self.tree.matching(named) {
                    self.keep(&matching, &why)?;
                }
            } else {
                self.keep_file(named, &why)?;
            }
        }
        Ok(())
    }

    /// The text of a file that is one.
    fn text(&self, path: &str) -> Result<Option<String>, FactoryError> {
        let is_small =
            |meta: &&knarr_tree::root::Meta| meta.kind == Kind::File && meta.size_bytes <= MAX_TEXT_BYTES;
        if self.tree.meta(path).filter(is_small).is_none() {
            return Ok(None);
        }
        Ok(String::from_utf8(self.tree.root.read(path)?).ok())
    }

    /// Looks into everything that is kept, until there is nothing new.
    pub fn finish(mut self) -> Result<Plan, FactoryError> {
        while let Some(path) = self.queue.pop_front() {
            if self.tree.kind(&path) == Some(Kind::File) {
                self.look(&path)?;
            }
        }
        self.note_unfound();
        Ok(self.plan)
    }

    /// Tells of libraries that are not where the loader looks, unless whoever needs them is opened by a program that
    /// has them at hand.
    fn note_unfound(&mut self) {
        let kept: BTreeSet<&str> = self.plan.kept.keys().map(|path| name(path)).collect();
        let unfound = self.unfound.iter().filter(|(library, _)| !kept.contains(library.as_str()));
        let note = |(library, users): (&String, &BTreeSet<String>)| {
            let users: Vec<String> = users.iter().map(|path| format!("/{path}")).collect();
            format!("{library} is not there, which {} needs", users.join(", "))
        };
        let notes: Vec<String> = unfound.map(note).collect();
        self.plan.notes.extend(notes);
    }

    fn look(&mut self, path: &str) -> Result<(), FactoryError> {
        match self.libraries.read(self.tree, path)? {
            Read::Elf(elf) => self.look_at_elf(path, &elf),
            Read::Malformed(reason) => {
                self.plan.notes.insert(format!("/{path}: {reason}"));
                Ok(())
            }
            Read::Other => {
                self.look_at_runtime(path)?;
                self.look_at_text(path)
            }
        }
    }

    fn look_at_elf(&mut self, path: &str, elf: &Elf) -> Result<(), FactoryError> {
        if let Some(interpreter) = &elf.interpreter
            && !self.keep(interpreter, &Why::of("it starts the program", path))?
        {
            self.plan.notes.insert(format!("/{path}: its interpreter {interpreter} is not there"));
        }
        for library in &elf.needed {
            if !self.keep_library(path, elf, library, &format!("the program needs {library}"))? {
                self.unfound.entry(library.clone()).or_default().insert(path.to_owned());
            }
        }
        for note in elf.dlopens.iter().filter(|note| !note.is_optional()) {
            for library in &note.soname {
                let reason = format!("{}: the program opens {library}", note.priority);
                if self.keep_library(path, elf, library, &reason)? {
                    break;
                }
            }
        }
        let is_libc = elf.soname.as_deref().is_some_and(|soname| soname.starts_with("libc.so"));
        if elf.unwinds && !is_libc {
            self.keep_library(path, elf, "libgcc_s.so.1", "the C library opens it to end threads")?;
        }
        self.look_at_runtime(path)
    }

    fn keep_library(
        &mut self,
        path: &str,
        elf: &Elf,
        library: &str,
        reason: &str,
    ) -> Result<bool, FactoryError> {
        let found = self.libraries.find(self.tree, path, elf, library)?;
        let why = Why::of(reason, path);
        let mut is_there = false;
        for one in &found {
            is_there |= self.keep(one, &why)?;
        }
        Ok(is_there)
    }

    /// What programs need that their files do not say.
    fn look_at_runtime(&mut self, path: &str) -> Result<(), FactoryError> {
        let file = name(path);
        let mut rules: Vec<(String, &str)> = Vec::new();
        if file.starts_with("libcrypto.so") {
            let of_openssl = [
                "usr/lib/ssl/openssl.cnf",
                "usr/lib/ssl/cert.pem",
                "usr/lib/ssl/certs",
                "etc/ssl/openssl.cnf",
            ];
            rules.extend(of_openssl.map(|path| (path.to_owned(), "OpenSSL reads it")));
        }
        if file.starts_with("libc.so") {
            rules.extend(
                ["etc/ld.so.conf", "etc/ld.so.conf.d"]
                    .map(|path| (path.to_owned(), "the loader's configuration")),
            );
            rules.push(("usr/lib/locale/C.utf8".to_owned(), "the locale C.UTF-8"));
        }
        if file.starts_with("ld-musl") {
            rules.push(("etc/ld-musl*".to_owned(), "the loader's configuration"));
        }
        if let Some(home) = java_home(path) {
            rules.push((home, "the Java runtime is one"));
        }
        for (wanted, reason) in rules {
            self.keep_pattern(&wanted, &Why::of(reason, path))?;
        }
        if self.python.is_none()
            && let Some(python) = Python::of(path, self.tree, self.env)
        {
            self.keep_python(python, path)?;
        }
        if self.perl.is_none() && (file.starts_with("perl") || file.starts_with("libperl.so")) {
            self.perl = Some(Perl::of(self.tree));
            for module in perl::ALWAYS {
                self.keep_perl_module(path, module)?;
            }
        }
        self.look_at_native_module(path)
    }

    fn look_at_native_module(&mut self, path: &str) -> Result<(), FactoryError> {
        let stem = name(path).split('.').next().unwrap_or_default();
        let hidden = python::HIDDEN.iter().find(|(module, _)| *module == stem && path.ends_with(".so"));
        for module in hidden.map_or(&[][..], |(_, modules)| *modules) {
            self.keep_python_import(path, &absolute(module))?;
        }
        Ok(())
    }

    fn look_at_text(&mut self, path: &str) -> Result<(), FactoryError> {
        let Some(text) = self.text(path)? else { return Ok(()) };
        let shebang = words::shebang(text.as_bytes());
        let mut language = path.rsplit_once('.').map_or("", |(_, extension)| extension).to_owned();
        if let Some(shebang) = &shebang {
            language = self.keep_interpreter(path, shebang)?;
        }
        match language.as_str() {
            "py" => self.look_at_python(path, &text),
            "pl" | "pm" => {
                perl::uses(&text).iter().try_for_each(|module| self.keep_perl_module(path, module))
            }
            "sh" if shebang.is_some() => self.keep_words(&text, "the script", Some(path)),
            _ => Ok(()),
        }
    }

    /// Keeps what runs a script; answers with the script's language, as a file's extension.
    fn keep_interpreter(&mut self, path: &str, shebang: &[String]) -> Result<String, FactoryError> {
        let why = Why::of("it runs the script", path);
        if !self.keep(&shebang[0], &why)? {
            self.plan.notes.insert(format!("/{path}: its interpreter {} is not there", shebang[0]));
        }
        let mut program = shebang[0].clone();
        if name(&program) == "env"
            && let Some(word) = words::behind_env(&shebang[1..]).first()
        {
            program.clone_from(word);
            match self.program(word)? {
                Some(found) => drop(self.keep(&found, &why)?),
                None => drop(self.plan.notes.insert(format!("/{path}: its interpreter {word} is not there"))),
            }
        }
        let file = name(&program);
        Ok(match file {
            _ if file.starts_with("python") => "py",
            _ if file.starts_with("perl") => "pl",
            _ if SHELLS.contains(&file) => "sh",
            _ => "",
        }
        .to_owned())
    }

    fn keep_python(&mut self, python: Python, path: &str) -> Result<(), FactoryError> {
        let why = Why::of("the interpreter starts with it", path);
        self.keep_tree(&join(&python.library, "encodings"), &why)?;
        self.keep(&join(&python.library, "lib-dynload"), &why)?;
        self.python = Some(python);
        for module in python::ALWAYS {
            self.keep_python_import(path, &absolute(module))?;
        }
        for (path, import) in std::mem::take(&mut self.waiting) {
            self.keep_python_import(&path, &import)?;
        }
        Ok(())
    }

    /// The program that an interpreter is given; without one it may be asked for anything.
    fn keep_python_arguments(&mut self, python: &str, arguments: &[String]) -> Result<(), FactoryError> {
        if self.python.is_none()
            && let Some(found) = Python::of(python, self.tree, self.env)
        {
            self.keep_python(found, python)?;
        }
        let script = arguments.iter().position(|word| !word.starts_with('-') || word == "-m" || word == "-c");
        match script.and_then(|at| arguments.get(at..)) {
            Some([flag, module, ..]) if flag == "-m" => {
                self.keep_python_import(python, &absolute(module))?;
                self.keep_python_import(python, &absolute(&format!("{module}.__main__")))
            }
            Some([flag, text, ..]) if flag == "-c" => self.look_at_python(python, text),
            Some([script, ..]) if !script.starts_with('-') => {
                let text = match self.tree.resolve(script)? {
                    Some(found) => self.text(&found.path)?.map(|text| (found.path, text)),
                    None => None,
                };
                text.map_or(Ok(()), |(path, text)| self.look_at_python(&path, &text))
            }
            _ => self.keep_all_python(python),
        }
    }

    fn keep_all_python(&mut self, path: &str) -> Result<(), FactoryError> {
        let Some(python) = self.python.clone() else { return Ok(()) };
        let why = Why::of("an interpreter without a program may be asked for it", path);
        python.path.iter().try_for_each(|directory| self.keep_tree(directory, &why).map(drop))
    }

    fn look_at_python(&mut self, path: &str, text: &str) -> Result<(), FactoryError> {
        python::imports(text).iter().try_for_each(|import| self.keep_python_import(path, import))
    }

    fn keep_python_import(&mut self, path: &str, import: &Import) -> Result<(), FactoryError> {
        let Some(python) = self.python.clone() else {
            self.waiting.push((path.to_owned(), import.clone()));
            return Ok(());
        };
        let dots = ".".repeat(import.level);
        let why = Why::of(&format!("it imports {dots}{}", import.module), path);
        for file in python.files(self.tree, path, import) {
            self.keep(&file, &why)?;
            self.keep_distribution(&file)?;
        }
        Ok(())
    }

    /// Data and metadata of what was installed beside the standard library: programs find them by their place.
    fn keep_distribution(&mut self, file: &str) -> Result<(), FactoryError> {
        let Some((above, rest)) = file.split_once("/dist-packages/") else { return Ok(()) };
        let top = rest.split(['/', '.']).next().unwrap_or_default();
        let directory = format!("{above}/dist-packages");
        let why = Why::of("the package's data", file);
        let is_data = |path: &&str| !path.ends_with(".py") && !path.ends_with(".so");
        let mut wanted: Vec<String> =
            self.tree.below(&join(&directory, top)).filter(is_data).map(str::to_owned).collect();
        let plain = |text: &str| text.to_lowercase().replace('-', "_");
        let is_about = |path: &&str| {
            let entry = path[directory.len() + 1..].split('/').next().unwrap_or_default();
            (entry.ends_with(".dist-info") || entry.ends_with(".egg-info"))
                && plain(entry).strip_prefix(&plain(top)).is_some_and(|rest| rest.starts_with(['_', '.']))
        };
        wanted.extend(self.tree.below(&directory).filter(is_about).map(str::to_owned));
        wanted.iter().try_for_each(|path| self.keep(path, &why).map(drop))
    }

    fn keep_perl_module(&mut self, path: &str, module: &str) -> Result<(), FactoryError> {
        let Some(perl) = self.perl.clone() else {
            // A module may be looked at before the interpreter was.
            self.perl = Some(Perl::of(self.tree));
            return self.keep_perl_module(path, module);
        };
        let why = Why::of(&format!("it uses {module}"), path);
        perl.files(self.tree, module).iter().try_for_each(|file| self.keep(file, &why).map(drop))
    }

    fn keep_all_perl(&mut self, path: &str) -> Result<(), FactoryError> {
        let why = Why::of("an interpreter without a program may be asked for it", path);
        let perl = Perl::of(self.tree);
        perl.path.iter().try_for_each(|directory| self.keep_tree(directory, &why).map(drop))
    }
}

const SHELLS: [&str; 7] = ["sh", "dash", "bash", "ash", "busybox", "ksh", "zsh"];

fn absolute(module: &str) -> Import {
    Import { module: module.to_owned(), level: 0, names: Vec::new() }
}

/// The directory of the Java runtime that a library or program belongs to.
fn java_home(path: &str) -> Option<String> {
    let inside = path.strip_prefix("usr/lib/jvm/")?;
    let home = inside.split('/').next()?;
    matches!(name(path), "libjvm.so" | "java").then(|| format!("usr/lib/jvm/{home}"))
}
