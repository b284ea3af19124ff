//! Reuse: a root that was made before is not made again.
//!
//! What a root becomes follows from its lock, its options and this program alone, so a finished
//! file is kept in the cache under the digest of these. Hooks may do anything, so with hooks nothing
//! is kept; a directory is no file, and an uncompressed tarball costs more to keep than it saves.
//!
//! Spec: docs/formats/cache.md.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use knarr_base::{Digest, DigestWriter, Timestamp};
use knarr_mirror::cache::Cache;
use knarr_tree::compress::Compression;
use knarr_tree::layout::pack_archive;
use knarr_tree::root::Root;
use knarr_tree::unpack::{Everything, Limits, unpack};

use crate::lock::Lock;
use crate::options::{Options, ResolvConf};
use crate::output::{replace_directory, replace_file};
use crate::target::{Format, Target};
use crate::{BootstrapError, plan};

/// Products take at most this much of the cache; the longest unused go first.
const MAX_BYTES: u64 = 2 << 30;

/// A finished root in the cache, or the place for one.
pub struct Product<'a> {
    cache: &'a Cache,
    key: Digest,
}

impl<'a> Product<'a> {
    /// The place of what these options make of this lock; `None` where nothing is kept.
    pub fn of(options: &Options, lock: &Lock, cache: &'a Cache) -> Result<Option<Self>, BootstrapError> {
        let Some(format) = kept_format(&options.target) else { return Ok(None) };
        if !options.reuse || !options.hooks.is_empty() {
            return Ok(None);
        }
        let mut key = DigestWriter::new(io::sink());
        // Writing into a digest cannot fail.
        let mut add = |part: &[u8]| {
            let _ = key.write_all(&(part.len() as u64).to_le_bytes());
            let _ = key.write_all(part);
        };
        add(&program()?);
        add(format.as_bytes());
        add(lock.to_text()?.as_bytes());
        add(format!("{:?} {:?} {:?}", options.time, options.scripts, options.hostname).as_bytes());
        options.filter.lines().for_each(|line| add(line.as_bytes()));
        add(format!("{:?} {:?}", options.suite, options.repositories).as_bytes());
        if let ResolvConf::File(path) = &options.resolv_conf {
            add(&fs::read(path).map_err(|source| fail(path, "read", source))?);
        }
        for source in plan::sources(options)? {
            add(source.keyring.as_bytes());
        }
        let (_, key, _) = key.finish();
        Ok(Some(Self { cache, key }))
    }

    /// Puts the product where the target is wanted, if there is one; says whether there was.
    pub fn deliver(&self, target: &Target) -> Result<bool, BootstrapError> {
        let path = self.cache.product_path(self.key);
        let Ok(mut product) = File::options().read(true).write(true).open(&path) else { return Ok(false) };
        match (&target.path, target.format) {
            (Some(target), Format::Oci) => replace_directory(target, |temporary| {
                let root = Root::open(temporary)?;
                unpack(&root, &mut product, &Everything, &Limits::default())?;
                Ok(())
            })?,
            (Some(target), _) => replace_file(target, |temporary| copy(&path, temporary))?,
            (None, _) => return Ok(false),
        }
        // The time of its last use decides what is pruned first.
        product.set_modified(SystemTime::now()).map_err(|source| fail(&path, "use", source))?;
        Ok(true)
    }

    /// Keeps what was just delivered.
    pub fn keep(&self, target: &Target, newest: Timestamp) -> Result<(), BootstrapError> {
        let Some(from) = &target.path else { return Ok(()) };
        let mut new = self.cache.create(&self.cache.product_path(self.key))?;
        if target.format == Format::Oci {
            pack_archive(from, io::BufWriter::with_capacity(1 << 20, new.file()), newest)?;
        } else {
            let mut file = File::open(from).map_err(|source| fail(from, "read", source))?;
            io::copy(&mut file, new.file()).map_err(|source| fail(from, "keep", source))?;
        }
        new.finish()?;
        self.cache.prune_products(MAX_BYTES)?;
        Ok(())
    }
}

/// How the target is kept: a layout directory and an archive of it are the same thing.
fn kept_format(target: &Target) -> Option<String> {
    let path = target.path.as_ref()?;
    match (target.format, Compression::of_path(path)) {
        (Format::Directory, _) | (Format::Tar, Compression::None) => None,
        (Format::Tar, compression) => Some(format!("tar {compression:?}")),
        (Format::Oci | Format::OciArchive, _) => Some("oci".to_owned()),
        (other, _) => Some(format!("{other:?}")),
    }
}

/// Which build of this program it is: another may write other bytes.
fn program() -> Result<Vec<u8>, BootstrapError> {
    let path = Path::new("/proc/self/exe");
    let meta = fs::metadata(path).map_err(|source| fail(path, "look at", source))?;
    Ok(format!("{} {} {:?}", env!("CARGO_PKG_VERSION"), meta.len(), meta.modified().ok()).into_bytes())
}

fn copy(from: &Path, to: &Path) -> Result<(), BootstrapError> {
    // Not fs::copy: the mode of a cache file is not that of a target.
    let copied = File::open(from).and_then(|mut from| io::copy(&mut from, &mut File::create(to)?));
    copied.map(drop).map_err(|source| fail(to, "create", source))
}

fn fail(path: &Path, doing: &'static str, source: io::Error) -> BootstrapError {
    BootstrapError::File { path: path.to_owned(), doing, source }
}
