//! Files that a recipe adds, and what it copies from stages.

use std::fs;
use std::io::Read;

use std::path::{Path, PathBuf};

use knarr_base::{Digest, DigestReader, Timestamp};
use knarr_mirror::Mirror;
use knarr_recipe::check::parse_mode;
use knarr_recipe::recipe::{Copy, File};
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use crate::accounts::Accounts;
use crate::cache::KeyMaker;
use crate::{FactoryError, state};

/// The directory that a recipe's files are relative to; nothing leads out of it.
#[derive(Debug)]
pub struct Context {
    root: Root,
}

/// No file of a context is larger.
const MAX_DEPTH: usize = 64;

impl Context {
    /// The context in a directory.
    pub fn open(path: &Path) -> Result<Self, FactoryError> {
        Ok(Self { root: Root::open(path)? })
    }

    /// The content of one file.
    pub fn read(&self, from: &str) -> Result<Vec<u8>, FactoryError> {
        self.check(from)?;
        Ok(self.root.read(from)?)
    }

    /// A link must not lead out of the context: inside the root it would silently mean something else.
    fn check(&self, from: &str) -> Result<Kind, FactoryError> {
        let bad = |reason: String| FactoryError::Context { from: from.to_owned(), reason };
        let directory = self.root.path();
        let canonical = |path: &Path| fs::canonicalize(path).map_err(|error| bad(error.to_string()));
        let (top, real) = (canonical(directory)?, canonical(&directory.join(from))?);
        if !real.starts_with(&top) {
            return Err(bad(format!("it leads to {}, out of the context {}", real.display(), top.display())));
        }
        Ok(self.root.stat(from)?.kind)
    }
}

/// Adds all that files say to a key: their words, and the content that they speak of.
pub fn key(mut key: KeyMaker, files: &[File], context: &Context) -> Result<KeyMaker, FactoryError> {
    for file in files {
        key = key.with_json(file);
        if let Some(from) = &file.from {
            context.check(from)?;
            key = tree_key(key, &context.root, from, 0)?;
        }
    }
    Ok(key)
}

/// Whether a path of the context is a directory, and the digest of a file's content, or of all that is in a directory.
pub fn digest(context: &Context, from: &str) -> Result<(bool, Digest), FactoryError> {
    match context.check(from)? {
        Kind::File => {}
        Kind::Directory => {
            return Ok((true, tree_key(KeyMaker::tree(), &context.root, from, 0)?.finish()));
        }
        kind => return Err(no_file(from, kind)),
    }
    let mut content = DigestReader::new(context.root.open_file(from)?);
    let fail = |source| FactoryError::File { doing: "read", path: context.root.path().join(from), source };
    std::io::copy(&mut content, &mut std::io::sink()).map_err(fail)?;
    Ok((false, content.finish().1))
}

fn tree_key(key: KeyMaker, root: &Root, path: &str, depth: usize) -> Result<KeyMaker, FactoryError> {
    if depth > MAX_DEPTH {
        return Err(FactoryError::Context {
            from: path.to_owned(),
            reason: "its directories are nested too deep".to_owned(),
        });
    }
    let meta = if depth == 0 { root.stat(path)? } else { root.lstat(path)? };
    let key = key.with(path.as_bytes()).with(format!("{:?} {:o}", meta.kind, meta.mode).as_bytes());
    match meta.kind {
        Kind::Directory => root
            .list(path)?
            .iter()
            .try_fold(key, |key, name| tree_key(key, root, &format!("{path}/{name}"), depth + 1)),
        Kind::Symlink => Ok(key.with(&root.read_link(path)?)),
        kind if kind != Kind::File => Err(no_file(path, kind)),
        _ => {
            let mut content = DigestReader::new(root.open_file(path)?);
            let fail = |source| FactoryError::File { doing: "read", path: root.path().join(path), source };
            std::io::copy(&mut content, &mut std::io::sink()).map_err(fail)?;
            Ok(key.with(content.finish().1.as_bytes()))
        }
    }
}

/// Adds files to a root.
pub fn add(
    root: &Root,
    files: &[File],
    context: &Context,
    mirror: &Mirror,
    time: Timestamp,
) -> Result<(), FactoryError> {
    let mut accounts = Accounts::read(root)?;
    for file in files {
        let to = file.path.trim_matches('/');
        make_parent(root, to)?;
        let default_mode = if file.directory { 0o755 } else { 0o644 };
        let mode = file.mode.as_deref().map(parse_mode).transpose().map_err(FactoryError::Request)?;
        let owner = file.owner.as_deref().map(|owner| accounts.owner(owner)).transpose()?.unwrap_or((0, 0));
        if let Some(text) = &file.text {
            root.write(to, text.as_bytes(), mode.unwrap_or(default_mode))?;
        } else if let Some(target) = &file.link {
            root.symlink(target, to)?;
        } else if file.directory {
            root.create_dir_all(to, mode.unwrap_or(default_mode))?;
            root.set_mode(to, mode.unwrap_or(default_mode))?;
        } else if let Some(url) = &file.url {
            let digest: Digest = file
                .sha256
                .as_deref()
                .unwrap_or_default()
                .parse()
                .map_err(|error| FactoryError::Request(format!("{url}: {error}")))?;
            copy_host_file(&mirror.file(url, digest)?, root, to, mode.unwrap_or(default_mode))?;
        } else if let Some(from) = &file.from {
            context.check(from)?;
            copy_tree(&context.root, from, root, to, Some(mode), owner, time, 0)?;
            continue;
        }
        root.set_owner(to, owner.0, owner.1)?;
        if file.link.is_none() {
            // A change of owner takes setuid away.
            root.set_mode(to, mode.unwrap_or(default_mode))?;
        }
        root.set_mtime(to, time.0)?;
    }
    Ok(())
}

