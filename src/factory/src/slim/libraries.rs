//! Where a program's libraries lie.
//!
//! [`Libraries::find`] looks where the dynamic loader would: what the file itself says, the environment, the
//! loader's configuration, and the directories of Debian's architectures. Another machine's library of the same
//! name is passed by, as the loader does.
//!
//! Spec: ld.so(8), ldconfig(8).

use std::collections::BTreeMap;

use knarr_tree::unpack::Kind;
use object::read::ReadCache;

use super::elf::{self, Elf};
use super::tree::{Tree, join, name, parent};
use crate::FactoryError;

/// The directories in which libraries are looked for, and what was read so far.
pub struct Libraries {
    environment: Vec<String>,
    directories: Vec<String>,
    known: BTreeMap<String, Read>,
    inherited: BTreeMap<String, Vec<String>>,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub enum Read {
    /// A program or library.
    Elf(Box<Elf>),
    /// Something else.
    Other,
    /// It begins as ELF files do, and goes on otherwise.
    Malformed(String),
}

impl Libraries {
    /// The directories of a root and an image's environment.
    pub fn of(tree: &Tree<'_>, env: &[String]) -> Result<Self, FactoryError> {
        let given = env.iter().find_map(|pair| pair.strip_prefix("LD_LIBRARY_PATH="));
        let environment = given.into_iter().flat_map(|paths| paths.split(':')).map(relative).collect();
        let mut directories = Vec::new();
        configured(tree, "etc/ld.so.conf", &mut directories, 0)?;
        let is_triplet = |path: &&str| parent(path) == "usr/lib" && path.contains("-linux-");
        directories.extend(tree.below("usr/lib").filter(is_triplet).map(str::to_owned));
        directories.extend(["usr/lib", "usr/lib64", "lib", "lib64", "usr/lib32", "lib32"].map(str::to_owned));
        Ok(Self { environment, directories, known: BTreeMap::new(), inherited: BTreeMap::new() })
    }

    /// What a file is; read once.
    pub fn read(&mut self, tree: &Tree<'_>, path: &str) -> Result<Read, FactoryError> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let file = tree.root.open_file(path)?;
        let read = match elf::parse(&ReadCache::new(file)) {
            Ok(Some(elf)) => Read::Elf(Box::new(elf)),
            Ok(None) => Read::Other,
            Err(error) => Read::Malformed(error.to_string()),
        };
        self.known.insert(path.to_owned(), read.clone());
        Ok(read)
    }

    /// The paths of a library that `path` asks for: the one that is loaded, then those made for newer processors.
    pub fn find(
        &mut self,
        tree: &Tree<'_>,
        path: &str,
        elf: &Elf,
        wanted: &str,
    ) -> Result<Vec<String>, FactoryError> {
        if wanted.contains('/') {
            return Ok(vec![relative(wanted)]);
        }
        let mut directories = Vec::new();
        let own = |paths: &[String]| paths.iter().map(|text| expand(text, path)).collect::<Vec<_>>();
        if elf.runpath.is_empty() {
            directories.extend(own(&elf.rpath));
            directories.extend(self.inherited.get(path).into_iter().flatten().cloned());
        }
        let handed_on = directories.clone();
        directories.extend(self.environment.iter().cloned());
        directories.extend(own(&elf.runpath));
        directories.extend(self.directories.iter().cloned());
        for directory in directories {
            let Some(found) = tree.resolve(&join(&directory, wanted))? else { continue };
            if tree.kind(&found.path) != Some(Kind::File) {
                continue;
            }
            let Read::Elf(candidate) = self.read(tree, &found.path)? else { continue };
            if candidate.machine == elf.machine {
                self.inherited.entry(found.path).or_insert(handed_on);
                let mut paths = vec![join(&directory, wanted)];
                paths.extend(for_newer_processors(tree, &directory, wanted));
                return Ok(paths);
            }
        }
        Ok(Vec::new())
    }
}

/// `DIRECTORY/glibc-hwcaps/LEVEL/NAME`.
fn for_newer_processors(tree: &Tree<'_>, directory: &str, wanted: &str) -> Vec<String> {
    let top = join(directory, "glibc-hwcaps");
    tree.below(&top).filter(|path| name(path) == wanted).map(str::to_owned).collect()
}

fn expand(text: &str, path: &str) -> String {
    let origin = format!("/{}", parent(path));
    relative(&text.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
}

fn relative(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

const MAX_DEPTH: usize = 8;

fn configured(
    tree: &Tree<'_>,
    path: &str,
    directories: &mut Vec<String>,
    depth: usize,
) -> Result<(), FactoryError> {
    let Some(found) = tree.resolve(path)?.filter(|_| depth < MAX_DEPTH) else { return Ok(()) };
    if tree.kind(&found.path) != Some(Kind::File) {
        return Ok(());
    }
    for line in String::from_utf8_lossy(&tree.root.read(&found.path)?).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("include ") {
            Some(pattern) => {
                let pattern = pattern.trim();
                let whole =
                    if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/{pattern}") };
                for file in tree.matching(&whole) {
                    configured(tree, &file, directories, depth + 1)?;
                }
            }
            None if line.is_empty() => {}
            None => directories.push(relative(line)),
        }
    }
    Ok(())
}