/// Copies what stages made into a root.
pub fn copy(root: &Root, copy: &Copy, stage: &Root, time: Timestamp) -> Result<(), FactoryError> {
    let mut accounts = Accounts::read(root)?;
    let from = copy.from.trim_matches('/');
    let to = copy.path.as_deref().unwrap_or(&copy.from).trim_matches('/').to_owned();
    if !stage.exists(from)? {
        return Err(FactoryError::Stage {
            name: copy.stage.clone(),
            reason: format!("it has no {:?}, which is to be copied", copy.from),
        });
    }
    // A directory's name at the end means: into it.
    let to = match copy.path.as_deref().is_some_and(|path| path.ends_with('/')) {
        true => format!("{to}/{}", from.rsplit('/').next().unwrap_or(from)).trim_matches('/').to_owned(),
        false => to,
    };
    let meta = stage.stat(from)?;
    if !matches!(meta.kind, Kind::File | Kind::Directory) {
        let reason = format!("{:?}: {}", copy.from, not_addable(meta.kind));
        return Err(FactoryError::Stage { name: copy.stage.clone(), reason });
    }
    make_parent(root, &to)?;
    let mode = copy.mode.as_deref().map(parse_mode).transpose().map_err(FactoryError::Request)?;
    let owner = copy.owner.as_deref().map(|owner| accounts.owner(owner)).transpose()?.unwrap_or((0, 0));
    copy_tree(stage, from, root, &to, Some(mode), owner, time, 0)
}

fn make_parent(root: &Root, path: &str) -> Result<(), FactoryError> {
    match path.rsplit_once('/') {
        Some((parent, _)) => Ok(root.create_dir_all(parent, 0o755)?),
        None => Ok(()),
    }
}

#[expect(clippy::too_many_arguments, reason = "two trees, two paths, and what becomes of each file")]
fn copy_tree(
    from_root: &Root,
    from: &str,
    root: &Root,
    to: &str,
    mode: Option<Option<u32>>,
    owner: (u32, u32),
    time: Timestamp,
    depth: usize,
) -> Result<(), FactoryError> {
    if state::is_of_the_run(from) {
        return Ok(());
    }
    // The top follows links, as cp does with what it is given by name; what is below stays what it is.
    let meta = if depth == 0 { from_root.stat(from)? } else { from_root.lstat(from)? };
    match meta.kind {
        Kind::Directory => {
            root.create_dir_all(to, meta.mode)?;
            if !to.is_empty() {
                root.set_owner(to, owner.0, owner.1)?;
                root.set_mode(to, meta.mode)?;
            }
            for name in from_root.list(from)? {
                let join = |path: &str| if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                copy_tree(from_root, &join(from), root, &join(to), mode, owner, time, depth + 1)?;
            }
            return Ok(());
        }
        Kind::Symlink => {
            let target = from_root.read_link(from)?;
            root.symlink(&String::from_utf8_lossy(&target), to)?;
            root.set_owner(to, owner.0, owner.1)?;
        }
        Kind::File => {
            let mut file = from_root.open_file(from)?;
            let mode = mode.flatten().unwrap_or(meta.mode);
            copy_open_file(&mut file, root, to, mode)?;
            root.set_owner(to, owner.0, owner.1)?;
            root.set_mode(to, mode)?;
            for (key, value) in from_root.xattrs(from)? {
                root.set_xattr(to, &key, &value)?;
            }
        }
        // Sockets, pipes and devices that a stage's programs left are of a running system. Those that a recipe adds
        // from its context were refused when the context was read for the key.
        _ => return Ok(()),
    }
    // Times of a checkout or a compiler's run say nothing: everything is as old as the build says.
    Ok(root.set_mtime(to, time.0)?)
}

fn no_file(from: &str, kind: Kind) -> FactoryError {
    FactoryError::Context { from: from.to_owned(), reason: not_addable(kind) }
}

fn not_addable(kind: Kind) -> String {
    let what = match kind {
        Kind::Fifo => "a named pipe",
        Kind::Socket => "a socket",
        _ => "a device",
    };
    format!("it is {what}; only files, directories and links can be added")
}

fn copy_host_file(from: &PathBuf, root: &Root, to: &str, mode: u32) -> Result<(), FactoryError> {
    let mut file = fs::File::open(from).map_err(|source| FactoryError::File {
        doing: "open",
        path: from.clone(),
        source,
    })?;
    copy_open_file(&mut file, root, to, mode)
}

fn copy_open_file(file: &mut fs::File, root: &Root, to: &str, mode: u32) -> Result<(), FactoryError> {
    let fail = |source| FactoryError::File { doing: "copy a file to", path: root.path().join(to), source };
    let meta = file.metadata().map_err(fail)?;

    if meta.len() <= knarr_tree::root::MAX_READ_BYTES {
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        file.read_to_end(&mut bytes).map_err(fail)?;
        return Ok(root.write(to, &bytes, mode)?);
    }
    root.write(to, b"", mode)?;
    let mut buffer = vec![0; 8 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(()),
            read => root.append(to, &buffer[..read], mode)?,
        }
    }
}
